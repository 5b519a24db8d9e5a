//! `profiler doctor`: what this host can measure, and how to get the rest.

mod process;

use std::io::{self, Write};

use profiler_proto::pb::{self, CheckState, DoctorResponse};
use profiler_proto::{Event, Pid};
use serde_json::{Value, json};

use super::{QuestionArgs, ask};
use crate::client::{Agent, NoAgent};
use crate::error::{CliError, exit};
use crate::text::{clean, count, wrapped};

const AFTER_HELP: &str = "\
Every way to measure an event is loaded and attached for real, then taken down again.
Exits with 3 if an event cannot be measured, or, with --pid, if some code of the process has no
names or its unwind rules cannot be read.

Examples:
  profiler doctor
  profiler doctor --pid 812
  profiler doctor --output json";

/// Columns of what is printed as a table: what most terminals show side by side.
const WIDTH: usize = 100;
const STATE_WIDTH: usize = 10;

#[derive(clap::Args)]
#[command(after_help = AFTER_HELP)]
pub(crate) struct Args {
    /// Look at this process instead: which of its code can be unwound and named
    #[arg(short, long, value_name = "PID")]
    pid: Option<Pid>,
    #[command(flatten)]
    question: QuestionArgs,
}

/// Asks the agent and prints the answer.
pub(crate) fn run(args: &Args) -> Result<u8, CliError> {
    if let Some(pid) = args.pid {
        return process::run(pid, &args.question);
    }
    let answer = ask(async {
        let mut agent = Agent::connect(&args.question.agent, NoAgent::StartOne).await?;
        let answer = agent.client.doctor(pb::DoctorRequest {}).await;
        let answer = answer.map_err(|status| agent.error("the examination of the host", &status));
        let log = agent.end().await;
        answer.map_err(|error| error.with_agent_log(&log))
    })?
    .into_inner();
    args.question
        .print(|out| write_text(&answer, out), || json(&answer))?;
    let complete = answer.events.iter().all(|event| in_use(event).is_some());
    Ok(if complete {
        exit::COMPLETE
    } else {
        exit::PARTIAL
    })
}

/// The best way to measure an event that works here.
fn in_use(event: &pb::EventProbe) -> Option<&pb::RungProbe> {
    event.rungs.iter().find(|rung| rung.available)
}

fn write_text(answer: &DoctorResponse, out: &mut dyn Write) -> io::Result<()> {
    write_checks(&answer.checks, out)?;
    for event in &answer.events {
        writeln!(out)?;
        write_event(event, &answer.checks, out)?;
    }
    Ok(())
}

fn write_checks(checks: &[pb::Check], out: &mut dyn Write) -> io::Result<()> {
    let width = checks.iter().map(|c| c.name.len()).max().unwrap_or(0);
    let room = WIDTH.saturating_sub(STATE_WIDTH + width + 2);
    for check in checks {
        let mut left = (state_word(check.state()), clean(&check.name));
        let mut texts = vec![clean(&check.found)];
        if !check.advice.is_empty() {
            texts.push(format!("to do: {}", clean(&check.advice)));
        }
        for line in texts.iter().flat_map(|text| wrapped(text, room)) {
            let (state, name) = std::mem::take(&mut left);
            writeln!(out, "{state:<STATE_WIDTH$}{name:<width$}  {line}")?;
        }
    }
    Ok(())
}

fn write_event(
    event: &pb::EventProbe,
    checks: &[pb::Check],
    out: &mut dyn Write,
) -> io::Result<()> {
    let name = event_name(event);
    match in_use(event) {
        Some(rung) => writeln!(out, "{name:<10}measured by {}", clean(&rung.mechanism))?,
        None => writeln!(out, "{name:<10}cannot be measured here")?,
    }
    writeln!(out, "{:10}to do: {}", "", to_do(event, checks))?;
    for rung in &event.rungs {
        let (word, detail) = if rung.available {
            ("works", programs(rung))
        } else {
            ("no", reason(&rung.reason))
        };
        writeln!(
            out,
            "{:10}{:<6} {}: {detail}",
            "",
            word,
            clean(&rung.mechanism)
        )?;
    }
    Ok(())
}

/// What to do about an event, in plain words. What failed may be behind what the checks found.
fn to_do(event: &pb::EventProbe, checks: &[pb::Check]) -> String {
    let failed: Vec<_> = checks
        .iter()
        .filter(|check| check.state() == CheckState::Failed)
        .map(|check| clean(&check.name))
        .collect();
    match in_use(event) {
        Some(_) if event.rungs.first().is_some_and(|best| best.available) => {
            "nothing, this is the best way".to_owned()
        }
        Some(_) => "nothing; better ways do not work here, for the reasons below".to_owned(),
        None if failed.is_empty() => {
            "remove one of the reasons below, or leave it out with `record -e`".to_owned()
        }
        None => format!("what is said above for {}", failed.join(", ")),
    }
}

