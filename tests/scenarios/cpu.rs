//! CPU samples: where the time went, and whether every tick is accounted for.

use anyhow::{Result, ensure};
use profiler_proto::{Event, StackEnd};
use profiler_tests::{Agent, Lab, Reading, Stack, Workload, folded_lines, run};

/// From the root to the function that picks the part.
const CHAIN: &[&str] = &[
    "main",
    "serve",
    "accept_job",
    "parse_job",
    "check_job",
    "plan_job",
    "queue_job",
    "take_job",
    "run_job",
    "pick_part",
];
const PARTS: [&str; 3] = ["part_large", "part_middle", "part_small"];

/// In points of 100.
const SPLIT_TOLERANCE: f64 = 3.0;
const WHOLE_CHAINS: f64 = 0.95;
/// Of the samples that the CPU time and the ledger let expect.
const COUNT_TOLERANCE: f64 = 0.05;

pub(crate) fn split_and_call_chain(lab: &Lab) -> Result<()> {
    let agent = Agent::start(lab, &[])?;
    let workload = Workload::start(lab, "cpu_split", &[])?;
    let pid = workload.pid();
    let arguments = ["-e", "cpu", "-F", "999", "-d", "4s", "-p", &pid.to_string()];
    let reading = agent.capture(lab, &arguments)?;
    let truth = workload.finish()?;
    let stacks = reading.stacks_of(Event::Cpu, pid)?;
    ensure!(
        stacks.len() == reading.stacks(Event::Cpu)?.len(),
        "samples of others than process {pid}"
    );

    let all = count(&stacks, |_| true);
    let cpu_ns: Vec<f64> = PARTS
        .iter()
        .map(|part| truth.sum(part, reading.window).cpu_ns)
        .collect();
    let in_parts = count(&stacks, |stack| PARTS.iter().any(|part| stack.has(part)));
    for (part, part_ns) in PARTS.iter().zip(&cpu_ns) {
        let truth = 100.0 * part_ns / cpu_ns.iter().sum::<f64>();
        let sampled = 100.0 * count(&stacks, |stack| stack.has(part)) as f64 / in_parts as f64;
        println!("{part}: {sampled:.2} % of the samples, {truth:.2} % of the CPU time");
        ensure!(
            (sampled - truth).abs() <= SPLIT_TOLERANCE,
            "{part}: {sampled:.2} % instead of {truth:.2} %"
        );
    }

    let whole = count(&stacks, |stack| {
        PARTS
            .iter()
            .any(|part| stack.holds(&[CHAIN, &[part]].concat()))
    });
    println!("{whole} of {all} samples hold the whole chain in order");
    ensure!(whole as f64 >= WHOLE_CHAINS * all as f64);

    let all_cpu_ns = truth.thread("cpu_split", reading.window)?.cpu_ns;
    check_count(&reading, &stacks, 999, all_cpu_ns)
}

/// There are as many samples as the thread's CPU time makes at this frequency, less at most the ticks that the
/// ledger says were skipped: which of them would have hit the thread nobody knows.
fn check_count(reading: &Reading, stacks: &[Stack], hertz: u64, cpu_ns: f64) -> Result<()> {
    let ledger = reading.ledger(Event::Cpu)?;
    let all = count(stacks, |_| true);
    let weight: u64 = stacks.iter().map(|stack| stack.weight).sum();
    ensure!(
        all == ledger.delivered,
        "{all} samples, {} delivered",
        ledger.delivered
    );
    let skipped = ledger.expected.saturating_sub(ledger.observed) as f64;
    let most = (1.0 + COUNT_TOLERANCE) * cpu_ns * 1e-9 * hertz as f64;
    let least = (1.0 - COUNT_TOLERANCE) * cpu_ns * 1e-9 * hertz as f64 - skipped;
    println!(
        "{all} samples, {least:.0} to {most:.0} expected; {skipped} of {} ticks skipped; they stand for {:.3} s \
         of {:.3} s",
        ledger.expected,
        weight as f64 / 1e9,
        cpu_ns / 1e9
    );
    ensure!(
        least <= all as f64 && all as f64 <= most,
        "{all} samples instead of {least:.0} to {most:.0}"
    );
    Ok(())
}

