//! The command that is profiled: `profiler record -- COMMAND`.
//!
//! It must not run before the capture is armed, and must be the process the capture is armed for. So a copy
//! of this program is started that stops itself ([`stop_and_exec`]); once the capture is armed it is
//! continued and becomes COMMAND.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};

use profiler_proto::SpecError;
use rustix::process::{Pid, Signal, WaitOptions};
use tempfile::NamedTempFile;
use tokio::process::{Child, Command};

use crate::error::{CliError, exit};

/// Name of the hidden subcommand.
pub(crate) const EXEC_STOPPED: &str = "exec-stopped";

/// This program, even if its file has been replaced since it was started.
const SELF: &str = "/proc/self/exe";

/// A started command: stopped, running or ended.
pub(crate) struct Workload {
    child: Child,
    pid: Pid,
    argv: Vec<OsString>,
    // Here the child says why it could not become the command.
    report: NamedTempFile,
    begun: bool,
}

impl Workload {
    /// Starts the command stopped before its first instruction.
    pub(crate) fn start_stopped(argv: &[OsString]) -> Result<Self, CliError> {
        let program = argv.first().map_or(OsStr::new(""), OsString::as_os_str);
        check_executable(program)?;
        let failed = |error: io::Error| CliError::CannotRun {
            command: program.to_string_lossy().into_owned(),
            reason: error.to_string(),
            code: exit::NOT_EXECUTABLE,
        };
        let report = tempfile::Builder::new()
            .prefix("profiler-")
            .make(create_private)
            .map_err(|error| CliError::file("write to", &std::env::temp_dir(), error))?;
        let child = Command::new(SELF)
            .arg(EXEC_STOPPED)
            .arg(report.path())
            .arg("--")
            .args(argv)
            .stdin(Stdio::inherit())
            .spawn()
            .map_err(failed)?;
        let pid = child
            .id()
            .and_then(|id| i32::try_from(id).ok())
            .and_then(Pid::from_raw)
            .ok_or_else(|| failed(io::Error::other("it has no process id")))?;
        let argv = argv.to_vec();
        let mut workload = Self {
            child,
            pid,
            argv,
            report,
            begun: false,
        };
        workload.await_stop().map_err(failed)?;
        Ok(workload)
    }

    /// Its process id, which is also the command's.
    pub(crate) fn raw_pid(&self) -> u32 {
        self.pid.as_raw_nonzero().get().unsigned_abs()
    }

    /// The same, to capture it.
    pub(crate) fn pid(&self) -> Result<profiler_proto::Pid, CliError> {
        self.raw_pid()
            .try_into()
            .map_err(|error: SpecError| CliError::Failed(error.to_string()))
    }

    /// The command and its arguments, as text.
    pub(crate) fn argv(&self) -> Vec<String> {
        let argv = self.argv.iter();
        argv.map(|arg| arg.to_string_lossy().into_owned()).collect()
    }

    /// Lets the command run.
    pub(crate) fn begin(&mut self) -> Result<(), CliError> {
        self.begun = true;
        self.signal(Signal::CONT)
    }

    /// Whether [`Self::begin`] was called.
    pub(crate) fn has_begun(&self) -> bool {
        self.begun
    }

    /// Asks the command to end.
    pub(crate) fn terminate(&self) -> Result<(), CliError> {
        self.signal(Signal::TERM)
    }

    /// Waits for its end; the exit code as a shell reports it. May be dropped and called again.
    pub(crate) async fn ended(&mut self) -> Result<i32, CliError> {
        let status =
            self.child.wait().await.map_err(|error| {
                CliError::Failed(format!("cannot wait for the command: {error}"))
            })?;
        let report = fs::read_to_string(self.report.path()).unwrap_or_default();
        if report.is_empty() {
            return Ok(shell_code(status));
        }
        Err(CliError::CannotRun {
            command: self.argv().first().cloned().unwrap_or_default(),
            reason: report,
            code: u8::try_from(shell_code(status)).unwrap_or(exit::NOT_EXECUTABLE),
        })
    }

    fn signal(&self, signal: Signal) -> Result<(), CliError> {
        match rustix::process::kill_process(self.pid, signal) {
            // It has ended by itself, which `ended` reports.
            Ok(()) | Err(rustix::io::Errno::SRCH) => Ok(()),
            Err(error) => Err(CliError::Failed(format!(
                "cannot signal the command: {error}"
            ))),
        }
    }

