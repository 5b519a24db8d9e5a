//! CPython's frames: from the runtime to the interpreters, from each to its
//! threads, from the one that runs here to its frames. Everything read belongs
//! to the process and may be anything: each step reads a few words, and there
//! is a most of steps.

mod code;
mod state;

use aya_ebpf::helpers::{bpf_probe_read_user, generated};
use profiler_abi::{
    MAX_RUNTIME_FRAMES, RuntimeFrame, STACK_WORDS, StackRecord,
    python::{CHECKSUM_SHIFT, frame_note, frame_style},
};

use self::state::{State, field};
use crate::{stack, task::Task, unwind::Place};

/// Most steps of a walk: frames, threads and interpreters.
const MAX_STEPS: u32 = 1024;

/// Most threads looked at to find the one that runs here.
const MAX_THREADS: u32 = 512;

/// Most interpreters looked at.
const MAX_INTERPRETERS: u32 = 16;

/// `FRAME_OWNED_BY_GENERATOR` and `FRAME_OWNED_BY_CSTACK`
/// (Include/internal/pycore_frame.h, 3.11 to 3.13).
const OWNED_BY_GENERATOR: u8 = 1;
const OWNED_BY_CSTACK: u8 = 3;

/// A thread's id is the address of its `struct pthread`: on x86-64 the thread
/// pointer itself; on aarch64 the structure ends there, and none is as long.
#[cfg(bpf_target_arch = "x86_64")]
const THREAD_ID_DISTANCE: u64 = 0;
#[cfg(bpf_target_arch = "aarch64")]
const THREAD_ID_DISTANCE: u64 = 4096;

/// Appends the frames of the current thread to `native` frames.
#[inline(always)]
pub(super) fn walk(slot: u32, native: u32, info: Place) -> u32 {
    let (Some(state), Some(record)) = (State::of(slot), stack::scratch(slot)) else {
        return 0;
    };
    let task = Task::current();
    // SAFETY: per-CPU memory that only this kind of program uses.
    unsafe {
        State::begin(state, info, native);
        (*state).tgid = task.tgid();
        (*state).process_start_ns = task.leader().start_boottime_ns();
        (*state).thread_pointer = task.thread_pointer();
        (*state).threads_left = MAX_THREADS;
        (*state).interpreters_left = MAX_INTERPRETERS;
        (*state).interpreter = read((*state).info.interpreters).unwrap_or(0);
        let mut steps = 0;
        while steps < MAX_STEPS {
            if python_step(slot) == 0 {
                break;
            }
            steps += 1;
        }
        if (*state).found == 0 {
            note(state, frame_note::NO_THREAD);
        }
        if (*state).note != frame_note::NOTHING {
            push(state, record, 0, u64::from((*state).note));
        }
        (*state).len
    }
}

/// Does one step. Returns 0 at the end. A function of its own to the verifier,
/// which therefore checks it once for all steps.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn python_step(slot: u32) -> u32 {
    let (Some(state), Some(record)) = (State::of(slot), stack::scratch(slot)) else {
        return 0;
    };
    // SAFETY: per-CPU memory that only this kind of program uses.
    let more = unsafe {
        if (*state).frame != 0 {
            frame(slot, state, record)
        } else if (*state).thread != 0 {
            thread(state)
        } else {
            interpreter(state)
        }
    };
    u32::from(more)
}

/// Goes to the threads of the next interpreter. An interpreter that code of
/// another one runs stands before it in the list, and so do their frames.
#[inline(always)]
unsafe fn interpreter(state: *mut State) -> bool {
    // SAFETY: the caller's promise; the helpers check what they read.
    unsafe {
        let interpreter = (*state).interpreter;
        if interpreter == 0 || (*state).interpreters_left == 0 {
            return false;
        }
        (*state).interpreters_left -= 1;
        let info = &raw const (*state).info;
        let threads = interpreter.wrapping_add(u64::from((*info).interpreter_threads));
        let next = interpreter.wrapping_add(u64::from((*info).interpreter_next));
        (*state).thread = read(threads).unwrap_or(0);
        (*state).interpreter = read(next).unwrap_or(0);
        true
    }
}

/// Goes to the frames of this thread if it is the one that runs here, else to
/// the next thread.
#[inline(always)]
unsafe fn thread(state: *mut State) -> bool {
    // SAFETY: the caller's promise; the helpers check what they read.
    unsafe {
        if (*state).threads_left == 0 {
            (*state).thread = 0;
            return false;
        }
        (*state).threads_left -= 1;
        let info = &raw const (*state).info;
        let thread = (*state).thread;
        let at = |offset: u16| read(thread.wrapping_add(u64::from(offset)));
        let Ok(id) = at((*info).thread_id) else {
            (*state).thread = 0;
            return true;
        };
        if (*state).thread_pointer.wrapping_sub(id) > THREAD_ID_DISTANCE {
            (*state).thread = at((*info).thread_next).unwrap_or(0);
            return true;
        }
        (*state).found = 1;
        (*state).thread = 0;
        let mut frame = at((*info).thread_frame).unwrap_or(0);
        if (*info).frame_style != frame_style::ONE_EACH && (*info).cframe_frame != NO_CFRAME {
            frame = read(frame.wrapping_add(u64::from((*info).cframe_frame))).unwrap_or(0);
        }
        (*state).frame = frame;
        true
    }
}

