//! Where the fields of CPython's structures are, by minor version.
//!
//! The numbers are `offsetof` of the named fields, as a C compiler gives them
//! for the internal headers (`Include/internal`, with `Py_BUILD_CORE`) of
//! 3.8.18, 3.9.18, 3.10.13, 3.11.2, 3.11.7 and 3.12.1 on x86-64; structures of 64-bit
//! Linux are the same on aarch64. 3.13 says itself where they are
//! (`_Py_DebugOffsets` in `pycore_runtime.h`); what it does not say is from the
//! headers of 3.13.0.

use profiler_abi::python::{BLOCK_BYTES, PythonInfo, frame_style};

use super::PythonError;
use crate::unwind::elf::u64_at;

/// The first minor version that says where its fields are.
pub(super) const SELF_DESCRIBING: u8 = 13;

const NONE: u16 = PythonInfo::NONE;

/// What has not changed from 3.8 to 3.10.
const UNTIL_3_10: PythonInfo = PythonInfo {
    interpreter_next: 0,
    interpreter_threads: 8,
    thread_next: 8,
    thread_id: 176,
    thread_frame: 24,
    cframe_frame: NONE,
    frame_style: frame_style::ONE_EACH,
    frame_bytes: 108,
    frame_previous: 24,
    frame_code: 32,
    frame_instruction: 104,
    frame_owner: NONE,
    frame_entry: NONE,
    instruction_shift: 0,
    code_bytes: 128,
    code_first_line: 40,
    code_file: 104,
    code_name: 112,
    code_lines: 120,
    code_first_traceable: NONE,
    code_instructions: NONE,
    ..OBJECTS
};

/// `f_lasti` counts instructions, no longer bytes.
const SINCE_3_10: PythonInfo = PythonInfo {
    frame_bytes: 100,
    frame_instruction: 96,
    instruction_shift: 1,
    ..UNTIL_3_10
};

const IN_3_11: PythonInfo = PythonInfo {
    interpreter_next: 0,
    interpreter_threads: 16,
    thread_next: 8,
    thread_id: 152,
    thread_frame: 56,
    cframe_frame: 8,
    frame_style: frame_style::FLAGGED,
    frame_bytes: 72,
    frame_previous: 48,
    frame_code: 32,
    frame_instruction: 56,
    frame_owner: 69,
    frame_entry: 68,
    instruction_shift: 0,
    code_bytes: 172,
    code_first_line: 72,
    code_file: 112,
    code_name: 128,
    code_lines: 136,
    code_first_traceable: 168,
    code_instructions: 184,
    ..OBJECTS
};

const IN_3_12: PythonInfo = PythonInfo {
    interpreter_threads: 72,
    thread_id: 136,
    cframe_frame: 0,
    frame_style: frame_style::SHIM,
    frame_previous: 8,
    frame_code: 0,
    frame_owner: 70,
    frame_entry: NONE,
    code_bytes: 180,
    code_first_line: 68,
    code_first_traceable: 176,
    code_instructions: 192,
    text_ascii: 40,
    text_other: 56,
    ..IN_3_11
};

/// Plain objects, until 3.11.
const OBJECTS: PythonInfo = PythonInfo {
    object_type: 8,
    bytes_size: 16,
    bytes_data: 32,
    text_length: 16,
    text_state: 32,
    text_ascii: 48,
    text_other: 72,
    kind: 0,
    minor: 0,
    interpreters: 0,
    code_type: 0,
    interpreter_next: 0,
    interpreter_threads: 0,
    thread_next: 0,
    thread_id: 0,
    thread_frame: 0,
    cframe_frame: 0,
    frame_style: 0,
    frame_bytes: 0,
    frame_previous: 0,
    frame_code: 0,
    frame_instruction: 0,
    frame_owner: 0,
    frame_entry: 0,
    instruction_shift: 0,
    code_bytes: 0,
    code_first_line: 0,
    code_file: 0,
    code_name: 0,
    code_lines: 0,
    code_first_traceable: 0,
    code_instructions: 0,
    pad: [0; 2],
};

