//! Before anything is compared with the workloads: are they right?

use std::time::Duration;

use anyhow::{Result, ensure};
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
        let look = |tid: &u32| Ok((*tid, schedstat(pid, *tid)?, Window::now_ns()));
        tids.iter().map(look).collect::<Result<Vec<_>>>()
    };
    let before = look()?;
    // The stretch that is looked at, not a wait for something.
    std::thread::sleep(Duration::from_secs(1));
    let after = look()?;
    let truth = workload.finish()?;
    for comm in threads {
        let tid = truth.tid(comm)?;
        let find = |looks: &[(u32, (u64, u64), u64)]| looks.iter().copied().find(|l| l.0 == tid);
        let (Some((_, (cpu_0, delay_0), start_ns)), Some((_, (cpu_1, delay_1), end_ns))) =
            (find(&before), find(&after))
        else {
            anyhow::bail!("{comm}: thread {tid} was not looked at");
        };
        let window = Window { start_ns, end_ns };
        let kernel = window.length_ns() as f64 - ((cpu_1 - cpu_0) + (delay_1 - delay_0)) as f64;
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

fn thread_ids(pid: u32) -> Result<Vec<u32>> {
    let mut tids = Vec::new();
    for entry in std::fs::read_dir(format!("/proc/{pid}/task"))? {
        tids.push(entry?.file_name().to_string_lossy().parse()?);
    }
    Ok(tids)
}
