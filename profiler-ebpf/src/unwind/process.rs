//! Processes that have tables.

#[cfg(feature = "task-storage")]
use aya_ebpf::bindings::BPF_F_NO_PREALLOC;
use aya_ebpf::{macros::map, maps::HashMap};
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
        if entry.start_ns == task.leader().start_boottime_ns() && entry.check == entry.sum() {
            (*state).generation = entry.generation;
            (*state).mappings = entry.mappings;
            (*state).mapping_count = entry.mapping_count;
            (*state).runtime = entry.runtime;
        }
    }
}

/// A process has another program from now on. A failure means it was not known.
#[inline(always)]
pub(crate) fn forget(tgid: u32) {
    PROCESSES.remove(&tgid).ok();
}
