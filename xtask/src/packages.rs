//! Packages of the operating system: installed on Debian, asked for elsewhere.

use std::collections::HashMap;
use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::process;

/// A Debian package, and how to know elsewhere that the machine has the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Package {
    /// Name in Debian's archive.
    pub(crate) name: &'static str,
    /// What it is needed for, in a few words.
    pub(crate) why: &'static str,
    /// Any one of these programs or files proves it present where dpkg cannot be asked.
    pub(crate) proof: &'static [&'static str],
    /// What to do for it on another system.
    pub(crate) elsewhere: &'static str,
}

/// Sees to it that all of `packages` are there: installs them on Debian, says what to install elsewhere.
pub(crate) fn ensure(packages: &[Package]) -> Result<()> {
    let os_release = fs::read_to_string("/etc/os-release").unwrap_or_default();
    let system = System::parse(&os_release);
    if system.is_debian {
        let missing = missing_on_debian(packages)?;
        return install(&system, &missing);
    }
    let missing = missing_elsewhere(packages, exists);
    if missing.is_empty() {
        return Ok(());
    }
    bail!(instructions(&system, &missing))
}

/// What `/etc/os-release` says.
#[derive(Debug)]
struct System {
    is_debian: bool,
    name: String,
}

impl System {
    fn parse(os_release: &str) -> Self {
        let fields: HashMap<&str, &str> = os_release
            .lines()
            .filter_map(|line| line.split_once('='))
            .map(|(key, value)| (key, value.trim_matches('"')))
            .collect();
        Self {
            is_debian: fields.get("ID") == Some(&"debian"),
            name: fields
                .get("PRETTY_NAME")
                .map_or_else(|| "an unknown system".to_owned(), |n| (*n).to_owned()),
        }
    }
}

fn missing_on_debian(packages: &[Package]) -> Result<Vec<Package>> {
    // dpkg-query exits with 1 when it does not know one of the names: its list is what counts.
    let output = Command::new("dpkg-query")
        .args(["--show", "--showformat", "${db:Status-Status} ${Package}\n"])
        .args(packages.iter().map(|p| p.name))
        .output()
        .context("cannot start `dpkg-query`")?;
    let listing = String::from_utf8_lossy(&output.stdout).into_owned();
    Ok(not_listed(packages, &listing))
}

fn not_listed(packages: &[Package], listing: &str) -> Vec<Package> {
    let installed: Vec<&str> = listing
        .lines()
        .filter_map(|line| line.strip_prefix("installed "))
        .collect();
    let is_missing = |p: &&Package| !installed.contains(&p.name);
    packages.iter().filter(is_missing).copied().collect()
}

fn missing_elsewhere(packages: &[Package], exists: impl Fn(&str) -> bool) -> Vec<Package> {
    let is_missing = |p: &&Package| !p.proof.iter().any(|proof| exists(proof));
    packages.iter().filter(is_missing).copied().collect()
}

/// True for a path that exists, or a program that is on `PATH`.
fn exists(path_or_program: &str) -> bool {
    if path_or_program.contains('/') {
        return Path::new(path_or_program).exists();
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|folder| folder.join(path_or_program).is_file())
}

fn instructions(system: &System, missing: &[Package]) -> String {
    let mut text = format!(
        "this is {}; packages are installed by this program on Debian only. Still needed:\n",
        system.name
    );
    for (index, package) in missing.iter().enumerate() {
        // What takes several packages on Debian may be one thing elsewhere.
        let known = &missing[..index];
        if !known
            .iter()
            .any(|other| other.elsewhere == package.elsewhere)
        {
            text += &format!("  {}\n      {}\n", package.elsewhere, package.why);
        }
    }
    text + "Then run the same command again."
}

fn install(system: &System, missing: &[Package]) -> Result<()> {
    if missing.is_empty() {
        return Ok(());
    }
    process::heading(&format!("{} lacks these packages:", system.name));
    for package in missing {
        eprintln!("    {:<24} {}", package.name, package.why);
    }
    let names: Vec<&str> = missing.iter().map(|p| p.name).collect();
    if !process::is_root()? {
        bail!(
            "installing packages needs root. Run this, then the same command again:\n  \
             apt-get update && apt-get install --no-install-recommends {}",
            names.join(" ")
        );
    }
    let updated = !without_candidate(&names)?.is_empty();
    if updated {
        update()?;
        refuse_unavailable(system, &names)?;
    }
    process::heading(&format!("apt-get install {}", names.join(" ")));
    match process::run(&mut apt_install(&names)) {
        // The lists may be older than the archive: one more try with fresh ones.
        Err(_) if !updated => {
            update()?;
            process::run(&mut apt_install(&names))
        }
        result => result,
    }
}

