//! The memory that kernel programs read unwind tables from: chunks that are
//! array maps, and shared by the agent's sessions, each of which has them in an
//! array of maps of its own.
//!
//! Giving chunks to a session makes the kernel wait until no program runs that
//! could have missed them, which takes 10 to 100 ms, however many they are. So
//! they come as they are needed, and never on the sampling path.

use std::{
    collections::BTreeMap,
    io,
    os::fd::OwnedFd,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Instant,
};

use profiler_abi::unwind::{CHUNK_BYTES, HeapRef, MAX_CHUNKS};

use super::{
    kernel_maps::{self, Chunk},
    space::{Extent, Space, UNIT},
};

/// What failed on which chunk.
#[derive(Debug, thiserror::Error)]
#[error("{action} chunk {chunk} of the unwind tables: {source}")]
pub struct HeapError {
    action: &'static str,
    chunk: u32,
    /// What the kernel says.
    pub source: io::Error,
}

/// How full the heap is. Sizes are bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HeapStatus {
    /// Most there may be.
    pub budget: usize,
    /// Kernel memory of all chunks.
    pub size: usize,
    /// In use, that which is `quarantined` included.
    pub used: usize,
    /// Freed less than 2 s ago.
    pub quarantined: usize,
}

/// The heap.
#[derive(Debug)]
pub(super) struct Heap {
    max_chunks: usize,
    /// Held while chunks come or go, which is slow; taken before `parts`.
    sessions: Mutex<Sessions>,
    parts: Mutex<Parts>,
}

#[derive(Debug, Default)]
struct Sessions {
    /// Their arrays of maps.
    maps: BTreeMap<u64, OwnedFd>,
    next: u64,
}

#[derive(Debug, Default)]
struct Parts {
    chunks: BTreeMap<u32, Arc<Chunk>>,
    space: Space,
}

impl Heap {
    /// A heap of at most `budget` bytes, of one chunk at least. It makes its
    /// first chunk when the first session attaches.
    pub(super) fn new(budget: usize) -> Arc<Self> {
        Arc::new(Self {
            max_chunks: (budget / CHUNK_BYTES).clamp(1, MAX_CHUNKS),
            sessions: Mutex::default(),
            parts: Mutex::default(),
        })
    }

    fn sessions(&self) -> MutexGuard<'_, Sessions> {
        self.sessions.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn parts(&self) -> MutexGuard<'_, Parts> {
        self.parts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gives all chunks to a session, now and as they come: `chunks` is its
    /// array of maps. They are taken from it when the result is dropped.
    ///
    /// # Errors
    /// Fails where the first chunk cannot be made, or the session cannot take one.
    pub(super) fn attach(self: &Arc<Self>, chunks: OwnedFd) -> Result<Attachment, HeapError> {
        let mut sessions = self.sessions();
        if self.parts().chunks.is_empty() {
            self.add_chunks(&sessions, 1)?;
        }
        let known = self.parts().chunks.clone();
        let known: Vec<_> = known
            .iter()
            .map(|(number, chunk)| (*number, &**chunk))
            .collect();
        give(&chunks, &known)?;
        let id = sessions.next;
        sessions.next += 1;
        sessions.maps.insert(id, chunks);
        Ok(Attachment {
            heap: Arc::clone(self),
            id,
        })
    }

    /// A block for each of `sizes`, in bytes, or `None`: there is no room for
    /// all of them. Never waits for the kernel.
    pub(super) fn allocate(self: &Arc<Self>, sizes: &[usize]) -> Option<Vec<Block>> {
        let mut parts = self.parts();
        let extents = parts.space.take(sizes, Instant::now())?;
        let block = |extent: Extent| {
            Some(Block {
                chunk: Arc::clone(parts.chunks.get(&extent.chunk)?),
                heap: Arc::clone(self),
                extent,
            })
        };
        extents.into_iter().map(block).collect()
    }

