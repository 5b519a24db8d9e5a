//! Block I/O: a request's way from submission to completion, keyed by the
//! request. Queue and device time are told apart, totals are exact, stacks are
//! taken where the request is made.

use aya_ebpf::{
    EbpfContext,
    helpers::{bpf_get_prandom_u32, bpf_ktime_get_ns, bpf_probe_read_kernel},
    macros::{btf_tracepoint, map},
    maps::{HashMap, PerCpuArray},
    programs::BtfTracePointContext,
};
use profiler_abi::{
    Control, Counter, IO_BUCKETS, Identity, IoKey, IoSample, IoTotals, KIND_IO, RecordHeader,
    StackIds,
};

use crate::{
    admit::admit,
    control::{add_atomic, atomic_add, offset, session},
    emit,
    stack::{self, Scratch},
    task::Task,
    unwind::Origin,
};

/// A request on its way.
#[repr(C)]
#[derive(Clone, Copy)]
struct Request {
    identity: Identity,
    stack: StackIds,
    /// When it was made or queued, 0 where that was not seen.
    queued_ns: u64,
    /// When it was given to the device, 0 until then.
    issued_ns: u64,
    key: IoKey,
    bytes: u64,
    /// Probability in units of 2^-32 with which it was chosen, 0 where it was
    /// not, [`NOT_OURS`] where it is not for a target.
    probability: u64,
}

/// Requests at one time; more are counted as lost. Deep NVMe queues hold 1023
/// per CPU, few hosts come near that on all of them.
#[map]
static REQUESTS: HashMap<u64, Request> = HashMap::with_max_entries(8192, 0);

/// Disk -> the last request that asked it for a flush.
#[map]
static FLUSHERS: HashMap<(u32, u32), Request> = HashMap::with_max_entries(64, 0);

/// Exact totals by device and operation.
#[map]
static IO_TOTALS: HashMap<IoKey, IoTotals> = HashMap::with_max_entries(256, 0);

/// Zeroes to begin a new entry of [`IO_TOTALS`] with, and room for a request:
/// both are too long for the stack of a program.
#[repr(C)]
#[derive(Clone, Copy)]
struct IoScratch {
    totals: IoTotals,
    request: Request,
}

#[map]
static IO_SCRATCH: PerCpuArray<IoScratch> = PerCpuArray::with_max_entries(3, 0);

const ALWAYS: u64 = 1 << 32;

/// [`Request::probability`] of a request of others. It is remembered so that it
/// is not taken for that of the thread that issues it.
const NOT_OURS: u64 = u64::MAX;

/// `REQ_OP_BITS` (include/linux/blk_types.h): the operation is in the low byte.
const OPERATION_MASK: u32 = 0xff;
/// `REQ_OP_FLUSH`.
const OPERATION_FLUSH: u32 = 2;

/// A field of a `struct request`.
#[inline(always)]
fn field<T: Copy + Default>(request: u64, offset: u64) -> T {
    // SAFETY: the helper checks the address.
    unsafe { bpf_probe_read_kernel((request + offset) as *const T).unwrap_or_default() }
}

#[inline(always)]
fn now() -> u64 {
    // SAFETY: a helper without arguments.
    unsafe { bpf_ktime_get_ns() }
}

/// Major and first minor number of the disk a request goes to. Requests without
/// a disk (passthrough) have 0:0.
#[inline(always)]
fn disk_of(request: u64) -> (u32, u32) {
    // SAFETY: reads constants.
    unsafe {
        let mut disk: u64 = field(request, offset!(rq_disk_or_queue));
        if offset!(queue_disk) != u64::MAX && disk != 0 {
            disk = field(disk, offset!(queue_disk));
        }
        if disk == 0 {
            return (0, 0);
        }
        (
            field(disk, offset!(disk_major)),
            field(disk, offset!(disk_first_minor)),
        )
    }
}

/// The disk a request goes to and what it asks for.
#[inline(always)]
fn key_of(request: u64) -> IoKey {
    let (major, minor) = disk_of(request);
    IoKey {
        major,
        minor,
        // SAFETY: reads a constant.
        operation: field::<u32>(request, unsafe { offset!(rq_cmd_flags) }) & OPERATION_MASK,
        pad: 0,
    }
}

