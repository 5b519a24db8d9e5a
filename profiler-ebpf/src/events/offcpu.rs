//! Off-CPU waits. `sched_switch` counts every wait of every target exactly and
//! chooses some of them in proportion to their length; a second program, run
//! where the chosen thread resumes, takes its stack, which is still the one it
//! slept with.

use core::ffi::c_void;

use aya_ebpf::{
    EbpfContext,
    bindings::task_struct,
    helpers::{bpf_get_prandom_u32, bpf_ktime_get_ns},
    macros::{btf_tracepoint, fentry, kprobe, map},
    maps::PerCpuArray,
    programs::{BtfTracePointContext, FEntryContext, ProbeContext},
};
use profiler_abi::{
    ChosenWait, Control, Counter, Identity, KIND_OFFCPU, OffcpuSample, RecordHeader, StackIds,
    stack_end,
};

use super::accounts;
use crate::{
    admit::{admit, follows_command},
    control::{add, count, offset, session},
    emit,
    stack::{self, Scratch},
    task::Task,
    thread_state::{self, BLOCKED, NEW, RUNNABLE, RUNNING, ThreadState},
    unwind::Origin,
};

#[map]
static CHOSEN: PerCpuArray<ChosenWait> = PerCpuArray::with_max_entries(1, 0);

/// [`ChosenWait::run_delay_before_ns`] of a wait that was runnable throughout.
const ALL_RUNNABLE: u64 = u64::MAX;

/// Units of a probability.
const ALWAYS: u64 = 1 << 32;

/// Steps of the probability of a wait whose stack is taken at switch-out.
const PROBABILITY_STEP: u64 = 1 << 22;

/// Least probability of a wait whose stack is taken at switch-out: bounds the
/// weight that a sudden long wait gets.
const LEAST_PROBABILITY: u64 = ALWAYS / 64;

/// `TP_PROTO(bool preempt, struct task_struct *prev, struct task_struct *next, ...)`
#[btf_tracepoint(function = "sched_switch")]
pub fn sched_switch(ctx: BtfTracePointContext) -> i32 {
    let Some(session) = session() else {
        return 0;
    };
    // SAFETY: a helper without arguments.
    let now = unsafe { bpf_ktime_get_ns() };
    let preempted = ctx.arg::<u64>(0) & 0xff != 0;
    let prev = Task::from_argument(ctx.arg::<*const task_struct>(1));
    let next = Task::from_argument(ctx.arg::<*const task_struct>(2));
    emit_left_over();
    leave(&ctx, prev, preempted, now, session);
    enter(next, now, session);
    0
}

/// `prev` leaves the CPU: closes its time on it.
#[inline(always)]
fn leave(ctx: &BtfTracePointContext, prev: Task, preempted: bool, now: u64, session: &Control) {
    if prev.tid() == 0 || !admit(prev) {
        return;
    }
    let Some(state) = thread_state::get_or_create(prev) else {
        // The wait that begins is counted as lost when it ends.
        return;
    };
    if state.phase == NEW {
        start(state, prev, RUNNING, session);
    }
    if state.phase != RUNNING {
        enter_unseen(prev, state, now, session);
    }
    settle(prev, state);
    state.on_cpu_ns += now.saturating_sub(state.since_ns);
    if prev.is_dead() {
        accounts::emit_last(prev, state, now, session);
        thread_state::forget(prev);
        return;
    }
    state.run_delay_at_leave_ns = prev.run_delay_ns();
    state.exec_runtime_ns = prev.exec_runtime_ns();
    state.since_ns = now;
    state.phase = if preempted || prev.state() == 0 {
        RUNNABLE
    } else {
        BLOCKED
    };
    // SAFETY: reads a constant.
    if unsafe { offset!(sample_at_switch_out) } == 1 {
        choose_at_leave(ctx.as_ptr(), prev, state, session);
    }
}

