//! What the kernel programs must know of a CPython process to read the Python
//! frames of its threads, and what they tell of the code they meet.

#[cfg(feature = "user")]
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::RecordHeader;

/// Where things are in one process. Lies in the heap, at
/// [`crate::unwind::ProcessEntry::runtime`]. Offsets are in bytes, from the
/// begin of the structure that the field's name begins with.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "user", derive(FromBytes, IntoBytes, Immutable, KnownLayout))]
pub struct PythonInfo {
    /// [`crate::unwind::runtime_kind::PYTHON`].
    pub kind: u32,
    /// Minor version: 12 for Python 3.12.
    pub minor: u32,
    /// Address of `_PyRuntime.interpreters.head`, a `PyInterpreterState *`.
    pub interpreters: u64,
    /// Address of `PyCode_Type`, the type of all code objects; 0: not known.
    pub code_type: u64,
    /// `PyInterpreterState.next`.
    pub interpreter_next: u32,
    /// `PyInterpreterState.threads.head`, until 3.10 `tstate_head`: a `PyThreadState *`.
    pub interpreter_threads: u32,
    /// `PyThreadState.next`.
    pub thread_next: u16,
    /// `PyThreadState.thread_id`: what `pthread_self` returns.
    pub thread_id: u16,
    /// Until 3.10 `PyThreadState.frame`, in 3.11 and 3.12 `cframe`, since then
    /// `current_frame`.
    pub thread_frame: u16,
    /// `_PyCFrame.current_frame` (3.11 and 3.12); elsewhere [`Self::NONE`].
    pub cframe_frame: u16,
    /// A [`frame_style`].
    pub frame_style: u16,
    /// Bytes of a frame up to the last field that is read; at most [`BLOCK_BYTES`].
    pub frame_bytes: u16,
    /// `_PyInterpreterFrame.previous`, until 3.10 `PyFrameObject.f_back`.
    pub frame_previous: u16,
    /// `f_code`, in 3.13 `f_executable`.
    pub frame_code: u16,
    /// `f_lasti`, an `int` (until 3.10); `prev_instr` or `instr_ptr`, an address.
    pub frame_instruction: u16,
    /// `owner`, one byte (since 3.11).
    pub frame_owner: u16,
    /// `is_entry`, one byte (3.11).
    pub frame_entry: u16,
    /// Power of two by which `f_lasti` is to be multiplied to count bytes.
    pub instruction_shift: u16,
    /// Bytes of a code object up to the last field that is read; at most [`BLOCK_BYTES`].
    pub code_bytes: u16,
    /// `PyCodeObject.co_firstlineno`, an `int`.
    pub code_first_line: u16,
    /// `co_filename`.
    pub code_file: u16,
    /// `co_qualname`, until 3.10 `co_name`.
    pub code_name: u16,
    /// `co_linetable`, until 3.9 `co_lnotab`: a `bytes` object.
    pub code_lines: u16,
    /// `_co_firsttraceable`, an `int` (since 3.11).
    pub code_first_traceable: u16,
    /// `co_code_adaptive`, the instructions (since 3.11).
    pub code_instructions: u16,
    /// `PyObject.ob_type`.
    pub object_type: u16,
    /// `PyBytesObject.ob_size`.
    pub bytes_size: u16,
    /// `PyBytesObject.ob_sval`.
    pub bytes_data: u16,
    /// `PyASCIIObject.length`, in characters.
    pub text_length: u16,
    /// `PyASCIIObject.state`.
    pub text_state: u16,
    /// Where the characters of a string begin that are all ASCII.
    pub text_ascii: u16,
    /// Where those of any other string begin.
    pub text_other: u16,
    /// Named padding.
    pub pad: [u16; 2],
}

impl PythonInfo {
    /// An offset of a field that this version has not.
    pub const NONE: u16 = u16::MAX;
}

/// Most bytes read at once of a frame or a code object.
pub const BLOCK_BYTES: usize = 256;

/// How Python frames and calls of the evaluation function belong together.
pub mod frame_style {
    /// One call of the function for each frame (until 3.10).
    pub const ONE_EACH: u16 = 1;
    /// A flag says which frames the function was called for (3.11).
    pub const FLAGGED: u16 = 2;
    /// Behind the frames of one call stands a frame without code, in the
    /// memory of that call (since 3.12).
    pub const SHIM: u16 = 3;
}

