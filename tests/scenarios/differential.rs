//! The same process, at the same time, by `perf record --call-graph dwarf`: both are to see the same stacks equally often.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Result, ensure};
use profiler_proto::Event;
use profiler_tests::catalogue::{self, Work};
use profiler_tests::chain::Frame;
use profiler_tests::perf::{self, PerfTarget};
use profiler_tests::{Agent, Build, Lab, Reading, Running, program};

const TIME: Duration = Duration::from_secs(3);
const HERTZ: u32 = 499;

/// Half the sum of the differences of all shares. Some tens of stacks, a thousand samples each side.
const DISTANCE: f64 = 0.12;

pub(crate) fn same_stacks_as_perf(lab: &Lab) -> Result<()> {
    program("perf")?;
    for work in [
        catalogue::deep(60, Build::Frameless),
        catalogue::callbacks(Build::Frameless),
        catalogue::rusty(),
    ] {
        compare(lab, &work)?;
    }
    Ok(())
}

fn compare(lab: &Lab, work: &Work) -> Result<()> {
    let agent = Agent::start(lab, &[])?;
    let workload = work.start(lab)?;
    let pid = workload.pid();
    let out = lab.folder()?.join("same.capture");
    let (frequency, length) = (HERTZ.to_string(), format!("{}s", TIME.as_secs()));
    let pid_text = pid.to_string();
    let arguments = [
        "-e", "cpu", "-F", &frequency, "-d", &length, "-p", &pid_text,
    ];
    let recording = Running::start(&mut agent.record(lab, &arguments, &out)?)?;
    agent.await_capture(lab)?;
    let theirs = perf::record(lab, &PerfTarget::Pids(vec![pid]), HERTZ, TIME)?;
    recording.wait()?.expect_written()?;
    workload.finish()?;

    let program = work.source();
    let ours = Reading::open(&out)?.walked(Event::Cpu, |who| who.pid == pid)?;
    let ours = Shares::of(ours.iter().map(|one| {
        let observed = &one.observed;
        (comparable(&observed.frames, program), observed.count)
    }));
    let theirs = theirs.samples.iter();
    let theirs = Shares::of(theirs.map(|one| (comparable(&one.frames, program), 1)));
    let distance = ours.distance(&theirs);
    println!(
        "{}: {} and {} different stacks, distance {distance:.3}",
        work.name,
        ours.0.len(),
        theirs.0.len()
    );
    if distance > DISTANCE {
        ours.print_beside(&theirs);
    }
    ensure!(
        distance <= DISTANCE,
        "{}: the stacks differ by {distance:.3}",
        work.name
    );
    Ok(())
}

/// The program's own functions by name. What is outside of it, one word for each stretch: libc's functions have several
/// names each, and which of them a tool shows is its choice; so is whether it shows what was inlined in Rust's library.
fn comparable(frames: &[Frame], program: &str) -> Vec<String> {
    const LIBRARY: [&str; 4] = ["std::", "core::", "alloc::", "<"];
    let is_own = |frame: &Frame| {
        let mut library = LIBRARY.iter();
        frame.module == program && !library.any(|begin| frame.function.starts_with(begin))
    };
    let name = |frame: &Frame| {
        if is_own(frame) {
            frame.to_string()
        } else {
            "(outside)".to_owned()
        }
    };
    let mut names: Vec<_> = frames.iter().map(name).collect();
    names.dedup();
    names
}

/// How often each stack was seen, of 1.
struct Shares(BTreeMap<Vec<String>, f64>);

impl Shares {
    fn of(stacks: impl Iterator<Item = (Vec<String>, u64)>) -> Self {
        let mut shares = BTreeMap::new();
        let mut all = 0;
        for (stack, count) in stacks {
            *shares.entry(stack).or_default() += count as f64;
            all += count;
        }
        shares.values_mut().for_each(|share| *share /= all as f64);
        Self(shares)
    }

    fn share(&self, stack: &Vec<String>) -> f64 {
        self.0.get(stack).copied().unwrap_or(0.0)
    }

    fn distance(&self, other: &Self) -> f64 {
        let missing = other
            .0
            .iter()
            .filter(|(stack, _)| !self.0.contains_key(*stack));
        let missing: f64 = missing.map(|(_, share)| share).sum();
        let differing = self
            .0
            .iter()
            .map(|(stack, share)| (share - other.share(stack)).abs());
        (missing + differing.sum::<f64>()) / 2.0
    }

    fn print_beside(&self, other: &Self) {
        const NOTABLE: f64 = 0.01;
        let stacks = self
            .0
            .keys()
            .chain(other.0.keys().filter(|one| !self.0.contains_key(*one)));
        for stack in stacks {
            let (ours, theirs) = (self.share(stack), other.share(stack));
            if (ours - theirs).abs() > NOTABLE {
                println!(
                    "    ours {ours:.3}, perf's {theirs:.3}: {}",
                    stack.join(";")
                );
            }
        }
    }
}
