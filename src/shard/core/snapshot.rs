//! What a shard says of itself when it is asked.

use super::CoreCounters;
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
