//! CPU time and memory of the agent while it captures.

use std::fs;
use std::thread;
use std::time::SystemTime;

use anyhow::{Context, Result};
use profiler_tests::Agent;
use serde_json::Value;

use crate::figure::{
    Figure, Series,
    Unit::{Megabytes, Milliseconds, Percent},
};
use crate::lab::{Bench, utc_ns};

/// Targets: percent of one CPU on an idle host at 99 Hz, and millions of bytes.
const CPU_PERCENT: f64 = 1.0;
const MEMORY_MB: f64 = 60.0;

pub(crate) fn measure(bench: &Bench) -> Result<Vec<Figure>> {
    let mut series = Series::default();
    Cost::measure(bench)?.report("idle host", Some(CPU_PERCENT), &mut series);
    let mut busy = bench.start_deep()?;
    busy.extend(bench.start_ping_pong()?);
    Cost::measure(bench)?.report("busy host", None, &mut series);
    Ok(series.figures())
}

/// What the agent says of itself at one moment.
#[derive(Clone, Copy, Debug)]
struct Status {
    utc_ns: u64,
    uptime_ns: u64,
    cpu_ns: u64,
    rss_bytes: u64,
    map_bytes: u64,
}

impl Status {
    fn of(agent: &Agent, bench: &Bench) -> Result<Self> {
        let status = agent.status(&bench.lab)?;
        let number = |key: &str| {
            let value = status.get(key).and_then(Value::as_u64);
            value.with_context(|| format!("no {key} in the agent's status"))
        };
        Ok(Self {
            utc_ns: utc_ns(SystemTime::now())?,
            uptime_ns: number("uptime_ns")?,
            cpu_ns: number("cpu_ns")?,
            rss_bytes: number("rss_bytes")?,
            map_bytes: number("bpf_map_bytes")?,
        })
    }
}

/// Of one session with all events at 99 Hz.
#[derive(Clone, Copy, Debug)]
struct Cost {
    /// CPU time per time while it captures.
    share: f64,
    /// CPU time of loading, attaching and the first stacks; of naming frames and building the capture.
    start_ns: f64,
    finish_ns: f64,
    capturing_bytes: u64,
    /// Part of that which is not pages of files, such as those of profiled programs that are read for names.
    anonymous_bytes: u64,
    /// The most that was ever resident, and the maps.
    peak_bytes: u64,
    map_bytes: u64,
}

impl Cost {
    fn measure(bench: &Bench) -> Result<Self> {
        let agent = Agent::start(&bench.lab, &[])?;
        let before = Status::of(&agent, bench)?;
        let capture = bench.capture(&agent, &["-F", "99"])?;
        let first = Status::of(&agent, bench)?;
        thread::sleep(bench.pace.agent_window);
        let last = Status::of(&agent, bench)?;
        let anonymous_bytes = memory_bytes(agent.pid(), "RssAnon:")?;
        let facts = capture.end()?.capture.facts;
        let after = Status::of(&agent, bench)?;
        let cpu_ns = |from: Status, to: Status| to.cpu_ns.saturating_sub(from.cpu_ns) as f64;
        let uptime_ns = last.uptime_ns.saturating_sub(first.uptime_ns).max(1);
        let share = cpu_ns(first, last) / uptime_ns as f64;
        let steady_ns = |from: u64, to: u64| share * to.saturating_sub(from) as f64;
        Ok(Self {
            share,
            start_ns: cpu_ns(before, first) - steady_ns(facts.start_ns, first.utc_ns),
            finish_ns: cpu_ns(last, after) - steady_ns(last.utc_ns, facts.end_ns),
            capturing_bytes: last.rss_bytes + last.map_bytes,
            anonymous_bytes,
            // The kernel's peak may lag behind a little.
            peak_bytes: memory_bytes(agent.pid(), "VmHWM:")?.max(last.rss_bytes) + last.map_bytes,
            map_bytes: last.map_bytes,
        })
    }

    fn report(self, host: &str, target: Option<f64>, series: &mut Series) {
        let mb = |bytes: u64| bytes as f64 / 1e6;
        let name = |what: &str| format!("agent, {host}: {what}");
        let percent = series.add(&name("CPU, of one core"), Percent, 100.0 * self.share);
        percent.note("99 Hz, all events, steady");
        if let Some(target) = target {
            percent.at_most(target);
        }
        series
            .add(&name("CPU to start"), Milliseconds, self.start_ns / 1e6)
            .note("once: programs loaded and attached, first frames named");
        series
            .add(&name("CPU to finish"), Milliseconds, self.finish_ns / 1e6)
            .note("once: programs detached, capture built and sent");
        series
            .add(
                &name("memory while capturing"),
                Megabytes,
                mb(self.capturing_bytes),
            )
            .at_most(MEMORY_MB)
            .note(format!(
                "{:.1} MB of it anonymous, {:.1} MB BPF maps, the rest pages of files",
                mb(self.anonymous_bytes),
                mb(self.map_bytes)
            ));
        series
            .add(&name("memory at its peak"), Megabytes, mb(self.peak_bytes))
            .at_most(MEMORY_MB)
            .note("most ever resident, and the maps");
    }
}

/// A line of a process's `status` about its memory.
fn memory_bytes(pid: u32, key: &str) -> Result<u64> {
    let path = format!("/proc/{pid}/status");
    let status = fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
    let line = status.lines().find_map(|line| line.strip_prefix(key));
    let kib = line.and_then(|line| line.split_whitespace().next());
    let kib: u64 = kib
        .with_context(|| format!("{path} has no {key}"))?
        .parse()?;
    Ok(kib * 1024)
}