    /// Adds chunks that have room for `bytes` more; false: the budget allows
    /// none. Takes up to 100 ms for each session.
    ///
    /// # Errors
    /// Fails where they cannot be made, or a session cannot take them.
    pub(super) fn grow(&self, bytes: usize) -> Result<bool, HeapError> {
        let sessions = self.sessions();
        let allowed = self.max_chunks - self.parts().space.chunks().min(self.max_chunks);
        if allowed == 0 {
            return Ok(false);
        }
        let wanted = bytes.div_ceil(CHUNK_BYTES).clamp(1, allowed);
        self.add_chunks(&sessions, wanted)?;
        Ok(true)
    }

    fn add_chunks(&self, sessions: &Sessions, count: usize) -> Result<(), HeapError> {
        let numbers = self.parts().space.next_numbers(count);
        let mut chunks = Vec::with_capacity(count);
        for number in numbers {
            let chunk = Chunk::create().map_err(|source| HeapError {
                action: "make",
                chunk: number,
                source,
            })?;
            chunks.push((number, Arc::new(chunk)));
        }
        let new: Vec<_> = chunks
            .iter()
            .map(|(number, chunk)| (*number, &**chunk))
            .collect();
        for map in sessions.maps.values() {
            if let Err(error) = give(map, &new) {
                new.iter()
                    .for_each(|(number, _)| take_back(sessions, *number));
                return Err(error);
            }
        }
        let mut parts = self.parts();
        for (number, chunk) in chunks {
            parts.chunks.insert(number, chunk);
            parts.space.add_chunk(number, Instant::now());
        }
        Ok(())
    }

    /// Gives back one chunk that has been empty for a while, if there is one.
    /// To be called about once a second; takes as long as [`Self::grow`].
    pub(super) fn shrink(&self) {
        let sessions = self.sessions();
        let mut parts = self.parts();
        let Some(number) = parts.space.remove_empty(Instant::now()) else {
            return;
        };
        let chunk = parts.chunks.remove(&number);
        drop(parts);
        take_back(&sessions, number);
        drop(chunk);
    }

    /// How full it is.
    pub(super) fn status(&self) -> HeapStatus {
        let parts = self.parts();
        HeapStatus {
            budget: self.max_chunks * CHUNK_BYTES,
            size: parts.space.chunks() * CHUNK_BYTES,
            used: parts.space.used_bytes(),
            quarantined: parts.space.quarantined_bytes(),
        }
    }
}

fn give(map: &OwnedFd, chunks: &[(u32, &Chunk)]) -> Result<(), HeapError> {
    kernel_maps::put_chunks(map, chunks).map_err(|source| HeapError {
        action: "give a session",
        chunk: chunks.first().map_or(0, |(number, _)| *number),
        source,
    })
}

fn take_back(sessions: &Sessions, number: u32) {
    for map in sessions.maps.values() {
        if let Err(error) = kernel_maps::delete(map, number) {
            tracing::warn!("take chunk {number} from a session: {error}");
        }
    }
}

/// A session's share in the heap.
#[derive(Debug)]
pub(super) struct Attachment {
    heap: Arc<Heap>,
    id: u64,
}

impl Drop for Attachment {
    fn drop(&mut self) {
        self.heap.sessions().maps.remove(&self.id);
    }
}

/// A part of the heap that is its owner's alone. When it is dropped, nothing
/// that kernel programs start from may lead to it any more.
#[derive(Debug)]
pub(super) struct Block {
    heap: Arc<Heap>,
    chunk: Arc<Chunk>,
    extent: Extent,
}

impl Block {
    /// As the kernel programs name it.
    pub(super) fn heap_ref(&self) -> HeapRef {
        self.extent.heap_ref()
    }

    /// Bytes it takes.
    pub(super) fn bytes(&self) -> usize {
        self.extent.units as usize * UNIT
    }

