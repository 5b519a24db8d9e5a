//! Where the tests run: the binaries under test, compiled workloads, and a place for files.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, PoisonError};

use anyhow::{Context, Result, bail};
use tempfile::TempDir;

use crate::Build;

/// Set to 1 to run the tests.
const SWITCH: &str = "PROFILER_E2E";

/// Names another place for the binaries under test.
const BIN_DIR: &str = "PROFILER_BIN_DIR";

/// What all tests share. Dropped, it leaves no files.
#[derive(Debug)]
pub struct Lab {
    bin_dir: PathBuf,
    scratch: TempDir,
    compiled: Mutex<BTreeSet<PathBuf>>,
}

impl Lab {
    /// Why the tests cannot run here, if so.
    pub fn obstacle() -> Option<String> {
        if std::env::var(SWITCH).ok().as_deref() != Some("1") {
            return Some(format!("{SWITCH}=1 is not set"));
        }
        if !rustix::process::geteuid().is_root() {
            return Some("loading kernel programs needs root".to_owned());
        }
        None
    }

    /// A place for files and workloads.
    ///
    /// # Errors
    /// Fails where no files can be made.
    pub fn new() -> Result<Self> {
        let scratch = tempfile::Builder::new()
            .prefix("profiler-e2e-")
            .tempdir()
            .context("cannot make a directory for the tests")?;
        Ok(Self {
            bin_dir: bin_dir(),
            scratch,
            compiled: Mutex::new(BTreeSet::new()),
        })
    }

    /// Path of a binary under test.
    ///
    /// # Errors
    /// Fails where it has not been built.
    pub fn binary(&self, name: &str) -> Result<PathBuf> {
        let path = self.bin_dir.join(name);
        if !path.is_file() {
            bail!(
                "{} is not there: run `cargo xtask build`, or name another place in {BIN_DIR}",
                path.display()
            );
        }
        Ok(path)
    }

    /// A call of `profiler`.
    ///
    /// # Errors
    /// Fails where it has not been built.
    pub fn profiler<A: AsRef<std::ffi::OsStr>>(
        &self,
        arguments: impl IntoIterator<Item = A>,
    ) -> Result<Command> {
        let mut command = Command::new(self.binary("profiler")?);
        command.args(arguments);
        Ok(command)
    }

    /// The directory that all others are in.
    pub fn scratch(&self) -> &Path {
        self.scratch.path()
    }

    /// A new, empty directory.
    ///
    /// # Errors
    /// Fails where it cannot be made.
    pub fn folder(&self) -> Result<PathBuf> {
        let folder = tempfile::Builder::new()
            .prefix("")
            .tempdir_in(self.scratch.path())?;
        // Removed with the scratch directory.
        Ok(folder.keep())
    }

    /// A compiled workload, with frame pointers.
    ///
    /// # Errors
    /// As [`Self::build`].
    pub fn compile(&self, name: &str) -> Result<PathBuf> {
        self.build(name, Build::FramePointers, &[])
    }

    /// A compiled workload. `after` goes to the end of the compiler's command line.
    ///
    /// # Errors
    /// Skips the test where the compiler is not there; fails where it refuses.
    pub fn build(&self, name: &str, build: Build, after: &[&str]) -> Result<PathBuf> {
        let mut compiled = self.compiled.lock().unwrap_or_else(PoisonError::into_inner);
        let folder = self.scratch.path().join(build.name());
        let binary = match build {
            Build::Library => folder.join(format!("lib{name}.so")),
            _ => folder.join(name),
        };
        if compiled.insert(binary.clone()) {
            fs::create_dir_all(&folder)?;
            let built = source(name).and_then(|source| build.compile(&source, &binary, after));
            if let Err(error) = built {
                compiled.remove(&binary);
                return Err(error);
            }
        }
        Ok(binary)
    }
}

/// The source of a workload, whatever its language.
fn source(name: &str) -> Result<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("workloads");
    let mut candidates = ["c", "cc", "rs", "go"]
        .iter()
        .map(|ending| folder.join(name).with_extension(ending));
    candidates
        .find(|source| source.is_file())
        .with_context(|| format!("no workload {name}"))
}

fn bin_dir() -> PathBuf {
    if let Some(dir) = std::env::var_os(BIN_DIR) {
        return dir.into();
    }
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let target = std::env::var_os("CARGO_TARGET_DIR").unwrap_or_else(|| "target".into());
    workspace.join(target).join("release")
}
