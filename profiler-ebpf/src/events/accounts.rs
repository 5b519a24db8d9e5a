//! The exact times of a thread: when it dies, and for all at the end.

use aya_ebpf::{
    bindings::{seq_file, task_struct},
    helpers::{bpf_get_task_stack, bpf_seq_write},
    macros::map,
    maps::PerCpuArray,
};
use profiler_abi::{
    Control, Counter, KIND_ACCOUNT, MAX_FRAMES, RecordHeader, ThreadAccount, stack_end,
};

use super::offcpu::{begin, ran_meanwhile, settle};
use crate::{
    admit::admit,
    control, emit,
    task::Task,
    thread_state::{self, BLOCKED, NEW, RUNNING, ThreadState},
    unwind::Walk,
};

/// The scheduler's clock leaves interrupts out: by how much it may fall
/// behind ours while a thread runs.
const CLOCK_DIFFERENCE_NS: u64 = 1_000_000;

#[map]
static ACCOUNT_SCRATCH: PerCpuArray<[u64; MAX_FRAMES]> = PerCpuArray::with_max_entries(1, 0);

/// Sends the account of a thread that leaves the CPU for the last time.
#[inline(always)]
pub(super) fn emit_last(task: Task, state: &ThreadState, now: u64, session: &Control) {
    emit::sample_in_place(Counter::OffcpuLostAccount, |account: *mut ThreadAccount| {
        // SAFETY: the account is written before its times are.
        unsafe {
            account.write(fill(task, now, session));
            take_times(account, state);
            (*account).has_run = 1;
        }
    });
}

/// # Safety
/// `account` must point to an account.
#[inline(always)]
unsafe fn take_times(account: *mut ThreadAccount, state: &ThreadState) {
    // SAFETY: the caller's promise.
    unsafe {
        (*account).on_cpu_ns = state.on_cpu_ns;
        (*account).runnable_ns = state.runnable_ns;
        (*account).blocked_ns = state.blocked_ns;
        (*account).blocked_count = state.blocked_count;
        (*account).runnable_count = state.runnable_count;
    }
}

/// An account with nothing in it yet.
#[inline(always)]
fn fill(task: Task, now: u64, session: &Control) -> ThreadAccount {
    ThreadAccount {
        header: RecordHeader {
            kind: KIND_ACCOUNT,
            size: size_of::<ThreadAccount>() as u32,
        },
        time_ns: now,
        identity: task.identity(),
        on_cpu_ns: 0,
        runnable_ns: 0,
        blocked_ns: 0,
        blocked_count: 0,
        runnable_count: 0,
        wall_ns: now.saturating_sub(begin(task, session)),
        unfinished_ns: 0,
        unfinished_runnable: 0,
        has_run: 0,
        kernel_frames: 0,
        kernel_end: u32::from(stack_end::NONE),
    }
}

/// `struct bpf_iter_meta` and `struct bpf_iter__task` (include/linux/bpf.h).
#[repr(C)]
pub struct IterMeta {
    seq: *mut seq_file,
    session_id: u64,
    seq_num: u64,
}

/// Context of a task iterator.
#[repr(C)]
pub struct IterTask {
    meta: *mut IterMeta,
    task: *const task_struct,
}

/// Writes the account of every target, once the session is over: programs
/// are disabled, so nothing changes any more. aya-ebpf has no macro for
/// iterators.
///
/// # Safety
/// Called by the kernel, with its context.
#[unsafe(no_mangle)]
#[unsafe(link_section = "iter/task")]
pub unsafe extern "C" fn thread_accounts(ctx: *mut IterTask) -> i32 {
    // SAFETY: the verifier knows the context.
    let (seq, pointer) = unsafe { ((*(*ctx).meta).seq, (*ctx).task) };
    if pointer.is_null() {
        return 0;
    }
    let task = Task::from_argument(pointer);
    let Some(session) = control::ended_session() else {
        return 0;
    };
    if task.is_dead() || !admit(task) {
        return 0;
    }
    let now = session.session_end_ns;
    let mut account = fill(task, now, session);
    let on_cpu = task.is_on_cpu();
    let mut phase = if on_cpu { RUNNING } else { BLOCKED };
    let mut open_ns = now.saturating_sub(begin(task, session));
    if let Some(state) = thread_state::get(task)
        && state.phase != NEW
    {
        settle(task, state);
        // SAFETY: the account is this function's own.
        unsafe { take_times(&raw mut account, state) };
        account.has_run = u32::from(state.on_cpu_ns != 0);
        phase = state.phase;
        open_ns = now.saturating_sub(state.since_ns);
        if on_cpu != (phase == RUNNING) {
            // The last switch was not shown, or came after the end.
            let ran_ns = ran_meanwhile(task, state, open_ns);
            account.on_cpu_ns += ran_ns;
            account.has_run = 1;
            open_ns -= ran_ns;
            if !on_cpu && open_ns > CLOCK_DIFFERENCE_NS {
                phase = BLOCKED;
            }
        }
    }
    if phase == RUNNING {
        account.on_cpu_ns += open_ns;
        account.has_run = 1;
    } else {
        account.unfinished_ns = open_ns;
        // Where it has been woken meanwhile, how long ago is not known; most
        // of a wait is what it began as.
        account.unfinished_runnable = u32::from(phase != BLOCKED);
    }
    write(seq, task, &mut account);
    0
}

/// Writes the account and, for a thread that waits, its kernel stack. Where
/// the buffer is full the kernel calls again with an empty one.
#[inline(always)]
fn write(seq: *mut seq_file, task: Task, account: &mut ThreadAccount) {
    let Some(frames) = ACCOUNT_SCRATCH.get_ptr_mut(0) else {
        return;
    };
    let mut bytes = 0;
    if account.unfinished_ns != 0 {
        // SAFETY: `frames` is as long as said.
        let walked =
            unsafe { bpf_get_task_stack(task.as_ptr(), frames.cast(), (MAX_FRAMES * 8) as u32, 0) };
        let walk = Walk::from_bytes(walked, stack_end::WHOLE);
        account.kernel_frames = walk.len as u32;
        account.kernel_end = u32::from(walk.end);
        bytes = walk.len * 8;
        account.header.size += bytes as u32;
    }
    // SAFETY: reads a local. Volatile, so that the compiler keeps the check
    // below, which it knows to be true and the verifier of 5.10 does not.
    let bytes = unsafe { (&raw const bytes).read_volatile() };
    // SAFETY: both sources are valid for the sizes given. A full buffer is
    // the kernel's to handle: it remembers the overflow in `seq`.
    unsafe {
        bpf_seq_write(
            seq,
            core::ptr::from_mut(account).cast(),
            size_of::<ThreadAccount>() as u32,
        );
        if bytes <= MAX_FRAMES * 8 {
            bpf_seq_write(seq, frames.cast(), bytes as u32);
        }
    }
}