    /// Fills its begin, before anything leads to it.
    ///
    /// # Errors
    /// Fails where `bytes` are more than it has, or its memory cannot be mapped.
    pub(super) fn write(&self, bytes: &[u8]) -> io::Result<()> {
        if bytes.len() > self.bytes() {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        self.chunk.write(self.extent.place as usize * UNIT, bytes)
    }

    /// What it begins with.
    ///
    /// # Errors
    /// As [`Self::write`].
    pub(super) fn read(&self, len: usize) -> io::Result<Vec<u8>> {
        if len > self.bytes() {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        self.chunk.read(self.extent.place as usize * UNIT, len)
    }
}

impl Drop for Block {
    fn drop(&mut self) {
        self.heap
            .parts()
            .space
            .put_away(self.extent, Instant::now());
    }
}

#[cfg(test)]
impl Heap {
    /// What kernel programs find at a place.
    pub(super) fn peek(&self, place: HeapRef, len: usize) -> Vec<u8> {
        use profiler_abi::unwind::HEAP_REF_BITS;
        let parts = self.parts();
        let chunk = &parts.chunks[&(place >> HEAP_REF_BITS)];
        let unit = place as usize % (1 << HEAP_REF_BITS);
        chunk.read(unit * UNIT, len).unwrap()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::unwind::kernel_maps::tests::{lookup, session_maps};

    /// Number of the map in slot `number` of an array of maps, as the kernel
    /// gives it to userspace.
    fn slot(chunks: &OwnedFd, number: u32) -> Option<u32> {
        lookup(chunks, number)
    }

    #[test]
    fn sessions_get_every_chunk_there_is_and_comes() {
        let Some((first, _)) = session_maps() else {
            return;
        };
        let (second, _) = session_maps().unwrap();
        let (first_copy, second_copy) = (first.try_clone().unwrap(), second.try_clone().unwrap());
        let heap = Heap::new(2 * CHUNK_BYTES + 1);
        assert_eq!(heap.status().size, 0);
        let first = heap.attach(first).unwrap();
        assert_eq!(heap.status().size, CHUNK_BYTES);
        assert!(heap.grow(1).unwrap());
        assert!(!heap.grow(1).unwrap(), "beyond the budget");
        let second = heap.attach(second).unwrap();
        for number in 0..2 {
            let map = slot(&first_copy, number);
            assert!(map.is_some());
            assert_eq!(slot(&second_copy, number), map);
        }
        assert_eq!(slot(&first_copy, 2), None);
        drop((first, second));
        assert!(heap.sessions().maps.is_empty());
    }

    #[test]
    fn it_grows_by_as_much_as_is_needed_and_allowed() {
        let Some((chunks, _)) = session_maps() else {
            return;
        };
        let copy = chunks.try_clone().unwrap();
        let heap = Heap::new(6 * CHUNK_BYTES);
        let _attached = heap.attach(chunks).unwrap();
        assert!(heap.grow(2 * CHUNK_BYTES + 1).unwrap());
        assert_eq!(heap.status().size, 4 * CHUNK_BYTES);
        assert!(heap.grow(usize::MAX).unwrap());
        assert_eq!(heap.status().size, 6 * CHUNK_BYTES);
        assert!((0..6).all(|number| slot(&copy, number).is_some()));
    }

    #[test]
    fn blocks_hold_what_is_written() {
        let Some((chunks, _)) = session_maps() else {
            return;
        };
        let heap = Heap::new(0);
        let _attached = heap.attach(chunks).unwrap();
        let blocks = heap.allocate(&[9, 16]).unwrap();
        assert_eq!(blocks[0].bytes(), 16);
        assert_eq!(blocks[1].heap_ref(), blocks[0].heap_ref() + 2);
        blocks[0].write(b"0123456789abcdef").unwrap();
        blocks[1].write(b"x").unwrap();
        assert!(blocks[0].write(&[0; 17]).is_err());
        assert_eq!(blocks[0].read(16).unwrap(), b"0123456789abcdef");
        assert!(blocks[0].read(17).is_err());
        let place = blocks[0].heap_ref();
        drop(blocks);
        assert_eq!(heap.status().quarantined, 32);
        assert_ne!(heap.allocate(&[16]).unwrap()[0].heap_ref(), place);
        assert!(heap.allocate(&[CHUNK_BYTES]).is_none());
    }
}
