//! Where things lie in the repository.

use std::path::{Path, PathBuf};

/// The repository's root: the folder that holds this crate.
pub(crate) fn root() -> &'static Path {
    let this_crate = Path::new(env!("CARGO_MANIFEST_DIR"));
    this_crate.parent().unwrap_or(this_crate)
}

/// Everything that is built or fetched goes below this folder.
pub(crate) fn target() -> PathBuf {
    root().join("target")
}

/// Programs this project's build needs and Debian does not package, with a stamp each.
pub(crate) fn tools() -> PathBuf {
    target().join("tools")
}

/// The finished kernel objects, where the agent's build script looks for them.
pub(crate) fn objects() -> PathBuf {
    target().join("bpf")
}

/// Release binaries of the workspace.
pub(crate) fn release() -> PathBuf {
    target().join("release")
}

/// Cargo.toml of the kernel programs, a workspace of their own.
pub(crate) fn ebpf_manifest() -> PathBuf {
    root().join("profiler-ebpf/Cargo.toml")
}
