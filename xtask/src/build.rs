//! `cargo xtask build`: release binaries of the command line and the agent.

use anyhow::Result;

use crate::{ebpf, paths, process};

/// Builds target/release/profiler and target/release/profiler-agent.
#[derive(clap::Args, Debug)]
pub(crate) struct Args {}

impl Args {
    pub(crate) fn run(self) -> Result<()> {
        ensure()?;
        let release = paths::release();
        process::heading(&format!(
            "built {} and profiler-agent beside it",
            release.join("profiler").display()
        ));
        Ok(())
    }
}

/// Sets up, compiles the kernel programs and builds both binaries.
pub(crate) fn ensure() -> Result<()> {
    ebpf::ensure()?;
    process::run(process::cargo().args([
        "build",
        "--release",
        "-p",
        "profiler-cli",
        "-p",
        "profiler-agent",
    ]))
}
