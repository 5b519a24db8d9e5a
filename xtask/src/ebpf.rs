//! `cargo xtask ebpf`: compiles the kernel programs into `target/bpf/`, where the agent's build embeds them from.
//!
//! The object is built twice: with task storage (Linux 5.11 and later), and without, because a kernel refuses an object
//! whole when it holds a map type the kernel does not know.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};

use crate::setup::{self, Toolchain};
use crate::{paths, process};

const TARGET: &str = "bpfel-unknown-none";
const PROGRAM: &str = "profiler-ebpf";

/// Compiles the kernel programs.
#[derive(clap::Args, Debug)]
pub(crate) struct Args {}

impl Args {
    pub(crate) fn run(self) -> Result<()> {
        let toolchain = setup::ensure()?;
        process::heading(&format!(
            "kernel programs, by {}",
            toolchain.compiler.describe()
        ));
        build(&toolchain, &[])
    }
}

/// One build of the kernel programs.
struct Variant {
    file: &'static str,
    arguments: &'static [&'static str],
}

const VARIANTS: [Variant; 2] = [
    Variant {
        file: "profiler.bpf.o",
        arguments: &[],
    },
    Variant {
        file: "profiler-hash.bpf.o",
        arguments: &["--no-default-features"],
    },
];

/// Names of the finished objects in `target/bpf/`.
pub(crate) fn object_files() -> impl Iterator<Item = &'static str> {
    VARIANTS.iter().map(|variant| variant.file)
}

/// Sets up, then compiles; for the commands that need the objects.
pub(crate) fn ensure() -> Result<Toolchain> {
    let toolchain = setup::ensure()?;
    build(&toolchain, &[])?;
    Ok(toolchain)
}

/// Compiles every variant; `extra` goes to cargo.
pub(crate) fn build(toolchain: &Toolchain, extra: &[&str]) -> Result<()> {
    let own_target = paths::target().join("ebpf");
    for variant in &VARIANTS {
        let mut cargo = toolchain.compiler.cargo();
        cargo
            .current_dir(paths::root())
            .env("CARGO_TARGET_DIR", &own_target)
            .env("CARGO_TARGET_BPFEL_UNKNOWN_NONE_LINKER", &toolchain.linker)
            .env("CARGO_ENCODED_RUSTFLAGS", flags().join("\x1f"))
            .args(["build", "--quiet", "--release", "--target", TARGET])
            .args(["--bin", PROGRAM, "--manifest-path"])
            .arg(paths::ebpf_manifest())
            .args(toolchain.compiler.build_arguments())
            .args(variant.arguments)
            .args(extra);
        process::run(&mut cargo)?;
        let built = own_target.join(TARGET).join("release").join(PROGRAM);
        copy_if_changed(&built, &paths::objects().join(variant.file))?;
    }
    Ok(())
}

fn flags() -> [String; 3] {
    [
        // Where user registers lie depends on the machine the object will run on.
        format!("--cfg=bpf_target_arch=\"{}\"", std::env::consts::ARCH),
        // Types for BTF come from the debug information.
        "-Cdebuginfo=2".to_owned(),
        "-Clink-arg=--btf".to_owned(),
    ]
}

/// Leaves an equal file alone, so that cargo does not build the agent again.
fn copy_if_changed(from: &Path, to: &Path) -> Result<()> {
    let new = fs::read(from).with_context(|| format!("cannot read {}", from.display()))?;
    if fs::read(to).is_ok_and(|old| old == new) {
        return Ok(());
    }
    if let Some(folder) = to.parent() {
        fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    }
    fs::write(to, new).with_context(|| format!("cannot write {}", to.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_equal_object_is_not_written_again() {
        let folder = tempfile::tempdir().unwrap();
        let (from, to) = (folder.path().join("a"), folder.path().join("out/b"));
        fs::write(&from, "one").unwrap();
        copy_if_changed(&from, &to).unwrap();
        let first = fs::metadata(&to).unwrap().modified().unwrap();
        copy_if_changed(&from, &to).unwrap();
        assert_eq!(fs::metadata(&to).unwrap().modified().unwrap(), first);
        fs::write(&from, "two").unwrap();
        copy_if_changed(&from, &to).unwrap();
        assert_eq!(fs::read_to_string(&to).unwrap(), "two");
    }
}
