//! Turns the running kernel's BTF and the target into the constants of a
//! session ([`profiler_abi::Offsets`]).

use std::{
    ffi::OsStr,
    fs, io,
    os::unix::{ffi::OsStrExt, fs::MetadataExt},
    path::{Path, PathBuf},
};

use profiler_abi::{Offsets, TargetFlags};
use profiler_proto::Target;

use super::btf::{BtfError, KernelBtf};

/// `CGROUP2_SUPER_MAGIC` and `CGROUP_SUPER_MAGIC` (include/uapi/linux/magic.h).
const CGROUP2_MAGIC: u64 = 0x6367_7270;
const CGROUP1_MAGIC: u64 = 0x0027_e0eb;

/// `THREAD_SIZE` on x86-64 without KASAN and on arm64 with 4 KiB pages
/// (arch/{x86,arm64}/include/asm): needed before Linux 5.15 only.
const THREAD_SIZE: u64 = 16 << 10;

/// Why a target cannot be turned into constants.
#[derive(Debug, thiserror::Error)]
pub enum TargetError {
    /// The path is not there or cannot be looked at.
    #[error("cgroup {}: {source}", path.display())]
    Cgroup {
        /// As asked for.
        path: PathBuf,
        /// What the kernel says.
        source: io::Error,
    },
    /// The path is something else.
    #[error("{} is not a directory of a mounted cgroup hierarchy", .0.display())]
    NotACgroup(PathBuf),
    /// A v1 hierarchy that no task can be found in by its controller.
    #[error("cgroup {}: its v1 hierarchy has no controller; name the cgroup in the hierarchy of a controller such as cpu or memory", .0.display())]
    NoController(PathBuf),
    /// The process has exited or never was.
    #[error("pid {pid}: {source}")]
    Process {
        /// As asked for.
        pid: u32,
        /// What the kernel says.
        source: io::Error,
    },
    /// The id of a thread beside the first.
    #[error("pid {tid} is a thread of process {pid}: name the process")]
    NotAProcess {
        /// As asked for.
        tid: u32,
        /// The process it belongs to.
        pid: u32,
    },
    /// The kernel lacks a structure.
    #[error(transparent)]
    Btf(#[from] BtfError),
}

/// Offsets of kernel structures. Everything that concerns the target or the
/// ladder is left at "no".
pub fn kernel_offsets(btf: &KernelBtf) -> Result<Offsets, BtfError> {
    let task = |path: &str| btf.offset("task_struct", path);
    let flag = |name| Ok::<_, BtfError>(1 << btf.enumerator("req_flag_bits", name)?);
    let (rq_disk_or_queue, queue_disk) = match btf.offset("request", "rq_disk") {
        // Until Linux 5.16.
        Ok(disk) => (disk, u64::MAX),
        Err(_) => (
            btf.offset("request", "q")?,
            btf.offset("request_queue", "disk")?,
        ),
    };
    // A mask of 0 where there is no such bit.
    let in_execve = btf.member("task_struct", "in_execve");
    Ok(Offsets {
        task_in_execve: in_execve.as_ref().map_or(0, |member| member.offset),
        task_in_execve_mask: in_execve.map_or(0, |member| 1 << member.bit),
        task_pid: task("pid")?,
        task_tgid: task("tgid")?,
        task_state: task("__state").or_else(|_| task("state"))?,
        task_on_cpu: task("on_cpu")?,
        task_stack: task("stack")?,
        task_thread_pointer: task("thread.fsbase").or_else(|_| task("thread.uw.tp_value"))?,
        task_mm: task("mm")?,
        task_flags: task("flags")?,
        task_comm: task("comm")?,
        task_group_leader: task("group_leader")?,
        task_start_time: task("start_time")?,
        task_start_boottime: task("start_boottime")?,
        task_self_exec_id: task("self_exec_id")?,
        task_run_delay: task("sched_info.run_delay")?,
        task_pcount: task("sched_info.pcount")?,
        task_exec_runtime: task("se.sum_exec_runtime")?,
        task_real_parent: task("real_parent")?,
        task_cgroups: task("cgroups")?,
        css_set_member: btf.offset("css_set", "dfl_cgrp")?,
        css_set_member_is_css: 0,
        css_cgroup: btf.offset("cgroup_subsys_state", "cgroup")?,
        css_parent: btf.offset("cgroup_subsys_state", "parent")?,
        cgroup_self: btf.offset("cgroup", "self")?,
        cgroup_kn: btf.offset("cgroup", "kn")?,
        kernfs_node_id: btf.offset("kernfs_node", "id")?,
        rq_data_len: btf.offset("request", "__data_len")?,
        rq_cmd_flags: btf.offset("request", "cmd_flags")?,
        rq_flush_flags: flag("__REQ_PREFLUSH")? | flag("__REQ_FUA")?,
        rq_disk_or_queue,
        queue_disk,
        disk_major: btf.offset("gendisk", "major")?,
        disk_first_minor: btf.offset("gendisk", "first_minor")?,
        // (q, rq) until Linux 5.10, (rq) since.
        rq_argument: u64::from(btf.tracepoint_arguments("block_rq_issue")? == Some(2)),
        has_task_btf: u64::from(has_task_btf(btf)),
        has_task_pt_regs: u64::from(btf.has_function("bpf_task_pt_regs")),
        thread_size: THREAD_SIZE,
        target_flags: 0,
        target_cgroup: 0,
        sample_at_switch_out: 0,
    })
}

/// `bpf_get_current_task_btf` came with Linux 5.11; its `BPF_CALL` leaves a
/// function of that name in BTF.
fn has_task_btf(btf: &KernelBtf) -> bool {
    btf.has_function("bpf_get_current_task_btf")
}

/// Adds the target to the constants.
pub fn add_target(
    offsets: &mut Offsets,
    target: &Target,
    btf: &KernelBtf,
) -> Result<(), TargetError> {
    if !target.pids.is_empty() {
        offsets.target_flags |= TargetFlags::PIDS;
    }
    if target.follow_forks {
        offsets.target_flags |= TargetFlags::FOLLOW_FORKS;
    }
    if !target.comms.is_empty() {
        offsets.target_flags |= TargetFlags::COMMS;
    }
    if let Some(path) = &target.cgroup {
        offsets.target_flags |= TargetFlags::CGROUP;
        add_cgroup(offsets, path, btf)?;
    }
    Ok(())
}

fn add_cgroup(offsets: &mut Offsets, path: &Path, btf: &KernelBtf) -> Result<(), TargetError> {
    let failed = |source: io::Error| TargetError::Cgroup {
        path: path.to_path_buf(),
        source,
    };
    let metadata = fs::metadata(path).map_err(failed)?;
    let magic = rustix::fs::statfs(path)
        .map_err(|errno| failed(errno.into()))?
        .f_type as u64;
    if !metadata.is_dir() || !matches!(magic, CGROUP1_MAGIC | CGROUP2_MAGIC) {
        return Err(TargetError::NotACgroup(path.to_path_buf()));
    }
    // On 64-bit kernels the inode number is the whole kernfs id (Linux 5.5).
    offsets.target_cgroup = metadata.ino();
    if magic == CGROUP1_MAGIC {
        let controller = v1_controller(path)
            .map_err(failed)?
            .ok_or_else(|| TargetError::NoController(path.to_path_buf()))?;
        let index = btf.enumerator("cgroup_subsys_id", &format!("{controller}_cgrp_id"))?;
        // `subsys` is an array of pointers.
        offsets.css_set_member = btf.offset("css_set", "subsys")? + 8 * u64::from(index);
        offsets.css_set_member_is_css = 1;
    }
    Ok(())
}

/// The kernel's name of a controller of the v1 hierarchy that `path` lies in.
fn v1_controller(path: &Path) -> io::Result<Option<String>> {
    let path = fs::canonicalize(path)?;
    let mounts = fs::read("/proc/self/mountinfo")?;
    Ok(find_v1_controller(&mounts, &path))
}

/// Controllers as they are named in mount options, where the kernel's enum
/// has another name: `CGROUP_SUBSYS(io)` is "blkio" on v1.
const V1_NAMES: [(&str, &str); 13] = [
    ("cpu", "cpu"),
    ("cpuacct", "cpuacct"),
    ("cpuset", "cpuset"),
    ("blkio", "io"),
    ("memory", "memory"),
    ("devices", "devices"),
    ("freezer", "freezer"),
    ("net_cls", "net_cls"),
    ("perf_event", "perf_event"),
    ("net_prio", "net_prio"),
    ("hugetlb", "hugetlb"),
    ("pids", "pids"),
    ("rdma", "rdma"),
];

fn find_v1_controller(mountinfo: &[u8], path: &Path) -> Option<String> {
    let mut best: Option<(usize, &str)> = None;
    for line in mountinfo.split(|&byte| byte == b'\n') {
        let fields: Vec<&[u8]> = line.split(|&byte| byte == b' ').collect();
        let Some(dash) = fields.iter().position(|field| *field == b"-") else {
            continue;
        };
        let (Some(point), Some(kind), Some(options)) =
            (fields.get(4), fields.get(dash + 1), fields.get(dash + 3))
        else {
            continue;
        };
        let point = Path::new(OsStr::from_bytes(point));
        if *kind != b"cgroup" || !path.starts_with(point) {
            continue;
        }
        let controller = options.split(|&byte| byte == b',').find_map(|option| {
            V1_NAMES
                .iter()
                .find(|(name, _)| name.as_bytes() == option)
                .map(|(_, kernel)| *kernel)
        });
        let depth = point.components().count();
        if let Some(controller) = controller
            && best.is_none_or(|(deepest, _)| depth > deepest)
        {
            best = Some((depth, controller));
        }
    }
    best.map(|(_, controller)| controller.to_owned())
}

/// Checks that `pid` is a process, not one of its threads, which have entries
/// in `/proc` as well. Returns when it started, in clock ticks since boot.
pub fn process_start(pid: u32) -> Result<u64, TargetError> {
    let ticks = start_ticks(pid)?;
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let group = status
        .lines()
        .find_map(|line| line.strip_prefix("Tgid:")?.trim().parse().ok());
    match group {
        Some(group) if group != pid => Err(TargetError::NotAProcess {
            tid: pid,
            pid: group,
        }),
        _ => Ok(ticks),
    }
}

/// Start of a process in clock ticks since boot: field 22 of `/proc/PID/stat`.
pub fn start_ticks(pid: u32) -> Result<u64, TargetError> {
    let failed = |source| TargetError::Process { pid, source };
    let stat = fs::read(format!("/proc/{pid}/stat")).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => failed(io::Error::new(error.kind(), "no such process")),
        _ => failed(error),
    })?;
    crate::processes::start_ticks_of_stat(&stat)
        .ok_or_else(|| failed(io::Error::other("its stat file is not as expected")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tells_the_controller_of_a_v1_path() {
        let mounts = b"29 28 0:25 / /sys/fs/cgroup ro - tmpfs tmpfs ro\n\
            30 29 0:26 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n\
            31 29 0:27 / /sys/fs/cgroup/blkio rw - cgroup cgroup rw,blkio\n\
            32 29 0:28 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,name=systemd\n";
        let find = |path: &str| find_v1_controller(mounts, Path::new(path));
        assert_eq!(find("/sys/fs/cgroup/blkio/a").as_deref(), Some("io"));
        assert_eq!(find("/sys/fs/cgroup/cpu,cpuacct").as_deref(), Some("cpu"));
        assert_eq!(find("/sys/fs/cgroup/systemd/x"), None);
        assert_eq!(find("/tmp"), None);
    }
}