/// The first that is known of a thread.
#[inline(always)]
fn start(state: &mut ThreadState, task: Task, phase: u64, session: &Control) {
    state.phase = phase;
    state.since_ns = begin(task, session);
    state.run_delay_at_leave_ns = task.run_delay_ns();
    state.exec_runtime_ns = task.exec_runtime_ns();
}

/// How long a thread has run since its state last changed, of `open_ns`.
#[inline(always)]
pub(super) fn ran_meanwhile(task: Task, state: &ThreadState, open_ns: u64) -> u64 {
    task.exec_runtime_ns()
        .saturating_sub(state.exec_runtime_ns)
        .min(open_ns)
}

/// The thread waited and got the CPU, and the kernel did not show the latter.
/// Accounts for the wait; it has no stack any more.
#[inline(always)]
fn enter_unseen(task: Task, state: &mut ThreadState, now: u64, session: &Control) {
    let open_ns = now.saturating_sub(state.since_ns);
    let duration = open_ns - ran_meanwhile(task, state, open_ns);
    let phase = state.phase;
    let ended_ns = state.since_ns + duration;
    count(Counter::OffcpuObserved);
    account_wait(state, duration, ended_ns);
    match choose(duration, session.offcpu_threshold_ns) {
        Some(weight_ns) => {
            count(Counter::OffcpuCounted);
            let runnable_ns = if phase == RUNNABLE { duration } else { 0 };
            emit_sample(
                || task.identity(),
                ended_ns,
                lost_stack(),
                duration,
                runnable_ns,
                weight_ns,
            );
        }
        None => count(Counter::OffcpuUnsampled),
    }
}

/// Adds a wait that is over to the thread's account: the thread runs from now on.
#[inline(always)]
fn account_wait(state: &mut ThreadState, duration: u64, ended_ns: u64) {
    if state.phase == RUNNABLE {
        state.runnable_count += 1;
        state.runnable_ns += duration;
    } else {
        state.blocked_count += 1;
        state.unsettled_ns += duration;
    }
    state.since_ns = ended_ns;
    state.phase = RUNNING;
    add(Counter::OffcpuExactNs, duration);
}

/// When the session or the thread began, whichever is later.
#[inline(always)]
pub(super) fn begin(task: Task, session: &Control) -> u64 {
    session.session_start_ns.max(task.start_monotonic_ns())
}

/// Divides the last blocked wait: its end, in which the thread was runnable, is
/// what the kernel has added to the run delay since.
#[inline(always)]
pub(super) fn settle(task: Task, state: &mut ThreadState) {
    if state.unsettled_ns != 0 {
        let runnable = runnable_part(task, state.run_delay_at_leave_ns, state.unsettled_ns);
        state.runnable_ns += runnable;
        state.blocked_ns += state.unsettled_ns - runnable;
        state.unsettled_ns = 0;
    }
}

#[inline(always)]
fn runnable_part(task: Task, run_delay_before_ns: u64, wait_ns: u64) -> u64 {
    task.run_delay_ns()
        .saturating_sub(run_delay_before_ns)
        .min(wait_ns)
}

