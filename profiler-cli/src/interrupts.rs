//! SIGINT, SIGTERM and SIGHUP, waited for instead of died of, so that nothing half-written is left.

use std::fs;
use std::io;

use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::error::CliError;

/// What the user, or a supervisor, wants.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Interrupt {
    /// Ctrl-C. The terminal has sent it to a profiled command as well.
    Interrupt,
    /// SIGTERM, sent to us alone; or SIGHUP, when the terminal is gone.
    Terminate,
}

/// The signals, from now on.
pub(crate) struct Interrupts {
    interrupt: Signal,
    terminate: Signal,
    // None under `nohup`, which must go on to protect us.
    hangup: Option<Signal>,
}

impl Interrupts {
    /// Begins to listen; the signals no longer end the process.
    pub(crate) fn listen() -> Result<Self, CliError> {
        let failed = |error: io::Error| CliError::Failed(format!("cannot handle signals: {error}"));
        let hangup = (!ignores_hangup()).then(|| signal(SignalKind::hangup()));
        Ok(Self {
            interrupt: signal(SignalKind::interrupt()).map_err(failed)?,
            terminate: signal(SignalKind::terminate()).map_err(failed)?,
            hangup: hangup.transpose().map_err(failed)?,
        })
    }

    /// The next one. Nothing is lost if the future is dropped.
    pub(crate) async fn next(&mut self) -> Interrupt {
        tokio::select! {
            _ = self.interrupt.recv() => Interrupt::Interrupt,
            _ = self.terminate.recv() => Interrupt::Terminate,
            () = received(&mut self.hangup) => Interrupt::Terminate,
        }
    }
}

async fn received(signal: &mut Option<Signal>) {
    match signal {
        Some(signal) => drop(signal.recv().await),
        None => std::future::pending().await,
    }
}

fn ignores_hangup() -> bool {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let ignored = ignored.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    let hangup = 1_u64 << (SignalKind::hangup().as_raw_value() - 1);
    ignored.is_some_and(|mask| mask & hangup != 0)
}
