//! `profiler-agent`: the profiling daemon.

use std::future::Future;
use std::io::{self, IsTerminal, Read, Write};
use std::process::ExitCode;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::Parser;
use profiler_agent::config::{Args, Config, LogFilter};
use profiler_agent::server::{Backend, Failure};
use profiler_agent::{bpf, daemon, session, tls};
use sd_notify::NotifyState;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::oneshot;
use tracing_subscriber::EnvFilter;

/// As clap ends for a wrong flag.
const USAGE: u8 = 2;
/// What still runs on the runtime's threads after the agent has ended is not worth more.
const RUNTIME_GRACE: Duration = Duration::from_millis(200);

fn main() -> ExitCode {
    let args = Args::parse();
    let (check_only, is_child) = (args.check_config, args.until_stdin_closes);
    let config = match load(args) {
        Ok(config) => config,
        Err(error) => return fail(USAGE, &error),
    };
    let done = if check_only {
        writeln!(io::stdout(), "The configuration is valid.").context("write to standard output")
    } else {
        run(&config, is_child)
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(1, &error),
    }
}

/// Certificates are part of the configuration: they are looked at before anything starts.
fn load(args: Args) -> Result<Config> {
    let config = Config::load(args)?;
    if let Some(tcp) = &config.tcp {
        tls::load(&tcp.tls)?;
    }
    Ok(config)
}

fn fail(code: u8, error: &anyhow::Error) -> ExitCode {
    // Where standard error is gone there is nobody left to tell.
    writeln!(io::stderr(), "profiler-agent: {error:#}").ok();
    code.into()
}

fn run(config: &Config, is_child: bool) -> Result<()> {
    start_log(&config.log)?;
    // One thread: it only passes on what the sessions' own threads make.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(2)
        .build()
        .context("start the async runtime")?;
    let served = runtime.block_on(serve(config, is_child));
    runtime.shutdown_timeout(RUNTIME_GRACE);
    served
}

async fn serve(config: &Config, is_child: bool) -> Result<()> {
    let backend = Backend {
        run: |control, settings, events| match session::run(control, settings, events) {
            Ok(summary) => Ok(summary.ledger),
            Err(error) => Err(Failure {
                kind: error.kind(),
                message: error.to_string(),
            }),
        },
        probe: bpf::probe,
    };
    // From here on signals are kept until somebody waits for them.
    let stop = stop_requested(is_child)?;
    let ready = || {
        sd_notify::notify(&[NotifyState::Ready])?;
        if is_child {
            writeln!(io::stdout(), "ready")?;
        }
        Ok(())
    };
    daemon::run(config, backend, ready, stop).await?;
    Ok(())
}

/// Ends when the agent is told to end: by SIGTERM; a child of the command line when standard input
/// closes, another one also by SIGINT, which in a terminal a child gets with its parent.
fn stop_requested(is_child: bool) -> Result<impl Future<Output = ()>> {
    let mut terminate = listen(SignalKind::terminate())?;
    let mut interrupt = listen(SignalKind::interrupt())?;
    let stdin_closed = is_child.then(watch_stdin).transpose()?;
    Ok(async move {
        let reason = match stdin_closed {
            Some(closed) => tokio::select! {
                _ = terminate.recv() => "SIGTERM",
                _ = closed => "end of standard input",
            },
            None => tokio::select! {
                _ = terminate.recv() => "SIGTERM",
                _ = interrupt.recv() => "SIGINT",
            },
        };
        tracing::info!(reason, "ending");
        if let Err(error) = sd_notify::notify(&[NotifyState::Stopping]) {
            tracing::warn!("cannot tell the service manager: {error}");
        }
    })
}

fn listen(kind: SignalKind) -> Result<Signal> {
    signal(kind).context("listen for signals")
}

/// Resolves when standard input ends or cannot be read. A thread of its own: the runtime would
/// wait for its read to return.
fn watch_stdin() -> Result<oneshot::Receiver<()>> {
    let (sender, closed) = oneshot::channel::<()>();
    thread::Builder::new()
        .name("stdin".to_owned())
        .spawn(move || {
            let _until_the_end = sender;
            let mut buffer = [0; 256];
            let mut stdin = io::stdin().lock();
            while !matches!(stdin.read(&mut buffer), Ok(0) | Err(_)) {}
        })
        .context("start a thread")?;
    Ok(closed)
}

fn start_log(filter: &LogFilter) -> Result<()> {
    let builder = tracing_subscriber::fmt()
        .with_env_filter(EnvFilter::try_new(filter.as_str())?)
        .with_ansi(io::stderr().is_terminal())
        .with_writer(io::stderr);
    // The journal has its own times.
    let started = match std::env::var_os("JOURNAL_STREAM") {
        Some(_) => builder.without_time().try_init(),
        None => builder.try_init(),
    };
    started.map_err(|error| anyhow::anyhow!("start the log: {error}"))
}
