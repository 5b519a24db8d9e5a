//! Pieces of the host that a test takes and gives back, also when it fails.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use rustix::mount::{MountFlags, UnmountFlags, mount, mount_remount, unmount};

use crate::kernel::until;
use crate::run;

/// Long enough for the kernel to let go of something.
const LETS_GO: Duration = Duration::from_secs(10);

/// A mounted file system.
#[derive(Debug)]
struct Mounted(PathBuf);

impl Drop for Mounted {
    fn drop(&mut self) {
        let unmounted = until(LETS_GO, || {
            Ok(unmount(&self.0, UnmountFlags::empty()).is_ok())
        });
        if unmounted.is_err() {
            eprintln!("cannot unmount {}: it stays", self.0.display());
        }
    }
}

/// A loop device.
#[derive(Debug)]
struct Loop(String);

impl Drop for Loop {
    fn drop(&mut self) {
        let detached = run(tool("losetup").args(["--detach", &self.0]));
        if !detached.is_ok_and(|done| done.code == 0) {
            eprintln!("cannot detach {}: it stays", self.0);
        }
    }
}

/// An ext4 file system on a loop device of its own.
#[derive(Debug)]
pub struct LoopDisk {
    // In the order they are given back.
    mounted: Mounted,
    device: Loop,
}

impl LoopDisk {
    /// Makes one; its image and its mount point are in `folder`.
    ///
    /// # Errors
    /// Fails where the tools are missing or the kernel refuses.
    pub fn new(folder: &Path, size_mib: u64) -> Result<Self> {
        let image = folder.join("disk.img");
        fs::File::create(&image)?.set_len(size_mib << 20)?;
        let attached = run(tool("losetup").args(["--find", "--show"]).arg(&image))?;
        attached.expect_code(0)?;
        let device = Loop(attached.stdout.trim().to_owned());
        run(tool("mkfs.ext4").args(["-q", "-F", &device.0]))?.expect_code(0)?;
        let point = folder.join("disk");
        fs::create_dir(&point)?;
        mount(&device.0, &point, "ext4", MountFlags::NOATIME, None)
            .with_context(|| format!("cannot mount {}", device.0))?;
        Ok(Self {
            mounted: Mounted(point),
            device,
        })
    }

    /// Where it is mounted.
    pub fn path(&self) -> &Path {
        &self.mounted.0
    }

    /// Name of the device, such as `loop0`.
    pub fn name(&self) -> &str {
        self.device.0.trim_start_matches("/dev/")
    }
}

/// A file system in memory, of a size that is soon full.
#[derive(Debug)]
pub struct Tmpfs(Mounted);

impl Tmpfs {
    /// Mounts one on a new directory.
    ///
    /// # Errors
    /// Fails where the kernel refuses.
    pub fn new(point: &Path, size_kib: u64) -> Result<Self> {
        fs::create_dir(point)?;
        let options = std::ffi::CString::new(format!("size={size_kib}k"))?;
        mount(
            "tmpfs",
            point,
            "tmpfs",
            MountFlags::NODEV,
            options.as_c_str(),
        )
        .with_context(|| format!("cannot mount a tmpfs on {}", point.display()))?;
        Ok(Self(Mounted(point.to_owned())))
    }

    /// Lets nobody write to it any more.
    ///
    /// # Errors
    /// Fails where the kernel refuses.
    pub fn make_read_only(&self) -> Result<()> {
        mount_remount(self.path(), MountFlags::RDONLY, "")
            .with_context(|| format!("cannot make {} read-only", self.path().display()))
    }

    /// Where it is mounted.
    pub fn path(&self) -> &Path {
        &self.0.0
    }
}

/// A control group.
#[derive(Debug)]
pub struct Cgroup(PathBuf);

impl Cgroup {
    /// Makes one below `parent`.
    ///
    /// # Errors
    /// Fails where the kernel refuses.
    pub fn new(parent: &Path, name: &str) -> Result<Self> {
        let path = parent.join(format!("{name}-{}", std::process::id()));
        fs::create_dir(&path).with_context(|| format!("cannot make cgroup {}", path.display()))?;
        Ok(Self(path))
    }

    /// Its directory.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Moves a process into it.
    ///
    /// # Errors
    /// Fails where the kernel refuses.
    pub fn add(&self, pid: u32) -> Result<()> {
        fs::write(self.0.join("cgroup.procs"), pid.to_string())
            .with_context(|| format!("cannot move {pid} into {}", self.0.display()))
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        // Its last process may not be gone yet.
        if until(LETS_GO, || Ok(fs::remove_dir(&self.0).is_ok())).is_err() {
            eprintln!("cannot remove cgroup {}: it stays", self.0.display());
        }
    }
}

/// Where the unified hierarchy is mounted, if it is.
///
/// # Errors
/// Fails where the list of mounts cannot be read.
pub fn cgroup2_root() -> Result<Option<PathBuf>> {
    Ok(mounts()?
        .into_iter()
        .find(|mount| mount.kind == "cgroup2")
        .map(|mount| mount.point))
}

/// Where a controller of the old kind is mounted that takes any process as it is, if one is.
///
/// # Errors
/// Fails where the list of mounts cannot be read.
pub fn cgroup_v1_root() -> Result<Option<PathBuf>> {
    let fits = |mount: &Mount| {
        let mut options = mount.options.split(',');
        mount.kind == "cgroup" && options.any(|one| matches!(one, "freezer" | "pids" | "cpu"))
    };
    let found = mounts()?.into_iter().find(fits);
    Ok(found.map(|mount| mount.point))
}

struct Mount {
    point: PathBuf,
    kind: String,
    options: String,
}

fn mounts() -> Result<Vec<Mount>> {
    let text = fs::read_to_string("/proc/self/mounts")?;
    let parse = |line: &str| {
        let mut fields = line.split(' ').skip(1);
        Some(Mount {
            point: fields.next()?.into(),
            kind: fields.next()?.to_owned(),
            options: fields.next()?.to_owned(),
        })
    };
    let mounts: Vec<_> = text.lines().filter_map(parse).collect();
    ensure!(!mounts.is_empty(), "/proc/self/mounts is empty");
    Ok(mounts)
}

/// A program of the administrator, whose place need not be in the caller's PATH.
fn tool(name: &str) -> Command {
    let path = std::env::var("PATH").unwrap_or_default();
    let mut command = Command::new(name);
    command.env("PATH", format!("{path}:/usr/sbin:/sbin"));
    command
}
