//! One guest: its initramfs, its run under qemu, and what it leaves behind.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::archive::recreate;
use super::cpio::Cpio;
use super::kernel::Kernel;
use crate::{paths, process};

const INIT: &str = include_str!("../../../tests/vm/init.sh");
const SMOKE: &str = include_str!("../../../tests/vm/smoke.sh");

/// Boot takes about 10 s and the script about 60 s under emulation on two slow cores.
const LIMIT: Duration = Duration::from_secs(300);

/// What the steps of the script left, by name: see tests/vm/smoke.sh.
pub(crate) struct Results {
    folder: PathBuf,
}

/// One step of the script.
#[derive(Debug)]
pub(crate) struct Step {
    pub(crate) code: i32,
    pub(crate) output: String,
    pub(crate) messages: String,
}

impl Results {
    /// A step that came to its end; None when the guest did not get that far.
    pub(crate) fn step(&self, name: &str) -> Option<Step> {
        let read = |part: &str| {
            let bytes = fs::read(self.folder.join(format!("{name}.{part}"))).ok()?;
            Some(String::from_utf8_lossy(&bytes).into_owned())
        };
        Some(Step {
            code: read("code")?.trim().parse().ok()?,
            output: read("out")?,
            messages: read("err")?,
        })
    }

    #[cfg(test)]
    pub(crate) fn in_folder(folder: &Path) -> Self {
        Self {
            folder: folder.to_owned(),
        }
    }
}

/// Boots the kernel, runs the script and waits for the guest to end.
pub(crate) fn run(kernel: &Kernel, busybox: &Path) -> Result<Results> {
    let initramfs = kernel.folder().join("initramfs");
    fs::write(&initramfs, build_initramfs(kernel, busybox)?)
        .with_context(|| format!("cannot write {}", initramfs.display()))?;
    let folder = kernel.folder().join("results");
    recreate(&folder)?;
    let console = console(kernel);
    let log =
        File::create(&console).with_context(|| format!("cannot write {}", console.display()))?;
    let mut qemu = command(kernel, &initramfs, &folder);
    qemu.stdin(Stdio::null())
        .stderr(log.try_clone().context("cannot share the console's file")?)
        .stdout(log);
    let child = qemu
        .spawn()
        .with_context(|| format!("cannot start `{}`", process::describe(&qemu)))?;
    wait(child).with_context(|| format!("the guest's console is in {}", console.display()))?;
    Ok(Results { folder })
}

/// What the guest says on its serial port.
fn console(kernel: &Kernel) -> PathBuf {
    kernel.folder().join("console.log")
}

/// Whether the guest died of a breakpoint where there is none. The kernel switches a tracepoint on and off by putting
/// one over its code for a moment, and qemu's emulation of a second processor may still see it afterwards.
pub(crate) fn tripped_over_patching(kernel: &Kernel) -> bool {
    fs::read(console(kernel))
        .is_ok_and(|text| String::from_utf8_lossy(&text).contains("Oops: int3"))
}

fn build_initramfs(kernel: &Kernel, busybox: &Path) -> Result<Vec<u8>> {
    let mut archive = Cpio::new();
    for folder in ["bin", "proc", "sys", "dev", "host", "modules"] {
        archive.folder(folder);
    }
    archive.file("bin/busybox", &read(busybox)?);
    let release = paths::release().display().to_string();
    archive.file("init", INIT.replace("@RELEASE@", &release).as_bytes());
    archive.file("smoke.sh", SMOKE.as_bytes());
    for module in kernel.modules()? {
        let name = module.file_name().unwrap_or_default().to_string_lossy();
        archive.file(&format!("modules/{name}"), &read(&module)?);
    }
    Ok(archive.finish())
}

fn read(file: &Path) -> Result<Vec<u8>> {
    fs::read(file).with_context(|| format!("cannot read {}", file.display()))
}

/// Emulation only: KVM is not to be had everywhere, and the results must not depend on it.
fn command(kernel: &Kernel, initramfs: &Path, results: &Path) -> Command {
    let mut qemu = Command::new("qemu-system-x86_64");
    qemu.args(["-accel", "tcg,thread=multi", "-cpu", "max", "-M", "q35"])
        .args(["-smp", "2", "-m", "1024"])
        .args(["-nographic", "-no-reboot", "-nodefaults"])
        .args(["-serial", "stdio"])
        .arg("-kernel")
        .arg(kernel.image())
        .arg("-initrd")
        .arg(initramfs)
        .args(["-append", "console=ttyS0 panic=-1 quiet"])
        .args(["-virtfs", &share(Path::new("/"), "host", ",readonly=on")])
        .args(["-virtfs", &share(results, "results", "")]);
    qemu
}

fn share(folder: &Path, tag: &str, more: &str) -> String {
    // A comma ends a value; doubled, it stands for itself.
    let folder = folder.display().to_string().replace(',', ",,");
    format!("local,path={folder},mount_tag={tag},security_model=none,multidevs=remap{more}")
}

fn wait(mut child: Child) -> Result<()> {
    let start = Instant::now();
    while start.elapsed() < LIMIT {
        if let Some(status) = child.try_wait().context("cannot wait for qemu")? {
            if status.success() {
                return Ok(());
            }
            bail!("qemu failed: {status}");
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    child.kill().context("cannot end qemu")?;
    child.wait().context("cannot wait for qemu")?;
    bail!("the guest did not end within {LIMIT:?}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_without_a_code_did_not_end() {
        let folder = tempfile::tempdir().unwrap();
        let results = Results::in_folder(folder.path());
        fs::write(folder.path().join("doctor.out"), "{}").unwrap();
        fs::write(folder.path().join("doctor.err"), "").unwrap();
        assert!(results.step("doctor").is_none());
        fs::write(folder.path().join("doctor.code"), "3\n").unwrap();
        let step = results.step("doctor").unwrap();
        assert_eq!((step.code, step.output.as_str()), (3, "{}"));
    }

    #[test]
    fn a_comma_in_a_path_is_doubled() {
        assert!(share(Path::new("/a,b"), "t", "").starts_with("local,path=/a,,b,mount_tag=t,"));
    }
}
