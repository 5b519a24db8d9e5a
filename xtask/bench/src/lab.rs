//! What every measurement needs: the machine, the workloads, captures in the background.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, ensure};
use profiler_tests::{Agent, Lab, Reading, Running};
use rustix::process::Signal;
use serde::Serialize;

use crate::workload::{Program, Walk, Workload};

/// A session's first moments differ from its rest: no stack is known yet, the sampling threshold is not yet adapted.
const SETTLE: Duration = Duration::from_secs(2);

/// Calls between main and the leaf of the workloads: 25 frames with main, the leaf and what libc puts above.
const LEVELS: u32 = 20;

/// The same for 123 frames.
const MORE_LEVELS: u32 = 118;

/// Longer than any window; a capture whose benchmark was killed ends by itself.
const LONGEST: &str = "2m";

/// Exit codes of a capture that was written: complete, or partial because more than 1 % was lost.
pub(crate) const WRITTEN: [i32; 2] = [0, 3];

/// How long and how often things are measured.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pace {
    /// Of one run of a kernel program's measurement.
    pub(crate) kernel_window: Duration,
    pub(crate) kernel_runs: usize,
    pub(crate) agent_window: Duration,
    pub(crate) slowdown_window: Duration,
    pub(crate) slowdown_rounds: usize,
    pub(crate) latency_runs: usize,
}

impl Pace {
    const FULL: Self = Self {
        kernel_window: Duration::from_secs(5),
        kernel_runs: 5,
        agent_window: Duration::from_secs(30),
        slowdown_window: Duration::from_secs(4),
        slowdown_rounds: 9,
        latency_runs: 5,
    };

    const QUICK: Self = Self {
        kernel_window: Duration::from_secs(1),
        kernel_runs: 2,
        agent_window: Duration::from_secs(5),
        slowdown_window: Duration::from_secs(1),
        slowdown_rounds: 2,
        latency_runs: 2,
    };
}

/// Where the measurements run.
#[derive(Debug)]
pub(crate) struct Bench {
    pub(crate) lab: Lab,
    pub(crate) pace: Pace,
    /// Object with the kernel program that does nothing.
    pub(crate) empty_program: PathBuf,
    pub(crate) cpus: usize,
    deep: Program,
    deeper: Program,
    deep_by_frame_pointers: Program,
    /// The example of the agent's crate that builds the tables of many files, where it was built.
    pub(crate) unwind_sweep: Option<PathBuf>,
    ping_pong: Program,
    naps: Program,
}

impl Bench {
    pub(crate) fn new(
        quick: bool,
        empty_program: PathBuf,
        unwind_sweep: Option<PathBuf>,
    ) -> Result<Self> {
        let lab = Lab::new()?;
        let compile = |name, walk, levels| Program::compile(name, walk, levels, lab.scratch());
        Ok(Self {
            pace: if quick { Pace::QUICK } else { Pace::FULL },
            empty_program,
            cpus: thread::available_parallelism()?.get(),
            unwind_sweep,
            deep: compile("deep", Walk::Tables, LEVELS)?,
            deeper: compile("deep", Walk::Tables, MORE_LEVELS)?,
            deep_by_frame_pointers: compile("deep", Walk::FramePointers, LEVELS)?,
            ping_pong: compile("ping_pong", Walk::Tables, LEVELS)?,
            naps: compile("naps", Walk::Tables, LEVELS)?,
            lab,
        })
    }

    /// One worker on each CPU, which then has no idle time; 25 frames deep.
    pub(crate) fn start_deep(&self) -> Result<Vec<Workload>> {
        self.start_on_all(&self.deep)
    }

    /// The same, 123 frames deep.
    pub(crate) fn start_deeper(&self) -> Result<Vec<Workload>> {
        self.start_on_all(&self.deeper)
    }

    /// The same as [`Self::start_deep`], by frame pointers.
    pub(crate) fn start_deep_by_frame_pointers(&self) -> Result<Vec<Workload>> {
        self.start_on_all(&self.deep_by_frame_pointers)
    }

