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

impl Args {
    pub(crate) fn run(self) -> Result<()> {
        let program = CARGO_DENY.ensure()?;
        let databases = advisory_databases();
        let checks = checks(databases.as_deref());
        for manifest in [paths::root().join("Cargo.toml"), paths::ebpf_manifest()] {
            process::heading(&format!(
                "cargo deny check {}: {}",
                checks.join(" "),
                manifest.display()
            ));
            process::run(&mut command(&program, &manifest, &checks))?;
        }
        if databases.is_none() {
            process::heading(
                "advisories were NOT checked: this machine has no advisory database \
                 (`cargo deny fetch db` brings one)",
            );
        }
        Ok(())
    }
}

fn command(program: &Path, manifest: &Path, checks: &[&str]) -> Command {
    let mut command = Command::new(program);
    command
        .current_dir(paths::root())
        .arg("--manifest-path")
        .arg(manifest)
        .args(["check", "--hide-inclusion-graph", "--disable-fetch"])
        .arg("--config")
        .arg(paths::root().join("deny.toml"))
        // One configuration serves two workspaces: neither uses all that it allows.
        .args(["--allow", "license-not-encountered"])
        .args(["--allow", "license-exception-not-encountered"])
        .args(["--allow", "unmatched-skip"])
        .args(checks);
    command
}

/// Which checks can be made here.
fn checks(databases: Option<&Path>) -> Vec<&'static str> {
    let mut checks = vec!["bans", "licenses", "sources"];
    if databases.is_some() {
        checks.push("advisories");
    }
    checks
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
    fn advisories_are_checked_only_where_there_is_a_database() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(non_empty(folder.path().join("none")), None);
        assert_eq!(non_empty(folder.path().to_owned()), None);
        assert!(!checks(None).contains(&"advisories"));
        fs::create_dir(folder.path().join("advisory-db-1")).unwrap();
        let found = non_empty(folder.path().to_owned());
        assert!(checks(found.as_deref()).contains(&"advisories"));
    }
}
