//! `cargo xtask bench`: what the profiler costs, beside the targets. A missed target is shown and is no failure.
//!
//! What measures is the crate in `xtask/bench`: it reads captures and loads a kernel program, which xtask itself, the
//! first thing that is built on a fresh machine, has no need of.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::{build, compiler, packages, paths, process, test};

/// Measures what the profiler costs; writes target/bench/bench.json.
#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    /// Shorter windows and fewer runs: to try the benchmark, not to quote it.
    #[arg(long)]
    quick: bool,
    /// Only this group (kernel, agent, slowdown, latency or tables); may be repeated.
    #[arg(long, value_name = "GROUP")]
    only: Vec<String>,
}

impl Args {
    pub(crate) fn run(self) -> Result<()> {
        ensure!(
            process::is_root()?,
            "the benchmark loads kernel programs and makes a loop device: that needs root"
        );
        // It uses the workloads and disks of the end-to-end tests.
        packages::ensure(test::PACKAGES)?;
        build::ensure()?;
        let folder = paths::target().join("bench");
        fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
        copy_binaries(&folder)?;
        let empty_program = assemble_empty_program(&folder)?;
        let mut command = process::cargo();
        command
            .args(["run", "--quiet", "--release", "-p", "profiler-bench"])
            .args(["--bin", "profiler-bench", "--"])
            .env("PROFILER_BIN_DIR", &folder)
            .arg("--empty-program")
            .arg(empty_program)
            .arg("--unwind-sweep")
            .arg(build_unwind_sweep()?)
            .arg("--out")
            .arg(folder.join("bench.json"));
        if self.quick {
            command.arg("--quick");
        }
        for group in &self.only {
            command.args(["--only", group]);
        }
        process::run(&mut command)
    }
}

/// A build while it measures must not change what is measured.
pub(crate) fn copy_binaries(folder: &Path) -> Result<()> {
    for name in ["profiler", "profiler-agent"] {
        let (from, to) = (paths::release().join(name), folder.join(name));
        fs::copy(&from, &to)
            .with_context(|| format!("cannot copy {} to {}", from.display(), to.display()))?;
    }
    Ok(())
}

/// The agent's example that builds the unwind tables of many files and says how long it took.
fn build_unwind_sweep() -> Result<PathBuf> {
    const EXAMPLE: &str = "unwind_sweep";
    let mut command = process::cargo();
    command.args([
        "build",
        "--quiet",
        "--release",
        "-p",
        "profiler-agent",
        "--example",
    ]);
    process::run(command.arg(EXAMPLE))?;
    Ok(paths::release().join("examples").join(EXAMPLE))
}

/// The kernel program that does nothing, by LLVM's assembler, which comes with what bpf-linker is built with.
fn assemble_empty_program(folder: &Path) -> Result<PathBuf> {
    let object = folder.join("empty.bpf.o");
    let assembler = format!("/usr/lib/llvm-{}/bin/llvm-mc", compiler::LLVM);
    let mut command = Command::new(assembler);
    command
        .args(["-triple", "bpfel", "-filetype", "obj", "-o"])
        .arg(&object)
        .arg(paths::root().join("xtask/bench/empty.s"));
    process::run(&mut command)?;
    Ok(object)
}
