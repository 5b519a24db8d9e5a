//! The newest Debian kernel of a line, ready to boot.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use super::archive::{Archive, recreate};
use super::modules;
use crate::process;

/// The folder of one line: `release`, `vmlinuz`, `modules/` and, after a run, what the guest left.
pub(crate) struct Kernel {
    /// The line, as "6.1".
    pub(crate) line: String,
    /// The full release, as "6.1.0-56-amd64".
    pub(crate) release: String,
    folder: PathBuf,
}

/// Packages a kernel may be split into: up to 6.18 one image holds all.
const PARTS: [&str; 4] = ["image", "binary", "modules", "base"];

impl Kernel {
    /// The kernel prepared before, if there is one.
    pub(crate) fn prepared(line: &str, machines: &Path) -> Option<Self> {
        let folder = machines.join(line);
        let release = fs::read_to_string(folder.join("release")).ok()?;
        Some(Self {
            line: line.to_owned(),
            release,
            folder,
        })
    }

    /// Fetches the newest kernel of a line and keeps what a guest needs of it.
    pub(crate) fn fetch(line: &str, machines: &Path, archive: &Archive) -> Result<Self> {
        let images = archive.names(&format!("^linux-image-{}.*-amd64$", escaped(line)))?;
        let Some(release) = newest(line, &images) else {
            bail!("Debian's archive has no kernel {line} for amd64");
        };
        process::heading(&format!("fetching kernel {release}"));
        let folder = machines.join(line);
        recreate(&folder)?;
        let unpacked = folder.join("unpacked");
        let present = archive.names(&format!("^linux-.*{}$", escaped(&release)))?;
        let wanted: Vec<String> = PARTS
            .iter()
            .map(|part| format!("linux-{part}-{release}"))
            .filter(|name| present.contains(name))
            .collect();
        archive.unpack(&wanted, &unpacked)?;
        keep(&unpacked, &release, &folder)
            .with_context(|| format!("kernel {release} cannot be prepared"))?;
        fs::remove_dir_all(&unpacked).context("cannot remove the unpacked packages")?;
        // Written last: a folder with this file is complete.
        fs::write(folder.join("release"), &release).context("cannot write the release file")?;
        Ok(Self {
            line: line.to_owned(),
            release,
            folder,
        })
    }

    pub(crate) fn image(&self) -> PathBuf {
        self.folder.join("vmlinuz")
    }

    /// The modules a guest loads, in order.
    pub(crate) fn modules(&self) -> Result<Vec<PathBuf>> {
        modules::list(&self.folder.join("modules"))
    }

    /// Where the guest's files go: console, initramfs, results.
    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }
}

fn keep(unpacked: &Path, release: &str, folder: &Path) -> Result<()> {
    let library = library(unpacked)?;
    let of_release = library.join("modules").join(release);
    let images = [
        unpacked.join(format!("boot/vmlinuz-{release}")),
        of_release.join("vmlinuz"),
    ];
    let Some(image) = images.iter().find(|image| image.exists()) else {
        bail!("its packages hold no vmlinuz");
    };
    fs::copy(image, folder.join("vmlinuz")).context("cannot copy vmlinuz")?;
    process::run(
        Command::new("/sbin/depmod")
            .arg("-b")
            .arg(unpacked)
            .arg(release),
    )?;
    modules::extract(&of_release, &folder.join("modules"))
}

/// The folder with `modules/` in it. depmod looks in /lib, where Debian's kernels had it up to version 12.
fn library(unpacked: &Path) -> Result<PathBuf> {
    let library = unpacked.join("lib");
    if !library.exists() {
        std::os::unix::fs::symlink("usr/lib", &library).context("cannot link lib to usr/lib")?;
    }
    Ok(library)
}

fn escaped(release: &str) -> String {
    release.replace('.', "\\.").replace('+', "\\+")
}

/// The release of the newest plain image of a line; those for clouds and for real time are other configurations.
fn newest(line: &str, images: &[String]) -> Option<String> {
    let of_line = format!("{line}.");
    images
        .iter()
        .filter_map(|name| name.strip_prefix("linux-image-"))
        .filter(|release| release.starts_with(&of_line))
        .filter(|release| !release.contains("-cloud-") && !release.contains("-rt-"))
        .max_by_key(|release| numbers(release))
        .map(str::to_owned)
}

/// The numbers in a release, which order releases of one line as their versions do.
fn numbers(release: &str) -> Vec<u64> {
    release
        .split(|c: char| !c.is_ascii_digit())
        .filter_map(|digits| digits.parse().ok())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn newest_of(line: &str, images: &[&str]) -> String {
        let images: Vec<String> = images.iter().map(|i| (*i).to_owned()).collect();
        newest(line, &images).unwrap()
    }

    #[test]
    fn a_line_ends_at_its_dot() {
        assert_eq!(
            newest_of(
                "6.1",
                &[
                    "linux-image-6.1.0-48-amd64",
                    "linux-image-6.19.14+deb13-amd64",
                    "linux-image-6.1-amd64"
                ]
            ),
            "6.1.0-48-amd64"
        );
    }

    #[test]
    fn numbers_count_not_letters() {
        assert_eq!(
            newest_of(
                "6.12",
                &[
                    "linux-image-6.12.95+deb12-amd64",
                    "linux-image-6.12.107+deb12-amd64"
                ]
            ),
            "6.12.107+deb12-amd64"
        );
    }

    #[test]
    fn a_backport_to_an_older_debian_is_not_newer() {
        assert_eq!(
            newest_of(
                "6.1",
                &[
                    "linux-image-6.1.0-0.deb11.52-amd64",
                    "linux-image-6.1.0-48-amd64"
                ]
            ),
            "6.1.0-48-amd64"
        );
    }

    #[test]
    fn other_configurations_are_left_out() {
        assert_eq!(
            newest_of(
                "6.1",
                &[
                    "linux-image-6.1.0-49-cloud-amd64",
                    "linux-image-6.1.0-48-amd64"
                ]
            ),
            "6.1.0-48-amd64"
        );
        assert_eq!(
            newest("6.1", &["linux-image-6.1.0-49-rt-amd64".to_owned()]),
            None
        );
    }
}
