//! The flag that tells whether a shard must be woken. It is the whole cross-thread protocol.
//!
//! The shard arms it before it parks, and every thread that sends to the shard checks it. A shard that is
//! awake polls its inbox in every turn, so that a send costs only one load. Only a parked shard is woken, by
//! exactly one of its senders (glommio panics if one waker is woken 32,767 times before it runs).
//! `tests/doorbell.rs` checks this file with loom: it compiles it with loom's atomics as `sync`.

use super::sync::{AtomicBool, Ordering, fence};

/// A flag that is armed while a shard may be parked.
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
    /// Creates a doorbell that is not armed.
    pub fn new() -> Self {
        Self { armed: AtomicBool::new(false) }
    }

    /// Called by the shard before it parks. It must then check the inbox once more, and park only if the
    /// inbox is empty.
    pub fn arm(&self) {
        self.armed.store(true, Ordering::SeqCst);
        fence(Ordering::SeqCst);
    }

    /// Called by the shard when it is awake again, for any reason.
    pub fn disarm(&self) {
        self.armed.store(false, Ordering::Relaxed);
    }

    /// Called by a sender after a push. Returns true to the one sender that must wake the shard.
    #[must_use]
    pub fn ring(&self) -> bool {
        fence(Ordering::SeqCst);
        self.armed.load(Ordering::Relaxed) && self.armed.swap(false, Ordering::AcqRel)
    }
}
