//! Asking shards how they are: a delivery there, and an answer between two turns.
//!
//! Runs on whatever thread asks; the answer is made on the shard's. Never waits.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use super::core::{Deleted, ShardPulse, ShardSnapshot, Traffic};
use super::delivery::{Delivery, Reply};
use super::inbox::Sender;
use crate::base::error::StoreFault;
use crate::base::names::{FullName, queue_hash};
use crate::base::queue::{QueueInfo, home};
use crate::latency::Recorder;
use crate::store::QueueSummary;

/// To ask the shards of a server with; any thread's.
#[derive(Clone, Debug)]
pub struct Probe {
    shards: Vec<Sender<Delivery>>,
    stalls: Vec<Arc<AtomicU64>>,
    refused_by_acceptor: Arc<AtomicU64>,
    draining: Arc<AtomicBool>,
}

impl Probe {
    pub(super) fn new(
        shards: Vec<Sender<Delivery>>,
        stalls: Vec<Arc<AtomicU64>>,
        refused_by_acceptor: Arc<AtomicU64>,
        draining: Arc<AtomicBool>,
    ) -> Self {
        Self { shards, stalls, refused_by_acceptor, draining }
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

    /// Asks one how long what took since it was asked last, and gives it empty histograms to go on with. False where its inbox is
    /// full: then they are gone.
    pub fn latency(
        &self,
        shard: usize,
        empty: Recorder,
        reply: impl FnOnce((Recorder, ShardPulse)) + Send + 'static,
    ) -> bool {
        self.send(shard, Delivery::Latency(empty, Reply::new(reply)))
    }

    /// The shard that creates and deletes a queue.
    pub fn home(&self, name: &FullName) -> usize {
        usize::from(home(queue_hash(&name.0, &name.1), self.shards.len() as u16))
    }

    /// Asks a queue's home to delete it. False if the home's inbox is full.
    pub fn delete(
        &self,
        name: FullName,
        reply: impl FnOnce(Result<Deleted, StoreFault>) + Send + 'static,
    ) -> bool {
        self.send(self.home(&name), Delivery::Delete(name, Reply::new(reply)))
    }

    /// Asks one what its store holds of each queue. False where its inbox is full.
    pub fn queues(
        &self,
        shard: usize,
        reply: impl FnOnce(Result<Vec<(FullName, QueueSummary)>, StoreFault>) + Send + 'static,
    ) -> bool {
        self.send(shard, Delivery::Queues(Reply::new(reply)))
    }

    /// Asks one where its partitions of these queues end and where its consumers are. False where its inbox is full.
    pub fn traffic(
        &self,
        shard: usize,
        of: Arc<Vec<(FullName, QueueInfo)>>,
        reply: impl FnOnce(Traffic) + Send + 'static,
    ) -> bool {
        self.send(shard, Delivery::Traffic(of, Reply::new(reply)))
    }

    /// Has every shard look at its store.
    pub fn wake(&self) {
        for shard in 0..self.shards() {
            // One whose inbox is full is awake.
            self.send(shard, Delivery::StoreNews);
        }
    }

    /// Asks one whether it is there. False where its inbox is full.
    pub fn ping(&self, shard: usize, reply: impl FnOnce(()) + Send + 'static) -> bool {
        self.send(shard, Delivery::Ping(Reply::new(reply)))
    }

    fn send(&self, shard: usize, delivery: Delivery) -> bool {
        self.shards.get(shard).is_some_and(|sender| sender.send(delivery).is_ok())
    }

    /// Connections that the acceptor has refused with 503, for want of descriptors.
    pub fn refused_by_acceptor(&self) -> u64 {
        self.refused_by_acceptor.load(Ordering::Relaxed)
    }

    /// Times that the monitor saw one stand still.
    pub fn stalls(&self, shard: usize) -> u64 {
        self.stalls.get(shard).map_or(0, |stalls| stalls.load(Ordering::Relaxed))
    }
}
