//! Taking both parts of the current task's stack. A stack travels once, then
//! as its hash.

use core::ffi::c_void;

use aya_ebpf::{
    macros::map,
    maps::{Array, PerCpuArray},
};
use profiler_abi::{
    Counter, KIND_STACK, RecordHeader, STACK_RECORD_HEADER, STACK_WORDS, StackIds, StackRecord,
    stack_end, unwind_method,
};

use crate::{
    control::add_atomic,
    emit,
    task::Task,
    unwind::{self, Origin, Walk},
};

/// Where a stack is put together: one place per kind of program, because one
/// kind can interrupt another on the same CPU.
#[repr(u32)]
#[derive(Clone, Copy)]
pub(crate) enum Scratch {
    Cpu = 1,
    Offcpu = 2,
    IoStart = 3,
    IoIssue = 4,
}

#[map]
static STACK_SCRATCH: PerCpuArray<StackRecord> = PerCpuArray::with_max_entries(5, 0);

/// Slots of [`SENT`]. 2^15 stacks are more than a host shows in a capture, and
/// a slot that two stacks share only costs sending them again.
const SENT_SLOTS: u32 = 1 << 15;

/// The last stack sent in each slot. It is written after the stack is in the
/// ring buffer, so whoever finds it there comes after it in the ring buffer.
#[map]
static SENT: Array<u64> = Array::with_max_entries(SENT_SLOTS, 0);

/// Where a stack is put together.
#[inline(always)]
pub(crate) fn scratch(slot: u32) -> Option<*mut StackRecord> {
    STACK_SCRATCH.get_ptr_mut(slot)
}

/// Takes the current task's stack and sends the parts not sent before.
#[inline(always)]
pub(crate) fn capture(ctx: *mut c_void, origin: Origin, kind: Scratch, task: Task) -> StackIds {
    let mut ids = StackIds::default();
    let slot = kind as u32;
    let Some(record) = scratch(slot) else {
        return ids;
    };
    if task.is_kernel_thread() || !task.has_memory() {
        ids.user_end = stack_end::NONE;
    } else {
        capture_user(ctx, origin, slot, record, task, &mut ids);
    }
    let walk = unwind::kernel(ctx, record);
    (ids.kernel, ids.kernel_end) = send(slot, record, &walk);
    ids
}

/// What tables do not cover is left to userspace, with a copy of the stack;
/// where that has no room and nothing is known, frame pointers are followed.
#[inline(always)]
fn capture_user(
    ctx: *mut c_void,
    origin: Origin,
    slot: u32,
    record: *mut StackRecord,
    task: Task,
    ids: &mut StackIds,
) {
    let walk = unwind::user(origin, task, slot);
    (ids.user, ids.user_end) = send(slot, record, &walk);
    ids.user_method = walk.method;
    if !walk.wants_copy || ids.user_end == stack_end::LOST {
        return;
    }
    let copy = unwind::copy_stack(slot, ids.user);
    if copy != 0 {
        ids.user = copy;
        ids.user_end = stack_end::COPIED;
        ids.user_method = unwind_method::COPY;
    } else if walk.len == 0 {
        let walk = unwind::by_frame_pointers(ctx, record);
        (ids.user, ids.user_end) = send(slot, record, &walk);
        ids.user_method = walk.method;
    }
}

/// Sends the walked stack in `record` unless it was sent before. Returns its
/// id, 0 where there is none, and how it ended.
#[inline(always)]
fn send(slot: u32, record: *mut StackRecord, walk: &Walk) -> (u64, u8) {
    let words = walk.len + 2 * walk.runtime_len;
    if words == 0 {
        return (0, walk.end);
    }
    let id = stack_hash(slot, words as u32, walk.len as u32);
    let sent = SENT.get_ptr_mut(id as u32 & (SENT_SLOTS - 1));
    // SAFETY: aligned map memory; the only race is two CPUs sending a stack twice.
    if sent.is_some_and(|sent| unsafe { sent.read_volatile() } == id) {
        return (id, walk.end);
    }
    let size = STACK_RECORD_HEADER + words * 8;
    // SAFETY: as above.
    unsafe {
        (*record).header = RecordHeader {
            kind: KIND_STACK,
            size: size as u32,
        };
        (*record).id = id;
        (*record).len = walk.len as u32;
        (*record).runtime_len = walk.runtime_len as u32;
    }
    if !emit::stack(record, size) {
        add_atomic(Counter::StackLost, 1);
        return (0, stack_end::LOST);
    }
    if let Some(sent) = sent {
        // SAFETY: as above.
        unsafe { sent.write_volatile(id) };
    }
    (id, walk.end)
}

/// Hashes the first `words` of a scratch record: multiply and xorshift. 2^64
/// ids make a collision among a million stacks less likely than one in 10^7.
///
/// A function of its own to the verifier, and so verified once: in line, every
/// length of the loop multiplies the paths behind it.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn stack_hash(slot: u32, words: u32, len: u32) -> u64 {
    let Some(record) = scratch(slot) else {
        return 1;
    };
    let mut hash = 0x9e37_79b9_7f4a_7c15_u64 ^ u64::from(len);
    for i in 0..STACK_WORDS {
        if i >= words as usize {
            break;
        }
        // SAFETY: i < STACK_WORDS.
        hash = (hash ^ unsafe { (*record).frames[i] }).wrapping_mul(0xff51_afd7_ed55_8ccd);
        hash ^= hash >> 32;
    }
    if hash == 0 { 1 } else { hash }
}
