//! Targets: what is asked for is in the capture, and nothing else.

use std::collections::BTreeSet;
use std::process::Command;
use std::time::Duration;

use anyhow::{Result, bail, ensure};
use profiler_proto::Event;
use profiler_tests::{
    Agent, Cgroup, Lab, Reading, Running, Workload, cgroup_v1_root, cgroup2_root, proc_start_ticks,
    schedstat, skip, until,
};

/// CPU time in which a sampler at 499 Hz finds a process some 50 times.
const MEASURED_NS: u64 = 100_000_000;

/// Three that do the same under different names: more than two CPUs can run at once, so they wait as well.
struct Spinners([Workload; 3]);

impl Spinners {
    fn start(lab: &Lab) -> Result<Self> {
        let start = |name| Workload::start(lab, "spinner", &[&comm_of(name)]);
        Ok(Self([start("a")?, start("b")?, start("c")?]))
    }

    fn pids(&self) -> [u32; 3] {
        [self.0[0].pid(), self.0[1].pid(), self.0[2].pid()]
    }

    /// Captures with these arguments, and expects samples of exactly these processes in every event.
    fn expect(&self, lab: &Lab, arguments: &[&str], expected: &[u32]) -> Result<()> {
        let agent = Agent::start(lab, &[])?;
        let always = ["-e", "cpu,offcpu", "-F", "499", "-d", "1500ms"];
        let reading = agent.capture(lab, &[&always, arguments].concat())?;
        let expected: BTreeSet<u32> = expected.iter().copied().collect();
        for event in [Event::Cpu, Event::OffCpu] {
            let found: BTreeSet<u32> = reading.stacks(event)?.iter().map(|s| s.pid).collect();
            let ledger = reading.ledger(event)?;
            println!(
                "{}: {event} has samples of {found:?}; {} admitted, {} filtered",
                arguments.join(" "),
                ledger.observed - ledger.filtered - ledger.idle,
                ledger.filtered
            );
            ensure!(
                found == expected,
                "{event}: {found:?} instead of {expected:?}"
            );
            ensure!(
                ledger.filtered > 0,
                "{event}: the others were not filtered in the kernel"
            );
        }
        let accounts = accounted(&reading);
        ensure!(
            accounts == expected,
            "accounts of {accounts:?} instead of {expected:?}"
        );
        Ok(())
    }
}

/// A command name that no other run of the tests has.
fn comm_of(name: &str) -> String {
    format!("{name}-{}", std::process::id())
}

fn accounted(reading: &Reading) -> BTreeSet<u32> {
    let dictionary = &reading.capture.dictionary;
    let accounts = reading.capture.accounts.iter();
    accounts
        .map(|account| {
            dictionary
                .process(dictionary.thread(account.thread).process)
                .pid
        })
        .collect()
}

pub(crate) fn pids(lab: &Lab) -> Result<()> {
    let spinners = Spinners::start(lab)?;
    let [a, b, _] = spinners.pids();
    let (a_text, b_text) = (a.to_string(), b.to_string());
    spinners.expect(lab, &["-p", &a_text], &[a])?;
    spinners.expect(lab, &["-p", &a_text, "-p", &b_text], &[a, b])
}

pub(crate) fn comm(lab: &Lab) -> Result<()> {
    let spinners = Spinners::start(lab)?;
    let [_, b, c] = spinners.pids();
    let (b_name, c_name) = (comm_of("b"), comm_of("c"));
    spinners.expect(lab, &["--comm", &b_name], &[b])?;
    spinners.expect(lab, &["--comm", &b_name, "--comm", &c_name], &[b, c])
}

pub(crate) fn cgroup_v2(lab: &Lab) -> Result<()> {
    let Some(root) = cgroup2_root()? else {
        return Err(skip("no cgroup2 hierarchy is mounted"));
    };
    cgroup(lab, &root)
}

pub(crate) fn cgroup_v1(lab: &Lab) -> Result<()> {
    let Some(root) = cgroup_v1_root()? else {
        return Err(skip(
            "no version 1 hierarchy with freezer, pids or cpu is mounted",
        ));
    };
    cgroup(lab, &root)
}

