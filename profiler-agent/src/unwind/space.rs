//! Which parts of the heap's chunks are in use, and which will be free soon.
//! Knows nothing of memory: places and sizes only, in units of 8 bytes.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    time::{Duration, Instant},
};

use profiler_abi::unwind::{CHUNK_BYTES, HEAP_REF_BITS, HeapRef};

/// Bytes of a unit.
pub(super) const UNIT: usize = 8;

/// Units of a chunk.
const CHUNK_UNITS: u32 = 1 << HEAP_REF_BITS;

const _: () = assert!(CHUNK_UNITS as usize * UNIT == CHUNK_BYTES);

/// How long what was freed is left alone: a program that found its way to it
/// before may still be reading. None runs for longer than milliseconds.
pub(super) const QUARANTINE: Duration = Duration::from_secs(2);

/// How long a chunk stays empty before it is given back: taking it in again
/// costs a session up to 30 ms.
const EMPTY_TIME: Duration = Duration::from_secs(10);

/// Part of a chunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Extent {
    /// Number of the chunk.
    pub(super) chunk: u32,
    /// First unit.
    pub(super) place: u32,
    /// Units.
    pub(super) units: u32,
}

impl Extent {
    /// As the kernel programs name its start.
    pub(super) fn heap_ref(self) -> HeapRef {
        (self.chunk << HEAP_REF_BITS) | self.place
    }
}

/// The free parts of one chunk.
#[derive(Debug, Default)]
struct Free {
    by_place: BTreeMap<u32, u32>,
    /// Units, then place: the first that is large enough is the best fit.
    by_size: BTreeSet<(u32, u32)>,
    units: u32,
}

impl Free {
    fn insert(&mut self, place: u32, units: u32) {
        self.by_place.insert(place, units);
        self.by_size.insert((units, place));
        self.units += units;
    }

    fn remove(&mut self, place: u32, units: u32) {
        self.by_place.remove(&place);
        self.by_size.remove(&(units, place));
        self.units -= units;
    }

    /// The smallest part that is large enough; its rest stays free.
    fn take(&mut self, units: u32) -> Option<u32> {
        let (found, place) = self.by_size.range((units, 0)..).next().copied()?;
        self.remove(place, found);
        if found > units {
            self.insert(place + units, found - units);
        }
        Some(place)
    }

    /// Joined with its free neighbours.
    fn give(&mut self, mut place: u32, mut units: u32) {
        let before = self.by_place.range(..place).next_back();
        if let Some((&start, &len)) = before
            && start + len == place
        {
            self.remove(start, len);
            place = start;
            units += len;
        }
        if let Some(&len) = self.by_place.get(&(place + units)) {
            self.remove(place + units, len);
            units += len;
        }
        self.insert(place, units);
    }
}

#[derive(Debug)]
struct Chunk {
    free: Free,
    /// What is free where nothing is in use.
    size: u32,
    empty_since: Option<Instant>,
}

impl Chunk {
    fn new(number: u32, now: Instant) -> Self {
        // A reference of 0 is nowhere.
        let first = u32::from(number == 0);
        let mut free = Free::default();
        free.insert(first, CHUNK_UNITS - first);
        Self {
            size: free.units,
            free,
            // It may have come for what then found a place elsewhere, or none.
            empty_since: Some(now),
        }
    }

    fn is_empty(&self) -> bool {
        self.free.units == self.size
    }
}

#[derive(Debug)]
struct Freed {
    at: Instant,
    extent: Extent,
}

/// The chunks of the heap by number, and what is free in them.
#[derive(Debug, Default)]
pub(super) struct Space {
    chunks: BTreeMap<u32, Chunk>,
    /// Oldest first.
    quarantine: VecDeque<Freed>,
    quarantined_units: u64,
}

impl Space {
    /// A chunk has come, all of it free.
    pub(super) fn add_chunk(&mut self, number: u32, now: Instant) {
        self.chunks.insert(number, Chunk::new(number, now));
    }

    /// Finds a place for each size in bytes, or for none of them. Lower chunks
    /// are filled first, so that the last ones become empty.
    pub(super) fn take(&mut self, sizes: &[usize], now: Instant) -> Option<Vec<Extent>> {
        self.release(now);
        let mut taken = Vec::with_capacity(sizes.len());
        for &size in sizes {
            match self.take_one(size) {
                Some(extent) => taken.push(extent),
                None => {
                    taken.into_iter().for_each(|extent| self.give(extent, now));
                    return None;
                }
            }
        }
        Some(taken)
    }

