//! Time per run of the kernel programs.

use std::path::Path;
use std::thread;

use anyhow::{Context, Result};
use profiler_proto::{Event, EventLedger, UnwindMethod};
use profiler_tests::{Agent, LoopDisk, Reading, Workload as DiskWriter};

use crate::figure::{Figure, Series, Unit::Nanoseconds};
use crate::lab::Bench;
use crate::programs::{Programs, Runs, run_empty, timing};
use crate::workload::Workload;

/// Targets, nanoseconds.
const PER_SAMPLE: f64 = 3500.0;
const PER_DEEP_SAMPLE: f64 = 10_000.0;
const PER_SWITCH: f64 = 250.0;

/// The programs of off-CPU: one at every switch, one where a thread resumes.
const SWITCH: &str = "sched_switch";
const RESUME: &str = "offcpu_resume";

/// The programs of io.
const BLOCK: [&str; 4] = [
    "block_io_start",
    "block_rq_insert",
    "block_rq_issue",
    "block_rq_complete",
];

/// A capture, and what its programs took in a window of it.
struct Observed {
    programs: Programs,
    reading: Reading,
}

impl Observed {
    fn ledger(&self, event: Event) -> Result<&EventLedger> {
        let ledger = self.reading.capture.ledger.event(event);
        ledger.with_context(|| format!("no ledger of {event} in the capture"))
    }

    /// Both programs of off-CPU, by context switches.
    fn switches(&self) -> Runs {
        let (switch, resume) = (self.programs.named(SWITCH), self.programs.named(RESUME));
        Runs {
            ns: switch.ns + resume.ns,
            count: switch.count,
        }
    }
}

/// Captures and times the programs. What the ledger counts is of the whole capture, a little longer than the window.
fn observe(bench: &Bench, arguments: &[&str]) -> Result<Observed> {
    let agent = Agent::start(&bench.lab, &[])?;
    let _timing = timing()?;
    let capture = bench.capture(&agent, arguments)?;
    let before = Programs::of(agent.pid())?;
    thread::sleep(bench.pace.kernel_window);
    let programs = Programs::of(agent.pid())?.since(&before);
    let reading = capture.end()?;
    Ok(Observed { programs, reading })
}

/// In rounds, so that a change of the machine's speed meets every figure.
pub(crate) fn measure(bench: &Bench) -> Result<Vec<Figure>> {
    let mut series = Series::default();
    for _ in 0..bench.pace.kernel_runs {
        samples(bench, &mut series)?;
        switches(bench, &mut series)?;
        empty(bench, &mut series)?;
        foreign_switches(bench, &mut series)?;
        sampled_waits(bench, &mut series)?;
        requests(bench, &mut series)?;
    }
    Ok(series.figures())
}

fn samples(bench: &Bench, series: &mut Series) -> Result<()> {
    let name = "cpu_sample, per sample of 25 frames by tables";
    let workers = bench.start_deep()?;
    let some = sample(bench, workers, name, Some(PER_SAMPLE), series)?;
    let name = "cpu_sample, per sample of 123 frames by tables";
    let workers = bench.start_deeper()?;
    let many = sample(bench, workers, name, Some(PER_DEEP_SAMPLE), series)?;
    series.add(
        "  of it each further frame",
        Nanoseconds,
        (many.ns - some.ns) / (many.frames - some.frames).max(1.0),
    );
    let name = "cpu_sample, per sample of 25 frames by frame pointers";
    let workers = bench.start_deep_by_frame_pointers()?;
    sample(bench, workers, name, None, series)?;
    Ok(())
}

/// The mean of many samples.
#[derive(Clone, Copy, Debug)]
struct MeanSample {
    ns: f64,
    frames: f64,
}

/// Workers leave no CPU idle, so that nearly every run takes a sample of one; what the others take is counted to these.
fn sample(
    bench: &Bench,
    _workers: Vec<Workload>,
    name: &str,
    target: Option<f64>,
    series: &mut Series,
) -> Result<MeanSample> {
    let seen = observe(bench, &["-e", "cpu", "-F", "999", "--comm", "deep"])?;
    let ledger = seen.ledger(Event::Cpu)?;
    let per_run = seen.programs.named("cpu_sample").ns_per_run()?;
    let mean = MeanSample {
        ns: per_run / ratio(ledger.counted, ledger.observed),
        frames: ratio(ledger.user_frames, ledger.delivered),
    };
    let by = |method| ledger.user_methods.get(&method).copied().unwrap_or(0);
    let row = series.add(name, Nanoseconds, mean.ns);
    row.note(format!(
        "{:.1} user frames; {:.1} % of the runs take a sample, {:.1} % of them walked by tables alone",
        mean.frames,
        100.0 * ratio(ledger.counted, ledger.observed),
        100.0 * ratio(by(UnwindMethod::Tables), ledger.delivered)
    ));
    if let Some(target) = target {
        row.at_most(target);
    }
    Ok(mean)
}

