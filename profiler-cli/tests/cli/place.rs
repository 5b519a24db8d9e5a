//! A directory to work in, and the program run in it.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use assert_cmd::Command;
use profiler_proto::{Capture, write_capture};

/// A directory of its own for one test, and the program to run in it.
pub(crate) struct Place {
    dir: tempfile::TempDir,
}

impl Place {
    pub(crate) fn new() -> Self {
        Self {
            dir: tempfile::tempdir().unwrap(),
        }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// The program, with this as its current directory and no agent in its `PATH`.
    pub(crate) fn profiler(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_profiler"));
        command.current_dir(self.dir.path()).args(args);
        command
    }

    pub(crate) fn write(&self, name: &str, capture: &Capture) -> PathBuf {
        let path = self.path(name);
        write_capture(capture, File::create(&path).unwrap()).unwrap();
        path
    }

    /// Names of the files that are there, sorted.
    pub(crate) fn files(&self) -> Vec<String> {
        names(self.dir.path())
    }
}

pub(crate) fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<_> = fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

/// Runs to the end; exit code, standard output and standard error.
pub(crate) fn run(mut command: Command) -> (i32, String, String) {
    let output = command.output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    let code = output.status.code().unwrap_or(-1);
    (code, text(output.stdout), text(output.stderr))
}
