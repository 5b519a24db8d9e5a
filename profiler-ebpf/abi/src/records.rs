//! The records in the ring buffer and in the task iterator's output. Each
//! begins with a [`RecordHeader`]; `size` covers the header and whatever
//! follows it, so that a reader can step over a kind it does not know.

#[cfg(feature = "user")]
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Deepest kernel stack kept, and deepest user stack where the kernel walks it
/// by frame pointers: the kernel's own limit for a callchain
/// (`kernel.perf_event_max_stack`, 127 unless raised).
pub const MAX_FRAMES: usize = 127;

/// Deepest user stack kept where the unwinder walks it. Costs 4 KiB per CPU and
/// kind of program; recursions deeper than this repeat themselves.
pub const MAX_USER_FRAMES: usize = 512;

/// Most frames kept of an interpreter's stack.
pub const MAX_RUNTIME_FRAMES: usize = 256;

/// Words of [`StackRecord::frames`].
pub const STACK_WORDS: usize = MAX_USER_FRAMES + 2 * MAX_RUNTIME_FRAMES;

/// First in every record.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "user", derive(FromBytes, IntoBytes, Immutable, KnownLayout))]
pub struct RecordHeader {
    /// One of the `KIND_` constants.
    pub kind: u32,
    /// Bytes of the whole record.
    pub size: u32,
}

/// [`StackRecord`].
pub const KIND_STACK: u32 = 1;
/// [`CpuSample`].
pub const KIND_CPU: u32 = 2;
/// [`OffcpuSample`].
pub const KIND_OFFCPU: u32 = 3;
/// [`IoSample`].
pub const KIND_IO: u32 = 4;
/// [`ThreadAccount`], followed by `kernel_frames` addresses.
pub const KIND_ACCOUNT: u32 = 5;
/// [`StackCopy`].
pub const KIND_STACK_COPY: u32 = 6;

/// How a part of a stack ended; the values of the `_end` fields.
pub mod stack_end {
    /// There is no such part.
    pub const NONE: u8 = 0;
    /// The kernel's own walk ended by itself, or the unwinder came to the
    /// thread's outermost frame.
    pub const WHOLE: u8 = 1;
    /// The chain of frame pointers ended; whether at the root is not known.
    pub const FRAME_POINTERS: u8 = 2;
    /// Deeper than what is kept; the leaf part is.
    pub const CUT: u8 = 3;
    /// Memory of the stack could not be read.
    pub const UNREADABLE: u8 = 4;
    /// The stack was taken, but its record found no room in the ring buffer.
    pub const LOST: u8 = 5;
    /// The thread is not running, so its user part cannot be walked.
    pub const NOT_RUNNING: u8 = 6;
    /// The file says nothing of how to unwind this code, and the frame pointer
    /// leads nowhere.
    pub const NO_RULE: u8 = 7;
    /// An address that lies in no executable mapping: not a frame.
    pub const NO_MAPPING: u8 = 8;
    /// The process or the code is new, its table was not there yet, and no copy
    /// of the stack could be taken.
    pub const NO_TABLE: u8 = 9;
    /// A rule that the unwinder cannot follow.
    pub const UNSUPPORTED: u8 = 10;
    /// Not ended: the rest is for userspace to walk, from the [`super::StackCopy`]
    /// with this id.
    pub const COPIED: u8 = 11;
    /// A process of 32 bits.
    pub const COMPAT: u8 = 12;
    /// The next frame would not lie above this one.
    pub const NO_PROGRESS: u8 = 13;
}

/// How the user part of a stack was walked; the values of
/// [`StackIds::user_method`].
pub mod unwind_method {
    /// Not at all.
    pub const NONE: u8 = 0;
    /// By the kernel, along frame pointers alone.
    pub const FRAME_POINTERS: u8 = 1;
    /// By tables, every frame of it.
    pub const TABLES: u8 = 2;
    /// By tables, and past code without one by the frame pointer.
    pub const MIXED: u8 = 3;
    /// In userspace, from a copy of the stack.
    pub const COPY: u8 = 4;
}

/// A stack, sent once before the first sample that refers to it. It may be
/// sent again when the kernel side has forgotten that it was.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
#[cfg_attr(feature = "user", derive(FromBytes, IntoBytes, Immutable, KnownLayout))]
pub struct StackRecord {
    /// `size` covers `frames[..len]` only.
    pub header: RecordHeader,
    /// Hash of the frames; never 0.
    pub id: u64,
    /// Addresses in `frames`.
    pub len: u32,
    /// Frames of an interpreter, two words each, behind the addresses: see
    /// [`RuntimeFrame`].
    pub runtime_len: u32,
    /// Leaf first.
    pub frames: [u64; STACK_WORDS],
}

/// Bit of an address in [`StackRecord::frames`]: the frame was interrupted there
/// by a signal. All others behind the first are return addresses. No address of
/// a process has this bit.
pub const INTERRUPTED: u64 = 1 << 63;

/// The same of a frame of the function that runs an interpreter's code.
pub const RUNS_INTERPRETER: u64 = 1 << 62;

