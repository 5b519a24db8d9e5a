//! The counts behind the ledger, one set per CPU.

/// Number of counters.
pub const COUNTERS: usize = Counter::CodeLost as usize + 1;

/// The value of the per-CPU map `COUNTERS`.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Counters {
    /// Indexed by [`Counter`].
    pub values: [u64; COUNTERS],
}

const _: () = assert!(size_of::<Counters>() == 8 * COUNTERS);

/// What is counted. Every path through a program ends in exactly one of
/// idle, filtered, unsampled or counted of its event; every counted sample is
/// either in the ring buffer or in a `Lost` counter.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Counter {
    /// cpu: runs of the program while enabled.
    CpuObserved = 0,
    /// cpu: the idle task was running.
    CpuIdle,
    /// cpu: not the target.
    CpuFiltered,
    /// cpu: chosen to be delivered.
    CpuCounted,
    /// cpu: the ring buffer was full.
    CpuLostRing,
    /// offcpu: waits that ended.
    OffcpuObserved,
    /// offcpu: not the target.
    OffcpuFiltered,
    /// offcpu: left out by the sampling decision.
    OffcpuUnsampled,
    /// offcpu: chosen to be delivered.
    OffcpuCounted,
    /// offcpu: the ring buffer was full.
    OffcpuLostRing,
    /// offcpu: no room to keep a thread's state; the wait was seen, its length not.
    OffcpuLostTracking,
    /// offcpu: exact sum of the waits of targets, ns.
    OffcpuExactNs,
    /// offcpu: account of an exited thread that the ring buffer had no room for.
    OffcpuLostAccount,
    /// io: completed requests, and requests of others than the target.
    IoObserved,
    /// io: not the target.
    IoFiltered,
    /// io: left out by the sampling decision.
    IoUnsampled,
    /// io: chosen to be delivered.
    IoCounted,
    /// io: the ring buffer was full.
    IoLostRing,
    /// io: no room to keep a request's start; counted when it was issued.
    IoLostTracking,
    /// io: exact sum of device latencies of targets, ns.
    IoExactNs,
    /// io: no room for another device and operation; the request is missing from the totals only.
    IoLostTotals,
    /// A stack (not its sample) that the ring buffer had no room for.
    StackLost,
    /// A forked child that map `PIDS` had no room for.
    ForkLost,
    /// A copy of a stack that ring buffer `COPIES` had no room for.
    CopyLost,
    /// The name of interpreted code that the ring buffer had no room for; it is
    /// sent again when it is met again.
    CodeLost,
}
