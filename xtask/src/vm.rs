//! Guests for `cargo xtask test-vm`: Debian's own kernels under qemu, without KVM and without touching this machine.

pub(crate) mod archive;
pub(crate) mod cpio;
pub(crate) mod guest;
pub(crate) mod kernel;
pub(crate) mod modules;
pub(crate) mod outcome;
pub(crate) mod report;
