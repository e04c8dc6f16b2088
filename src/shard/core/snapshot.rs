//! What a shard says of itself when it is asked.

use std::collections::VecDeque;

use super::{Connection, Connections, Core, CoreCounters};
use crate::base::names::FullName;
use crate::base::queue::QueueInfo;
use crate::base::units::{Offset, Partition};
use crate::store::{Store, StoreCounters, Tail};

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
    pub tails: Vec<(FullName, Partition, Tail)>,
    /// Of [`TRAFFIC_CONSUMERS`] consume operations: its queue, and the offset of the next message of each of its partitions.
    pub consumers: Vec<(FullName, Vec<(Partition, Offset)>)>,
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

impl<S: Store<Connections>> Core<S> {
    /// How the shard is. Looks at every connection, so it is for whoever asks now and then.
    pub fn snapshot(&self) -> ShardSnapshot {
        let fronts =
            || self.connections.ids().filter_map(|id| self.connections.get(id)).map(Connection::status);
        ShardSnapshot {
            pulse: self.pulse(),
            producing: fronts().filter(|status| status.credit.is_some()).count(),
            consuming: fronts().filter(|status| status.is_consuming).count(),
            credit: fronts().filter_map(|status| status.credit).sum(),
            waiting_fetches: self.store.waiting(),
        }
    }

    /// How the shard is, as far as it knows that anyway.
    pub fn pulse(&self) -> ShardPulse {
        ShardPulse {
            shard: self.shard,
            connections: self.connections.len(),
            budget: BudgetSnapshot {
                ceiling: self.budget.ceiling(),
                reserved: self.budget.reserved(),
                held: self.budget.held(),
                waiting: self.waiting.iter().map(VecDeque::len).sum(),
            },
            counters: self.counters.clone(),
            store: self.store.counters(),
        }
    }

    /// Where this shard's partitions of these queues end, and where its consumers are. For whoever asks now and then, like
    /// [`Self::snapshot`].
    pub fn traffic(&self, of: &[(FullName, QueueInfo)]) -> Traffic {
        let tails = |(name, info): &(FullName, QueueInfo)| {
            let owned = info.all().filter(|partition| info.owner(*partition, self.shards) == self.shard);
            let tails = owned
                .filter_map(|partition| Some((name.clone(), partition, self.store.tail(info, partition)?)));
            tails.collect::<Vec<_>>()
        };
        let consumer = |id| self.connections.get(id)?.front()?.positions();
        Traffic {
            queues: self.catalogue.iter().count(),
            names: self
                .catalogue
                .iter()
                .take(TRAFFIC_QUEUES)
                .map(|(name, info)| (name.clone(), *info))
                .collect(),
            tails: of.iter().flat_map(tails).collect(),
            consumers: self.connections.ids().filter_map(consumer).take(TRAFFIC_CONSUMERS).collect(),
        }
    }
}
