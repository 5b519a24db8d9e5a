//! Samples within a budget. When it is reached, samples that differ only in
//! time are put together: first by the second, then by longer and longer
//! slots. Weights and counts stay exact; only time gets coarser.

use std::collections::HashMap;

use profiler_abi::StackIds;
use profiler_proto::Event;

use super::RawSample;

/// Width of the first slots.
const FIRST_SLOT_NS: u64 = 1_000_000_000;

/// Widest slots: coarser times would say nothing.
const LAST_SLOT_NS: u64 = 4096 * FIRST_SLOT_NS;

/// Samples of all events.
pub struct SampleStore {
    max: usize,
    samples: [Vec<RawSample>; 3],
    delivered: [u64; 3],
    over_budget: [u64; 3],
    /// Width of the slots that times are rounded to, 0: none.
    slot_ns: u64,
    /// Coarser times did not help.
    full: bool,
}

impl SampleStore {
    /// An empty one that keeps at most `max` samples.
    pub fn new(max: usize) -> Self {
        Self {
            max,
            samples: [const { Vec::new() }; 3],
            delivered: [0; 3],
            over_budget: [0; 3],
            slot_ns: 0,
            full: false,
        }
    }

    /// Keeps a sample, or counts it as one too many.
    pub fn push(&mut self, event: Event, sample: RawSample) {
        self.delivered[event as usize] += u64::from(sample.count);
        self.samples[event as usize].push(sample);
    }

    /// Counts measurements that found no room.
    pub fn refuse(&mut self, event: Event, count: u64) {
        self.over_budget[event as usize] += count;
    }

    /// Whether there is room for one more. Coarser slots are tried until a
    /// quarter is free; where samples differ in more than time that never
    /// happens, and the store is full.
    pub fn make_room(&mut self) -> bool {
        if self.len() < self.max {
            return true;
        }
        let mut slot_ns = self.slot_ns.max(FIRST_SLOT_NS);
        while !self.full {
            self.slot_ns = slot_ns;
            for samples in &mut self.samples {
                coalesce(samples, slot_ns);
            }
            if self.len() <= self.max / 4 * 3 {
                return true;
            }
            slot_ns *= 2;
            self.full = slot_ns > LAST_SLOT_NS;
        }
        self.len() < self.max
    }

    fn len(&self) -> usize {
        self.samples.iter().map(Vec::len).sum()
    }

    /// Samples of an event.
    pub fn samples(&self, event: Event) -> &[RawSample] {
        &self.samples[event as usize]
    }

    /// Measurements kept of an event.
    pub fn delivered(&self, event: Event) -> u64 {
        self.delivered[event as usize]
    }

    /// Measurements of an event that found no room.
    pub fn over_budget(&self, event: Event) -> u64 {
        self.over_budget[event as usize]
    }

    /// To what times are rounded, 0 where they are as measured.
    pub fn slot_ns(&self) -> u64 {
        self.slot_ns
    }
}

/// Puts together what falls into one slot and differs in time only.
fn coalesce(samples: &mut Vec<RawSample>, slot_ns: u64) {
    let mut places: HashMap<(u64, u32, StackIds, u32), usize> = HashMap::new();
    let mut kept: Vec<RawSample> = Vec::new();
    for mut sample in samples.drain(..) {
        sample.time_ns -= sample.time_ns % slot_ns;
        sample.request = None;
        let key = (
            sample.time_ns,
            sample.thread,
            sample.stack,
            sample.attributes,
        );
        match places.get(&key) {
            Some(place) => {
                let first: &mut RawSample = &mut kept[*place];
                first.weight = first.weight.saturating_add(sample.weight);
                first.count = first.count.saturating_add(sample.count);
            }
            None => {
                places.insert(key, kept.len());
                kept.push(sample);
            }
        }
    }
    *samples = kept;
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(time_ns: u64, thread: u32) -> RawSample {
        RawSample {
            time_ns,
            thread,
            stack: StackIds::default(),
            attributes: 0,
            request: None,
            weight: 10,
            count: 1,
        }
    }

    fn fill(store: &mut SampleStore, n: u64, thread: impl Fn(u64) -> u32) -> u64 {
        let mut refused = 0;
        for i in 0..n {
            if store.make_room() {
                store.push(Event::Cpu, sample(i * 1_000_000, thread(i)));
            } else {
                store.refuse(Event::Cpu, 1);
                refused += 1;
            }
        }
        refused
    }

    #[test]
    fn time_gets_coarser_and_nothing_is_lost() {
        let mut store = SampleStore::new(100);
        assert_eq!(fill(&mut store, 10_000, |_| 7), 0);
        let samples = store.samples(Event::Cpu);
        assert!(samples.len() <= 100);
        assert_eq!(samples.iter().map(|s| s.weight).sum::<u64>(), 100_000);
        let count: u64 = samples.iter().map(|s| u64::from(s.count)).sum();
        assert_eq!(count, 10_000);
        assert_eq!(store.delivered(Event::Cpu), 10_000);
        assert!(store.slot_ns() >= FIRST_SLOT_NS);
    }

    #[test]
    fn what_differs_is_refused_and_counted() {
        let mut store = SampleStore::new(100);
        let refused = fill(&mut store, 150, |i| i as u32);
        assert_eq!(refused, 50);
        assert_eq!(store.delivered(Event::Cpu), 100);
        assert_eq!(store.over_budget(Event::Cpu), 50);
    }

    #[test]
    fn times_stay_as_they_are_within_the_budget() {
        let mut store = SampleStore::new(100);
        fill(&mut store, 100, |_| 7);
        assert_eq!(store.slot_ns(), 0);
        assert_eq!(store.samples(Event::Cpu)[3].time_ns, 3_000_000);
    }
}
