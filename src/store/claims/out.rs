//! Where a keeper sends what it has decided.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use super::inner::Inner;
use crate::access::Tenants;
use crate::base::queue::PartitionKey;
use crate::base::units::Offset;
use crate::store::errand::{Errand, ErrandId};
use crate::store::{Asker, ClaimCounters, Completion, Request};

/// Where a keeper sends what it has decided.
#[derive(Debug)]
pub(super) struct Out<T: Asker> {
    pub completions: VecDeque<Completion<T>>,
    pub requests: VecDeque<Request<Inner<T>>>,
    pub counters: ClaimCounters,
    /// What the store may release: a partition, and the offset below which nothing is needed.
    pub releases: Vec<(PartitionKey, Offset)>,
    /// The last number of a ledger.
    pub numbers: u64,
    /// Whether the ledgers of the shard hold so much that nothing new is given out.
    pub is_crowded: bool,
    /// Whether the state is kept by notes.
    pub is_durable: bool,
    /// What the shard is asked to do, the partitions whose ledgers wait for it, and the last number of an errand.
    pub errands: VecDeque<Errand>,
    pub waiting: HashMap<ErrandId, PartitionKey>,
    pub last_errand: u32,
    /// The tenants of the server, who know the policies of queues.
    pub tenants: Option<Arc<Tenants>>,
}

impl<T: Asker> Out<T> {
    pub(super) fn new(is_durable: bool) -> Self {
        Self {
            completions: VecDeque::new(),
            requests: VecDeque::new(),
            counters: ClaimCounters::default(),
            releases: Vec::new(),
            numbers: 0,
            is_crowded: false,
            is_durable,
            errands: VecDeque::new(),
            waiting: HashMap::new(),
            last_errand: 0,
            tenants: None,
        }
    }
}
