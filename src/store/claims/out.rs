//! Where a keeper sends what it has decided.

use std::collections::VecDeque;

use super::inner::Inner;
use crate::base::queue::PartitionKey;
use crate::base::units::Offset;
use crate::store::{Asker, ClaimCounters, Completion, Request};

/// Where a keeper sends what it has decided.
#[derive(Debug)]
pub(super) struct Out<'a, T: Asker> {
    pub completions: &'a mut VecDeque<Completion<T>>,
    pub requests: &'a mut VecDeque<Request<Inner<T>>>,
    pub counters: &'a mut ClaimCounters,
    /// What the store may release: a partition, and the offset below which nothing is needed.
    pub releases: &'a mut Vec<(PartitionKey, Offset)>,
    /// The last number of a ledger.
    pub numbers: &'a mut u64,
    /// Whether the ledgers of the shard hold so much that nothing new is given out.
    pub is_crowded: bool,
    /// Whether the state is kept by notes.
    pub is_durable: bool,
}
