//! Rules about the source text.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

/// Crates without any unsafe code.
const SAFE_CRATES: [&str; 4] = ["proto", "profiler-cli", "xtask", "xtask/bench"];
/// The crate that is part of both workspaces, and so can take its settings from neither.
const SHARED: &str = "profiler-ebpf/abi";
/// Crates of the workspace; the kernel programs are none of them.
const MEMBERS: [&str; 7] = [
    SHARED,
    "profiler-agent",
    "profiler-cli",
    "proto",
    "xtask",
    "xtask/bench",
    "tests",
];
const MAIN_LINES: usize = 150;

/// A crate root (`lib.rs`, `main.rs`, `src/bin/*.rs`) of the safe crates says `#![forbid(unsafe_code)]`.
pub(crate) fn unsafe_is_forbidden(root: &Path) -> Result<Vec<String>> {
    let mut breaches = Vec::new();
    for member in SAFE_CRATES {
        for file in crate_roots(&root.join(member).join("src"))? {
            if !read(&file)?
                .lines()
                .any(|line| line == "#![forbid(unsafe_code)]")
            {
                breaches.push(format!(
                    "{}: no #![forbid(unsafe_code)]",
                    shown(root, &file)
                ));
            }
        }
    }
    Ok(breaches)
}

pub(crate) fn abi_has_only_unsafe_impl(root: &Path) -> Result<Vec<String>> {
    lines_where(root, "profiler-ebpf/abi/src", |code| {
        code.contains("unsafe ") && !code.trim_start().starts_with("unsafe impl ")
    })
}

pub(crate) fn kernel_code_drops_nothing(root: &Path) -> Result<Vec<String>> {
    lines_where(root, "profiler-ebpf/src", |code| code.contains("let _ ="))
}

/// Each file of kernel events names the filter in its code; `mod.rs` holds no event.
pub(crate) fn events_ask_the_filter(root: &Path) -> Result<Vec<String>> {
    let mut breaches = Vec::new();
    for file in rust_files(&root.join("profiler-ebpf/src/events"))? {
        let text = read(&file)?;
        let asks = text.lines().any(|line| code_of(line).contains("admit"));
        if !asks && file.file_name().is_some_and(|name| name != "mod.rs") {
            breaches.push(format!("{}: no call of admit", shown(root, &file)));
        }
    }
    Ok(breaches)
}

pub(crate) fn only_emit_sends(root: &Path) -> Result<Vec<String>> {
    let users = lines_where(root, "profiler-ebpf/src", |code| {
        code.contains("RingBuf") || code.contains("ringbuf")
    })?;
    let allowed = "profiler-ebpf/src/emit.rs:";
    Ok(users
        .into_iter()
        .filter(|user| !user.starts_with(allowed))
        .collect())
}

pub(crate) fn lints_are_inherited(root: &Path) -> Result<Vec<String>> {
    let mut breaches = Vec::new();
    for member in MEMBERS.iter().filter(|member| **member != SHARED) {
        let manifest = root.join(member).join("Cargo.toml");
        if !read(&manifest)?.contains("[lints]\nworkspace = true\n") {
            breaches.push(format!(
                "{}: no [lints] workspace = true",
                shown(root, &manifest)
            ));
        }
    }
    Ok(breaches)
}

pub(crate) fn mains_are_short(root: &Path) -> Result<Vec<String>> {
    let mut breaches = Vec::new();
    for member in MEMBERS.iter().chain(&["profiler-ebpf"]) {
        let main = root.join(member).join("src/main.rs");
        if !main.exists() {
            continue;
        }
        let lines = read(&main)?.lines().count();
        if lines >= MAIN_LINES {
            breaches.push(format!("{}: {lines} lines", shown(root, &main)));
        }
    }
    Ok(breaches)
}

/// The lines below `folder` whose code, comments left out, meets the condition.
fn lines_where(root: &Path, folder: &str, matches: fn(&str) -> bool) -> Result<Vec<String>> {
    let mut found = Vec::new();
    for file in rust_files(&root.join(folder))? {
        for (number, line) in read(&file)?.lines().enumerate() {
            if matches(code_of(line)) {
                found.push(format!(
                    "{}:{}: {}",
                    shown(root, &file),
                    number + 1,
                    line.trim()
                ));
            }
        }
    }
    Ok(found)
}

/// A line without its comment.
fn code_of(line: &str) -> &str {
    line.split("//").next().unwrap_or("")
}

fn crate_roots(source: &Path) -> Result<Vec<PathBuf>> {
    let mut roots: Vec<PathBuf> = ["lib.rs", "main.rs"]
        .iter()
        .map(|name| source.join(name))
        .filter(|file| file.exists())
        .collect();
    let programs = source.join("bin");
    if programs.exists() {
        roots.extend(rust_files(&programs)?);
    }
    Ok(roots)
}

