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
pub struct Reply<T>(Box<dyn FnOnce(T) + Send>);

impl<T> Reply<T> {
    /// Gives the answer.
    pub fn give(self, answer: T) {
        (self.0)(answer);
    }
}

impl<T> fmt::Debug for Reply<T> {
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

    /// Asks one how it is: for now and then, it looks at every connection. False where its inbox is full.
    pub fn ask(&self, shard: usize, reply: impl FnOnce(ShardSnapshot) + Send + 'static) -> bool {
        self.send(shard, Delivery::Snapshot(Reply(Box::new(reply))))
    }

    /// Asks one whether it is there. False where its inbox is full.
    pub fn ping(&self, shard: usize, reply: impl FnOnce(()) + Send + 'static) -> bool {
        self.send(shard, Delivery::Ping(Reply(Box::new(reply))))
    }

    fn send(&self, shard: usize, delivery: Delivery) -> bool {
        self.shards.get(shard).is_some_and(|sender| sender.send(delivery).is_ok())
    }

    /// Times that the monitor saw one stand still.
    pub fn stalls(&self, shard: usize) -> u64 {
        self.stalls.get(shard).map_or(0, |stalls| stalls.load(Ordering::Relaxed))
    }
}
