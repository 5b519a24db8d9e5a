//! Walks stacks in userspace, from the copy that the kernel programs take where
//! their tables do not reach: a process or a file is new, or a rule is one that
//! they cannot follow.
//!
//! The walk is the same as theirs (`profiler_abi::unwind`), with three
//! differences: call frame information is evaluated by gimli, so that every
//! rule there is can be followed; of a file only the entries that are needed
//! are read, so that the first stack of a browser takes milliseconds; all
//! registers are followed, as far as they are known.
//!
//! `walk` goes from frame to frame. `file` finds the `step` to take in what is
//! known of a file, through `search` and `cfi`, which read it by `pages`, or by
//! `code`. `expression` evaluates DWARF expressions.
//!
//! Files and stacks may be hostile. What is done for one stack is bounded: its
//! frames, the bytes of call frame information evaluated, the operations of an
//! expression. What is done for whole files is bounded by CPU time in each
//! minute: without it, their code is that without rules. What is kept is bounded
//! by bytes.

mod builds;
mod cfi;
mod code;
mod expression;
mod file;
mod memory;
mod pages;
mod registers;
mod search;
mod step;
#[cfg(test)]
mod tests;
mod walk;

use profiler_abi::stack_end;

pub use self::{registers::Registers, walk::StackWalker};
use super::elf::ReadAt;

/// A stack to walk.
#[derive(Clone, Copy, Debug)]
pub struct CopiedStack<'a> {
    /// Of the first frame. Where all are known it was interrupted; else its
    /// program counter is a return address.
    pub registers: &'a Registers,
    /// The stack's bytes from the stack pointer on.
    pub memory: &'a [u8],
}

/// An executable mapping of the process at that time.
#[derive(Clone, Copy)]
pub struct Mapping<'a> {
    /// First address.
    pub start: u64,
    /// One past the last.
    pub end: u64,
    /// Offset of `start` in the file.
    pub offset: u64,
    /// What it maps.
    pub code: Code<'a>,
}

/// What an executable mapping maps.
#[derive(Clone, Copy)]
pub enum Code<'a> {
    /// A file.
    File {
        /// The same for the same contents, and never for others.
        id: u64,
        /// What it holds.
        file: &'a dyn ReadAt,
    },
    /// The kernel's code for system calls that need none.
    Vdso,
    /// Code made at run time.
    Jit,
}

/// The executable mappings of a process.
pub trait Mappings {
    /// The mapping that an address lies in.
    fn at(&self, address: u64) -> Option<Mapping<'_>>;
}

/// Sorted by address, without overlaps.
impl Mappings for [Mapping<'_>] {
    fn at(&self, address: u64) -> Option<Mapping<'_>> {
        let after = self.partition_point(|mapping| mapping.start <= address);
        let mapping = self.get(after.checked_sub(1)?)?;
        (address < mapping.end).then_some(*mapping)
    }
}

/// A stack that was walked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Walk {
    /// Leaf first. All but the first and those marked [`profiler_abi::INTERRUPTED`]
    /// are return addresses.
    pub frames: Vec<u64>,
    /// A [`stack_end`].
    pub end: u8,
    /// Whether the frame pointer was followed past code without rules.
    pub frame_pointers: bool,
}

/// Why a walk does not go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stop {
    Whole,
    FramePointers,
    Cut,
    Unreadable,
    NoRule,
    NoMapping,
    Unsupported,
    NoProgress,
}

impl Stop {
    const fn stack_end(self) -> u8 {
        match self {
            Self::Whole => stack_end::WHOLE,
            Self::FramePointers => stack_end::FRAME_POINTERS,
            Self::Cut => stack_end::CUT,
            Self::Unreadable => stack_end::UNREADABLE,
            Self::NoRule => stack_end::NO_RULE,
            Self::NoMapping => stack_end::NO_MAPPING,
            Self::Unsupported => stack_end::UNSUPPORTED,
            Self::NoProgress => stack_end::NO_PROGRESS,
        }
    }
}
