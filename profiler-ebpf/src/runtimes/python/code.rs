//! Telling userspace what code objects are called, the first time they are met:
//! later the process may be gone.

use aya_ebpf::{
    helpers::{bpf_probe_read_user, generated},
    macros::map,
    maps::{Array, PerCpuArray},
};
use profiler_abi::{
    Counter, RecordHeader,
    python::{
        CODE_FILE_BYTES, CODE_LINES_BYTES, CODE_NAME_BYTES, CODE_RECORD_HEADER, CodeRecord,
        KIND_CODE, text_state,
    },
};

use super::state::{State, field};
use crate::{control::add_atomic, emit, unwind::SLOTS};

#[map]
static CODE_SCRATCH: PerCpuArray<CodeRecord> = PerCpuArray::with_max_entries(SLOTS, 0);

/// Slots of [`CODES_SENT`]. A slot that two code objects share only costs
/// sending them again.
const SENT_SLOTS: u32 = 1 << 14;

/// The last code object sent in each slot, as a hash. Written after it is in
/// the ring buffer, as with stacks.
#[map]
static CODES_SENT: Array<u64> = Array::with_max_entries(SENT_SLOTS, 0);

#[inline(always)]
fn mix(hash: u64, word: u64) -> u64 {
    let hash = (hash ^ word).wrapping_mul(0xff51_afd7_ed55_8ccd);
    hash ^ (hash >> 32)
}

/// Tells the code objects apart that one after the other lie at one address:
/// 31 bits, never 0, of where their names and their line table are.
///
/// # Safety
/// `state` must come from [`State::of`].
#[inline(always)]
pub(super) unsafe fn checksum(state: *const State) -> u32 {
    // SAFETY: the caller's promise.
    unsafe {
        let info = &raw const (*state).info;
        let block = (&raw const (*state).code_block).cast::<u8>();
        let first_line: u32 = field(block, (*info).code_first_line);
        let mut hash = mix(0x9e37_79b9_7f4a_7c15, u64::from(first_line));
        hash = mix(hash, field(block, (*info).code_file));
        hash = mix(hash, field(block, (*info).code_name));
        hash = mix(hash, field(block, (*info).code_lines));
        (hash as u32 >> 1) | 1
    }
}

/// Sends the code object in `code_block` unless it was sent before.
///
/// # Safety
/// `state` must come from [`State::of`] with `slot`.
#[inline(always)]
pub(super) unsafe fn send(slot: u32, state: *const State) {
    // SAFETY: the caller's promise; CODES_SENT is aligned map memory, and the
    // only race is two CPUs sending twice.
    unsafe {
        let process = (*state).process_start_ns ^ u64::from((*state).tgid);
        let hash = mix(process, (*state).code);
        let hash = mix(hash, u64::from((*state).checksum)) | 1;
        let Some(sent) = CODES_SENT.get_ptr_mut(hash as u32 >> 1 & (SENT_SLOTS - 1)) else {
            return;
        };
        if sent.read_volatile() != hash && send_code(slot) != 0 {
            sent.write_volatile(hash);
        }
    }
}

/// Sends the code object in `code_block`. Returns 1 where it was sent, 0 where
/// its name cannot be read now or there was no room. A function of its own to
/// the verifier.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn send_code(slot: u32) -> u32 {
    let (Some(state), Some(record)) = (State::of(slot), CODE_SCRATCH.get_ptr_mut(slot)) else {
        return 0;
    };
    // SAFETY: per-CPU memory that only this kind of program uses.
    let Some(size) = (unsafe { fill(state, record) }) else {
        return 0;
    };
    if !emit::code(record, size) {
        add_atomic(Counter::CodeLost, 1);
        return 0;
    }
    1
}