fn switches(bench: &Bench, series: &mut Series) -> Result<()> {
    let _ping_pong = bench.start_ping_pong()?;
    let seen = observe(bench, &["-e", "offcpu"])?;
    let ledger = seen.ledger(Event::OffCpu)?;
    let both = seen.switches();
    series
        .add(
            "sched_switch + resume, per context switch",
            Nanoseconds,
            both.ns_per_run()?,
        )
        .at_most(PER_SWITCH)
        .note(format!(
            "{:.0} switches/s; {:.2} % of them sampled, which is in the number",
            both.count as f64 / bench.pace.kernel_window.as_secs_f64(),
            100.0 * ratio(ledger.counted, ledger.observed)
        ));
    let switch = seen.programs.named(SWITCH).ns_per_run()?;
    series.add("  of it sched_switch", Nanoseconds, switch);
    let resume = seen.programs.named(RESUME).ns_per(both.count)?;
    series.add("  of it resume", Nanoseconds, resume);
    Ok(())
}

fn empty(bench: &Bench, series: &mut Series) -> Result<()> {
    let _ping_pong = bench.start_ping_pong()?;
    let _timing = timing()?;
    let runs = run_empty(&bench.empty_program, bench.pace.kernel_window)?;
    series
        .add(
            "an empty program on sched_switch, per run",
            Nanoseconds,
            runs.ns_per_run()?,
        )
        .note(
            "what the kernel takes to run and time any program; the line above it is two of them",
        );
    Ok(())
}

/// This very process is the target, and hardly ever runs.
fn foreign_switches(bench: &Bench, series: &mut Series) -> Result<()> {
    let _ping_pong = bench.start_ping_pong()?;
    let this = std::process::id().to_string();
    let seen = observe(bench, &["-e", "offcpu", "-p", &this])?;
    series.add(
        "sched_switch + resume, per switch of others than the target",
        Nanoseconds,
        seen.switches().ns_per_run()?,
    );
    Ok(())
}

/// Every wait is sampled. The resume program also runs where there is nothing to sample; that is counted to the samples.
fn sampled_waits(bench: &Bench, series: &mut Series) -> Result<()> {
    let _naps = bench.start_naps()?;
    let seen = observe(bench, &["-e", "offcpu", "--comm", "naps"])?;
    let ledger = seen.ledger(Event::OffCpu)?;
    let facts = &seen.reading.capture.facts;
    let capture_ns = facts.end_ns.saturating_sub(facts.start_ns).max(1);
    let share_of_window = bench.pace.kernel_window.as_nanos() as f64 / capture_ns as f64;
    let sampled = ledger.counted as f64 * share_of_window;
    series
        .add(
            "resume, per sampled wait",
            Nanoseconds,
            seen.programs.named(RESUME).ns as f64 / sampled.max(1.0),
        )
        .note(format!(
            "{:.1} user frames; {:.0} % of the waits sampled",
            ratio(ledger.user_frames, ledger.delivered),
            100.0 * ratio(ledger.counted, ledger.counted + ledger.unsampled)
        ));
    Ok(())
}

fn requests(bench: &Bench, series: &mut Series) -> Result<()> {
    let disk = LoopDisk::new(&bench.lab.folder()?, 64)?;
    let _writer = start_writer(bench, disk.path())?;
    let seen = observe(bench, &["-e", "io"])?;
    let ledger = seen.ledger(Event::Io)?;
    for (name, runs) in BLOCK.map(|name| (name, seen.programs.named(name))) {
        if runs.count == 0 {
            // Only one of the first two is attached.
            continue;
        }
        series
            .add(&format!("{name}, per run"), Nanoseconds, runs.ns_per_run()?)
            .note(format!(
                "{:.0} runs/s; {:.0} % of the requests sampled",
                runs.count as f64 / bench.pace.kernel_window.as_secs_f64(),
                100.0 * ratio(ledger.counted, ledger.observed)
            ));
    }
    Ok(())
}

/// Writes past the page cache.
fn start_writer(bench: &Bench, disk: &Path) -> Result<DiskWriter> {
    let file = disk.join("file");
    let file = file.to_str().context("a path that is not UTF-8")?;
    DiskWriter::start(&bench.lab, "disk_writer", &[file])
}

fn ratio(part: u64, whole: u64) -> f64 {
    part as f64 / whole.max(1) as f64
}
