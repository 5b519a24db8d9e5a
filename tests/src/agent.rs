//! An agent of a test's own.

use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use rustix::process::Signal;
use serde_json::Value;

use crate::kernel::until;
use crate::{Finished, Lab, MemoryAndFiles, Reading, Running, run};

/// An agent that listens on a socket of its own. Ended when dropped.
#[derive(Debug)]
pub struct Agent {
    running: Option<Running>,
    pid: u32,
    socket: PathBuf,
}

impl Agent {
    /// Starts one and waits until it listens.
    ///
    /// # Errors
    /// Fails where it does not get that far; shows its log.
    pub fn start(lab: &Lab, arguments: &[&str]) -> Result<Self> {
        Self::start_with(lab, arguments, &[])
    }

    /// The same, with environment variables.
    ///
    /// # Errors
    /// As [`Self::start`].
    pub fn start_with(lab: &Lab, arguments: &[&str], environment: &[(&str, &str)]) -> Result<Self> {
        let socket = lab.folder()?.join("agent.sock");
        let mut command = Command::new(lab.binary("profiler-agent")?);
        command.arg("--socket").arg(&socket).args(arguments);
        command.envs(environment.iter().copied());
        let mut running = Running::start(&mut command)?;
        until(Duration::from_secs(30), || {
            if running.has_ended()? {
                bail!("it ended: {}", running.stderr()?);
            }
            Ok(UnixStream::connect(&socket).is_ok())
        })
        .context("the agent does not listen")?;
        Ok(Self {
            pid: running.pid(),
            running: Some(running),
            socket,
        })
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// Where it listens.
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// What it has logged so far.
    ///
    /// # Errors
    /// Fails where that cannot be read.
    pub fn log(&self) -> Result<String> {
        let running = self.running.as_ref().context("it has ended")?;
        Ok(running.stdout()? + &running.stderr()?)
    }

    /// A call of `profiler record` on this agent that writes to `out`.
    ///
    /// # Errors
    /// Fails where `profiler` has not been built.
    pub fn record(&self, lab: &Lab, arguments: &[&str], out: &Path) -> Result<Command> {
        let mut command = lab.profiler(["record", "--socket"])?;
        command.arg(&self.socket).arg("-o").arg(out).args(arguments);
        Ok(command)
    }

    /// Makes a capture in which every event was measured and next to nothing lost. Ticks that a busy virtual
    /// machine skips make it partial all the same; they are in the ledger.
    ///
    /// # Errors
    /// Fails where it is not.
    pub fn capture(&self, lab: &Lab, arguments: &[&str]) -> Result<Reading> {
        let out = lab.folder()?.join("test.capture");
        let done = run(&mut self.record(lab, arguments, &out)?)?;
        done.expect_written()?;
        let reading = Reading::open(&out)?;
        let ledgers = reading.capture.ledger.events.iter();
        let lost = ledgers
            .map(|ledger| ledger.lost_share())
            .fold(0.0, f64::max);
        let missing = reading
            .capture
            .facts
            .events
            .iter()
            .any(|event| !event.available);
        ensure!(lost <= 0.01 && !missing, "not complete: {}", done.stdout);
        Ok(reading)
    }

    /// What `profiler status` says about it.
    ///
    /// # Errors
    /// Fails where it does not answer, or not in JSON.
    pub fn status(&self, lab: &Lab) -> Result<Value> {
        let mut command = lab.profiler(["status", "--output", "json", "--socket"])?;
        let done = run(command.arg(&self.socket))?;
        done.expect_code(0)?;
        serde_json::from_str(&done.stdout).context("status is no JSON")
    }

    /// Waits until a session is measuring.
    ///
    /// # Errors
    /// Fails where none comes to.
    pub fn await_capture(&self, lab: &Lab) -> Result<()> {
        let capturing = |status: &Value| {
            let sessions = status["sessions"].as_array().map(Vec::as_slice);
            let mut sessions = sessions.unwrap_or_default().iter();
            sessions.any(|one| one["phase"].as_str() == Some("capturing"))
        };
        until(Duration::from_secs(30), || {
            Ok(capturing(&self.status(lab)?))
        })
        .context("no capture begins")
    }

    /// What it holds.
    ///
    /// # Errors
    /// Fails where it has ended.
    pub fn holds(&self) -> Result<MemoryAndFiles> {
        MemoryAndFiles::of(self.pid)
    }

    /// Sends it a signal.
    ///
    /// # Errors
    /// Fails where it has ended.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        let running = self.running.as_ref().context("it has ended")?;
        running.signal(signal)
    }

    /// Waits for its end, which somebody else has caused.
    ///
    /// # Errors
    /// Fails where it does not end.
    pub fn wait(mut self) -> Result<Finished> {
        self.running.take().context("it has ended")?.wait()
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let Some(mut running) = self.running.take() else {
            return;
        };
        // So that it takes its programs with it; if it does not, it is killed.
        let asked = running.signal(Signal::TERM);
        let ended = asked.and_then(|()| until(Duration::from_secs(10), || running.has_ended()));
        if let Err(error) = ended {
            eprintln!("the agent did not end on SIGTERM: {error:#}");
        }
    }
}