    fn take_one(&mut self, size: usize) -> Option<Extent> {
        let units = u32::try_from(size.div_ceil(UNIT)).ok()?.max(1);
        self.chunks.iter_mut().find_map(|(&number, chunk)| {
            let place = chunk.free.take(units)?;
            chunk.empty_since = None;
            Some(Extent {
                chunk: number,
                place,
                units,
            })
        })
    }

    fn give(&mut self, extent: Extent, now: Instant) {
        if let Some(chunk) = self.chunks.get_mut(&extent.chunk) {
            chunk.free.give(extent.place, extent.units);
            if chunk.is_empty() {
                chunk.empty_since = Some(now);
            }
        }
    }

    /// What a program may still be reading: free after a while.
    pub(super) fn put_away(&mut self, extent: Extent, now: Instant) {
        self.quarantined_units += u64::from(extent.units);
        self.quarantine.push_back(Freed { at: now, extent });
    }

    /// Frees what was put away long enough ago.
    fn release(&mut self, now: Instant) {
        while let Some(freed) = self
            .quarantine
            .pop_front_if(|freed| now.saturating_duration_since(freed.at) >= QUARANTINE)
        {
            self.quarantined_units -= u64::from(freed.extent.units);
            self.give(freed.extent, now);
        }
    }

    /// Takes out a chunk, not the first, that has been empty for a while.
    pub(super) fn remove_empty(&mut self, now: Instant) -> Option<u32> {
        self.release(now);
        let last = self.chunks.last_entry()?;
        let since = last.get().empty_since?;
        if *last.key() == 0 || now.saturating_duration_since(since) < EMPTY_TIME {
            return None;
        }
        Some(last.remove_entry().0)
    }

    /// The lowest numbers no chunk has.
    pub(super) fn next_numbers(&self, count: usize) -> Vec<u32> {
        let is_free = |number: &u32| !self.chunks.contains_key(number);
        (0..).filter(is_free).take(count).collect()
    }

    /// How many chunks there are.
    pub(super) fn chunks(&self) -> usize {
        self.chunks.len()
    }

    /// Bytes in use, those put away included.
    pub(super) fn used_bytes(&self) -> usize {
        let used = |chunk: &Chunk| (chunk.size - chunk.free.units) as usize;
        self.chunks.values().map(used).sum::<usize>() * UNIT
    }