/// Bytes of a [`StackRecord`] before its frames.
pub const STACK_RECORD_HEADER: usize = 24;

/// Most bytes copied of a stack.
pub const STACK_COPY_BYTES: usize = 16 << 10;

/// Registers of a thread: those that DWARF gives a number, and the program counter.
pub const REGISTERS: usize = 33;

/// The begin of a user stack that userspace has to walk. Goes through ring
/// buffer `COPIES`, before the sample that refers to it.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
#[cfg_attr(feature = "user", derive(FromBytes, IntoBytes, Immutable, KnownLayout))]
pub struct StackCopy {
    /// Kind [`KIND_STACK_COPY`]; `size` covers `bytes[..len]` only.
    pub header: RecordHeader,
    /// Of this copy alone; [`StackIds::user`] of its sample.
    pub id: u64,
    /// [`StackRecord::id`] of the frames below, which the kernel side has
    /// walked, and of those of an interpreter; 0: neither. Where all registers
    /// are known, the program counter is exact.
    pub walked: u64,
    /// When.
    pub time_ns: u64,
    /// Whose.
    pub identity: Identity,
    /// Bytes of `bytes`.
    pub len: u32,
    /// Named padding.
    pub pad: u32,
    /// Bit `n`: register `n` is known.
    pub known: u64,
    /// Indexed by DWARF number: on x86-64 up to 16, the program counter; on
    /// aarch64 up to 31, the stack pointer, and 32, the program counter.
    pub registers: [u64; REGISTERS],
    /// Memory from the stack pointer on.
    pub bytes: [u8; STACK_COPY_BYTES],
}

/// Bytes of a [`StackCopy`] before its memory.
pub const STACK_COPY_HEADER: usize = 104 + 8 * REGISTERS;

/// A frame of an interpreter.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "user", derive(FromBytes, IntoBytes, Immutable, KnownLayout))]
pub struct RuntimeFrame {
    /// What names the function, such as the address of its code object.
    pub code: u64,
    /// Where in it. Its upper bits are [`RuntimeFrame::ENTRY`] and a checksum
    /// that tells code objects at one address apart.
    pub place: u64,
}

impl RuntimeFrame {
    /// Bit of `place`: the machine code frame that runs the interpreter was
    /// entered for this frame; the next one belongs to the next such frame.
    pub const ENTRY: u64 = 1 << 32;
}

/// Who was measured.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "user", derive(FromBytes, IntoBytes, Immutable, KnownLayout))]
pub struct Identity {
    /// Process id.
    pub tgid: u32,
    /// Thread id.
    pub tid: u32,
    /// Start of the thread group's leader, CLOCK_BOOTTIME ns.
    pub process_start_ns: u64,
    /// Start of the thread, CLOCK_BOOTTIME ns.
    pub thread_start_ns: u64,
    /// `self_exec_id`: grows with every exec.
    pub exec_id: u64,
    /// Command name of the thread, NUL-padded.
    pub comm: [u8; 16],
    /// Whether it is a kernel thread.
    pub kernel_thread: u32,
    /// Process id of the parent.
    pub parent: u32,
}

/// The two parts of a stack, by id.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "user", derive(FromBytes, IntoBytes, Immutable, KnownLayout))]
pub struct StackIds {
    /// [`StackRecord::id`] of the user part, 0 where it has no frames.
    pub user: u64,
    /// The same for the kernel part.
    pub kernel: u64,
    /// [`stack_end`] of the user part.
    pub user_end: u8,
    /// [`stack_end`] of the kernel part.
    pub kernel_end: u8,
    /// [`unwind_method`] of the user part.
    pub user_method: u8,
    /// Named padding.
    pub pad: [u8; 5],
}

/// A tick that found a target running.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
#[cfg_attr(feature = "user", derive(FromBytes, IntoBytes, Immutable, KnownLayout))]
pub struct CpuSample {
    /// Kind [`KIND_CPU`].
    pub header: RecordHeader,
    /// When.
    pub time_ns: u64,
    /// Who.
    pub identity: Identity,
    /// Where.
    pub stack: StackIds,
}

/// A wait that ended and was chosen.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
#[cfg_attr(feature = "user", derive(FromBytes, IntoBytes, Immutable, KnownLayout))]
pub struct OffcpuSample {
    /// Kind [`KIND_OFFCPU`].
    pub header: RecordHeader,
    /// When the wait ended.
    pub time_ns: u64,
    /// Who.
    pub identity: Identity,
    /// Where.
    pub stack: StackIds,
    /// Length of the wait.
    pub duration_ns: u64,
    /// The end of the wait in which the thread was runnable. All of it where
    /// the CPU was taken from the thread.
    pub runnable_ns: u64,
    /// What the sample stands for: `duration / probability of being chosen`.
    pub weight_ns: u64,
}

