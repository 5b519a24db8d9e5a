//! Processes that have tables.

#[cfg(feature = "task-storage")]
use aya_ebpf::bindings::BPF_F_NO_PREALLOC;
use aya_ebpf::{
    bindings::task_struct,
    macros::{btf_tracepoint, map},
    maps::HashMap,
    programs::BtfTracePointContext,
};
use profiler_abi::unwind::{MAX_PROCESSES, ProcessEntry};

use super::state::State;
use crate::task::Task;

/// Without preallocation, which perf events need before Linux 6.1 ("perf_event
/// programs can only use preallocated hash map").
#[cfg(feature = "task-storage")]
const FLAGS: u32 = BPF_F_NO_PREALLOC;
#[cfg(not(feature = "task-storage"))]
const FLAGS: u32 = 0;

#[map]
static PROCESSES: HashMap<u32, ProcessEntry> = HashMap::with_max_entries(MAX_PROCESSES, FLAGS);

/// Puts what is known of the task's process into the state; nothing, where it
/// is not known: then no address lies in a mapping.
///
/// # Safety
/// `state` must come from [`State::of`].
#[inline(always)]
pub(crate) unsafe fn load(task: Task, state: *mut State) {
    let entry = PROCESSES.get_ptr(&task.tgid());
    // SAFETY: map memory; see PROCESSES. The state is the caller's promise.
    unsafe {
        (*state).generation = 0;
        (*state).mapping_count = 0;
        (*state).runtime = 0;
        let Some(entry) = entry else {
            return;
        };
        let entry = entry.read_volatile();
        let is_meant =
            entry.exec_id == task.exec_id() && entry.start_ns == task.leader().start_boottime_ns();
        if is_meant && entry.check == entry.sum() {
            (*state).generation = entry.generation;
            (*state).mappings = entry.mappings;
            (*state).mapping_count = entry.mapping_count;
            (*state).runtime = entry.runtime;
        }
    }
}

/// `TP_PROTO(struct task_struct *p, pid_t old_pid, struct linux_binprm *bprm)`.
/// Runs when the new program is mapped, before it does: what was known of the
/// process is over, unless it is of the new program already. A failure means
/// that nothing was.
#[btf_tracepoint(function = "sched_process_exec")]
pub fn sched_process_exec(ctx: BtfTracePointContext) -> i32 {
    let task = Task::from_argument(ctx.arg::<*const task_struct>(0));
    let tgid = task.tgid();
    if let Some(entry) = PROCESSES.get_ptr(&tgid)
        // SAFETY: map memory.
        && unsafe { (*entry).exec_id } != task.exec_id()
    {
        PROCESSES.remove(&tgid).ok();
    }
    0
}
