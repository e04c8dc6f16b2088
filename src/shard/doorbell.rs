//! The flag that decides whether a shard must be woken: the whole of the cross-thread protocol.
//!
//! Shared by a shard, which arms it before it parks, and by every thread that sends to it. A shard that
//! is awake polls its inbox in every turn, so a sender then pays one load; only a parked shard is woken,
//! and by exactly one of its senders (glommio panics when one waker is woken 32,767 times before it runs).
//! Checked by loom in `tests/doorbell.rs`, which compiles this file with loom's atomics as `sync`.

use super::sync::{AtomicBool, Ordering, fence};

/// See the module's page.
#[derive(Debug)]
pub struct Doorbell {
    armed: AtomicBool,
}

impl Default for Doorbell {
    fn default() -> Self {
        Self::new()
    }
}

impl Doorbell {
    /// A bell of a shard that is awake.
    pub fn new() -> Self {
        Self { armed: AtomicBool::new(false) }
    }

    /// Consumer: about to park. It must look into the inbox once more after this, and park only if that
    /// is empty.
    pub fn arm(&self) {
        self.armed.store(true, Ordering::SeqCst);
        fence(Ordering::SeqCst);
    }

    /// Consumer: awake again, for whatever reason.
    pub fn disarm(&self) {
        self.armed.store(false, Ordering::Relaxed);
    }

    /// Producer: something was pushed. True for the one that must wake the consumer.
    #[must_use]
    pub fn ring(&self) -> bool {
        fence(Ordering::SeqCst);
        self.armed.load(Ordering::Relaxed) && self.armed.swap(false, Ordering::AcqRel)
    }
}
