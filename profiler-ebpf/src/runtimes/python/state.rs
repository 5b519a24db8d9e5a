//! What a walk of Python frames knows at each step.

use aya_ebpf::{macros::map, maps::PerCpuArray};
use profiler_abi::python::{BLOCK_BYTES, PythonInfo};

use crate::unwind::{Place, SLOTS};

/// Room for what is read at once: a power of two above [`BLOCK_BYTES`], so that
/// a mask bounds every length.
pub(super) const BLOCK_SPACE: usize = 2 * BLOCK_BYTES;

/// A walk, in memory for the reason that the native one is.
#[repr(C)]
pub(super) struct State {
    pub(super) info: PythonInfo,
    pub(super) process_start_ns: u64,
    pub(super) thread_pointer: u64,
    /// Next `PyInterpreterState`, next `PyThreadState`, next frame; 0: none.
    pub(super) interpreter: u64,
    pub(super) thread: u64,
    pub(super) frame: u64,
    /// The code object in `code_block`, 0: none.
    pub(super) code: u64,
    /// Of it.
    pub(super) checksum: u32,
    /// It was sent, in this walk or before.
    pub(super) is_sent: u32,
    pub(super) interpreters_left: u32,
    pub(super) threads_left: u32,
    pub(super) tgid: u32,
    /// Words of the record before the first frame.
    pub(super) native: u32,
    /// Frames appended.
    pub(super) len: u32,
    /// The thread was found.
    pub(super) found: u32,
    /// Frames were appended since the last that ends a call.
    pub(super) call_is_open: u32,
    /// A `frame_note`.
    pub(super) note: u32,
    pub(super) frame_block: [u64; BLOCK_SPACE / 8],
    pub(super) code_block: [u64; BLOCK_SPACE / 8],
}

#[map]
static PYTHON_WALKS: PerCpuArray<State> = PerCpuArray::with_max_entries(SLOTS, 0);

impl State {
    #[inline(always)]
    pub(super) fn of(slot: u32) -> Option<*mut Self> {
        PYTHON_WALKS.get_ptr_mut(slot)
    }

    /// Begins a walk that knows `info` and appends to `native` frames.
    ///
    /// # Safety
    /// `state` must come from [`Self::of`].
    #[inline(always)]
    pub(super) unsafe fn begin(state: *mut Self, info: Place, native: u32) {
        const WORDS: usize = size_of::<PythonInfo>() / 8;
        // SAFETY: the caller's promise; `info` is WORDS words long.
        unsafe {
            let words = (&raw mut (*state).info).cast::<u64>();
            for word in 0..WORDS {
                words
                    .add(word)
                    .write_volatile(info.add(word as u64 * 8).read_u64());
            }
            (*state).thread = 0;
            (*state).frame = 0;
            (*state).code = 0;
            (*state).native = native;
            (*state).len = 0;
            (*state).found = 0;
            (*state).call_is_open = 0;
            (*state).note = 0;
        }
    }
}

/// A field of a block. Whatever the offset, it lies in the block and is aligned.
///
/// # Safety
/// `block` must have [`BLOCK_SPACE`] bytes.
#[inline(always)]
pub(super) unsafe fn field<T: Copy>(block: *const u8, offset: u16) -> T {
    let offset = u64::from(offset) & (BLOCK_BYTES - size_of::<T>()) as u64;
    // SAFETY: masked to the block, whose size is a power of two.
    unsafe { block.add(offset as usize).cast::<T>().read_volatile() }
}
