//! The process' heap, told to keep the memory that it has.
//!
//! Runs once, at start. Batches are hundreds of kilobytes and live as long as their messages: by its defaults, glibc
//! maps and unmaps each of them, and a shard spent 40 % of its time in page faults (`perf/README.md`).
#![allow(unsafe_code)]

use std::ffi::c_int;

/// Allocations below this come from the heap and stay with it, bytes: the most that glibc takes (`mallopt(3)`).
const MMAP_THRESHOLD_BYTES: c_int = 32 << 20;

/// Free memory at the end of the heap that is kept, bytes. Worst case: this for each thread's arena.
const TRIM_THRESHOLD_BYTES: c_int = c_int::MAX;

/// What the heap grows by, bytes.
const TOP_PAD_BYTES: c_int = 16 << 20;

/// Sets the three. False where the C library knows no such settings; all works without them, slower.
#[cfg(target_env = "gnu")]
pub fn keep() -> bool {
    let settings = [
        (libc::M_MMAP_THRESHOLD, MMAP_THRESHOLD_BYTES),
        (libc::M_TRIM_THRESHOLD, TRIM_THRESHOLD_BYTES),
        (libc::M_TOP_PAD, TOP_PAD_BYTES),
    ];
    // SAFETY: mallopt takes two integers, may be called at any time, and says 0 where it knows one of them not.
    settings.iter().all(|(setting, value)| unsafe { libc::mallopt(*setting, *value) } == 1)
}

/// Sets nothing.
#[cfg(not(target_env = "gnu"))]
pub fn keep() -> bool {
    false
}

#[cfg(all(test, target_env = "gnu"))]
mod tests {
    #[test]
    fn the_c_library_takes_the_settings() {
        assert!(super::keep());
    }
}
