//! The table of one binary, from being asked for to lying in the heap.

use std::{
    mem,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Instant,
};

use profiler_abi::unwind::{HeapRef, TableHead};
use zerocopy::IntoBytes;

use super::{Refusal, Table};
use crate::unwind::{binary::Binary, elf::ElfImage, heap::Block};

/// A table in the heap.
#[derive(Debug)]
pub(super) struct Loaded {
    image: ElfImage,
    base: u64,
    /// The first one holds the head.
    blocks: Vec<Block>,
    bytes: usize,
}

#[derive(Debug)]
pub(super) enum State {
    /// To be built.
    Waiting(Arc<Binary>),
    /// Stays as long as anybody uses the slot.
    Ready(Loaded),
    /// Not now, or never.
    Refused {
        reason: Refusal,
        retry_at: Option<Instant>,
        binary: Option<Kept>,
    },
}

/// A file that is held open for another try, and one of the places for such files.
#[derive(Debug)]
pub(super) struct Kept {
    pub(super) binary: Arc<Binary>,
    pub(super) _place: Arc<()>,
}

/// What kernel programs can make of a mapping.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::unwind) enum Lookup {
    /// Walk by this table.
    Table {
        /// Of its head.
        head: HeapRef,
        /// Place in it of the first byte of the mapping.
        place: u64,
    },
    /// Wait.
    Pending,
    /// Go by the frame pointer; why.
    Refused(Refusal),
}

/// The place of a binary's table. Whoever holds one uses the table.
#[derive(Debug)]
pub(in crate::unwind) struct Slot {
    path: Arc<str>,
    inner: Mutex<Inner>,
}

#[derive(Debug)]
struct Inner {
    state: State,
    /// Why it was refused the last time.
    refused: Option<Refusal>,
}

/// How far a slot is, as far as lists of mappings show it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::unwind) enum Stage {
    /// Its table may come soon.
    Pending,
    /// It has none, but that may change.
    Later,
    /// It has its table, or will never have one.
    Settled,
}

