//! The mappings of one image, and those they took the place of.

use std::{
    collections::VecDeque,
    mem,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use super::MappedName;

/// Most mappings of one image.
const MAX_MAPPINGS: usize = 16_384;

/// Most mappings of one image that are kept after others took their place.
const MAX_REPLACED: usize = 32;

/// An executable mapping.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImageMapping {
    /// First address.
    pub start: u64,
    /// One past the last.
    pub end: u64,
    /// Offset of `start` in the file.
    pub offset: u64,
    /// CLOCK_MONOTONIC at which it was made.
    pub since_ns: u64,
    /// Of what.
    pub name: Arc<MappedName>,
}

impl ImageMapping {
    fn holds(&self, address: u64) -> bool {
        (self.start..self.end).contains(&address)
    }

    /// Whether both are of one file, at the same distance from its begin.
    fn continues(&self, other: &Self) -> bool {
        let bias = |mapping: &Self| mapping.start.wrapping_sub(mapping.offset);
        bias(self) == bias(other) && self.name == other.name
    }

    /// The parts before and behind another one that lies on it.
    fn around(&self, other: &Self) -> [Option<Self>; 2] {
        let before = (self.start < other.start).then(|| Self {
            end: other.start,
            ..self.clone()
        });
        let behind = (other.end < self.end).then(|| Self {
            start: other.end,
            offset: self.offset.wrapping_add(other.end - self.start),
            ..self.clone()
        });
        [before, behind]
    }
}

/// Bytes, counted over all that share the counter.
#[derive(Clone, Debug, Default)]
pub(super) struct Counter(Arc<AtomicUsize>);

impl Counter {
    pub(super) fn get(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }
}

/// Sorted by address, without overlaps.
#[derive(Debug)]
pub(super) struct Mappings {
    current: Vec<ImageMapping>,
    /// With the times at which they were, oldest first.
    replaced: VecDeque<(u64, ImageMapping)>,
    /// How much of `counter` is this one's.
    counted: usize,
    counter: Counter,
}

impl Mappings {
    pub(super) fn new(counter: &Counter) -> Self {
        let mut new = Self {
            current: Vec::new(),
            replaced: VecDeque::new(),
            counted: 0,
            counter: counter.clone(),
        };
        new.count();
        new
    }

    fn count(&mut self) {
        let entries = self.current.capacity() + self.replaced.capacity();
        let bytes = size_of::<Self>() + entries * size_of::<ImageMapping>();
        self.counter.0.fetch_add(bytes, Ordering::Relaxed);
        let before = mem::replace(&mut self.counted, bytes);
        self.counter.0.fetch_sub(before, Ordering::Relaxed);
    }

    pub(super) fn current(&self) -> &[ImageMapping] {
        &self.current
    }

    pub(super) fn at(&self, address: u64, time_ns: u64) -> Option<&ImageMapping> {
        let now = self.now(address);
        if now.is_some_and(|mapping| mapping.since_ns <= time_ns) {
            return now;
        }
        let before = |(until_ns, mapping): &&(u64, ImageMapping)| {
            (mapping.since_ns..*until_ns).contains(&time_ns) && mapping.holds(address)
        };
        // What is younger than the time is better than nothing.
        let replaced = self
            .replaced
            .iter()
            .find(before)
            .map(|(_, mapping)| mapping);
        replaced.or(now)
    }

    fn now(&self, address: u64) -> Option<&ImageMapping> {
        let after = self.current.partition_point(|m| m.start <= address);
        let mapping = self.current.get(after.checked_sub(1)?)?;
        mapping.holds(address).then_some(mapping)
    }

    /// Whether one that is there says the same: a page whose protection changed.
    pub(super) fn has(&self, mapping: &ImageMapping) -> bool {
        self.now(mapping.start)
            .is_some_and(|known| mapping.end <= known.end && mapping.continues(known))
    }

    /// In place of what it lies on; false: there are too many.
    pub(super) fn insert(&mut self, mut mapping: ImageMapping) -> bool {
        if mapping.start >= mapping.end || self.current.len() >= MAX_MAPPINGS {
            return false;
        }
        let first = self.current.partition_point(|m| m.end <= mapping.start);
        let last = self.current.partition_point(|m| m.start < mapping.end);
        let under: Vec<ImageMapping> = self.current.drain(first..last.max(first)).collect();
        let rest = under.iter().flat_map(|old| old.around(&mapping)).flatten();
        let (before, behind): (Vec<_>, Vec<_>) = rest.partition(|part| part.end <= mapping.start);
        for old in under {
            if self.replaced.len() >= MAX_REPLACED {
                self.replaced.pop_front();
            }
            self.replaced.push_back((mapping.since_ns, old));
        }
        let mut at = first + before.len();
        self.current
            .splice(first..first, before.into_iter().chain(behind));
        // Code that is made piece by piece stays one mapping.
        if let Some(neighbour) = at.checked_sub(1).and_then(|at| self.current.get(at))
            && neighbour.end == mapping.start
            && mapping.continues(neighbour)
        {
            at -= 1;
            let neighbour = self.current.remove(at);
            mapping.start = neighbour.start;
            mapping.offset = neighbour.offset;
            mapping.since_ns = neighbour.since_ns;
        }
        self.current.insert(at, mapping);
        self.count();
        true
    }
}

impl Clone for Mappings {
    fn clone(&self) -> Self {
        let mut clone = Self {
            current: self.current.clone(),
            replaced: self.replaced.clone(),
            counted: 0,
            counter: self.counter.clone(),
        };
        clone.count();
        clone
    }
}

impl Drop for Mappings {
    fn drop(&mut self) {
        self.counter.0.fetch_sub(self.counted, Ordering::Relaxed);
    }
}
