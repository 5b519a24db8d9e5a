//! Ends that nobody planned: nothing may be left in the kernel.

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use profiler_proto::EndReason;
use profiler_tests::{Agent, Lab, Loaded, MemoryAndFiles, Reading, Running, until};
use rustix::process::Signal;

/// The kernel frees programs and maps some time after their last user.
const FREED: Duration = Duration::from_secs(20);
const FAILED: i32 = 1;
const PARTIAL: i32 = 3;

/// Waits until none of these is in the kernel any more.
fn await_freed(held: &Loaded) -> Result<()> {
    println!(
        "held: {} programs ({}), {} maps",
        held.programs.len(),
        held.programs
            .values()
            .cloned()
            .collect::<Vec<_>>()
            .join(", "),
        held.maps.len()
    );
    ensure!(
        !held.programs.is_empty() && !held.maps.is_empty(),
        "nothing was loaded"
    );
    let mut left = held.clone();
    until(FREED, || {
        left = Loaded::now()?.among(held);
        Ok(left.is_empty())
    })
    .with_context(|| format!("left in the kernel: {left:?}"))
}

pub(crate) fn agent_killed_leaves_no_program(lab: &Lab) -> Result<()> {
    let agent = Agent::start(lab, &[])?;
    let folder = lab.folder()?;
    let recording =
        Running::start(&mut agent.record(lab, &["-d", "100s"], &folder.join("x.capture"))?)?;
    agent.await_capture(lab)?;
    let held = Loaded::by(agent.pid())?;
    agent.signal(Signal::KILL)?;
    agent.wait()?;
    let done = recording.wait()?;
    println!("profiler says: {}", done.stderr.trim());
    done.expect_code(FAILED)?.expect_sentence("agent")?;
    ensure!(
        fs::read_dir(&folder)?.next().is_none(),
        "something was written"
    );
    await_freed(&held)
}

pub(crate) fn agent_terminated_delivers(lab: &Lab) -> Result<()> {
    let agent = Agent::start(lab, &[])?;
    let out = lab.folder()?.join("x.capture");
    let recording = Running::start(&mut agent.record(lab, &["-d", "100s"], &out)?)?;
    agent.await_capture(lab)?;
    let held = Loaded::by(agent.pid())?;
    agent.signal(Signal::TERM)?;
    agent.wait()?.expect_code(0)?;
    recording.wait()?.expect_code(PARTIAL)?;
    let reading = Reading::open(&out)?;
    println!(
        "the capture ended with {:?}",
        reading.capture.facts.end_reason
    );
    ensure!(reading.capture.facts.end_reason == EndReason::Shutdown);
    reading.capture.ledger.verify()?;
    await_freed(&held)
}

pub(crate) fn client_killed_ends_its_capture(lab: &Lab) -> Result<()> {
    let agent = Agent::start(lab, &[])?;
    let out = lab.folder()?.join("x.capture");
    let recording = Running::start(&mut agent.record(lab, &["-d", "100s"], &out)?)?;
    agent.await_capture(lab)?;
    let mut held = Loaded::by(agent.pid())?;
    // The agent's, not the session's: unwind tables stay for the next one.
    held.maps.retain(|_, name| name != "unwind_chunk");
    recording.signal(Signal::KILL)?;
    recording.wait()?;
    until(FREED, || {
        let status = agent.status(lab)?;
        Ok(status["sessions"].as_array().is_some_and(Vec::is_empty))
    })
    .context("the session goes on without its client")?;
    await_freed(&held)?;
    // And it serves the next one.
    agent.capture(lab, &["-e", "cpu,io", "-d", "200ms"])?;
    Ok(())
}

pub(crate) fn private_agent_dies_with_its_client(lab: &Lab) -> Result<()> {
    let out = lab.folder()?.join("x.capture");
    let mut record = lab.profiler(["record", "-e", "cpu", "-d", "100s", "-o"])?;
    // Killed, it cannot remove its temporary files.
    record.arg(&out).env("TMPDIR", lab.folder()?);
    let recording = Running::start(&mut record)?;
    let mut agent = None;
    until(FREED, || {
        agent = child_that_measures(recording.pid())?;
        Ok(agent.is_some())
    })
    .context("no agent was started")?;
    let agent = agent.context("no agent")?;
    let held = Loaded::by(agent)?;
    recording.signal(Signal::KILL)?;
    recording.wait()?;
    let gone = || Ok(!fs::exists(format!("/proc/{agent}/fd"))?);
    until(FREED, gone).context("the agent lives on")?;
    await_freed(&held)
}

/// A child of `pid` that has programs attached.
fn child_that_measures(pid: u32) -> Result<Option<u32>> {
    let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"))?;
    for child in children.split_whitespace() {
        let child = child.parse()?;
        let held = MemoryAndFiles::of(child)?;
        if held.attachments > 0 && held.bpf_programs > 0 {
            return Ok(Some(child));
        }
    }
    Ok(None)
}
