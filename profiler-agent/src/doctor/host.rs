//! What the checks are about, as it is on this host.

use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::os::unix::fs::MetadataExt;
use std::str::FromStr;

use rustix::process::{Resource, getrlimit};

use crate::bpf::btf::KERNEL_BTF;

/// Inode of the initial PID namespace (`PROC_PID_INIT_INO` in `include/linux/proc_ns.h`).
const INITIAL_PID_NAMESPACE: u64 = 0xEFFF_FFFC;
/// Inode of the initial user namespace (`PROC_USER_INIT_INO`).
const INITIAL_USER_NAMESPACE: u64 = 0xEFFF_FFFD;
/// The first symbols of some kernels are at address 0; not this many.
const SYMBOLS_READ: usize = 1000;

/// What was found on a host.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Host {
    /// As `uname -r` prints it.
    pub release: String,
    /// Bytes of the kernel's own BTF, or why it cannot be read.
    pub btf: Result<u64, String>,
    /// The agent's effective capabilities, one bit each.
    pub effective_capabilities: u64,
    /// `kernel.perf_event_paranoid`; none where the kernel has no perf events.
    pub perf_event_paranoid: Option<i32>,
    /// Whether the agent is in the host's PID namespace.
    pub pid_namespace_is_hosts: Option<bool>,
    /// Whether the agent is in the host's user namespace.
    pub user_namespace_is_hosts: Option<bool>,
    /// Text of the lockdown file of securityfs, if it is there.
    pub lockdown: Option<String>,
    /// Whether `/proc/kallsyms` shows the agent addresses.
    pub kernel_symbols_shown: bool,
    /// `kernel.kptr_restrict`.
    pub kptr_restrict: Option<i32>,
    /// Soft `RLIMIT_MEMLOCK` in bytes; none where there is no limit.
    pub memlock_limit: Option<u64>,
    /// Text of `/proc/self/mountinfo`.
    pub mounts: String,
}

impl Host {
    /// Looks at this host. What is not there is none or empty.
    pub fn read() -> Self {
        Self {
            release: rustix::system::uname()
                .release()
                .to_string_lossy()
                .into_owned(),
            btf: btf_size(),
            effective_capabilities: effective_capabilities(),
            perf_event_paranoid: number("/proc/sys/kernel/perf_event_paranoid"),
            pid_namespace_is_hosts: namespace_is("pid", INITIAL_PID_NAMESPACE),
            user_namespace_is_hosts: namespace_is("user", INITIAL_USER_NAMESPACE),
            lockdown: fs::read_to_string("/sys/kernel/security/lockdown").ok(),
            kernel_symbols_shown: kernel_symbols_shown(),
            kptr_restrict: number("/proc/sys/kernel/kptr_restrict"),
            memlock_limit: getrlimit(Resource::Memlock).current,
            mounts: fs::read_to_string("/proc/self/mountinfo").unwrap_or_default(),
        }
    }
}

/// Opened, too: that it is there does not mean that it may be read.
fn btf_size() -> Result<u64, String> {
    let metadata = File::open(KERNEL_BTF).and_then(|file| file.metadata());
    metadata
        .map(|metadata| metadata.len())
        .map_err(|error| error.to_string())
}

fn number<T: FromStr>(path: &str) -> Option<T> {
    fs::read_to_string(path).ok()?.trim().parse().ok()
}

fn namespace_is(kind: &str, initial: u64) -> Option<bool> {
    let metadata = fs::metadata(format!("/proc/self/ns/{kind}")).ok()?;
    Some(metadata.ino() == initial)
}

/// Without `/proc` nothing works, and no capability helps.
fn effective_capabilities() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let bits = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    bits.and_then(|bits| u64::from_str_radix(bits.trim(), 16).ok())
        .unwrap_or(0)
}

/// Hidden addresses are all shown as 0.
fn kernel_symbols_shown() -> bool {
    let Ok(file) = File::open("/proc/kallsyms") else {
        return false;
    };
    let lines = BufReader::new(file).lines().take(SYMBOLS_READ);
    lines.map_while(Result::ok).any(|line| {
        let address = line.split(' ').next().unwrap_or_default();
        address.bytes().any(|digit| digit != b'0')
    })
}
