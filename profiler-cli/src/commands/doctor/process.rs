//! `profiler doctor --pid`: which code of a process can be unwound and named.

use std::collections::HashSet;
use std::io::{self, Write};

use profiler_proto::Pid;
use profiler_proto::pb::{self, CheckState, CodeMapping, DoctorProcessResponse};
use serde_json::{Value, json};

use super::{STATE_WIDTH, WIDTH, checks_json, state_word, write_checks};
use crate::client::{Agent, NoAgent};
use crate::commands::{QuestionArgs, ask};
use crate::error::{CliError, exit};
use crate::text::{clean, count, elide, wrapped};

/// Columns of the table.
const PATH_WIDTH: usize = 44;
const UNWIND_WIDTH: usize = 13;
const CONTAINER_WIDTH: usize = 27;

/// Said once, however many files it is true of.
const MISSING: &str = "Files marked as missing would add lines and inlined functions. They come in \
packages whose names end with -dbgsym (Debian, Ubuntu), -dbg (Alpine) or -debuginfo (Fedora, RHEL, \
SUSE), or through debuginfod_urls in the agent's configuration.";

/// Asks the agent and prints the answer.
pub(super) fn run(pid: Pid, question: &QuestionArgs) -> Result<u8, CliError> {
    let answer = ask(async {
        let mut agent = Agent::connect(&question.agent, NoAgent::StartOne).await?;
        let request = pb::DoctorProcessRequest { pid: pid.get() };
        let answer = agent.client.doctor_process(request).await;
        let doing = format!("the examination of process {pid}");
        let answer = answer.map_err(|status| agent.error(&doing, &status));
        let log = agent.end().await;
        answer.map_err(|error| error.with_agent_log(&log))
    })?
    .into_inner();
    question.print(|out| write_text(&answer, out), || json(&answer))?;
    let hopeless = |mapping: &CodeMapping| {
        mapping.unwind_state() == CheckState::Failed || mapping.names_state() == CheckState::Failed
    };
    Ok(match answer.mappings.iter().any(hopeless) {
        true => exit::PARTIAL,
        false => exit::COMPLETE,
    })
}

fn write_text(answer: &DoctorProcessResponse, out: &mut dyn Write) -> io::Result<()> {
    write_process(answer, out)?;
    write_checks(&answer.checks, out)?;
    if !answer.mappings.is_empty() {
        writeln!(
            out,
            "\n{:<STATE_WIDTH$}{:<PATH_WIDTH$}  {:<UNWIND_WIDTH$}  NAMES",
            "", "CODE", "UNWOUND BY"
        )?;
    }
    let mut seen = HashSet::new();
    for mapping in &answer.mappings {
        write_mapping(mapping, out)?;
        // A file is mapped in parts, and much of what is said is about all of it.
        if seen.insert((&mapping.path, &mapping.build_id, &mapping.unwind_detail)) {
            write_details(mapping, out)?;
        }
    }
    if answer.mappings_left_out > 0 {
        writeln!(
            out,
            "{} more executable mappings are not shown",
            count(answer.mappings_left_out.into())
        )?;
    }
    if answer
        .mappings
        .iter()
        .any(|m| !m.missing_debug_file.is_empty())
    {
        writeln!(out)?;
        write_wrapped("", MISSING, out)?;
    }
    Ok(())
}

fn write_process(answer: &DoctorProcessResponse, out: &mut dyn Write) -> io::Result<()> {
    let bits = match answer.bits {
        0 => String::new(),
        bits => format!(", {bits} bits"),
    };
    writeln!(
        out,
        "process   {} {}{bits}, {}",
        answer.pid,
        clean(&answer.comm),
        executable(answer)
    )?;
    if answer.contained {
        let name = match answer.container.as_str() {
            "" => "a namespace or root directory of its own".to_owned(),
            id => format!("container {}", elide(&clean(id), CONTAINER_WIDTH)),
        };
        writeln!(
            out,
            "          in {name}, where its pid is {}",
            answer.namespace_pid
        )?;
    }
    Ok(())
}

fn executable(answer: &DoctorProcessResponse) -> String {
    match answer.executable.as_str() {
        "" => "no executable".to_owned(),
        path => elide(&clean(path), PATH_WIDTH + UNWIND_WIDTH),
    }
}

fn write_mapping(mapping: &CodeMapping, out: &mut dyn Write) -> io::Result<()> {
    let path = match mapping.path.as_str() {
        "" => "[no file]",
        path => path,
    };
    let names = match mapping.names.is_empty() {
        true => "none".to_owned(),
        false => clean(&mapping.names.join(", ")),
    };
    let room = WIDTH - STATE_WIDTH - PATH_WIDTH - UNWIND_WIDTH - 4;
    writeln!(
        out,
        "{:<STATE_WIDTH$}{:<PATH_WIDTH$}  {:<UNWIND_WIDTH$}  {}",
        state_word(worse(mapping)),
        elide(&clean(path), PATH_WIDTH),
        elide(&clean(&mapping.unwind), UNWIND_WIDTH),
        elide(&names, room)
    )?;
    let range = format!("{:x}-{:x}", mapping.start, mapping.end);
    writeln!(out, "{:STATE_WIDTH$}{range}", "")
}

