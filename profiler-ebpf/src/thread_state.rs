//! What the off-CPU event keeps per thread: in BPF task storage where the
//! kernel has it (Linux 5.11), else in a hash by thread id.

use profiler_abi::StackIds;

use crate::task::Task;

/// Nothing is known yet: the state has just been made.
pub(crate) const NEW: u64 = 0;
/// On a CPU.
pub(crate) const RUNNING: u64 = 1;
/// In a wait that began by giving up the CPU.
pub(crate) const BLOCKED: u64 = 2;
/// In a wait that began by losing the CPU.
pub(crate) const RUNNABLE: u64 = 3;

#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct ThreadState {
    /// One of the constants above.
    pub(crate) phase: u64,
    /// When that phase began.
    pub(crate) since_ns: u64,
    /// The kernel's run delay of the thread when it last left the CPU.
    pub(crate) run_delay_at_leave_ns: u64,
    /// The kernel's run time of the thread at the same moment. Some kernels do
    /// not show every switch: what it grew by tells how long the thread ran
    /// meanwhile.
    pub(crate) exec_runtime_ns: u64,
    /// Length of the last blocked wait, until it has been divided into blocked
    /// and runnable.
    pub(crate) unsettled_ns: u64,
    pub(crate) on_cpu_ns: u64,
    pub(crate) runnable_ns: u64,
    pub(crate) blocked_ns: u64,
    pub(crate) blocked_count: u64,
    pub(crate) runnable_count: u64,
    /// Only where stacks are taken at switch-out: mean length of the thread's
    /// waits, for the probability with which the next one is chosen.
    pub(crate) mean_wait_ns: u64,
    /// The same: probability in units of 2^-32 with which this wait was
    /// chosen, 0 where it was not.
    pub(crate) probability: u64,
    /// The same: its stack.
    pub(crate) stack: StackIds,
    /// Start of the thread, which tells it from another one with its id.
    #[cfg(not(feature = "task-storage"))]
    pub(crate) thread_start_ns: u64,
}

#[cfg(feature = "task-storage")]
mod storage {
    use core::ptr;

    use aya_ebpf::{
        bindings::{BPF_F_NO_PREALLOC, bpf_map_type::BPF_MAP_TYPE_TASK_STORAGE, task_struct},
        helpers::bpf_task_storage_get,
        macros::btf_map,
    };

    use super::{Task, ThreadState};

    /// `BPF_LOCAL_STORAGE_GET_F_CREATE` (include/uapi/linux/bpf.h).
    const CREATE: u64 = 1;

    /// A BTF map definition: pointers to arrays carry the numbers. aya-ebpf has
    /// no type for this kind of map.
    #[repr(C)]
    pub(crate) struct TaskStorage {
        r#type: *const [i32; BPF_MAP_TYPE_TASK_STORAGE as usize],
        key: *const i32,
        value: *const ThreadState,
        max_entries: *const [i32; 0],
        map_flags: *const [i32; BPF_F_NO_PREALLOC as usize],
    }

    // SAFETY: the pointers are null and never followed; the kernel sees a map.
    unsafe impl Sync for TaskStorage {}

    #[btf_map]
    static THREADS: TaskStorage = TaskStorage {
        r#type: ptr::null(),
        key: ptr::null(),
        value: ptr::null(),
        max_entries: ptr::null(),
        map_flags: ptr::null(),
    };

    #[inline(always)]
    fn lookup(task: Task, flags: u64) -> Option<&'static mut ThreadState> {
        let task: *mut task_struct = task.as_ptr();
        // SAFETY: the map holds ThreadStates; only the program that switches
        // the thread in or out, under its run queue's lock, changes one.
        unsafe {
            bpf_task_storage_get(
                (&raw const THREADS).cast_mut().cast(),
                task,
                ptr::null_mut(),
                flags,
            )
            .cast::<ThreadState>()
            .as_mut()
        }
    }

    pub(crate) fn get(task: Task) -> Option<&'static mut ThreadState> {
        lookup(task, 0)
    }

    #[inline(always)]
    pub(crate) fn get_or_create(task: Task) -> Option<&'static mut ThreadState> {
        lookup(task, CREATE)
    }

    /// The kernel frees task storage with the task.
    #[inline(always)]
    pub(crate) fn forget(_task: Task) {}
}

#[cfg(not(feature = "task-storage"))]
mod storage {
    use aya_ebpf::{bindings::BPF_NOEXIST, macros::map, maps::HashMap};
    use profiler_abi::StackIds;

    use super::{NEW, Task, ThreadState};

    /// Threads followed at once; more are counted as lost. Preallocated,
    /// because the scheduler cannot allocate.
    #[map]
    static THREADS: HashMap<u32, ThreadState> = HashMap::with_max_entries(16384, 0);

    #[inline(always)]
    fn new(thread_start_ns: u64) -> ThreadState {
        ThreadState {
            phase: NEW,
            since_ns: 0,
            run_delay_at_leave_ns: 0,
            exec_runtime_ns: 0,
            unsettled_ns: 0,
            on_cpu_ns: 0,
            runnable_ns: 0,
            blocked_ns: 0,
            blocked_count: 0,
            runnable_count: 0,
            mean_wait_ns: 0,
            probability: 0,
            stack: StackIds::default(),
            thread_start_ns,
        }
    }

    pub(crate) fn get(task: Task) -> Option<&'static mut ThreadState> {
        let state = THREADS.get_ptr_mut(&task.tid())?;
        // SAFETY: map memory; only the program that switches the thread in or
        // out, under its run queue's lock, changes it.
        let state = unsafe { &mut *state };
        (state.thread_start_ns == task.start_boottime_ns()).then_some(state)
    }

    #[inline(always)]
    pub(crate) fn get_or_create(task: Task) -> Option<&'static mut ThreadState> {
        let tid = task.tid();
        let thread_start_ns = task.start_boottime_ns();
        if THREADS.get_ptr_mut(&tid).is_none() {
            THREADS
                .insert(&tid, &new(thread_start_ns), u64::from(BPF_NOEXIST))
                .ok()?;
        }
        let state = THREADS.get_ptr_mut(&tid)?;
        // SAFETY: as in `get`.
        let state = unsafe { &mut *state };
        if state.thread_start_ns != thread_start_ns {
            *state = new(thread_start_ns);
        }
        Some(state)
    }

    /// Makes room for another thread. A failure means it was not there.
    #[inline(always)]
    pub(crate) fn forget(task: Task) {
        THREADS.remove(&task.tid()).ok();
    }
}

pub(crate) use storage::{forget, get, get_or_create};
