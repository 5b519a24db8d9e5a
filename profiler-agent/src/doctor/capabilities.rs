//! Which capabilities the agent has, and what it loses without the others.

use profiler_proto::pb::Check;

use super::{degraded, failed, ok};

/// A set of capabilities, one bit each, numbered as in `linux/capability.h`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Capabilities(pub(super) u64);

const DAC_OVERRIDE: u64 = 1 << 1;
const DAC_READ_SEARCH: u64 = 1 << 2;
const SYS_PTRACE: u64 = 1 << 19;
const SYS_ADMIN: u64 = 1 << 21;
const SYSLOG: u64 = 1 << 34;
const PERFMON: u64 = 1 << 38;
const BPF: u64 = 1 << 39;
const CHECKPOINT_RESTORE: u64 = 1 << 40;

struct Need {
    name: &'static str,
    /// The capability and those that stand for it in the kernel's checks.
    any_of: u64,
    /// Nothing works without it.
    vital: bool,
    /// What is lost without it.
    cost: &'static str,
}

const NEEDS: [Need; 6] = [
    Need {
        name: "CAP_BPF",
        any_of: BPF | SYS_ADMIN,
        vital: true,
        cost: "no kernel program can be loaded",
    },
    Need {
        name: "CAP_PERFMON",
        any_of: PERFMON | SYS_ADMIN,
        vital: true,
        cost: "no kernel program may trace or sample",
    },
    Need {
        name: "CAP_SYS_PTRACE",
        any_of: SYS_PTRACE,
        vital: false,
        cost: "functions of other users' processes get no names, for want of /proc/PID/maps",
    },
    Need {
        name: "CAP_DAC_READ_SEARCH",
        any_of: DAC_READ_SEARCH | DAC_OVERRIDE,
        vital: false,
        cost: "functions in programs that the agent's user may not read get no names",
    },
    Need {
        name: "CAP_CHECKPOINT_RESTORE",
        any_of: CHECKPOINT_RESTORE | SYS_ADMIN,
        vital: false,
        cost: "functions in programs deleted or replaced while they run get no names",
    },
    Need {
        name: "CAP_SYSLOG",
        any_of: SYSLOG,
        vital: false,
        cost: "kernel frames get no names",
    },
];

impl Capabilities {
    pub(super) fn has_perfmon(self) -> bool {
        self.0 & (PERFMON | SYS_ADMIN) != 0
    }

    pub(super) fn check(self) -> Check {
        let name = "capabilities";
        let missing: Vec<&Need> = NEEDS
            .iter()
            .filter(|need| self.0 & need.any_of == 0)
            .collect();
        if missing.is_empty() {
            return ok(name, "all that are needed");
        }
        let costs = missing
            .iter()
            .map(|need| format!("without {}: {}", need.name, need.cost));
        let found = costs.collect::<Vec<_>>().join("; ");
        let names = missing.iter().map(|need| need.name);
        let advice = format!(
            "run the agent as root, or give it {}",
            names.collect::<Vec<_>>().join(" ")
        );
        if missing.iter().any(|need| need.vital) {
            failed(name, found, &advice)
        } else {
            degraded(name, found, &advice)
        }
    }
}

#[cfg(test)]
mod tests {
    use profiler_proto::pb::CheckState;

    use super::*;

    const SUFFICIENT: u64 =
        BPF | PERFMON | SYS_PTRACE | DAC_READ_SEARCH | CHECKPOINT_RESTORE | SYSLOG;

    #[test]
    fn each_capability_that_lacks_is_named_with_its_cost() {
        assert_eq!(Capabilities(SUFFICIENT).check().state(), CheckState::Ok);
        for (bit, name, state) in [
            (BPF, "CAP_BPF", CheckState::Failed),
            (PERFMON, "CAP_PERFMON", CheckState::Failed),
            (SYS_PTRACE, "CAP_SYS_PTRACE", CheckState::Degraded),
            (DAC_READ_SEARCH, "CAP_DAC_READ_SEARCH", CheckState::Degraded),
            (
                CHECKPOINT_RESTORE,
                "CAP_CHECKPOINT_RESTORE",
                CheckState::Degraded,
            ),
            (SYSLOG, "CAP_SYSLOG", CheckState::Degraded),
        ] {
            let check = Capabilities(SUFFICIENT & !bit).check();
            assert_eq!(check.state(), state, "{name}");
            assert!(
                check.found.starts_with(&format!("without {name}: ")),
                "{check:?}"
            );
            assert_eq!(
                check.advice,
                format!("run the agent as root, or give it {name}")
            );
        }
    }

    #[test]
    fn nothing_at_all_names_everything() {
        let check = Capabilities(0).check();
        assert_eq!(check.state(), CheckState::Failed);
        assert!(
            NEEDS.iter().all(|need| check.advice.contains(need.name)),
            "{check:?}"
        );
    }

    #[test]
    fn the_older_capabilities_stand_for_the_newer_ones() {
        let older = SYS_ADMIN | SYS_PTRACE | DAC_OVERRIDE | SYSLOG;
        assert_eq!(Capabilities(older).check().state(), CheckState::Ok);
        // The kernel shows the addresses of its symbols for CAP_SYSLOG only.
        let check = Capabilities(older & !SYSLOG).check();
        assert!(check.found.contains("CAP_SYSLOG"), "{check:?}");
    }
}
