//! Embeds the kernel programs, which `cargo xtask ebpf` has built for the BPF
//! target with another compiler.

use std::{env, fs, path::Path};

const OBJECTS: [&str; 2] = ["profiler.bpf.o", "profiler-hash.bpf.o"];

fn main() -> Result<(), env::VarError> {
    let manifest = env::var("CARGO_MANIFEST_DIR")?;
    let out = env::var("OUT_DIR")?;
    println!("cargo::rerun-if-env-changed=PROFILER_BPF_DIR");
    let built =
        env::var("PROFILER_BPF_DIR").unwrap_or_else(|_| format!("{manifest}/../target/bpf"));
    for object in OBJECTS {
        let source = Path::new(&built).join(object);
        println!("cargo::rerun-if-changed={}", source.display());
        if let Err(error) = fs::copy(&source, Path::new(&out).join(object)) {
            println!(
                "cargo::error=kernel programs: {}: {error}; build them with `cargo xtask ebpf`",
                source.display()
            );
        }
    }
    Ok(())
}
