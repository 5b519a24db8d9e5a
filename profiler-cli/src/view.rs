//! What is shown of one event of a capture.
//!
//! Every renderer reads a capture through a [`View`], so that all of them leave out the same samples.

use std::collections::HashSet;

use profiler_proto::{AttributeKey, AttributesId, Capture, Event, Sample, ThreadId};

use crate::error::CliError;
use crate::text;

/// Waits of threads that did not run at all in the window carry this extent.
const WHOLE_WINDOW: &str = "whole-window";

/// The samples of one event that are to be shown.
pub(crate) struct View<'a> {
    /// The capture they are from.
    pub(crate) capture: &'a Capture,
    /// Their event.
    pub(crate) event: Event,
    /// What is not shown of it.
    pub(crate) left_out: LeftOut,
    /// Whether places in the source are told apart, where a format leaves the choice.
    pub(crate) lines: bool,
    samples: &'a [Sample],
    hides_idle_threads: bool,
}

/// Waits that are not shown because the thread did not run at all in the window.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub(crate) struct LeftOut {
    /// How many threads.
    pub(crate) threads: u64,
    /// How long they waited, in nanoseconds.
    pub(crate) wait_ns: u64,
}

impl LeftOut {
    /// A sentence for the reader, where there is something to say.
    pub(crate) fn sentence(self) -> Option<String> {
        (self.threads > 0).then(|| {
            format!(
                "{} that did not run at all, waiting {} in sum, left out",
                text::plural(self.threads, "thread"),
                text::duration(self.wait_ns)
            )
        })
    }
}

/// A sum of samples.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub(crate) struct Total {
    /// In nanoseconds of the event.
    pub(crate) weight_ns: u64,
    /// Measurements.
    pub(crate) count: u64,
}

impl Total {
    /// Adds one sample.
    pub(crate) fn add(&mut self, sample: &Sample) {
        self.add_total(Self {
            weight_ns: sample.weight,
            count: sample.count,
        });
    }

    /// Adds another sum.
    pub(crate) fn add_total(&mut self, other: Self) {
        self.weight_ns = self.weight_ns.saturating_add(other.weight_ns);
        self.count = self.count.saturating_add(other.count);
    }

    /// What rankings and percentages of the event go by: samples for cpu, nanoseconds for the others.
    pub(crate) fn rank(self, event: Event) -> u64 {
        match event {
            Event::Cpu => self.count,
            Event::OffCpu | Event::Io => self.weight_ns,
        }
    }

    /// The number in a folded line: samples for cpu, microseconds for the others.
    pub(crate) fn folded(self, event: Event) -> u64 {
        match event {
            Event::Cpu => self.count,
            Event::OffCpu | Event::Io => {
                self.weight_ns / 1000 + u64::from(self.weight_ns % 1000 >= 500)
            }
        }
    }
}

impl<'a> View<'a> {
    /// Shows `event` of `capture`; None where it was not measured.
    ///
    /// Threads that did not run at all are hidden from a capture of the whole host, where they are
    /// hundreds and drown everything else, unless `all` is set.
    pub(crate) fn new(capture: &'a Capture, event: Event, all: bool) -> Option<Self> {
        let samples = match capture.profile(event) {
            Some(profile) => &profile.samples,
            // A profile without samples does not travel.
            None if capture.facts.event(event)?.available => [].as_slice(),
            None => return None,
        };
        let mut view = Self {
            capture,
            event,
            left_out: LeftOut::default(),
            lines: false,
            samples,
            hides_idle_threads: !all
                && event == Event::OffCpu
                && capture.facts.spec.target.is_whole_host(),
        };
        view.left_out = view.count_left_out();
        Some(view)
    }

    /// The same, with an error that says what the capture holds instead.
    pub(crate) fn open(capture: &'a Capture, event: Event, all: bool) -> Result<Self, CliError> {
        Self::new(capture, event, all).ok_or_else(|| missing_event(capture, event))
    }

    /// The samples that are shown.
    pub(crate) fn samples(&self) -> impl Iterator<Item = &'a Sample> + '_ {
        self.samples.iter().filter(|s| !self.is_hidden(s))
    }

    /// The sum of what is shown.
    pub(crate) fn total(&self) -> Total {
        let mut total = Total::default();
        self.samples().for_each(|sample| total.add(sample));
        total
    }

    /// The command name of a thread, as it stands first in a folded stack.
    pub(crate) fn thread_name(&self, thread: ThreadId) -> String {
        let dictionary = &self.capture.dictionary;
        text::frame_name(dictionary.string(dictionary.thread(thread).comm))
    }

    /// "blocked" or "runnable" for a wait, empty where the sample does not say.
    pub(crate) fn wait_class(&self, attributes: AttributesId) -> &'a str {
        self.attribute(attributes, AttributeKey::WaitClass)
    }

    fn is_hidden(&self, sample: &Sample) -> bool {
        self.hides_idle_threads
            && self.attribute(sample.attributes, AttributeKey::WaitExtent) == WHOLE_WINDOW
    }

    fn attribute(&self, attributes: AttributesId, key: AttributeKey) -> &'a str {
        let dictionary = &self.capture.dictionary;
        let value = dictionary.attributes(attributes).string(key);
        value.map_or("", |id| dictionary.string(id))
    }

    fn count_left_out(&self) -> LeftOut {
        let mut threads = HashSet::new();
        let mut wait_ns = 0_u64;
        for sample in self.samples.iter().filter(|s| self.is_hidden(s)) {
            threads.insert(sample.thread);
            wait_ns = wait_ns.saturating_add(sample.weight);
        }
        LeftOut {
            threads: threads.len() as u64,
            wait_ns,
        }
    }
}

fn missing_event(capture: &Capture, event: Event) -> CliError {
    if let Some(facts) = capture.facts.event(event) {
        return CliError::NoEvent(format!(
            "{event} could not be measured in this capture: {}",
            text::clean(&facts.reason)
        ));
    }
    CliError::Failed(format!(
        "this capture has no {event} profile; it holds {}",
        event_names(capture)
    ))
}

/// The events that were measured in a capture, for a sentence.
pub(crate) fn event_names(capture: &Capture) -> String {
    let events = capture.facts.events.iter().filter(|event| event.available);
    let names: Vec<_> = events.map(|event| event.event.name()).collect();
    if names.is_empty() {
        "none".to_owned()
    } else {
        names.join(", ")
    }
}
