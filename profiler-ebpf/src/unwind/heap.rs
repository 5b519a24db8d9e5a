//! Reading the heap of tables. Every access is masked to its chunk: whatever
//! stands there, a program reads nothing else.

use aya_ebpf::{
    bindings::BPF_F_MMAPABLE,
    btf_maps::{Array, ArrayOfMaps},
    macros::btf_map,
};
use profiler_abi::unwind::{CHUNK_BYTES, HEAP_REF_BITS, HeapRef, MAX_CHUNKS};

type Chunk = Array<[u64; CHUNK_BYTES / 8], 1, { BPF_F_MMAPABLE as usize }>;

#[btf_map]
static CHUNKS: ArrayOfMaps<Chunk, MAX_CHUNKS> = ArrayOfMaps::new();

/// A place in the heap.
#[derive(Clone, Copy)]
pub(crate) struct Place {
    chunk: *const u8,
    offset: u64,
}

impl Place {
    #[inline(always)]
    pub(crate) fn of(reference: HeapRef) -> Option<Self> {
        let chunk = CHUNKS.get_value_ptr_mut(reference >> HEAP_REF_BITS, &0)?;
        Some(Self {
            chunk: chunk.cast_const().cast(),
            offset: u64::from(reference & ((1 << HEAP_REF_BITS) - 1)) << 3,
        })
    }

    /// The place `bytes` behind this one.
    #[inline(always)]
    pub(crate) fn add(self, bytes: u64) -> Self {
        Self {
            offset: self.offset + bytes,
            ..self
        }
    }

    #[inline(always)]
    pub(crate) fn read_u64(self) -> u64 {
        // SAFETY: masked to the chunk, and aligned.
        unsafe { self.at(8).cast::<u64>().read_volatile() }
    }

    #[inline(always)]
    pub(crate) fn read_u32(self) -> u32 {
        // SAFETY: as above.
        unsafe { self.at(4).cast::<u32>().read_volatile() }
    }

    #[inline(always)]
    pub(crate) fn read_u16(self) -> u16 {
        // SAFETY: as above.
        unsafe { self.at(2).cast::<u16>().read_volatile() }
    }

    /// Aligned to and with room for `size` bytes, a power of two.
    #[inline(always)]
    unsafe fn at(self, size: u64) -> *const u8 {
        let offset = self.offset & (CHUNK_BYTES as u64 - size);
        // SAFETY: below CHUNK_BYTES.
        unsafe { self.chunk.add(offset as usize) }
    }
}
