//! `cargo xtask setup`: everything the build needs and the machine lacks. A second run finds all there and does nothing.

use std::path::PathBuf;

use anyhow::Result;

use crate::compiler::Compiler;
use crate::packages::{self, Package};
use crate::process;
use crate::tools::Tool;

/// Installs what the build needs.
#[derive(clap::Args, Debug)]
pub(crate) struct Args {}

impl Args {
    pub(crate) fn run(self) -> Result<()> {
        let toolchain = ensure()?;
        process::heading(&format!(
            "set up: kernel programs by {}, linked by {}",
            toolchain.compiler.describe(),
            toolchain.linker.display()
        ));
        Ok(())
    }
}

/// What builds the kernel programs.
#[derive(Debug)]
pub(crate) struct Toolchain {
    pub(crate) compiler: Compiler,
    pub(crate) linker: PathBuf,
}

const COMPILER: &[Package] = &[
    Package {
        name: "rustc-web",
        why: "Rust compiler for the kernel programs",
        proof: NOTHING,
        elsewhere: RUST_SRC,
    },
    Package {
        name: "cargo-web",
        why: "the cargo that goes with it",
        proof: NOTHING,
        elsewhere: RUST_SRC,
    },
    Package {
        name: "libstd-rust-web-dev-bpf",
        why: "`core` for the BPF target",
        proof: NOTHING,
        elsewhere: RUST_SRC,
    },
];

const RUST_SRC: &str =
    "`rustup component add rust-src`, for a toolchain of Rust 1.95 or later and LLVM 22 or earlier";
/// Outside Debian only `rust-src` will do, which was looked for before any package.
const NOTHING: &[&str] = &[];

const LINKER: &[Package] = &[
    Package {
        name: "llvm-22-dev",
        why: "LLVM's libraries, which bpf-linker is made of",
        proof: &["/usr/lib/llvm-22/bin/llvm-config"],
        elsewhere: "install LLVM 22 with its headers; if need be, link its folder to /usr/lib/llvm-22",
    },
    Package {
        name: "g++",
        why: "C++ linking of bpf-linker; C parts of crates",
        proof: &["c++"],
        elsewhere: "install a C++ compiler, as `c++`",
    },
];

const BPF_LINKER: Tool = Tool {
    name: "bpf-linker",
    version: "0.13.0",
    why: "links the kernel programs; takes one or two minutes, once",
    arguments: &["--no-default-features", "--features", "llvm-22"],
    path: Some("/usr/lib/llvm-22/bin"),
};

/// Sees to it that all is there; says what it installs and why.
pub(crate) fn ensure() -> Result<Toolchain> {
    let rust_src = Compiler::find_rust_src()?;
    let mut wanted = LINKER.to_vec();
    if rust_src.is_none() {
        wanted.extend(COMPILER);
    }
    packages::ensure(&wanted)?;
    Ok(Toolchain {
        compiler: rust_src.unwrap_or(Compiler::DebianWeb),
        linker: BPF_LINKER.ensure()?,
    })
}
