//! `profiler folded`: stacks as lines, for other tools.

use std::path::{Path, PathBuf};

use super::{CaptureArgs, OR_STDOUT, deliver};
use crate::error::{CliError, exit};
use crate::output::format_of;
use crate::render::folded::FORMAT;

const AFTER_HELP: &str = "\
Each line is a stack, root first, then its weight: samples for cpu, microseconds for offcpu and io.
The first frame is the command name of the thread. Kernel frames end in _[k], inlined functions in
_[i], those of a JIT compiler in _[j]; a function of a script is followed by its file, as in
handle (app.py). A frame without a name is module+0xoffset. Where the root of a stack is missing, a
marker such as [cut] stands in its place.

Examples:
  profiler folded web1.capture -e cpu | grep '^nginx;'
  profiler folded web1.capture -e cpu --lines               parse (parser.rs:120) instead of parse
  profiler folded web1.capture -e offcpu -o offcpu.folded";

#[derive(clap::Args)]
#[command(after_help = AFTER_HELP)]
pub(crate) struct Args {
    #[command(flatten)]
    capture: CaptureArgs,
    /// File to write, which must end in .folded; `-` is standard output [default: -]
    #[arg(short, long, value_name = "PATH")]
    out: Option<PathBuf>,
}

/// Prints or writes the stacks.
pub(crate) fn run(args: &Args) -> Result<u8, CliError> {
    let out = args.out.as_deref().filter(|path| *path != Path::new("-"));
    if let Some(path) = out {
        format_of(path, &[&FORMAT], OR_STDOUT)?;
    }
    let capture = args.capture.read()?;
    deliver(&args.capture.view(&capture)?, &FORMAT, out)?;
    Ok(exit::COMPLETE)
}
