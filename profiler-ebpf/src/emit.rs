//! The one way out of the kernel. Every failure is counted by the caller's
//! named counter.

use aya_ebpf::{
    bindings::BPF_RB_NO_WAKEUP, helpers::bpf_ringbuf_output, macros::map, maps::RingBuf,
};
use profiler_abi::{Counter, StackRecord};

use crate::control::add_atomic;

/// Resized by the agent before loading.
#[map]
static EVENTS: RingBuf = RingBuf::with_byte_size(1 << 20, 0);

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

/// Sends a sample, or counts it in `lost`.
#[inline(always)]
pub(crate) fn sample<T>(sample: &T, lost: Counter) {
    if !output(core::ptr::from_ref(sample).cast(), size_of::<T>() as u64) {
        add_atomic(lost, 1);
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
