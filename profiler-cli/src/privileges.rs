//! Whether this process may run kernel programs.

use std::fs;

/// Bit numbers from `linux/capability.h`.
const CAP_SYS_ADMIN: u32 = 21;
const CAP_PERFMON: u32 = 38;
const CAP_BPF: u32 = 39;

/// Whether starting an agent has a chance: root, or the capabilities that replace it.
pub(crate) fn suffice() -> bool {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    rustix::process::geteuid().is_root() || effective_capabilities(&status).is_some_and(may_trace)
}

fn effective_capabilities(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|l| l.strip_prefix("CapEff:"))?;
    u64::from_str_radix(line.trim(), 16).ok()
}

fn may_trace(capabilities: u64) -> bool {
    let has = |bit: u32| capabilities & (1 << bit) != 0;
    has(CAP_SYS_ADMIN) || has(CAP_BPF) && has(CAP_PERFMON)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn either_both_new_capabilities_or_the_old_one() {
        let status = "Name:\tx\nCapEff:\t000000c000000000\n";
        assert!(effective_capabilities(status).is_some_and(may_trace));
        assert!(may_trace(1 << CAP_SYS_ADMIN));
        assert!(!may_trace(1 << CAP_BPF));
        assert!(!may_trace(1 << CAP_PERFMON));
        assert_eq!(effective_capabilities("Name:\tx\n"), None);
    }
}
