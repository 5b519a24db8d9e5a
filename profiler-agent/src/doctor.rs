//! What this host allows, apart from what only loading the kernel programs can tell: what was
//! found, whether it is enough, and what to do where it is not.
//!
//! [`Host::read`] looks, [`Host::checks`] judges; nothing else reads or judges.

use profiler_proto::pb::{Check, CheckState};

mod capabilities;
mod host;
pub mod process;

use capabilities::Capabilities;
pub use host::Host;

/// The oldest kernel that has everything the kernel programs use.
const OLDEST_KERNEL: (u32, u32) = (5, 10);
/// From here on memory of BPF maps is charged to the cgroup, not to `RLIMIT_MEMLOCK`.
const KERNEL_WITHOUT_MEMLOCK: (u32, u32) = (5, 11);
/// What one session may need where `RLIMIT_MEMLOCK` still counts, bytes.
const MEMLOCK_NEEDED: u64 = 256 << 20;

/// Looks at this host and judges what it finds.
pub fn examine() -> Vec<Check> {
    Host::read().checks()
}

impl Host {
    /// Judges what was found, most important first.
    pub fn checks(&self) -> Vec<Check> {
        let capabilities = Capabilities(self.effective_capabilities);
        vec![
            kernel(&self.release),
            btf(self.btf.as_ref().copied().map_err(String::as_str)),
            capabilities.check(),
            perf(self.perf_event_paranoid, capabilities),
            namespaces(self.pid_namespace_is_hosts, self.user_namespace_is_hosts),
            lockdown(self.lockdown.as_deref()),
            kernel_symbols(self.kernel_symbols_shown, self.kptr_restrict),
            memlock(&self.release, self.memlock_limit),
            cgroups(&self.mounts),
            tracefs(&self.mounts),
        ]
    }
}

fn check(name: &str, state: CheckState, found: String, advice: &str) -> Check {
    Check {
        name: name.to_owned(),
        state: state.into(),
        found,
        advice: advice.to_owned(),
    }
}

fn ok(name: &str, found: impl Into<String>) -> Check {
    check(name, CheckState::Ok, found.into(), "")
}

fn degraded(name: &str, found: impl Into<String>, advice: &str) -> Check {
    check(name, CheckState::Degraded, found.into(), advice)
}

fn failed(name: &str, found: impl Into<String>, advice: &str) -> Check {
    check(name, CheckState::Failed, found.into(), advice)
}

/// Major and minor version at the start of a release such as `6.1.0-18-amd64`.
fn version(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit());
    let mut next = || numbers.next()?.parse().ok();
    Some((next()?, next()?))
}

fn kernel(release: &str) -> Check {
    let name = "kernel";
    let (major, minor) = OLDEST_KERNEL;
    match version(release) {
        Some(version) if version >= OLDEST_KERNEL => ok(name, format!("Linux {release}")),
        Some(_) => failed(
            name,
            format!("Linux {release} is older than {major}.{minor}"),
            "run a kernel of 5.10 or newer",
        ),
        None => degraded(
            name,
            format!("Linux `{release}`: its version is not understood"),
            "make sure that it is 5.10 or newer",
        ),
    }
}

fn btf(size: Result<u64, &str>) -> Check {
    match size {
        Ok(size) => ok(
            "btf",
            format!("/sys/kernel/btf/vmlinux, {} KiB", size >> 10),
        ),
        Err(error) => failed(
            "btf",
            format!("/sys/kernel/btf/vmlinux: {error}"),
            "mount sysfs on /sys; where it is, run a kernel built with CONFIG_DEBUG_INFO_BTF=y, \
             as all large distributions' are",
        ),
    }
}

fn perf(paranoid: Option<i32>, capabilities: Capabilities) -> Check {
    let name = "perf";
    let Some(paranoid) = paranoid else {
        return failed(
            name,
            "/proc/sys/kernel/perf_event_paranoid is not there",
            "cpu cannot be measured: run a kernel built with CONFIG_PERF_EVENTS=y",
        );
    };
    let found = format!("kernel.perf_event_paranoid is {paranoid}");
    if capabilities.has_perfmon() {
        ok(name, format!("{found}, which CAP_PERFMON overrides"))
    } else if paranoid <= 0 {
        ok(name, format!("{found}, so that whole CPUs may be sampled"))
    } else {
        failed(
            name,
            format!("{found} and CAP_PERFMON is missing: no CPU may be sampled"),
            "give the agent CAP_PERFMON",
        )
    }
}