/// Bits of `PyASCIIObject.state`, the same from 3.8 to 3.13.
pub mod text_state {
    /// Bytes of a character: `(state >> KIND_SHIFT) & KIND_MASK`.
    pub const KIND_SHIFT: u32 = 2;
    /// See [`KIND_SHIFT`].
    pub const KIND_MASK: u32 = 7;
    /// The characters follow the object.
    pub const COMPACT: u32 = 1 << 5;
    /// They are all ASCII.
    pub const ASCII: u32 = 1 << 6;
}

/// A [`crate::RuntimeFrame`] with `code` 0 is none: it stands for a call of the
/// evaluation function that has no frame yet or no longer
/// ([`crate::RuntimeFrame::ENTRY`] is set), or, as the last, says why there are
/// no more. These are the values of the lower half of its `place`.
pub mod frame_note {
    /// Neither.
    pub const NOTHING: u32 = 0;
    /// There are more frames than are kept.
    pub const CUT: u32 = 1;
    /// The next frame or its code cannot be read, or is not what it should be.
    pub const UNREADABLE: u32 = 2;
    /// The interpreter does not know the thread, or has too many.
    pub const NO_THREAD: u32 = 3;
}

/// Bit of [`crate::RuntimeFrame::place`] from which on the checksum stands.
/// Below is the offset in bytes of the instruction that runs, an `i32`.
pub const CHECKSUM_SHIFT: u32 = 33;

/// [`CodeRecord`].
pub const KIND_CODE: u32 = 7;

/// Room for the name of a function: its first bytes. Of each of these three,
/// four bytes stay unused, so that a mask bounds what is read.
pub const CODE_NAME_BYTES: usize = 128;

/// Room for the path of a source file: its last bytes.
pub const CODE_FILE_BYTES: usize = 256;

/// Room for a line table: its first bytes.
pub const CODE_LINES_BYTES: usize = 8192;

/// A code object, sent once before the first stack that refers to it. It may
/// be sent again when the kernel side has forgotten that it was.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
#[cfg_attr(feature = "user", derive(FromBytes, IntoBytes, Immutable, KnownLayout))]
pub struct CodeRecord {
    /// Kind [`KIND_CODE`]; `size` covers `lines[..lines_len]` only.
    pub header: RecordHeader,
    /// Address: [`crate::RuntimeFrame::code`].
    pub code: u64,
    /// Start of the process, CLOCK_BOOTTIME ns.
    pub process_start_ns: u64,
    /// Process id.
    pub tgid: u32,
    /// As in [`crate::RuntimeFrame::place`].
    pub checksum: u32,
    /// [`PythonInfo::minor`]: which kind of line table it is.
    pub minor: u32,
    /// Line where it begins.
    pub first_line: u32,
    /// Bytes the line table has, `u32::MAX` where it could not be read.
    pub lines_size: u32,
    /// Bytes of `lines`: those of them that are here.
    pub lines_len: u32,
    /// Bytes of `name`.
    pub name_len: u16,
    /// Bytes of `file`.
    pub file_len: u16,
    /// Bytes of a character of `name`: 1, 2 or 4; 0: it could not be read.
    pub name_width: u8,
    /// The same of `file`.
    pub file_width: u8,
    /// 1: the name is longer.
    pub name_cut: u8,
    /// 1: the path is longer.
    pub file_cut: u8,
    /// Of the function.
    pub name: [u8; CODE_NAME_BYTES],
    /// Of the source file.
    pub file: [u8; CODE_FILE_BYTES],
    /// The line table.
    pub lines: [u8; CODE_LINES_BYTES],
}

/// Bytes of a [`CodeRecord`] before its line table.
pub const CODE_RECORD_HEADER: usize = 56 + CODE_NAME_BYTES + CODE_FILE_BYTES;

const _: () = {
    assert!(size_of::<PythonInfo>() == 88);
    assert!(core::mem::offset_of!(CodeRecord, lines) == CODE_RECORD_HEADER);
    assert!(size_of::<CodeRecord>() == CODE_RECORD_HEADER + CODE_LINES_BYTES);
};