pub(crate) fn whole_host_expects_every_tick(lab: &Lab) -> Result<()> {
    let agent = Agent::start(lab, &[])?;
    let workload = Workload::start(lab, "spinner", &[])?;
    let reading = agent.capture(lab, &["-e", "cpu", "-d", "2s"])?;
    let ledger = reading.ledger(Event::Cpu)?;
    let cpus = f64::from(reading.capture.facts.online_cpus);
    let ticks = cpus * 99.0 * reading.window.length_ns() as f64 / 1e9;
    println!(
        "{} ticks expected, {ticks:.1} by CPUs, 99 Hz and window; {} observed = {} idle + {} counted",
        ledger.expected, ledger.observed, ledger.idle, ledger.counted
    );
    // Each CPU's first tick may fall on either side.
    ensure!((ledger.expected as f64 - ticks).abs() <= cpus + 0.01 * ticks);
    ensure!(ledger.filtered == 0, "a target was not asked for");
    let spinning = reading.stacks_of(Event::Cpu, workload.pid())?;
    let found = count(&spinning, |stack| {
        stack.holds(&["main", "spin", "spin_inner"])
    });
    println!(
        "{found} samples in spin_inner of {} of the spinner",
        spinning.len()
    );
    ensure!(found > 0);
    Ok(())
}

pub(crate) fn deep_recursion_is_marked_cut(lab: &Lab) -> Result<()> {
    let agent = Agent::start(lab, &[])?;
    let workload = Workload::start(lab, "recursion", &[])?;
    let folder = lab.folder()?;
    let out = folder.join("deep.capture");
    let pid = workload.pid_text();
    let arguments = ["-e", "cpu", "-F", "499", "-d", "1s", "-p", &pid];
    run(&mut agent.record(lab, &arguments, &out)?)?.expect_written()?;
    let reading = Reading::open(&out)?;
    let stacks = reading.stacks_of(Event::Cpu, workload.pid())?;
    let all = count(&stacks, |_| true);
    let cut = count(&stacks, |stack| {
        stack.user_end == StackEnd::Cut && stack.holds(&["descend", "descend", "bottom"])
    });
    println!("{cut} of {all} stacks of 700 levels are marked as cut, leaf kept");
    ensure!(all > 0 && cut as f64 >= WHOLE_CHAINS * all as f64);
    let told = reading
        .ledger(Event::Cpu)?
        .user_stacks
        .get(&StackEnd::Cut)
        .copied();
    ensure!(told >= Some(cut), "the ledger tells {told:?}");

    let folded = run(&mut lab.profiler([
        "folded".as_ref(),
        out.as_os_str(),
        "-e".as_ref(),
        "cpu".as_ref(),
    ])?)?;
    folded.expect_code(0)?;
    let marked = folded_lines(&folded.stdout)?
        .into_iter()
        .filter(|(frames, _)| frames.get(1).is_some_and(|frame| frame == "[cut]"))
        .map(|(_, samples)| samples)
        .sum::<u64>();
    println!("{marked} samples begin with [cut] when folded");
    ensure!(
        marked >= cut,
        "cut stacks look whole when folded: {}",
        folded.stdout
    );
    Ok(())
}

/// A tick that lands in the kernel says who called it.
pub(crate) fn ticks_in_the_kernel_have_user_stacks(lab: &Lab) -> Result<()> {
    let agent = Agent::start(lab, &[])?;
    let workload = Workload::start(lab, "kernel_time", &[])?;
    let pid = workload.pid_text();
    let reading = agent.capture(lab, &["-e", "cpu", "-F", "499", "-d", "1s", "-p", &pid])?;
    let mut stacks = reading.stacks_of(Event::Cpu, workload.pid())?;
    let all = count(&stacks, |_| true);
    stacks.retain(|stack| !stack.kernel.is_empty());
    let kernel = count(&stacks, |_| true);
    let whole = count(&stacks, |stack| {
        stack.holds(&["main", "drain", "drain_once"])
    });
    println!("{kernel} of {all} samples are in the kernel, {whole} of them called from drain_once");
    ensure!(2 * kernel > all, "the workload spends its time elsewhere");
    ensure!(whole as f64 >= WHOLE_CHAINS * kernel as f64);
    Ok(())
}

fn count(stacks: &[Stack], keep: impl Fn(&Stack) -> bool) -> u64 {
    let kept = stacks.iter().filter(|stack| keep(stack));
    kept.map(|stack| stack.count).sum()
}
