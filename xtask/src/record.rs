//! `cargo xtask record`: from a fresh clone to pictures of this host.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};

use crate::{build, paths, process};

/// Builds, then captures this host for 10 s into target/capture/.
#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    /// Arguments for `profiler record`; what they do not give is -d 10s, -e cpu,offcpu,io and -o target/capture/.
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    arguments: Vec<String>,
}

impl Args {
    /// Returns the exit code of `profiler record`.
    pub(crate) fn run(self) -> Result<u8> {
        let given = with_leading_dashes(self.arguments, std::env::args().nth(2));
        build::ensure()?;
        let folder = paths::target().join("capture");
        let mut command = Command::new(paths::release().join("profiler"));
        command
            .arg("record")
            .args(defaults(&given, &folder))
            .args(&given);
        process::heading(&process::describe(&command));
        let status = command
            .status()
            .with_context(|| format!("cannot start `{}`", process::describe(&command)))?;
        // A command ended by a signal has no code; 1 means failed.
        let code = status.code().and_then(|code| u8::try_from(code).ok());
        Ok(code.unwrap_or(1))
    }
}

/// Puts back the `--` in front of a command to profile, which clap takes for its own when it comes first.
fn with_leading_dashes(mut arguments: Vec<String>, first: Option<String>) -> Vec<String> {
    if first.as_deref() == Some("--") {
        arguments.insert(0, "--".to_owned());
    }
    arguments
}

/// What is asked for unless the caller says otherwise.
fn defaults(given: &[String], folder: &Path) -> Vec<String> {
    let mut arguments = Vec::new();
    let mut add = |pair: [&str; 2]| arguments.extend(pair.map(str::to_owned));
    // The end of a command to profile is the end of its capture.
    if !gives(given, "-d", "--duration") && !given.iter().any(|argument| argument == "--") {
        add(["-d", "10s"]);
    }
    if !gives(given, "-e", "--events") {
        add(["-e", "cpu,offcpu,io"]);
    }
    if !gives(given, "-o", "--out") {
        // The slash at the end asks for a folder with every format in it.
        add(["-o", &format!("{}/", folder.display())]);
    }
    arguments
}

/// True when the flags before `--` hold this one, in any spelling.
fn gives(arguments: &[String], short: &str, long: &str) -> bool {
    let mut flags = arguments.iter().take_while(|argument| *argument != "--");
    flags.any(|argument| {
        let rest = argument.strip_prefix(long);
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('='))
            || argument.starts_with(short)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(line: &str) -> Vec<String> {
        line.split_whitespace().map(str::to_owned).collect()
    }

    fn defaults_of(line: &str) -> String {
        defaults(&words(line), Path::new("out")).join(" ")
    }

    #[test]
    fn nothing_given_asks_for_everything() {
        assert_eq!(defaults_of(""), "-d 10s -e cpu,offcpu,io -o out/");
    }

    #[test]
    fn a_given_flag_has_no_default_in_any_spelling() {
        assert_eq!(defaults_of("-d 1s --events=cpu --out x.svg"), "");
        assert_eq!(defaults_of("-d1s -ecpu -ox.svg"), "");
    }

    #[test]
    fn flags_of_a_profiled_command_are_not_ours() {
        assert_eq!(defaults_of("-- sort -d x -o y"), "-e cpu,offcpu,io -o out/");
    }

    #[test]
    fn a_leading_separator_is_kept() {
        let kept = with_leading_dashes(words("sleep 1"), Some("--".to_owned()));
        assert_eq!(kept, words("-- sleep 1"));
        let other = with_leading_dashes(words("-d 1s -- sleep 1"), Some("-d".to_owned()));
        assert_eq!(other, words("-d 1s -- sleep 1"));
    }
}