    fn start_on_all(&self, program: &Program) -> Result<Vec<Workload>> {
        (0..self.cpus)
            .map(|cpu| program.start(&self.lab, cpu))
            .collect()
    }

    /// Switches between two processes on the last CPU.
    pub(crate) fn start_ping_pong(&self) -> Result<Vec<Workload>> {
        Ok(vec![self.ping_pong.start(&self.lab, self.cpus - 1)?])
    }

    /// Processes that sleep, on the last CPU.
    pub(crate) fn start_naps(&self) -> Result<Vec<Workload>> {
        Ok(vec![self.naps.start(&self.lab, self.cpus - 1)?])
    }

    /// Starts a capture that lasts until it is told to end, and waits until it has settled.
    pub(crate) fn capture(&self, agent: &Agent, arguments: &[&str]) -> Result<Background> {
        let out = self.lab.folder()?.join("bench.capture");
        let mut command = agent.record(&self.lab, arguments, &out)?;
        command.args(["-d", LONGEST]);
        let running = Running::start(&mut command)?;
        // In this order: asking the agent whether the capture has begun costs the agent something.
        thread::sleep(SETTLE);
        agent.await_capture(&self.lab)?;
        Ok(Background { running, out })
    }
}

/// A capture in the background.
#[derive(Debug)]
pub(crate) struct Background {
    running: Running,
    out: PathBuf,
}

impl Background {
    /// Ends it, and reads what was captured.
    pub(crate) fn end(self) -> Result<Reading> {
        self.running.signal(Signal::INT)?;
        let done = self.running.wait()?;
        ensure!(
            WRITTEN.contains(&done.code),
            "a capture ended with {}: {}",
            done.code,
            done.stderr
        );
        Reading::open(&self.out)
    }
}

/// UTC nanoseconds since the epoch.
pub(crate) fn utc_ns(time: SystemTime) -> Result<u64> {
    let since = time
        .duration_since(UNIX_EPOCH)
        .context("the clock is before 1970")?;
    Ok(u64::try_from(since.as_nanos())?)
}

/// What the figures were measured on.
#[derive(Debug, Serialize)]
pub(crate) struct Machine {
    utc_ns: u64,
    kernel: String,
    processor: String,
    cpus: usize,
    /// Processes that ran or wanted to, on average over the last minute.
    load: f64,
    /// Whether somebody else has the kernel time its programs, which slows each run down.
    programs_timed_by_others: bool,
    quick: bool,
}

impl Machine {
    pub(crate) fn now(quick: bool) -> Result<Self> {
        let read = |path: &str| {
            fs::read_to_string(Path::new("/proc").join(path))
                .with_context(|| format!("cannot read /proc/{path}"))
        };
        let load = read("loadavg")?;
        let processors = read("cpuinfo")?;
        let model = processors
            .lines()
            .find_map(|line| line.strip_prefix("model name")?.split_once(": "));
        Ok(Self {
            utc_ns: utc_ns(SystemTime::now())?,
            kernel: read("sys/kernel/osrelease")?.trim().to_owned(),
            processor: model.map_or_else(|| "unknown processor".to_owned(), |m| m.1.to_owned()),
            cpus: thread::available_parallelism()?.get(),
            load: load.split(' ').next().unwrap_or_default().parse()?,
            programs_timed_by_others: read("sys/kernel/bpf_stats_enabled")?.trim() != "0",
            quick,
        })
    }
}

impl fmt::Display for Machine {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            out,
            "Linux {}, {} CPUs ({}), load {:.2}",
            self.kernel, self.cpus, self.processor, self.load
        )?;
        if self.programs_timed_by_others {
            write!(
                out,
                "; kernel.bpf_stats_enabled is on, which makes every kernel program slower"
            )?;
        }
        if self.quick {
            write!(out, "; --quick: for a first look only")?;
        }
        Ok(())
    }
}