/// Without the heading of a verifier's report that is empty.
fn reason(text: &str) -> String {
    let text = clean(text);
    let text = text.replace(". Verifier output:;", ";");
    let stem = text.trim_end().strip_suffix(". Verifier output:");
    stem.unwrap_or(&text).to_owned()
}

/// The kernel's count of instructions per program, where it gives one.
fn programs(rung: &pb::RungProbe) -> String {
    let mut programs: Vec<_> = rung.verified_instructions.iter().collect();
    programs.sort();
    if programs.is_empty() {
        return "loaded and attached".to_owned();
    }
    let counts: Vec<_> = programs
        .into_iter()
        .map(|(name, number)| match number {
            0 => clean(name),
            number => format!("{} ({} instructions verified)", clean(name), count(*number)),
        })
        .collect();
    counts.join(", ")
}

fn event_name(event: &pb::EventProbe) -> String {
    Event::from_wire(event.event).map_or_else(
        |_| format!("event {}", event.event),
        |event| event.name().to_owned(),
    )
}

fn state_word(state: CheckState) -> &'static str {
    match state {
        CheckState::Ok => "ok",
        CheckState::Degraded => "degraded",
        CheckState::Failed => "failed",
        CheckState::Unspecified => "unknown",
    }
}

fn json(answer: &DoctorResponse) -> Value {
    let events = answer.events.iter().map(|event| {
        let rungs = event.rungs.iter().map(|rung| {
            json!({
                "mechanism": rung.mechanism,
                "available": rung.available,
                "reason": rung.reason,
                "verified_instructions": sorted(rung),
            })
        });
        json!({
            "event": event_name(event),
            "available": in_use(event).is_some(),
            "mechanism": in_use(event).map(|rung| &rung.mechanism),
            "rungs": rungs.collect::<Vec<_>>(),
        })
    });
    json!({
        "checks": checks_json(&answer.checks),
        "events": events.collect::<Vec<_>>(),
    })
}

fn checks_json(checks: &[pb::Check]) -> Vec<Value> {
    let checks = checks.iter().map(|check| {
        json!({
            "name": check.name,
            "state": state_word(check.state()),
            "found": check.found,
            "advice": check.advice,
        })
    });
    checks.collect()
}

fn sorted(rung: &pb::RungProbe) -> std::collections::BTreeMap<&String, u64> {
    let programs = rung.verified_instructions.iter();
    programs.map(|(name, number)| (name, *number)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer() -> DoctorResponse {
        let check = |name: &str, state: CheckState, found: &str, advice: &str| pb::Check {
            name: name.to_owned(),
            state: state.into(),
            found: found.to_owned(),
            advice: advice.to_owned(),
        };
        let rung = |mechanism: &str, reason: &str| pb::RungProbe {
            mechanism: mechanism.to_owned(),
            available: reason.is_empty(),
            reason: reason.to_owned(),
            verified_instructions: [("cpu_sample".to_owned(), 1234)].into(),
        };
        DoctorResponse {
            checks: vec![
                check("kernel", CheckState::Ok, "Linux 6.18.3", ""),
                check(
                    "tracefs",
                    CheckState::Degraded,
                    "not mounted",
                    "mount -t tracefs t /t",
                ),
                check(
                    "lockdown",
                    CheckState::Failed,
                    "confidentiality",
                    "boot without lockdown",
                ),
            ],
            events: vec![
                pb::EventProbe {
                    event: Event::Cpu.to_wire(),
                    rungs: vec![
                        rung("perf cycles", "no hardware counters"),
                        rung("perf cpu-clock", ""),
                    ],
                },
                pb::EventProbe {
                    event: Event::Io.to_wire(),
                    rungs: vec![rung("tp_btf block_rq", "the kernel has no BTF")],
                },
            ],
        }
    }

    #[test]
    fn text() {
        let mut out = Vec::new();
        write_text(&answer(), &mut out).unwrap();
        insta::assert_snapshot!(String::from_utf8(out).unwrap());
    }

    #[test]
    fn an_empty_report_of_the_verifier_is_left_out() {
        let load = "the BPF_PROG_LOAD syscall returned Operation not permitted (os error 1)";
        assert_eq!(reason(&format!("{load}. Verifier output:")), load);
        assert_eq!(
            reason(&format!("{load}. Verifier output:; become root")),
            format!("{load}; become root")
        );
        let full = format!("{load}. Verifier output: R1 is no pointer");
        assert_eq!(reason(&full), full);
    }

    #[test]
    fn what_to_do_follows_what_was_found() {
        let answer = answer();
        let [cpu, io] = answer.events.as_slice() else {
            panic!("two events");
        };
        assert!(to_do(cpu, &answer.checks).starts_with("nothing; better ways"));
        assert_eq!(to_do(io, &answer.checks), "what is said above for lockdown");
        assert!(to_do(io, &[]).contains("reasons below"));
    }

    #[test]
    fn json_has_everything() {
        insta::assert_snapshot!(serde_json::to_string_pretty(&json(&answer())).unwrap());
    }
}
