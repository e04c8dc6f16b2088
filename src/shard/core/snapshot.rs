//! The state of a shard, for the control port.

use std::collections::VecDeque;

use super::{Connection, Connections, Core, CoreCounters};
use crate::base::names::FullName;
use crate::base::queue::QueueInfo;
use crate::base::units::{Offset, Partition};
use crate::operation::RegulatorSnapshot;
use crate::store::{ClaimCounters, Store, StoreCounters, Tail};
use crate::tls::Counters;

/// The part of a shard's state that takes no work to collect.
#[derive(Clone, Debug, serde::Serialize)]
pub struct ShardPulse {
    /// The number of the shard.
    pub shard: u16,
    /// The number of open connections.
    pub connections: usize,
    /// The use of its budget.
    pub budget: BudgetSnapshot,
    /// The counters of its core.
    pub counters: CoreCounters,
    /// The counters of its store.
    pub store: StoreCounters,
    /// The counters of claims.
    pub claims: ClaimCounters,
    /// What its producers are allowed, and why.
    pub regulator: RegulatorSnapshot,
    /// The counters of its TLS connections.
    pub tls: Counters,
}

/// The full state of a shard.
#[derive(Clone, Debug)]
pub struct ShardSnapshot {
    /// The part that takes no work to collect.
    pub pulse: ShardPulse,
    /// The number of open produce operations.
    pub producing: usize,
    /// The number of open consume operations.
    pub consuming: usize,
    /// The number of open claim operations.
    pub claiming: usize,
    /// The number of consume operations that are behind, and so are served after the others.
    pub behind: usize,
    /// The number of messages that producers may still send within their credit.
    pub credit: u64,
    /// The number of waiting fetches.
    pub waiting_fetches: usize,
}

/// The most queues that a shard reports at once, and that one request may ask about: a shard checks all of
/// their partitions.
pub const TRAFFIC_QUEUES: usize = 1_000;

/// The most consume operations that a shard reports.
pub const TRAFFIC_CONSUMERS: usize = 1_000;

/// The ends of a shard's partitions, and the positions of its consumers.
#[derive(Clone, Debug, Default)]
pub struct Traffic {
    /// The number of queues that the shard knows.
    pub queues: usize,
    /// At most [`TRAFFIC_QUEUES`] of them.
    pub names: Vec<(FullName, QueueInfo)>,
    /// For the requested queues: the queue, each partition that the shard owns, and its end.
    pub tails: Vec<(FullName, Partition, Tail)>,
    /// For at most [`TRAFFIC_CONSUMERS`] consume operations: the queue, and the next offset in each
    /// partition.
    pub consumers: Vec<(FullName, Vec<(Partition, Offset)>)>,
}

/// The use of a budget at one moment, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct BudgetSnapshot {
    /// The limit, `shard_budget_bytes`.
    pub ceiling: usize,
    /// Bytes that are reserved: pbs and append batches.
    pub reserved: usize,
    /// Bytes that are held: input that waits for a reservation, and unsent output.
    pub held: usize,
    /// The number of connections that wait for bytes.
    pub waiting: usize,
}

impl<S: Store<Connections>> Core<S> {
    /// Returns the full state of the shard. Checks every connection, so call it only occasionally.
    pub fn snapshot(&self, tls: Counters) -> ShardSnapshot {
        let fronts =
            || self.connections.ids().filter_map(|id| self.connections.get(id)).map(Connection::status);
        ShardSnapshot {
            pulse: self.pulse(tls),
            producing: fronts().filter(|status| status.credit.is_some()).count(),
            consuming: fronts().filter(|status| status.is_consuming).count(),
            claiming: fronts().filter(|status| status.is_claiming).count(),
            behind: fronts().filter(|status| status.is_behind).count(),
            credit: fronts().filter_map(|status| status.credit).sum(),
            waiting_fetches: self.store.waiting(),
        }
    }

    /// Returns the part of the shard's state that takes no work to collect.
    pub fn pulse(&self, tls: Counters) -> ShardPulse {
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
            claims: self.store.claims(),
            regulator: self.regulator.snapshot(),
            tls,
        }
    }

    /// Returns the ends of this shard's partitions of these queues.
    pub fn ends(&self, of: &[(FullName, QueueInfo)]) -> Vec<(FullName, Partition, Tail)> {
        let tails = |(name, info): &(FullName, QueueInfo)| {
            let owned = info.all().filter(|partition| info.owner(*partition, self.shards) == self.shard);
            let tails = owned
                .filter_map(|partition| Some((name.clone(), partition, self.store.tail(info, partition)?)));
            tails.collect::<Vec<_>>()
        };
        of.iter().flat_map(tails).collect()
    }

    /// Returns the ends of this shard's partitions of these queues, and the positions of its consumers. As
    /// expensive as [`Self::snapshot`].
    pub fn traffic(&self, of: &[(FullName, QueueInfo)]) -> Traffic {
        let consumer = |id| self.connections.get(id)?.front()?.positions();
        Traffic {
            queues: self.catalogue.iter().count(),
            names: self
                .catalogue
                .iter()
                .take(TRAFFIC_QUEUES)
                .map(|(name, info)| (name.clone(), info.clone()))
                .collect(),
            tails: self.ends(of),
            consumers: self.connections.ids().filter_map(consumer).take(TRAFFIC_CONSUMERS).collect(),
        }
    }
}