/// Writes the record. Returns its size, nothing where the name cannot be read.
#[inline(always)]
unsafe fn fill(state: *const State, record: *mut CodeRecord) -> Option<usize> {
    // SAFETY: the caller's promise; the helpers check what they read, and
    // `fitting` bounds the lengths to those of the targets.
    unsafe {
        let info = &raw const (*state).info;
        let block = (&raw const (*state).code_block).cast::<u8>();
        let name = text(state, field(block, (*info).code_name));
        let name_len = fitting(name.bytes, CODE_NAME_BYTES);
        let to = (&raw mut (*record).name).cast::<u8>();
        if name.width == 0 || !copy(to, name_len, name.data) {
            return None;
        }
        (*record).name_width = name.width;
        (*record).name_len = name_len as u16;
        (*record).name_cut = u8::from(name.bytes > u64::from(name_len));
        let file = text(state, field(block, (*info).code_file));
        let file_len = fitting(file.bytes, CODE_FILE_BYTES);
        let to = (&raw mut (*record).file).cast::<u8>();
        let end = file.data.wrapping_add(file.bytes);
        let is_read = copy(to, file_len, end.wrapping_sub(u64::from(file_len)));
        (*record).file_width = if is_read { file.width } else { 0 };
        (*record).file_len = file_len as u16;
        (*record).file_cut = u8::from(file.bytes > u64::from(file_len));
        let lines_len = lines(state, record, field(block, (*info).code_lines));
        let size = CODE_RECORD_HEADER + lines_len as usize;
        (*record).header = RecordHeader {
            kind: KIND_CODE,
            size: size as u32,
        };
        (*record).code = (*state).code;
        (*record).checksum = (*state).checksum;
        (*record).tgid = (*state).tgid;
        (*record).process_start_ns = (*state).process_start_ns;
        (*record).minor = (*info).minor;
        (*record).first_line = field(block, (*info).code_first_line);
        Some(size)
    }
}

/// Where the characters of a string are.
struct Text {
    data: u64,
    bytes: u64,
    /// Bytes of a character, 0 where it cannot be read.
    width: u8,
}

/// Finds the characters of a `str` object.
#[inline(always)]
unsafe fn text(state: *const State, object: u64) -> Text {
    // SAFETY: the caller's promise; the helpers check what they read.
    unsafe {
        let info = &raw const (*state).info;
        let at = |offset: u16| object.wrapping_add(u64::from(offset));
        let flags = bpf_probe_read_user(at((*info).text_state) as *const u32).unwrap_or(0);
        let length = bpf_probe_read_user(at((*info).text_length) as *const u64).unwrap_or(0);
        let width = flags >> text_state::KIND_SHIFT & text_state::KIND_MASK;
        let is_known = width == 1 || width == 2 || width == 4;
        let is_compact = flags & text_state::COMPACT != 0;
        Text {
            data: if flags & text_state::ASCII != 0 {
                at((*info).text_ascii)
            } else {
                at((*info).text_other)
            },
            bytes: length.wrapping_mul(u64::from(width)),
            width: if is_known && is_compact {
                width as u8
            } else {
                0
            },
        }
    }
}

/// Reads the begin of a line table, a `bytes` object. Returns how much of it.
#[inline(always)]
unsafe fn lines(state: *const State, record: *mut CodeRecord, object: u64) -> u32 {
    // SAFETY: the caller's promise; the helpers check what they read.
    unsafe {
        let info = &raw const (*state).info;
        let size_at = object.wrapping_add(u64::from((*info).bytes_size));
        let size = bpf_probe_read_user(size_at as *const u64).unwrap_or(u64::MAX);
        let mut len = fitting(size, CODE_LINES_BYTES);
        let data = object.wrapping_add(u64::from((*info).bytes_data));
        let to = (&raw mut (*record).lines).cast::<u8>();
        if !copy(to, len, data) {
            len = 0;
        }
        (*record).lines_size = if size < u64::from(u32::MAX) {
            size as u32
        } else {
            u32::MAX
        };
        (*record).lines_len = len;
        len
    }
}

/// How much is read of `bytes` where there is room for `room`, a power of two.
/// Masked as well, so that the verifier of every kernel sees the bound.
#[inline(always)]
fn fitting(bytes: u64, room: usize) -> u32 {
    let most = room as u64 - 4;
    let len = if bytes < most { bytes } else { most };
    len as u32 & (room as u32 - 1)
}

/// Reads `len` bytes of the process's memory.
#[inline(always)]
unsafe fn copy(to: *mut u8, len: u32, address: u64) -> bool {
    // SAFETY: the caller's promise; the helper checks the address.
    unsafe { generated::bpf_probe_read_user(to.cast(), len, address as *const _) == 0 }
}
