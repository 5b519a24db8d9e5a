//! Reading `task_struct`.

use aya_ebpf::{
    bindings::task_struct,
    helpers::{bpf_get_current_task, bpf_get_current_task_btf, bpf_probe_read_kernel, generated},
};
use profiler_abi::Identity;

use crate::control::offset;

/// `PF_KTHREAD` in `task_struct.flags` (include/linux/sched.h).
const PF_KTHREAD: u32 = 0x0020_0000;

/// `TASK_DEAD` (include/linux/sched.h, this number since Linux 4.14).
const TASK_DEAD: u32 = 0x80;

/// A task of the running kernel.
#[derive(Clone, Copy)]
pub(crate) struct Task {
    pointer: *const u8,
    /// The verifier knows the pointer's type, so fields load like memory.
    typed: bool,
}

impl Task {
    /// The task this program runs in.
    #[inline(always)]
    pub(crate) fn current() -> Self {
        // SAFETY: reads a constant; the helper that the kernel lacks is behind
        // a constant that is 0 there, so the verifier drops the call.
        unsafe {
            if offset!(has_task_btf) == 1 {
                Self {
                    pointer: bpf_get_current_task_btf().cast(),
                    typed: true,
                }
            } else {
                Self {
                    pointer: bpf_get_current_task() as *const u8,
                    typed: false,
                }
            }
        }
    }

    /// A task that a BTF tracepoint or iterator handed over.
    #[inline(always)]
    pub(crate) fn from_argument(pointer: *const task_struct) -> Self {
        Self {
            pointer: pointer.cast(),
            typed: true,
        }
    }

    #[inline(always)]
    pub(crate) fn as_ptr(self) -> *mut task_struct {
        self.pointer.cast_mut().cast()
    }

    /// The field at `offset`, 0 where it cannot be read.
    #[inline(always)]
    fn read<T: Copy + Default>(self, offset: u64) -> T {
        // SAFETY: a typed pointer is valid or the load is fault-handled by the
        // kernel; the helper checks an untyped one.
        unsafe {
            let field = self.pointer.add(offset as usize).cast::<T>();
            if self.typed {
                field.read_volatile()
            } else {
                bpf_probe_read_kernel(field).unwrap_or_default()
            }
        }
    }

    #[inline(always)]
    pub(crate) fn tid(self) -> u32 {
        // SAFETY: reads a constant.
        self.read(unsafe { offset!(task_pid) })
    }

    #[inline(always)]
    pub(crate) fn tgid(self) -> u32 {
        // SAFETY: reads a constant.
        self.read(unsafe { offset!(task_tgid) })
    }

    /// Whether it leaves the CPU for the last time.
    #[inline(always)]
    pub(crate) fn is_dead(self) -> bool {
        self.state() & TASK_DEAD != 0
    }

    /// Low 32 bits of the state; 0 is running or runnable.
    #[inline(always)]
    pub(crate) fn state(self) -> u32 {
        // SAFETY: reads a constant.
        self.read(unsafe { offset!(task_state) })
    }

    /// Whether a CPU runs the task at this moment.
    #[inline(always)]
    pub(crate) fn is_on_cpu(self) -> bool {
        // An int until Linux 7, then a byte; its low byte serves both.
        // SAFETY: reads a constant.
        self.read::<u8>(unsafe { offset!(task_on_cpu) }) != 0
    }

    /// Lowest address of its kernel stack.
    #[inline(always)]
    pub(crate) fn stack(self) -> u64 {
        // SAFETY: reads a constant.
        self.read(unsafe { offset!(task_stack) })
    }

    /// The register that leads to a thread's own memory, where the C library
    /// has left it as the kernel set it.
    #[inline(always)]
    pub(crate) fn thread_pointer(self) -> u64 {
        // SAFETY: reads a constant.
        self.read(unsafe { offset!(task_thread_pointer) })
    }

    /// Whether it still has memory: a task that exits gives it up, and its stack
    /// with it. A kernel thread may borrow some.
    #[inline(always)]
    pub(crate) fn has_memory(self) -> bool {
        // SAFETY: reads a constant.
        self.read::<u64>(unsafe { offset!(task_mm) }) != 0
    }

