//! How workloads are compiled: every compiler's flags are here.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::{run, skip};

/// In every C and C++ workload.
const COMMON: &[&str] = &["-O2", "-Wall", "-Wextra", "-pthread"];

/// Frame pointers everywhere, also in functions that call nothing, and every call a call.
const FRAME_POINTERS: &[&str] = &[
    "-g",
    "-fno-omit-frame-pointer",
    "-mno-omit-leaf-frame-pointer",
    "-fno-optimize-sibling-calls",
];

/// As distributions ship programs. No line tables: a frame is a function, none of them inlined.
const FRAMELESS: &[&str] = &["-g0", "-fomit-frame-pointer"];

/// A way to make a program of a source. The language follows from the file's ending.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Build {
    /// With frame pointers, by the system's linker.
    FramePointers,
    /// Without, by the system's linker.
    Frameless,
    /// Without, at a fixed address.
    FixedAddress,
    /// Without, and with no library.
    Static,
    /// Without, with no library, at any address.
    StaticPie,
    /// Without, linked by gold.
    Gold,
    /// Without, linked by LLD, whose segments' addresses are not their offsets in the file.
    Lld,
    /// Without, with the linkage table that indirect branch tracking needs (`.plt.sec`).
    BranchTracking,
    /// Without, with every symbol bound at the start (`.plt.got`).
    BoundAtStart,
    /// Without, with unwind information in `.debug_frame` and none in `.eh_frame`.
    DebugFrame,
    /// Without, against musl's libc.
    Musl,
    /// A shared library, without frame pointers.
    Library,
}

impl Build {
    /// In words, for file names and tables.
    pub fn name(self) -> &'static str {
        match self {
            Self::FramePointers => "frame-pointers",
            Self::Frameless => "frameless",
            Self::FixedAddress => "fixed-address",
            Self::Static => "static",
            Self::StaticPie => "static-pie",
            Self::Gold => "gold",
            Self::Lld => "lld",
            Self::BranchTracking => "branch-tracking",
            Self::BoundAtStart => "bound-at-start",
            Self::DebugFrame => "debug-frame",
            Self::Musl => "musl",
            Self::Library => "library",
        }
    }

    fn flags(self) -> &'static [&'static str] {
        match self {
            Self::FramePointers | Self::Frameless | Self::Musl => &[],
            Self::FixedAddress => &["-no-pie"],
            Self::Static => &["-static"],
            Self::StaticPie => &["-static-pie"],
            Self::Gold => &["-fuse-ld=gold"],
            Self::Lld => &["-fuse-ld=lld"],
            Self::BranchTracking => &["-fcf-protection", "-Wl,-z,ibtplt"],
            Self::BoundAtStart => &["-Wl,-z,now"],
            Self::DebugFrame => &[
                "-fno-asynchronous-unwind-tables",
                "-fno-unwind-tables",
                // Writes .debug_frame without line tables.
                "-g1",
            ],
            Self::Library => &["-shared", "-fPIC"],
        }
    }

    /// Makes `binary` of `source`. `after` comes last: libraries, for example.
    ///
    /// # Errors
    /// Skips the test where this machine lacks the compiler or the linker; fails where they refuse.
    pub fn compile(self, source: &Path, binary: &Path, after: &[&str]) -> Result<()> {
        let ending = source.extension().and_then(|ending| ending.to_str());
        let mut command = match ending {
            Some("c") => self.c_compiler()?,
            Some("cc") => cpp_compiler()?,
            Some("rs") => return rust(source, binary),
            Some("go") => return go(source, binary),
            _ => anyhow::bail!("{} is in no known language", source.display()),
        };
        let frames = match self {
            Self::FramePointers => FRAME_POINTERS,
            _ => FRAMELESS,
        };
        command.args(COMMON).args(frames).args(self.flags());
        command.arg("-o").arg(binary).arg(source).args(after);
        run(&mut command)?.expect_code(0)?;
        Ok(())
    }

    fn c_compiler(self) -> Result<Command> {
        if self == Self::Musl {
            return Ok(Command::new(program("musl-gcc")?));
        }
        let mut gcc = Command::new(program("gcc")?);
        match self {
            Self::Gold => {
                program("ld.gold")?;
            }
            Self::Lld if program("ld.lld").is_err() => {
                gcc.arg(format!("-B{}", rust_lld()?.display()));
            }
            _ => {}
        }
        Ok(gcc)
    }
}

fn cpp_compiler() -> Result<Command> {
    let mut command = Command::new(program("g++")?);
    command.arg("-std=c++17");
    Ok(command)
}

/// In release mode, by whatever linker this compiler takes: LLD, since Rust 1.90 on Linux.
fn rust(source: &Path, binary: &Path) -> Result<()> {
    let mut rustc = Command::new(program("rustc")?);
    rustc.args(["--edition", "2024", "-O", "-C", "panic=unwind", "-o"]);
    run(rustc.arg(binary).arg(source))?.expect_code(0)?;
    Ok(())
}

/// Without modules, caches of others or a network.
fn go(source: &Path, binary: &Path) -> Result<()> {
    let folder = binary.parent().context("a binary without a folder")?;
    let mut go = Command::new(program("go")?);
    go.args(["build", "-o"]).arg(binary).arg(source);
    go.env("GOFLAGS", "-mod=mod").env("GOPROXY", "off");
    go.env("GOTOOLCHAIN", "local").env("GO111MODULE", "off");
    go.env("CGO_ENABLED", "0")
        .env("GOCACHE", folder.join("go-cache"));
    run(&mut go)?.expect_code(0)?;
    Ok(())
}

/// The LLD that comes with Rust.
fn rust_lld() -> Result<PathBuf> {
    let mut rustc = Command::new(program("rustc")?);
    let printed = run(rustc.args(["--print", "sysroot"]))?;
    let target = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
    let folder = Path::new(printed.stdout.trim())
        .join("lib/rustlib")
        .join(target)
        .join("bin/gcc-ld");
    if folder.join("ld.lld").is_file() {
        return Ok(folder);
    }
    Err(skip("neither ld.lld nor the LLD of rustc is here"))
}

/// A program on the PATH.
///
/// # Errors
/// Skips the test where it is not there.
pub fn program(name: &str) -> Result<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::env::split_paths(&path).chain(["/usr/local/go/bin".into()]);
    let mut found = folders.map(|folder| folder.join(name));
    found
        .find(|file| file.is_file())
        .ok_or_else(|| skip(format!("{name} is not installed")))
}
