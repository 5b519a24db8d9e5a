//! What is shown of one event of a capture: which samples, and what their frames are called.
//!
//! Every renderer reads a capture through a [`View`], so that all of them leave out the same samples and
//! call a frame by the same name.

use std::collections::{HashMap, HashSet};
use std::rc::Rc;

use profiler_proto::{
    AttributeKey, AttributesId, Capture, Event, Frame, FrameId, FrameKind, MappingId, Sample,
    StackEnd, StackId, ThreadId,
};

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

/// One function of a stack, or a marker such as `[cut]` where a part of the stack is missing.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(crate) struct NamedFrame {
    /// Safe as a frame of a folded stack: see [`text::frame_name`].
    pub(crate) name: String,
    /// File name of the module without its directory; empty for markers and unknown addresses.
    pub(crate) module: String,
    /// Whether the code belongs to the kernel.
    pub(crate) kernel: bool,
}

impl NamedFrame {
    /// The frame as folded stacks write it: kernel frames end in `_[k]`.
    pub(crate) fn folded(&self) -> String {
        if self.kernel {
            format!("{}_[k]", self.name)
        } else {
            self.name.clone()
        }
    }
}

/// Names stacks, each frame once.
pub(crate) struct Namer<'a> {
    capture: &'a Capture,
    frames: HashMap<FrameId, Vec<Rc<NamedFrame>>>,
}

impl<'a> Namer<'a> {
    /// For the stacks of `capture`.
    pub(crate) fn new(capture: &'a Capture) -> Self {
        Self {
            capture,
            frames: HashMap::new(),
        }
    }

    /// The frames of a stack, root first, inlined functions as frames of their own.
    pub(crate) fn stack(&mut self, id: StackId) -> Vec<Rc<NamedFrame>> {
        let stack = self.capture.dictionary.stack(id);
        let mut named = Vec::with_capacity(stack.user.len() + stack.kernel.len() + 1);
        self.part(&stack.user, stack.user_end, false, &mut named);
        self.part(&stack.kernel, stack.kernel_end, true, &mut named);
        named
    }

    fn part(
        &mut self,
        frames: &[FrameId],
        end: StackEnd,
        kernel: bool,
        named: &mut Vec<Rc<NamedFrame>>,
    ) {
        named.extend(gap(end).map(|name| {
            Rc::new(NamedFrame {
                name: name.to_owned(),
                module: String::new(),
                kernel,
            })
        }));
        for id in frames.iter().rev() {
            let capture = self.capture;
            let lines = self
                .frames
                .entry(*id)
                .or_insert_with(|| name_frame(capture, *id));
            named.extend(lines.iter().cloned());
        }
    }
}

/// What stands in a stack for the part that is missing at its root.
pub(crate) fn gap(end: StackEnd) -> Option<&'static str> {
    match end {
        StackEnd::None | StackEnd::Whole | StackEnd::FramePointers | StackEnd::Unknown => None,
        StackEnd::Cut => Some("[cut]"),
        StackEnd::Unreadable => Some("[unreadable stack]"),
        StackEnd::Lost => Some("[lost stack]"),
        StackEnd::NotRunning => Some("[not running]"),
        StackEnd::NoRule
        | StackEnd::NoMapping
        | StackEnd::NoTable
        | StackEnd::Unsupported
        | StackEnd::NoProgress => Some("[not whole]"),
        StackEnd::Compat => Some("[32-bit process]"),
    }
}

/// The functions of one frame, outermost first.
fn name_frame(capture: &Capture, id: FrameId) -> Vec<Rc<NamedFrame>> {
    let frame = capture.dictionary.frame(id);
    let module = module_name(capture, frame.mapping);
    let kernel = frame.kind == FrameKind::Kernel;
    let name = |name: &str| {
        Rc::new(NamedFrame {
            name: text::frame_name(name),
            module: module.clone(),
            kernel,
        })
    };
    let functions: Vec<_> = frame
        .lines
        .iter()
        .rev()
        .map(|line| capture.dictionary.string(line.function))
        .filter(|function| !function.is_empty())
        .map(name)
        .collect();
    if functions.is_empty() {
        vec![name(&address_name(frame, &module))]
    } else {
        functions
    }
}

/// What a frame without a function is called: `module+0xoffset`.
pub(crate) fn address_name(frame: &Frame, module: &str) -> String {
    let module = if module.is_empty() {
        "[unknown]"
    } else {
        module
    };
    format!("{module}+{:#x}", frame.address)
}

/// The file name of a mapping, safe to print; empty where it is not known. Whether the file has been
/// deleted since is left to the path.
pub(crate) fn module_name(capture: &Capture, id: MappingId) -> String {
    let path = capture
        .dictionary
        .mapping(id)
        .map_or("", |mapping| capture.dictionary.string(mapping.path));
    let path = path.strip_suffix(" (deleted)").unwrap_or(path);
    text::clean(path.rsplit('/').next().unwrap_or(path))
}
