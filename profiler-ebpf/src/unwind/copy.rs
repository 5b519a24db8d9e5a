//! Handing a stack over to userspace: registers and memory.

use aya_ebpf::helpers::{bpf_get_prandom_u32, bpf_ktime_get_ns, generated};
use profiler_abi::{KIND_STACK_COPY, REGISTERS, RecordHeader, STACK_COPY_BYTES, STACK_COPY_HEADER};

use super::{
    registers::{FRAME_POINTER, PROGRAM_COUNTER, STACK_POINTER},
    state::State,
};
use crate::{emit, task::Task};

/// Bytes read at a time. Reading stops at the first that fails: it lies behind
/// the end of the stack.
const PIECE: usize = 512;

/// Sends a copy of the stack from where the walk has come to. Returns its id,
/// or 0 where there was no room. A function of its own to the verifier.
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn copy_stack(slot: u32, walked: u64) -> u64 {
    let Some(state) = State::of(slot) else {
        return 0;
    };
    // SAFETY: what is reserved is submitted below. The state is per-CPU memory that only this kind of
    // program uses.
    unsafe {
        let Some(copy) = emit::reserve_copy() else {
            return 0;
        };
        let id = u64::from(bpf_get_prandom_u32()) << 32 | u64::from(bpf_get_prandom_u32()) | 1;
        (*copy).id = id;
        (*copy).walked = walked;
        (*copy).time_ns = bpf_ktime_get_ns();
        (*copy).identity = Task::current().identity();
        (*copy).known = known(state);
        for number in 0..REGISTERS {
            (*copy).registers[number] = (*state).registers[number];
        }
        (*copy).registers[PROGRAM_COUNTER] = (*state).pc;
        (*copy).registers[STACK_POINTER] = (*state).sp;
        (*copy).registers[FRAME_POINTER] = (*state).fp;
        let mut len = 0;
        while len < STACK_COPY_BYTES {
            let result = generated::bpf_probe_read_user(
                (&raw mut (*copy).bytes).cast::<u8>().add(len).cast(),
                PIECE as u32,
                (*state).sp.wrapping_add(len as u64) as *const _,
            );
            if result != 0 {
                break;
            }
            len += PIECE;
        }
        (*copy).len = len as u32;
        (*copy).pad = 0;
        (*copy).header = RecordHeader {
            kind: KIND_STACK_COPY,
            size: (STACK_COPY_HEADER + len) as u32,
        };
        emit::submit_copy(copy);
        id
    }
}

/// All registers are known where the frame was interrupted; of a caller, those
/// the walk follows.
#[inline(always)]
unsafe fn known(state: *const State) -> u64 {
    // SAFETY: the caller's pointer is valid.
    if unsafe { (*state).exact } != 0 {
        (1 << REGISTERS) - 1
    } else {
        1 << FRAME_POINTER | 1 << STACK_POINTER | 1 << PROGRAM_COUNTER
    }
}
