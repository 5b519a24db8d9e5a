//! Which Rust compiler builds the kernel programs.
//!
//! The target `bpfel-unknown-none` has no prebuilt `core` in rustup. A rustup toolchain with the component `rust-src`
//! builds its own; Debian's packages `rustc-web` and `libstd-rust-web-dev-bpf` bring one ready made.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::process;

/// The newest LLVM whose bitcode bpf-linker can read: the one it is linked with (see `setup.rs`).
pub(crate) const LLVM: u32 = 22;
/// Minor version of the oldest Rust 1.x that builds the project; `rust-version` in Cargo.toml says the same.
const OLDEST_MINOR: u32 = 95;

/// A compiler for `bpfel-unknown-none`.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Compiler {
    /// A rustup toolchain with `rust-src`: `core` is built along (`-Zbuild-std`).
    RustSrc {
        /// The toolchain's folder, with `bin/` in it.
        toolchain: PathBuf,
    },
    /// Debian's `rustc-web` with its prebuilt `core`.
    DebianWeb,
}

impl Compiler {
    /// The first rustup toolchain that can do it, the one in use before the others.
    pub(crate) fn find_rust_src() -> Result<Option<Self>> {
        for toolchain in toolchains()? {
            if source_of_core(&toolchain).exists() && is_suitable(&toolchain)? {
                return Ok(Some(Self::RustSrc { toolchain }));
            }
        }
        Ok(None)
    }

    /// A cargo that builds with this compiler.
    pub(crate) fn cargo(&self) -> Command {
        let mut command = match self {
            Self::RustSrc { toolchain } => {
                let mut command = Command::new(toolchain.join("bin/cargo"));
                command.env("RUSTC", toolchain.join("bin/rustc"));
                command
            }
            Self::DebianWeb => {
                let mut command = Command::new("/usr/bin/cargo");
                command.env("RUSTC", "/usr/bin/rustc");
                command
            }
        };
        // What rustup and `cargo run` set for another toolchain must not reach this one.
        for name in [
            "RUSTUP_TOOLCHAIN",
            "LD_LIBRARY_PATH",
            "RUSTC_WRAPPER",
            "RUSTFLAGS",
        ] {
            command.env_remove(name);
        }
        // -Zbuild-std and the intrinsics of the kernel programs are unstable.
        command.env("RUSTC_BOOTSTRAP", "1");
        command
    }

    /// Arguments `cargo build` needs beside the target.
    pub(crate) fn build_arguments(&self) -> &'static [&'static str] {
        match self {
            Self::RustSrc { .. } => &["-Zbuild-std=core"],
            Self::DebianWeb => &[],
        }
    }

    /// For people: which compiler was taken.
    pub(crate) fn describe(&self) -> String {
        match self {
            Self::RustSrc { toolchain } => {
                format!("rustup toolchain {} with rust-src", toolchain.display())
            }
            Self::DebianWeb => "Debian's rustc-web with its prebuilt core".to_owned(),
        }
    }
}

/// Folders of the installed rustup toolchains, the one in use first; none without rustup.
fn toolchains() -> Result<Vec<PathBuf>> {
    let sysroot = process::read(Command::new("rustc").args(["--print", "sysroot"]))?;
    let mut found = vec![PathBuf::from(sysroot.trim())];
    let home = std::env::var_os("RUSTUP_HOME").map(PathBuf::from);
    let home = home.or_else(|| std::env::home_dir().map(|home| home.join(".rustup")));
    if let Some(entries) = home.and_then(|home| fs::read_dir(home.join("toolchains")).ok()) {
        let mut others = Vec::new();
        for entry in entries {
            others.push(entry.context("cannot list rustup's toolchains")?.path());
        }
        others.sort();
        others.retain(|folder| !found.contains(folder));
        found.append(&mut others);
    }
    Ok(found)
}

fn source_of_core(toolchain: &Path) -> PathBuf {
    toolchain.join("lib/rustlib/src/rust/library/core")
}

fn is_suitable(toolchain: &Path) -> Result<bool> {
    let version = process::read(Command::new(toolchain.join("bin/rustc")).arg("-vV"))?;
    Ok(version_fits(&version))
}

/// New enough for the project, and LLVM not newer than what bpf-linker can read.
fn version_fits(version: &str) -> bool {
    let field = |name: &str| version.lines().find_map(|line| line.strip_prefix(name));
    let minor = field("release: 1.").and_then(leading_number);
    let llvm = field("LLVM version: ").and_then(leading_number);
    minor.is_some_and(|minor| minor >= OLDEST_MINOR) && llvm.is_some_and(|llvm| llvm <= LLVM)
}

fn leading_number(text: &str) -> Option<u32> {
    text.split('.').next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_old_rust_or_a_new_llvm_does_not_fit() {
        let version = |release, llvm| {
            format!("rustc {release}\nhost: x\nrelease: {release}\nLLVM version: {llvm}\n")
        };
        assert!(version_fits(&version("1.95.0", "22.1.2")));
        assert!(version_fits(&version("1.97.0-nightly", "22.1.8")));
        assert!(!version_fits(&version("1.94.0", "21.1.2")));
        assert!(!version_fits(&version("1.99.0", "23.1.0")));
        assert!(!version_fits("rustc: something else"));
    }

    #[test]
    fn the_manifest_states_the_same_oldest_rust() {
        let manifest = fs::read_to_string(crate::paths::root().join("Cargo.toml")).unwrap();
        assert!(manifest.contains(&format!("rust-version = \"1.{OLDEST_MINOR}\"")));
    }
}
