//! `cargo xtask deny`: licences, sources and known holes of everything the project links, by cargo-deny and deny.toml.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Result;

use crate::tools::Tool;
use crate::{paths, process};

/// Checks the licences and sources of all dependencies.
#[derive(clap::Args, Debug)]
pub(crate) struct Args {}

/// Built without optimisation: 50 s instead of several minutes, and it runs for a second either way.
const CARGO_DENY: Tool = Tool {
    name: "cargo-deny",
    version: "0.20.2",
    why: "checks licences and sources of dependencies; takes a minute, once",
    arguments: &["--debug"],
    path: None,
};

/// What needs nothing but the dependencies themselves.
const ALWAYS: &[&str] = &["bans", "licenses", "sources"];
const ADVISORIES: &[&str] = &["advisories"];

impl Args {
    pub(crate) fn run(self) -> Result<()> {
        let program = CARGO_DENY.ensure()?;
        let with_advisories = advisory_databases().is_some();
        for manifest in [paths::root().join("Cargo.toml"), paths::ebpf_manifest()] {
            check(&mut command(&program, &manifest, ALWAYS, &[]))?;
            if with_advisories {
                // As the database stands: a check must not depend on what the network says today.
                check(&mut command(
                    &program,
                    &manifest,
                    ADVISORIES,
                    &["--offline"],
                ))?;
            }
        }
        if !with_advisories {
            process::heading(
                "checked bans, licenses and sources; NOT advisories: this machine has no advisory database \
                 (`cargo deny fetch db` brings one)",
            );
        }
        Ok(())
    }
}

fn check(command: &mut Command) -> Result<()> {
    process::heading(&process::describe(command));
    process::run(command)
}

fn command(program: &Path, manifest: &Path, checks: &[&str], options: &[&str]) -> Command {
    let mut command = Command::new(program);
    command
        .current_dir(paths::root())
        .arg("--manifest-path")
        .arg(manifest)
        .arg("--config")
        .arg(paths::root().join("deny.toml"))
        .args(options)
        .args(["check", "--hide-inclusion-graph"])
        // One configuration serves two workspaces: neither uses all that it allows.
        .args(["--allow", "license-not-encountered"])
        .args(["--allow", "license-exception-not-encountered"])
        .args(checks);
    command
}

/// The folder into which `cargo deny fetch` puts advisory databases, if there is one with something in it.
fn advisory_databases() -> Option<PathBuf> {
    let home = std::env::var_os("CARGO_HOME").map(PathBuf::from);
    let home = home.or_else(|| std::env::home_dir().map(|home| home.join(".cargo")))?;
    non_empty(home.join("advisory-dbs"))
}

fn non_empty(folder: PathBuf) -> Option<PathBuf> {
    let mut entries = fs::read_dir(&folder).ok()?;
    entries.next().is_some().then_some(folder)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_folder_is_no_database() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(non_empty(folder.path().join("none")), None);
        assert_eq!(non_empty(folder.path().to_owned()), None);
        fs::create_dir(folder.path().join("advisory-db-1")).unwrap();
        assert!(non_empty(folder.path().to_owned()).is_some());
    }
}
