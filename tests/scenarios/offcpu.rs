//! Waits: exact per thread, and sampled with their stacks.

use anyhow::{Context, Result, ensure};
use profiler_proto::{Event, ThreadAccount};
use profiler_tests::{Agent, Lab, Reading, Stack, Truth, Workload, run, schedstat};

/// Of what the workload recorded.
const EXACT: f64 = 0.01;
const WHOLE_CHAINS: f64 = 0.95;

/// A thread of `waits`, its body, and the functions that it waits in.
const THREADS: &[(&str, &str, &[&str])] = &[
    ("naps", "naps_body", &["nap"]),
    ("locks", "locks_body", &["take_lock", "nap"]),
    ("pipes", "pipes_body", &["read_pipe"]),
    ("polls", "polls_body", &["poll_nothing"]),
];

pub(crate) fn exact_and_sampled_on_every_rung(lab: &Lab) -> Result<()> {
    let rungs = available_rungs(lab)?;
    println!("rungs available here: {}", rungs.join(", "));
    ensure!(!rungs.is_empty(), "no way to measure waits");
    for rung in &rungs {
        exact_and_sampled(lab, rung).with_context(|| format!("on rung {rung}"))?;
    }
    Ok(())
}

fn available_rungs(lab: &Lab) -> Result<Vec<String>> {
    let agent = Agent::start(lab, &[])?;
    let mut doctor = lab.profiler(["doctor", "--output", "json", "--socket"])?;
    let done = run(doctor.arg(agent.socket()))?;
    let answer: serde_json::Value = serde_json::from_str(&done.stdout)?;
    let events = answer["events"].as_array().context("no events")?;
    let offcpu = events.iter().find(|event| event["event"] == "offcpu");
    let rungs = offcpu.and_then(|event| event["rungs"].as_array());
    let rungs = rungs.context("no rungs of offcpu")?;
    let available = rungs.iter().filter(|rung| rung["available"] == true);
    Ok(available
        .filter_map(|rung| rung["mechanism"].as_str().map(str::to_owned))
        .collect())
}

fn exact_and_sampled(lab: &Lab, rung: &str) -> Result<()> {
    let agent = Agent::start(lab, &["--offcpu-rung", rung])?;
    let workload = Workload::start(lab, "waits", &[])?;
    let pid = workload.pid();
    let arguments = ["-e", "offcpu", "-d", "4s", "-p", &pid.to_string()];
    let reading = agent.capture(lab, &arguments)?;
    let truth = workload.finish()?;
    let facts = reading.capture.facts.event(Event::OffCpu);
    let facts = facts.context("no facts of offcpu")?;
    println!(
        "rung {}, parameters {:?}",
        facts.mechanism, facts.parameters
    );
    ensure!(facts.mechanism == rung, "not the rung asked for");
    let ledger = reading.ledger(Event::OffCpu)?;
    println!(
        "{} waits of {} sampled; exact {:.3} s, sampled {:.3} s",
        ledger.delivered,
        ledger.observed,
        ledger.exact_weight as f64 / 1e9,
        ledger.sampled_weight as f64 / 1e9
    );

    let stacks = reading.stacks_of(Event::OffCpu, pid)?;
    check_account(&reading, &truth, "short_naps")?;
    for (comm, body, functions) in THREADS {
        let blocked_ns = check_account(&reading, &truth, comm)?;
        let tid = truth.tid(comm)?;
        let mine: Vec<_> = stacks.iter().filter(|stack| stack.tid == tid).collect();
        check_samples(comm, &mine, blocked_ns)?;
        check_chain(comm, &mine, body, functions)?;
    }
    check_never_runs(&reading, &truth, &stacks)
}

/// The account of a thread against what it recorded; returns the truth.
fn check_account(reading: &Reading, truth: &Truth, comm: &str) -> Result<f64> {
    let account = reading.account(truth.tid(comm)?)?;
    let sum = truth.thread(comm, reading.window)?;
    let blocked_ns = sum.blocked_ns();
    let off = account.blocked_ns as f64 / blocked_ns - 1.0;
    println!(
        "{comm}: exact (in truth) on CPU {:.2} ({:.2}), runnable {:.2} ({:.2}) ms",
        account.on_cpu_ns as f64 / 1e6,
        sum.cpu_ns / 1e6,
        account.runnable_ns as f64 / 1e6,
        sum.runnable_ns / 1e6
    );
    println!(
        "{comm}: blocked {:.2} ms exact, {:.2} ms in truth: {:+.3} %; {} waits",
        account.blocked_ns as f64 / 1e6,
        blocked_ns / 1e6,
        100.0 * off,
        account.blocked_count
    );
    ensure!(off.abs() <= EXACT, "{comm}: {:.2} % off", 100.0 * off);
    check_wall(reading, &account, comm)?;
    Ok(blocked_ns)
}

/// On-CPU + runnable + blocked = wall = the window.
fn check_wall(reading: &Reading, account: &ThreadAccount, comm: &str) -> Result<()> {
    let sum = (account.on_cpu_ns + account.runnable_ns + account.blocked_ns) as f64;
    let wall = account.wall_ns as f64;
    let window = reading.window.length_ns() as f64;
    println!(
        "{comm}: on CPU + runnable + blocked = {:.2} ms, wall {:.2} ms, window {:.2} ms",
        sum / 1e6,
        wall / 1e6,
        window / 1e6
    );
    ensure!(
        (sum / wall - 1.0).abs() <= EXACT,
        "{comm}: does not add up to wall time"
    );
    ensure!(
        (wall / window - 1.0).abs() <= EXACT,
        "{comm}: wall is not the window"
    );
    Ok(())
}

