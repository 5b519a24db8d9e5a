//! `cargo xtask reach`: how many stacks are whole, beside the targets. A missed target is shown and is no failure.
//!
//! What measures is a program of the crate in `xtask/bench`, see there and `tests/src/catalogue.rs`.

use std::fs;

use anyhow::{Context, Result, ensure};

use crate::{bench, build, packages, paths, process, test};

/// Measures how many stacks are whole; writes target/bench/reach.json.
#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    /// Length of each capture.
    #[arg(long, value_name = "SECONDS")]
    seconds: Option<u64>,
    /// Only workloads whose name contains this; may be repeated.
    #[arg(long, value_name = "NAME")]
    only: Vec<String>,
    /// Measure this one as well; may be repeated. Known: perf.
    #[arg(long, value_name = "PEER")]
    peer: Vec<String>,
    /// Show every figure, and the stacks that are not right.
    #[arg(long)]
    verbose: bool,
}

impl Args {
    pub(crate) fn run(self) -> Result<()> {
        ensure!(
            process::is_root()?,
            "captures load kernel programs: that needs root"
        );
        packages::ensure(test::PACKAGES)?;
        build::ensure()?;
        let folder = paths::target().join("bench");
        fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
        bench::copy_binaries(&folder)?;
        let mut command = process::cargo();
        command
            .args(["run", "--quiet", "--release", "-p", "profiler-bench"])
            .args(["--bin", "reach", "--"])
            .env("PROFILER_BIN_DIR", &folder)
            .arg("--out")
            .arg(folder.join("reach.json"));
        if let Some(seconds) = self.seconds {
            command.args(["--seconds", &seconds.to_string()]);
        }
        for name in &self.only {
            command.args(["--only", name]);
        }
        for peer in &self.peer {
            command.args(["--peer", peer]);
        }
        if self.verbose {
            command.arg("--verbose");
        }
        process::run(&mut command)
    }
}
