//! `cargo xtask`: builds, tests and checks the project.
#![forbid(unsafe_code)]

fn main() {}