fn namespaces(pid_is_hosts: Option<bool>, user_is_hosts: Option<bool>) -> Check {
    let name = "namespaces";
    match (pid_is_hosts, user_is_hosts) {
        (Some(true), Some(true)) => ok(name, "PID and user namespace of the host"),
        (_, Some(false)) => failed(
            name,
            "a user namespace of its own: the kernel gives its capabilities no weight",
            "run the agent in the host's user namespace (not as a rootless container)",
        ),
        (Some(false), _) => failed(
            name,
            "a PID namespace of its own: the kernel's process ids are not those the agent sees, \
             so that processes get wrong names",
            "run the agent in the host's PID namespace: docker --pid=host, in Kubernetes \
             hostPID: true",
        ),
        _ => degraded(
            name,
            "/proc/self/ns is not there, so that the agent cannot tell whether it sees the \
             host's processes",
            "mount the host's proc on /proc",
        ),
    }
}

/// `modes` is the file's text: all modes, the one in force in brackets.
fn lockdown(modes: Option<&str>) -> Check {
    let name = "lockdown";
    let Some(modes) = modes else {
        return ok(name, "not in this kernel, or securityfs is not mounted");
    };
    let mode = modes
        .split_whitespace()
        .find_map(|mode| mode.strip_prefix('[')?.strip_suffix(']'));
    match mode {
        Some("confidentiality") => failed(
            name,
            "confidentiality: kernel programs may not read kernel memory, and perf events are \
             refused",
            "boot with lockdown=integrity, or without",
        ),
        Some(mode) => ok(name, mode),
        None => degraded(
            name,
            format!("`{}` is not understood", modes.trim()),
            "make sure that the kernel is not locked down for confidentiality",
        ),
    }
}

fn kernel_symbols(shown: bool, kptr_restrict: Option<i32>) -> Check {
    let name = "kernel-symbols";
    let found = match kptr_restrict {
        Some(level) => format!("kernel.kptr_restrict is {level}"),
        None => "kernel.kptr_restrict is not there".to_owned(),
    };
    if shown {
        return ok(name, format!("{found}; /proc/kallsyms shows addresses"));
    }
    let advice = match kptr_restrict {
        Some(2..) => "set kernel.kptr_restrict to 1: 2 hides addresses even from root",
        _ => "give the agent CAP_SYSLOG",
    };
    degraded(
        name,
        format!("{found}; /proc/kallsyms shows no addresses: kernel frames get no names"),
        advice,
    )
}

/// `limit` in bytes, none where there is none.
fn memlock(release: &str, limit: Option<u64>) -> Check {
    let name = "memlock";
    if version(release).is_some_and(|version| version >= KERNEL_WITHOUT_MEMLOCK) {
        return ok(name, "no limit for BPF maps (Linux 5.11 and newer)");
    }
    match limit {
        Some(limit) if limit < MEMLOCK_NEEDED => degraded(
            name,
            format!(
                "at most {} KiB for BPF maps: sessions may fail",
                limit >> 10
            ),
            "raise it: LimitMEMLOCK=infinity in the unit, or ulimit -l unlimited",
        ),
        Some(limit) => ok(name, format!("at most {} KiB for BPF maps", limit >> 10)),
        None => ok(name, "no limit"),
    }
}

/// Where file systems of this type are mounted, from the text of `/proc/self/mountinfo`.
fn mounted<'a>(mounts: &'a str, fs_type: &'a str) -> impl Iterator<Item = &'a str> {
    mounts.lines().filter_map(move |line| {
        let (mount, source) = line.split_once(" - ")?;
        let is_type = source.split(' ').next() == Some(fs_type);
        is_type.then(|| mount.split(' ').nth(4))?
    })
}

fn cgroups(mounts: &str) -> Check {
    let name = "cgroup";
    let v1 = mounted(mounts, "cgroup").next();
    let v2 = mounted(mounts, "cgroup2").next();
    match (v1, v2) {
        (None, Some(at)) => ok(name, format!("v2 at {at}")),
        (Some(at), None) => ok(name, format!("v1, the first at {at}")),
        (Some(v1), Some(v2)) => ok(name, format!("hybrid: v2 at {v2}, v1, the first at {v1}")),
        (None, None) => degraded(
            name,
            "none mounted: no cgroup can be a target, and no container has a name",
            "mount cgroup2 on /sys/fs/cgroup",
        ),
    }
}

fn tracefs(mounts: &str) -> Check {
    let found = match mounted(mounts, "tracefs").next() {
        Some(at) => format!("mounted at {at}"),
        None => "not mounted".to_owned(),
    };
    ok("tracefs", format!("{found}; not needed"))
}

#[cfg(test)]
mod tests;
