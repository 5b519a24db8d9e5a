//! `profiler folded`: stacks as lines, for other tools.

use std::path::PathBuf;

use super::{CaptureArgs, tell_what_is_missing};
use crate::error::{CliError, exit};
use crate::output::PendingFile;
use crate::render::folded::FORMAT;
use crate::stdio;

const AFTER_HELP: &str = "\
Each line is a stack, root first, then its weight: samples for cpu, microseconds for offcpu and io.
The first frame is the command name of the thread; kernel frames end in _[k].

Examples:
  profiler folded web1.capture -e cpu | grep '^nginx;'
  profiler folded web1.capture -e offcpu -o offcpu.folded";

#[derive(clap::Args)]
#[command(after_help = AFTER_HELP)]
pub(crate) struct Args {
    #[command(flatten)]
    capture: CaptureArgs,
    /// File to write [default: standard output]
    #[arg(short, long, value_name = "PATH")]
    out: Option<PathBuf>,
}

/// Prints or writes the stacks.
pub(crate) fn run(args: &Args) -> Result<u8, CliError> {
    let capture = args.capture.read()?;
    let view = args.capture.view(&capture)?;
    match &args.out {
        None => stdio::print(|out| (FORMAT.write)(&view, out))?,
        Some(path) => {
            let mut file = PendingFile::create(path)?;
            (FORMAT.write)(&view, &mut file).map_err(|error| file.failed(error))?;
            file.seal()?.publish()?;
        }
    }
    tell_what_is_missing(&view);
    Ok(exit::COMPLETE)
}
