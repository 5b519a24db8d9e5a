//! What the profiler itself costs: CPU, memory, BPF maps; and what keeps that low.

use std::{collections::HashSet, fs};

use rustix::{
    process::{Resource, Rlimit, getrlimit, setrlimit},
    time::{ClockId, clock_gettime},
};

/// CPU time of this process, user and system, all threads.
pub fn cpu_ns() -> u64 {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
    seconds * 1_000_000_000 + u64::try_from(time.tv_nsec).unwrap_or(0)
}

/// Resident memory of this process, 0 where `/proc` does not say.
pub fn rss_bytes() -> u64 {
    let statm = fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages: u64 = statm
        .split(' ')
        .nth(1)
        .and_then(|field| field.parse().ok())
        .unwrap_or(0);
    pages * rustix::param::page_size() as u64
}

/// Kernel memory of the BPF maps this process holds, each counted once: the
/// `memlock` of their descriptors. It is not part of the resident memory.
pub fn bpf_map_bytes() -> u64 {
    let Ok(descriptors) = fs::read_dir("/proc/self/fdinfo") else {
        return 0;
    };
    let mut seen = HashSet::new();
    descriptors
        .flatten()
        .filter_map(|entry| fs::read_to_string(entry.path()).ok())
        .filter_map(|info| map_memory(&info))
        .filter(|(id, _)| seen.insert(*id))
        .map(|(_, bytes)| bytes)
        .sum()
}

/// Id and memory of the map that a descriptor's info speaks of.
fn map_memory(info: &str) -> Option<(u64, u64)> {
    fdinfo_field(info, "map_type:")?;
    Some((
        fdinfo_field(info, "map_id:")?,
        fdinfo_field(info, "memlock:")?,
    ))
}

/// A number in the text of `/proc/self/fdinfo/FD`; `key` with its colon.
pub(crate) fn fdinfo_field(info: &str, key: &str) -> Option<u64> {
    info.lines()
        .find_map(|line| line.strip_prefix(key))?
        .trim()
        .parse()
        .ok()
}

/// Keeps the allocator from holding memory that nobody uses: it makes an arena
/// of 64 MiB of addresses for every thread that runs at the same time as others,
/// and what was freed in one stays there. Blocks of 64 KiB and more go back to
/// the host when they are freed. To be called before the first thread starts.
pub fn limit_arenas() {
    #[cfg(target_env = "gnu")]
    for (setting, value) in [
        (libc::M_ARENA_MAX, 2),
        (libc::M_MMAP_THRESHOLD, 64 << 10),
        (libc::M_TRIM_THRESHOLD, 64 << 10),
    ] {
        // SAFETY: takes and returns integers; the allocator locks itself.
        let done = unsafe { libc::mallopt(setting, value) };
        if done == 0 {
            tracing::debug!("the allocator refuses {value} for its setting {setting}");
        }
    }
}

/// Lets this process open as many files as it may. Every session holds those
/// whose frames wait for a name; the usual soft limit of 1024 is for programs
/// that use `select`.
pub fn raise_file_limit() {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        ..limit
    };
    if let Err(error) = setrlimit(Resource::Nofile, raised) {
        tracing::warn!("cannot raise the limit of open files: {error}");
    }
}

/// Gives memory that the allocator holds, but nobody uses, back to the host.
/// Arming and finishing a session need tens of megabytes for moments: the
/// kernel's type information, symbol tables, the capture.
pub fn release_memory() {
    #[cfg(target_env = "gnu")]
    // SAFETY: takes and returns integers; the allocator locks itself.
    unsafe {
        libc::malloc_trim(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_maps_only() {
        let map = "pos:\t0\nmap_type:\t2\nkey_size:\t4\nmemlock:\t4096\nmap_id:\t7\n";
        assert_eq!(map_memory(map), Some((7, 4096)));
        let program = "prog_type:\t26\nmemlock:\t4096\nprog_id:\t7\n";
        assert_eq!(map_memory(program), None);
    }

    #[test]
    fn this_process_costs_something() {
        assert!(cpu_ns() > 0);
        assert!(rss_bytes() > 100_000);
    }

    #[test]
    fn the_file_limit_is_raised_to_what_is_allowed() {
        raise_file_limit();
        let limit = getrlimit(Resource::Nofile);
        assert_eq!(limit.current, limit.maximum);
    }
}
