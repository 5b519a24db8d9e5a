//! The one way out of the kernel. Every failure is counted by the caller's
//! named counter.

use aya_ebpf::{
    bindings::BPF_RB_NO_WAKEUP,
    helpers::{bpf_ringbuf_output, bpf_ringbuf_reserve, bpf_ringbuf_submit},
    macros::map,
    maps::RingBuf,
};
use profiler_abi::{Counter, StackCopy, StackRecord, python::CodeRecord};

use crate::control::add_atomic;

/// Resized by the agent before loading.
#[map]
static EVENTS: RingBuf = RingBuf::with_byte_size(1 << 20, 0);

/// A ring of their own for copies of stacks, so that a burst of them costs no
/// sample. Resized by the agent before loading.
#[map]
static COPIES: RingBuf = RingBuf::with_byte_size(1 << 22, 0);

/// No wake-up per record: the agent reads on a timer, which costs the
/// measured program nothing.
const FLAGS: u64 = BPF_RB_NO_WAKEUP as u64;

#[inline(always)]
fn output(data: *const u8, size: u64) -> bool {
    // SAFETY: the callers' pointers are valid for `size` bytes.
    unsafe {
        bpf_ringbuf_output(
            (&raw const EVENTS).cast_mut().cast(),
            data.cast_mut().cast(),
            size,
            FLAGS,
        ) == 0
    }
}

/// Sends what `make` makes, in its place in the ring buffer: programs have
/// little stack. Where there is no room it is not made, but counted in `lost`.
#[inline(always)]
pub(crate) fn sample<T>(lost: Counter, make: impl FnOnce() -> T) {
    sample_in_place(lost, |room: *mut T| {
        // SAFETY: `room` has room for a T.
        unsafe { room.write(make()) }
    });
}

/// The same for what is written field by field.
#[inline(always)]
pub(crate) fn sample_in_place<T>(lost: Counter, write: impl FnOnce(*mut T)) {
    // SAFETY: the ring buffer lives as long as the program; what is reserved
    // has room for a T, and is submitted.
    unsafe {
        let room = bpf_ringbuf_reserve(
            (&raw const EVENTS).cast_mut().cast(),
            size_of::<T>() as u64,
            0,
        )
        .cast::<T>();
        if room.is_null() {
            add_atomic(lost, 1);
            return;
        }
        write(room);
        bpf_ringbuf_submit(room.cast(), FLAGS);
    }
}

/// Sends the first `size` bytes of a stack. Returns whether there was room.
#[inline(always)]
pub(crate) fn stack(record: *const StackRecord, size: usize) -> bool {
    let size = if size > size_of::<StackRecord>() {
        size_of::<StackRecord>()
    } else {
        size
    };
    output(record.cast(), size as u64)
}

/// Sends the first `size` bytes of a code object. Returns whether there was room.
#[inline(always)]
pub(crate) fn code(record: *const CodeRecord, size: usize) -> bool {
    let size = if size > size_of::<CodeRecord>() {
        size_of::<CodeRecord>()
    } else {
        size
    };
    output(record.cast(), size as u64)
}

/// Room for a copy of a stack, or nothing, counted as lost. Must be given back
/// with [`submit_copy`].
#[inline(always)]
pub(crate) fn reserve_copy() -> Option<*mut StackCopy> {
    // SAFETY: the ring buffer lives as long as the program.
    let copy = unsafe {
        bpf_ringbuf_reserve(
            (&raw const COPIES).cast_mut().cast(),
            size_of::<StackCopy>() as u64,
            0,
        )
    };
    if copy.is_null() {
        add_atomic(Counter::CopyLost, 1);
        return None;
    }
    Some(copy.cast())
}

/// Sends a copy.
///
/// # Safety
/// `copy` must come from [`reserve_copy`].
#[inline(always)]
pub(crate) unsafe fn submit_copy(copy: *mut StackCopy) {
    // SAFETY: the caller's promise.
    unsafe { bpf_ringbuf_submit(copy.cast(), FLAGS) }
}
