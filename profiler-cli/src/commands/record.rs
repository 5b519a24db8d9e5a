//! `profiler record`: one capture, from the flags to the files.

use std::ffi::OsString;
use std::io::{self, Write};
use std::path::PathBuf;

use profiler_proto::{
    Capture, CaptureDuration, CaptureSpec, Comm, CommandResult, Event, Frequency, ModelError, Pid,
    SpecError, Target, client_chunk,
};

use super::{Output, block_on};
use crate::capturing::{Capturing, Received};
use crate::client::{Agent, AgentArgs, NoAgent};
use crate::error::{CliError, exit};
use crate::interrupts::Interrupts;
use crate::output::Destination;
use crate::render::{json, summary};
use crate::results::{Results, Written};
use crate::verdict::Verdict;
use crate::workload::Workload;
use crate::{stdio, text};

const AFTER_HELP: &str = "\
Where no agent listens, one is started for the length of the command; that needs root.
Ctrl-C ends the capture early and writes it; a second Ctrl-C gives it up.

The ending of -o decides the format:
  NAME.capture   everything, to be read by the other commands
  NAME.svg       flame graph of one event
  NAME.folded    folded stacks of one event
  NAME.pb.gz     one event for `go tool pprof`
  DIRECTORY/     host.capture, and every event in every format
  nothing        HOST-TIME.capture in the current directory

With COMMAND, the summary goes to standard error, and the exit code is the command's, unless
the profiler itself failed (1, 2, 5) or coverage is too low (4).

Examples:
  profiler record -d 30s
  profiler record -e cpu -F 499 -p 4711 -o cpu.svg
  profiler record -e offcpu,io --comm postgres -o waits/
  profiler record --host db1:7464 --tls-ca ca.pem --tls-cert me.pem --tls-key me.key
  profiler record -e cpu -o build.svg -- make -j4";

#[derive(clap::Args)]
#[command(after_help = AFTER_HELP)]
pub(crate) struct Args {
    /// What to measure
    #[arg(
        short,
        long = "events",
        value_name = "EVENT",
        value_delimiter = ',',
        default_value = "cpu,offcpu,io"
    )]
    events: Vec<Event>,
    /// How long: 500ms, 10s, 2m, 1h [default: 10s; with COMMAND, until it ends]
    #[arg(short, long, value_name = "TIME")]
    duration: Option<CaptureDuration>,
    /// Samples per second and CPU, for cpu
    #[arg(short = 'F', long, value_name = "HERTZ", default_value = "99")]
    frequency: Frequency,
    /// Only this process; may be repeated
    #[arg(short, long = "pid", value_name = "PID", conflicts_with = "command")]
    pids: Vec<Pid>,
    /// Only threads with this command name; may be repeated
    #[arg(long = "comm", value_name = "NAME")]
    comms: Vec<Comm>,
    /// Only processes in this cgroup or below it
    #[arg(long, value_name = "PATH")]
    cgroup: Option<PathBuf>,
    /// Where to write; the ending decides the format, see below
    #[arg(short, long, value_name = "PATH")]
    out: Option<PathBuf>,
    /// Also show waits of threads that did not run at all in the window
    #[arg(long)]
    all: bool,
    /// Exit with 4 if less than this part of what there was to measure of any event was delivered:
    /// neither lost nor skipped
    #[arg(long, value_name = "PERCENT", value_parser = percentage)]
    min_coverage: Option<f64>,
    /// How to print the summary: text or json
    #[arg(long, value_enum, default_value_t = Output::Text, hide_possible_values = true)]
    output: Output,
    /// Profile this command and its children, to its end
    #[arg(last = true, value_name = "COMMAND", conflicts_with = "host")]
    command: Vec<OsString>,
    #[command(flatten)]
    agent: AgentArgs,
}

/// Captures, writes and summarises.
pub(crate) fn run(args: &Args) -> Result<u8, CliError> {
    let mut spec = args.spec()?;
    let destination = Destination::parse(args.out.as_deref(), &spec.events)?;
    block_on(async {
        let mut interrupts = Interrupts::listen()?;
        // Before anything starts, so that a place that cannot be written costs no capture.
        let results = Results::prepare(destination, args.all)?;
        let mut agent = tokio::select! {
            agent = Agent::connect(&args.agent, NoAgent::StartOne) => agent?,
            _ = interrupts.next() => return Err(CliError::Aborted),
        };
        let outcome = args
            .capture(&mut spec, results, &mut agent, &mut interrupts)
            .await;
        let log = agent.end().await;
        outcome.map_err(|error| error.with_agent_log(&log))
    })
}