const NO_CFRAME: u16 = profiler_abi::python::PythonInfo::NONE;

/// Appends this frame and goes to its caller's.
#[inline(always)]
unsafe fn frame(slot: u32, state: *mut State, record: *mut StackRecord) -> bool {
    // SAFETY: the caller's promise; the helpers check what they read.
    unsafe {
        let info = &raw const (*state).info;
        let block = (&raw mut (*state).frame_block).cast::<u8>();
        if !copy(block, (*info).frame_bytes, (*state).frame) {
            return note(state, frame_note::UNREADABLE);
        }
        (*state).frame = field(block, (*info).frame_previous);
        let style = (*info).frame_style;
        let owner: u8 = field(block, (*info).frame_owner);
        if style == frame_style::SHIM && owner == OWNED_BY_CSTACK {
            return end_call(state, record);
        }
        let code: u64 = field(block, (*info).frame_code);
        let code_block = (&raw mut (*state).code_block).cast::<u8>();
        if code != (*state).code {
            // Not the same again, as in a recursion.
            if !copy(code_block, (*info).code_bytes, code) || !is_code(state, code_block) {
                return note(state, frame_note::UNREADABLE);
            }
            (*state).code = code;
            (*state).checksum = code::checksum(state);
            (*state).is_sent = 0;
        }
        let mut entry = style == frame_style::ONE_EACH;
        let offset;
        if style == frame_style::ONE_EACH {
            let index: u32 = field(block, (*info).frame_instruction);
            offset = index << ((*info).instruction_shift & 1);
        } else {
            if style == frame_style::FLAGGED {
                let flag: u8 = field(block, (*info).frame_entry);
                entry = flag != 0;
            }
            let instruction: u64 = field(block, (*info).frame_instruction);
            let instructions = code.wrapping_add(u64::from((*info).code_instructions));
            let distance = instruction.wrapping_sub(instructions) as i64;
            // In code units of two bytes.
            let first: u32 = field(code_block, (*info).code_first_traceable);
            if owner != OWNED_BY_GENERATOR && distance < i64::from(first) * 2 {
                // Not a frame yet: its arguments are still being arranged.
                return !entry || end_call(state, record);
            }
            offset = distance as u32;
        }
        if (*state).len as usize >= MAX_RUNTIME_FRAMES - 1 {
            return note(state, frame_note::CUT);
        }
        let place = u64::from(offset)
            | u64::from(entry) << RuntimeFrame::ENTRY.trailing_zeros()
            | u64::from((*state).checksum) << CHECKSUM_SHIFT;
        push(state, record, code, place);
        (*state).call_is_open = u32::from(!entry);
        if (*state).is_sent == 0 {
            (*state).is_sent = 1;
            code::send(slot, state);
        }
        true
    }
}

/// The frames since the last such place belong to one call of the evaluation
/// function.
#[inline(always)]
unsafe fn end_call(state: *mut State, record: *mut StackRecord) -> bool {
    // SAFETY: the caller's promise.
    unsafe {
        if (*state).call_is_open != 0 {
            (*state).call_is_open = 0;
            // Not 0: the call is open since a frame was pushed.
            let place = word((*state).native, (*state).len.wrapping_sub(1)) + 1;
            (*record).frames[place & (STACK_WORDS - 1)] |= RuntimeFrame::ENTRY;
            return true;
        }
        if (*state).len as usize >= MAX_RUNTIME_FRAMES - 1 {
            return note(state, frame_note::CUT);
        }
        push(state, record, 0, RuntimeFrame::ENTRY);
        true
    }
}

/// Index of the first word of a frame.
#[inline(always)]
fn word(native: u32, index: u32) -> usize {
    native as usize + 2 * index as usize
}

/// Appends a frame. There must be room.
#[inline(always)]
unsafe fn push(state: *mut State, record: *mut StackRecord, code: u64, place: u64) {
    // SAFETY: the caller's promise; masked to the record.
    unsafe {
        let first = word((*state).native, (*state).len);
        (*record).frames[first & (STACK_WORDS - 1)] = code;
        (*record).frames[(first + 1) & (STACK_WORDS - 1)] = place;
        (*state).len += 1;
    }
}

/// Ends the walk with a reason.
#[inline(always)]
unsafe fn note(state: *mut State, note: u32) -> bool {
    // SAFETY: the caller's promise.
    unsafe { (*state).note = note };
    false
}

/// Whether what was read is a code object.
#[inline(always)]
unsafe fn is_code(state: *const State, block: *const u8) -> bool {
    // SAFETY: the caller's promise.
    unsafe {
        let object_type: u64 = field(block, (*state).info.object_type);
        (*state).info.code_type == 0 || object_type == (*state).info.code_type
    }
}

/// Reads `bytes` of the process's memory into a block.
#[inline(always)]
unsafe fn copy(block: *mut u8, bytes: u16, address: u64) -> bool {
    let bytes = u32::from(bytes) & (state::BLOCK_SPACE - 1) as u32;
    // SAFETY: the caller's block has BLOCK_SPACE bytes; the helper checks the address.
    unsafe { generated::bpf_probe_read_user(block.cast(), bytes, address as *const _) == 0 }
}

/// A word of the process's memory.
#[inline(always)]
fn read(address: u64) -> Result<u64, i32> {
    // SAFETY: the helper checks the address.
    unsafe { bpf_probe_read_user(address as *const u64) }
}