/// `next` gets the CPU: closes its wait.
#[inline(always)]
fn enter(next: Task, now: u64, session: &Control) {
    if next.tid() == 0 {
        return;
    }
    count(Counter::OffcpuObserved);
    if !admit(next) {
        count(Counter::OffcpuFiltered);
        return;
    }
    let Some(state) = thread_state::get_or_create(next) else {
        count(Counter::OffcpuCounted);
        count(Counter::OffcpuLostTracking);
        return;
    };
    let newborn = next.has_never_run();
    if state.phase == NEW && !newborn && follows_command() {
        // It was stopped for us until now, which is not its doing.
        start(state, next, RUNNING, session);
        state.since_ns = now;
        count(Counter::OffcpuFiltered);
        return;
    }
    if state.phase == NEW {
        start(
            state,
            next,
            if newborn { RUNNABLE } else { BLOCKED },
            session,
        );
    }
    let open_ns = now.saturating_sub(state.since_ns);
    let ran_ns = ran_meanwhile(next, state, open_ns);
    if state.phase == RUNNING || ran_ns != 0 {
        // The kernel did not show that it left the CPU, or a whole turn on it.
        // How the wait began is not known: the run delay tells what of it the
        // thread was runnable.
        state.on_cpu_ns += ran_ns;
        state.exec_runtime_ns += ran_ns;
        state.since_ns += ran_ns;
        state.phase = BLOCKED;
    }
    let phase = state.phase;
    let duration = now.saturating_sub(state.since_ns);
    account_wait(state, duration, now);
    // SAFETY: reads a constant.
    if unsafe { offset!(sample_at_switch_out) } == 1 {
        emit_chosen_at_leave(next, state, phase, now, duration);
        return;
    }
    let Some(weight_ns) = choose(duration, session.offcpu_threshold_ns) else {
        count(Counter::OffcpuUnsampled);
        return;
    };
    count(Counter::OffcpuCounted);
    let Some(slot) = CHOSEN.get_ptr_mut(0) else {
        return;
    };
    // SAFETY: per-CPU memory; interrupts are off in the scheduler.
    let chosen = unsafe { &mut *slot };
    chosen.identity = next.identity();
    chosen.ended_ns = now;
    chosen.duration_ns = duration;
    chosen.weight_ns = weight_ns;
    chosen.run_delay_before_ns = if phase == RUNNABLE {
        ALL_RUNNABLE
    } else {
        state.run_delay_at_leave_ns
    };
    if newborn {
        // Waited for its first CPU; it has no stack yet.
        emit_wait(chosen, duration, no_stack());
    } else {
        chosen.pending = 1;
    }
}

/// Samples in proportion to duration: a wait of `d` with probability
/// `min(1, d / threshold)`. Returns its weight where it is chosen.
#[inline(always)]
fn choose(duration_ns: u64, threshold_ns: u64) -> Option<u64> {
    if duration_ns >= threshold_ns {
        return Some(duration_ns);
    }
    // SAFETY: a helper without arguments. The threshold is below 2^32.
    let random = u64::from(unsafe { bpf_get_prandom_u32() });
    ((random * threshold_ns) >> 32 < duration_ns).then_some(threshold_ns)
}

fn no_stack() -> StackIds {
    StackIds {
        user_end: stack_end::NONE,
        kernel_end: stack_end::NONE,
        ..StackIds::default()
    }
}

fn lost_stack() -> StackIds {
    StackIds {
        user_end: stack_end::LOST,
        kernel_end: stack_end::LOST,
        ..StackIds::default()
    }
}

#[inline(always)]
fn emit_wait(wait: &ChosenWait, runnable_ns: u64, stack: StackIds) {
    emit_sample(
        || wait.identity,
        wait.ended_ns,
        stack,
        wait.duration_ns,
        runnable_ns,
        wait.weight_ns,
    );
}

/// A chosen wait whose thread was not seen to resume: it is delivered without
/// a stack.
#[inline(always)]
fn emit_left_over() {
    if let Some(slot) = CHOSEN.get_ptr_mut(0) {
        // SAFETY: per-CPU memory; interrupts are off in the scheduler.
        let chosen = unsafe { &mut *slot };
        if chosen.pending != 0 {
            chosen.pending = 0;
            let runnable_ns = if chosen.run_delay_before_ns == ALL_RUNNABLE {
                chosen.duration_ns
            } else {
                0
            };
            emit_wait(chosen, runnable_ns, lost_stack());
        }
    }
}

#[inline(always)]
fn emit_sample(
    identity: impl FnOnce() -> Identity,
    time_ns: u64,
    stack: StackIds,
    duration_ns: u64,
    runnable_ns: u64,
    weight_ns: u64,
) {
    emit::sample(Counter::OffcpuLostRing, || OffcpuSample {
        header: RecordHeader {
            kind: KIND_OFFCPU,
            size: size_of::<OffcpuSample>() as u32,
        },
        time_ns,
        identity: identity(),
        stack,
        duration_ns,
        runnable_ns,
        weight_ns,
    });
}

