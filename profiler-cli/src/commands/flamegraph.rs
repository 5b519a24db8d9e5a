//! `profiler flamegraph`: a picture, or another format for one event, from a capture.

use std::path::{Path, PathBuf};

use super::{CaptureArgs, OR_STDOUT, deliver, stem};
use crate::error::{CliError, exit};
use crate::output::format_of;
use crate::render::{FORMATS, svg};

const AFTER_HELP: &str = "\
The picture is interactive in a browser: click to zoom, Ctrl-F to search.
Colours tell user, kernel, JIT and script frames apart, and in an offcpu graph blocked and runnable
time; inlined functions are pale. Where the root of a stack is missing, a grey marker such as [cut]
stands in its place.
Frames of less than 0.05 % of the whole are not drawn.

Examples:
  profiler flamegraph web1.capture -e cpu                  writes web1.cpu.svg
  profiler flamegraph web1.capture -e offcpu -o waits.svg
  profiler flamegraph web1.capture -e cpu -o cpu.pb.gz     for `go tool pprof`";

#[derive(clap::Args)]
#[command(after_help = AFTER_HELP)]
pub(crate) struct Args {
    #[command(flatten)]
    capture: CaptureArgs,
    /// File to write; .svg, .folded or .pb.gz decides the format, `-` is SVG to standard output
    /// [default: CAPTURE.EVENT.svg in the current directory]
    #[arg(short, long, value_name = "PATH")]
    out: Option<PathBuf>,
}

/// Writes the picture.
pub(crate) fn run(args: &Args) -> Result<u8, CliError> {
    let to_stdout = args.out.as_deref() == Some(Path::new("-"));
    let format = match &args.out {
        Some(path) if !to_stdout => format_of(path, &FORMATS, OR_STDOUT)?,
        _ => &svg::FORMAT,
    };
    let capture = args.capture.read()?;
    let view = args.capture.view(&capture)?;
    let default = format!("{}.{}.svg", stem(&args.capture.path), view.event);
    let path = args.out.as_deref().unwrap_or(Path::new(&default));
    deliver(&view, format, (!to_stdout).then_some(path))?;
    Ok(exit::COMPLETE)
}
