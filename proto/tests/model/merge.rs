//! What a merge makes of facts and hosts. That it keeps all and does not depend on the order is
//! in `properties.rs`.

use profiler_proto::{Capture, CaptureSpec, EndReason, Event, LossReason};

use super::common::capture;

fn of_host(host: &str) -> Capture {
    let mut capture = capture();
    capture.facts.host = host.to_owned();
    capture
}

#[test]
fn windows_of_one_host_add_up() {
    let one = capture();
    let mut two = capture();
    two.facts.start_ns += 60_000_000_000;
    two.facts.end_ns += 60_000_000_000;
    let merged = Capture::merge([one.clone(), two]).unwrap();
    assert_eq!(merged.window().as_secs(), 70);
    assert_eq!(merged.accounts.len(), 1);
    assert_eq!(merged.accounts[0].on_cpu_ns, 12_000_000_000);
    assert_eq!(merged.devices.len(), 1);
    assert_eq!(merged.devices[0].count, 6);
    assert_eq!(merged.devices[0].queue_histogram.total(), 6);
    assert!(merged.devices[0].host.is_none());
    let cpu = merged.ledger.event(Event::Cpu).unwrap();
    assert_eq!(cpu.losses[&LossReason::RingBufferFull], 8);
    assert_eq!(cpu.verify(), Ok(()));
    // Two of the same host, and yet one dictionary.
    let threads: Vec<_> = merged.profiles[0]
        .samples
        .iter()
        .map(|s| s.thread)
        .collect();
    assert_eq!(threads.len(), 4);
    assert_eq!(threads[0], threads[1]);
}

#[test]
fn facts_of_a_merge() {
    let one = capture();
    let mut two = of_host("db0");
    two.facts.kernel = "6.1.0".into();
    two.facts.online_cpus = 64;
    two.facts.end_reason = EndReason::Stopped;
    two.facts.warnings = vec!["a".into(), "kernel symbols are hidden".into()];
    two.facts.events[1].parameters = [
        ("threshold_ns_last".into(), 7.0),
        ("probability_min".into(), 0.5),
    ]
    .into();
    two.facts.events[2].available = true;
    two.facts.events[2].mechanism = "block_rq_issue".into();
    let facts = Capture::merge([one, two]).unwrap().facts;
    assert_eq!(facts.host, "db0, db1");
    assert_eq!(facts.kernel, "6.1.0, 6.12.57");
    assert_eq!(facts.architecture, "x86_64");
    assert_eq!(facts.online_cpus, 64);
    assert_eq!(facts.end_reason, EndReason::Stopped);
    assert_eq!(facts.warnings, ["a", "kernel symbols are hidden"]);
    assert_eq!(facts.own_cost.agent_cpu_ns, 60_000_000);
    assert_eq!(facts.own_cost.agent_rss_bytes, 20 << 20);
    assert_eq!(facts.command, None);
    assert_eq!(facts.unwind.tables_built, 62);
    assert_eq!(facts.unwind.tables_refused["not an ELF file"], 2);
    assert_eq!(facts.unwind.copies_taken, 34);
    assert_eq!(facts.unwind.table_bytes, 9 << 20);
    let offcpu = facts.event(Event::OffCpu).unwrap();
    assert_eq!(offcpu.parameters["threshold_ns_last"], 7.0);
    assert_eq!(offcpu.parameters["probability_min"], 0.5);
    let io = facts.event(Event::Io).unwrap();
    assert!(!io.available);
    assert_eq!(io.mechanism, "block_rq_issue");
    assert!(io.reason.contains("CAP_PERFMON"));
}

#[test]
fn hosts_stay_apart() {
    let merged = Capture::merge([of_host("b"), of_host("a"), of_host("a"), of_host("")]).unwrap();
    assert_eq!(merged.facts.host, "a, b, unknown");
    let dictionary = &merged.dictionary;
    let accounts: Vec<_> = merged
        .accounts
        .iter()
        .map(|account| {
            let thread = dictionary.thread(account.thread);
            let process = dictionary.process(thread.process);
            (dictionary.string(process.host), account.blocked_count)
        })
        .collect();
    assert_eq!(accounts, [("a", 24), ("b", 12), ("unknown", 12)]);
    let devices = merged.devices.iter();
    let devices: Vec<_> = devices
        .map(|device| (dictionary.string(device.host), device.count))
        .collect();
    assert_eq!(devices, [("a", 6), ("b", 3), ("unknown", 3)]);
}

#[test]
fn captures_that_cannot_be_compared_are_not_merged() {
    let with = |change: fn(&mut CaptureSpec)| {
        let mut capture = capture();
        capture.facts.spec.target = Default::default();
        change(&mut capture.facts.spec);
        capture
    };
    let error = |change| {
        let merged = Capture::merge([with(|_| {}), with(change)]);
        merged.unwrap_err().to_string()
    };
    assert_eq!(
        error(|spec| spec.events = vec![Event::Cpu]),
        "captures of different events cannot be merged: cpu,offcpu,io and cpu"
    );
    assert_eq!(
        error(|spec| spec.target.pids = vec!["7".parse().unwrap()]),
        "captures of different targets cannot be merged: whole host and pid 7"
    );
    assert_eq!(
        error(|spec| spec.frequency = "98".parse().unwrap()),
        "captures of different frequencies cannot be merged: 99 Hz and 98 Hz"
    );
    let merged = Capture::merge([]);
    assert_eq!(merged.unwrap_err().to_string(), "nothing to merge");
}

#[test]
fn durations_and_unused_frequencies_may_differ() {
    let one = |frequency: &str, duration: &str| {
        let mut capture = capture();
        capture.facts.spec.events = vec![Event::Io];
        capture.facts.spec.frequency = frequency.parse().unwrap();
        capture.facts.spec.duration = duration.parse().unwrap();
        capture
    };
    let merged = Capture::merge([one("99", "10s"), one("98", "20s")]).unwrap();
    assert_eq!(merged.facts.spec.frequency.get(), 99);
    assert_eq!(merged.facts.spec.duration.to_string(), "20s");
}
