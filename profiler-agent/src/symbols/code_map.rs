//! Which code lies where in memory that is written over again and again: what
//! came last hides what it overlaps. A map that keeps a history can be asked
//! for an earlier time.

use std::{collections::BTreeMap, ops::Range, sync::Arc};

/// Versions kept of one place. At twice as many the older half is forgotten, so
/// that no chain of them gets long.
const MAX_OLDER: u32 = 256;

/// How long after its first instruction ran code may be announced. A sample
/// that is earlier by no more belongs to it where nothing was there before.
const ANNOUNCED_LATE_NS: u64 = 100_000_000;

/// Disjoint ranges of addresses, and what is at each.
#[derive(Debug)]
pub struct CodeMap<T> {
    /// By first address.
    ranges: BTreeMap<u64, Entry<T>>,
    has_history: bool,
    /// Versions that were made and not replaced.
    made: usize,
    limit: usize,
}

#[derive(Debug)]
struct Entry<T> {
    /// One past the last address.
    end: u64,
    at: Version<T>,
}

/// What is at a place since when.
#[derive(Clone, Debug)]
struct Version<T> {
    since_ns: u64,
    /// `None`: nothing any more.
    value: Option<T>,
    /// How many come after in `older`.
    depth: u32,
    older: Option<Arc<Version<T>>>,
}

/// There is no room for another entry.
#[derive(Debug, PartialEq, Eq)]
pub struct Full;

impl<T: Clone> CodeMap<T> {
    /// A map of what came last alone, of `limit` ranges at most.
    pub fn newest(limit: usize) -> Self {
        Self {
            ranges: BTreeMap::new(),
            has_history: false,
            made: 0,
            limit,
        }
    }

    /// A map that keeps what was there before, `limit` entries in all.
    pub fn with_history(limit: usize) -> Self {
        Self {
            has_history: true,
            ..Self::newest(limit)
        }
    }

    /// Ranges there are.
    pub fn len(&self) -> usize {
        self.ranges.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.ranges.is_empty()
    }

    /// What is there now; of a range that was split, for each part.
    pub fn values(&self) -> impl Iterator<Item = &T> {
        self.ranges
            .values()
            .filter_map(|entry| entry.at.value.as_ref())
    }

    /// Ranges that begin in `addresses`.
    pub fn count_in(&self, addresses: Range<u64>) -> usize {
        match addresses.is_empty() {
            true => 0,
            false => self.ranges.range(addresses).count(),
        }
    }

    /// Memory that the map takes, about: for each version its own size, and
    /// half as much for what lies between.
    pub fn bytes(&self) -> usize {
        (self.made * (size_of::<u64>() + size_of::<Entry<T>>())).saturating_mul(3) / 2
    }

    /// From `since_ns` on `value` is at `range`, whatever was there before;
    /// `None`: nothing. An empty range changes nothing.
    ///
    /// # Errors
    /// Fails where there is no room for it. A map with history then takes
    /// nothing any more.
    pub fn insert(
        &mut self,
        range: Range<u64>,
        since_ns: u64,
        value: Option<T>,
    ) -> Result<(), Full> {
        if range.is_empty() {
            return Ok(());
        }
        self.check_room(&range)?;
        self.split(range.start);
        self.split(range.end);
        if self.has_history {
            self.cover(range, since_ns, value);
        } else {
            self.replace(range, since_ns, value);
        }
        Ok(())
    }

    /// What is at `address` now, or was at time `at_ns`.
    pub fn get(&self, address: u64, at_ns: Option<u64>) -> Option<&T> {
        let (_, entry) = self.ranges.range(..=address).next_back()?;
        if address >= entry.end {
            return None;
        }
        entry.at.as_of(at_ns)?.value.as_ref()
    }

