//! `cargo xtask test-vm`: a smoke capture on every kernel of the matrix; writes tests/vm/README.md.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};

use crate::packages::{self, Package};
use crate::vm::archive::{Archive, recreate};
use crate::vm::guest;
use crate::vm::kernel::Kernel;
use crate::vm::outcome::Outcome;
use crate::vm::report;
use crate::{build, paths, process};

/// Long-term kernels in use, what the newest Debian boots, and the newest the kernel programs are known to load on.
const LINES: [&str; 5] = ["5.10", "6.1", "6.12", "6.18", "7.2"];

/// Boots Debian's kernels under qemu and captures all events in each.
#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    /// Only this line, as 6.1; can be given several times.
    #[arg(long, value_name = "LINE")]
    kernel: Vec<String>,
    /// Look for newer kernels than those fetched before.
    #[arg(long)]
    refresh: bool,
    /// Only boot: neither builds nor captures.
    #[arg(long)]
    boot_only: bool,
}

const PACKAGES: &[Package] = &[
    Package {
        name: "gcc",
        why: "compiles the program without frame pointers that the guests unwind",
        proof: &["gcc"],
        elsewhere: "install gcc",
    },
    Package {
        name: "qemu-system-x86",
        why: "emulates the machines the kernels boot on",
        proof: &["qemu-system-x86_64"],
        elsewhere: "install qemu for x86_64",
    },
    Package {
        name: "kmod",
        why: "depmod, for the order of kernel modules",
        proof: &["/sbin/depmod"],
        elsewhere: "install kmod",
    },
    Package {
        name: "xz-utils",
        why: "unpacks kernel modules",
        proof: &["xz"],
        elsewhere: "install xz",
    },
    Package {
        name: "zstd",
        why: "unpacks kernel modules",
        proof: &["zstd"],
        elsewhere: "install zstd",
    },
    Package {
        name: "dpkg",
        why: "unpacks Debian's kernels",
        proof: &["dpkg-deb"],
        elsewhere: "install dpkg",
    },
    Package {
        name: "apt",
        why: "fetches Debian's kernels",
        proof: &["apt-get"],
        elsewhere: "install apt, with the keys of Debian's archive",
    },
];

impl Args {
    pub(crate) fn run(self) -> Result<()> {
        ensure!(
            std::env::consts::ARCH == "x86_64",
            "the guests run this machine's binaries on amd64 kernels; this machine is {}",
            std::env::consts::ARCH
        );
        packages::ensure(PACKAGES)?;
        if !self.boot_only {
            build::ensure()?;
            compile_deep()?;
        }
        let machines = Machines::prepare(&self.lines(), self.refresh)?;
        let mut failed = Vec::new();
        for kernel in &machines.kernels {
            let outcome = self.try_kernel(kernel, &machines.busybox)?;
            if !outcome.passed() {
                failed.push(kernel.line.as_str());
            }
        }
        if !self.boot_only {
            write_page()?;
        }
        if !failed.is_empty() {
            bail!("failed on {}", failed.join(", "));
        }
        Ok(())
    }

    fn lines(&self) -> Vec<String> {
        if self.kernel.is_empty() {
            return LINES.map(str::to_owned).to_vec();
        }
        self.kernel.clone()
    }

    fn try_kernel(&self, kernel: &Kernel, busybox: &Path) -> Result<Outcome> {
        process::heading(&format!("booting {}", kernel.release));
        let results =
            guest::run(kernel, busybox).with_context(|| format!("kernel {}", kernel.release))?;
        if self.boot_only {
            let outcome = Outcome::of_boot(&kernel.release, &results);
            print(&outcome);
            return Ok(outcome);
        }
        let mut outcome = Outcome::of_smoke(&kernel.release, &results);
        if !outcome.passed() && guest::tripped_over_patching(kernel) {
            process::heading(
                "booting it again: the emulated processor tripped over code that the kernel was patching",
            );
            let results = guest::run(kernel, busybox)
                .with_context(|| format!("kernel {}", kernel.release))?;
            outcome = Outcome::of_smoke(&kernel.release, &results);
        }
        print(&outcome);
        let file = outcome_file(&kernel.line);
        fs::write(&file, serde_json::to_vec_pretty(&outcome)?)
            .with_context(|| format!("cannot write {}", file.display()))?;
        Ok(outcome)
    }
}

/// The program without frame pointers that tests/vm/smoke.sh captures. It needs no library: those of the guests lie on
/// a network file system.
fn compile_deep() -> Result<()> {
    fs::create_dir_all(folder()).context("cannot make the folder of the guests")?;
    let source = paths::root().join("tests/workloads/deep.c");
    let mut gcc = Command::new("gcc");
    gcc.args(["-O2", "-fomit-frame-pointer", "-static", "-pthread", "-o"]);
    process::run(gcc.arg(folder().join("deep")).arg(source))
}

fn print(outcome: &Outcome) {
    let verdict = if outcome.passed() { "passed" } else { "FAILED" };
    println!("{verdict} {}", outcome.release);
    for (event, rung) in &outcome.rungs {
        println!("       {event}: {rung}");
    }
    for failure in &outcome.failures {
        println!("       {failure}");
    }
}

/// What the guests are made of.
struct Machines {
    kernels: Vec<Kernel>,
    busybox: PathBuf,
}

impl Machines {
    /// Takes what was fetched before, and fetches the rest.
    fn prepare(lines: &[String], refresh: bool) -> Result<Self> {
        let folder = folder();
        let busybox = folder.join("busybox/usr/bin/busybox");
        let mut archive = None;
        let mut kernels = Vec::new();
        for line in lines {
            let prepared = Kernel::prepared(line, &folder).filter(|_| !refresh);
            kernels.push(match prepared {
                Some(kernel) => kernel,
                None => Kernel::fetch(line, &folder, opened(&mut archive)?)?,
            });
        }
        if !busybox.exists() {
            let into = folder.join("busybox");
            recreate(&into)?;
            opened(&mut archive)?.unpack(&["busybox-static".to_owned()], &into)?;
        }
        Ok(Self { kernels, busybox })
    }
}

/// The archive, opened when it is needed first.
fn opened(archive: &mut Option<Archive>) -> Result<&Archive> {
    if archive.is_none() {
        *archive = Some(Archive::open(&folder().join("apt"))?);
    }
    archive.as_ref().context("the archive was just opened")
}

fn folder() -> PathBuf {
    paths::target().join("vm")
}

fn outcome_file(line: &str) -> PathBuf {
    folder().join(line).join("outcome.json")
}

/// Writes the table when there is an outcome for every line, from this run or an earlier one.
fn write_page() -> Result<()> {
    let mut outcomes = Vec::new();
    for line in LINES {
        let Ok(text) = fs::read_to_string(outcome_file(line)) else {
            process::heading(&format!(
                "tests/vm/README.md not written: {line} was never tried"
            ));
            return Ok(());
        };
        let outcome: Outcome = serde_json::from_str(&text)
            .with_context(|| format!("cannot read {}", outcome_file(line).display()))?;
        outcomes.push(outcome);
    }
    let page = paths::root().join("tests/vm/README.md");
    fs::write(&page, report::page(&outcomes))
        .with_context(|| format!("cannot write {}", page.display()))?;
    process::heading("wrote tests/vm/README.md");
    Ok(())
}
