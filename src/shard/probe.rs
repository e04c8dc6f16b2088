//! Asking shards how they are: a message there, and an answer between two turns.
//!
//! Runs on whatever thread asks; the answer is made on the shard's. Never waits.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use super::core::ShardSnapshot;
use super::driver::Delivery;
use super::inbox::Sender;

/// Takes the answer, on the shard's thread: it must not wait.
pub struct Reply(Box<dyn FnOnce(ShardSnapshot) + Send>);

impl Reply {
    /// Gives the answer.
    pub fn give(self, snapshot: ShardSnapshot) {
        (self.0)(snapshot);
    }
}

impl fmt::Debug for Reply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Reply")
    }
}

/// To ask the shards of a server with; any thread's.
#[derive(Clone, Debug)]
pub struct Probe {
    shards: Vec<Sender<Delivery>>,
    stalls: Vec<Arc<AtomicU64>>,
    draining: Arc<AtomicBool>,
}

impl Probe {
    pub(super) fn new(
        shards: Vec<Sender<Delivery>>,
        stalls: Vec<Arc<AtomicU64>>,
        draining: Arc<AtomicBool>,
    ) -> Self {
        Self { shards, stalls, draining }
    }

    /// How many there are.
    pub fn shards(&self) -> usize {
        self.shards.len()
    }

    /// Whether the server drains.
    pub fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Relaxed)
    }

    /// Asks one. False where its inbox is full.
    pub fn ask(&self, shard: usize, reply: impl FnOnce(ShardSnapshot) + Send + 'static) -> bool {
        let Some(sender) = self.shards.get(shard) else { return false };
        sender.send(Delivery::Snapshot(Reply(Box::new(reply)))).is_ok()
    }

    /// Times that the monitor saw one stand still.
    pub fn stalls(&self, shard: usize) -> u64 {
        self.stalls.get(shard).map_or(0, |stalls| stalls.load(Ordering::Relaxed))
    }
}