    /// Two more at the ends of the range, and for what it covers, with a
    /// history, one for each range and one for each gap between them.
    fn check_room(&mut self, range: &Range<u64>) -> Result<(), Full> {
        let same = |entry: &Entry<T>| entry.end == range.end;
        let room = self.limit - self.made;
        let needed = match self.has_history {
            true => 4 + 2 * self.ranges.range(range.clone()).take(room).count(),
            false if self.ranges.get(&range.start).is_some_and(same) => 0,
            false => 3,
        };
        if needed <= room {
            return Ok(());
        }
        if self.has_history {
            // Counting what a range covers takes time too.
            self.made = self.limit;
        }
        Err(Full)
    }

    /// No range begins before `address` and ends behind it.
    fn split(&mut self, address: u64) {
        let Some((_, entry)) = self.ranges.range_mut(..address).next_back() else {
            return;
        };
        if entry.end <= address {
            return;
        }
        let rest = Entry {
            end: entry.end,
            at: entry.at.clone(),
        };
        entry.end = address;
        self.ranges.insert(address, rest);
        self.made += 1;
    }

    fn replace(&mut self, range: Range<u64>, since_ns: u64, value: Option<T>) {
        let covered: Vec<u64> = self
            .ranges
            .range(range.clone())
            .map(|(at, _)| *at)
            .collect();
        for at in &covered {
            self.ranges.remove(at);
        }
        self.made -= covered.len();
        self.add(range, Version::first(since_ns, value));
    }

    fn cover(&mut self, range: Range<u64>, since_ns: u64, value: Option<T>) {
        let mut gaps = Vec::new();
        let mut at = range.start;
        for (start, entry) in self.ranges.range_mut(range.clone()) {
            gaps.push(at..*start);
            at = entry.end;
            entry.at.follow(since_ns, value.clone());
            self.made += 1;
        }
        gaps.push(at..range.end);
        for gap in gaps.into_iter().filter(|gap| !gap.is_empty()) {
            self.add(gap, Version::first(since_ns, value.clone()));
        }
    }

    fn add(&mut self, range: Range<u64>, at: Version<T>) {
        let end = range.end;
        self.ranges.insert(range.start, Entry { end, at });
        self.made += 1;
    }
}

impl<T: Clone> Version<T> {
    fn first(since_ns: u64, value: Option<T>) -> Self {
        Self {
            since_ns,
            value,
            depth: 0,
            older: None,
        }
    }

    /// Becomes one that comes after it.
    fn follow(&mut self, since_ns: u64, value: Option<T>) {
        let next = Self::first(since_ns, value);
        let mut older = std::mem::replace(self, next);
        if older.depth >= 2 * MAX_OLDER {
            older = older.shortened();
        }
        self.depth = older.depth + 1;
        self.older = Some(Arc::new(older));
    }

    fn shortened(&self) -> Self {
        let newest: Vec<&Self> = self.chain().take(MAX_OLDER as usize).collect();
        let mut shortened: Option<Self> = None;
        for version in newest.into_iter().rev() {
            let depth = shortened.as_ref().map_or(0, |older| older.depth + 1);
            shortened = Some(Self {
                depth,
                older: shortened.map(Arc::new),
                ..Self::first(version.since_ns, version.value.clone())
            });
        }
        shortened.unwrap_or_else(|| Self::first(self.since_ns, self.value.clone()))
    }

    /// The newest first.
    fn chain(&self) -> impl Iterator<Item = &Self> {
        std::iter::successors(Some(self), |version| version.older.as_deref())
    }

