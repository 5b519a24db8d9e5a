//! The one filter: is this thread the target of the session?

use aya_ebpf::{
    helpers::bpf_probe_read_kernel,
    macros::map,
    maps::{HashMap, LruHashMap},
};
use profiler_abi::{Counter, TargetFlags};

use crate::{
    control::{count, offset},
    task::Task,
};

/// Process id -> start of the process in clock ticks, as in `/proc/PID/stat`:
/// a process that got the same id later is not the target. The least recently
/// used make room: those that have exited.
#[map]
static PIDS: LruHashMap<u32, u64> = LruHashMap::with_max_entries(8192, 0);

/// Command name, NUL-padded -> 1.
#[map]
static COMMS: HashMap<[u8; 16], u32> = HashMap::with_max_entries(16, 0);

/// `/proc/PID/stat` counts starts in ticks of 1/USER_HZ s; USER_HZ is 100 on
/// every architecture Linux has today but alpha and ia64.
const NS_PER_TICK: u64 = 10_000_000;

/// Deepest cgroup below the target that is still found.
const MAX_CGROUP_DEPTH: u32 = 32;

/// Whether `task` is a target: it must match every kind of target asked for.
#[inline(always)]
pub(crate) fn admit(task: Task) -> bool {
    // SAFETY: reads a constant.
    let flags = unsafe { offset!(target_flags) };
    (flags & TargetFlags::PIDS == 0 || is_target_process(task))
        && (flags & TargetFlags::COMMS == 0 || has_target_comm(task))
        && (flags & TargetFlags::CGROUP == 0 || in_target_cgroup(task))
}

#[inline(always)]
fn start_ticks(task: Task) -> u64 {
    task.leader().start_boottime_ns() / NS_PER_TICK
}

#[inline(always)]
fn is_target_process(task: Task) -> bool {
    let tgid = task.tgid();
    // SAFETY: the value is an integer that is copied at once.
    match unsafe { PIDS.get(&tgid) } {
        Some(ticks) => *ticks == start_ticks(task),
        None => false,
    }
}

#[inline(always)]
fn has_target_comm(task: Task) -> bool {
    // SAFETY: the values are not read, only their presence matters.
    unsafe { COMMS.get(&task.comm()).is_some() || COMMS.get(&task.leader().comm()).is_some() }
}

#[inline(always)]
fn read_pointer(base: u64, offset: u64) -> u64 {
    // SAFETY: the helper checks the address.
    unsafe { bpf_probe_read_kernel((base + offset) as *const u64).unwrap_or(0) }
}

/// Walks from the thread's cgroup up to the root. Ids are compared, not
/// pointers, so that a removed and reused cgroup does not match.
#[inline(always)]
fn in_target_cgroup(task: Task) -> bool {
    // SAFETY: reads constants.
    unsafe {
        let member = read_pointer(task.css_set(), offset!(css_set_member));
        let mut cgroup = if offset!(css_set_member_is_css) == 1 {
            read_pointer(member, offset!(css_cgroup))
        } else {
            member
        };
        for _ in 0..MAX_CGROUP_DEPTH {
            if cgroup == 0 {
                return false;
            }
            let node = read_pointer(cgroup, offset!(cgroup_kn));
            if read_pointer(node, offset!(kernfs_node_id)) == offset!(target_cgroup) {
                return true;
            }
            let parent = read_pointer(cgroup, offset!(cgroup_self) + offset!(css_parent));
            if parent == 0 {
                return false;
            }
            cgroup = read_pointer(parent, offset!(css_cgroup));
        }
    }
    false
}

/// Whether the session's target is a command that was stopped for the profiler
/// to get ready, and what it forks.
#[inline(always)]
pub(crate) fn follows_command() -> bool {
    // SAFETY: reads a constant.
    unsafe { offset!(target_flags) & TargetFlags::FOLLOW_FORKS != 0 }
}

/// Makes a forked process a target where its parent is one.
/// Returns whether it did.
#[inline(always)]
pub(crate) fn follow_fork(parent: Task, child: Task) -> bool {
    let child_tgid = child.tgid();
    if child_tgid == parent.tgid() || !is_target_process(parent) {
        return false;
    }
    let ticks = child.start_boottime_ns() / NS_PER_TICK;
    if PIDS.insert(&child_tgid, &ticks, 0).is_err() {
        count(Counter::ForkLost);
        return false;
    }
    true
}
