//! What the partitions of limited queues hold, and what is dropped where a queue is beyond a limit.
//!
//! Each partition of such a queue adds a share to what its queue holds. The share is exact after appends and deletions.
//! Expired messages leave it at a tick. A partition that stores drops as much as it has stored of its own older messages,
//! because it knows no others. At a tick, each partition drops its part of what is still too much. The newest message of a
//! partition always stays.

use std::collections::{HashMap, HashSet};
use std::ops::Range;
use std::sync::Arc;

use super::Ledgers;
use super::inner::{AppendBy, Inner};
use super::keeper::Keeper;
use super::out::Out;
use super::pieces::Phase;
use super::stats::stats_of;
use crate::access::Tenants;
use crate::base::clock::Now;
use crate::base::policy::{Held, HeldShare, LivePolicy, WhenFull};
use crate::base::queue::{PartitionKey, QueueId};
use crate::base::units::Offset;
use crate::store::stock::part_of;
use crate::store::{Asker, StateKeeping, Store};

/// The limited queues of a shard.
#[derive(Debug, Default)]
pub(super) struct Limits {
    tenants: Option<Arc<Tenants>>,
    /// The number of queues that had been added at the last look.
    added: u64,
    queues: HashMap<QueueId, Arc<LivePolicy>>,
    /// Those of which every partition was counted.
    counted: HashSet<QueueId>,
    shares: HashMap<PartitionKey, HeldShare>,
    dropped: u64,
}

impl Limits {
    /// Watches the queues of a server.
    pub(super) fn watch(&mut self, tenants: &Arc<Tenants>) {
        self.tenants = Some(tenants.clone());
    }

    /// Returns whether any queue has limits, as far as is known.
    #[inline]
    pub(super) fn is_any(&self) -> bool {
        !self.queues.is_empty()
    }

    /// Returns the number of messages that were dropped.
    pub(super) fn dropped(&self) -> u64 {
        self.dropped
    }

    /// Forgets a queue whose life has ended.
    pub(super) fn forget(&mut self, queue: QueueId) {
        self.queues.remove(&queue);
        self.counted.remove(&queue);
        self.shares.retain(|partition, _| partition.queue != queue);
    }

    /// Looks which queues have limits.
    fn look(&mut self) {
        let Some(tenants) = &self.tenants else { return };
        self.added = tenants.policies().added();
        self.queues = tenants.policies().limited();
        self.shares.retain(|partition, _| self.queues.contains_key(&partition.queue));
        self.counted.retain(|queue| self.queues.contains_key(queue));
    }

    /// Returns whether a queue was added since the last look.
    #[inline]
    fn is_outdated(&self) -> bool {
        self.tenants.as_ref().is_some_and(|tenants| tenants.policies().added() != self.added)
    }

    /// Returns the share of a partition and by how much its queue is beyond its limits, if it is and wants its oldest
    /// messages to be dropped.
    fn to_drop(&self, partition: PartitionKey) -> Option<(&HeldShare, Held)> {
        let share = self.shares.get(&partition)?;
        let excess = share.policy().excess(Held::default());
        let wants = excess != Held::default() && share.policy().get().when_full == WhenFull::DropOldest;
        wants.then_some((share, excess))
    }

    /// Returns the share of a partition, unless its queue has no limits.
    fn share(&mut self, partition: PartitionKey) -> Option<&mut HeldShare> {
        let policy = self.queues.get(&partition.queue)?;
        Some(self.shares.entry(partition).or_insert_with(|| HeldShare::new(policy.clone())))
    }
}

impl<T: Asker, S: Store<Inner<T>>> Ledgers<S, T> {
    /// Returns the token of a client's append. What another store moves here is counted at the next tick: it drops nothing.
    #[inline]
    pub(super) fn append_by(&mut self, token: T::Append, partition: PartitionKey) -> AppendBy<T::Append> {
        if (self.limits.is_any() || self.limits.is_outdated()) && !T::is_errand(&token) {
            return self.append_by_limited(token, partition);
        }
        AppendBy::Client(token)
    }

    #[cold]
    fn append_by_limited(&mut self, token: T::Append, partition: PartitionKey) -> AppendBy<T::Append> {
        if self.limits.is_outdated() {
            self.limits.look();
        }
        match self.limits.queues.contains_key(&partition.queue) && S::STATE != StateKeeping::None {
            true => AppendBy::Limited(token, partition),
            false => AppendBy::Client(token),
        }
    }

    /// Looks which queues have limits, counts what they hold, and drops what is too much.
    pub(super) fn look_at_limits(&mut self, now: Now) {
        self.limits.look();
        let Limits { queues, counted, .. } = &mut self.limits;
        let new: Vec<QueueId> = queues.keys().filter(|queue| counted.insert(**queue)).copied().collect();
        for queue in new {
            for partition in self.inner.partitions(queue) {
                self.limits.share(PartitionKey { queue, partition });
            }
        }
        let partitions: Vec<PartitionKey> = self.limits.shares.keys().copied().collect();
        for partition in partitions {
            self.count_limited(now, partition);
            self.drop_part(now, partition);
        }
    }

