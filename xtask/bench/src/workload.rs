//! Workloads that count what they do.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use profiler_tests::{Build, Lab, Running, until};

/// How the stacks of a program are to be walked.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Walk {
    /// As distributions build programs.
    Tables,
    /// It keeps frame pointers and has no unwind information.
    FramePointers,
}

/// One of `workloads/*.c`, compiled.
#[derive(Debug)]
pub(crate) struct Program(PathBuf);

impl Program {
    /// `levels` of calls are between its main and its leaf.
    pub(crate) fn compile(name: &str, walk: Walk, levels: u32, into: &Path) -> Result<Self> {
        let source = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("workloads")
            .join(name)
            .with_extension("c");
        // Its name is what captures are asked for.
        let folder = into.join(format!("{walk:?}-{levels}"));
        fs::create_dir_all(&folder)?;
        let binary = folder.join(name);
        let levels = format!("-DLEVELS={levels}");
        match walk {
            Walk::Tables => Build::Frameless.compile(&source, &binary, &[&levels])?,
            Walk::FramePointers => {
                let after = [
                    &levels,
                    "-g0",
                    "-fno-asynchronous-unwind-tables",
                    "-fno-unwind-tables",
                ];
                Build::FramePointers.compile(&source, &binary, &after)?;
            }
        }
        Ok(Self(binary))
    }

    /// Starts it on one CPU and waits until it has done something.
    pub(crate) fn start(&self, lab: &Lab, cpu: usize) -> Result<Workload> {
        let counter = lab.folder()?.join("counter");
        let mut command = Command::new(&self.0);
        command.arg(&counter).arg(cpu.to_string());
        let mut running = Running::start(&mut command)?;
        until(Duration::from_secs(10), || {
            if running.has_ended()? {
                bail!("{} ended: {}", self.0.display(), running.stderr()?);
            }
            Ok(read_counter(&counter).is_ok_and(|units| units > 0))
        })?;
        Ok(Workload {
            _running: running,
            counter,
        })
    }
}

/// A workload that runs. Killed when dropped.
#[derive(Debug)]
pub(crate) struct Workload {
    _running: Running,
    counter: PathBuf,
}

/// Units of work that several workloads do per second, together.
pub(crate) fn rate(workloads: &[Workload], window: Duration) -> Result<f64> {
    let sum = || -> Result<u64> { workloads.iter().map(|one| read_counter(&one.counter)).sum() };
    let (before, begin) = (sum()?, Instant::now());
    thread::sleep(window);
    let (after, elapsed) = (sum()?, begin.elapsed());
    Ok(after.saturating_sub(before) as f64 / elapsed.as_secs_f64())
}

fn read_counter(path: &Path) -> Result<u64> {
    let mut bytes = [0; 8];
    let file = File::open(path).with_context(|| format!("cannot open {}", path.display()))?;
    file.read_exact_at(&mut bytes, 0)
        .with_context(|| format!("cannot read {}", path.display()))?;
    Ok(u64::from_ne_bytes(bytes))
}
