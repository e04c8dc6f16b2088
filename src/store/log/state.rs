//! The state of claims in hidden partitions: which partitions have some from an earlier run, and whose state
//! holds up the release of segments.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use super::data_dir::DataDir;
use super::format::PartitionId;
use super::segment::{Past, SealedSpan, Segment};
use crate::base::millis::UnixMillis;
use crate::base::queue::{PartitionKey, QueueId};

/// State is stale if its oldest note is this many segments of the shard behind the one that is being written.
const STALE_BEHIND: usize = 4;

/// State that alone keeps a segment is stale if the segment is this many behind the one that is being
/// written.
const STALE_ALONE_BEHIND: usize = 2;

/// The most partitions that are reported as stale at one tick. Each then writes a snapshot.
const STALE_AT_ONCE: usize = 1024;

const _: () =
    assert!(0 < STALE_ALONE_BEHIND && STALE_ALONE_BEHIND < STALE_BEHIND, "a new snapshot is not stale");

/// What is to be told about the state of a shard's partitions.
#[derive(Debug)]
pub(super) struct States {
    /// Partitions with state from an earlier run, whose queues were not open yet.
    unopened: Vec<PartitionId>,
    /// The number of openings of queues at the last look; `None` before the first.
    openings: Option<usize>,
    stateful: VecDeque<PartitionKey>,
    stale: VecDeque<PartitionKey>,
}

impl States {
    /// Creates what is to be told of partitions with state from an earlier run.
    pub(super) fn new(found: Vec<PartitionId>) -> Self {
        Self { unopened: found, openings: None, stateful: VecDeque::new(), stale: VecDeque::new() }
    }

    /// Returns the next partition with state from an earlier run whose queue is open.
    #[inline]
    pub(super) fn poll_stateful(&mut self, dir: &DataDir) -> Option<PartitionKey> {
        if !self.unopened.is_empty() {
            self.look(dir);
        }
        self.stateful.pop_front()
    }

    /// Looks for queues that were opened since the last look.
    fn look(&mut self, dir: &DataDir) {
        let openings = Some(dir.openings());
        if std::mem::replace(&mut self.openings, openings) == openings {
            return;
        }
        let opened = dir.opened();
        self.unopened.retain(|(incarnation, partition)| {
            let key =
                opened.get(incarnation).map(|queue| PartitionKey { queue: *queue, partition: *partition });
            self.stateful.extend(key);
            key.is_none()
        });
    }

    /// Replaces the partitions with stale state. Those whose queues are not open are left out.
    pub(super) fn set_stale(&mut self, dir: &DataDir, stale: &[PartitionId]) {
        self.stale.clear();
        if stale.is_empty() {
            return;
        }
        let opened = dir.opened();
        self.stale.extend(stale.iter().filter_map(|(incarnation, partition)| {
            let queue = *opened.get(incarnation)?;
            Some(PartitionKey { queue, partition: *partition })
        }));
    }

    /// Returns the next partition with stale state, each once after a tick.
    #[inline]
    pub(super) fn poll_stale(&mut self) -> Option<PartitionKey> {
        self.stale.pop_front()
    }

    /// Forgets the partitions of a queue whose life has ended.
    pub(super) fn forget(&mut self, queue: QueueId, incarnation: u64) {
        self.unopened.retain(|id| id.0 != incarnation);
        self.stateful.retain(|key| key.queue != queue);
        self.stale.retain(|key| key.queue != queue);
    }
}

/// Returns the partitions whose state holds up the release of segments, of those with these hidden
/// partitions. `kept` are the sealed segments of the shard, oldest first.
pub(super) fn stale<'a>(
    hidden: impl Iterator<Item = (PartitionId, &'a Past)> + Clone,
    kept: &[Arc<Segment>],
) -> Vec<PartitionId> {
    let behind = |segment: &Segment| kept.len() - kept.partition_point(|of| of.order < segment.order);
    let oldest = |past: &'a Past| past.needed(UnixMillis::ZERO).find(|span| span.head.messages > 0);
    let may_be_stale =
        |span: &&SealedSpan| span.segment.is_retired() || behind(&span.segment) >= STALE_ALONE_BEHIND;
    let found = hidden.clone().filter_map(|(id, past)| Some((id, oldest(past).filter(may_be_stale)?)));
    let found: Vec<(PartitionId, &SealedSpan)> = found.collect();
    if found.is_empty() {
        return Vec::new();
    }
    let mut spans: HashMap<u64, usize> = HashMap::new();
    for span in hidden.flat_map(|(_, past)| &past.spans) {
        *spans.entry(span.segment.number).or_default() += 1;
    }
    // One more reference is that of the shard that wrote the segment.
    let is_alone = |segment: &Arc<Segment>| Arc::strong_count(segment) == 1 + spans[&segment.number];
    let is_stale =
        |segment: &Arc<Segment>| segment.is_retired() || behind(segment) >= STALE_BEHIND || is_alone(segment);
    let found = found.into_iter().filter(|(_, span)| is_stale(&span.segment));
    found
        .take(STALE_AT_ONCE)
        .map(|((incarnation, partition), _)| (incarnation, partition.of_state().unwrap_or(partition)))
        .collect()
}
