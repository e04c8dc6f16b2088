//! Sends questions to the shards from other threads.
//!
//! A question is a delivery to the shard's inbox. The shard calls the `reply` on its own thread, between two
//! turns. A method that sends a question does not wait for the answer. It returns false if the inbox is full,
//! and drops the `reply`.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use serde_json::{Map, Value};

use super::certificates::Certificates;
use super::core::{self, ConnectionId, Deleted, Roster, ShardPulse, ShardSnapshot, Traffic};
use super::delivery::{Delivery, Reply};
use super::inbox::Sender;
use crate::base::error::StoreFault;
use crate::base::manage::{Manage, Managed};
use crate::base::names::{FullName, queue_hash};
use crate::base::queue::{PartitionKey, QueueInfo, home};
use crate::base::units::Partition;
use crate::base::wish::{AlterFault, Alteration, Created, Described, Granted, Wish};
use crate::latency::Recorder;
use crate::store::{Queues, Tail};

/// A handle on the shards of a server. Any thread may use it.
#[derive(Clone, Debug)]
pub struct Probe {
    shards: Vec<Sender<Delivery>>,
    stalls: Vec<Arc<AtomicU64>>,
    refused_by_acceptor: Arc<AtomicU64>,
    leaving: Arc<Leaving>,
    certificates: Option<Certificates>,
}

/// How far the end of the server has come.
#[derive(Debug, Default)]
pub(super) struct Leaving {
    /// It will drain soon, and must get no new clients.
    pub(super) is_announced: AtomicBool,
    /// It drains.
    pub(super) is_draining: AtomicBool,
}

impl Probe {
    pub(super) fn new(
        shards: Vec<Sender<Delivery>>,
        stalls: Vec<Arc<AtomicU64>>,
        refused_by_acceptor: Arc<AtomicU64>,
        leaving: Arc<Leaving>,
        certificates: Option<Certificates>,
    ) -> Self {
        Self { shards, stalls, refused_by_acceptor, leaving, certificates }
    }

    /// Returns the number of shards.
    pub fn shards(&self) -> usize {
        self.shards.len()
    }

    /// Returns whether the server is draining.
    pub fn is_draining(&self) -> bool {
        self.leaving.is_draining.load(Ordering::Relaxed)
    }

    /// Returns whether the server has announced that it will drain (`drain_announce`).
    pub fn is_announced(&self) -> bool {
        self.leaving.is_announced.load(Ordering::Relaxed)
    }

    /// Returns the handle on the certificates. `None` if the server has no port for TLS.
    pub fn certificates(&self) -> Option<&Certificates> {
        self.certificates.as_ref()
    }

    /// Asks a shard for a snapshot of its state. The shard looks at every connection for it, so ask rarely.
    pub fn ask(&self, shard: usize, reply: impl FnOnce(ShardSnapshot) + Send + 'static) -> bool {
        self.send(shard, Delivery::Snapshot(Reply::new(reply)))
    }

    /// Asks a shard for the latencies since it was last asked, and gives it empty histograms to continue
    /// with.
    pub fn latency(
        &self,
        shard: usize,
        empty: Recorder,
        reply: impl FnOnce((Recorder, ShardPulse)) + Send + 'static,
    ) -> bool {
        self.send(shard, Delivery::Latency(empty, Reply::new(reply)))
    }

    /// Returns the number of the shard that creates, alters and deletes the queue.
    pub fn home(&self, name: &FullName) -> usize {
        usize::from(home(queue_hash(&name.0, &name.1), self.shards.len() as u16))
    }

    /// Asks a queue's home to delete it.
    pub fn delete(
        &self,
        name: FullName,
        reply: impl FnOnce(Result<Deleted, StoreFault>) + Send + 'static,
    ) -> bool {
        self.send(self.home(&name), Delivery::Delete(name, Reply::new(reply)))
    }

    /// Asks a queue's home to describe it: [`StoreFault::NoQueue`] if there is no queue of that name.
    pub fn find(
        &self,
        name: FullName,
        reply: impl FnOnce(Result<Described, AlterFault>) + Send + 'static,
    ) -> bool {
        self.wish(name, Wish::Find, |found| reply(found.map(|found| found.queue)))
    }

