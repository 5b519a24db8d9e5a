//! SIGINT and SIGTERM, waited for instead of died of, so that nothing half-written is left.

use std::io;

use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::error::CliError;

/// What the user, or a supervisor, wants.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Interrupt {
    /// Ctrl-C. The terminal has sent it to a profiled command as well.
    Interrupt,
    /// SIGTERM, sent to us alone.
    Terminate,
}

/// Both signals, from now on.
pub(crate) struct Interrupts {
    interrupt: Signal,
    terminate: Signal,
}

impl Interrupts {
    /// Begins to listen; the signals no longer end the process.
    pub(crate) fn listen() -> Result<Self, CliError> {
        let failed = |error: io::Error| CliError::Failed(format!("cannot handle signals: {error}"));
        Ok(Self {
            interrupt: signal(SignalKind::interrupt()).map_err(failed)?,
            terminate: signal(SignalKind::terminate()).map_err(failed)?,
        })
    }

    /// The next one. Nothing is lost if the future is dropped.
    pub(crate) async fn next(&mut self) -> Interrupt {
        tokio::select! {
            _ = self.interrupt.recv() => Interrupt::Interrupt,
            _ = self.terminate.recv() => Interrupt::Terminate,
        }
    }
}
