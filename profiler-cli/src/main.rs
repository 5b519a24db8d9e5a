//! `profiler`: captures what a host does and shows where its time went.

#![forbid(unsafe_code)]

mod capture_file;
mod capturing;
mod client;
mod commands;
mod error;
mod interrupts;
mod naming;
mod output;
mod private_agent;
mod privileges;
mod progress;
mod render;
mod results;
#[cfg(test)]
mod sample_capture;
mod stdio;
mod text;
mod verdict;
mod view;
mod workload;

use std::process::ExitCode;

use clap::Parser;

use crate::commands::Command;
use crate::error::CliError;

/// Where did the time go? Captures CPU time, waits and disk I/O of a Linux host, and shows them.
#[derive(Parser)]
#[command(name = "profiler", version, after_help = AFTER_HELP, max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

const AFTER_HELP: &str = "\
Examples:
  profiler record                           this host, 10 s, all events
  profiler record -e cpu -o cpu.svg         a flame graph of where CPU time goes
  profiler record -o result/ -- make -j4    a command and its children, everything into a directory
  profiler top web1.capture -e offcpu       what threads waited for

Exit codes:
  0  complete
  1  failed
  2  usage: the command line makes no sense
  3  partial: an event asked for could not be measured, or more than 1 % of one was lost, or
     lost and left out by the kernel (unless fewer than 10)
  4  coverage below --min-coverage
  5  denied: privileges are missing, or the agent refuses
  `record -- COMMAND` exits with the command's code unless the profiler itself failed.";

fn main() -> ExitCode {
    match Cli::parse().command.run() {
        Ok(code) => ExitCode::from(code),
        Err(CliError::ClosedPipe) => ExitCode::SUCCESS,
        Err(error) => {
            stdio::tell(format_args!("profiler: {error}"));
            ExitCode::from(error.exit_code())
        }
    }
}
