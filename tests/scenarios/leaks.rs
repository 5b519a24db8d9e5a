//! One agent, many captures.

use anyhow::{Context, Result, ensure};
use profiler_tests::{Agent, Lab, Loaded, MemoryAndFiles, Running, run, until};

const CAPTURES: usize = 200;
/// Exit code of a partial capture.
const PARTIAL: i32 = 3;
/// By then every cache is warm.
const WARM: usize = 50;
/// Captures after which the agent is looked at, both times. What counts is the least it holds: what a session
/// leaves goes a moment after its client has the capture, what leaks does not go.
const LOOKS: usize = 20;
/// Catches a leak of 7 KiB per capture.
const RSS_SLACK: u64 = 1 << 20;
/// So that glibc gives back what is freed, and memory that is resident is memory in use.
const GIVES_BACK: (&str, &str) = (
    "GLIBC_TUNABLES",
    "glibc.malloc.arena_max=1:glibc.malloc.mmap_threshold=65536:glibc.malloc.trim_threshold=65536",
);

/// Chunks of unwind tables that whatever runs on the host meanwhile may need: each is a map and a descriptor, and
/// stays for the next session. 150 captures that leak one each are more.
const CHUNKS: usize = 4;

pub(crate) fn two_hundred_captures_leak_nothing(lab: &Lab) -> Result<()> {
    let before = Loaded::now()?;
    let agent = Agent::start_with(lab, &[], &[GIVES_BACK])?;
    let out = lab.folder()?.join("short.capture");
    let names = names_of_programs(lab, &agent)?;
    let (mut warm, mut end) = (None, None);
    let mut partial = 0;
    for number in 1..=CAPTURES {
        let done = run(&mut agent.record(lab, &["-d", "100ms"], &out)?)?;
        // Of the few waits in 100 ms one that is lost can be more than a hundredth.
        done.expect_written()
            .with_context(|| format!("capture {number}"))?;
        partial += usize::from(done.code == PARTIAL);
        let least = match number {
            n if n <= WARM && n + LOOKS > WARM => &mut warm,
            n if n + LOOKS > CAPTURES => &mut end,
            _ => continue,
        };
        let held = agent.holds()?;
        *least = Some(least.map_or(held, |least: MemoryAndFiles| least.min(held)));
    }
    println!("{partial} of {CAPTURES} short captures were partial");
    let (warm, end) = (warm.context("no look")?, end.context("no look")?);
    println!("least around {WARM}: {warm:?}\nleast around {CAPTURES}: {end:?}");
    ensure!(end.files <= warm.files + CHUNKS, "file descriptors grow");
    ensure!(
        end.bpf_programs <= warm.bpf_programs && end.bpf_maps <= warm.bpf_maps + CHUNKS,
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