impl Args {
    fn spec(&self) -> Result<CaptureSpec, CliError> {
        let refuse = |error: SpecError| CliError::Usage(error.to_string());
        let cgroup = self.cgroup.as_ref().map(|path| {
            std::path::absolute(path).map_err(|error| CliError::file("find", path, error))
        });
        let target = Target::new(
            self.pids.clone(),
            !self.command.is_empty(),
            self.comms.clone(),
            cgroup.transpose()?,
        );
        let duration = match self.duration {
            Some(duration) => duration,
            None if self.command.is_empty() => CaptureDuration::DEFAULT,
            // Until the command ends.
            None => CaptureDuration::MAX,
        };
        let target = target.map_err(refuse)?;
        CaptureSpec::new(self.events.clone(), target, duration, self.frequency).map_err(refuse)
    }

    async fn capture(
        &self,
        spec: &mut CaptureSpec,
        mut results: Results<'_>,
        agent: &mut Agent,
        interrupts: &mut Interrupts,
    ) -> Result<u8, CliError> {
        let mut workload = match self.command.as_slice() {
            [] => None,
            argv => Some(Workload::start_stopped(argv)?),
        };
        if let Some(workload) = &workload {
            spec.target.pids = vec![workload.pid()?];
        }
        let file = results.take_capture_file()?;
        let capturing = Capturing::new(agent, interrupts, workload.as_mut(), file);
        let Received {
            assembler,
            mut file,
            command,
        } = capturing.run(spec).await?;
        let command = command_result(workload.as_ref(), command)?;
        let mut assembler = assembler;
        if command.is_some() {
            let chunk = client_chunk(Vec::new(), command.as_ref());
            file.as_mut().map_or(Ok(()), |file| file.append(&chunk))?;
            assembler.push(chunk).map_err(invalid)?;
        }
        let capture = assembler.finish().map_err(invalid)?;
        let written = results.write(&capture, file)?;
        self.report(&capture, &written)
    }

    /// Prints the summary; returns the exit code.
    fn report(&self, capture: &Capture, written: &Written) -> Result<u8, CliError> {
        let verdict = Verdict::of(capture, self.min_coverage);
        let write = |out: &mut dyn Write| match self.output {
            Output::Text => write_text(capture, self.all, written, &verdict, out),
            Output::Json => write_json(capture, self.all, written, &verdict, out),
        };
        let Some(command) = &capture.facts.command else {
            stdio::print(write)?;
            return Ok(verdict.exit_code());
        };
        // Standard output belongs to the command.
        let mut text = Vec::new();
        write(&mut text).map_err(CliError::Stdout)?;
        stdio::tell_raw(&String::from_utf8_lossy(&text));
        match verdict.exit_code() {
            exit::BELOW_COVERAGE => Ok(exit::BELOW_COVERAGE),
            _ => Ok(u8::try_from(command.exit_code).unwrap_or(exit::FAILED)),
        }
    }
}

fn command_result(
    workload: Option<&Workload>,
    exit_code: Option<i32>,
) -> Result<Option<CommandResult>, CliError> {
    match (workload, exit_code) {
        (None, _) => Ok(None),
        (Some(workload), Some(exit_code)) => Ok(Some(CommandResult {
            argv: workload.argv(),
            exit_code,
        })),
        // The user, or the agent, ended it before it had begun.
        (Some(_), None) => Err(CliError::Aborted),
    }
}

fn invalid(error: ModelError) -> CliError {
    CliError::Failed(format!(
        "what the agent sent is not a whole capture: {error}"
    ))
}

fn write_text(
    capture: &Capture,
    all: bool,
    written: &Written,
    verdict: &Verdict,
    out: &mut dyn Write,
) -> io::Result<()> {
    summary::write(capture, all, out)?;
    writeln!(out)?;
    for path in &written.files {
        let size = path.metadata().map_or(0, |metadata| metadata.len());
        writeln!(out, "wrote {} ({})", path.display(), text::bytes(size))?;
    }
    for path in &written.removed {
        writeln!(out, "removed {}, of an earlier capture", path.display())?;
    }
    verdict
        .reasons
        .iter()
        .try_for_each(|reason| writeln!(out, "{reason}"))
}

fn write_json(
    capture: &Capture,
    all: bool,
    written: &Written,
    verdict: &Verdict,
    out: &mut dyn Write,
) -> io::Result<()> {
    let mut object = json::capture(capture, all, summary::FUNCTIONS);
    for (key, paths) in [("files", &written.files), ("removed", &written.removed)] {
        let paths: Vec<_> = paths.iter().map(|path| path.to_string_lossy()).collect();
        object.insert(key.to_owned(), paths.into());
    }
    object.insert("verdict".to_owned(), verdict.name().into());
    object.insert("verdict_reasons".to_owned(), verdict.reasons.clone().into());
    object.insert(
        "coverage_percent".to_owned(),
        verdict.coverage_percent.into(),
    );
    serde_json::to_writer_pretty(&mut *out, &object)?;
    writeln!(out)
}

fn percentage(text: &str) -> Result<f64, String> {
    let number = text.strip_suffix('%').unwrap_or(text).parse::<f64>();
    number
        .ok()
        .filter(|percent| (0.0..=100.0).contains(percent))
        .ok_or_else(|| "wanted is a number from 0 to 100".to_owned())
}
