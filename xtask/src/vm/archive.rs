//! Debian's package archive, read through a private apt configuration: suites this machine does not use, nothing installed.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::process;

/// The suites that carry the kernels of the matrix, beside those of the security mirror.
const SUITES: [&str; 5] = [
    "bullseye",
    "bookworm",
    "bookworm-backports",
    "trixie",
    "trixie-backports",
];
const SECURITY_SUITES: [&str; 3] = ["bullseye-security", "bookworm-security", "trixie-security"];
const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// An apt that knows the suites above and keeps everything in one folder.
pub(crate) struct Archive {
    folder: PathBuf,
}

impl Archive {
    /// Writes the configuration and fetches the lists of packages.
    pub(crate) fn open(folder: &Path) -> Result<Self> {
        for part in ["lists/partial", "cache/archives/partial"] {
            let part = folder.join(part);
            fs::create_dir_all(&part).with_context(|| format!("cannot make {}", part.display()))?;
        }
        let archive = Self {
            folder: folder.to_owned(),
        };
        let sources = sources(&machine_sources());
        archive.write("sources.list", &sources)?;
        archive.write("apt.conf", &configuration(folder))?;
        process::heading("fetching Debian's package lists");
        process::run(archive.command("apt-get").args(["update", "-qq"]))?;
        Ok(archive)
    }

    /// Names of the packages that match a regular expression.
    pub(crate) fn names(&self, pattern: &str) -> Result<Vec<String>> {
        let mut search = self.command("apt-cache");
        let found = process::read(search.args(["search", "--names-only", pattern]))?;
        let names = found.lines().filter_map(|line| line.split_once(" - "));
        Ok(names.map(|(name, _)| name.to_owned()).collect())
    }

    /// Downloads packages and unpacks them below `into`, without installing anything.
    pub(crate) fn unpack(&self, names: &[String], into: &Path) -> Result<()> {
        let debs = self.folder.join("debs");
        recreate(&debs)?;
        let mut download = self.command("apt-get");
        process::run(
            download
                .current_dir(&debs)
                .args(["download", "-qq"])
                .args(names),
        )?;
        let mut unpacked = 0;
        for entry in fs::read_dir(&debs).context("cannot list the downloaded packages")? {
            let mut unpack = Command::new("dpkg-deb");
            process::run(unpack.arg("--extract").arg(entry?.path()).arg(into))?;
            unpacked += 1;
        }
        ensure!(
            unpacked == names.len(),
            "asked for {names:?}, got {unpacked}"
        );
        fs::remove_dir_all(&debs).context("cannot remove the downloaded packages")
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command
            .env("APT_CONFIG", self.folder.join("apt.conf"))
            .env("LC_ALL", "C");
        command
    }

    fn write(&self, name: &str, text: &str) -> Result<()> {
        let file = self.folder.join(name);
        fs::write(&file, text).with_context(|| format!("cannot write {}", file.display()))
    }
}

/// An empty folder, whatever was there before.
pub(crate) fn recreate(folder: &Path) -> Result<()> {
    if folder.exists() {
        fs::remove_dir_all(folder)
            .with_context(|| format!("cannot remove {}", folder.display()))?;
    }
    fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))
}

/// What this machine's own package sources say, in either format.
fn machine_sources() -> String {
    ["sources.list.d/debian.sources", "sources.list"]
        .iter()
        .filter_map(|file| fs::read_to_string(Path::new("/etc/apt").join(file)).ok())
        .collect()
}

fn sources(machine: &str) -> String {
    let (main, security) = mirrors(machine);
    let line =
        |mirror: &str, suite: &str| format!("deb [signed-by={KEYRING}] {mirror} {suite} main\n");
    let main = SUITES.iter().map(|suite| line(&main, suite));
    let security = SECURITY_SUITES.iter().map(|suite| line(&security, suite));
    main.chain(security).collect()
}

/// The mirrors this machine takes Debian and its security updates from, which may be local ones.
fn mirrors(machine: &str) -> (String, String) {
    let mut addresses = machine
        .lines()
        .filter(|line| !line.trim_start().starts_with('#'))
        .flat_map(str::split_whitespace)
        .filter(|word| word.contains("://"))
        .map(|word| word.trim_end_matches('/'));
    let is_security = |address: &&str| address.ends_with("-security");
    let security = addresses.clone().find(is_security);
    let main = addresses.find(|address| !is_security(address));
    (
        main.unwrap_or("http://deb.debian.org/debian").to_owned(),
        security
            .unwrap_or("http://security.debian.org/debian-security")
            .to_owned(),
    )
}

fn configuration(folder: &Path) -> String {
    let folder = folder.display();
    format!(
        "Dir::Etc::sourcelist \"{folder}/sources.list\";\n\
         Dir::Etc::sourceparts \"/dev/null\";\n\
         Dir::State::lists \"{folder}/lists\";\n\
         Dir::Cache \"{folder}/cache\";\n\
         APT::Architecture \"amd64\";\n\
         APT::Architectures {{\"amd64\";}};\n\
         APT::Sandbox::User \"root\";\n"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mirrors_come_from_the_machine_in_either_format() {
        let new =
            "# http://old/debian\nURIs: http://near/debian\nURIs: http://near/debian-security\n";
        let old = "deb http://near/debian/ bookworm main\ndeb http://near/debian-security x main\n";
        let expected = ("http://near/debian", "http://near/debian-security");
        for text in [new, old] {
            let (main, security) = mirrors(text);
            assert_eq!((main.as_str(), security.as_str()), expected);
        }
    }

    #[test]
    fn without_any_source_the_public_mirrors_are_used() {
        let text = sources("");
        assert!(text.contains("http://deb.debian.org/debian trixie-backports main"));
        assert!(text.contains("debian-security bullseye-security main"));
    }
}
