//! `cargo xtask lint`: formatting and warnings, of the workspace and of the kernel programs.

use anyhow::Result;

use crate::{ebpf, paths, process, setup};

/// Checks formatting and treats every warning as an error.
#[derive(clap::Args, Debug)]
pub(crate) struct Args {}

impl Args {
    pub(crate) fn run(self) -> Result<()> {
        process::heading("cargo fmt --check");
        for workspace in [".", "profiler-ebpf", "fuzz"] {
            let manifest = paths::root().join(workspace).join("Cargo.toml");
            let mut format = process::cargo();
            format.args(["fmt", "--all", "--check", "--manifest-path"]);
            process::run(format.arg(manifest))?;
        }
        let toolchain = setup::ensure()?;
        process::heading("kernel programs without warnings");
        ebpf::build(&toolchain, &DENY_WARNINGS)?;
        process::heading("cargo clippy");
        process::run(process::cargo().args([
            "clippy",
            "--quiet",
            "--workspace",
            "--all-targets",
            "--",
            "-D",
            "warnings",
        ]))
    }
}

/// Cargo replays the warnings of what is already built, so nothing is compiled again for this.
const DENY_WARNINGS: [&str; 3] = ["-Zwarnings", "--config", "build.warnings=\"deny\""];