    /// Grows with every exec.
    #[inline(always)]
    pub(crate) fn exec_id(self) -> u64 {
        // SAFETY: reads a constant.
        self.read(unsafe { offset!(task_self_exec_id) })
    }

    /// Whether it is replacing its program.
    #[inline(always)]
    pub(crate) fn is_executing(self) -> bool {
        // SAFETY: reads constants.
        let (byte, mask) = unsafe { (offset!(task_in_execve), offset!(task_in_execve_mask)) };
        u64::from(self.read::<u8>(byte)) & mask != 0
    }

    #[inline(always)]
    pub(crate) fn is_kernel_thread(self) -> bool {
        // SAFETY: reads a constant.
        self.read::<u32>(unsafe { offset!(task_flags) }) & PF_KTHREAD != 0
    }

    /// CLOCK_MONOTONIC.
    #[inline(always)]
    pub(crate) fn start_monotonic_ns(self) -> u64 {
        // SAFETY: reads a constant.
        self.read(unsafe { offset!(task_start_time) })
    }

    /// CLOCK_BOOTTIME.
    #[inline(always)]
    pub(crate) fn start_boottime_ns(self) -> u64 {
        // SAFETY: reads a constant.
        self.read(unsafe { offset!(task_start_boottime) })
    }

    /// All time the task has ever been runnable without a CPU. The kernel adds
    /// to it when the task gets one, after `sched_switch` has fired.
    #[inline(always)]
    pub(crate) fn run_delay_ns(self) -> u64 {
        // SAFETY: reads a constant.
        self.read(unsafe { offset!(task_run_delay) })
    }

    /// Whether it is about to run for the first time.
    #[inline(always)]
    pub(crate) fn has_never_run(self) -> bool {
        // SAFETY: reads a constant.
        self.read::<u64>(unsafe { offset!(task_pcount) }) == 0
    }

    /// All time the task has run, as the scheduler counts it: up to date when
    /// `sched_switch` fires.
    #[inline(always)]
    pub(crate) fn exec_runtime_ns(self) -> u64 {
        // SAFETY: reads a constant.
        self.read(unsafe { offset!(task_exec_runtime) })
    }

    #[inline(always)]
    pub(crate) fn leader(self) -> Self {
        // SAFETY: reads a constant.
        self.task_at(unsafe { offset!(task_group_leader) })
    }

    /// The task that started this one, or that took it over.
    #[inline(always)]
    fn parent(self) -> Self {
        // SAFETY: reads a constant.
        self.task_at(unsafe { offset!(task_real_parent) })
    }

    /// The task that the pointer at `offset` leads to. The verifier follows
    /// pointers from a typed one.
    #[inline(always)]
    fn task_at(self, offset: u64) -> Self {
        let pointer: u64 = self.read(offset);
        Self {
            pointer: pointer as *const u8,
            typed: self.typed,
        }
    }

    #[inline(always)]
    pub(crate) fn css_set(self) -> u64 {
        // SAFETY: reads a constant.
        self.read(unsafe { offset!(task_cgroups) })
    }

    /// Padded with zeroes. The kernel's own copy is not on older kernels:
    /// behind the end stands what an earlier, longer name left.
    #[inline(always)]
    pub(crate) fn comm(self) -> [u8; 16] {
        let mut comm = [0u8; 16];
        // SAFETY: the helper checks the source; the target is 16 bytes long.
        // Where it fails, the name is empty.
        unsafe {
            generated::bpf_probe_read_kernel_str(
                comm.as_mut_ptr().cast(),
                16,
                self.pointer.add(offset!(task_comm) as usize).cast(),
            );
        }
        comm
    }

    #[inline(always)]
    pub(crate) fn identity(self) -> Identity {
        Identity {
            tgid: self.tgid(),
            tid: self.tid(),
            process_start_ns: self.leader().start_boottime_ns(),
            thread_start_ns: self.start_boottime_ns(),
            exec_id: self.exec_id(),
            comm: self.comm(),
            kernel_thread: u32::from(self.is_kernel_thread()),
            parent: self.parent().tgid(),
        }
    }
}
