//! Passes the same linker argument as millstream's build.rs, which explains it.

fn main() {
    println!("cargo:rustc-link-arg=-Wl,--wrap=io_uring_queue_init_params");
}
