//! Workloads of the catalogue, captured and scored.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Result, ensure};
use profiler_proto::{Event, StackEnd, UnwindMethod};

use crate::catalogue::Work;
use crate::perf::{self, PerfTarget};
use crate::score::{Observed, Score};
use crate::{Agent, Lab, Reading, Stack, Truth, Window, Workload, run};

/// What a profiler made of a workload.
#[derive(Clone, Debug)]
pub struct Measured {
    /// Of the workload.
    pub name: String,
    /// Its stacks.
    pub score: Score,
    /// Samples of it, also those without a user part.
    pub taken: u64,
    /// Samples that its CPU time makes at this frequency.
    pub expected_samples: f64,
    /// See [`Score::share_error`].
    pub share_error: f64,
    /// Samples by how their user part ended, as the profiler says.
    pub ends: BTreeMap<StackEnd, u64>,
    /// Samples by how their user part was walked, as the profiler says.
    pub methods: BTreeMap<UnwindMethod, u64>,
}

impl Measured {
    fn new(work: &Work, truth: &Truth, window: Window, hertz: u32, samples: &[Observed]) -> Self {
        let score = Score::of(&work.expected, samples);
        let cpu_ns = match work.children {
            // They tell their CPU time in the bytes of their spans.
            Some(_) => truth
                .sums(window)
                .values()
                .map(|sum| sum.bytes)
                .sum::<u64>() as f64,
            None => truth.cpu_ns(window),
        };
        let sums = truth.sums(window);
        Self {
            name: work.name.clone(),
            share_error: score.share_error(|leaf| sums.get(leaf).map_or(0.0, |sum| sum.cpu_ns)),
            taken: score.all.samples,
            score,
            expected_samples: cpu_ns * 1e-9 * f64::from(hertz),
            ends: BTreeMap::new(),
            methods: BTreeMap::new(),
        }
    }

    /// Percent of the samples that the CPU time lets expect.
    pub fn taken_percent(&self) -> f64 {
        100.0 * self.taken as f64 / self.expected_samples.max(1.0)
    }

    /// Percent of the samples that were walked so.
    pub fn walked_percent(&self, method: UnwindMethod) -> f64 {
        let walked = self.methods.get(&method).copied().unwrap_or(0);
        self.score.all.percent(walked)
    }

    /// One line of figures, then what is not clean.
    pub fn report(&self) -> String {
        let all = &self.score.all;
        let mut text = format!(
            "{:<24} {:>6} samples ({:5.1} %): root {:6.2} %, chain {:6.2} %, clean {:6.2} %, wrong {}, shares within {:.1}, \
             by tables {:.1} %",
            self.name,
            self.taken,
            self.taken_percent(),
            all.percent(all.rooted),
            all.percent(all.chained),
            all.percent(all.clean),
            all.wrong,
            self.share_error,
            self.walked_percent(UnwindMethod::Tables),
        );
        for (leaf, tally) in &self.score.chains {
            if tally.clean < tally.samples {
                let clean = tally.percent(tally.clean);
                text += &format!("\n    {leaf}: {clean:.2} % of {} clean", tally.samples);
            }
        }
        if all.clean < all.samples {
            let named = |counts: Vec<(&str, u64)>| {
                let counts = counts.iter().map(|(name, count)| format!("{name} {count}"));
                counts.collect::<Vec<_>>().join(", ")
            };
            let ends = self.ends.iter().map(|(end, n)| (end.as_str(), *n));
            let methods = self.methods.iter().map(|(how, n)| (how.as_str(), *n));
            text += &format!("\n    ends: {}", named(ends.collect()));
            text += &format!("\n    walked by: {}", named(methods.collect()));
            for (stack, count) in &self.score.unclean {
                text += &format!("\n    {count} x {stack}");
            }
        }
        text
    }
}

