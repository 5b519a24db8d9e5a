use super::*;

/// A host on which everything is as it should be.
fn healthy() -> Host {
    Host {
        release: "6.1.0-18-amd64".to_owned(),
        btf: Ok(5 << 20),
        effective_capabilities: u64::MAX,
        perf_event_paranoid: Some(2),
        pid_namespace_is_hosts: Some(true),
        user_namespace_is_hosts: Some(true),
        lockdown: Some("[none] integrity confidentiality\n".to_owned()),
        kernel_symbols_shown: true,
        kptr_restrict: Some(1),
        memlock_limit: Some(8 << 20),
        mounts: "22 1 0:20 / /sys rw - sysfs sysfs rw\n\
                 29 22 0:26 / /sys/fs/cgroup rw shared:4 - cgroup2 cgroup2 rw,nsdelegate\n"
            .to_owned(),
    }
}

#[track_caller]
fn expect(check: &Check, state: CheckState, found: &str, advice: &str) {
    assert_eq!(check.state(), state, "{check:?}");
    assert!(check.found.contains(found), "{check:?}");
    assert!(check.advice.contains(advice), "{check:?}");
}

#[test]
fn a_healthy_host_needs_no_advice() {
    for check in healthy().checks() {
        assert_eq!(check.state(), CheckState::Ok, "{check:?}");
        assert_eq!(check.advice, "", "{check:?}");
        assert_ne!(check.found, "", "{check:?}");
    }
}

#[test]
fn this_host_can_be_examined() {
    let checks = examine();
    let mut names: Vec<&str> = checks.iter().map(|check| check.name.as_str()).collect();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), 10);
    for check in &checks {
        let fine = check.state() == CheckState::Ok;
        assert_eq!(check.advice.is_empty(), fine, "{check:?}");
    }
}

#[test]
fn kernel_versions() {
    for release in ["5.10.0-30-amd64", "5.10", "6.18.44-fc", "10.0.1"] {
        expect(&kernel(release), CheckState::Ok, release, "");
    }
    for release in ["5.9.16", "4.18.0-553.el8", "3.10"] {
        expect(
            &kernel(release),
            CheckState::Failed,
            "older than 5.10",
            "5.10 or newer",
        );
    }
    for release in ["", "next", "6"] {
        expect(
            &kernel(release),
            CheckState::Degraded,
            "not understood",
            "5.10",
        );
    }
}

#[test]
fn without_btf_nothing_works() {
    let missing = btf(Err("No such file or directory (os error 2)"));
    expect(
        &missing,
        CheckState::Failed,
        "No such file",
        "CONFIG_DEBUG_INFO_BTF=y",
    );
}

#[test]
fn perf_needs_the_capability_or_an_open_kernel() {
    let none = Capabilities(0);
    let all = Capabilities(u64::MAX);
    expect(&perf(Some(4), all), CheckState::Ok, "is 4", "");
    expect(&perf(Some(-1), none), CheckState::Ok, "is -1", "");
    expect(&perf(Some(0), none), CheckState::Ok, "is 0", "");
    expect(
        &perf(Some(1), none),
        CheckState::Failed,
        "is 1",
        "CAP_PERFMON",
    );
    expect(
        &perf(None, all),
        CheckState::Failed,
        "not there",
        "CONFIG_PERF_EVENTS",
    );
}

#[test]
fn another_namespace_gives_wrong_names() {
    let other_pids = namespaces(Some(false), Some(true));
    expect(&other_pids, CheckState::Failed, "process ids", "--pid=host");
    let other_users = namespaces(Some(false), Some(false));
    expect(&other_users, CheckState::Failed, "capabilities", "rootless");
    expect(
        &namespaces(None, None),
        CheckState::Degraded,
        "/proc/self/ns",
        "proc",
    );
}

#[test]
fn only_confidentiality_is_too_much_lockdown() {
    expect(&lockdown(None), CheckState::Ok, "not in this kernel", "");
    let integrity = lockdown(Some("none [integrity] confidentiality\n"));
    expect(&integrity, CheckState::Ok, "integrity", "");
    let confidentiality = lockdown(Some("none integrity [confidentiality]\n"));
    expect(
        &confidentiality,
        CheckState::Failed,
        "kernel memory",
        "lockdown=integrity",
    );
    expect(
        &lockdown(Some("strange\n")),
        CheckState::Degraded,
        "`strange`",
        "locked down",
    );
}

#[test]
fn hidden_kernel_symbols_have_two_reasons() {
    let restricted = kernel_symbols(false, Some(2));
    expect(
        &restricted,
        CheckState::Degraded,
        "is 2",
        "kptr_restrict to 1",
    );
    for level in [Some(0), Some(1), None] {
        let check = kernel_symbols(false, level);
        expect(&check, CheckState::Degraded, "no names", "CAP_SYSLOG");
    }
}

#[test]
fn memlock_counts_up_to_5_10_only() {
    expect(&memlock("5.11.0", Some(0)), CheckState::Ok, "5.11", "");
    expect(
        &memlock("5.10.0", Some(64 << 10)),
        CheckState::Degraded,
        "64 KiB",
        "LimitMEMLOCK",
    );
    expect(
        &memlock("5.10.0", Some(1 << 30)),
        CheckState::Ok,
        "1048576 KiB",
        "",
    );
    expect(&memlock("5.10.0", None), CheckState::Ok, "no limit", "");
}

#[test]
fn mounts() {
    let v1 = "30 29 0:27 / /sys/fs/cgroup/cpu rw shared:5 master:1 - cgroup cgroup rw,cpu\n";
    let v2 = "31 29 0:28 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n";
    let hybrid = format!("{v1}{v2}");
    expect(
        &cgroups(v1),
        CheckState::Ok,
        "v1, the first at /sys/fs/cgroup/cpu",
        "",
    );
    expect(
        &cgroups(v2),
        CheckState::Ok,
        "v2 at /sys/fs/cgroup/unified",
        "",
    );
    expect(&cgroups(&hybrid), CheckState::Ok, "hybrid", "");
    expect(
        &cgroups("nonsense\n"),
        CheckState::Degraded,
        "none mounted",
        "cgroup2",
    );

    expect(&tracefs(v1), CheckState::Ok, "not mounted; not needed", "");
    let mounted = "40 22 0:12 / /sys/kernel/tracing rw - tracefs tracefs rw\n";
    expect(&tracefs(mounted), CheckState::Ok, "/sys/kernel/tracing", "");
}
