//! `profiler status`: what the agent is doing, what it has lost and what it costs.

use std::io::{self, Write};

use profiler_proto::pb::{self, Phase, SessionStatus, StatusResponse};
use profiler_proto::{CaptureSpec, Ledger, UnwindFacts};
use serde_json::{Value, json};

use super::{QuestionArgs, ask};
use crate::client::{Agent, NoAgent};
use crate::error::{CliError, exit};
use crate::render::{json as json_output, ledger};
use crate::text::{bytes, clean, count, duration, percent, plural, share};

const AFTER_HELP: &str = "\
Examples:
  profiler status
  profiler status --output json";

#[derive(clap::Args)]
#[command(after_help = AFTER_HELP)]
pub(crate) struct Args {
    #[command(flatten)]
    question: QuestionArgs,
}

/// Asks the agent and prints the answer. No agent is started for that: it would have nothing to tell.
pub(crate) fn run(args: &Args) -> Result<u8, CliError> {
    let answer = ask(async {
        let mut agent = Agent::connect(&args.question.agent, NoAgent::Fail).await?;
        let answer = agent.client.status(pb::StatusRequest {}).await;
        answer.map_err(|status| agent.error("the question for its status", &status))
    })?
    .into_inner();
    args.question
        .print(|out| write_text(&answer, out), || json(&answer))?;
    Ok(exit::COMPLETE)
}

fn write_text(status: &StatusResponse, out: &mut dyn Write) -> io::Result<()> {
    writeln!(
        out,
        "agent     {} on {} (Linux {}), pid {}, up {}",
        clean(&status.agent_version),
        clean(&status.host),
        clean(&status.kernel),
        status.pid,
        duration(status.uptime_ns)
    )?;
    writeln!(
        out,
        "cost      {} of CPU time ({} of one CPU), {} of memory, {} of BPF maps",
        duration(status.cpu_ns),
        share(percent(status.cpu_ns, status.uptime_ns)),
        bytes(status.rss_bytes),
        bytes(status.bpf_map_bytes)
    )?;
    writeln!(
        out,
        "captures  {} completed, {} failed",
        count(status.captures_completed),
        count(status.captures_failed)
    )?;
    if status.sessions.is_empty() {
        writeln!(out, "sessions  none running")?;
    }
    for session in &status.sessions {
        write_session(session, out)?;
    }
    let sums = Ledger::from(status.ledger.clone().unwrap_or_default());
    if !sums.events.is_empty() {
        writeln!(out, "ledger since the start")?;
        ledger::write_events(&sums, out)?;
        ledger::write_unwinding(&unwinding(status), out)?;
    }
    Ok(())
}

fn unwinding(status: &StatusResponse) -> UnwindFacts {
    status.unwind.clone().unwrap_or_default().into()
}

fn write_session(session: &SessionStatus, out: &mut dyn Write) -> io::Result<()> {
    let spec = session.spec.clone().unwrap_or_default();
    let duration_ns = spec.duration_ns;
    let what = CaptureSpec::try_from(spec).map_or_else(
        |_| "something this version does not know".to_owned(),
        |spec| {
            let events: Vec<_> = spec.events.iter().map(|event| event.name()).collect();
            format!(
                "{} of {}",
                events.join(", "),
                clean(&spec.target.to_string())
            )
        },
    );
    writeln!(
        out,
        "session   {}: {}, {what}, {} of {}, {}, {} lost, {} of BPF maps",
        session.session,
        phase_word(session.phase()),
        duration(session.elapsed_ns),
        duration(duration_ns),
        plural(session.samples, "sample"),
        count(session.lost),
        bytes(session.bpf_map_bytes)
    )
}

fn phase_word(phase: Phase) -> &'static str {
    match phase {
        Phase::Unspecified => "unknown",
        Phase::Arming => "attaching",
        Phase::Armed | Phase::Capturing => "capturing",
        Phase::Finishing => "finishing",
    }
}

fn json(status: &StatusResponse) -> Value {
    let sessions: Vec<_> = status.sessions.iter().map(session_json).collect();
    let sums = Ledger::from(status.ledger.clone().unwrap_or_default());
    json!({
        "agent_version": status.agent_version,
        "host": status.host,
        "kernel": status.kernel,
        "pid": status.pid,
        "uptime_ns": status.uptime_ns,
        "cpu_ns": status.cpu_ns,
        "rss_bytes": status.rss_bytes,
        "bpf_map_bytes": status.bpf_map_bytes,
        "captures_completed": status.captures_completed,
        "captures_failed": status.captures_failed,
        "sessions": sessions,
        "ledger": json_output::ledger(&sums),
        "unwinding": json_output::unwinding(&unwinding(status)),
    })
}

fn session_json(session: &SessionStatus) -> Value {
    let spec = session.spec.clone().unwrap_or_default();
    let duration_ns = spec.duration_ns;
    let spec = CaptureSpec::try_from(spec).ok();
    json!({
        "session": session.session,
        "phase": phase_word(session.phase()),
        "events": spec.as_ref().map(|s| s.events.iter().map(|e| e.name()).collect::<Vec<_>>()),
        "target": spec.as_ref().map(|s| s.target.to_string()),
        "elapsed_ns": session.elapsed_ns,
        "duration_ns": duration_ns,
        "samples": session.samples,
        "lost": session.lost,
        "bpf_map_bytes": session.bpf_map_bytes,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sample_capture;

    fn answer() -> StatusResponse {
        let capture = sample_capture::lossy();
        StatusResponse {
            agent_version: "0.1.0".to_owned(),
            pid: 812,
            uptime_ns: 7_380_000_000_000,
            host: "web-1".to_owned(),
            kernel: "6.18.3".to_owned(),
            sessions: vec![SessionStatus {
                session: 7,
                spec: Some((&capture.facts.spec).into()),
                phase: Phase::Capturing.into(),
                elapsed_ns: 3_200_000_000,
                events: Vec::new(),
                bpf_map_bytes: 12 << 20,
                samples: 1234,
                lost: 5,
            }],
            cpu_ns: 12_000_000_000,
            rss_bytes: 34 << 20,
            bpf_map_bytes: 12 << 20,
            captures_completed: 12,
            captures_failed: 1,
            ledger: Some((&capture.ledger).into()),
            unwind: Some((&sample_capture::languages().facts.unwind).into()),
        }
    }

    #[test]
    fn text() {
        let mut out = Vec::new();
        write_text(&answer(), &mut out).unwrap();
        insta::assert_snapshot!(String::from_utf8(out).unwrap());
    }

    #[test]
    fn json_has_everything() {
        insta::assert_snapshot!(serde_json::to_string_pretty(&json(&answer())).unwrap());
    }
}