/// Starts all of the workloads and captures them at once.
///
/// # Errors
/// Fails where one cannot be started, captured or read.
pub fn by_agent(
    lab: &Lab,
    agent: &Agent,
    works: &[Work],
    hertz: u32,
    time: Duration,
) -> Result<Vec<Measured>> {
    let started = start(lab, works)?;
    let (frequency, seconds) = (hertz.to_string(), format!("{}ms", time.as_millis()));
    let mut arguments = vec!["-e", "cpu", "-F", &frequency, "-d", &seconds];
    let pids: Vec<_> = started.iter().map(Workload::pid_text).collect();
    // Children begin under the name of their parent: nothing but the whole host has all of them.
    if works.iter().all(|work| work.children.is_none()) {
        arguments.extend(pids.iter().flat_map(|pid| ["-p", pid]));
    }
    let out = lab.folder()?.join("measured.capture");
    run(&mut agent.record(lab, &arguments, &out)?)?.expect_written()?;
    let reading = Reading::open(&out)?;
    reading.ledger(Event::Cpu)?;
    let mut measured = Vec::new();
    for (work, workload) in works.iter().zip(started) {
        let pid = workload.pid();
        let truth = workload.finish()?;
        let of_work = |comm: &str, of: u32| is_of(work, pid, comm, of);
        let stacks = reading.walked(Event::Cpu, |who| {
            of_work(&who.comm, who.pid)
                && work.children.is_none_or(|comm| who.comm == comm)
                && !is_in_exec(who)
        })?;
        let samples: Vec<_> = stacks.iter().map(|one| one.observed.clone()).collect();
        let mut one = Measured::new(work, &truth, reading.window, hertz, &samples);
        let all = reading.stacks(Event::Cpu)?;
        let taken = all.iter().filter(|who| of_work(&who.comm, who.pid));
        one.taken = taken.map(|who| who.count).sum();
        for stack in &stacks {
            *one.ends.entry(stack.end).or_default() += stack.observed.count;
            *one.methods.entry(stack.method).or_default() += stack.observed.count;
        }
        measured.push(one);
    }
    Ok(measured)
}

/// The same with `perf record --call-graph dwarf`.
///
/// # Errors
/// As [`by_agent`]; skips the test where perf is not here.
pub fn by_perf(lab: &Lab, works: &[Work], hertz: u32, time: Duration) -> Result<Vec<Measured>> {
    let started = start(lab, works)?;
    let target = if works.iter().any(|work| work.children.is_some()) {
        PerfTarget::Host
    } else {
        PerfTarget::Pids(started.iter().map(Workload::pid).collect())
    };
    let profile = perf::record(lab, &target, hertz, time)?;
    let mut measured = Vec::new();
    for (work, workload) in works.iter().zip(started) {
        let pid = workload.pid();
        let truth = workload.finish()?;
        let of_work = profile
            .samples
            .iter()
            .filter(|sample| is_of(work, pid, &sample.comm, sample.pid));
        let taken = of_work.clone().count();
        let named = of_work.filter(|one| work.children.is_none_or(|comm| one.comm == comm));
        let walked = named.filter(|sample| !sample.frames.is_empty());
        let samples: Vec<_> = walked.map(perf::PerfSample::observed).collect();
        let mut one = Measured::new(work, &truth, profile.window, hertz, &samples);
        one.taken = taken as u64;
        measured.push(one);
    }
    Ok(measured)
}

/// Whether a thread is what a workload is measured by. A child has its parent's name until it calls exec.
fn is_of(work: &Work, workload: u32, comm: &str, pid: u32) -> bool {
    match work.children {
        Some(child) => comm == child || (pid != workload && comm == work.source()),
        None => pid == workload,
    }
}

/// In the midst of `execve` a process has a new memory, and registers that belong to the old one: no user part.
fn is_in_exec(stack: &Stack) -> bool {
    let mut kernel = stack.kernel.iter();
    stack.user.is_empty() && kernel.any(|function| function.contains("execve"))
}

fn start(lab: &Lab, works: &[Work]) -> Result<Vec<Workload>> {
    let mixed = works.len() > 1 && works.iter().any(|work| work.children.is_some());
    ensure!(!mixed, "children are a target of their own");
    works.iter().map(|work| work.start(lab)).collect()
}
