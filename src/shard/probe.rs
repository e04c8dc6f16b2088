//! Asking shards how they are: a message there, and an answer between two turns.
//!
//! Runs on whatever thread asks; the answer is made on the shard's. Never waits.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use super::core::ShardSnapshot;
use super::delivery::{Delivery, Reply};
use super::inbox::Sender;

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

    /// Asks one how it is: for now and then, it looks at every connection. False where its inbox is full.
    pub fn ask(&self, shard: usize, reply: impl FnOnce(ShardSnapshot) + Send + 'static) -> bool {
        self.send(shard, Delivery::Snapshot(Reply::new(reply)))
    }

    /// Asks one whether it is there. False where its inbox is full.
    pub fn ping(&self, shard: usize, reply: impl FnOnce(()) + Send + 'static) -> bool {
        self.send(shard, Delivery::Ping(Reply::new(reply)))
    }

    fn send(&self, shard: usize, delivery: Delivery) -> bool {
        self.shards.get(shard).is_some_and(|sender| sender.send(delivery).is_ok())
    }

    /// Times that the monitor saw one stand still.
    pub fn stalls(&self, shard: usize) -> u64 {
        self.stalls.get(shard).map_or(0, |stalls| stalls.load(Ordering::Relaxed))
    }
}
