//! Waits: exact per thread, and sampled with their stacks.

use anyhow::{Context, Result, ensure};
use profiler_proto::{Event, ThreadAccount};
use profiler_tests::{Agent, Lab, Reading, Stack, Sum, Truth, Workload, run};

/// Of what the workload recorded.
const EXACT: f64 = 0.01;
const WHOLE_CHAINS: f64 = 0.95;
/// A thread that loses its CPU to one that wakes up runs until the switch, which takes some microseconds in a
/// virtual machine. The scheduler's clock stands still meanwhile: its run delay, the truth, begins with the wake-up.
const SWITCH_NS: u64 = 50_000;

/// A thread of `waits`.
struct Waiter {
    comm: &'static str,
    body: &'static str,
    /// Its spans, and the function that each waits in.
    waits: &'static [(&'static str, &'static str)],
}

const WAITERS: &[Waiter] = &[
    Waiter {
        comm: "naps",
        body: "naps_body",
        waits: &[("nap", "nap")],
    },
    Waiter {
        comm: "locks",
        body: "locks_body",
        waits: &[("take_lock", "take_lock"), ("let_go", "nap")],
    },
    Waiter {
        comm: "pipes",
        body: "pipes_body",
        waits: &[("read_pipe", "read_pipe")],
    },
    Waiter {
        comm: "polls",
        body: "polls_body",
        waits: &[("poll_nothing", "poll_nothing")],
    },
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
    check_short_naps(&reading, &truth)?;
    for waiter in WAITERS {
        let waited = check_account(&reading, &truth, waiter)?;
        let tid = truth.tid(waiter.comm)?;
        let mine: Vec<_> = stacks.iter().filter(|stack| stack.tid == tid).collect();
        check_samples(waiter.comm, &mine, &waited, rung)?;
        check_chain(waiter, &mine)?;
    }
    check_never_runs(&reading, &truth, &stacks)
}

/// The account of a thread against its waits; returns those. What the hypervisor takes from a running thread
/// is no CPU time to the scheduler and no wait either, so the time outside the waits proves nothing.
fn check_account(reading: &Reading, truth: &Truth, waiter: &Waiter) -> Result<Sum> {
    let Waiter { comm, waits, .. } = waiter;
    let account = reading.account(truth.tid(comm)?)?;
    show(&account, &truth.thread(comm, reading.window)?, comm);
    let spans = waits
        .iter()
        .map(|(span, _)| truth.sum(span, reading.window));
    let waited: Sum = spans.sum();
    let off = account.blocked_ns as f64 / waited.blocked_ns() - 1.0;
    println!(
        "{comm}: blocked {:.2} ms in its waits, the account is off by {:+.3} %",
        waited.blocked_ns() / 1e6,
        100.0 * off
    );
    ensure!(off.abs() <= EXACT, "{comm}: {:.2} % off", 100.0 * off);
    check_wall(reading, &account, comm)?;
    Ok(waited)
}

fn show(account: &ThreadAccount, truth: &Sum, comm: &str) {
    println!(
        "{comm}: blocked {:.2} ms (truth {:.2}), runnable {:.2} ({:.2}), on CPU {:.2} ({:.2}), {} waits",
        account.blocked_ns as f64 / 1e6,
        truth.blocked_ns() / 1e6,
        account.runnable_ns as f64 / 1e6,
        truth.runnable_ns / 1e6,
        account.on_cpu_ns as f64 / 1e6,
        truth.cpu_ns / 1e6,
        account.blocked_count
    );
}

