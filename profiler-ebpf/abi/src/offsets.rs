//! Constants of one session, frozen before the programs are verified.

/// Offsets are in bytes, read from the running kernel's BTF. Rust cannot emit
/// CO-RE relocations, so the agent resolves them and the verifier sees them as
/// constants.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Offsets {
    /// `task_struct.pid` (a thread id in user space's words).
    pub task_pid: u64,
    /// `task_struct.tgid`.
    pub task_tgid: u64,
    /// `task_struct.__state`, before Linux 5.14 `state`. The low 32 bits suffice.
    pub task_state: u64,
    /// `task_struct.on_cpu`: 1 while a CPU runs the task.
    pub task_on_cpu: u64,
    /// `task_struct.stack`, where `bpf_task_pt_regs` does not exist.
    pub task_stack: u64,
    /// `task_struct.thread`: what the thread pointer was when the task last left
    /// the CPU or set it, `fsbase` (x86-64) or `uw.tp_value` (aarch64).
    pub task_thread_pointer: u64,
    /// `task_struct.mm`: 0 once the task has given up its memory.
    pub task_mm: u64,
    /// The byte of `task_struct` that holds the bit `in_execve`.
    pub task_in_execve: u64,
    /// That bit in the byte: set while the task replaces its program.
    pub task_in_execve_mask: u64,
    /// `task_struct.flags`.
    pub task_flags: u64,
    /// `task_struct.comm`.
    pub task_comm: u64,
    /// `task_struct.group_leader`.
    pub task_group_leader: u64,
    /// `task_struct.real_parent`.
    pub task_real_parent: u64,
    /// `task_struct.start_time` (CLOCK_MONOTONIC).
    pub task_start_time: u64,
    /// `task_struct.start_boottime`.
    pub task_start_boottime: u64,
    /// `task_struct.self_exec_id`.
    pub task_self_exec_id: u64,
    /// `task_struct.sched_info.run_delay`: all time spent runnable but not running.
    pub task_run_delay: u64,
    /// `task_struct.sched_info.pcount`: how often it was given a CPU.
    pub task_pcount: u64,
    /// `task_struct.se.sum_exec_runtime`: all time it has run.
    pub task_exec_runtime: u64,
    /// `task_struct.cgroups`.
    pub task_cgroups: u64,
    /// From `css_set` to the `cgroup *` (v2: `dfl_cgrp`) or to the
    /// `cgroup_subsys_state *` of the target's controller (v1: `subsys[i]`).
    pub css_set_member: u64,
    /// 1: `css_set_member` leads to a `cgroup_subsys_state *` (v1).
    pub css_set_member_is_css: u64,
    /// `cgroup_subsys_state.cgroup`.
    pub css_cgroup: u64,
    /// `cgroup_subsys_state.parent`.
    pub css_parent: u64,
    /// `cgroup.self`.
    pub cgroup_self: u64,
    /// `cgroup.kn`.
    pub cgroup_kn: u64,
    /// `kernfs_node.id`.
    pub kernfs_node_id: u64,
    /// `request.__data_len`.
    pub rq_data_len: u64,
    /// `request.cmd_flags`.
    pub rq_cmd_flags: u64,
    /// Bits of `cmd_flags` that ask for a flush: `REQ_PREFLUSH` and `REQ_FUA`.
    pub rq_flush_flags: u64,
    /// From `request` to the pointer that leads to the disk: `rq_disk`
    /// (a `gendisk *`) or `q` (a `request_queue *`, see `queue_disk`).
    pub rq_disk_or_queue: u64,
    /// `request_queue.disk`, or `u64::MAX` where `rq_disk_or_queue` is the disk.
    pub queue_disk: u64,
    /// `gendisk.major`.
    pub disk_major: u64,
    /// `gendisk.first_minor`.
    pub disk_first_minor: u64,
    /// Which argument of `block_rq_insert` and `block_rq_issue` is the request:
    /// 0, before Linux 5.11 (and its backports) 1.
    pub rq_argument: u64,
    /// 1: `bpf_get_current_task_btf` exists (Linux 5.11).
    pub has_task_btf: u64,
    /// 1: `bpf_task_pt_regs` exists (Linux 5.15).
    pub has_task_pt_regs: u64,
    /// `THREAD_SIZE`: bytes of a task's kernel stack.
    pub thread_size: u64,
    /// [`crate::TargetFlags`].
    pub target_flags: u64,
    /// Id (inode number) of the target cgroup.
    pub target_cgroup: u64,
    /// 1: no hook runs where a thread resumes, so stacks are taken where it
    /// switches out, before the length of the wait is known.
    pub sample_at_switch_out: u64,
}

impl Offsets {
    /// No kernel structure is this long: what a program reads through an
    /// offset that was never set, it does not get. Not 0, because LLVM merges
    /// equal constants and 0 is everywhere.
    pub const UNSET: Self = Self {
        task_pid: 0xffff_0001,
        task_tgid: 0xffff_0002,
        task_state: 0xffff_0003,
        task_on_cpu: 0xffff_001f,
        task_stack: 0xffff_0024,
        task_thread_pointer: 0xffff_0027,
        task_mm: 0xffff_0028,
        task_in_execve: 0xffff_0029,
        task_in_execve_mask: 0xffff_002a,
        task_flags: 0xffff_0004,
        task_comm: 0xffff_0005,
        task_group_leader: 0xffff_0006,
        task_start_time: 0xffff_0007,
        task_start_boottime: 0xffff_0008,
        task_self_exec_id: 0xffff_0009,
        task_run_delay: 0xffff_000a,
        task_pcount: 0xffff_0020,
        task_exec_runtime: 0xffff_0022,
        task_real_parent: 0xffff_0023,
        task_cgroups: 0xffff_000b,
        css_set_member: 0xffff_000c,
        css_set_member_is_css: 0xffff_000d,
        css_cgroup: 0xffff_000e,
        css_parent: 0xffff_000f,
        cgroup_self: 0xffff_0010,
        cgroup_kn: 0xffff_0011,
        kernfs_node_id: 0xffff_0012,
        rq_data_len: 0xffff_0013,
        rq_cmd_flags: 0xffff_0014,
        rq_flush_flags: 0xffff_0021,
        rq_disk_or_queue: 0xffff_0015,
        queue_disk: 0xffff_0016,
        disk_major: 0xffff_0017,
        disk_first_minor: 0xffff_0018,
        rq_argument: 0xffff_0019,
        has_task_btf: 0xffff_001a,
        has_task_pt_regs: 0xffff_0025,
        thread_size: 0xffff_0026,
        target_flags: 0xffff_001b,
        target_cgroup: 0xffff_001c,
        sample_at_switch_out: 0xffff_001d,
    };
}

const _: () = assert!(size_of::<Offsets>() == 41 * 8);
