//! Profiles: samples, and what a sample refers to.

use crate::event::Event;
use crate::wire_enum::wire_enum;

macro_rules! ids {
    ($( $(#[$doc:meta])* $name:ident, )*) => { $(
        $(#[$doc])*
        ///
        /// Belongs to the [`Dictionary`](crate::Dictionary) that made it; 0 is "none".
        #[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Default)]
        pub struct $name(u32);

        impl $name {
            /// Refers to nothing.
            pub const NONE: Self = Self(0);

            pub(crate) fn from_raw(raw: u32) -> Self {
                Self(raw)
            }

            pub(crate) fn raw(self) -> u32 {
                self.0
            }

            /// The id as a number, for tables beside the dictionary: 0 is "none", the first
            /// entry is 1.
            pub fn index(self) -> usize {
                self.0 as usize
            }

            /// Whether it refers to nothing.
            pub fn is_none(self) -> bool {
                self.0 == 0
            }
        }
    )* };
}

ids! {
    /// An interned string; none is the empty string.
    StrId,
    /// An interned [`Mapping`].
    MappingId,
    /// An interned [`Frame`].
    FrameId,
    /// An interned [`Stack`].
    StackId,
    /// An interned [`AttributeSet`].
    AttributesId,
    /// An interned [`Process`].
    ProcessId,
    /// An interned [`Thread`].
    ThreadId,
}

/// A file, or something file-like such as `[vdso]`, that code was mapped from.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Default)]
pub struct Mapping {
    /// Path as the process saw it.
    pub path: StrId,
    /// GNU build-id, empty where there is none or it could not be read.
    pub build_id: Vec<u8>,
}

wire_enum! {
    /// Whose code a frame is.
    FrameKind {
        /// Of the process.
        User => "user",
        /// Of the kernel.
        Kernel => "kernel",
        /// A function of a script, run by an interpreter in the process.
        Interpreted => "interpreted",
    }
}

/// One level of a stack.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Default)]
pub struct Frame {
    /// Whose code it is.
    pub kind: FrameKind,
    /// Where the code comes from; none where the address lies in no known mapping.
    pub mapping: MappingId,
    /// Offset in the mapped file; the address itself where there is no mapping. Of an interpreted
    /// frame that has a name: 0.
    pub address: u64,
    /// Innermost inlined function first, the function that holds the code last. Empty while the
    /// frame has no name.
    pub lines: Vec<Line>,
}

/// A function at a place in the source.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Default)]
pub struct Line {
    /// Function, demangled.
    pub function: StrId,
    /// Source file; none where unknown.
    pub file: StrId,
    /// Line number; 0 where unknown.
    pub line: u32,
}

wire_enum! {
    /// How the walk of one part of a stack ended.
    StackEnd {
        /// There is no such part: the user part of a kernel thread, the kernel part of a tick in
        /// user mode.
        None => "no such part",
        /// Walked to the root of the thread.
        Whole => "whole",
        /// The chain of frame pointers ended. That it is the root cannot be proven.
        FramePointers => "end of the frame pointers",
        /// Cut at the deepest level the kernel side keeps; the leaf part is here.
        Cut => "cut at the depth limit",
        /// The kernel could not read the stack at all.
        Unreadable => "unreadable",
        /// Taken, but lost on the way to the agent.
        Lost => "lost on the way",
        /// A wait that had not ended when the capture did: the user part of a thread that is not
        /// running cannot be walked.
        NotRunning => "thread not running",
        /// The file says nothing of how to unwind this code, and the frame pointer leads nowhere.
        NoRule => "no unwind rule",
        /// The walk came to an address that lies in no executable mapping.
        NoMapping => "address outside of all code",
        /// The process or the code was new, and its unwind table not there yet.
        NoTable => "unwind table not loaded yet",
        /// A rule that the unwinder cannot follow.
        Unsupported => "rule not supported",
        /// A process of 32 bits, which is not unwound.
        Compat => "32-bit process",
        /// The next frame would not lie above this one.
        NoProgress => "stack did not advance",
    }
}

wire_enum! {
    /// How the user part of a stack was walked. Captures of agents that knew one way only do not
    /// say.
    UnwindMethod {
        /// Not at all: there is no such part, or nothing of it could be had.
        None => "not walked",
        /// In the kernel, along frame pointers alone.
        FramePointers => "frame pointers",
        /// In the kernel, by unwind tables, every frame of it.
        Tables => "unwind tables",
        /// In the kernel, by tables, and past code without one by the frame pointer.
        Mixed => "tables and frame pointers",
        /// In the agent, from a copy of the stack.
        Copy => "copy of the stack",
    }
}

/// The user and the kernel part of a stack, each leaf first.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Default)]
pub struct Stack {
    /// Frames in the process.
    pub user: Vec<FrameId>,
    /// How the walk of the user part ended.
    pub user_end: StackEnd,
    /// How the user part was walked.
    pub user_method: UnwindMethod,
    /// Frames in the kernel.
    pub kernel: Vec<FrameId>,
    /// How the walk of the kernel part ended.
    pub kernel_end: StackEnd,
}

/// Something that is known of a sample beside its stack. Ordered by key, then by value.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub enum Attribute {
    /// `blocked` or `runnable`.
    WaitClass(StrId),
    /// `unfinished` (began in the window and was still going on when it ended) or
    /// `whole-window` (the thread did not run at all in the window).
    WaitExtent(StrId),
    /// Name of the block device, or `major:minor`.
    Device(StrId),
    /// `read`, `write`, `flush`, `discard`, ...
    Operation(StrId),
    /// Size of one I/O in bytes.
    IoBytes(u64),
    /// Time from queueing to issue, nanoseconds.
    QueueNs(u64),
}

/// The name of an [`Attribute`].
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub enum AttributeKey {
    /// Of [`Attribute::WaitClass`].
    WaitClass,
    /// Of [`Attribute::WaitExtent`].
    WaitExtent,
    /// Of [`Attribute::Device`].
    Device,
    /// Of [`Attribute::Operation`].
    Operation,
    /// Of [`Attribute::IoBytes`].
    IoBytes,
    /// Of [`Attribute::QueueNs`].
    QueueNs,
}

impl AttributeKey {
    /// In words, for people.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::WaitClass => "wait class",
            Self::WaitExtent => "wait extent",
            Self::Device => "device",
            Self::Operation => "operation",
            Self::IoBytes => "I/O size",
            Self::QueueNs => "queue time",
        }
    }
}

