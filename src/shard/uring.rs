//! Sets the flag `IORING_SETUP_COOP_TASKRUN` on every io_uring that glommio creates.
//!
//! Runs at the start of an executor, on the thread that creates the rings. Never runs on the data path.
//!
//! glommio 0.9 creates its rings without flags, so the kernel interrupts a running shard for every completion
//! of a poll. With the flag the completion waits for the shard's next system call: 128 connections made
//! 165,000 small round trips a second on one core instead of 82,000 (`docs/decisions/coop-taskrun.md`).
//! glommio has no setting for it, so the linker redirects its calls to this file (`build.rs`,
//! `--wrap=io_uring_queue_init_params`). A kernel before 5.19 rejects the flag. The ring is then created
//! without it.
#![allow(unsafe_code)]

use std::ffi::{c_int, c_uint, c_void};
use std::sync::atomic::{AtomicU8, Ordering};

use rustix::io::Errno;
use rustix::io_uring::{
    IoringEnterFlags, IoringRegisterOp, io_uring_enter, io_uring_params, io_uring_register, io_uring_setup,
};

/// From the kernel header `linux/io_uring.h`.
const IORING_SETUP_IOPOLL: c_uint = 1 << 0;
/// From the kernel header `linux/io_uring.h`. Since Linux 5.19.
const IORING_SETUP_COOP_TASKRUN: c_uint = 1 << 8;

/// The first fields of `struct io_uring_params`. The other fields are not accessed.
#[repr(C)]
pub struct RingParams {
    sq_entries: c_uint,
    cq_entries: c_uint,
    flags: c_uint,
}

/// How the kernel reacted to the flag.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TaskRun {
    /// No ring has been created yet, or the linker did not redirect the call to this file.
    Unknown,
    /// Completions wait for the shard's next system call.
    Cooperative,
    /// The kernel is too old: completions interrupt the shard.
    Interrupting,
}

/// Checks whether a ring can be created, and whether its two other system calls are allowed.
pub fn probe() -> Result<(), Errno> {
    let mut params = io_uring_params::default();
    // SAFETY: only creates a ring of two entries, which is closed at once and never mapped.
    let ring = unsafe { io_uring_setup(2, &mut params) }?;
    // SAFETY: submits nothing and waits for nothing.
    unsafe { io_uring_enter(&ring, 0, 0, IoringEnterFlags::empty()) }?;
    // SAFETY: passes no memory. No buffers are registered, so an allowed call fails with an error that says
    // that.
    let registered =
        unsafe { io_uring_register(&ring, IoringRegisterOp::UnregisterBuffers, std::ptr::null(), 0) };
    match registered {
        Err(error @ (Errno::PERM | Errno::ACCESS | Errno::NOSYS)) => Err(error),
        _ => Ok(()),
    }
}

static SEEN: AtomicU8 = AtomicU8::new(0);

/// Returns how completions reach the shards of this process, for the line that the server logs at its start.
pub fn task_run() -> TaskRun {
    match SEEN.load(Ordering::Relaxed) {
        0 => TaskRun::Unknown,
        1 => TaskRun::Cooperative,
        _ => TaskRun::Interrupting,
    }
}

unsafe extern "C" {
    fn __real_io_uring_queue_init_params(
        entries: c_uint,
        ring: *mut c_void,
        params: *mut RingParams,
    ) -> c_int;
}

/// Replaces liburing's function, which has the same name without the prefix, for glommio's calls.
///
/// # Safety
/// The same as for liburing's function: `ring` and `params` must point to valid structures of its types.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn __wrap_io_uring_queue_init_params(
    entries: c_uint,
    ring: *mut c_void,
    params: *mut RingParams,
) -> c_int {
    // SAFETY: the caller (glommio, through liburing's own signature) passes a valid `io_uring_params`, which
    // starts with the fields of `RingParams`. Both pointers are passed to the real function unchanged.
    unsafe {
        let asked = (*params).flags;
        if asked & IORING_SETUP_IOPOLL != 0 {
            return __real_io_uring_queue_init_params(entries, ring, params);
        }
        (*params).flags = asked | IORING_SETUP_COOP_TASKRUN;
        let result = __real_io_uring_queue_init_params(entries, ring, params);
        if result != -libc::EINVAL {
            SEEN.store(1, Ordering::Relaxed);
            return result;
        }
        SEEN.store(2, Ordering::Relaxed);
        (*params).flags = asked;
        __real_io_uring_queue_init_params(entries, ring, params)
    }
}