/// Runs in the resumed thread, on its own stack.
#[inline(always)]
fn resume(ctx: *mut c_void) {
    let Some(slot) = CHOSEN.get_ptr_mut(0) else {
        return;
    };
    // SAFETY: per-CPU memory, written by `enter` on this CPU just before.
    let chosen = unsafe { &mut *slot };
    if chosen.pending == 0 {
        return;
    }
    let task = Task::current();
    if task.tid() != chosen.identity.tid {
        return;
    }
    chosen.pending = 0;
    let runnable_ns = if chosen.run_delay_before_ns == ALL_RUNNABLE {
        chosen.duration_ns
    } else {
        runnable_part(task, chosen.run_delay_before_ns, chosen.duration_ns)
    };
    let stack = stack::capture(ctx, Origin::Kernel, Scratch::Offcpu, task);
    emit_wait(chosen, runnable_ns, stack);
}

/// `TP_PROTO(bool is_switch)`, Linux 6.16: the end of `__schedule`.
#[btf_tracepoint(function = "sched_exit_tp")]
pub fn offcpu_resume_tp(ctx: BtfTracePointContext) -> i32 {
    resume(ctx.as_ptr());
    0
}

/// `finish_task_switch(struct task_struct *prev)`, which the resumed thread calls.
#[fentry(function = "finish_task_switch")]
pub fn offcpu_resume_fentry(ctx: FEntryContext) -> i32 {
    resume(ctx.as_ptr());
    0
}

/// The same by kprobe.
#[kprobe]
pub fn offcpu_resume_kprobe(ctx: ProbeContext) -> u32 {
    resume(ctx.as_ptr());
    0
}

/// Where nothing runs at the resume: takes the stack of the wait that begins,
/// with a probability that the thread's earlier waits suggest.
#[inline(always)]
fn choose_at_leave(ctx: *mut c_void, prev: Task, state: &mut ThreadState, session: &Control) {
    let probability =
        if state.mean_wait_ns == 0 || state.mean_wait_ns >= session.offcpu_threshold_ns {
            ALWAYS
        } else {
            // In steps that the weight can be computed with exactly.
            let exact = (state.mean_wait_ns << 32) / session.offcpu_threshold_ns.max(1);
            (exact & !(PROBABILITY_STEP - 1)).max(LEAST_PROBABILITY)
        };
    // SAFETY: a helper without arguments.
    state.probability = if u64::from(unsafe { bpf_get_prandom_u32() }) < probability {
        state.stack = stack::capture(ctx, Origin::Kernel, Scratch::Offcpu, prev);
        probability
    } else {
        0
    };
}

/// The end of a wait whose stack was, or was not, taken when it began. Its
/// runnable end cannot be told yet: a blocked wait counts as blocked whole.
#[inline(always)]
fn emit_chosen_at_leave(next: Task, state: &mut ThreadState, phase: u64, now: u64, duration: u64) {
    let probability = state.probability;
    state.probability = 0;
    state.mean_wait_ns = if state.mean_wait_ns == 0 {
        duration.max(1)
    } else {
        (state.mean_wait_ns * 7 + duration) / 8
    };
    if probability == 0 {
        count(Counter::OffcpuUnsampled);
        return;
    }
    count(Counter::OffcpuCounted);
    // 2^54 ns, half a year, do not overflow.
    let weight_ns =
        duration * (ALWAYS / PROBABILITY_STEP) / (probability / PROBABILITY_STEP).max(1);
    let runnable_ns = if phase == RUNNABLE { duration } else { 0 };
    emit_sample(
        || next.identity(),
        now,
        state.stack,
        duration,
        runnable_ns,
        weight_ns,
    );
}
