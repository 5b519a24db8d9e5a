//! An agent started for the length of one command, on a socket that only this user can reach.

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use rustix::io::Errno;
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, ChildStdout, Command};

use crate::error::CliError;
use crate::text;

const AGENT: &str = "profiler-agent";

/// Longest wait for the agent to accept calls. It takes milliseconds; emulated machines are slow.
const START_TIMEOUT: Duration = Duration::from_secs(60);

/// Longest wait for the agent to detach everything and exit.
const END_TIMEOUT: Duration = Duration::from_secs(10);

/// Last lines of the agent's log that are shown when it fails.
const LOG_LINES: usize = 3;

/// The running child. Its standard input is held open: the agent exits when it closes, and so also when
/// this process is killed.
pub(crate) struct PrivateAgent {
    child: Child,
    // Removed with everything in it when dropped.
    dir: TempDir,
}

impl PrivateAgent {
    /// Starts the agent and waits until it accepts calls.
    pub(crate) async fn start() -> Result<Self, CliError> {
        let program = find_agent();
        let failed = |error: io::Error| {
            CliError::Failed(format!("cannot start {}: {error}", program.display()))
        };
        let dir = tempfile::Builder::new()
            .prefix("profiler-")
            .permissions(fs::Permissions::from_mode(0o700))
            .tempdir()
            .map_err(|error| {
                let error = without_path(error);
                CliError::file("create a directory in", &std::env::temp_dir(), error)
            })?;
        let log = fs::File::create(dir.path().join("agent.log")).map_err(failed)?;
        let mut child = Command::new(&program)
            .arg("--socket")
            .arg(dir.path().join("agent.sock"))
            .arg("--until-stdin-closes")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(log)
            // Ctrl-C in the terminal is for us: the agent must live to deliver the capture.
            .process_group(0)
            .spawn()
            .map_err(failed)?;
        let stdout = child.stdout.take();
        let mut agent = Self { child, dir };
        match tokio::time::timeout(START_TIMEOUT, agent.ready(stdout)).await {
            Ok(Ok(())) => Ok(agent),
            Ok(Err(failure)) => {
                let log = agent.end().await;
                Err(CliError::Failed(format!(
                    "{} {failure}{log}",
                    program.display()
                )))
            }
            Err(_) => {
                let log = agent.end().await;
                Err(CliError::Failed(format!(
                    "{} did not become ready within {} s{log}",
                    program.display(),
                    START_TIMEOUT.as_secs()
                )))
            }
        }
    }

    /// The socket it listens on.
    pub(crate) fn socket(&self) -> PathBuf {
        self.dir.path().join("agent.sock")
    }

    /// Ends it and waits for it; returns how it ended, unless well, and the end of its log, to follow an error
    /// message.
    pub(crate) async fn end(mut self) -> String {
        drop(self.child.stdin.take());
        let how = match tokio::time::timeout(END_TIMEOUT, self.child.wait()).await {
            Ok(Ok(status)) => describe(status),
            Ok(Err(error)) => format!("; how it ended is not known: {error}"),
            // It hangs. `kill` names it by its own process id and waits for it.
            Err(_) => match self.child.kill().await {
                Ok(()) => "; it had to be killed".to_owned(),
                Err(error) => return format!("; it could not be ended either: {error}"),
            },
        };
        how + &log_tail(&self.dir.path().join("agent.log"))
    }

    /// Waits for the line `ready`; says how it failed otherwise.
    async fn ready(&mut self, stdout: Option<ChildStdout>) -> Result<(), String> {
        let mut line = String::new();
        if let Some(stdout) = stdout {
            BufReader::new(stdout)
                .read_line(&mut line)
                .await
                .map_err(|error| format!("gave no sign of life: {error}"))?;
        }
        if line.trim_end() == "ready" {
            return Ok(());
        }
        Err("failed to start".to_owned())
    }
}

/// The system's error, of which tempfile leaves the kind, without a name that is of no use to the reader.
fn without_path(error: io::Error) -> io::Error {
    let number = match error.kind() {
        io::ErrorKind::NotFound => Errno::NOENT,
        io::ErrorKind::PermissionDenied => Errno::ACCESS,
        io::ErrorKind::NotADirectory => Errno::NOTDIR,
        io::ErrorKind::ReadOnlyFilesystem => Errno::ROFS,
        io::ErrorKind::StorageFull => Errno::NOSPC,
        _ => return error,
    };
    number.into()
}

/// Beside our own executable, else wherever `PATH` says.
fn find_agent() -> PathBuf {
    let beside = std::env::current_exe()
        .ok()
        .map(|exe| exe.with_file_name(AGENT))
        .filter(|path| path.is_file());
    let search = std::env::var_os("PATH").unwrap_or_default();
    beside
        .or_else(|| {
            std::env::split_paths(&search)
                .map(|dir| dir.join(AGENT))
                .find(|path| path.is_file())
        })
        .unwrap_or_else(|| PathBuf::from(AGENT))
}

fn describe(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(0), _) => String::new(),
        (Some(code), _) => format!("; it ended with exit code {code}"),
        (None, Some(signal)) => format!("; it was ended by signal {signal}"),
        (None, None) => format!("; it ended with {status}"),
    }
}

fn log_tail(path: &Path) -> String {
    let log = fs::read(path).unwrap_or_default();
    let log = String::from_utf8_lossy(&log);
    let lines: Vec<_> = log.lines().filter(|line| !line.trim().is_empty()).collect();
    let from = lines.len().saturating_sub(LOG_LINES);
    lines[from..]
        .iter()
        .map(|line| format!("\n  {}", text::clean(line)))
        .collect()
}
