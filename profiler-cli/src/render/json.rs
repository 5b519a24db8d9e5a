//! `--output json`: numbers without rounding, the ledger always.

use profiler_proto::{Capture, Ledger, UnwindFacts};
use serde_json::{Map, Value, json};

use super::{summary, top};
use crate::view::{LeftOut, View};

/// The ledger, one object per event.
pub(crate) fn ledger(ledger: &Ledger) -> Value {
    ledger.events.iter().map(event_ledger).collect()
}

fn event_ledger(event: &profiler_proto::EventLedger) -> Value {
    json!({
        "event": event.event.name(),
        "expected": event.expected,
        "observed": event.observed,
        "idle": event.idle,
        "filtered": event.filtered,
        "unsampled": event.unsampled,
        "counted": event.counted,
        "delivered": event.delivered,
        "lost": event.lost(),
        "lost_share": event.lost_share(),
        "missing_share": event.missing_share(),
        "losses": reasons(&event.losses, |reason| reason.as_str()),
        "skipped": reasons(&event.skipped, |reason| reason.as_str()),
        "user_stacks": reasons(&event.user_stacks, |end| end.as_str()),
        "kernel_stacks": reasons(&event.kernel_stacks, |end| end.as_str()),
        "user_methods": reasons(&event.user_methods, |method| method.as_str()),
        "user_frames": event.user_frames,
        "unnamed_user_frames": event.unnamed_user_frames,
        "exact_weight": event.exact_weight,
        "sampled_weight": event.sampled_weight,
        "balanced": event.verify().is_ok(),
    })
}

fn reasons<K: Copy, V: Copy + Into<Value>>(
    counts: &std::collections::BTreeMap<K, V>,
    name: impl Fn(K) -> &'static str,
) -> Map<String, Value> {
    let entries = counts.iter();
    entries
        .map(|(key, value)| (name(*key).to_owned(), (*value).into()))
        .collect()
}

/// Waits that are not in the numbers beside it.
pub(crate) fn left_out(left_out: LeftOut) -> Value {
    json!({ "threads": left_out.threads, "wait_ns": left_out.wait_ns })
}

/// The events that were asked for and not to be had, with the reason.
pub(crate) fn unavailable(capture: &Capture) -> Value {
    let events = capture.facts.events.iter().filter(|event| !event.available);
    events
        .map(|event| json!({ "event": event.event.name(), "reason": event.reason }))
        .collect()
}

/// What a capture is and holds, with the first `functions` functions of each event.
pub(crate) fn capture(capture: &Capture, all: bool, functions: usize) -> Map<String, Value> {
    let facts = &capture.facts;
    let events: Vec<_> = facts
        .spec
        .events
        .iter()
        .map(|event| event_summary(capture, *event, all, functions))
        .collect();
    let mut object = Map::new();
    let mut set = |key: &str, value: Value| object.insert(key.to_owned(), value);
    set("host", json!(facts.host));
    set("kernel", json!(facts.kernel));
    set("architecture", json!(facts.architecture));
    set("agent_version", json!(facts.agent_version));
    set("online_cpus", json!(facts.online_cpus));
    set("start_ns", json!(facts.start_ns));
    set("end_ns", json!(facts.end_ns));
    set("target", json!(facts.spec.target.to_string()));
    set("end_reason", json!(summary::end_reason(facts)));
    set("warnings", json!(facts.warnings));
    set("events", json!(events));
    set("devices", devices(capture));
    set("ledger", ledger(&capture.ledger));
    set("own_cost", own_cost(capture));
    set("unwinding", unwinding(&facts.unwind));
    if let Some(command) = &facts.command {
        set(
            "command",
            json!({ "argv": command.argv, "exit_code": command.exit_code }),
        );
    }
    object
}

fn event_summary(
    capture: &Capture,
    event: profiler_proto::Event,
    all: bool,
    functions: usize,
) -> Value {
    let facts = capture.facts.event(event);
    let mut object = json!({
        "event": event.name(),
        "available": facts.is_some_and(|facts| facts.available),
        "mechanism": facts.map(|facts| &facts.mechanism),
        "reason": facts.map(|facts| &facts.reason),
        "parameters": facts.map(|facts| &facts.parameters),
    });
    if let Some(view) = View::new(capture, event, all) {
        let table = top::table(&view);
        object["samples"] = json!(table.whole.count);
        object["weight_ns"] = json!(table.whole.weight_ns);
        object["left_out"] = left_out(view.left_out);
        object["top"] = json!(top::functions(event, &table, functions));
    }
    object
}

fn devices(capture: &Capture) -> Value {
    let name = |id| capture.dictionary.string(id);
    let devices = capture.devices.iter().map(|device| {
        json!({
            "device": name(device.device),
            "operation": name(device.operation),
            "count": device.count,
            "bytes": device.bytes,
            "errors": device.errors,
            "queue_ns": device.queue_ns,
            "device_ns": device.device_ns,
            "queue_histogram": device.queue_histogram.buckets,
            "device_histogram": device.device_histogram.buckets,
        })
    });
    devices.collect()
}

fn own_cost(capture: &Capture) -> Value {
    let cost = &capture.facts.own_cost;
    json!({
        "agent_cpu_ns": cost.agent_cpu_ns,
        "agent_rss_bytes": cost.agent_rss_bytes,
        "bpf_map_bytes": cost.bpf_map_bytes,
        "bpf_run_ns": cost.bpf_run_ns,
        "bpf_runs": cost.bpf_runs,
    })
}

/// What unwinding by tables took.
pub(crate) fn unwinding(facts: &UnwindFacts) -> Value {
    let UnwindFacts {
        tables_built,
        tables_refused,
        table_bytes,
        build_cpu_ns,
        processes_without_table,
        copies_taken,
        copies_lost,
    } = facts;
    json!({
        "tables_built": tables_built,
        "tables_refused": tables_refused,
        "table_bytes": table_bytes,
        "build_cpu_ns": build_cpu_ns,
        "processes_without_table": processes_without_table,
        "copies_taken": copies_taken,
        "copies_lost": copies_lost,
    })
}
