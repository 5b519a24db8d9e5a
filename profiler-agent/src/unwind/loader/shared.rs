//! Lists of mappings and the like in the heap, each kept once however many
//! processes have the same.

use std::{
    collections::{HashMap, hash_map::RandomState},
    hash::BuildHasher,
    sync::{
        Arc, Mutex, PoisonError, Weak,
        atomic::{AtomicU64, Ordering},
    },
};

use profiler_abi::unwind::HeapRef;

use crate::unwind::heap::{Block, Heap};

/// Bytes in the heap that do not change. They stay for as long as anybody holds
/// one of these.
#[derive(Debug)]
pub(super) struct Shared {
    block: Block,
    len: usize,
    generation: u64,
}

impl Shared {
    /// As the kernel programs name it.
    pub(super) fn heap_ref(&self) -> HeapRef {
        self.block.heap_ref()
    }

    /// Of these bytes only, ever.
    pub(super) fn generation(&self) -> u64 {
        self.generation
    }

    /// Bytes it takes.
    pub(super) fn bytes(&self) -> usize {
        self.block.bytes()
    }

    fn holds(&self, bytes: &[u8]) -> bool {
        self.len == bytes.len() && self.block.read(self.len).is_ok_and(|read| read == bytes)
    }
}

/// All of them.
#[derive(Debug)]
pub(super) struct SharedBytes {
    heap: Arc<Heap>,
    /// By hash of the bytes.
    known: Mutex<HashMap<u64, Weak<Shared>>>,
    hasher: RandomState,
    generation: AtomicU64,
}

impl SharedBytes {
    pub(super) fn new(heap: &Arc<Heap>) -> Self {
        Self {
            heap: Arc::clone(heap),
            known: Mutex::default(),
            hasher: RandomState::new(),
            generation: AtomicU64::new(1),
        }
    }

    /// The place of these bytes; `None`: the heap has no room for them.
    pub(super) fn place(&self, bytes: &[u8]) -> Option<Arc<Shared>> {
        let hash = self.hasher.hash_one(bytes);
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(shared) = known.get(&hash).and_then(Weak::upgrade)
            && shared.holds(bytes)
        {
            return Some(shared);
        }
        let block = self.heap.allocate(&[bytes.len()])?.pop()?;
        block
            .write(bytes)
            .inspect_err(|error| tracing::warn!("write to the unwind tables: {error}"))
            .ok()?;
        let shared = Arc::new(Shared {
            block,
            len: bytes.len(),
            generation: self.generation.fetch_add(1, Ordering::Relaxed),
        });
        if known.len() == known.capacity() {
            known.retain(|_, shared| shared.strong_count() > 0);
        }
        known.insert(hash, Arc::downgrade(&shared));
        Some(shared)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::unwind::kernel_maps::tests::session_maps;

    #[test]
    fn equal_bytes_have_one_place_while_somebody_holds_it() {
        let Some((chunks, _)) = session_maps() else {
            return;
        };
        let heap = Heap::new(0);
        let _attached = heap.attach(chunks).unwrap();
        let shared = SharedBytes::new(&heap);
        let first = shared.place(b"abc").unwrap();
        let again = shared.place(b"abc").unwrap();
        let other = shared.place(b"abd").unwrap();
        assert!(Arc::ptr_eq(&first, &again));
        assert_ne!(first.heap_ref(), other.heap_ref());
        assert_ne!(first.generation(), other.generation());
        let generation = first.generation();
        drop((first, again));
        assert_ne!(shared.place(b"abc").unwrap().generation(), generation);
        for number in 0..10_000u32 {
            shared.place(&number.to_ne_bytes()).unwrap();
        }
        assert!(shared.known.lock().unwrap().len() < 100);
    }
}
