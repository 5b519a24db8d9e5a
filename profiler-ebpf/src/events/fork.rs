//! Follows the processes that a target forks.

use aya_ebpf::{bindings::task_struct, macros::btf_tracepoint, programs::BtfTracePointContext};
use aya_log_ebpf::debug;

use crate::{admit::follow_fork, task::Task};

/// `TP_PROTO(struct task_struct *parent, struct task_struct *child)`. Runs
/// before the child does. Not bound to an enabled session: children forked
/// while the other programs are being attached belong to the target too.
#[btf_tracepoint(function = "sched_process_fork")]
pub fn sched_process_fork(ctx: BtfTracePointContext) -> i32 {
    let parent = Task::from_argument(ctx.arg::<*const task_struct>(0));
    let child = Task::from_argument(ctx.arg::<*const task_struct>(1));
    if follow_fork(parent, child) {
        debug!(&ctx, "process {} forked {}", parent.tgid(), child.tgid());
    }
    0
}
