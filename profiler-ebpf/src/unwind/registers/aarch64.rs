//! aarch64.

use aya_ebpf::{bindings::pt_regs, helpers::generated::bpf_probe_read_user};
use profiler_abi::stack_end;

use crate::unwind::state::State;

/// DWARF numbers.
pub(crate) const FRAME_POINTER: usize = 29;
pub(crate) const STACK_POINTER: usize = 31;
pub(crate) const PROGRAM_COUNTER: usize = 32;

/// Bits of a return address that are an address: pointer authentication signs
/// the ones above 47 (with 48-bit addresses, bit 55 tells the kernel's half).
pub(crate) const RETURN_ADDRESS_MASK: u64 = (1 << 48) - 1;

/// `PSR_MODE_MASK` with `PSR_MODE32_BIT` (arch/arm64/include/uapi/asm/ptrace.h);
/// 0 is EL0 in AArch64 state.
const MODE_MASK: u64 = 0xf;
const MODE32_BIT: u64 = 0x10;

#[inline(always)]
pub(super) unsafe fn is_user_mode(registers: *const pt_regs) -> bool {
    // SAFETY: the caller's pointer is valid.
    unsafe { (*registers).pstate & MODE_MASK == 0 }
}

/// By DWARF number: x0 to x30, sp, pc.
#[inline(always)]
pub(super) unsafe fn load(registers: *const pt_regs, state: *mut State) -> u8 {
    // SAFETY: the caller's pointers are valid.
    unsafe {
        if (*registers).pstate & MODE32_BIT != 0 {
            return stack_end::COMPAT;
        }
        let to = &mut (*state).registers;
        for number in 0..31 {
            to[number] = (*registers).regs[number];
        }
        to[31] = (*registers).sp;
        to[32] = (*registers).pc;
        (*state).pc = to[32];
        (*state).sp = to[31];
        (*state).fp = to[29];
    }
    stack_end::WHOLE
}

/// `uc_mcontext.regs` in `struct ucontext` (arch/arm64/include/uapi/asm/
/// {ucontext,sigcontext}.h): x0 to x30, sp, pc.
const UCONTEXT_REGS: u64 = 184;

/// Takes the registers of what a signal interrupted.
#[inline(always)]
pub(super) unsafe fn load_ucontext(ucontext: u64, _room: *mut pt_regs, state: *mut State) -> bool {
    let address = ucontext.wrapping_add(UCONTEXT_REGS);
    // SAFETY: the helper checks the address; the caller's pointer is valid.
    unsafe {
        let to = &raw mut (*state).registers;
        let size = size_of_val(&*to) as u32;
        if bpf_probe_read_user(to.cast(), size, address as *const _) != 0 {
            return false;
        }
        (*state).pc = (*state).registers[32];
        (*state).sp = (*state).registers[31];
        (*state).fp = (*state).registers[29];
    }
    true
}
