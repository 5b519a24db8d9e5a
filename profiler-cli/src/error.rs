//! What can go wrong, as sentences for people, and the exit codes.

use std::error::Error;
use std::io;
use std::path::{Path, PathBuf};

use crate::text;

/// Exit codes of the program, as `profiler --help` lists them.
pub(crate) mod exit {
    /// Everything asked for was done.
    pub(crate) const COMPLETE: u8 = 0;
    /// The profiler failed.
    pub(crate) const FAILED: u8 = 1;
    /// The command line makes no sense.
    pub(crate) const USAGE: u8 = 2;
    /// An event asked for was not to be had, or too much of one was lost or skipped.
    pub(crate) const PARTIAL: u8 = 3;
    /// Less was delivered than `--min-coverage` asked for.
    pub(crate) const BELOW_COVERAGE: u8 = 4;
    /// The system or the agent does not permit it.
    pub(crate) const DENIED: u8 = 5;
    /// `-- COMMAND` is there but cannot be executed, as shells report it.
    pub(crate) const NOT_EXECUTABLE: u8 = 126;
    /// `-- COMMAND` does not exist, as shells report it.
    pub(crate) const NOT_FOUND: u8 = 127;
}

/// Why a command did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CliError {
    /// The command line makes no sense; says which part.
    #[error("{0}")]
    Usage(String),
    /// Something broke; says what failed on what.
    #[error("{0}")]
    Failed(String),
    /// The agent went away during a call; says during which.
    #[error("{0}")]
    AgentLost(String),
    /// Not permitted; says what to do.
    #[error("{0}")]
    Denied(String),
    /// An event asked for was not to be had, and why.
    #[error("{0}")]
    NoEvent(String),
    /// A file could not be read or written.
    #[error("cannot {action} {}: {}", path.display(), sentence(source.as_ref()))]
    File {
        /// What was tried: "read", "write", ...
        action: &'static str,
        /// On which file.
        path: PathBuf,
        /// What the system, or the capture reader, said.
        source: Box<dyn Error + Send + Sync>,
    },
    /// `-- COMMAND` could not be started.
    #[error("cannot run {command}: {reason}")]
    CannotRun {
        /// The command's name as given.
        command: String,
        /// What the system said.
        reason: String,
        /// 126 or 127, as shells report it.
        code: u8,
    },
    /// Whoever read our standard output has stopped reading.
    #[error("standard output was closed")]
    ClosedPipe,
    /// Standard output could not be written, for another reason.
    #[error("cannot write to standard output: {0}")]
    Stdout(io::Error),
    /// The user interrupted twice, or before the capture had begun.
    #[error("interrupted; nothing was written")]
    Aborted,
}

impl CliError {
    /// A failed file operation: "cannot ACTION PATH: SOURCE".
    pub(crate) fn file(
        action: &'static str,
        path: &Path,
        source: impl Into<Box<dyn Error + Send + Sync>>,
    ) -> Self {
        Self::File {
            action,
            path: path.to_owned(),
            source: source.into(),
        }
    }

    /// Adds how the agent ended, and the last lines of its log, to the message that it went away.
    pub(crate) fn with_agent_log(self, log: &str) -> Self {
        match self {
            Self::AgentLost(message) => Self::AgentLost(message + log),
            other => other,
        }
    }

    /// The exit code that tells scripts what kind of failure this was.
    pub(crate) fn exit_code(&self) -> u8 {
        match self {
            Self::Usage(_) => exit::USAGE,
            Self::Denied(_) => exit::DENIED,
            Self::NoEvent(_) => exit::PARTIAL,
            Self::CannotRun { code, .. } => *code,
            Self::ClosedPipe => exit::COMPLETE,
            Self::Failed(_)
            | Self::AgentLost(_)
            | Self::File { .. }
            | Self::Stdout(_)
            | Self::Aborted => exit::FAILED,
        }
    }
}

/// An error, then what caused it, and so on.
pub(crate) fn chain<'a>(
    error: &'a (dyn Error + 'static),
) -> impl Iterator<Item = &'a (dyn Error + 'static)> {
    std::iter::successors(Some(error), |&error| error.source())
}

/// An error and what caused it, as one sentence.
pub(crate) fn sentence(error: &(dyn Error + 'static)) -> String {
    let mut messages: Vec<String> = Vec::new();
    for error in chain(error) {
        let message = error.to_string();
        // Some errors repeat what caused them.
        if !messages.last().is_some_and(|last| last.contains(&message)) {
            messages.push(message);
        }
    }
    text::clean(&messages.join(": "))
}

/// The message of the first cause.
pub(crate) fn root_cause(error: &(dyn Error + 'static)) -> String {
    let first = chain(error).last().map(ToString::to_string);
    text::clean(&first.unwrap_or_default())
}
