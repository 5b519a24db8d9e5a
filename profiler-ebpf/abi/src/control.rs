//! What the agent sets for the kernel programs while they run.

/// The one entry of map `CONTROL`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct Control {
    /// Programs count and emit only while this is not 0, so that all of them
    /// begin and end together however long attaching takes.
    pub enabled: u64,
    /// When `enabled` was set.
    pub session_start_ns: u64,
    /// When `enabled` was cleared: up to then unfinished waits are accounted.
    pub session_end_ns: u64,
    /// A wait of `d` ns is sampled with probability `min(1, d / threshold)`.
    pub offcpu_threshold_ns: u64,
    /// A request is sampled with probability `io_probability / 2^32`;
    /// `2^32` means always.
    pub io_probability: u64,
}

const _: () = assert!(size_of::<Control>() == 40);

/// Which kinds of target are asked for; bits of [`crate::Offsets::target_flags`].
/// None set: the whole host.
pub struct TargetFlags;

impl TargetFlags {
    /// The process must be in map `PIDS`.
    pub const PIDS: u64 = 1;
    /// Children of processes in `PIDS` are added to it.
    pub const FOLLOW_FORKS: u64 = 2;
    /// The command name of the thread or its process must be in map `COMMS`.
    pub const COMMS: u64 = 4;
    /// The thread must be in the cgroup `target_cgroup` or below it.
    pub const CGROUP: u64 = 8;
}
