//! What a walk knows at each frame.

use aya_ebpf::{macros::map, maps::PerCpuArray};
use profiler_abi::{REGISTERS, unwind::HeapRef, unwind_method};

use super::registers::{FRAME_POINTER, PROGRAM_COUNTER, STACK_POINTER};

/// Kinds of program that walk stacks, of [`crate::stack::Scratch`].
pub(crate) const SLOTS: u32 = 5;

/// A walk. In memory, not in registers: the verifier forgets what it knew of
/// it from frame to frame, so that every frame looks the same to it.
#[repr(C)]
pub(crate) struct State {
    pub(crate) pc: u64,
    pub(crate) sp: u64,
    pub(crate) fp: u64,
    /// Registers by DWARF number, of the last frame whose registers are all
    /// known: the leaf, or one that a signal interrupted.
    pub(crate) registers: [u64; REGISTERS],
    /// Process entry.
    pub(crate) generation: u64,
    pub(crate) mappings: HeapRef,
    pub(crate) mapping_count: u32,
    /// The mapping met last.
    pub(crate) map_start: u64,
    pub(crate) map_end: u64,
    pub(crate) map_bias: u64,
    pub(crate) map_table: HeapRef,
    pub(crate) map_kind: u32,
    /// The rule found last, as it lies in the table.
    pub(crate) rule: [u64; 2],
    /// It is this frame's.
    pub(crate) has_rule: u32,
    /// Named padding.
    pub(crate) pad: u32,
    /// Of the process entry.
    pub(crate) runtime: HeapRef,
    /// An interpreter's function was met.
    pub(crate) runtime_seen: u32,
    /// Addresses written.
    pub(crate) len: u32,
    /// `pc` is where this frame was interrupted, and `registers` are this
    /// frame's; else it is a return address.
    pub(crate) exact: u32,
    /// Addresses written when that was last so.
    pub(crate) exact_len: u32,
    /// A `stack_end`, once the walk has ended.
    pub(crate) end: u32,
    /// Userspace could go on from here.
    pub(crate) wants_copy: u32,
    /// Frames walked by frame pointer.
    pub(crate) by_frame_pointer: u32,
    /// The last frame was: what it led to need not be a frame.
    pub(crate) guessed: u32,
}

#[map]
static WALKS: PerCpuArray<State> = PerCpuArray::with_max_entries(SLOTS, 0);

impl State {
    #[inline(always)]
    pub(crate) fn of(slot: u32) -> Option<*mut Self> {
        WALKS.get_ptr_mut(slot)
    }

    /// Ends the walk here.
    ///
    /// # Safety
    /// `state` must come from [`Self::of`].
    #[inline(always)]
    pub(crate) unsafe fn stop(state: *mut Self, end: u8) -> bool {
        // SAFETY: the caller's promise.
        unsafe { (*state).end = u32::from(end) };
        false
    }

    /// Ends the walk here; userspace may know how to go on.
    ///
    /// # Safety
    /// As [`Self::stop`].
    #[inline(always)]
    pub(crate) unsafe fn hand_over(state: *mut Self, end: u8) -> bool {
        // SAFETY: the caller's promise.
        unsafe {
            (*state).wants_copy = 1;
            Self::stop(state, end)
        }
    }

    /// Ends the walk here. Userspace may know how to go on from the last frame
    /// whose registers are all known, whose callers are given up.
    ///
    /// # Safety
    /// As [`Self::stop`].
    #[inline(always)]
    pub(crate) unsafe fn hand_over_all(state: *mut Self, end: u8) -> bool {
        // SAFETY: the caller's promise.
        unsafe {
            (*state).len = (*state).exact_len;
            (*state).exact = 1;
            (*state).pc = (*state).registers[PROGRAM_COUNTER];
            (*state).sp = (*state).registers[STACK_POINTER];
            (*state).fp = (*state).registers[FRAME_POINTER];
            Self::hand_over(state, end)
        }
    }

    /// An `unwind_method`.
    ///
    /// # Safety
    /// As [`Self::stop`].
    #[inline(always)]
    pub(crate) unsafe fn method(state: *mut Self) -> u8 {
        // SAFETY: the caller's promise.
        unsafe {
            if (*state).len == 0 {
                unwind_method::NONE
            } else if (*state).by_frame_pointer == 0 {
                unwind_method::TABLES
            } else {
                unwind_method::MIXED
            }
        }
    }
}