fn cgroup(lab: &Lab, root: &std::path::Path) -> Result<()> {
    println!("hierarchy {}", root.display());
    // Dropped in reverse: first the processes, then the inner, then the outer group.
    let outer = Cgroup::new(root, "profiler-e2e")?;
    let inner = Cgroup::new(outer.path(), "inner")?;
    let spinners = Spinners::start(lab)?;
    let [a, b, _] = spinners.pids();
    outer.add(a)?;
    inner.add(b)?;
    let path = |cgroup: &Cgroup| cgroup.path().to_string_lossy().into_owned();
    spinners.expect(lab, &["--cgroup", &path(&inner)], &[b])?;
    spinners.expect(lab, &["--cgroup", &path(&outer)], &[a, b])?;
    // Kinds of targets narrow each other.
    spinners.expect(
        lab,
        &["--cgroup", &path(&outer), "--comm", &comm_of("a")],
        &[a],
    )
}

/// A process that gets the pid of a target that has exited is not the target.
pub(crate) fn pid_is_not_reused(lab: &Lab) -> Result<()> {
    let agent = Agent::start(lab, &[])?;
    let target = Workload::start(lab, "spinner", &["target"])?;
    // Keeps the capture going when the other target is gone.
    let other = Workload::start(lab, "spinner", &["other"])?;
    let (pid, other_pid) = (target.pid_text(), other.pid_text());
    let out = lab.folder()?.join("reuse.capture");
    let arguments = [
        "-e",
        "cpu,offcpu",
        "-F",
        "499",
        "-d",
        "4s",
        "-p",
        &pid,
        "-p",
        &other_pid,
    ];
    let recording = Running::start(&mut agent.record(lab, &arguments, &out)?)?;
    agent.await_capture(lab)?;
    let (old, started) = (target.pid(), proc_start_ticks(target.pid())?);
    // It must have been measured, and live longer than the tick of 10 ms by which its start is known.
    let (cpu_before_ns, _) = schedstat(old, old)?;
    until(Duration::from_secs(30), || {
        let (cpu_ns, _) = schedstat(old, old)?;
        Ok(cpu_ns > cpu_before_ns + MEASURED_NS)
    })?;
    target.finish()?;
    let impostor = with_pid(lab, old)?;
    let new_start = proc_start_ticks(impostor.pid())?;
    recording.wait()?.expect_written()?;
    drop(impostor);
    let reading = Reading::open(&out)?;
    for event in [Event::Cpu, Event::OffCpu] {
        let stacks = reading.stacks_of(event, old)?;
        let names: BTreeSet<_> = stacks.iter().map(|stack| stack.comm.as_str()).collect();
        println!(
            "{event}: pid {old} is {names:?} in {} samples",
            stacks.len()
        );
        ensure!(
            !names.contains("impostor"),
            "{event}: the impostor was taken for the target"
        );
    }
    let samples = reading.stacks_of(Event::Cpu, old)?;
    ensure!(!samples.is_empty(), "no sample of the target itself");
    println!("started at tick {started}, its successor at tick {new_start}");
    ensure!(started != new_start);
    Ok(())
}

/// A spinner that has the pid `wanted`, which is free.
fn with_pid(lab: &Lab, wanted: u32) -> Result<Workload> {
    const LAST_PID: &str = "/proc/sys/kernel/ns_last_pid";
    let spinner = lab.compile("spinner")?;
    for _ in 0..200 {
        if let Err(error) = std::fs::write(LAST_PID, (wanted - 1).to_string()) {
            return Err(skip(format!("cannot choose a pid: {LAST_PID}: {error}")));
        }
        let mut command = Command::new(&spinner);
        command.arg("impostor");
        let workload = Workload::start_command(lab, command)?;
        if workload.pid() == wanted {
            return Ok(workload);
        }
    }
    bail!("pid {wanted} could not be had again")
}
