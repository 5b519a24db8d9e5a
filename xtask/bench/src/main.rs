//! What the profiler costs, measured on the live kernel and printed beside the targets. `cargo xtask bench` builds and
//! runs it; it is no test, and a target that is missed is no failure.
#![forbid(unsafe_code)]

mod agent_cost;
mod figure;
mod kernel_cost;
mod lab;
mod latency;
mod programs;
mod slowdown;
mod tables;
mod workload;

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use clap::{Parser, ValueEnum};

use figure::{Figure, table};
use lab::{Bench, Machine};

/// Measures what the profiler costs.
#[derive(Parser, Debug)]
#[command(name = "profiler-bench", version)]
struct Args {
    /// Shorter windows and fewer runs: to try the benchmark, not to quote it
    #[arg(long)]
    quick: bool,
    /// Only this group; may be repeated
    #[arg(long, value_name = "GROUP")]
    only: Vec<Group>,
    /// Kernel object with a program that does nothing, see empty.s
    #[arg(long, value_name = "PATH")]
    empty_program: PathBuf,
    /// The agent's example that builds the unwind tables of many files
    #[arg(long, value_name = "PATH")]
    unwind_sweep: Option<PathBuf>,
    /// Where to write the figures as JSON
    #[arg(long, value_name = "PATH")]
    out: PathBuf,
}

/// What can be measured on its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Group {
    /// Time per run of the kernel programs.
    Kernel,
    /// The agent's CPU time and memory.
    Agent,
    /// How much slower the profiled programs get.
    Slowdown,
    /// How long one waits for the first sample and for the pictures.
    Latency,
    /// What unwind tables take, and how soon they are there.
    Tables,
}

impl Group {
    fn measure(self, bench: &Bench) -> Result<Vec<Figure>> {
        match self {
            Self::Kernel => kernel_cost::measure(bench).context("time of the kernel programs"),
            Self::Agent => agent_cost::measure(bench).context("cost of the agent"),
            Self::Slowdown => slowdown::measure(bench).context("slowdown of workloads"),
            Self::Latency => latency::measure(bench).context("waiting times"),
            Self::Tables => tables::measure(bench).context("unwind tables"),
        }
    }
}

fn main() -> Result<()> {
    let args = Args::parse();
    ensure!(
        rustix::process::geteuid().is_root(),
        "the benchmark loads kernel programs and makes a loop device: that needs root"
    );
    let bench = Bench::new(args.quick, args.empty_program, args.unwind_sweep)?;
    let begin = Machine::now(args.quick)?;
    println!("{begin}");
    let mut figures = Vec::new();
    for group in Group::value_variants() {
        if args.only.is_empty() || args.only.contains(group) {
            eprintln!("==> measuring: {group:?}");
            figures.extend(group.measure(&bench)?);
        }
    }
    let end = Machine::now(args.quick)?;
    println!("{}", table(&figures));
    println!("{end}");
    let json = serde_json::json!({ "begin": begin, "end": end, "figures": figures });
    fs::write(&args.out, serde_json::to_vec_pretty(&json)?)
        .with_context(|| format!("cannot write {}", args.out.display()))?;
    println!("wrote {}", args.out.display());
    Ok(())
}