fn update() -> Result<()> {
    process::heading("apt-get update");
    process::run(apt_get().args(["update", "-qq"]))
}

fn apt_install(names: &[&str]) -> Command {
    let mut command = apt_get();
    command
        .args(["install", "-qq", "--yes", "--no-install-recommends"])
        .args(names);
    command
}

fn apt_get() -> Command {
    let mut command = Command::new("apt-get");
    command.env("DEBIAN_FRONTEND", "noninteractive");
    command
}

fn refuse_unavailable(system: &System, names: &[&str]) -> Result<()> {
    let unavailable = without_candidate(names)?;
    if unavailable.is_empty() {
        return Ok(());
    }
    bail!(
        "the package sources of this machine ({}) do not have: {}\n\
         Debian 12 has them in `bookworm` and `bookworm-security`, component `main`: \
         see that /etc/apt/sources.list or /etc/apt/sources.list.d names both.",
        system.name,
        unavailable.join(", ")
    )
}

fn without_candidate<'a>(names: &[&'a str]) -> Result<Vec<&'a str>> {
    let policy = process::read(
        Command::new("apt-cache")
            .env("LC_ALL", "C")
            .arg("policy")
            .args(names),
    )?;
    Ok(not_offered(names, &policy))
}

/// Those of `names` for which `apt-cache policy` shows no version that could be installed.
fn not_offered<'a>(names: &[&'a str], policy: &str) -> Vec<&'a str> {
    let mut offered = Vec::new();
    let mut current = "";
    for line in policy.lines() {
        if let Some(name) = line
            .strip_suffix(':')
            .filter(|_| !line.starts_with([' ', '*']))
        {
            current = name;
        }
        if let Some(version) = line.trim_start().strip_prefix("Candidate: ")
            && version != "(none)"
        {
            offered.push(current);
        }
    }
    names
        .iter()
        .filter(|name| !offered.contains(name))
        .copied()
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const COMPILER: Package = Package {
        name: "g++",
        why: "compiles",
        proof: &["c++", "/usr/bin/g++"],
        elsewhere: "install a C++ compiler",
    };
    const LIBRARY: Package = Package {
        name: "llvm-22-dev",
        why: "links",
        proof: &["llvm-config-22"],
        elsewhere: "install LLVM 22",
    };

    #[test]
    fn debian_is_known_by_its_id_and_its_children_are_not_it() {
        let debian = System::parse("PRETTY_NAME=\"Debian GNU/Linux 12 (bookworm)\"\nID=debian\n");
        assert!(debian.is_debian);
        assert_eq!(debian.name, "Debian GNU/Linux 12 (bookworm)");
        assert!(!System::parse("ID=ubuntu\nID_LIKE=debian\n").is_debian);
        assert_eq!(System::parse("").name, "an unknown system");
    }

    #[test]
    fn a_removed_package_whose_settings_remain_counts_as_missing() {
        let listing = "installed g++\nconfig-files llvm-22-dev\n";
        assert_eq!(not_listed(&[COMPILER, LIBRARY], listing), [LIBRARY]);
    }

    #[test]
    fn elsewhere_one_proof_is_enough() {
        let found = missing_elsewhere(&[COMPILER, LIBRARY], |proof| proof == "/usr/bin/g++");
        assert_eq!(found, [LIBRARY]);
    }

    #[test]
    fn instructions_name_the_system_and_everything_once() {
        let fedora = System::parse("ID=fedora\nPRETTY_NAME=\"Fedora Linux 44\"");
        let text = instructions(&fedora, &[COMPILER, LIBRARY, COMPILER]);
        for part in [
            "Fedora Linux 44",
            "install a C++ compiler",
            "install LLVM 22",
        ] {
            assert_eq!(text.matches(part).count(), 1, "{part} in:\n{text}");
        }
    }

    #[test]
    fn a_package_without_a_candidate_or_unknown_is_not_offered() {
        let policy = "g++:\n  Installed: (none)\n  Candidate: 4:12.2.0-3\n  Version table:\n \
                      *** 4:12.2.0-3 500\nold:\n  Installed: (none)\n  Candidate: (none)\n";
        assert_eq!(
            not_offered(&["g++", "old", "unknown"], policy),
            ["old", "unknown"]
        );
    }
}
