//! `profiler top`: the table of functions.

use super::{CaptureArgs, Output};
use crate::error::{CliError, exit};
use crate::render::top;
use crate::stdio;

const AFTER_HELP: &str = "\
`self` is time at the leaf of the stack, `total` includes what the function called. In offcpu and
io, kernel functions that are at the leaf of every wait or request (the scheduler, the block
layer) are passed over.

Examples:
  profiler top web1.capture -e cpu
  profiler top web1.capture -e offcpu -n 50
  profiler top web1.capture -e cpu --lines        functions by source line
  profiler top web1.capture -e io --output json";

#[derive(clap::Args)]
#[command(after_help = AFTER_HELP)]
pub(crate) struct Args {
    #[command(flatten)]
    capture: CaptureArgs,
    /// How many functions
    #[arg(short = 'n', long, value_name = "N", default_value_t = 20)]
    limit: usize,
    /// How to print the table: text or json
    #[arg(long, value_enum, default_value_t = Output::Text, hide_possible_values = true)]
    output: Output,
}

/// Prints the table.
pub(crate) fn run(args: &Args) -> Result<u8, CliError> {
    let capture = args.capture.read()?;
    let view = args.capture.view(&capture)?;
    stdio::print(|out| match args.output {
        Output::Text => top::write_text(&view, args.limit, out),
        Output::Json => {
            serde_json::to_writer_pretty(&mut *out, &top::json(&view, args.limit))?;
            writeln!(out)
        }
    })?;
    Ok(exit::COMPLETE)
}
