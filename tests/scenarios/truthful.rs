//! Before anything is compared with the workloads: are they right?

use std::time::Duration;

use anyhow::{Result, bail, ensure};
use profiler_tests::{Lab, Window, Workload, schedstat};

/// The scheduler's own account of each thread, beside what the thread says of itself.
pub(crate) fn workloads_tell_the_truth(lab: &Lab) -> Result<()> {
    check(lab, "cpu_split", &["cpu_split"])?;
    check(
        lab,
        "waits",
        &["naps", "short_naps", "locks", "pipes", "polls"],
    )
}

fn check(lab: &Lab, name: &str, threads: &[&str]) -> Result<()> {
    let workload = Workload::start(lab, name, &[])?;
    let pid = workload.pid();
    let tids = thread_ids(pid)?;
    let look = || {
        tids.iter()
            .map(|tid| Look::at(pid, *tid))
            .collect::<Result<Vec<_>>>()
    };
    let before = look()?;
    // The stretch that is looked at, not a wait for something.
    std::thread::sleep(Duration::from_secs(1));
    let after = look()?;
    let truth = workload.finish()?;
    for comm in threads {
        let tid = truth.tid(comm)?;
        let find = |looks: &[Look]| looks.iter().copied().find(|look| look.tid == tid);
        let (Some(before), Some(after)) = (find(&before), find(&after)) else {
            bail!("{comm}: thread {tid} was not looked at");
        };
        let window = Window {
            start_ns: before.time_ns,
            end_ns: after.time_ns,
        };
        let ran_or_waited_ns = after.ran_or_waited_ns - before.ran_or_waited_ns;
        let kernel = window.length_ns() as f64 - ran_or_waited_ns as f64;
        let sum = truth.thread(comm, window)?;
        let off = 100.0 * (sum.blocked_ns() - kernel) / window.length_ns() as f64;
        println!(
            "{name}/{comm}: blocked {:.1} ms, the scheduler says {:.1} ms: {off:+.2} % of the window",
            sum.blocked_ns() / 1e6,
            kernel / 1e6
        );
        ensure!(off.abs() < 1.0, "{comm} is {off:.2} % of the window off");
    }
    Ok(())
}

/// The scheduler's account of a thread at one moment.
#[derive(Clone, Copy)]
struct Look {
    tid: u32,
    time_ns: u64,
    /// CPU time and run delay.
    ran_or_waited_ns: u64,
}

impl Look {
    /// Looks until it is not interrupted between the clock and the account.
    fn at(pid: u32, tid: u32) -> Result<Self> {
        loop {
            let time_ns = Window::now_ns();
            let (cpu_ns, delay_ns) = schedstat(pid, tid)?;
            if Window::now_ns() - time_ns < 500_000 {
                return Ok(Self {
                    tid,
                    time_ns,
                    ran_or_waited_ns: cpu_ns + delay_ns,
                });
            }
        }
    }
}

fn thread_ids(pid: u32) -> Result<Vec<u32>> {
    let mut tids = Vec::new();
    for entry in std::fs::read_dir(format!("/proc/{pid}/task"))? {
        tids.push(entry?.file_name().to_string_lossy().parse()?);
    }
    Ok(tids)
}
