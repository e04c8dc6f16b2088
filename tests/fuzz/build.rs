//! As the build.rs of millstream, which says why.

fn main() {
    println!("cargo:rustc-link-arg=-Wl,--wrap=io_uring_queue_init_params");
}
