//! The subcommands, one file each. A new one is a file, a variant of [`Command`] and its arm in
//! [`Command::run`].

mod doctor;
mod exec_stopped;
mod flamegraph;
mod folded;
mod record;
mod status;
mod top;

use std::fs::File;
use std::future::Future;
use std::io::{self, BufReader, Write};
use std::path::{Path, PathBuf};

use profiler_proto::{Capture, Event, read_capture};
use serde_json::Value;

use crate::client::AgentArgs;
use crate::error::CliError;
use crate::interrupts::Interrupts;
use crate::output::PendingFile;
use crate::render::{Format, ledger, wholeness};
use crate::stdio;
use crate::view::{View, event_names};

#[derive(clap::Subcommand)]
pub(crate) enum Command {
    /// Capture what this host, or a command, does
    Record(record::Args),
    /// Draw a flame graph from a capture
    Flamegraph(flamegraph::Args),
    /// List the functions that time went to
    Top(top::Args),
    /// Print folded stacks, one line per stack
    Folded(folded::Args),
    /// Check what this host can measure, and say how to get the rest
    Doctor(doctor::Args),
    /// Show what the agent is doing and what it costs
    Status(status::Args),
    /// Used by `record -- COMMAND`
    #[command(hide = true, name = crate::workload::EXEC_STOPPED)]
    ExecStopped(exec_stopped::Args),
}

impl Command {
    /// Runs the subcommand to its exit code.
    pub(crate) fn run(self) -> Result<u8, CliError> {
        match self {
            Self::Record(args) => record::run(&args),
            Self::Flamegraph(args) => flamegraph::run(&args),
            Self::Top(args) => top::run(&args),
            Self::Folded(args) => folded::run(&args),
            Self::Doctor(args) => doctor::run(&args),
            Self::Status(args) => status::run(&args),
            Self::ExecStopped(args) => exec_stopped::run(&args),
        }
    }
}

/// How results are printed.
#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Output {
    /// For people
    Text,
    /// For programs: exact numbers, and the ledger always
    Json,
}

/// A question to an agent, and how its answer is printed.
#[derive(clap::Args)]
struct QuestionArgs {
    /// How to print the answer: text or json
    #[arg(long, value_enum, default_value_t = Output::Text, hide_possible_values = true)]
    output: Output,
    #[command(flatten)]
    agent: AgentArgs,
}

impl QuestionArgs {
    /// Prints an answer in one of its two forms.
    fn print(
        &self,
        text: impl FnOnce(&mut dyn Write) -> io::Result<()>,
        json: impl FnOnce() -> Value,
    ) -> Result<(), CliError> {
        stdio::print(|out| match self.output {
            Output::Text => text(out),
            Output::Json => {
                serde_json::to_writer_pretty(&mut *out, &json())?;
                writeln!(out)
            }
        })
    }
}

/// Which capture, and what of it.
#[derive(clap::Args)]
struct CaptureArgs {
    /// Capture file, as `record` writes it
    #[arg(value_name = "CAPTURE")]
    path: PathBuf,
    /// cpu, offcpu or io; may be left out where the capture has only one
    #[arg(short, long, value_name = "EVENT")]
    event: Option<Event>,
    /// Also waits of threads that did not run at all in the window
    #[arg(long)]
    all: bool,
    /// Tell the lines of a function apart, where the source is known
    #[arg(long)]
    lines: bool,
}

impl CaptureArgs {
    fn read(&self) -> Result<Capture, CliError> {
        let failed = |error: io::Error| CliError::file("read", &self.path, error);
        let file = File::open(&self.path).map_err(failed)?;
        if file.metadata().map_err(failed)?.is_dir() {
            let inside = self.path.join("host.capture");
            return Err(CliError::Failed(format!(
                "{} is a directory; name the capture in it, such as {}",
                self.path.display(),
                inside.display()
            )));
        }
        read_capture(BufReader::new(file))
            .map_err(|error| CliError::file("read", &self.path, error))
    }

    fn view<'a>(&self, capture: &'a Capture) -> Result<View<'a>, CliError> {
        let mut view = View::open(capture, self.event(capture)?, self.all)?;
        view.lines = self.lines;
        Ok(view)
    }

    fn event(&self, capture: &Capture) -> Result<Event, CliError> {
        match (self.event, capture.facts.spec.events.as_slice()) {
            (Some(event), _) => Ok(event),
            (None, [event]) => Ok(*event),
            _ => Err(CliError::Usage(format!(
                "{} holds {}: choose one with -e",
                self.path.display(),
                event_names(capture)
            ))),
        }
    }
}

/// What `-o` takes beside names, for [`crate::output::format_of`].
const OR_STDOUT: &str = ", or be - for standard output";

/// Writes a view to a file, or to standard output where none is given.
fn deliver(view: &View<'_>, format: &Format, out: Option<&Path>) -> Result<(), CliError> {
    match out {
        None => stdio::print(|out| (format.write)(view, out))?,
        Some(path) => {
            write_file(view, format, path)?;
            stdio::tell(format_args!("wrote {}", path.display()));
        }
    }
    tell_what_is_missing(view);
    Ok(())
}

fn write_file(view: &View<'_>, format: &Format, path: &Path) -> Result<(), CliError> {
    let mut content = Vec::new();
    (format.write)(view, &mut content).map_err(|error| CliError::file("write", path, error))?;
    block_on(async {
        // What takes long is done. From here on a signal may not end us: it would leave a temporary file.
        let _held = Interrupts::listen()?;
        let mut file = PendingFile::create(path)?;
        file.write_all(&content)
            .map_err(|error| file.failed(error))?;
        file.seal()?.publish()?;
        Ok(())
    })
}

/// Says on standard error what a picture or a list does not show.
fn tell_what_is_missing(view: &View<'_>) {
    if let Some(sentence) = view.left_out.sentence() {
        stdio::tell(format_args!("profiler: {sentence}; --all shows them"));
    }
    if let Some(sentence) = wholeness::sentence(view) {
        stdio::tell(format_args!("profiler: {sentence}"));
    }
    if ledger::is_due(view.capture) {
        let mut text = Vec::new();
        if ledger::write_for(view.event, view.capture, &mut text).is_ok() {
            stdio::tell_raw(&String::from_utf8_lossy(&text));
        }
    }
}

/// Runs a command that talks to an agent.
fn block_on<T>(future: impl Future<Output = Result<T, CliError>>) -> Result<T, CliError> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| CliError::Failed(format!("cannot start the event loop: {error}")))?
        .block_on(future)
}

/// The same for a question. An interrupt ends it, and the agent that may have been started for it.
fn ask<T>(question: impl Future<Output = Result<T, CliError>>) -> Result<T, CliError> {
    block_on(async {
        let mut interrupts = Interrupts::listen()?;
        tokio::select! {
            answer = question => answer,
            _ = interrupts.next() => Err(CliError::Aborted),
        }
    })
}

/// The directory-less stem of a capture's name: `web1` of `/tmp/web1.capture`.
fn stem(path: &Path) -> String {
    let stem = path.file_stem().unwrap_or_default();
    stem.to_string_lossy().into_owned()
}
