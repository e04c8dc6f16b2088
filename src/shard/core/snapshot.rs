//! What a shard says of itself when it is asked.

use super::CoreCounters;
use crate::names::FullName;
use crate::store::StoreCounters;

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
    /// Fetches that wait.
    pub waiting_fetches: usize,
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
}

/// How many queues a shard tells of at once: it looks at all of their partitions.
pub const TRAFFIC_QUEUES: usize = 1_000;

/// Where a shard's partitions end, and where its consumers are.
#[derive(Clone, Debug, Default)]
pub struct Traffic {
    /// Queues that it knows.
    pub queues: usize,
    /// Of [`TRAFFIC_QUEUES`] of them: the queue, the partition, and where it ends.
    pub ends: Vec<(FullName, u16, u64)>,
    /// Of each consume operation: its queue, and the offset of the next message of each of its partitions.
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
