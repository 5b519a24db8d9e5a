//! x86-64.

use aya_ebpf::{bindings::pt_regs, helpers::generated::bpf_probe_read_user};
use profiler_abi::stack_end;

use crate::unwind::state::State;

/// DWARF numbers.
pub(crate) const FRAME_POINTER: usize = 6;
pub(crate) const STACK_POINTER: usize = 7;
pub(crate) const PROGRAM_COUNTER: usize = 16;

/// Bits of a return address that are an address: all.
pub(crate) const RETURN_ADDRESS_MASK: u64 = u64::MAX;

/// `__USER32_CS` (arch/x86/include/asm/segment.h).
const USER32_CS: u64 = 0x23;

#[inline(always)]
pub(super) unsafe fn is_user_mode(registers: *const pt_regs) -> bool {
    // SAFETY: the caller's pointer is valid.
    unsafe { (*registers).cs & 3 == 3 }
}

/// By DWARF number (System V ABI, AMD64, figure 3.36).
#[inline(always)]
pub(super) unsafe fn load(registers: *const pt_regs, state: *mut State) -> u8 {
    // SAFETY: the caller's pointers are valid.
    unsafe {
        if (*registers).cs == USER32_CS {
            return stack_end::COMPAT;
        }
        let to = &mut (*state).registers;
        to[0] = (*registers).rax;
        to[1] = (*registers).rdx;
        to[2] = (*registers).rcx;
        to[3] = (*registers).rbx;
        to[4] = (*registers).rsi;
        to[5] = (*registers).rdi;
        to[6] = (*registers).rbp;
        to[7] = (*registers).rsp;
        to[8] = (*registers).r8;
        to[9] = (*registers).r9;
        to[10] = (*registers).r10;
        to[11] = (*registers).r11;
        to[12] = (*registers).r12;
        to[13] = (*registers).r13;
        to[14] = (*registers).r14;
        to[15] = (*registers).r15;
        to[16] = (*registers).rip;
        (*state).pc = to[16];
        (*state).sp = to[7];
        (*state).fp = to[6];
    }
    stack_end::WHOLE
}

/// `gregs` in `ucontext_t` (sys/ucontext.h): r8 to r15, rdi, rsi, rbp, rbx,
/// rdx, rax, rcx, rsp, rip.
const UCONTEXT_GREGS: u64 = 40;

/// Words of them.
const GREGS: usize = 17;

/// Takes the registers of what a signal interrupted. `room` is what they are
/// read into.
#[inline(always)]
pub(super) unsafe fn load_ucontext(ucontext: u64, room: *mut pt_regs, state: *mut State) -> bool {
    const { assert!(GREGS * 8 <= size_of::<pt_regs>()) }
    let address = ucontext.wrapping_add(UCONTEXT_GREGS);
    // SAFETY: the helper checks the address; the caller's pointers are valid.
    unsafe {
        if bpf_probe_read_user(room.cast(), (GREGS * 8) as u32, address as *const _) != 0 {
            return false;
        }
        let saved = &*room.cast::<[u64; GREGS]>();
        let to = &mut (*state).registers;
        to[8] = saved[0];
        to[9] = saved[1];
        to[10] = saved[2];
        to[11] = saved[3];
        to[12] = saved[4];
        to[13] = saved[5];
        to[14] = saved[6];
        to[15] = saved[7];
        to[5] = saved[8];
        to[4] = saved[9];
        to[6] = saved[10];
        to[3] = saved[11];
        to[1] = saved[12];
        to[0] = saved[13];
        to[2] = saved[14];
        to[7] = saved[15];
        to[16] = saved[16];
        (*state).pc = to[16];
        (*state).sp = to[7];
        (*state).fp = to[6];
    }
    true
}
