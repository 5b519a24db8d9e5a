//! Unwind tables as the kernel programs read them.
//!
//! All of it lies in the *heap*: chunks of [`CHUNK_BYTES`], each the only value
//! of an array map of its own, which the agent maps and writes. A [`HeapRef`]
//! names a place in it. Nothing crosses the end of a chunk, and nothing is
//! changed while a program can reach it: what replaces it is written elsewhere,
//! and the old place is used again when no program can be in it any more.
//!
//! ```text
//! PROCESSES[tgid] -> ProcessEntry -> [MappingEntry], sorted by address
//!                                     -> TableHead, its page directory and its rules
//!                                         -> page: granule index, rows
//! ```

#[cfg(feature = "user")]
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Bytes of one chunk of the heap.
pub const CHUNK_BYTES: usize = 1 << 21;

/// Most chunks of the heap: 128 MiB.
pub const MAX_CHUNKS: usize = 64;

/// Most processes that have tables at one time.
pub const MAX_PROCESSES: u32 = 16_384;

/// A place in the heap, in units of 8 bytes from the start of chunk 0; 0 is
/// nowhere, and the first 8 bytes of chunk 0 stay unused.
pub type HeapRef = u32;

/// Bits of a [`HeapRef`] that are the place in its chunk.
pub const HEAP_REF_BITS: u32 = CHUNK_BYTES.trailing_zeros() - 3;

/// Value of map `PROCESSES`, whose key is a process id. The kernel side deletes
/// it when the process calls `exec`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "user", derive(FromBytes, IntoBytes, Immutable, KnownLayout))]
pub struct ProcessEntry {
    /// Start of the thread group's leader, CLOCK_BOOTTIME ns: another process
    /// with this id is not meant.
    pub start_ns: u64,
    /// `self_exec_id` of its tasks: the code of another program is not meant.
    pub exec_id: u64,
    /// Different for every list of mappings there has ever been: what is cached
    /// under one number never changes.
    pub generation: u64,
    /// The list: [`MappingEntry`]s.
    pub mappings: HeapRef,
    /// How many.
    pub mapping_count: u32,
    /// What is known of its interpreter, of the kind of the first `u32` there;
    /// 0: none.
    pub runtime: HeapRef,
    /// [`Self::sum`]: the map's memory is used again at once, and a program may
    /// read half of what was there before.
    pub check: u32,
}

impl ProcessEntry {
    /// A number that all other fields depend on.
    #[inline(always)]
    pub fn sum(&self) -> u32 {
        let lists = u64::from(self.mappings) << 32 | u64::from(self.runtime);
        let process = self.start_ns ^ self.exec_id.rotate_left(40);
        let all = (process ^ self.generation.rotate_left(17) ^ lists)
            .wrapping_add(u64::from(self.mapping_count))
            .wrapping_mul(0x9e37_79b9_7f4a_7c15);
        (all >> 32) as u32
    }

    /// With its check.
    pub fn sealed(self) -> Self {
        Self {
            check: self.sum(),
            ..self
        }
    }
}

/// One executable mapping of a process.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "user", derive(FromBytes, IntoBytes, Immutable, KnownLayout))]
pub struct MappingEntry {
    /// First address.
    pub start: u64,
    /// One past the last.
    pub end: u64,
    /// Address where the table's address 0 lies: `pc - bias` is looked up.
    /// May wrap around.
    pub bias: u64,
    /// Of a [`TableHead`], where `kind` is [`mapping_kind::TABLE`].
    pub table: HeapRef,
    /// A [`mapping_kind`].
    pub kind: u32,
}

/// What code a mapping holds.
pub mod mapping_kind {
    /// That of a file with a table.
    pub const TABLE: u32 = 0;
    /// That of a file whose table is not there yet.
    pub const PENDING: u32 = 1;
    /// That of a file that says nothing of how to unwind it, or whose table was
    /// refused: only the frame pointer is left.
    pub const NO_TABLE: u32 = 2;
    /// Made at run time: the frame pointer is all there is.
    pub const JIT: u32 = 3;
}

/// Bits of an address that select a place in a page.
pub const PAGE_BITS: u32 = 16;

/// Bits of an address that select a place in a granule.
pub const GRANULE_BITS: u32 = 10;

/// Granules of a page.
pub const GRANULES: usize = 1 << (PAGE_BITS - GRANULE_BITS);

/// Most rows of a page: one for each 4 bytes. A page that needs more has a
/// single row with rule [`NO_RULE`].
pub const MAX_PAGE_ROWS: usize = 1 << 14;

/// Steps of the search in a granule: 2^10 addresses, one row each at most.
pub const SEARCH_STEPS: u32 = GRANULE_BITS;

/// Most pages of a table: 4 GiB of code.
pub const MAX_PAGES: u32 = 1 << 16;

/// A table. Behind it come `pages` [`HeapRef`]s, one for each page of
/// addresses, 0 where no address of the page has a rule; at `rules_offset` come
/// `rules` [`Rule`]s. All of it in one chunk.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "user", derive(FromBytes, IntoBytes, Immutable, KnownLayout))]
pub struct TableHead {
    /// Pages of the directory.
    pub pages: u32,
    /// Rules.
    pub rules: u32,
    /// From the head to the rules, in bytes; a multiple of 8.
    pub rules_offset: u32,
    /// Named padding.
    pub pad: u32,
}