impl Attribute {
    /// Its name.
    pub fn key(&self) -> AttributeKey {
        match self {
            Self::WaitClass(_) => AttributeKey::WaitClass,
            Self::WaitExtent(_) => AttributeKey::WaitExtent,
            Self::Device(_) => AttributeKey::Device,
            Self::Operation(_) => AttributeKey::Operation,
            Self::IoBytes(_) => AttributeKey::IoBytes,
            Self::QueueNs(_) => AttributeKey::QueueNs,
        }
    }

    /// Its value where that is a string.
    pub fn string(&self) -> Option<StrId> {
        match *self {
            Self::WaitClass(id) | Self::WaitExtent(id) | Self::Device(id) | Self::Operation(id) => {
                Some(id)
            }
            Self::IoBytes(_) | Self::QueueNs(_) => None,
        }
    }

    /// Its value where that is a number.
    pub fn number(&self) -> Option<u64> {
        match *self {
            Self::IoBytes(number) | Self::QueueNs(number) => Some(number),
            _ => None,
        }
    }

    /// The same attribute with its string, if it has one, replaced.
    pub(crate) fn map_string(self, map: impl FnOnce(StrId) -> StrId) -> Self {
        match self {
            Self::WaitClass(id) => Self::WaitClass(map(id)),
            Self::WaitExtent(id) => Self::WaitExtent(map(id)),
            Self::Device(id) => Self::Device(map(id)),
            Self::Operation(id) => Self::Operation(map(id)),
            Self::IoBytes(_) | Self::QueueNs(_) => self,
        }
    }
}

/// Attributes, sorted by key, at most one per key.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Default)]
pub struct AttributeSet(Vec<Attribute>);

impl AttributeSet {
    pub(crate) const EMPTY: Self = Self(Vec::new());

    /// Sorts the attributes. Of several with one key the smallest value stays.
    pub fn new(mut attributes: Vec<Attribute>) -> Self {
        attributes.sort_unstable();
        attributes.dedup_by_key(|attribute| attribute.key());
        Self(attributes)
    }

    /// The attributes, sorted by key.
    pub fn as_slice(&self) -> &[Attribute] {
        &self.0
    }

    /// The attribute with this key.
    pub fn get(&self, key: AttributeKey) -> Option<Attribute> {
        self.0.iter().copied().find(|one| one.key() == key)
    }

    /// The string of the attribute with this key.
    pub fn string(&self, key: AttributeKey) -> Option<StrId> {
        self.get(key).and_then(|attribute| attribute.string())
    }

    /// The number of the attribute with this key.
    pub fn number(&self, key: AttributeKey) -> Option<u64> {
        self.get(key).and_then(|attribute| attribute.number())
    }
}

/// A process between two calls of `exec`.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Default)]
pub struct Process {
    /// Process id (thread group id) in the host's pid namespace.
    pub pid: u32,
    /// Start, nanoseconds since boot (`CLOCK_BOOTTIME`).
    pub start_ns: u64,
    /// How often the task has called exec, as the kernel counts it (`self_exec_id`).
    pub exec_generation: u64,
    /// Command name of the thread group leader.
    pub comm: StrId,
    /// Path of the executable.
    pub executable: StrId,
    /// Path below the cgroup mount.
    pub cgroup: StrId,
    /// Container id; none where there is none.
    pub container: StrId,
    /// Host, in a capture merged from several; none means the one host of the capture.
    pub host: StrId,
}

/// A thread.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Default)]
pub struct Thread {
    /// The process it belongs to.
    pub process: ProcessId,
    /// Thread id in the host's pid namespace.
    pub tid: u32,
    /// Start, nanoseconds since boot (`CLOCK_BOOTTIME`).
    pub start_ns: u64,
    /// Command name of the thread when it was first sampled.
    pub comm: StrId,
}

/// One measurement, or several that are alike.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Default)]
pub struct Sample {
    /// UTC nanoseconds since the epoch.
    pub time_ns: u64,
    /// The thread that was measured.
    pub thread: ThreadId,
    /// Its stack.
    pub stack: StackId,
    /// What else is known.
    pub attributes: AttributesId,
    /// What the sample stands for: nanoseconds of CPU time (cpu), of waiting (offcpu), of device
    /// latency (io).
    pub weight: u64,
    /// How many measurements it holds.
    pub count: u64,
}

/// All samples of one event.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Profile {
    /// What was measured.
    pub event: Event,
    /// The samples.
    pub samples: Vec<Sample>,
}
