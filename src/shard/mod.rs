//! Everything glommio.

pub mod doorbell;
pub mod executor;
pub mod inbox;
pub mod parker;
pub mod uring;

/// The atomics under the doorbell; loom's in its model check.
mod sync {
    pub use std::sync::atomic::{AtomicBool, Ordering, fence};
}
