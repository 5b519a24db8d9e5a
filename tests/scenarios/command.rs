//! `record -- COMMAND`, and ending a capture by hand.

use std::collections::BTreeSet;

use anyhow::{Context, Result, ensure};
use profiler_proto::{EndReason, Event};
use profiler_tests::{Agent, Lab, Reading, Running, Stack, Workload, run};
use rustix::process::Signal;

/// Of the CPU time that the children used, which is short and in many pieces.
const CPU_TOLERANCE: f64 = 0.10;
/// Of the samples of processes that live for 50 ms.
const NAMED: f64 = 0.9;
const CHILDREN: usize = 12;

/// No `--socket` here: an agent is started for the command where none listens.
pub(crate) fn exit_code_and_children(lab: &Lab) -> Result<()> {
    let tree = lab.compile("fork_tree")?;
    let out = lab.folder()?.join("tree.capture");
    let mut record = lab.profiler(["record", "-e", "cpu", "-F", "999", "-o"])?;
    record
        .arg(&out)
        .arg("--")
        .arg(&tree)
        .args([&CHILDREN.to_string(), "7"]);
    let done = run(&mut record)?;
    done.expect_code(7)?;
    let (well, cpu_ns) = done.stdout.trim().split_once(' ').with_context(|| {
        format!(
            "standard output is not the command's alone: {:?}",
            done.stdout
        )
    })?;
    let (well, cpu_ns): (usize, u64) = (well.parse()?, cpu_ns.parse()?);
    ensure!(
        done.stderr.contains("wrote"),
        "no summary on standard error: {}",
        done.stderr
    );

    let reading = Reading::open(&out)?;
    let ledger = reading.ledger(Event::Cpu)?;
    let mut stacks = reading.stacks(Event::Cpu)?;
    stacks.retain(|stack| stack.comm == "grandchild");
    let pids: BTreeSet<u32> = stacks.iter().map(|stack| stack.pid).collect();
    let weight = |keep: &dyn Fn(&Stack) -> bool| {
        let kept = stacks.iter().filter(|stack| keep(stack));
        kept.map(|stack| stack.weight as f64).sum::<f64>()
    };
    let sampled = weight(&|_| true);
    let named = weight(&|stack| stack.holds(&["main", "grandchild", "grandchild_work"]));
    let skipped_ns = ledger.expected.saturating_sub(ledger.observed) as f64 / 999.0 * 1e9;
    println!(
        "{} of {well} grandchildren sampled, {:.1} ms of their {:.1} ms of CPU time, {:.1} ms with the whole \
         chain; ticks for {:.1} ms were skipped",
        pids.len(),
        sampled / 1e6,
        cpu_ns as f64 / 1e6,
        named / 1e6,
        skipped_ns / 1e6
    );
    ensure!(
        well == CHILDREN && pids.len() == well,
        "children were not followed"
    );
    let (least, most) = (1.0 - CPU_TOLERANCE, 1.0 + CPU_TOLERANCE);
    let cpu_ns = cpu_ns as f64;
    ensure!(least * cpu_ns - skipped_ns <= sampled && sampled <= most * cpu_ns);
    ensure!(named >= NAMED * sampled, "what children ran has no names");
    let command = reading
        .capture
        .facts
        .command
        .context("no command in the capture")?;
    ensure!(command.exit_code == 7 && command.argv.last().is_some_and(|arg| arg == "7"));
    Ok(())
}

pub(crate) fn that_is_killed(lab: &Lab) -> Result<()> {
    for (signal, code) in [("TERM", 143), ("KILL", 137)] {
        let out = lab.folder()?.join("killed.capture");
        let mut record = lab.profiler(["record", "-e", "cpu", "-o"])?;
        let script = format!("kill -{signal} $$");
        record.arg(&out).args(["--", "sh", "-c", &script]);
        run(&mut record)?.expect_code(code)?;
        let command = Reading::open(&out)?.capture.facts.command;
        let told = command.context("no command in the capture")?.exit_code;
        println!("SIG{signal}: exit code {code}, {told} in the capture");
        ensure!(told == code);
    }
    Ok(())
}

pub(crate) fn that_cannot_run(lab: &Lab) -> Result<()> {
    let folder = lab.folder()?;
    for (command, code) in [("no-such-command-here", 127), ("/etc/passwd", 126)] {
        let mut record = lab.profiler(["record", "-e", "cpu", "-o"])?;
        record
            .arg(folder.join("none.capture"))
            .args(["--", command]);
        let done = run(&mut record)?;
        done.expect_code(code)?.expect_sentence(command)?;
        println!("{command}: exit code {code}: {}", done.stderr.trim());
    }
    ensure!(folder.read_dir()?.next().is_none(), "something was written");
    Ok(())
}

pub(crate) fn interrupt_ends_early_and_writes(lab: &Lab) -> Result<()> {
    let agent = Agent::start(lab, &[])?;
    let workload = Workload::start(lab, "spinner", &[])?;
    for signal in [Signal::INT, Signal::TERM] {
        let out = lab.folder()?.join("early.capture");
        let recording =
            Running::start(&mut agent.record(lab, &["-e", "cpu,io", "-d", "100s"], &out)?)?;
        agent.await_capture(lab)?;
        recording.signal(signal)?;
        recording.wait()?.expect_written()?;
        let reading = Reading::open(&out)?;
        let facts = &reading.capture.facts;
        println!(
            "{signal:?}: {:?} after {:?} of {}",
            facts.end_reason,
            reading.capture.window(),
            facts.spec.duration
        );
        ensure!(facts.end_reason == EndReason::Stopped);
        ensure!(reading.capture.window() < facts.spec.duration.get());
        reading.capture.ledger.verify()?;
    }
    drop(workload);
    Ok(())
}