/// Of waits this short the way out of an idle CPU is a part that counts. The scheduler's clock, which the
/// truth goes by, stands still meanwhile and puts it down to the woken thread as CPU time. So what is known
/// is: not less than the scheduler says, not more than the naps took from call to return.
fn check_short_naps(reading: &Reading, truth: &Truth) -> Result<()> {
    let comm = "short_naps";
    let account = reading.account(truth.tid(comm)?)?;
    let sum = truth.thread(comm, reading.window)?;
    show(&account, &sum, comm);
    let naps = truth.sum("short_nap", reading.window);
    let (least, most) = (sum.blocked_ns(), naps.wall_ns - naps.runnable_ns);
    let blocked_ns = account.blocked_ns as f64;
    println!(
        "{comm}: blocked {:.2} ms, {:.2} to {:.2} in truth, in {} waits of {} naps",
        blocked_ns / 1e6,
        least / 1e6,
        most / 1e6,
        account.blocked_count,
        naps.whole
    );
    ensure!((1.0 - EXACT) * least <= blocked_ns && blocked_ns <= (1.0 + EXACT) * most);
    let seen = account.blocked_count as f64 / naps.whole as f64;
    ensure!((seen - 1.0).abs() <= EXACT, "{comm}: not one wait per nap");
    check_wall(reading, &account, comm)
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

/// These waits are long: all of them are to be there, so the samples are as exact as the account. Where stacks
/// are taken at switch-out, what a blocked thread waits for a CPU in the end is not known yet and not split off.
fn check_samples(comm: &str, stacks: &[&Stack], truth: &Sum, rung: &str) -> Result<()> {
    let sampled = weight(stacks.iter().filter(|stack| stack.wait_class == "blocked"));
    let least = truth.blocked_ns();
    let most = match rung {
        "switch-out" => least + truth.runnable_ns,
        _ => least,
    };
    println!(
        "{comm}: samples stand for {:.2} ms: {:+.3} % of the truth",
        sampled / 1e6,
        100.0 * (sampled / most - 1.0)
    );
    ensure!(
        (1.0 - EXACT) * least <= sampled && sampled <= (1.0 + EXACT) * most,
        "{comm}: samples stand for {:.2} ms, not {:.2} to {:.2}",
        sampled / 1e6,
        least / 1e6,
        most / 1e6
    );
    Ok(())
}

/// Whose wait is over has the stack it slept with.
fn check_chain(waiter: &Waiter, stacks: &[&Stack]) -> Result<()> {
    let Waiter { comm, body, waits } = waiter;
    let over = |stack: &&&Stack| stack.wait_class == "blocked" && stack.wait_extent.is_empty();
    let all = weight(stacks.iter().filter(over));
    let whole = weight(stacks.iter().filter(over).filter(|stack| {
        let mut functions = waits.iter().map(|(_, function)| *function);
        functions.any(|function| stack.holds(&[body, "enter_wait", function]))
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
        let truth = spinner.finish()?;
        let account = reading.account(truth.tid(comm)?)?;
        let (least, most) = truth.runnable_bounds(comm, reading.window)?;
        println!(
            "{comm}: runnable {:.1} ms, {:.1} to {:.1} in truth, {} times; on CPU {:.1} ms",
            account.runnable_ns as f64 / 1e6,
            least as f64 / 1e6,
            most as f64 / 1e6,
            account.runnable_count,
            account.on_cpu_ns as f64 / 1e6
        );
        let dated_early = (account.runnable_count * SWITCH_NS) as f64;
        let least = (1.0 - EXACT) * least as f64 - dated_early;
        let most = (1.0 + EXACT) * most as f64;
        let runnable_ns = account.runnable_ns as f64;
        ensure!(account.runnable_ns > 0 && account.runnable_count > 0);
        ensure!(
            least <= runnable_ns && runnable_ns <= most,
            "{comm}: runnable for {:.1} ms",
            runnable_ns / 1e6
        );
        check_wall(&reading, &account, comm)?;
        let stacks = reading.stacks_of(Event::OffCpu, truth.pid)?;
        let runnable = |stack: &&Stack| stack.wait_class == "runnable";
        let weights = stacks
            .iter()
            .filter(runnable)
            .map(|stack| stack.weight as f64);
        let sampled: f64 = weights.sum();
        println!(
            "{comm}: samples stand for {:.1} ms of being runnable",
            sampled / 1e6
        );
        ensure!(sampled > 0.0, "{comm}: no sample says runnable");
    }
    Ok(())
}
