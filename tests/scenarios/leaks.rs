//! One agent, many captures.

use anyhow::{Context, Result, ensure};
use profiler_tests::{Agent, Lab, Loaded, MemoryAndFiles, Running, run, until};

const CAPTURES: usize = 200;
/// Exit code of a partial capture.
const PARTIAL: i32 = 3;
/// By then every cache is warm.
const WARM: usize = 50;
/// Memory of an allocator goes up and down by a few pages; a leak of 32 KiB per capture is caught.
const RSS_SLACK: u64 = 4 << 20;

pub(crate) fn two_hundred_captures_leak_nothing(lab: &Lab) -> Result<()> {
    let before = Loaded::now()?;
    let agent = Agent::start(lab, &[])?;
    let out = lab.folder()?.join("short.capture");
    let names = names_of_programs(lab, &agent)?;
    let (mut warm, mut partial) = (None, 0);
    for number in 0..CAPTURES {
        if number == WARM {
            warm = Some(rested(&agent)?);
        }
        let done = run(&mut agent.record(lab, &["-d", "100ms"], &out)?)?;
        // Of the few waits in 100 ms one that is lost can be more than a hundredth.
        done.expect_written()
            .with_context(|| format!("capture {number}"))?;
        partial += usize::from(done.code == PARTIAL);
    }
    println!("{partial} of {CAPTURES} short captures were partial");
    let warm = warm.context("never warm")?;
    let end = rested(&agent)?;
    println!("after {WARM}: {warm:?}\nafter {CAPTURES}: {end:?}");
    ensure!(end.files <= warm.files, "file descriptors grow");
    ensure!(
        end.bpf_programs <= warm.bpf_programs && end.bpf_maps <= warm.bpf_maps,
        "BPF objects grow"
    );
    ensure!(end.attachments == 0, "something stays attached");
    ensure!(end.threads <= warm.threads, "threads grow");
    ensure!(
        end.rss_bytes <= warm.rss_bytes + RSS_SLACK,
        "memory grows from {} to {} bytes",
        warm.rss_bytes,
        end.rss_bytes
    );
    // In the whole system, of programs of these names: others may have theirs.
    let mut left = Loaded::default();
    until(std::time::Duration::from_secs(20), || {
        left = Loaded::now()?.since(&before);
        left.programs.retain(|_, name| names.contains(name));
        Ok(left.programs.len() <= end.bpf_programs)
    })
    .with_context(|| format!("programs left in the kernel: {:?}", left.programs))?;
    let status = agent.status(lab)?;
    ensure!(
        status["captures_completed"] == CAPTURES as u64 + 1,
        "{status}"
    );
    Ok(())
}

/// What the agent's programs are called.
fn names_of_programs(lab: &Lab, agent: &Agent) -> Result<Vec<String>> {
    let out = lab.folder()?.join("named.capture");
    let recording = Running::start(&mut agent.record(lab, &["-d", "2s"], &out)?)?;
    agent.await_capture(lab)?;
    let names = Loaded::by(agent.pid())?.programs.into_values().collect();
    recording.wait()?.expect_written()?;
    Ok(names)
}

/// What the agent holds once it is at rest.
fn rested(agent: &Agent) -> Result<MemoryAndFiles> {
    let mut held = agent.holds()?;
    let rest = until(std::time::Duration::from_secs(10), || {
        let again = agent.holds()?;
        // Closed connections and ended threads take a moment.
        let same = again == held && again.attachments == 0;
        held = again;
        std::thread::sleep(std::time::Duration::from_millis(50));
        Ok(same)
    });
    rest.with_context(|| format!("the agent does not come to rest: {held:?}"))?;
    Ok(held)
}
