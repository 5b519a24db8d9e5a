//! The records in the ring buffer and in the task iterator's output. Each
//! begins with a [`RecordHeader`]; `size` covers the header and whatever
//! follows it, so that a reader can step over a kind it does not know.

#[cfg(feature = "user")]
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Deepest stack kept per part: the kernel's own limit for a callchain
/// (`kernel.perf_event_max_stack`, 127 unless raised).
pub const MAX_FRAMES: usize = 127;

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

/// How a part of a stack ended; the values of the `_end` fields.
pub mod stack_end {
    /// There is no such part.
    pub const NONE: u8 = 0;
    /// The kernel's own walk ended by itself.
    pub const WHOLE: u8 = 1;
    /// The chain of frame pointers ended; whether at the root is not known.
    pub const FRAME_POINTERS: u8 = 2;
    /// More than [`super::MAX_FRAMES`] deep; the leaf part is kept.
    pub const CUT: u8 = 3;
    /// The walk failed.
    pub const UNREADABLE: u8 = 4;
    /// The stack was taken, but its record found no room in the ring buffer.
    pub const LOST: u8 = 5;
    /// The thread is not running, so its user part cannot be walked.
    pub const NOT_RUNNING: u8 = 6;
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
    /// Named padding.
    pub pad: u32,
    /// Leaf first.
    pub frames: [u64; MAX_FRAMES],
}

/// Bytes of a [`StackRecord`] before its frames.
pub const STACK_RECORD_HEADER: usize = 24;

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
    /// Named padding.
    pub pad: [u8; 6],
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
    assert!(size_of::<StackRecord>() == STACK_RECORD_HEADER + 8 * MAX_FRAMES);
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