    /// Bytes that will be free within 2 s.
    pub(super) fn quarantined_bytes(&self) -> usize {
        self.quarantined_units as usize * UNIT
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn space(chunks: u32) -> Space {
        let mut space = Space::default();
        let now = Instant::now();
        (0..chunks).for_each(|number| space.add_chunk(number, now));
        space
    }

    fn one(space: &mut Space, size: usize, now: Instant) -> Option<Extent> {
        Some(space.take(&[size], now)?.remove(0))
    }

    #[test]
    fn nothing_lies_at_reference_0() {
        let mut space = space(1);
        let first = one(&mut space, 1, Instant::now()).unwrap();
        assert_eq!(first.heap_ref(), 1);
        assert_eq!(space.used_bytes(), UNIT);
    }

    #[test]
    fn nothing_crosses_the_end_of_a_chunk() {
        let now = Instant::now();
        let mut space = space(3);
        assert!(one(&mut space, CHUNK_BYTES + 1, now).is_none());
        assert_eq!(one(&mut space, CHUNK_BYTES, now).unwrap().chunk, 1);
        assert_eq!(one(&mut space, CHUNK_BYTES - UNIT, now).unwrap().chunk, 0);
        let two = space.take(&[CHUNK_BYTES / 2, CHUNK_BYTES / 2], now);
        assert!(two.unwrap().iter().all(|extent| extent.chunk == 2));
        assert!(one(&mut space, 1, now).is_none());
    }

    #[test]
    fn all_sizes_find_a_place_or_none_does() {
        let now = Instant::now();
        let mut space = space(1);
        assert!(space.take(&[64, CHUNK_BYTES], now).is_none());
        assert_eq!(space.used_bytes(), 0);
        assert!(one(&mut space, CHUNK_BYTES - UNIT, now).is_some());
    }

    #[test]
    fn what_was_freed_is_left_alone_for_a_while() {
        let now = Instant::now();
        let mut space = space(1);
        let all = one(&mut space, CHUNK_BYTES - UNIT, now).unwrap();
        space.put_away(all, now);
        assert_eq!(space.quarantined_bytes(), CHUNK_BYTES - UNIT);
        let soon = now + QUARANTINE - Duration::from_millis(1);
        assert!(one(&mut space, 1, soon).is_none());
        assert!(one(&mut space, CHUNK_BYTES - UNIT, now + QUARANTINE).is_some());
        assert_eq!(space.quarantined_bytes(), 0);
    }

    #[test]
    fn the_smallest_hole_that_fits_is_taken_and_holes_are_joined() {
        let now = Instant::now();
        let mut space = space(1);
        let blocks = space.take(&[80, 8, 40, 8, 80, 8], now).unwrap();
        for hole in [0, 2, 4] {
            space.put_away(blocks[hole], now);
        }
        let later = now + QUARANTINE;
        assert_eq!(one(&mut space, 33, later).unwrap().place, blocks[2].place);
        space.put_away(blocks[1], later);
        let last = later + QUARANTINE;
        // Two neighbours of 80 and 8 bytes.
        assert_eq!(one(&mut space, 88, last).unwrap().place, blocks[0].place);
    }

    #[test]
    fn empty_chunks_but_the_first_are_given_back_later() {
        let now = Instant::now();
        let mut space = space(2);
        let [low, high] = space.take(&[CHUNK_BYTES - UNIT, 8], now).unwrap()[..] else {
            panic!("two blocks");
        };
        assert_eq!(high.chunk, 1);
        space.put_away(high, now);
        let freed = now + QUARANTINE;
        assert_eq!(space.remove_empty(freed), None);
        assert_eq!(space.remove_empty(freed + EMPTY_TIME), Some(1));
        assert_eq!(space.next_numbers(2), [1, 2]);
        space.put_away(low, freed);
        assert_eq!(space.remove_empty(freed + QUARANTINE), None);
        assert_eq!(space.remove_empty(freed + QUARANTINE + EMPTY_TIME), None);
        assert_eq!(space.chunks(), 1);
    }

    #[test]
    fn a_chunk_that_was_never_used_is_given_back() {
        let now = Instant::now();
        let mut space = Space::default();
        space.add_chunk(0, now);
        space.add_chunk(1, now);
        assert_eq!(space.remove_empty(now), None);
        assert_eq!(space.remove_empty(now + EMPTY_TIME), Some(1));
        assert_eq!(space.remove_empty(now + 2 * EMPTY_TIME), None);
    }

    proptest! {
        /// Blocks in use never overlap, and what was freed can be used again.
        #[test]
        fn blocks_never_overlap(steps in prop::collection::vec((0usize..300_000, any::<u8>()), 1..200)) {
            let mut now = Instant::now();
            let mut space = space(2);
            let mut live: Vec<Extent> = Vec::new();
            for (size, action) in steps {
                now += Duration::from_millis(u64::from(action) * 4);
                if action % 3 == 0 && !live.is_empty() {
                    let index = size % live.len();
                    space.put_away(live.swap_remove(index), now);
                } else if let Some(taken) = one(&mut space, size, now) {
                    prop_assert!(taken.place + taken.units <= CHUNK_UNITS);
                    prop_assert!(taken.units as usize * UNIT >= size);
                    for other in live.iter().filter(|other| other.chunk == taken.chunk) {
                        let apart = taken.place + taken.units <= other.place
                            || other.place + other.units <= taken.place;
                        prop_assert!(apart, "{taken:?} on {other:?}");
                    }
                    live.push(taken);
                }
                let in_use: usize = live.iter().map(|extent| extent.units as usize * UNIT).sum();
                prop_assert_eq!(space.used_bytes() - space.quarantined_bytes(), in_use);
            }
            for extent in live {
                space.put_away(extent, now);
            }
            let all = [CHUNK_BYTES - UNIT, CHUNK_BYTES];
            prop_assert!(space.take(&all, now + QUARANTINE).is_some());
        }
    }
}
