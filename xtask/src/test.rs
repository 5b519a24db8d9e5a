//! `cargo xtask test`: every test there is, and one line that counts them.
//!
//! Unit and golden tests need no privilege. The end-to-end tests in `tests/` load kernel programs: as root they run,
//! otherwise they are reported as skipped. They use the release binaries, everything else the quick dev profile.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use crate::packages::{self, Package};
use crate::{build, process};

/// Runs all tests; those on the live kernel as root only.
#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    /// Arguments for the test programs, after `--`: a part of a test's name, for example.
    #[arg(last = true)]
    arguments: Vec<String>,
}

/// What the workloads of the end-to-end tests are built with and use.
pub(crate) const PACKAGES: &[Package] = &[
    Package {
        name: "gcc",
        why: "compiles the workloads of the end-to-end tests",
        proof: &["gcc"],
        elsewhere: "install gcc",
    },
    Package {
        name: "musl-tools",
        why: "musl-gcc, for workloads as on Alpine",
        // Elsewhere the tests do without.
        proof: &["musl-gcc", "gcc"],
        elsewhere: "install gcc",
    },
    Package {
        name: "e2fsprogs",
        why: "mkfs.ext4, for the disk of the I/O tests",
        proof: &["mkfs.ext4", "/sbin/mkfs.ext4", "/usr/sbin/mkfs.ext4"],
        elsewhere: "install e2fsprogs",
    },
    Package {
        name: "mount",
        why: "losetup and mount, for the same disk",
        proof: &["losetup", "/sbin/losetup", "/usr/sbin/losetup"],
        elsewhere: "install util-linux",
    },
    Package {
        name: "openssl",
        why: "makes the certificates of the TLS tests",
        proof: &["openssl"],
        elsewhere: "install openssl",
    },
];

impl Args {
    pub(crate) fn run(self) -> Result<()> {
        packages::ensure(PACKAGES)?;
        build::ensure()?;
        let mut command = process::cargo();
        command.args(["test", "--workspace", "--no-fail-fast"]);
        if process::is_root()? {
            command.env("PROFILER_E2E", "1");
        } else {
            process::heading(
                "not root: tests on the live kernel load programs into it and are skipped",
            );
        }
        command.arg("--").args(&self.arguments);
        let counts = run(&mut command)?;
        println!("{counts}");
        if counts.failed > 0 {
            bail!("{} tests failed", counts.failed);
        }
        Ok(())
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Counts {
    passed: u64,
    failed: u64,
    skipped: u64,
}

impl std::fmt::Display for Counts {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self {
            passed,
            failed,
            skipped,
        } = self;
        write!(out, "{passed} passed, {failed} failed, {skipped} skipped")
    }
}

impl Counts {
    /// Adds what the closing line of one test program says; other lines change nothing.
    fn add_line(&mut self, line: &str) {
        let Some(results) = line.trim().strip_prefix("test result: ") else {
            return;
        };
        // "ok. 3 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.00s"
        let numbers = results.split_once(". ").map_or("", |(_, numbers)| numbers);
        for part in numbers.split("; ") {
            match part.split_once(' ') {
                Some((number, "passed")) => self.passed += number.parse().unwrap_or(0),
                Some((number, "failed")) => self.failed += number.parse().unwrap_or(0),
                Some((number, "ignored")) => self.skipped += number.parse().unwrap_or(0),
                _ => {}
            }
        }
    }
}

/// Runs the tests, shows their output as it comes and counts the results.
fn run(command: &mut Command) -> Result<Counts> {
    process::heading(&process::describe(command));
    let mut child = command
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot start `{}`", process::describe(command)))?;
    let mut counts = Counts::default();
    if let Some(output) = child.stdout.take() {
        for line in BufReader::new(output).split(b'\n') {
            let line = line.context("cannot read the output of the tests")?;
            let line = String::from_utf8_lossy(&line);
            println!("{line}");
            counts.add_line(&line);
        }
    }
    let status = child.wait().context("cannot wait for the tests")?;
    if !status.success() && counts.failed == 0 {
        // A crashed test program or a compile error has no closing line.
        process::heading(
            "a test program did not build or ended without a result: counted as failed",
        );
        counts.failed = 1;
    }
    Ok(counts)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_add_up_over_test_programs() {
        let mut counts = Counts::default();
        counts.add_line("running 4 tests");
        counts.add_line("test result: ok. 3 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.00s");
        counts.add_line("test result: FAILED. 2 passed; 5 failed; 0 ignored; 0 measured; 7 filtered out; finished in 1.20s");
        assert_eq!(counts.to_string(), "5 passed, 5 failed, 1 skipped");
    }

    #[test]
    fn a_program_that_ends_without_a_result_counts_as_a_failure() {
        let counts = run(Command::new("sh").args(["-c", "echo test a; exit 101"])).unwrap();
        assert_eq!(counts.failed, 1);
    }

    #[test]
    fn a_failure_is_not_counted_twice() {
        let script = "echo 'test result: FAILED. 0 passed; 2 failed; 0 ignored'; exit 101";
        let counts = run(Command::new("sh").args(["-c", script])).unwrap();
        assert_eq!(counts.failed, 2);
    }
}