impl Slot {
    pub(super) fn new(binary: &Arc<Binary>) -> Self {
        Self {
            path: Arc::clone(binary.path()),
            inner: Mutex::new(Inner {
                state: State::Waiting(Arc::clone(binary)),
                refused: None,
            }),
        }
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Path of the binary, as the first process saw it.
    pub(in crate::unwind) fn path(&self) -> &Arc<str> {
        &self.path
    }

    /// What there is for a mapping that begins at this offset of the file.
    pub(in crate::unwind) fn lookup(&self, offset: u64) -> Lookup {
        let inner = self.inner();
        match (&inner.state, inner.refused) {
            (State::Waiting(_), None) => Lookup::Pending,
            // Tried again: nothing changes until that succeeds.
            (State::Waiting(_), Some(reason)) => Lookup::Refused(reason),
            (State::Refused { reason, .. }, _) => Lookup::Refused(*reason),
            (State::Ready(loaded), _) => loaded.lookup(offset),
        }
    }

    /// How far it is.
    pub(in crate::unwind) fn stage(&self) -> Stage {
        let inner = self.inner();
        match (&inner.state, inner.refused) {
            (State::Waiting(_), None) => Stage::Pending,
            (State::Waiting(_), Some(_)) => Stage::Later,
            (
                State::Refused {
                    retry_at: Some(_), ..
                },
                _,
            ) => Stage::Later,
            (State::Refused { .. } | State::Ready(_), _) => Stage::Settled,
        }
    }

    /// Goes to the next state; false: it was refused for the same reason the
    /// last time.
    pub(super) fn set(&self, state: State) -> bool {
        let mut inner = self.inner();
        let reason = match &state {
            State::Refused { reason, .. } => Some(*reason),
            _ => inner.refused,
        };
        let before = mem::replace(&mut inner.refused, reason);
        let old = mem::replace(&mut inner.state, state);
        drop(inner);
        drop(old);
        before != reason
    }

    /// The file of one that waits.
    pub(super) fn binary(&self) -> Option<Arc<Binary>> {
        match &self.inner().state {
            State::Waiting(binary) => Some(Arc::clone(binary)),
            _ => None,
        }
    }

    /// Gives the file back to one that was refused and let go of it, where
    /// there is a place for it.
    pub(super) fn lend(&self, keep: impl FnOnce() -> Option<Kept>) {
        if let State::Refused {
            binary: binary @ None,
            retry_at: Some(_),
            ..
        } = &mut self.inner().state
        {
            *binary = keep();
        }
    }

    /// The file of one that is to be tried again.
    pub(super) fn due(&self, now: Instant) -> Option<Arc<Binary>> {
        match &self.inner().state {
            State::Refused {
                binary: Some(kept),
                retry_at: Some(at),
                ..
            } if *at <= now => Some(Arc::clone(&kept.binary)),
            _ => None,
        }
    }

    /// Bytes of its table in the heap; `None`: there is none.
    pub(super) fn bytes(&self) -> Option<usize> {
        match &self.inner().state {
            State::Ready(loaded) => Some(loaded.bytes),
            _ => None,
        }
    }
}

impl Loaded {
    fn lookup(&self, offset: u64) -> Lookup {
        let head = self.blocks.first().map(Block::heap_ref);
        match (head, self.image.address_of(offset)) {
            (Some(head), Some(address)) => Lookup::Table {
                head,
                place: address.wrapping_sub(self.base),
            },
            _ => Lookup::Refused(Refusal::NoRules),
        }
    }
}

/// Bytes of the directory, padded.
fn directory_bytes(table: &Table) -> usize {
    (table.pages.len() * size_of::<HeapRef>()).next_multiple_of(8)
}

/// Of the blocks a table needs: its head, then each of its pages.
pub(super) fn sizes(table: &Table) -> Vec<usize> {
    let rules = size_of_val(table.rules.as_slice());
    let head = size_of::<TableHead>() + directory_bytes(table) + rules;
    let pages = table.pages.iter().flatten().map(Vec::len);
    [head].into_iter().chain(pages).collect()
}

/// Writes a table into blocks of its [`sizes`].
///
/// # Errors
/// Fails where they are not, or their memory cannot be mapped.
pub(super) fn load(table: Table, image: ElfImage, blocks: Vec<Block>) -> Result<Loaded, Refusal> {
    let (first, rest) = blocks.split_first().ok_or(Refusal::Failed)?;
    let mut rest = rest.iter();
    let mut directory = Vec::with_capacity(directory_bytes(&table));
    for page in &table.pages {
        let place = match page {
            Some(page) => {
                let block = rest.next().ok_or(Refusal::Failed)?;
                write(block, page)?;
                block.heap_ref()
            }
            None => 0,
        };
        directory.extend_from_slice(place.as_bytes());
    }
    directory.resize(directory_bytes(&table), 0);
    let number = |len: usize| u32::try_from(len).map_err(|_| Refusal::Failed);
    let head = TableHead {
        pages: number(table.pages.len())?,
        rules: number(table.rules.len())?,
        rules_offset: number(size_of::<TableHead>() + directory.len())?,
        pad: 0,
    };
    write(
        first,
        &[head.as_bytes(), &directory, table.rules.as_bytes()].concat(),
    )?;
    Ok(Loaded {
        image,
        base: table.base,
        bytes: blocks.iter().map(Block::bytes).sum(),
        blocks,
    })
}

fn write(block: &Block, bytes: &[u8]) -> Result<(), Refusal> {
    block.write(bytes).map_err(|error| {
        tracing::warn!("write an unwind table: {error}");
        Refusal::Kernel
    })
}

#[cfg(test)]
impl Loaded {
    /// What the heap holds at its head.
    pub(super) fn head(&self, len: usize) -> Vec<u8> {
        self.blocks[0].read(len).unwrap()
    }
}
