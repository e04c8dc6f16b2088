//! Settings of glibc's allocator: keep freed memory.
//!
//! Applied once, at start. Batches are hundreds of kilobytes and live as long as their messages. By default,
//! glibc maps and unmaps each of them, and a shard spent 40 % of its time in page faults
//! (`docs/performance.md`).
#![allow(unsafe_code)]

use std::ffi::c_int;

/// Allocations below this size, in bytes, come from the heap and return to it. This is the largest value that
/// glibc accepts (`mallopt(3)`).
const MMAP_THRESHOLD_BYTES: c_int = 32 << 20;

/// Free memory to keep at the end of the heap, in bytes. Worst case: this much for each thread's arena.
const TRIM_THRESHOLD_BYTES: c_int = c_int::MAX;

/// The step by which the heap grows, in bytes.
const TOP_PAD_BYTES: c_int = 16 << 20;

/// Applies the three settings. Returns false if the C library does not support them; the server then works,
/// but slower.
#[cfg(target_env = "gnu")]
pub fn keep() -> bool {
    let settings = [
        (libc::M_MMAP_THRESHOLD, MMAP_THRESHOLD_BYTES),
        (libc::M_TRIM_THRESHOLD, TRIM_THRESHOLD_BYTES),
        (libc::M_TOP_PAD, TOP_PAD_BYTES),
    ];
    // SAFETY: mallopt takes two integers, may be called at any time, and returns 0 for an unknown parameter.
    settings.iter().all(|(setting, value)| unsafe { libc::mallopt(*setting, *value) } == 1)
}

/// Does nothing and returns false, because the C library is not glibc.
#[cfg(not(target_env = "gnu"))]
pub fn keep() -> bool {
    false
}

#[cfg(all(test, target_env = "gnu"))]
mod tests {
    #[test]
    fn the_c_library_accepts_the_settings() {
        assert!(super::keep());
    }
}
