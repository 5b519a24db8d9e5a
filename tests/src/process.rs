//! Running a program to its end, and looking at it while it runs.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};

use crate::kernel::until;

/// A program that has not ended by then hangs. Far longer than any takes, so that it is no measure of speed.
const HANGS_AFTER: Duration = Duration::from_secs(120);

/// A program that runs. Killed when dropped.
///
/// Its output goes to files, not pipes: it can be read at any time, and a grandchild that keeps it open holds
/// up nobody.
#[derive(Debug)]
pub struct Running {
    child: Child,
    stdout: File,
    stderr: File,
    text: String,
}

/// A program that has ended.
#[derive(Debug)]
pub struct Finished {
    /// Its exit code, or 128 + the signal that ended it, as shells report it.
    pub code: i32,
    /// What it printed.
    pub stdout: String,
    /// What it complained about.
    pub stderr: String,
    text: String,
}

impl Running {
    /// Starts a program.
    ///
    /// # Errors
    /// Fails where it cannot be started.
    pub fn start(command: &mut Command) -> Result<Self> {
        let text = format!("{command:?}");
        let (stdout, stderr) = (tempfile::tempfile()?, tempfile::tempfile()?);
        let child = command
            .stdin(Stdio::null())
            .stdout(stdout.try_clone()?)
            .stderr(stderr.try_clone()?)
            .spawn()
            .with_context(|| format!("cannot start {text}"))?;
        Ok(Self {
            child,
            stdout,
            stderr,
            text,
        })
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What it has printed so far.
    ///
    /// # Errors
    /// Fails where the file cannot be read.
    pub fn stdout(&self) -> Result<String> {
        contents(&self.stdout)
    }

    /// What it has written to standard error so far.
    ///
    /// # Errors
    /// Fails where the file cannot be read.
    pub fn stderr(&self) -> Result<String> {
        contents(&self.stderr)
    }

    /// Sends it a signal.
    ///
    /// # Errors
    /// Fails where it has ended.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        let pid = Pid::from_child(&self.child);
        kill_process(pid, signal).with_context(|| format!("cannot signal {}", self.text))
    }

    /// Whether it has ended.
    ///
    /// # Errors
    /// Fails where it cannot be waited for.
    pub fn has_ended(&mut self) -> Result<bool> {
        Ok(self.child.try_wait()?.is_some())
    }

    /// Waits for its end.
    ///
    /// # Errors
    /// Fails where it seems never to end; it is killed then.
    pub fn wait(mut self) -> Result<Finished> {
        let ended = until(HANGS_AFTER, || self.has_ended());
        if let Err(error) = ended {
            let stderr = self.stderr()?;
            bail!("{} hangs ({error:#}); it said: {stderr}", self.text);
        }
        let status = self.child.wait()?;
        Ok(Finished {
            code: status
                .code()
                .unwrap_or_else(|| 128 + status.signal().unwrap_or(0)),
            stdout: self.stdout()?,
            stderr: self.stderr()?,
            text: self.text.clone(),
        })
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Fails where it has ended, which is as well.
        self.child.kill().unwrap_or_default();
        self.child.wait().map(|_| ()).unwrap_or_default();
    }
}

impl Finished {
    /// Fails unless the program ended with `code`.
    ///
    /// # Errors
    /// Shows the command and what it printed.
    pub fn expect_code(&self, code: i32) -> Result<&Self> {
        ensure!(
            self.code == code,
            "exit code {} instead of {code} from {}\nstandard output: {}\nstandard error: {}",
            self.code,
            self.text,
            self.stdout,
            self.stderr
        );
        Ok(self)
    }

    /// Fails unless it wrote a capture, whole or (exit code 3) with losses. For tests that are about something
    /// else: what they capture of the whole host is not theirs to choose.
    ///
    /// # Errors
    /// Shows the command and what it printed.
    pub fn expect_written(&self) -> Result<&Self> {
        self.expect_code(if self.code == 3 { 3 } else { 0 })
    }

    /// Fails unless standard error is a sentence or two that holds `part`, and no panic.
    ///
    /// # Errors
    /// Shows what is there instead.
    pub fn expect_sentence(&self, part: &str) -> Result<&Self> {
        let said = self.stderr.trim();
        ensure!(
            said.contains(part) && said.contains(' '),
            "standard error of {} does not hold `{part}`: {said}",
            self.text
        );
        ensure!(
            !said.contains("panicked") && !said.contains("RUST_BACKTRACE"),
            "{} panicked: {said}",
            self.text
        );
        Ok(self)
    }
}

fn contents(file: &File) -> Result<String> {
    // Read at a position: the program writes at the offset that both share.
    let length = usize::try_from(file.metadata()?.len())?;
    let mut bytes = vec![0; length];
    file.read_exact_at(&mut bytes, 0)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// Runs a program to its end.
///
/// # Errors
/// Fails where it cannot be started or seems never to end. Its exit code is the caller's business.
pub fn run(command: &mut Command) -> Result<Finished> {
    Running::start(command)?.wait()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn output_and_codes_come_back() {
        let done =
            run(Command::new("sh").args(["-c", "echo out; echo a word >&2; exit 3"])).unwrap();
        assert_eq!(
            (done.stdout.as_str(), done.stderr.as_str()),
            ("out\n", "a word\n")
        );
        done.expect_code(3)
            .unwrap()
            .expect_sentence("word")
            .unwrap();
        done.expect_code(0).unwrap_err();
        done.expect_sentence("another").unwrap_err();
        let killed = run(Command::new("sh").args(["-c", "kill -9 $$"])).unwrap();
        assert_eq!(killed.code, 137);
    }
}
