//! The hidden half of `record -- COMMAND`: see [`crate::workload`].

use std::ffi::OsString;
use std::path::PathBuf;

use crate::error::CliError;
use crate::workload;

#[derive(clap::Args)]
pub(crate) struct Args {
    /// File to write the reason to if the command cannot be executed
    report: PathBuf,
    /// Command and arguments
    #[arg(last = true, required = true)]
    command: Vec<OsString>,
}

/// Stops, and once continued becomes the command.
pub(crate) fn run(args: &Args) -> Result<u8, CliError> {
    workload::stop_and_exec(&args.report, &args.command)
}