    fn await_stop(&mut self) -> io::Result<()> {
        let status = rustix::io::retry_on_intr(|| {
            rustix::process::waitpid(Some(self.pid), WaitOptions::UNTRACED)
        })?;
        match status {
            Some((_, status)) if status.stopped() => Ok(()),
            _ => Err(io::Error::other("it ended before it could be profiled")),
        }
    }
}

impl Drop for Workload {
    /// A command that was never let run must not stay behind, stopped for ever.
    fn drop(&mut self) {
        if !self.begun
            && let Err(error) = self.child.start_kill()
        {
            crate::stdio::tell(format_args!(
                "profiler: process {} stays behind: {error}",
                self.pid.as_raw_nonzero()
            ));
        }
    }
}

fn create_private(path: &Path) -> io::Result<File> {
    let mut options = File::options();
    options.write(true).create_new(true).mode(0o600).open(path)
}

fn shell_code(status: ExitStatus) -> i32 {
    status
        .code()
        .unwrap_or_else(|| 128 + status.signal().unwrap_or(0))
}

/// Finds out before anything starts whether the command can be executed at all.
fn check_executable(program: &OsStr) -> Result<(), CliError> {
    let error = |reason: &str, code: u8| CliError::CannotRun {
        command: program.to_string_lossy().into_owned(),
        reason: reason.to_owned(),
        code,
    };
    let candidates: Vec<PathBuf> = if program.as_encoded_bytes().contains(&b'/') {
        vec![PathBuf::from(program)]
    } else {
        let path = std::env::var_os("PATH").unwrap_or_default();
        let dirs = std::env::split_paths(&path);
        dirs.map(|dir| dir.join(program)).collect()
    };
    let files: Vec<_> = candidates.iter().filter(|path| path.exists()).collect();
    if program.is_empty() || files.is_empty() {
        return Err(error("no such command", exit::NOT_FOUND));
    }
    if files.into_iter().any(|path| is_executable(path)) {
        return Ok(());
    }
    Err(error("it is not executable", exit::NOT_EXECUTABLE))
}

fn is_executable(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|m| m.is_file() && m.permissions().mode() & 0o111 != 0)
}

/// Stops this process; continued, it becomes the command. Returns only if that fails, after writing why
/// to the file `report`.
pub(crate) fn stop_and_exec(report: &Path, argv: &[OsString]) -> Result<u8, CliError> {
    let mut report_file = fs::OpenOptions::new()
        .write(true)
        .open(report)
        .map_err(|error| CliError::file("write", report, error))?;
    rustix::process::kill_process(rustix::process::getpid(), Signal::STOP)
        .map_err(|error| CliError::Failed(format!("cannot stop: {error}")))?;
    let (program, arguments) = argv
        .split_first()
        .ok_or_else(|| CliError::Usage("no command given".to_owned()))?;
    // Returns only when it fails. The file closes itself on exec.
    let error = std::process::Command::new(program).args(arguments).exec();
    report_file
        .write_all(error.to_string().as_bytes())
        .map_err(|error| CliError::file("write", report, error))?;
    Ok(match error.kind() {
        io::ErrorKind::NotFound => exit::NOT_FOUND,
        _ => exit::NOT_EXECUTABLE,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn code(program: &str) -> Option<u8> {
        check_executable(OsStr::new(program))
            .err()
            .map(|error| error.exit_code())
    }

    #[test]
    fn what_cannot_run_is_known_before_anything_starts() {
        assert_eq!(code("sh"), None);
        assert_eq!(code("/bin/sh"), None);
        assert_eq!(code("no-such-command-anywhere"), Some(exit::NOT_FOUND));
        assert_eq!(code("/no/such/file"), Some(exit::NOT_FOUND));
        assert_eq!(code(""), Some(exit::NOT_FOUND));
        assert_eq!(code("/etc/passwd"), Some(exit::NOT_EXECUTABLE));
        assert_eq!(code("/etc"), Some(exit::NOT_EXECUTABLE));
    }

    #[test]
    fn exit_codes_as_shells_report_them() {
        assert_eq!(shell_code(ExitStatus::from_raw(3 << 8)), 3);
        assert_eq!(shell_code(ExitStatus::from_raw(9)), 137);
    }
}
