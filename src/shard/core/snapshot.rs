//! What a shard says of itself when it is asked.

use super::CoreCounters;
use crate::base::names::FullName;
use crate::base::queue::QueueInfo;
use crate::store::{StoreCounters, Tail};

/// What a shard says of itself at any time, at no cost.
#[derive(Clone, Debug, serde::Serialize)]
pub struct ShardPulse {
    /// Which.
    pub shard: u16,
    /// Connections open now.
    pub connections: usize,
    /// Its memory.
    pub budget: BudgetSnapshot,
    /// What it did.
    pub counters: CoreCounters,
    /// What became of the messages that its store was given.
    pub store: StoreCounters,
}

/// What a shard says of itself when it is asked.
#[derive(Clone, Debug)]
pub struct ShardSnapshot {
    /// What it could say at any time.
    pub pulse: ShardPulse,
    /// Produce and consume operations open now.
    pub producing: usize,
    /// See `producing`.
    pub consuming: usize,
    /// Messages that producers may send and have not sent.
    pub credit: u64,
    /// Fetches that wait.
    pub waiting_fetches: usize,
}

/// How many queues a shard tells of at once, and is asked for: it looks at all of their partitions.
pub const TRAFFIC_QUEUES: usize = 1_000;

/// How many consume operations it tells of.
pub const TRAFFIC_CONSUMERS: usize = 1_000;

/// Where a shard's partitions end, and where its consumers are.
#[derive(Clone, Debug, Default)]
pub struct Traffic {
    /// Queues that it knows.
    pub queues: usize,
    /// [`TRAFFIC_QUEUES`] of them.
    pub names: Vec<(FullName, QueueInfo)>,
    /// Of the queues that it was asked for: the queue, its own partition, and where it ends.
    pub tails: Vec<(FullName, u16, Tail)>,
    /// Of [`TRAFFIC_CONSUMERS`] consume operations: its queue, and the offset of the next message of each of its partitions.
    pub consumers: Vec<(FullName, Vec<(u16, u64)>)>,
}

/// A budget at one moment, bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct BudgetSnapshot {
    /// `shard_budget_bytes`.
    pub ceiling: usize,
    /// Reserved.
    pub reserved: usize,
    /// Held.
    pub held: usize,
    /// Connections that wait for some.
    pub waiting: usize,
}
