//! Several captures of one agent at the same time.

use std::collections::BTreeSet;

use anyhow::{Result, ensure};
use profiler_proto::Event;
use profiler_tests::{Agent, Lab, Reading, Running, Workload, run, until};

const FAILED: i32 = 1;

/// Each has its own target and frequency, and what is too much is refused.
pub(crate) fn two_at_a_time_and_no_third(lab: &Lab) -> Result<()> {
    let agent = Agent::start(lab, &["--max-sessions", "2"])?;
    let spinners = [
        Workload::start(lab, "spinner", &["first"])?,
        Workload::start(lab, "spinner", &["second"])?,
    ];
    let mut captures = Vec::new();
    for (spinner, hertz) in spinners.iter().zip(["99", "499"]) {
        let out = lab.folder()?.join("x.capture");
        let arguments = [
            "-e",
            "cpu",
            "-d",
            "2s",
            "-F",
            hertz,
            "-p",
            &spinner.pid_text(),
        ];
        let recording = Running::start(&mut agent.record(lab, &arguments, &out)?)?;
        captures.push((recording, out, spinner.pid(), hertz.parse::<u32>()?));
    }
    until(std::time::Duration::from_secs(10), || {
        let status = agent.status(lab)?;
        Ok(status["sessions"]
            .as_array()
            .is_some_and(|sessions| sessions.len() == 2))
    })?;
    let folder = lab.folder()?;
    let third = run(&mut agent.record(lab, &["-d", "1s"], &folder.join("x.capture"))?)?;
    println!("the third: {}", third.stderr.trim());
    third.expect_code(FAILED)?.expect_sentence("2")?;
    ensure!(folder.read_dir()?.next().is_none(), "something was written");

    for (recording, out, pid, hertz) in captures {
        recording.wait()?.expect_written()?;
        let reading = Reading::open(&out)?;
        let stacks = reading.stacks(Event::Cpu)?;
        let pids: BTreeSet<u32> = stacks.iter().map(|stack| stack.pid).collect();
        let ledger = reading.ledger(Event::Cpu)?;
        println!(
            "{hertz} Hz: samples of {pids:?}, {} ticks expected",
            ledger.expected
        );
        ensure!(pids == BTreeSet::from([pid]));
        ensure!(reading.capture.facts.spec.frequency.get() == hertz);
    }
    Ok(())
}
