//! How many stacks are whole, for `cargo xtask reach`: the workloads of the end-to-end tests, whose stacks are known to
//! the last frame, captured long enough for statistics and held against the targets.
#![forbid(unsafe_code)]

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Result, ensure};
use clap::{Parser, ValueEnum};
use profiler_tests::catalogue::{self, Work};
use profiler_tests::measure::{Measured, by_agent, by_perf};
use profiler_tests::{Agent, Build, Lab, Skipped};
use serde_json::json;

/// Measures how many stacks are whole.
#[derive(Parser, Debug)]
#[command(name = "reach", version)]
struct Args {
    /// Length of each capture
    #[arg(long, value_name = "SECONDS", default_value_t = 15)]
    seconds: u64,
    /// Samples a second and CPU
    #[arg(long, value_name = "HERTZ", default_value_t = 999)]
    hertz: u32,
    /// Only workloads whose name contains this; may be repeated
    #[arg(long, value_name = "NAME")]
    only: Vec<String>,
    /// Measure this one as well
    #[arg(long)]
    peer: Vec<Peer>,
    /// Show every figure of every workload
    #[arg(long)]
    verbose: bool,
    /// Where to write the figures as JSON
    #[arg(long, value_name = "PATH")]
    out: Option<PathBuf>,
}

/// Another profiler.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Peer {
    /// perf record --call-graph dwarf, with the deepest copies it makes.
    Perf,
}

/// Workloads that are captured at once, and the least percentage of whole stacks.
struct Row {
    works: Vec<Work>,
    target: f64,
}

/// Least percentage of the samples that the CPU time lets expect.
const TAKEN: f64 = 97.0;

fn rows() -> Vec<Row> {
    let row = |target, works: &[Work]| Row {
        works: works.to_vec(),
        target,
    };
    let c = |levels| catalogue::deep(levels, Build::Frameless);
    let built = |build| catalogue::deep(25, build);
    vec![
        row(99.5, &[c(20), c(25)]),
        row(99.5, &[c(120), c(123)]),
        row(99.5, &[c(200), catalogue::callbacks(Build::Frameless)]),
        row(99.0, &[c(490)]),
        row(99.5, &[catalogue::threads()]),
        row(99.5, &[catalogue::objects(), catalogue::rusty()]),
        row(99.0, &[catalogue::odd(), catalogue::interrupted()]),
        row(99.0, &[catalogue::jit(), catalogue::gopher()]),
        row(
            99.5,
            &[
                catalogue::plt(Build::Frameless),
                catalogue::plt(Build::BranchTracking),
            ],
        ),
        row(
            99.5,
            &[
                catalogue::plt(Build::BoundAtStart),
                catalogue::plt(Build::Lld),
            ],
        ),
        row(99.5, &[built(Build::Static), built(Build::StaticPie)]),
        row(99.5, &[built(Build::FixedAddress), built(Build::Gold)]),
        row(99.5, &[built(Build::Lld), built(Build::DebugFrame)]),
        row(
            99.5,
            &[
                built(Build::FramePointers),
                catalogue::callbacks(Build::Static),
            ],
        ),
        // Nobody can leave musl's libc by its own information: there is none.
        row(97.0, &[built(Build::Musl)]),
        row(99.0, &[catalogue::fork_storm(200)]),
        row(
            99.9,
            &[catalogue::many_stacks(200), catalogue::many_stacks(200)],
        ),
    ]
}

fn main() -> Result<()> {
    let args = Args::parse();
    ensure!(
        rustix::process::geteuid().is_root(),
        "captures load kernel programs: that needs root"
    );
    let lab = Lab::new()?;
    let agent = Agent::start(&lab, &[])?;
    let time = Duration::from_secs(args.seconds);
    let mut figures = Vec::new();
    println!("{HEADING}");
    for Row { mut works, target } in rows() {
        let wanted = |work: &Work| {
            args.only
                .iter()
                .any(|name| work.name.contains(name.as_str()))
        };
        works.retain(|work| args.only.is_empty() || wanted(work));
        if works.is_empty() {
            continue;
        }
        let mut show = |who: &str, measured: Result<Vec<Measured>>| -> Result<()> {
            for one in unless_skipped(who, &works, measured)? {
                print(who, &one, target, args.verbose);
                figures.push(figure(who, &one, target));
            }
            Ok(())
        };
        show("profiler", by_agent(&lab, &agent, &works, args.hertz, time))?;
        if args.peer.contains(&Peer::Perf) {
            show("perf", by_perf(&lab, &works, args.hertz, time))?;
        }
    }
    if let Some(path) = args.out {
        std::fs::write(&path, serde_json::to_vec_pretty(&figures)?)?;
        println!("wrote {}", path.display());
    }
    Ok(())
}

fn unless_skipped(
    who: &str,
    works: &[Work],
    measured: Result<Vec<Measured>>,
) -> Result<Vec<Measured>> {
    match measured {
        Err(error) if error.is::<Skipped>() => {
            let names: Vec<_> = works.iter().map(|work| work.name.as_str()).collect();
            println!("{:<9} {}: not measured, {error}", who, names.join(", "));
            Ok(Vec::new())
        }
        measured => measured,
    }
}

const HEADING: &str = "who       workload                    samples  taken %   root %  chain %  clean %  wrong  target %";

fn print(who: &str, one: &Measured, target: f64, verbose: bool) {
    let all = &one.score.all;
    let reached = if is_reached(one, target) {
        "reached"
    } else {
        "MISSED"
    };
    println!(
        "{who:<9} {:<26} {:>8} {:>8.1} {:>8.2} {:>8.2} {:>8.2} {:>6} {target:>9} {reached}",
        one.name,
        all.samples,
        one.taken_percent(),
        all.percent(all.rooted),
        all.percent(all.chained),
        all.percent(all.clean),
        all.wrong,
    );
    if verbose {
        println!("{}", one.report());
    }
}

fn is_reached(one: &Measured, target: f64) -> bool {
    let all = &one.score.all;
    all.percent(all.clean) >= target && all.wrong == 0 && one.taken_percent() >= TAKEN
}

fn figure(who: &str, one: &Measured, target: f64) -> serde_json::Value {
    let all = &one.score.all;
    json!({
        "who": who,
        "workload": one.name,
        "samples": all.samples,
        "taken_percent": one.taken_percent(),
        "root_percent": all.percent(all.rooted),
        "chain_percent": all.percent(all.chained),
        "clean_percent": all.percent(all.clean),
        "wrong": all.wrong,
        "share_error_points": one.share_error,
        "target_percent": target,
        "reached": is_reached(one, target),
    })
}
