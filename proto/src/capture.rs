//! A capture: profiles of one host over one window, with the host's facts and the ledger.

use std::collections::HashMap;
use std::time::Duration;

use crate::dictionary::Dictionary;
use crate::event::Event;
use crate::facts::Facts;
use crate::histogram::Histogram;
use crate::ledger::Ledger;
use crate::profile::{Profile, Sample, StrId, ThreadId};

/// Profiles of one host (or, once merged, of several) over one window.
#[derive(Clone, PartialEq, Debug)]
pub struct Capture {
    /// What the ids in this capture refer to.
    pub dictionary: Dictionary,
    /// At most one per event, sorted by event.
    pub profiles: Vec<Profile>,
    /// Exact times of threads.
    pub accounts: Vec<ThreadAccount>,
    /// Exact counts of block devices.
    pub devices: Vec<DeviceStatistics>,
    /// The host, the window, what could be measured.
    pub facts: Facts,
    /// What was expected, taken and lost.
    pub ledger: Ledger,
}

/// Exact times of one thread in the window, counted at every context switch.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub struct ThreadAccount {
    /// The thread.
    pub thread: ThreadId,
    /// On a CPU, nanoseconds.
    pub on_cpu_ns: u64,
    /// Waiting for a CPU, nanoseconds.
    pub runnable_ns: u64,
    /// Waiting for anything else, nanoseconds.
    pub blocked_ns: u64,
    /// Waits that began because the thread gave up the CPU.
    pub blocked_count: u64,
    /// Waits that began because the CPU was taken from the thread.
    pub runnable_count: u64,
    /// The part of the window in which the thread existed, nanoseconds.
    pub wall_ns: u64,
    /// Part of `blocked_ns` and `runnable_ns` that belongs to a wait not yet over at the end.
    pub unfinished_ns: u64,
}

/// Exact counts of one device and operation, counted for every request.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub struct DeviceStatistics {
    /// Host, in a capture merged from several; none means the one host of the capture.
    pub host: StrId,
    /// Name of the device, or `major:minor`.
    pub device: StrId,
    /// `read`, `write`, `flush`, `discard`, ...
    pub operation: StrId,
    /// Requests completed.
    pub count: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Their time in the queue, nanoseconds.
    pub queue_ns: u64,
    /// Their time in the device, nanoseconds.
    pub device_ns: u64,
    /// Requests that failed.
    pub errors: u64,
    /// Requests by nanoseconds in the queue.
    pub queue_histogram: Histogram,
    /// Requests by nanoseconds in the device.
    pub device_histogram: Histogram,
}

impl ThreadAccount {
    /// Adds the times of the same thread in another window.
    pub(crate) fn add(&mut self, other: &Self) {
        let Self {
            thread: _,
            on_cpu_ns,
            runnable_ns,
            blocked_ns,
            blocked_count,
            runnable_count,
            wall_ns,
            unfinished_ns,
        } = other;
        for (sum, more) in [
            (&mut self.on_cpu_ns, on_cpu_ns),
            (&mut self.runnable_ns, runnable_ns),
            (&mut self.blocked_ns, blocked_ns),
            (&mut self.blocked_count, blocked_count),
            (&mut self.runnable_count, runnable_count),
            (&mut self.wall_ns, wall_ns),
            (&mut self.unfinished_ns, unfinished_ns),
        ] {
            *sum = sum.saturating_add(*more);
        }
    }
}

impl DeviceStatistics {
    /// What the counts are of.
    pub(crate) fn key(&self) -> (StrId, StrId, StrId) {
        (self.host, self.device, self.operation)
    }

    /// Adds the counts of the same device and operation in another window.
    pub(crate) fn add(&mut self, other: &Self) {
        let Self {
            host: _,
            device: _,
            operation: _,
            count,
            bytes,
            queue_ns,
            device_ns,
            errors,
            queue_histogram,
            device_histogram,
        } = other;
        for (sum, more) in [
            (&mut self.count, count),
            (&mut self.bytes, bytes),
            (&mut self.queue_ns, queue_ns),
            (&mut self.device_ns, device_ns),
            (&mut self.errors, errors),
        ] {
            *sum = sum.saturating_add(*more);
        }
        self.queue_histogram.merge(queue_histogram);
        self.device_histogram.merge(device_histogram);
    }
}

impl Capture {
    /// The profile of one event.
    pub fn profile(&self, event: Event) -> Option<&Profile> {
        self.profiles.iter().find(|profile| profile.event == event)
    }

    /// The length of the window.
    pub fn window(&self) -> Duration {
        Duration::from_nanos(self.facts.end_ns.saturating_sub(self.facts.start_ns))
    }

    /// A capture of the samples that the predicate accepts, and of the accounts of their threads.
    ///
    /// An account is of the whole window, so it is kept or dropped whole: kept where a sample of
    /// its thread is, dropped where none of them is. Of a thread that was never sampled the
    /// predicate is asked with a stand-in: an off-CPU sample at the start of the window, without
    /// stack, attributes, weight and count.
    ///
    /// Facts, ledger and device statistics stay as they are: they describe how the capture was
    /// made. The result is in [canonical form](Self::canonicalize).
    pub fn filter(&self, keep: impl Fn(&Self, Event, &Sample) -> bool) -> Self {
        // Every thread that was sampled, and whether one of its samples is kept.
        let mut threads = HashMap::new();
        let mut profiles = Vec::new();
        for Profile { event, samples } in &self.profiles {
            let mut kept = samples.clone();
            kept.retain(|sample| {
                let keep = keep(self, *event, sample);
                *threads.entry(sample.thread).or_insert(false) |= keep;
                keep
            });
            profiles.push(Profile {
                event: *event,
                samples: kept,
            });
        }
        let stand_in = |thread| Sample {
            time_ns: self.facts.start_ns,
            thread,
            ..Sample::default()
        };
        let mut accounts = self.accounts.clone();
        accounts.retain(|account| match threads.get(&account.thread) {
            Some(kept) => *kept,
            None => keep(self, Event::OffCpu, &stand_in(account.thread)),
        });
        let mut kept = Self {
            dictionary: self.dictionary.clone(),
            profiles,
            accounts,
            devices: self.devices.clone(),
            facts: self.facts.clone(),
            ledger: self.ledger.clone(),
        };
        kept.canonicalize();
        kept
    }
}