/// A request is made, queued, or, where neither was seen, issued: who does it,
/// from where and when. The place it is described in is this program's until
/// the next request.
#[inline(always)]
fn describe(
    ctx: &BtfTracePointContext,
    session: &Control,
    scratch: Scratch,
    queued: bool,
) -> Option<&'static Request> {
    // Slots 1 and 2; completion has 0.
    let place = IO_SCRATCH.get_ptr_mut(scratch as u32 - Scratch::IoStart as u32 + 1)?;
    // SAFETY: per-CPU memory of this kind of program.
    let entry = unsafe { &mut (*place).request };
    entry.queued_ns = if queued { now() } else { 0 };
    entry.issued_ns = 0;
    entry.bytes = 0;
    let task = Task::current();
    if !admit(task) {
        add_atomic(Counter::IoObserved, 1);
        add_atomic(Counter::IoFiltered, 1);
        entry.probability = NOT_OURS;
        return Some(entry);
    }
    // SAFETY: a helper without arguments.
    let chosen = session.io_probability >= ALWAYS
        || u64::from(unsafe { bpf_get_prandom_u32() }) < session.io_probability;
    entry.identity = task.identity();
    entry.stack = if chosen {
        stack::capture(ctx.as_ptr(), Origin::Kernel, scratch, task)
    } else {
        StackIds::default()
    };
    entry.probability = if chosen {
        session.io_probability.min(ALWAYS)
    } else {
        0
    };
    Some(entry)
}

/// Remembers a request until it completes. Returns whether there was room.
#[inline(always)]
fn remember(request: u64, entry: &Request) -> bool {
    REQUESTS.insert(&request, entry, 0).is_ok()
}

/// A failure means that it was not there.
#[inline(always)]
fn forget(request: u64) {
    REQUESTS.remove(&request).ok();
}

/// The first that is seen of a request. Where there is no room to remember it,
/// the issue tries again.
#[inline(always)]
fn begin(ctx: &BtfTracePointContext, request: u64) {
    let Some(session) = session() else {
        return;
    };
    if let Some(known) = REQUESTS.get_ptr(&request) {
        // SAFETY: map memory. Completed requests are forgotten, so one that
        // was issued comes back to be queued again.
        if unsafe { (*known).issued_ns } != 0 {
            return;
        }
    }
    let Some(entry) = describe(ctx, session, Scratch::IoStart, true) else {
        return;
    };
    remember(request, entry);
    // SAFETY: reads constants.
    let (flags, flush_flags) = unsafe {
        (
            field::<u32>(request, offset!(rq_cmd_flags)),
            offset!(rq_flush_flags),
        )
    };
    if u64::from(flags) & flush_flags != 0 {
        // The kernel makes a request of its own of that, often in a worker
        // thread, and one for several who ask: it is put down to the last of
        // them. Without room here, to the thread that issues it.
        FLUSHERS.insert(&disk_of(request), entry, 0).ok();
    }
}

/// `TP_PROTO(struct request *rq)`, Linux 6.5: the thread that submits makes a
/// request of its bio.
#[btf_tracepoint(function = "block_io_start")]
pub fn block_io_start(ctx: BtfTracePointContext) -> i32 {
    begin(&ctx, ctx.arg::<u64>(0));
    0
}

/// The request among the arguments of `block_rq_insert` and `block_rq_issue`.
#[inline(always)]
fn request_argument(ctx: &BtfTracePointContext) -> u64 {
    // SAFETY: reads a constant; the verifier drops the branch not taken.
    if unsafe { offset!(rq_argument) } == 1 {
        ctx.arg::<u64>(1)
    } else {
        ctx.arg::<u64>(0)
    }
}

/// `TP_PROTO(struct request *rq)`: goes to the I/O scheduler. The first that is
/// seen of a request before Linux 6.5.
#[btf_tracepoint(function = "block_rq_insert")]
pub fn block_rq_insert(ctx: BtfTracePointContext) -> i32 {
    begin(&ctx, request_argument(&ctx));
    0
}

/// `TP_PROTO(struct request *rq)`: goes to the device. A request that is
/// remembered may be issued again, which begins its device time anew.
#[btf_tracepoint(function = "block_rq_issue")]
pub fn block_rq_issue(ctx: BtfTracePointContext) -> i32 {
    let Some(session) = session() else {
        return 0;
    };
    let request = request_argument(&ctx);
    let key = key_of(request);
    if REQUESTS.get_ptr(&request).is_none() {
        begin_at_issue(&ctx, session, request, &key);
    }
    if let Some(entry) = REQUESTS.get_ptr_mut(&request) {
        // SAFETY: map memory; a request is issued by one CPU at a time.
        let entry = unsafe { &mut *entry };
        entry.issued_ns = now();
        entry.key = key;
        if entry.bytes == 0 {
            // SAFETY: reads a constant.
            entry.bytes = u64::from(field::<u32>(request, unsafe { offset!(rq_data_len) }));
        }
    }
    0
}

/// A flush, or a request that bypassed what is seen earlier.
#[inline(always)]
fn begin_at_issue(ctx: &BtfTracePointContext, session: &Control, request: u64, key: &IoKey) {
    let disk = (key.major, key.minor);
    let flusher = if key.operation == OPERATION_FLUSH {
        FLUSHERS.get_ptr(&disk)
    } else {
        None
    };
    let remembered = if let Some(flusher) = flusher {
        // SAFETY: map memory, copied at once by the kernel.
        let remembered = remember(request, unsafe { &*flusher });
        FLUSHERS.remove(&disk).ok();
        remembered
    } else if let Some(entry) = describe(ctx, session, Scratch::IoIssue, false) {
        remember(request, entry) || entry.probability == NOT_OURS
    } else {
        false
    };
    if !remembered {
        add_atomic(Counter::IoObserved, 1);
        add_atomic(Counter::IoCounted, 1);
        add_atomic(Counter::IoLostTracking, 1);
    }
}