    /// Drops a partition's part of what is too much in its queue, if the queue wants that.
    fn drop_part(&mut self, now: Now, partition: PartitionKey) {
        let Some((share, excess)) = self.limits.to_drop(partition) else { return };
        let (own, all) = (share.held(), share.policy().held());
        // Rounded up, so that the parts suffice.
        let part = |excess: u64, own: u64, all: u64| match excess {
            0 => 0,
            _ => (part_of(excess, own, all) + 1).min(own),
        };
        let part = Held {
            messages: part(excess.messages, own.messages, all.messages),
            bytes: part(excess.bytes, own.bytes, all.bytes),
        };
        let stored = self.inner.holding(partition, Offset::ZERO, now.unix).unwrap_or_default().stored;
        if !stored.is_empty() {
            // The newest message stays.
            self.drop_limited(now, partition, part, stored.end.previous());
        }
    }

    /// Counts what a partition holds, if its queue has limits.
    pub(super) fn count_limited(&mut self, now: Now, partition: PartitionKey) {
        let Some(share) = self.limits.share(partition) else { return };
        let held = match self.keepers.get_mut(&partition) {
            // It is counted once its ledger is known. What has left the store must be noted.
            Some(keeper) if !keeper.is_ready() || keeper.is_resting() => return,
            Some(keeper) => {
                let held = keeper.held(now, &mut self.inner, &mut self.out);
                if keeper.notes.has_records() && !std::mem::replace(&mut keeper.is_dirty, true) {
                    self.dirty.push(partition);
                }
                held
            }
            None => {
                let holding = self.inner.holding(partition, Offset::ZERO, now.unix).unwrap_or_default();
                let stats = stats_of(&holding);
                Held { messages: stats.free + stats.delayed, bytes: stats.bytes }
            }
        };
        share.set(held);
    }

    /// Handles an append to a partition of a limited queue: counts it, and drops older messages if the queue wants that.
    pub(super) fn handle_limited(&mut self, now: Now, partition: PartitionKey, stored: Range<Offset>) {
        self.count_limited(now, partition);
        let Some((share, excess)) = self.limits.to_drop(partition) else { return };
        // Other partitions have older ones, unless this one has all. The newest message stays.
        let below = if share.held() == share.policy().held() { stored.end.previous() } else { stored.start };
        let new = stats_of(&self.inner.holding(partition, stored.start, now.unix).unwrap_or_default());
        let excess = Held {
            messages: excess.messages.min(new.free + new.delayed),
            bytes: excess.bytes.min(new.bytes),
        };
        self.drop_limited(now, partition, excess, below);
    }

    /// Drops messages of a partition below an offset.
    fn drop_limited(&mut self, now: Now, partition: PartitionKey, excess: Held, below: Offset) {
        self.learn();
        if !self.keepers.contains_key(&partition) {
            self.add_keeper(partition, false);
        }
        if !self.is_ready(partition) {
            return;
        }
        self.with_keeper(partition, |_, _| ());
        let Self { keepers, inner, out, limits, .. } = self;
        let Some(keeper) = keepers.get_mut(&partition).filter(|keeper| !keeper.is_resting()) else { return };
        limits.dropped += keeper.drop_oldest(now, excess, below, inner, out);
        self.count_limited(now, partition);
    }
}

/// What is still to be dropped, and what was chosen for it.
#[derive(Debug)]
struct Dropping {
    left: Held,
    dropped: u64,
    offsets: Vec<Range<Offset>>,
}

impl Dropping {
    fn is_done(&self) -> bool {
        self.left == Held::default()
    }

    /// Chooses as many of the first of these messages as are still to be dropped.
    fn take(&mut self, offsets: Range<Offset>, bytes: u64) {
        let all = offsets.end.since(offsets.start);
        // The least number of messages with so many bytes.
        let for_bytes = match self.left.bytes {
            left if left >= bytes => all,
            left => (part_of(all, left, bytes) + u64::from(left > 0)).min(all),
        };
        let count = all.min(self.left.messages.max(if self.left.bytes > 0 { for_bytes } else { 0 }));
        self.left.messages = self.left.messages.saturating_sub(count);
        self.left.bytes = self.left.bytes.saturating_sub(part_of(bytes, count, all));
        self.dropped += count;
        self.offsets.push(offsets.start..offsets.start + count);
    }
}

impl<T: Asker> Keeper<T> {
    /// Deletes the oldest messages below an offset that are neither claimed nor being moved. Returns their number.
    fn drop_oldest(
        &mut self,
        now: Now,
        excess: Held,
        below: Offset,
        store: &mut impl Store<Inner<T>>,
        out: &mut Out<T>,
    ) -> u64 {
        let mut dropping = Dropping { left: excess, dropped: 0, offsets: Vec::new() };
        let pieces = self.ledger.pieces().overlapping(Offset::ZERO..below);
        let is_kept = |phase| matches!(phase, Phase::Held(_) | Phase::Moving(_));
        for (offsets, piece) in pieces.filter(|(_, piece)| !piece.is_over && !is_kept(piece.phase)) {
            if dropping.is_done() {
                break;
            }
            let bytes = part_of(piece.bytes, offsets.end.since(offsets.start), piece.length.into());
            dropping.take(offsets, bytes);
        }
        if !dropping.is_done() && self.ledger.next() < below {
            let behind = self.ledger.next()..below;
            store.each_portion(self.id.partition, behind, &mut |portion| {
                if !dropping.is_done() && !portion.expires.has_begun(now.unix) {
                    dropping.take(portion.first..portion.end, portion.bytes);
                }
            });
        }
        dropping.offsets.retain(|range| !range.is_empty());
        if !dropping.offsets.is_empty() {
            self.delete(now, Vec::new(), dropping.offsets, out);
        }
        dropping.dropped
    }
}
