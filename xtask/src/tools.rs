//! Programs that come as crates: built once per machine into `target/tools`.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::{paths, process};

/// A crate with a program of the same name, at one exact version.
#[derive(Debug)]
pub(crate) struct Tool {
    /// Crate and program.
    pub(crate) name: &'static str,
    /// The exact version: tools are part of the build and change only on purpose.
    pub(crate) version: &'static str,
    /// What it is needed for, and how long it takes to build.
    pub(crate) why: &'static str,
    /// Further arguments of `cargo install`.
    pub(crate) arguments: &'static [&'static str],
    /// A folder to put in front of `PATH` while building.
    pub(crate) path: Option<&'static str>,
}

impl Tool {
    /// Builds the tool unless this very version is there; returns the program's path.
    pub(crate) fn ensure(&self) -> Result<PathBuf> {
        self.ensure_in(&paths::tools(), |folder| self.install(folder))
    }

    fn ensure_in(&self, folder: &Path, install: impl Fn(&Path) -> Result<()>) -> Result<PathBuf> {
        let program = folder.join("bin").join(self.name);
        let stamp = folder.join(format!("{}.stamp", self.name));
        let wanted = self.stamp();
        let present = fs::read_to_string(&stamp).unwrap_or_default();
        if program.is_file() && present == wanted {
            return Ok(program);
        }
        install(folder)?;
        fs::write(&stamp, wanted).with_context(|| format!("cannot write {}", stamp.display()))?;
        Ok(program)
    }

    fn stamp(&self) -> String {
        format!(
            "{} {} {}\n",
            self.name,
            self.version,
            self.arguments.join(" ")
        )
    }

    fn install(&self, folder: &Path) -> Result<()> {
        process::heading(&format!(
            "building {} {} into target/tools: {}",
            self.name, self.version, self.why
        ));
        // Its own target folder goes away afterwards: a tool's build is bigger than the project's.
        let build = folder.join("build");
        let mut command = process::cargo();
        command
            .env("CARGO_TARGET_DIR", &build)
            .args(["install", "--quiet", "--locked", "--force"])
            .arg(self.name)
            .args(["--version", &format!("={}", self.version)])
            .arg("--root")
            .arg(folder)
            .args(self.arguments);
        if let Some(first) = self.path {
            command.env("PATH", prepended(first)?);
        }
        process::run(&mut command)?;
        if build.exists() {
            fs::remove_dir_all(&build)
                .with_context(|| format!("cannot remove {}", build.display()))?;
        }
        Ok(())
    }
}

fn prepended(first: &str) -> Result<OsString> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::iter::once(PathBuf::from(first)).chain(std::env::split_paths(&path));
    std::env::join_paths(folders).context("PATH cannot be extended")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;

    const TOOL: Tool = Tool {
        name: "some-tool",
        version: "1.2.3",
        why: "tests",
        arguments: &["--debug"],
        path: None,
    };

    fn pretend_install(folder: &Path) -> Result<()> {
        fs::create_dir_all(folder.join("bin"))?;
        fs::write(folder.join("bin/some-tool"), "")?;
        Ok(())
    }

    #[test]
    fn a_second_call_builds_nothing_and_another_version_does() {
        let folder = tempfile::tempdir().unwrap();
        let builds = Cell::new(0);
        let install = |folder: &Path| {
            builds.set(builds.get() + 1);
            pretend_install(folder)
        };
        TOOL.ensure_in(folder.path(), install).unwrap();
        TOOL.ensure_in(folder.path(), install).unwrap();
        assert_eq!(builds.get(), 1);
        let newer = Tool {
            version: "1.2.4",
            ..TOOL
        };
        newer.ensure_in(folder.path(), install).unwrap();
        assert_eq!(builds.get(), 2);
    }

    #[test]
    fn a_failed_build_leaves_no_stamp() {
        let folder = tempfile::tempdir().unwrap();
        let failed = TOOL.ensure_in(folder.path(), |_| anyhow::bail!("no compiler"));
        assert!(failed.is_err());
        assert!(!folder.path().join("some-tool.stamp").exists());
    }
}