/// A wait that was chosen and whose thread is about to resume: the value of
/// the per-CPU map `CHOSEN`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
#[cfg_attr(feature = "user", derive(FromBytes, IntoBytes, Immutable, KnownLayout))]
pub struct ChosenWait {
    /// 1 until the thread has resumed, then 0.
    pub pending: u64,
    /// Who.
    pub identity: Identity,
    /// When the wait ended.
    pub ended_ns: u64,
    /// Length of the wait.
    pub duration_ns: u64,
    /// As in [`OffcpuSample`].
    pub weight_ns: u64,
    /// The kernel's run delay of the thread when the wait began; `u64::MAX`
    /// where all of the wait was runnable.
    pub run_delay_before_ns: u64,
}

/// A completed block request that was chosen.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
#[cfg_attr(feature = "user", derive(FromBytes, IntoBytes, Immutable, KnownLayout))]
pub struct IoSample {
    /// Kind [`KIND_IO`].
    pub header: RecordHeader,
    /// When it completed.
    pub time_ns: u64,
    /// Who submitted it.
    pub identity: Identity,
    /// Where.
    pub stack: StackIds,
    /// Device and operation.
    pub key: IoKey,
    /// Size.
    pub bytes: u64,
    /// From queueing to issue.
    pub queue_ns: u64,
    /// From issue to completion.
    pub device_ns: u64,
    /// Probability with which it was chosen, in units of `2^-32`.
    pub probability: u64,
}

/// Key of map `IO_TOTALS`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "user", derive(FromBytes, IntoBytes, Immutable, KnownLayout))]
pub struct IoKey {
    /// Major number of the disk.
    pub major: u32,
    /// First minor number of the disk.
    pub minor: u32,
    /// `REQ_OP_*`: the low 8 bits of `request.cmd_flags`.
    pub operation: u32,
    /// Named padding.
    pub pad: u32,
}

/// Buckets of a latency histogram: bucket `i` holds `[2^i, 2^(i+1))` ns, 0 with
/// bucket 0. 2^40 ns is 18 minutes; what takes longer is in the last.
pub const IO_BUCKETS: usize = 40;

/// Exact totals of one device and operation: a value of map `IO_TOTALS`.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
#[cfg_attr(feature = "user", derive(FromBytes, IntoBytes, Immutable, KnownLayout))]
pub struct IoTotals {
    /// Completed requests.
    pub count: u64,
    /// Bytes of them.
    pub bytes: u64,
    /// Requests that completed with an error.
    pub errors: u64,
    /// Sum of times from queueing to issue.
    pub queue_ns: u64,
    /// Sum of times from issue to completion.
    pub device_ns: u64,
    /// Histogram of the former.
    pub queue: [u64; IO_BUCKETS],
    /// Histogram of the latter.
    pub device: [u64; IO_BUCKETS],
}

/// Exact times of one thread since the session began, sent when it exits and
/// read for every thread at the end of the session.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
#[cfg_attr(feature = "user", derive(FromBytes, IntoBytes, Immutable, KnownLayout))]
pub struct ThreadAccount {
    /// Kind [`KIND_ACCOUNT`].
    pub header: RecordHeader,
    /// When it was taken.
    pub time_ns: u64,
    /// Who.
    pub identity: Identity,
    /// Time on a CPU.
    pub on_cpu_ns: u64,
    /// Time runnable without a CPU, waits that are over.
    pub runnable_ns: u64,
    /// Time blocked, waits that are over.
    pub blocked_ns: u64,
    /// Waits over that began by giving up the CPU.
    pub blocked_count: u64,
    /// Waits over that began by losing the CPU.
    pub runnable_count: u64,
    /// Time since the session or the thread began, whichever is later.
    pub wall_ns: u64,
    /// Length of the wait that is going on, 0 where the thread runs or has exited.
    pub unfinished_ns: u64,
    /// Whether the wait that is going on began by losing the CPU or the thread
    /// has been woken since.
    pub unfinished_runnable: u32,
    /// Whether the thread was on a CPU at all since the session began.
    pub has_run: u32,
    /// Addresses of the kernel stack that follow, leaf first.
    pub kernel_frames: u32,
    /// [`stack_end`] of that stack.
    pub kernel_end: u32,
}

const _: () = {
    assert!(size_of::<RecordHeader>() == 8);
    assert!(core::mem::offset_of!(StackRecord, frames) == STACK_RECORD_HEADER);
    assert!(size_of::<StackRecord>() == STACK_RECORD_HEADER + 8 * STACK_WORDS);
    assert!(core::mem::offset_of!(StackCopy, bytes) == STACK_COPY_HEADER);
    assert!(size_of::<StackCopy>() == STACK_COPY_HEADER + STACK_COPY_BYTES);
    assert!(size_of::<RuntimeFrame>() == 16);
    assert!(size_of::<Identity>() == 56);
    assert!(size_of::<StackIds>() == 24);
    assert!(size_of::<CpuSample>() == 96);
    assert!(size_of::<OffcpuSample>() == 120);
    assert!(size_of::<ChosenWait>() == 96);
    assert!(size_of::<IoSample>() == 144);
    assert!(size_of::<IoKey>() == 16);
    assert!(size_of::<IoTotals>() == 40 + 16 * IO_BUCKETS);
    assert!(size_of::<ThreadAccount>() == 144);
};
