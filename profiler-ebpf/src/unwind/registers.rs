//! Where a walk begins: the registers with which a thread left user mode.

#[cfg(bpf_target_arch = "aarch64")]
mod aarch64;
#[cfg(bpf_target_arch = "x86_64")]
mod x86_64;

#[cfg(bpf_target_arch = "aarch64")]
use self::aarch64 as arch;
#[cfg(bpf_target_arch = "x86_64")]
use self::x86_64 as arch;

use aya_ebpf::{
    bindings::{bpf_perf_event_data, pt_regs},
    helpers::{bpf_probe_read_user, bpf_task_pt_regs, generated::bpf_probe_read_kernel},
    macros::map,
    maps::PerCpuArray,
};
use profiler_abi::stack_end;

use super::state::{SLOTS, State};
use crate::{control::offset, task::Task};

pub(crate) use self::arch::{FRAME_POINTER, PROGRAM_COUNTER, RETURN_ADDRESS_MASK, STACK_POINTER};

/// How the program came to run.
#[derive(Clone, Copy)]
pub(crate) enum Origin {
    /// It interrupted the task, with the registers of that moment.
    Interrupt(*const bpf_perf_event_data),
    /// It runs in the kernel on behalf of the task.
    Kernel,
}

#[map]
static REGISTERS: PerCpuArray<pt_regs> = PerCpuArray::with_max_entries(SLOTS, 0);

/// Begins a walk. Returns `WHOLE`, or why there is nothing to walk.
///
/// # Safety
/// `state` must come from [`State::of`] with `slot`, and `origin` belong to the
/// running program.
#[inline(always)]
pub(crate) unsafe fn load(origin: Origin, task: Task, slot: u32, state: *mut State) -> u8 {
    // SAFETY: the caller's promise.
    unsafe {
        (*state).len = 0;
        (*state).exact = 1;
        (*state).exact_len = 0;
        (*state).end = u32::from(stack_end::CUT);
        (*state).wants_copy = 0;
        (*state).by_frame_pointer = 0;
        (*state).guessed = 0;
        (*state).runtime_seen = 0;
        (*state).map_start = 0;
        (*state).map_end = 0;
        let Some(copy) = REGISTERS.get_ptr_mut(slot) else {
            return stack_end::UNREADABLE;
        };
        // Never one piece of code for both sources: the verifier wants each of
        // its loads to be from one kind of memory.
        match origin {
            Origin::Interrupt(data) if arch::is_user_mode(&raw const (*data).regs) => {
                let from = (&raw const (*data).regs).cast::<u64>();
                for word in 0..size_of::<pt_regs>() / 8 {
                    *copy.cast::<u64>().add(word) = from.add(word).read_volatile();
                }
            }
            _ => {
                let result = bpf_probe_read_kernel(
                    copy.cast(),
                    size_of::<pt_regs>() as u32,
                    saved_registers(task).cast(),
                );
                if result != 0 {
                    return stack_end::UNREADABLE;
                }
                if !arch::is_user_mode(copy) {
                    return stack_end::NONE;
                }
            }
        }
        let end = arch::load(copy, state);
        if task.is_executing() && bpf_probe_read_user((*state).sp as *const u64).is_err() {
            // The stack has gone with the program that is being replaced.
            return stack_end::NONE;
        }
        end
    }
}

/// Takes the registers of what a signal interrupted, from the `ucontext` at an
/// address. Returns 1, or 0 where it cannot be read. A function of its own to
/// the verifier.
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn load_ucontext(slot: u32, ucontext: u64) -> u32 {
    let (Some(state), Some(room)) = (State::of(slot), REGISTERS.get_ptr_mut(slot)) else {
        return 0;
    };
    // SAFETY: per-CPU memory that only this kind of program uses.
    u32::from(unsafe { arch::load_ucontext(ucontext, room, state) })
}

/// Where the kernel keeps the registers with which the task entered it.
#[inline(always)]
unsafe fn saved_registers(task: Task) -> *const pt_regs {
    // SAFETY: reads constants; the helper is behind one that is 0 where the
    // kernel lacks it, so the verifier drops the call.
    unsafe {
        if offset!(has_task_pt_regs) == 1 {
            return bpf_task_pt_regs(task.as_ptr()) as *const pt_regs;
        }
        let end = task.stack() + offset!(thread_size);
        (end - size_of::<pt_regs>() as u64) as *const pt_regs
    }
}
