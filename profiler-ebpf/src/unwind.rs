//! Walking one stack. Events never see how it is done.

use core::ffi::c_void;

use aya_ebpf::{bindings::BPF_F_USER_STACK, helpers::bpf_get_stack};
use profiler_abi::{MAX_FRAMES, stack_end};

/// Result of a walk: `len` addresses were written, leaf first.
pub(crate) struct Walk {
    pub(crate) len: usize,
    pub(crate) end: u8,
}

const BYTES: u32 = (MAX_FRAMES * 8) as u32;

impl Walk {
    /// From the return value of the stack helpers: bytes written or an error.
    /// `whole` is how a walk ended that did not fail and was not cut. No bytes
    /// mean that there is no such part, as for the kernel part in user mode.
    #[inline(always)]
    pub(crate) fn from_bytes(bytes: i64, whole: u8) -> Self {
        if bytes < 0 {
            return Self {
                len: 0,
                end: stack_end::UNREADABLE,
            };
        }
        let len = bytes as usize / 8;
        if len == 0 {
            Self {
                len,
                end: stack_end::NONE,
            }
        } else if len >= MAX_FRAMES {
            Self {
                len: MAX_FRAMES,
                end: stack_end::CUT,
            }
        } else {
            Self { len, end: whole }
        }
    }
}

/// Walks the current task's user stack by frame pointers. Where the program
/// interrupted the kernel, the helper starts from the registers the task
/// entered the kernel with.
#[inline(always)]
pub(crate) fn user(ctx: *mut c_void, frames: *mut [u64; MAX_FRAMES]) -> Walk {
    // SAFETY: `frames` is BYTES long.
    let bytes = unsafe { bpf_get_stack(ctx, frames.cast(), BYTES, u64::from(BPF_F_USER_STACK)) };
    Walk::from_bytes(bytes, stack_end::FRAME_POINTERS)
}

/// Walks the current task's kernel stack with the kernel's own unwinder.
#[inline(always)]
pub(crate) fn kernel(ctx: *mut c_void, frames: *mut [u64; MAX_FRAMES]) -> Walk {
    // SAFETY: `frames` is BYTES long.
    let bytes = unsafe { bpf_get_stack(ctx, frames.cast(), BYTES, 0) };
    Walk::from_bytes(bytes, stack_end::WHOLE)
}