    /// Asks a queue's home to create it with these attributes, of which `_partitions` says how many partitions it has. A
    /// queue that exists is not changed. Does not need `auto_create`.
    pub fn create(
        &self,
        name: FullName,
        attributes: Map<String, Value>,
        reply: impl FnOnce(Result<Created, AlterFault>) + Send + 'static,
    ) -> bool {
        self.wish(name, Wish::Create(attributes), reply)
    }

    /// Asks a queue's home to alter it. The answer comes once that is durable. Open operations see the change from then
    /// on. As with a deletion, there is no answer while the disk fails.
    pub fn alter(
        &self,
        name: FullName,
        alteration: Alteration,
        reply: impl FnOnce(Result<Described, AlterFault>) + Send + 'static,
    ) -> bool {
        self.wish(name, Wish::Alter(alteration), |granted| reply(granted.map(|altered| altered.queue)))
    }

    fn wish(&self, name: FullName, wish: Wish, reply: impl FnOnce(Granted) + Send + 'static) -> bool {
        self.send(self.home(&name), Delivery::Wish(name, wish, Reply::new(reply)))
    }

    /// Asks the owner of a partition ([`QueueInfo::owner`]) to count, find or delete its messages.
    pub fn manage(
        &self,
        shard: usize,
        partition: PartitionKey,
        what: Manage,
        reply: impl FnOnce(Result<Managed, StoreFault>) + Send + 'static,
    ) -> bool {
        self.send(shard, Delivery::Manage(partition, what, Reply::new(reply)))
    }

    /// Asks a shard for what its store holds of each queue.
    pub fn queues(&self, shard: usize, reply: impl FnOnce(Queues) + Send + 'static) -> bool {
        self.send(shard, Delivery::Queues(Reply::new(reply)))
    }

    /// Asks a shard where its partitions of these queues end, and where its consumers are.
    pub fn traffic(
        &self,
        shard: usize,
        of: Arc<Vec<(FullName, QueueInfo)>>,
        reply: impl FnOnce(Traffic) + Send + 'static,
    ) -> bool {
        self.send(shard, Delivery::Traffic(of, Reply::new(reply)))
    }

    /// Asks a shard where its partitions of these queues end.
    pub fn ends(
        &self,
        shard: usize,
        of: Arc<Vec<(FullName, QueueInfo)>>,
        reply: impl FnOnce(Vec<(FullName, Partition, Tail)>) + Send + 'static,
    ) -> bool {
        self.send(shard, Delivery::Ends(of, Reply::new(reply)))
    }

    /// Asks a shard to describe some of its connections: those from this slot on.
    pub fn roster(&self, shard: usize, from: u32, reply: impl FnOnce(Roster) + Send + 'static) -> bool {
        self.send(shard, Delivery::Roster(from, Reply::new(reply)))
    }

    /// Asks a shard to close a connection. The answer says whether it was open.
    pub fn dismiss(&self, shard: usize, id: ConnectionId, reply: impl FnOnce(bool) + Send + 'static) -> bool {
        self.send(shard, Delivery::Dismiss(id, Reply::new(reply)))
    }

    /// Makes every shard poll its store.
    pub fn wake(&self) {
        for shard in 0..self.shards() {
            // A shard whose inbox is full is awake.
            self.send(shard, Delivery::StoreNews);
        }
    }

    /// Asks a shard to answer between its next two turns. A shard that has stalled does not.
    pub fn ping(&self, shard: usize, reply: impl FnOnce(()) + Send + 'static) -> bool {
        self.send(shard, Delivery::Ping(Reply::new(reply)))
    }

    /// Gives a shard the settings of a reload.
    pub fn reload(
        &self,
        shard: usize,
        settings: Arc<core::Settings>,
        reply: impl FnOnce(()) + Send + 'static,
    ) -> bool {
        self.send(shard, Delivery::Reload(settings, Reply::new(reply)))
    }

    fn send(&self, shard: usize, delivery: Delivery) -> bool {
        self.shards.get(shard).is_some_and(|sender| sender.send(delivery).is_ok())
    }

    /// Returns the number of connections that the acceptor refused with 503 for lack of file descriptors.
    pub fn refused_by_acceptor(&self) -> u64 {
        self.refused_by_acceptor.load(Ordering::Relaxed)
    }

    /// Returns how often the monitor found that the shard had stalled.
    pub fn stalls(&self, shard: usize) -> u64 {
        self.stalls.get(shard).map_or(0, |stalls| stalls.load(Ordering::Relaxed))
    }
}