/// `TP_PROTO(struct request *rq, blk_status_t error, unsigned int nr_bytes)`
#[btf_tracepoint(function = "block_rq_complete")]
pub fn block_rq_complete(ctx: BtfTracePointContext) -> i32 {
    if session().is_none() {
        return 0;
    }
    let request = ctx.arg::<u64>(0);
    let Some(entry) = REQUESTS.get_ptr(&request) else {
        return 0;
    };
    let completed = ctx.arg::<u64>(2) & 0xffff_ffff;
    // SAFETY: reads a constant.
    let left = u64::from(field::<u32>(request, unsafe { offset!(rq_data_len) }));
    if completed < left {
        // A part; the rest follows.
        return 0;
    }
    // SAFETY: map memory; the request is not touched elsewhere once complete.
    let entry = unsafe { &*entry };
    if entry.issued_ns != 0 && entry.probability != NOT_OURS {
        let failed = ctx.arg::<u64>(1) & 0xff != 0;
        finish(entry, failed);
    }
    forget(request);
    0
}

/// Accounts and, where chosen, emits a completed request.
#[inline(always)]
fn finish(entry: &Request, failed: bool) {
    let now = now();
    let device_ns = now.saturating_sub(entry.issued_ns);
    let queue_ns = if entry.queued_ns == 0 {
        0
    } else {
        entry.issued_ns.saturating_sub(entry.queued_ns)
    };
    add_atomic(Counter::IoObserved, 1);
    add_atomic(Counter::IoExactNs, device_ns);
    account(entry, queue_ns, device_ns, failed);
    if entry.probability == 0 {
        add_atomic(Counter::IoUnsampled, 1);
        return;
    }
    add_atomic(Counter::IoCounted, 1);
    emit::sample(Counter::IoLostRing, || IoSample {
        header: RecordHeader {
            kind: KIND_IO,
            size: size_of::<IoSample>() as u32,
        },
        time_ns: now,
        identity: entry.identity,
        stack: entry.stack,
        key: entry.key,
        bytes: entry.bytes,
        queue_ns,
        device_ns,
        probability: entry.probability,
    });
}

#[inline(always)]
fn bucket(ns: u64) -> usize {
    (histogram_bucket(ns) as usize).min(IO_BUCKETS - 1)
}

#[inline(always)]
fn account(entry: &Request, queue_ns: u64, device_ns: u64, failed: bool) {
    let key = entry.key;
    let totals = match IO_TOTALS.get_ptr_mut(&key) {
        Some(totals) => totals,
        None => {
            let Some(zeroes) = IO_SCRATCH.get_ptr(0) else {
                return;
            };
            // SAFETY: per-CPU memory that nobody writes to: zero from the start.
            // A failure means that another CPU was faster, or that there is no
            // room, which the look-up tells.
            IO_TOTALS.insert(&key, unsafe { &(*zeroes).totals }, 1).ok();
            let Some(totals) = IO_TOTALS.get_ptr_mut(&key) else {
                add_atomic(Counter::IoLostTotals, 1);
                return;
            };
            totals
        }
    };
    // SAFETY: map memory, indices below IO_BUCKETS.
    unsafe {
        atomic_add(&raw mut (*totals).count, 1);
        atomic_add(&raw mut (*totals).bytes, entry.bytes);
        if failed {
            atomic_add(&raw mut (*totals).errors, 1);
        }
        atomic_add(&raw mut (*totals).queue_ns, queue_ns);
        atomic_add(&raw mut (*totals).device_ns, device_ns);
        atomic_add(&raw mut (*totals).queue[bucket(queue_ns)], 1);
        atomic_add(&raw mut (*totals).device[bucket(device_ns)], 1);
    }
}

/// floor(log2(ns)). By halves, because the target has
/// no instruction to count leading zeroes; a function of its own to the
/// verifier, because in line the two calls have 4096 paths.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn histogram_bucket(mut ns: u64) -> u32 {
    let mut log = 0;
    if ns >> 32 != 0 {
        ns >>= 32;
        log += 32;
    }
    if ns >> 16 != 0 {
        ns >>= 16;
        log += 16;
    }
    if ns >> 8 != 0 {
        ns >>= 8;
        log += 8;
    }
    if ns >> 4 != 0 {
        ns >>= 4;
        log += 4;
    }
    if ns >> 2 != 0 {
        ns >>= 2;
        log += 2;
    }
    if ns >> 1 != 0 {
        log += 1;
    }
    log
}
