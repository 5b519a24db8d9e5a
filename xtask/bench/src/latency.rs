//! How long one waits for the first sample, and for the pictures.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::SystemTime;

use anyhow::{Context, Result, ensure};
use profiler_tests::{Agent, Reading, run};

use crate::figure::{Figure, Series, Unit::Milliseconds};
use crate::lab::{Bench, WRITTEN, utc_ns};

/// Targets, milliseconds.
const FIRST_SAMPLE: f64 = 300.0;
const PICTURES: f64 = 500.0;

/// Where `profiler` looks for an agent before it starts one.
const COMMON_SOCKET: &str = "/run/profiler/agent.sock";

/// On a busy host, where the first sample does not wait for somebody to do something.
pub(crate) fn measure(bench: &Bench) -> Result<Vec<Figure>> {
    let mut series = Series::default();
    let _workers = bench.start_deep()?;
    {
        let agent = Agent::start(&bench.lab, &[])?;
        let socket = Some(agent.socket());
        for _ in 0..bench.pace.latency_runs {
            Waits::measure(bench, socket)?.report("running agent", &mut series);
        }
    }
    if Path::new(COMMON_SOCKET).exists() {
        eprintln!("==> not measured with an agent of the command's own: there is {COMMON_SOCKET}");
        return Ok(series.figures());
    }
    for _ in 0..bench.pace.latency_runs {
        Waits::measure(bench, None)?.report("own agent", &mut series);
    }
    Ok(series.figures())
}

/// Of one command, milliseconds.
#[derive(Clone, Copy, Debug)]
struct Waits {
    armed: f64,
    first_sample: f64,
    pictures: f64,
}

impl Waits {
    /// Captures one second of all events into a directory. With no socket, the command starts an agent of its own.
    fn measure(bench: &Bench, socket: Option<&Path>) -> Result<Self> {
        let out = bench.lab.folder()?.join("result");
        let slash = format!("{}/", out.display());
        let mut command = bench.lab.profiler(["record", "-d", "1s", "-o", &slash])?;
        if let Some(socket) = socket {
            command.arg("--socket").arg(socket);
        }
        let begun_ns = utc_ns(SystemTime::now())?;
        let done = run(&mut command)?;
        ensure!(
            WRITTEN.contains(&done.code),
            "`profiler record` ended with {}: {}",
            done.code,
            done.stderr
        );
        let capture = Reading::open(&out.join("host.capture"))?.capture;
        let samples = capture.profiles.iter().flat_map(|one| &one.samples);
        let first_ns = samples.map(|sample| sample.time_ns).min();
        Ok(Self {
            armed: milliseconds(begun_ns, capture.facts.start_ns),
            first_sample: milliseconds(begun_ns, first_ns.context("no sample in a capture")?),
            pictures: milliseconds(capture.facts.end_ns, pictures_ns(&out)?),
        })
    }

    fn report(self, agent: &str, series: &mut Series) {
        series.add(
            &format!("start to sampling, {agent}"),
            Milliseconds,
            self.armed,
        );
        series
            .add(
                &format!("start to first sample, {agent}"),
                Milliseconds,
                self.first_sample,
            )
            .at_most(FIRST_SAMPLE);
        series
            .add(
                &format!("capture end to SVG on disk, {agent}"),
                Milliseconds,
                self.pictures,
            )
            .at_most(PICTURES)
            .note("all events in all formats, until the last picture has its name");
    }
}

/// When the last picture in a directory got its name, which is what changed its inode last.
fn pictures_ns(folder: &Path) -> Result<u64> {
    let mut latest = None;
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.extension().is_some_and(|ending| ending == "svg") {
            let changed = path.metadata()?;
            latest = latest.max(Some((changed.ctime(), changed.ctime_nsec())));
        }
    }
    let (seconds, ns) = latest.with_context(|| format!("no picture in {}", folder.display()))?;
    Ok(u64::try_from(seconds)? * 1_000_000_000 + u64::try_from(ns)?)
}

fn milliseconds(from_ns: u64, to_ns: u64) -> f64 {
    (to_ns as f64 - from_ns as f64) / 1e6
}