/// Offset of `_PyRuntime.interpreters.head`, and the layout, without addresses.
pub(super) fn of(minor: u8) -> Option<(u64, PythonInfo)> {
    match minor {
        8 | 9 => Some((32, UNTIL_3_10)),
        10 => Some((32, SINCE_3_10)),
        11 => Some((40, IN_3_11)),
        12 => Some((40, IN_3_12)),
        _ => None,
    }
}

/// The same from `_Py_DebugOffsets` of 3.13, with which `_PyRuntime` begins.
pub(super) fn from_debug_offsets(bytes: &[u8]) -> Result<(u64, PythonInfo), PythonError> {
    const COOKIE: &[u8] = b"xdebugpy";
    // From `_co_firsttraceable` to `co_code_adaptive`: an int and its padding, a pointer.
    const TRACEABLE_TO_CODE: u64 = 16;
    // From the end of `PyASCIIObject` to that of `PyCompactUnicodeObject`:
    // `utf8_length` and `utf8`.
    const ASCII_TO_OTHER: u64 = 16;
    if bytes.get(..8) != Some(COOKIE) || u64_at(bytes, 8) >> 16 != 0x030d {
        return Err(PythonError::DebugOffsets);
    }
    if u64_at(bytes, 16) != 0 {
        return Err(PythonError::FreeThreaded);
    }
    let wide = |at| u32::try_from(u64_at(bytes, at)).map_err(|_| PythonError::DebugOffsets);
    let short = |value: u64| u16::try_from(value).map_err(|_| PythonError::DebugOffsets);
    // Read as a part of a block.
    let block = |value: u64, size: u64| match value {
        value if value + size <= BLOCK_BYTES as u64 && value.is_multiple_of(size) => short(value),
        _ => Err(PythonError::DebugOffsets),
    };
    let at = |at| u64_at(bytes, at).min(1 << 32);
    let (frame, code) = (FRAME_AT, CODE_AT);
    let traceable = at(code + 72).saturating_sub(TRACEABLE_TO_CODE);
    let info = PythonInfo {
        interpreter_next: wide(INTERPRETER_AT + 16)?,
        interpreter_threads: wide(INTERPRETER_AT + 24)?,
        thread_next: short(at(THREAD_AT + 16))?,
        thread_frame: short(at(THREAD_AT + 32))?,
        thread_id: short(at(THREAD_AT + 40))?,
        cframe_frame: NONE,
        frame_previous: block(at(frame + 8), 8)?,
        frame_code: block(at(frame + 16), 8)?,
        frame_instruction: block(at(frame + 24), 8)?,
        frame_owner: block(at(frame + 40), 1)?,
        frame_bytes: short(at(frame).min(BLOCK_BYTES as u64))?,
        code_file: block(at(code + 8), 8)?,
        code_name: block(at(code + 24), 8)?,
        code_lines: block(at(code + 32), 8)?,
        code_first_line: block(at(code + 40), 4)?,
        code_first_traceable: block(traceable, 4)?,
        code_instructions: short(at(code + 72))?,
        code_bytes: block(traceable, 4)? + 4,
        object_type: block(at(OBJECT_AT + 8), 8)?,
        bytes_size: short(at(BYTES_AT + 8))?,
        bytes_data: short(at(BYTES_AT + 16))?,
        text_state: short(at(TEXT_AT + 8))?,
        text_length: short(at(TEXT_AT + 16))?,
        text_ascii: short(at(TEXT_AT + 24))?,
        text_other: short(at(TEXT_AT + 24) + ASCII_TO_OTHER)?,
        ..IN_3_12
    };
    Ok((at(RUNTIME_AT + 16), info))
}

// Offsets of the members of `_Py_DebugOffsets` in 3.13. Each begins with the
// size of the structure it describes.
const RUNTIME_AT: usize = 24;
const INTERPRETER_AT: usize = 48;
const THREAD_AT: usize = 152;
const FRAME_AT: usize = 224;
const CODE_AT: usize = 272;
const OBJECT_AT: usize = 352;
const BYTES_AT: usize = 512;
const TEXT_AT: usize = 536;
