//! Compiles `proto/` (protox: no protoc needed) and asks the linker to route glommio's ring set-up
//! through `src/shard/uring.rs`.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=proto");
    println!("cargo:rerun-if-changed=build.rs");
    let descriptors = protox::compile(["proto/streaming.proto"], ["proto"])?;
    prost_build::Config::new().bytes(["."]).compile_fds(descriptors)?;
    println!("cargo:rustc-link-arg=-Wl,--wrap=io_uring_queue_init_params");
    Ok(())
}
