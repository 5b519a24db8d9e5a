//! `cargo xtask lint`: formatting and warnings, of the workspace and of the kernel programs.

use std::process::Command;

use anyhow::Result;

use crate::{ebpf, paths, process, setup};

/// Checks formatting and treats every warning as an error.
#[derive(clap::Args, Debug)]
pub(crate) struct Args {}

impl Args {
    pub(crate) fn run(self) -> Result<()> {
        process::heading("cargo fmt --check");
        process::run(format(&mut process::cargo()))?;
        process::run(
            format(&mut process::cargo())
                .arg("--manifest-path")
                .arg(paths::ebpf_manifest()),
        )?;
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

fn format(cargo: &mut Command) -> &mut Command {
    cargo.args(["fmt", "--all", "--check"])
}
