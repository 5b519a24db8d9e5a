//! Walking one stack. Events never see how it is done.
//!
//! A user stack is walked by the tables the agent has loaded. What they do not
//! cover is left to the agent, with a copy of the stack ([`copy`]).

mod cache;
mod copy;
mod frames;
mod heap;
mod lookup;
mod process;
mod registers;
mod state;

use core::ffi::c_void;

use aya_ebpf::{bindings::BPF_F_USER_STACK, helpers::bpf_get_stack};
use profiler_abi::{MAX_FRAMES, MAX_USER_FRAMES, StackRecord, stack_end, unwind_method};

use self::{frames::FRAMES_PER_CALL, state::State};
use crate::{runtimes, task::Task};

pub(crate) use self::{copy::copy_stack, heap::Place, registers::Origin, state::SLOTS};

/// Result of a walk: `len` addresses were written, leaf first.
pub(crate) struct Walk {
    pub(crate) len: usize,
    pub(crate) end: u8,
    /// An `unwind_method`.
    pub(crate) method: u8,
    /// Frames of an interpreter behind the addresses.
    pub(crate) runtime_len: usize,
    /// Userspace could go on, from a copy of the stack.
    pub(crate) wants_copy: bool,
}

const BYTES: u32 = (MAX_FRAMES * 8) as u32;

impl Walk {
    #[inline(always)]
    fn nothing(end: u8) -> Self {
        Self {
            len: 0,
            end,
            method: unwind_method::NONE,
            runtime_len: 0,
            wants_copy: false,
        }
    }

    /// From the return value of the stack helpers: bytes written or an error.
    /// `whole` is how a walk ended that did not fail and was not cut. No bytes
    /// mean that there is no such part, as for the kernel part in user mode.
    #[inline(always)]
    pub(crate) fn from_bytes(bytes: i64, whole: u8) -> Self {
        if bytes < 0 {
            return Self::nothing(stack_end::UNREADABLE);
        }
        let len = bytes as usize / 8;
        if len == 0 {
            Self::nothing(stack_end::NONE)
        } else if len >= MAX_FRAMES {
            Self {
                len: MAX_FRAMES,
                ..Self::nothing(stack_end::CUT)
            }
        } else {
            Self {
                len,
                ..Self::nothing(whole)
            }
        }
    }
}

/// Walks the current task's user stack into `record` by tables, as far as they
/// lead.
#[inline(always)]
pub(crate) fn user(origin: Origin, task: Task, slot: u32) -> Walk {
    let Some(state) = State::of(slot) else {
        return Walk::nothing(stack_end::UNREADABLE);
    };
    // SAFETY: per-CPU memory that only this kind of program uses.
    unsafe {
        let end = registers::load(origin, task, slot, state);
        if end != stack_end::WHOLE {
            return Walk::nothing(end);
        }
        process::load(task, state);
        for _ in 0..=MAX_USER_FRAMES as u32 / FRAMES_PER_CALL {
            if frames::unwind_frames(slot) == 0 {
                break;
            }
        }
        let mut runtime_len = 0;
        // What userspace goes on with may run an interpreter's code; then its
        // frames are gone.
        let may_run = (*state).runtime_seen != 0 || (*state).wants_copy != 0;
        if may_run && (*state).runtime != 0 {
            runtime_len = runtimes::walk(slot, (*state).len, (*state).runtime) as usize;
        }
        Walk {
            len: (*state).len as usize,
            end: (*state).end as u8,
            method: State::method(state),
            runtime_len,
            wants_copy: (*state).wants_copy != 0,
        }
    }
}

/// Follows frame pointers with the kernel's own helper. Where the program
/// interrupted the kernel, it starts from the registers the task entered the
/// kernel with.
#[inline(always)]
pub(crate) fn by_frame_pointers(ctx: *mut c_void, record: *mut StackRecord) -> Walk {
    // SAFETY: the frames are longer than BYTES.
    let bytes = unsafe {
        bpf_get_stack(
            ctx,
            (&raw mut (*record).frames).cast(),
            BYTES,
            u64::from(BPF_F_USER_STACK),
        )
    };
    Walk {
        method: unwind_method::FRAME_POINTERS,
        ..Walk::from_bytes(bytes, stack_end::NO_TABLE)
    }
}

/// Walks the current task's kernel stack with the kernel's own unwinder.
#[inline(always)]
pub(crate) fn kernel(ctx: *mut c_void, record: *mut StackRecord) -> Walk {
    // SAFETY: the frames are longer than BYTES.
    let bytes = unsafe { bpf_get_stack(ctx, (&raw mut (*record).frames).cast(), BYTES, 0) };
    Walk::from_bytes(bytes, stack_end::WHOLE)
}