fn weight<'a>(stacks: impl Iterator<Item = &'a &'a Stack>) -> f64 {
    stacks.map(|stack| stack.weight as f64).sum()
}

/// These waits are long: all of them are to be there, so the samples are as exact as the account.
fn check_samples(comm: &str, stacks: &[&Stack], blocked_ns: f64) -> Result<()> {
    let sampled = weight(stacks.iter().filter(|stack| stack.wait_class == "blocked"));
    let off = sampled / blocked_ns - 1.0;
    println!(
        "{comm}: samples stand for {:.2} ms: {:+.3} %",
        sampled / 1e6,
        100.0 * off
    );
    ensure!(
        off.abs() <= EXACT,
        "{comm}: samples are {:.2} % off",
        100.0 * off
    );
    Ok(())
}

/// Whose wait is over has the stack it slept with.
fn check_chain(comm: &str, stacks: &[&Stack], body: &str, functions: &[&str]) -> Result<()> {
    let over = |stack: &&&Stack| stack.wait_class == "blocked" && stack.wait_extent.is_empty();
    let all = weight(stacks.iter().filter(over));
    let whole = weight(stacks.iter().filter(over).filter(|stack| {
        let holds = |function| stack.holds(&[body, "enter_wait", function]);
        functions.iter().any(|function| holds(*function))
    }));
    println!(
        "{comm}: {:.2} % of its waiting has the whole chain",
        100.0 * whole / all
    );
    ensure!(whole >= WHOLE_CHAINS * all, "{comm}: chains are not whole");
    Ok(())
}

/// A thread that never ran is blocked for the whole window, and nobody pretends to know its user stack.
fn check_never_runs(reading: &Reading, truth: &Truth, stacks: &[Stack]) -> Result<()> {
    let tid = truth.tid("never_runs")?;
    let account = reading.account(tid)?;
    let window = reading.window.length_ns();
    println!(
        "never_runs: blocked {:.2} ms of {:.2} ms",
        account.blocked_ns as f64 / 1e6,
        window as f64 / 1e6
    );
    ensure!((account.blocked_ns as f64 / window as f64 - 1.0).abs() <= EXACT);
    ensure!(account.on_cpu_ns == 0 && account.unfinished_ns == account.blocked_ns);
    let mine: Vec<_> = stacks.iter().filter(|stack| stack.tid == tid).collect();
    ensure!(
        mine.len() == 1,
        "{} samples of a thread that never ran",
        mine.len()
    );
    let [only] = mine.as_slice() else {
        unreachable!("its length was checked")
    };
    ensure!(
        only.wait_extent == "whole-window",
        "it is {:?}",
        only.wait_extent
    );
    ensure!(
        only.user.is_empty() && !only.kernel.is_empty(),
        "its stack is {only:?}"
    );
    Ok(())
}

pub(crate) fn runnable_when_two_share_a_cpu(lab: &Lab) -> Result<()> {
    let agent = Agent::start(lab, &[])?;
    let spinners = [
        Workload::start(lab, "spinner", &["spin_a"])?,
        Workload::start(lab, "spinner", &["spin_b"])?,
    ];
    let pids = [spinners[0].pid_text(), spinners[1].pid_text()];
    for spinner in &spinners {
        spinner.pin_to_cpu(0)?;
    }
    let arguments = ["-e", "offcpu", "-d", "3s", "-p", &pids[0], "-p", &pids[1]];
    let reading = agent.capture(lab, &arguments)?;
    reading.ledger(Event::OffCpu)?;
    for (spinner, comm) in spinners.into_iter().zip(["spin_a", "spin_b"]) {
        let (_, total_delay_ns) = schedstat(spinner.pid(), spinner.pid())?;
        let truth = spinner.finish()?;
        let account = reading.account(truth.tid(comm)?)?;
        let runnable_ns = truth.thread(comm, reading.window)?.runnable_ns;
        let off = (account.runnable_ns as f64 - runnable_ns) / reading.window.length_ns() as f64;
        println!(
            "{comm}: runnable {:.1} ms, {:.1} ms in truth (off by {:+.3} % of the window), {} times; on CPU {:.1} ms",
            account.runnable_ns as f64 / 1e6,
            runnable_ns / 1e6,
            100.0 * off,
            account.runnable_count,
            account.on_cpu_ns as f64 / 1e6
        );
        ensure!(account.runnable_ns > 0 && account.runnable_ns <= total_delay_ns * 2);
        ensure!(
            off.abs() <= EXACT,
            "{comm}: {:.2} % of the window off",
            100.0 * off
        );
        check_wall(&reading, &account, comm)?;
        let stacks = reading.stacks_of(Event::OffCpu, truth.pid)?;
        let sampled = weight(
            stacks
                .iter()
                .collect::<Vec<_>>()
                .iter()
                .filter(|stack| stack.wait_class == "runnable"),
        );
        println!(
            "{comm}: samples stand for {:.1} ms of being runnable",
            sampled / 1e6
        );
        ensure!(sampled > 0.0, "{comm}: no sample says runnable");
    }
    Ok(())
}
