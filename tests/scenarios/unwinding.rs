//! Whole stacks of programs without frame pointers, to the last frame. Floors are lower than what `cargo xtask reach`
//! holds against the targets: these captures are short, and the machine may be busy.

use std::time::Duration;

use anyhow::{Result, ensure};
use profiler_proto::{Event, StackEnd, UnwindMethod};
use profiler_tests::catalogue::{self, Work, available};
use profiler_tests::measure::{Measured, by_agent};
use profiler_tests::score::Score;
use profiler_tests::{Agent, Build, Lab, LoopDisk, skip};

const HERTZ: u32 = 999;
const TIME: Duration = Duration::from_secs(3);

/// Percent of the samples that are whole and hold nothing else.
const CLEAN: f64 = 97.0;
/// Percent that may be wrong without saying so.
const WRONG: f64 = 0.3;
/// Percent of the samples that the CPU time lets expect; a busy virtual machine skips ticks.
const TAKEN: f64 = 85.0;
/// Percent of the samples that are walked by tables, once they are there; copies are for new processes.
const BY_TABLES: f64 = 80.0;
/// Points that a chain's share of the samples may be off.
const SHARES: f64 = 8.0;

pub(crate) fn c_and_libc(lab: &Lab) -> Result<()> {
    let works = vec![
        catalogue::deep(20, Build::Frameless),
        catalogue::deep(123, Build::Frameless),
        catalogue::callbacks(Build::Frameless),
    ];
    for one in check(lab, works)? {
        let percent = one.walked_percent(UnwindMethod::Tables);
        ensure!(
            percent >= BY_TABLES,
            "{}: {percent:.1} % by tables",
            one.name
        );
    }
    Ok(())
}

pub(crate) fn recursion(lab: &Lab) -> Result<()> {
    let deep = |levels| catalogue::deep(levels, Build::Frameless);
    check(lab, vec![deep(200), deep(490)])?;
    Ok(())
}

/// Deeper than what is kept: said to be cut, and right as far as it goes.
pub(crate) fn too_deep_is_cut(lab: &Lab) -> Result<()> {
    let agent = Agent::start(lab, &[])?;
    let work = catalogue::deep(600, Build::Frameless);
    for one in by_agent(lab, &agent, &[work], HERTZ, TIME)? {
        println!("{}", one.report());
        let cut = one.ends.get(&StackEnd::Cut).copied().unwrap_or(0);
        let all = one.score.all;
        ensure!(
            all.percent(cut) >= CLEAN,
            "{cut} of {} are cut",
            all.samples
        );
        ensure!(all.percent(all.wrong) <= WRONG, "{} are wrong", all.wrong);
    }
    Ok(())
}

pub(crate) fn threads(lab: &Lab) -> Result<()> {
    check(lab, vec![catalogue::threads()])?;
    Ok(())
}

pub(crate) fn cpp_and_rust(lab: &Lab) -> Result<()> {
    check(lab, vec![catalogue::objects(), catalogue::rusty()])?;
    Ok(())
}

pub(crate) fn odd_frames(lab: &Lab) -> Result<()> {
    check(lab, vec![catalogue::odd(), catalogue::interrupted()])?;
    Ok(())
}

pub(crate) fn linkage_tables(lab: &Lab) -> Result<()> {
    let builds = [
        Build::Frameless,
        Build::BranchTracking,
        Build::BoundAtStart,
        Build::Gold,
        Build::Lld,
    ];
    check(lab, builds.map(catalogue::plt).to_vec())?;
    Ok(())
}

pub(crate) fn every_kind_of_file(lab: &Lab) -> Result<()> {
    let builds = [
        Build::FramePointers,
        Build::FixedAddress,
        Build::Static,
        Build::StaticPie,
        Build::Gold,
        Build::Lld,
        Build::DebugFrame,
        Build::Musl,
    ];
    check(lab, builds.map(|build| catalogue::deep(25, build)).to_vec())?;
    Ok(())
}

