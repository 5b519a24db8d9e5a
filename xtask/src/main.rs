//! `cargo xtask`: builds, tests and checks the project. One file per command; `setup` is part of those that need it.
#![forbid(unsafe_code)]

mod bench;
mod build;
mod check;
mod compiler;
mod deny;
mod ebpf;
mod lint;
mod packages;
mod paths;
mod process;
mod reach;
mod record;
mod setup;
mod test;
mod test_vm;
mod tools;
mod vm;

use std::process::ExitCode;

use anyhow::Result;
use clap::Parser;

/// Builds, tests and checks the project.
#[derive(Parser, Debug)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
enum Command {
    Setup(setup::Args),
    Ebpf(ebpf::Args),
    Build(build::Args),
    Record(record::Args),
    Bench(bench::Args),
    Reach(reach::Args),
    Test(test::Args),
    TestVm(test_vm::Args),
    Check(check::Args),
    Deny(deny::Args),
    Lint(lint::Args),
}

fn main() -> ExitCode {
    match run(Command::parse()) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command) -> Result<ExitCode> {
    match command {
        Command::Setup(args) => args.run()?,
        Command::Ebpf(args) => args.run()?,
        Command::Build(args) => args.run()?,
        Command::Record(args) => return args.run().map(ExitCode::from),
        Command::Bench(args) => args.run()?,
        Command::Reach(args) => args.run()?,
        Command::Test(args) => args.run()?,
        Command::TestVm(args) => args.run()?,
        Command::Check(args) => args.run()?,
        Command::Deny(args) => args.run()?,
        Command::Lint(args) => args.run()?,
    }
    Ok(ExitCode::SUCCESS)
}