fn rust_files(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    let entries =
        fs::read_dir(folder).with_context(|| format!("cannot list {}", folder.display()))?;
    for entry in entries {
        let path = entry?.path();
        if path.is_dir() {
            files.extend(rust_files(&path)?);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

fn read(file: &Path) -> Result<String> {
    fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))
}

fn shown(root: &Path, file: &Path) -> String {
    file.strip_prefix(root)
        .unwrap_or(file)
        .display()
        .to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use tempfile::TempDir;

    /// A project in which every rule holds, for a test to break.
    fn project() -> TempDir {
        let root = tempfile::tempdir().unwrap();
        for member in MEMBERS.iter().chain(&["profiler-ebpf"]) {
            write(
                &root,
                &format!("{member}/Cargo.toml"),
                "[lints]\nworkspace = true\n",
            );
            write(
                &root,
                &format!("{member}/src/lib.rs"),
                "//! Text.\n#![forbid(unsafe_code)]\n",
            );
        }
        root
    }

    fn write(root: &TempDir, file: &str, text: &str) {
        let file = root.path().join(file);
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(file, text).unwrap();
    }

    #[test]
    fn a_good_project_breaks_nothing() {
        let root = project();
        write(
            &root,
            "proto/src/main.rs",
            "#![forbid(unsafe_code)]\nfn main() {}\n",
        );
        write(
            &root,
            "profiler-ebpf/abi/src/pod.rs",
            "unsafe impl Pod for A {}\n// unsafe here\n",
        );
        write(
            &root,
            "profiler-ebpf/src/emit.rs",
            "// never `let _ =`\nlet _lock = 1;\n",
        );
        write(
            &root,
            "profiler-ebpf/src/events/io.rs",
            "use crate::admit;\n",
        );
        for rule in [
            events_ask_the_filter,
            only_emit_sends,
            unsafe_is_forbidden,
            abi_has_only_unsafe_impl,
            kernel_code_drops_nothing,
            lints_are_inherited,
            mains_are_short,
        ] {
            assert_eq!(rule(root.path()).unwrap(), Vec::<String>::new());
        }
    }

    #[test]
    fn a_crate_root_without_forbid_is_shown() {
        let root = project();
        write(
            &root,
            "profiler-cli/src/lib.rs",
            "// #![forbid(unsafe_code)]\n",
        );
        write(&root, "xtask/src/bin/extra.rs", "fn main() {}\n");
        assert_eq!(
            unsafe_is_forbidden(root.path()).unwrap(),
            [
                "profiler-cli/src/lib.rs: no #![forbid(unsafe_code)]",
                "xtask/src/bin/extra.rs: no #![forbid(unsafe_code)]"
            ]
        );
    }

    #[test]
    fn an_unsafe_block_in_abi_is_shown_with_its_line() {
        let root = project();
        write(
            &root,
            "profiler-ebpf/abi/src/lib.rs",
            "\nfn f() { unsafe { g() } }\n",
        );
        assert_eq!(
            abi_has_only_unsafe_impl(root.path()).unwrap(),
            ["profiler-ebpf/abi/src/lib.rs:2: fn f() { unsafe { g() } }"]
        );
    }

    #[test]
    fn a_dropped_result_in_kernel_code_is_shown() {
        let root = project();
        write(
            &root,
            "profiler-ebpf/src/events/io.rs",
            "    let _ = emit();\n",
        );
        assert_eq!(
            kernel_code_drops_nothing(root.path()).unwrap(),
            ["profiler-ebpf/src/events/io.rs:1: let _ = emit();"]
        );
    }

    #[test]
    fn an_event_without_the_filter_is_shown() {
        let root = project();
        write(&root, "profiler-ebpf/src/events/mod.rs", "mod io;\n");
        write(&root, "profiler-ebpf/src/events/io.rs", "// admit\n");
        assert_eq!(
            events_ask_the_filter(root.path()).unwrap(),
            ["profiler-ebpf/src/events/io.rs: no call of admit"]
        );
    }

    #[test]
    fn a_second_way_out_is_shown() {
        let root = project();
        write(
            &root,
            "profiler-ebpf/src/emit.rs",
            "use aya_ebpf::maps::RingBuf;\n",
        );
        write(
            &root,
            "profiler-ebpf/src/events/io.rs",
            "bpf_ringbuf_output();\n",
        );
        assert_eq!(
            only_emit_sends(root.path()).unwrap(),
            ["profiler-ebpf/src/events/io.rs:1: bpf_ringbuf_output();"]
        );
    }

    #[test]
    fn a_long_main_is_shown() {
        let root = project();
        write(&root, "profiler-agent/src/main.rs", &"\n".repeat(149));
        assert!(mains_are_short(root.path()).unwrap().is_empty());
        write(&root, "profiler-agent/src/main.rs", &"\n".repeat(150));
        assert_eq!(
            mains_are_short(root.path()).unwrap(),
            ["profiler-agent/src/main.rs: 150 lines"]
        );
    }

    #[test]
    fn a_crate_with_its_own_lints_is_shown() {
        let root = project();
        write(
            &root,
            "tests/Cargo.toml",
            "[lints.rust]\nunsafe_code = \"allow\"\n",
        );
        assert_eq!(
            lints_are_inherited(root.path()).unwrap(),
            ["tests/Cargo.toml: no [lints] workspace = true"]
        );
    }

    #[test]
    fn the_members_are_those_of_the_workspace() {
        let manifest = read(&crate::paths::root().join("Cargo.toml")).unwrap();
        for member in MEMBERS {
            assert!(manifest.contains(&format!("\"{member}\"")), "{member}");
        }
    }
}
