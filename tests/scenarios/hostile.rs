//! Names come from those who are measured, and may be meant to deceive.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use profiler_tests::{Agent, Lab, Workload, folded_lines, run};

/// 15 bytes, as long as the kernel keeps: a separator, a whole forged line, and a terminal code.
const COMM: &str = "a;bc 9\n\u{1b}[31mz 7";
/// Of a file that code is mapped from.
const FILE: &str = "x;forged 1\nmain;forged 99\u{1b}]0;t\u{7}<&\">";

pub(crate) fn names_forge_nothing(lab: &Lab) -> Result<()> {
    ensure!(COMM.len() == 15, "the kernel would cut it");
    let agent = Agent::start(lab, &[])?;
    let folder = lab.folder()?;
    let (plain, binary) = (folder.join("plain"), folder.join(FILE));
    fs::copy(lab.compile("spinner")?, &plain)?;
    // Without symbols its frames are called by the file's name.
    run(Command::new("strip").arg(&plain))?.expect_code(0)?;
    fs::rename(&plain, &binary)?;
    let mut command = Command::new(&binary);
    command.arg(COMM);
    let workload = Workload::start_command(lab, command)?;
    let pid = workload.pid_text();

    let out = lab.folder()?;
    let arguments = ["-e", "cpu", "-F", "499", "-d", "1s", "-p", &pid];
    let done = run(&mut agent.record(lab, &arguments, &out)?)?;
    done.expect_written()?;
    let capture = out.join("host.capture");
    let top = call(lab, "top", &capture)?;
    for (what, text) in [
        ("the summary", &done.stdout),
        ("standard error", &done.stderr),
        ("top", &top),
    ] {
        harmless(text).with_context(|| what.to_owned())?;
    }
    println!("top says:\n{top}");
    ensure!(
        top.contains("forged"),
        "the file's name is not shown, so nothing was tested"
    );

    let folded = fs::read_to_string(out.join("cpu.folded"))?;
    harmless(&folded)?;
    let lines = folded_lines(&folded)?;
    println!("folded: {:?}", lines.first());
    for (frames, _) in &lines {
        ensure!(
            !frames
                .iter()
                .any(|frame| frame == "forged" || frame == "main"),
            "{frames:?}"
        );
        ensure!(
            frames.first() == lines[0].0.first(),
            "one thread, two names: {frames:?}"
        );
    }
    ensure!(folded == call(lab, "folded", &capture)?);
    let svg = fs::read_to_string(out.join("cpu.svg"))?;
    ensure!(
        !svg.contains('\u{1b}') && !svg.contains('\u{7}'),
        "control codes in the picture"
    );
    let mut reader = quick_xml::Reader::from_str(&svg);
    while reader.read_event()? != quick_xml::events::Event::Eof {}
    Ok(())
}

fn call(lab: &Lab, command: &str, capture: &Path) -> Result<String> {
    let done = run(lab.profiler([command, "-e", "cpu"])?.arg(capture))?;
    Ok(done.expect_code(0)?.stdout.clone())
}

/// Nothing that steers a terminal.
fn harmless(text: &str) -> Result<()> {
    let control = |c: &char| c.is_control() && *c != '\n';
    ensure!(
        !text.chars().any(|c| control(&c)),
        "control codes in {text:?}"
    );
    Ok(())
}
