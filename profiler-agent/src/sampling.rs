//! How much is sampled: the off-CPU threshold and the I/O probability follow
//! what the host does, so that a busy host does not cost more than a quiet one.

use std::collections::BTreeMap;

use profiler_abi::Counter;
use profiler_proto::{Event, Frequency};

use crate::{bpf::CounterSums, monotonic::now_ns};

/// Waits and requests sampled per second and host, each.
const BUDGET_PER_SECOND: u64 = 2000;

/// The threshold a session begins with.
const FIRST_THRESHOLD_NS: u64 = 1_000_000;

/// Bounds of the threshold. Below 50 us sampling a wait costs as much as the
/// wait; the kernel's arithmetic needs it below 2^32.
const THRESHOLD_NS: std::ops::RangeInclusive<u64> = 50_000..=1_000_000_000;

/// Probability 1, in the kernel's units.
const ALWAYS: u64 = 1 << 32;

/// Least probability of a request to be sampled.
const LEAST: u64 = ALWAYS / 4096;

/// The sampling parameters of one session.
#[derive(Debug)]
pub struct Sampling {
    threshold_ns: u64,
    threshold_range: (u64, u64),
    io_probability: u64,
    io_probability_min: u64,
    last: Option<Seen>,
}

#[derive(Clone, Copy, Debug)]
struct Seen {
    at_ns: u64,
    waits_sampled: u64,
    requests: u64,
}

impl Default for Sampling {
    fn default() -> Self {
        Self {
            threshold_ns: FIRST_THRESHOLD_NS,
            threshold_range: (FIRST_THRESHOLD_NS, FIRST_THRESHOLD_NS),
            io_probability: ALWAYS,
            io_probability_min: ALWAYS,
            last: None,
        }
    }
}

impl Sampling {
    /// A wait of `d` is sampled with probability `min(1, d / threshold)`.
    pub fn threshold_ns(&self) -> u64 {
        self.threshold_ns
    }

    /// In units of 2^-32.
    pub fn io_probability(&self) -> u64 {
        self.io_probability
    }

    /// Looks at what was sampled since the last time. Returns whether anything
    /// changed.
    pub fn adapt(&mut self, counters: &CounterSums) -> bool {
        let seen = Seen {
            at_ns: now_ns(),
            waits_sampled: counters.get(Counter::OffcpuCounted),
            requests: counters
                .get(Counter::IoObserved)
                .saturating_sub(counters.get(Counter::IoFiltered)),
        };
        let Some(last) = self.last.replace(seen) else {
            return false;
        };
        let per_second = |n: u64| {
            let elapsed = seen.at_ns.saturating_sub(last.at_ns).max(1);
            (u128::from(n) * 1_000_000_000 / u128::from(elapsed)) as u64
        };
        let before = (self.threshold_ns, self.io_probability);
        self.adapt_threshold(per_second(seen.waits_sampled - last.waits_sampled));
        self.adapt_io(per_second(seen.requests - last.requests));
        before != (self.threshold_ns, self.io_probability)
    }

    /// The number of waits sampled falls about as the threshold rises.
    fn adapt_threshold(&mut self, sampled_per_second: u64) {
        let wanted = if sampled_per_second > BUDGET_PER_SECOND {
            self.threshold_ns * sampled_per_second / BUDGET_PER_SECOND
        } else if sampled_per_second < BUDGET_PER_SECOND / 2 {
            self.threshold_ns / 2
        } else {
            self.threshold_ns
        };
        self.threshold_ns = wanted.clamp(*THRESHOLD_NS.start(), *THRESHOLD_NS.end());
        let (least, most) = self.threshold_range;
        self.threshold_range = (least.min(self.threshold_ns), most.max(self.threshold_ns));
    }

    fn adapt_io(&mut self, requests_per_second: u64) {
        self.io_probability = if requests_per_second > BUDGET_PER_SECOND {
            (ALWAYS * BUDGET_PER_SECOND / requests_per_second).max(LEAST)
        } else {
            ALWAYS
        };
        self.io_probability_min = self.io_probability_min.min(self.io_probability);
    }

    /// What the capture says about how an event was sampled.
    pub fn parameters(&self, event: Event, frequency: Frequency) -> BTreeMap<String, f64> {
        let share = |probability: u64| probability as f64 / ALWAYS as f64;
        let parameters: &[(&str, f64)] = match event {
            Event::Cpu => &[("frequency_hz", f64::from(frequency.get()))],
            Event::OffCpu => &[
                ("threshold_ns_last", self.threshold_ns as f64),
                ("threshold_ns_min", self.threshold_range.0 as f64),
                ("threshold_ns_max", self.threshold_range.1 as f64),
            ],
            Event::Io => &[
                ("probability_last", share(self.io_probability)),
                ("probability_min", share(self.io_probability_min)),
            ],
        };
        parameters
            .iter()
            .map(|(name, value)| ((*name).to_owned(), *value))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn threshold_follows_the_rate_within_bounds() {
        let mut sampling = Sampling::default();
        sampling.adapt_threshold(BUDGET_PER_SECOND * 4);
        assert_eq!(sampling.threshold_ns(), 4 * FIRST_THRESHOLD_NS);
        for _ in 0..40 {
            sampling.adapt_threshold(0);
        }
        assert_eq!(sampling.threshold_ns(), *THRESHOLD_NS.start());
        sampling.adapt_threshold(u64::MAX / 1_000_000_000);
        assert_eq!(sampling.threshold_ns(), *THRESHOLD_NS.end());
        assert_eq!(
            sampling.threshold_range,
            (*THRESHOLD_NS.start(), *THRESHOLD_NS.end())
        );
    }

    #[test]
    fn io_is_whole_until_it_is_too_much() {
        let mut sampling = Sampling::default();
        sampling.adapt_io(BUDGET_PER_SECOND);
        assert_eq!(sampling.io_probability(), ALWAYS);
        sampling.adapt_io(BUDGET_PER_SECOND * 2);
        assert_eq!(sampling.io_probability(), ALWAYS / 2);
        sampling.adapt_io(u64::MAX);
        assert_eq!(sampling.io_probability(), LEAST);
    }
}