fn write_details(mapping: &CodeMapping, out: &mut dyn Write) -> io::Result<()> {
    let indent = " ".repeat(STATE_WIDTH);
    if !mapping.build_id.is_empty() {
        let build_id = format!("build-id {}", hex(&mapping.build_id));
        write_wrapped(&indent, &build_id, out)?;
    }
    write_wrapped(&indent, &clean(&mapping.unwind_detail), out)?;
    if !mapping.missing_debug_file.is_empty() {
        let missing = format!("missing: {}", clean(&mapping.missing_debug_file));
        write_wrapped(&indent, &missing, out)?;
    }
    Ok(())
}

/// Whichever of its two states needs more attention.
fn worse(mapping: &CodeMapping) -> CheckState {
    let (unwind, names) = (mapping.unwind_state(), mapping.names_state());
    [
        CheckState::Failed,
        CheckState::Degraded,
        CheckState::Unspecified,
    ]
    .into_iter()
    .find(|state| unwind == *state || names == *state)
    .unwrap_or(CheckState::Ok)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Writes a text in lines that fit.
fn write_wrapped(indent: &str, text: &str, out: &mut dyn Write) -> io::Result<()> {
    for line in wrapped(text, WIDTH - indent.len()) {
        writeln!(out, "{indent}{line}")?;
    }
    Ok(())
}

fn json(answer: &DoctorProcessResponse) -> Value {
    let mappings = answer.mappings.iter().map(|mapping| {
        json!({
            "start": mapping.start,
            "end": mapping.end,
            "path": mapping.path,
            "build_id": hex(&mapping.build_id),
            "unwind": {
                "state": state_word(mapping.unwind_state()),
                "by": mapping.unwind,
                "detail": mapping.unwind_detail,
            },
            "names": {
                "state": state_word(mapping.names_state()),
                "from": mapping.names,
                "missing_debug_file": mapping.missing_debug_file,
            },
        })
    });
    json!({
        "pid": answer.pid,
        "comm": answer.comm,
        "executable": answer.executable,
        "cgroup": answer.cgroup,
        "container": answer.container,
        "contained": answer.contained,
        "namespace_pid": answer.namespace_pid,
        "bits": answer.bits,
        "checks": checks_json(&answer.checks),
        "mappings": mappings.collect::<Vec<_>>(),
        "mappings_left_out": answer.mappings_left_out,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer() -> DoctorProcessResponse {
        let mapping = |start: u64, path: &str, unwind: (CheckState, &str, &str)| CodeMapping {
            start,
            end: start + 0x1000,
            path: path.to_owned(),
            unwind_state: unwind.0.into(),
            unwind: unwind.1.to_owned(),
            unwind_detail: unwind.2.to_owned(),
            names_state: CheckState::Failed.into(),
            ..CodeMapping::default()
        };
        let named = |state: CheckState, names: &[&str], missing: &str, mapping| CodeMapping {
            build_id: (0..20).collect(),
            names_state: state.into(),
            names: names.iter().map(|name| (*name).to_owned()).collect(),
            missing_debug_file: missing.to_owned(),
            ..mapping
        };
        let long = format!("/usr/lib/{}/libx.so", "long-name/".repeat(8));
        let missing = "/usr/lib/debug/.build-id/00/0102030405060708090a0b0c0d0e0f10111213.debug";
        let rows = "123456 rows, 700 KiB; 12 not followed: 12 frame address computed in an unknown \
                    way; 1 malformed entries";
        DoctorProcessResponse {
            pid: 812,
            comm: "node\u{1b}[2J".to_owned(),
            executable: "/usr/bin/node".to_owned(),
            cgroup: "/docker/0123".to_owned(),
            container: "0123456789abcdef".repeat(4),
            contained: true,
            namespace_pid: 7,
            bits: 64,
            checks: vec![pb::Check {
                name: "perf-map".to_owned(),
                state: CheckState::Degraded.into(),
                found: "none: code made at run time has no names".to_owned(),
                advice: "let the program write one".to_owned(),
            }],
            mappings: vec![
                named(
                    CheckState::Ok,
                    &[".symtab", "DWARF"],
                    "",
                    mapping(
                        0x55d0_c8e2_0000,
                        "/usr/bin/node",
                        (CheckState::Ok, ".eh_frame", rows),
                    ),
                ),
                named(
                    CheckState::Degraded,
                    &[".gnu_debugdata", ".dynsym"],
                    missing,
                    mapping(
                        0x7f00_0000_0000,
                        &long,
                        (CheckState::Ok, ".eh_frame", "9 rows, 1 KiB"),
                    ),
                ),
                mapping(
                    0x7f00_1000_0000,
                    "",
                    (CheckState::Degraded, "frame pointer", "made at run time"),
                ),
            ],
            mappings_left_out: 1200,
        }
    }

    #[test]
    fn text_fits_a_terminal() {
        let mut out = Vec::new();
        write_text(&answer(), &mut out).unwrap();
        let text = String::from_utf8(out).unwrap();
        for line in text.lines() {
            assert!(line.chars().count() <= WIDTH, "{line}");
        }
        insta::assert_snapshot!(text);
    }

    #[test]
    fn json_has_everything() {
        insta::assert_snapshot!(serde_json::to_string_pretty(&json(&answer())).unwrap());
    }
}
