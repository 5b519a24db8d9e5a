//! A workload that runs.

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal};
use rustix::thread::{CpuSet, sched_setaffinity};

use crate::kernel::until;
use crate::{Lab, Running, Truth};

/// A workload that runs. Killed when dropped.
#[derive(Debug)]
pub struct Workload {
    running: Running,
    truth: PathBuf,
}

impl Workload {
    /// Starts a workload and waits until it says that it is at work.
    ///
    /// # Errors
    /// Fails where it does not compile, start or get that far.
    pub fn start(lab: &Lab, name: &str, arguments: &[&str]) -> Result<Self> {
        let mut command = Command::new(lab.compile(name)?);
        command.args(arguments);
        Self::start_command(lab, command)
    }

    /// The same, for a command that is or becomes a workload.
    ///
    /// # Errors
    /// As [`Self::start`].
    pub fn start_command(lab: &Lab, mut command: Command) -> Result<Self> {
        let truth = lab.folder()?.join("truth.json");
        let mut running = Running::start(command.env("TRUTH", &truth))?;
        until(Duration::from_secs(30), || {
            if running.has_ended()? {
                bail!("it ended: {}", running.stderr()?);
            }
            Ok(running.stdout()?.contains("ready"))
        })
        .context("the workload is not ready")?;
        Ok(Self { running, truth })
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.running.pid()
    }

    /// Its process id as text.
    pub fn pid_text(&self) -> String {
        self.pid().to_string()
    }

    /// Keeps its main thread on one CPU.
    ///
    /// # Errors
    /// Fails where the kernel refuses.
    pub fn pin_to_cpu(&self, cpu: usize) -> Result<()> {
        let mut set = CpuSet::new();
        set.set(cpu);
        let pid = i32::try_from(self.pid())?;
        sched_setaffinity(Pid::from_raw(pid), &set)?;
        Ok(())
    }

    /// Tells it to end, and reads what it did.
    ///
    /// # Errors
    /// Fails where it failed, or wrote nothing.
    pub fn finish(self) -> Result<Truth> {
        self.running.signal(Signal::TERM)?;
        self.running.wait()?.expect_code(0)?;
        Truth::read(&self.truth)
    }
}