pub(crate) fn code_made_at_run_time(lab: &Lab) -> Result<()> {
    check(lab, vec![catalogue::jit()])?;
    Ok(())
}

pub(crate) fn go(lab: &Lab) -> Result<()> {
    check(lab, vec![catalogue::gopher()])?;
    Ok(())
}

pub(crate) fn processes_of_two_milliseconds(lab: &Lab) -> Result<()> {
    check(lab, vec![catalogue::fork_storm(100)])?;
    Ok(())
}

pub(crate) fn many_different_stacks(lab: &Lab) -> Result<()> {
    check(lab, vec![catalogue::many_stacks(200)])?;
    Ok(())
}

/// Those that this machine can compile, all at once.
fn check(lab: &Lab, works: Vec<Work>) -> Result<Vec<Measured>> {
    let works = available(lab, works)?;
    if works.is_empty() {
        return Err(skip("no compiler for it"));
    }
    let agent = Agent::start(lab, &[])?;
    let measured = by_agent(lab, &agent, &works, HERTZ, TIME)?;
    for one in &measured {
        println!("{}", one.report());
    }
    let failures: Vec<_> = measured.iter().filter_map(failure).collect();
    ensure!(failures.is_empty(), "{}", failures.join("; "));
    Ok(measured)
}

fn failure(one: &Measured) -> Option<String> {
    let all = &one.score.all;
    let too_low = |what: &str, percent: f64, least: f64| {
        (percent < least).then(|| format!("{}: {percent:.2} % {what}", one.name))
    };
    too_low("of the samples are clean", all.percent(all.clean), CLEAN)
        .or_else(|| {
            let right = 100.0 - all.percent(all.wrong);
            too_low("are right or say they are not", right, 100.0 - WRONG)
        })
        .or_else(|| too_low("of the samples were taken", one.taken_percent(), TAKEN))
        .or_else(|| {
            let off = one.share_error;
            (off > SHARES).then(|| format!("{}: shares are {off:.1} points off", one.name))
        })
}

/// Waits end below libc, whose functions keep no frame pointer.
pub(crate) fn waits(lab: &Lab) -> Result<()> {
    let agent = Agent::start(lab, &[])?;
    let work = catalogue::waits();
    let workload = work.start(lab)?;
    let pid = workload.pid();
    let reading = agent.capture(lab, &["-e", "offcpu", "-d", "3s", "-p", &pid.to_string()])?;
    workload.finish()?;
    let mut waits = reading.walked(Event::OffCpu, |who| who.pid == pid)?;
    // A wait that has not ended has no user part that could be walked.
    waits.retain(|wait| wait.end != StackEnd::NotRunning);
    let samples: Vec<_> = waits.into_iter().map(|wait| wait.observed).collect();
    clean(&Score::of(&work.expected, &samples), "waits")
}

pub(crate) fn requests(lab: &Lab) -> Result<()> {
    let agent = Agent::start(lab, &[])?;
    let disk = LoopDisk::new(&lab.folder()?, 64)?;
    let work = catalogue::disk_writer(&disk.path().join("data").to_string_lossy());
    let workload = work.start(lab)?;
    let pid = workload.pid();
    let reading = agent.capture(lab, &["-e", "io", "-d", "3s", "-p", &pid.to_string()])?;
    workload.finish()?;
    let requests = reading.walked(Event::Io, |who| who.pid == pid)?;
    let samples: Vec<_> = requests.into_iter().map(|one| one.observed).collect();
    clean(&Score::of(&work.expected, &samples), "requests")
}

fn clean(score: &Score, what: &str) -> Result<()> {
    let all = &score.all;
    let percent = all.percent(all.clean);
    println!("{percent:.2} % of {} {what} are clean", all.samples);
    for (stack, count) in &score.unclean {
        println!("    {count} x {stack}");
    }
    ensure!(all.samples > 50, "only {} {what}", all.samples);
    ensure!(percent >= CLEAN, "{percent:.2} % of the {what} are clean");
    Ok(())
}
