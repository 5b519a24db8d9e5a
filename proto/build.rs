//! Generates the messages, the client and the server from the .proto files, without `protoc`.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=proto");
    let descriptors = protox::compile(["profiler/v1/profiler.proto"], ["proto"])?;
    tonic_prost_build::configure()
        // Sorted maps: the same message always encodes to the same bytes.
        .btree_map(".")
        .compile_fds(descriptors)?;
    Ok(())
}
