//! Compiles `proto/` with protox, which needs no protoc. Tells the linker to route glommio's creation of
//! rings through `src/shard/uring.rs`. Passes the git revision to the program.

/// Returns the git revision for reports, or `unknown` outside of a checkout.
fn revision() -> String {
    let output =
        std::process::Command::new("git").args(["describe", "--always", "--dirty", "--abbrev=12"]).output();
    let output = output.ok().filter(|output| output.status.success());
    let text = output.and_then(|output| String::from_utf8(output.stdout).ok());
    text.map_or("unknown".into(), |text| text.trim().to_owned())
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=proto");
    println!("cargo:rerun-if-changed=build.rs");
    // The revision depends on the sources, because it marks a changed tree as dirty.
    println!("cargo:rerun-if-changed=src");
    // A missing file would cause a rebuild each time.
    for file in [".git/HEAD", ".git/logs/HEAD"].into_iter().filter(|file| std::path::Path::new(file).exists())
    {
        println!("cargo:rerun-if-changed={file}");
    }
    println!("cargo:rustc-env=GIT_REVISION={}", revision());
    let descriptors = protox::compile(["proto/streaming.proto"], ["proto"])?;
    prost_build::Config::new().bytes(["."]).compile_fds(descriptors)?;
    println!("cargo:rustc-link-arg=-Wl,--wrap=io_uring_queue_init_params");
    Ok(())
}