/// Begin of a page; its [`Row`]s follow.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
#[cfg_attr(feature = "user", derive(FromBytes, IntoBytes, Immutable, KnownLayout))]
pub struct PageHead {
    /// For each granule the row that holds for its first address. Behind the
    /// last comes the last row of all.
    pub granules: [u16; GRANULES + 1],
    /// Named padding.
    pub pad: u16,
}

/// From `pc` on, up to the next row, `rule` holds. The first row of a page has
/// `pc` 0.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "user", derive(FromBytes, IntoBytes, Immutable, KnownLayout))]
pub struct Row {
    /// Place in the page.
    pub pc: u16,
    /// Index of a [`Rule`] of the table, or [`NO_RULE`].
    pub rule: u16,
}

/// [`Row::rule`] where the file has no rule: gaps between functions, functions
/// without unwind information.
pub const NO_RULE: u16 = u16::MAX;

/// How to get from a frame to its caller.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "user", derive(FromBytes, IntoBytes, Immutable, KnownLayout))]
pub struct Rule {
    /// A [`cfa`] constant.
    pub cfa: u8,
    /// A [`saved`] constant: where the caller's frame pointer is.
    pub frame_pointer: u8,
    /// A [`saved`] constant: where the return address is. On x86-64 always
    /// [`saved::AT_CFA`] at -8, but for [`cfa::SIGNAL`] and [`cfa::END`].
    pub return_address: u8,
    /// A [`runtime_kind`]: the function that runs an interpreter's code.
    pub runtime: u8,
    /// Added to what `cfa` names.
    pub cfa_offset: i32,
    /// Of the frame pointer, in bytes.
    pub frame_pointer_offset: i16,
    /// Of the return address, in bytes.
    pub return_address_offset: i16,
    /// Meaning depends on `cfa`.
    pub parameter: i32,
}

impl Rule {
    /// From the two words it is in memory.
    #[inline(always)]
    pub fn from_words(words: [u64; 2]) -> Self {
        let [low, high] = words;
        Self {
            cfa: low as u8,
            frame_pointer: (low >> 8) as u8,
            return_address: (low >> 16) as u8,
            runtime: (low >> 24) as u8,
            cfa_offset: (low >> 32) as i32,
            frame_pointer_offset: high as i16,
            return_address_offset: (high >> 16) as i16,
            parameter: (high >> 32) as i32,
        }
    }
}

/// How the canonical frame address is found.
pub mod cfa {
    /// It cannot be: not expressible here. Userspace can try, from a copy of the stack.
    pub const UNSUPPORTED: u8 = 0;
    /// Stack pointer + offset.
    pub const STACK_POINTER: u8 = 1;
    /// Frame pointer + offset. Where `parameter` is [`SWITCHED`], the function
    /// has gone to another stack, and its caller's frame need not lie above.
    pub const FRAME_POINTER: u8 = 2;
    /// What stands at stack pointer + offset, + parameter.
    pub const AT_STACK_POINTER: u8 = 3;
    /// What stands at frame pointer + offset, + parameter.
    pub const AT_FRAME_POINTER: u8 = 4;
    /// Register with the DWARF number `parameter` + offset. Known only in a
    /// leaf frame and in one that a signal interrupted.
    pub const REGISTER: u8 = 5;
    /// An entry of a procedure linkage table: stack pointer + offset, and 8
    /// more where `pc % 16 >= parameter`.
    pub const PLT: u8 = 6;
    /// The trampoline that a signal handler returns to: the registers of what
    /// was interrupted stand in the `ucontext` at stack pointer + offset.
    pub const SIGNAL: u8 = 7;
    /// The outermost frame: it has no caller.
    pub const END: u8 = 8;

    /// The `parameter` of a [`FRAME_POINTER`] rule of a function that switches
    /// stacks.
    pub const SWITCHED: i32 = 1;
}

/// Where a register of the caller is.
pub mod saved {
    /// Still in it.
    pub const SAME: u8 = 0;
    /// In memory, at the canonical frame address + offset.
    pub const AT_CFA: u8 = 1;
    /// In memory, at the frame pointer + offset.
    pub const AT_FRAME_POINTER: u8 = 2;
    /// In the link register (aarch64), which is known only in a leaf frame and
    /// in one that a signal interrupted.
    pub const LINK_REGISTER: u8 = 3;
    /// Nowhere.
    pub const UNDEFINED: u8 = 4;
}

/// Which interpreter.
pub mod runtime_kind {
    /// None: machine code.
    pub const NONE: u8 = 0;
    /// CPython.
    pub const PYTHON: u8 = 1;
}

const _: () = {
    assert!(size_of::<ProcessEntry>() == 40);
    assert!(size_of::<MappingEntry>() == 32);
    assert!(size_of::<TableHead>() == 16);
    assert!(size_of::<PageHead>() == 2 * (GRANULES + 2));
    assert!(size_of::<PageHead>().is_multiple_of(4));
    assert!(size_of::<Row>() == 4);
    assert!(size_of::<Rule>() == 16);
};