    fn as_of(&self, at_ns: Option<u64>) -> Option<&Self> {
        let Some(at_ns) = at_ns else {
            return Some(self);
        };
        self.chain().find(|version| {
            let allowance = match version.older {
                Some(_) => 0,
                None => ANNOUNCED_LATE_NS,
            };
            version.since_ns <= at_ns.saturating_add(allowance)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_came_last_hides_what_it_overlaps() {
        let mut map = CodeMap::newest(100);
        map.insert(10..20, 0, Some("a")).unwrap();
        map.insert(30..40, 0, Some("b")).unwrap();
        map.insert(15..35, 0, Some("c")).unwrap();
        map.insert(17..18, 0, Some("d")).unwrap();
        map.insert(50..50, 0, Some("none")).unwrap();
        let at = |address| map.get(address, None).copied();
        assert_eq!([9, 10, 14].map(at), [None, Some("a"), Some("a")]);
        assert_eq!(
            [15, 16, 17, 18].map(at).map(Option::unwrap),
            ["c", "c", "d", "c"]
        );
        assert_eq!(
            [34, 35, 39, 40].map(at),
            [Some("c"), Some("b"), Some("b"), None]
        );
        assert_eq!(map.len(), 5);
        map.insert(0..100, 0, Some("e")).unwrap();
        assert_eq!(map.len(), 1);
    }

    #[test]
    fn an_earlier_time_has_what_was_there_then() {
        let s = 1_000_000_000;
        let mut map = CodeMap::with_history(100);
        map.insert(10..20, s, Some("a")).unwrap();
        map.insert(12..30, 2 * s, Some("b")).unwrap();
        map.insert(10..20, 3 * s, None).unwrap();
        let at = |address, time| map.get(address, Some(time)).copied();
        assert_eq!(at(15, s), Some("a"));
        assert_eq!(at(15, 2 * s - 1), Some("a"));
        assert_eq!(at(11, 2 * s), Some("a"));
        assert_eq!(at(15, 2 * s), Some("b"));
        assert_eq!(at(15, 3 * s), None);
        assert_eq!(at(25, 9 * s), Some("b"));
        assert_eq!(at(15, s - ANNOUNCED_LATE_NS), Some("a"));
        assert_eq!(at(15, s - ANNOUNCED_LATE_NS - 1), None);
        assert_eq!(map.get(15, None), None);
    }

    #[test]
    fn a_full_map_says_so_and_takes_replacements() {
        let mut map = CodeMap::newest(10);
        let mut taken = 0;
        while map.insert(taken * 10..taken * 10 + 10, 0, Some(1)).is_ok() {
            taken += 1;
        }
        assert_eq!(taken, 8);
        assert_eq!(map.insert(5..15, 0, Some(2)), Err(Full));
        map.insert(70..80, 0, Some(3)).unwrap();
        assert_eq!(map.get(75, None), Some(&3));

        let mut map = CodeMap::with_history(1000);
        let refused = (0..1000).find(|time| map.insert(0..10, *time, Some(1)).is_err());
        assert!(refused.is_some());
        assert_eq!(map.insert(20..30, 0, Some(1)), Err(Full));
    }

    #[test]
    fn a_place_written_over_for_ever_forgets_the_oldest() {
        let mut map = CodeMap::with_history(1 << 20);
        for time in 0..100_000 {
            map.insert(0..10, time << 32, Some(time)).unwrap();
        }
        let at = |time: u64| map.get(5, Some(time << 32)).copied();
        assert_eq!(at(99_999), Some(99_999));
        assert_eq!(at(99_900), Some(99_900));
        assert_eq!(at(99_000), None);
        let depth = map.ranges[&0].at.depth;
        assert!((MAX_OLDER..=2 * MAX_OLDER).contains(&depth), "{depth}");
    }

    /// Against an array of what is at each address.
    #[test]
    fn agrees_with_an_array_of_addresses() {
        let mut seed = 1u64;
        let mut random = |below: u64| {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (seed >> 33) % below
        };
        let mut newest = CodeMap::newest(1 << 20);
        let mut history = CodeMap::with_history(1 << 20);
        let mut truth = [None; 200];
        for value in 0..300 {
            let start = random(180);
            let range = start..start + random(20);
            truth[range.start as usize..range.end as usize].fill(Some(value));
            newest.insert(range.clone(), 0, Some(value)).unwrap();
            history.insert(range, 0, Some(value)).unwrap();
            for (address, expected) in truth.iter().enumerate() {
                assert_eq!(newest.get(address as u64, None), expected.as_ref());
                assert_eq!(history.get(address as u64, None), expected.as_ref());
            }
            assert_eq!(newest.made, newest.len());
        }
    }
}
