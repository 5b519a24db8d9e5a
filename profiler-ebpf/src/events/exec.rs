//! A process that calls `exec` has other code from then on.

use aya_ebpf::{bindings::task_struct, macros::btf_tracepoint, programs::BtfTracePointContext};

use crate::{task::Task, unwind};

/// `TP_PROTO(struct task_struct *p, pid_t old_pid, struct linux_binprm *bprm)`.
/// Runs when the new program is mapped, before it does.
#[btf_tracepoint(function = "sched_process_exec")]
pub fn sched_process_exec(ctx: BtfTracePointContext) -> i32 {
    let task = Task::from_argument(ctx.arg::<*const task_struct>(0));
    unwind::forget(task.tgid());
    0
}
