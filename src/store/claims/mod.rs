//! Claims on any store: a ledger for each partition whose messages are claimed, between the clients and the store.
//!
//! [`Ledgers`] is a store around another one. It answers the requests about claims, and hides from other readers
//! what is claimed or settled. Everything else passes. Partitions that never saw a claim cost one lookup for
//! each fetch.
//!
//! | file | one concept |
//! | --- | --- |
//! | here | which request goes to which ledger, and what passes |
//! | `keeper` | a ledger's requests: decides, and answers once the decision is durable; recalls the ledger from its notes |
//! | `ledger` | what is unsettled in a partition, the only function that changes it, and its snapshots |
//! | `pieces` | stretches of unsettled messages, by offset and by time |
//! | `ranges` | ranges of offsets |
//! | `record` | a change of a ledger, and its bytes |
//! | `notes` | the records on their way to the store, the answers that wait for them, snapshots |
//! | `leases` | the requests about leases that were made |
//! | `ahead` | messages that are read ahead, and the choice of those that a claim gets |
//! | `line` | the workers that wait for messages |
//! | `counting`, `stats` | what a partition holds, and the requests for it |
//! | `finding`, `finds` | messages that are looked for by their offsets, and the requests for them |
//! | `deletion` | deletes messages by their offsets, the oldest ones, and all |
//! | `limits` | what limited queues hold, and what is dropped beyond a limit |
//! | `moves` | moves messages to other queues: dead letters, and back |
//! | `moving` | the move that a ledger has under way |
//! | `letter` | the headers of moved messages |
//! | `out` | where a keeper sends what it has decided |
//! | `inner` | the tokens of requests to the store below |
//!
//! A ledger's notes are messages of a hidden partition ([`Partition::state`](crate::base::units::Partition::state)) in
//! the same log and the same syncs as the messages that they are about. `docs/decisions/the-ledger.md` compares this
//! with what others do.

mod ahead;
mod counting;
mod deletion;
mod finding;
mod finds;
mod inner;
mod keeper;
mod leases;
mod ledger;
mod letter;
mod limits;
mod line;
mod moves;
mod moving;
mod notes;
mod out;
mod pieces;
mod ranges;
mod record;
mod stats;
#[cfg(test)]
mod tests;

pub use ahead::AHEAD_BYTES;
pub use deletion::TOO_SCATTERED;
pub use inner::{AppendBy, FetchBy, Inner, LedgerId};
pub use ledger::{PIECES_MAX, UNSETTLED_MAX};
pub use letter::QUEUE as DEAD_QUEUE_HEADER;

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;

use self::keeper::Keeper;
use self::ledger::Ledger;
use self::limits::Limits;
use self::out::Out;
use self::record::Record;
use self::stats::stats_of;
use super::errand::{Done, Errand, ErrandId};
use super::{
    Asker, ClaimCounters, Completion, Life, Placement, QueueSummary, Request, StateKeeping, Store,
    StoreCounters, StoreEvent, Tail,
};
use crate::access::Tenants;
use crate::base::batch::Fetched;
use crate::base::claim::View;
use crate::base::clock::Now;
use crate::base::error::StoreFault;
use crate::base::hidden::Hidden;
use crate::base::manage::{Manage, Managed};
use crate::base::millis::{Millis, UnixMillis};
use crate::base::names::FullName;
use crate::base::queue::{PartitionKey, QueueId, QueueInfo};
use crate::base::units::{Offset, Partition};

/// The interval at which pins and the age of the oldest messages are looked at.
const TICK: Millis = Millis::new(1_000);

/// The interval at which timers are looked at while there are any: how late a lease or a delay may end.
const TIMERS: Millis = Millis::new(100);

/// The most pieces of all ledgers of a shard, some 100 bytes each. Beyond, nothing new is given out.
const SHARD_PIECES_MAX: usize = 1 << 20;

/// The most ranges of messages of a partition that are kept although they have expired.
const PINS_MAX: usize = 256;

/// A store with claims, around a store without.
#[derive(Debug)]
pub struct Ledgers<S, T: Asker> {
    inner: S,
    keepers: HashMap<PartitionKey, Keeper<T>>,
    /// The keepers with something to do.
    dirty: Vec<PartitionKey>,
    /// What the ledgers have decided, until it is passed on.
    out: Out<T>,
    limits: Limits,
    /// What is released once no shard has doubts. `None` if nothing is held any more.
    held: Option<HashMap<PartitionKey, Offset>>,
    tick_due: Millis,
    /// When the store below wants to be called.
    inner_due: Millis,
}

impl<T: Asker, S: Store<Inner<T>>> Ledgers<S, T> {
    /// Puts ledgers around a store.
    pub fn new(inner: S) -> Self {
        Self {
            inner,
            keepers: HashMap::new(),
            dirty: Vec::new(),
            out: Out::new(S::STATE == StateKeeping::Durable),
            limits: Limits::default(),
            held: None,
            tick_due: Millis::ZERO,
            inner_due: Millis::ZERO,
        }
    }

    /// Returns the store below.
    pub fn inner(&self) -> &S {
        &self.inner
    }

    /// Lends a keeper what it sends to. The keeper will be worked on.
    fn with_keeper<R>(
        &mut self,
        partition: PartitionKey,
        handle: impl FnOnce(&mut Keeper<T>, &mut Out<T>) -> R,
    ) -> Option<R> {
        let keeper = self.keepers.get_mut(&partition)?;
        if !keeper.is_dirty {
            keeper.is_dirty = true;
            self.dirty.push(partition);
        }
        Some(handle(keeper, &mut self.out))
    }

    /// Makes the keeper of a partition.
    fn add_keeper(&mut self, partition: PartitionKey, has_notes: bool) {
        self.out.numbers += 1;
        let id = LedgerId { partition, number: self.out.numbers };
        self.keepers.insert(partition, Keeper::new(id, has_notes));
    }

    /// Makes keepers for the partitions with state from an earlier run.
    #[inline]
    fn learn(&mut self) {
        while let Some(partition) = self.inner.poll_stateful() {
            self.add_keeper(partition, true);
            self.with_keeper(partition, |_, _| ());
        }
    }

    /// Handles a request about claims.
    fn handle_claims(&mut self, now: Now, partition: PartitionKey, request: Request<T>) {
        self.learn();
        if !self.keepers.contains_key(&partition) {
            // Nothing was given out, or the queue was deleted.
            match &request {
                Request::Leave { .. } => return,
                Request::Settle { token, .. } => {
                    let (token, result) = (*token, Ok(Vec::new()));
                    return self.out.completions.push_back(Completion::Settled { token, result });
                }
                Request::Manage { token, what, .. } => {
                    if let Some(managed) = self.without_ledger(now, partition, what) {
                        let (token, result) = (*token, Ok(managed));
                        return self.out.completions.push_back(Completion::Managed { token, result });
                    }
                    self.add_keeper(partition, false);
                }
                _ => self.add_keeper(partition, false),
            }
        }
        match request {
            Request::Manage { token, what, .. } if self.is_ready(partition) => {
                self.with_keeper(partition, |_, _| ());
                let Self { keepers, inner, out, .. } = self;
                let Some(keeper) = keepers.get_mut(&partition) else { return };
                keeper.manage(now, token, what, inner, out);
            }
            request => {
                self.with_keeper(partition, |keeper, out| keeper.handle(now, request, out));
            }
        }
    }

    /// Returns the answer of a partition without a ledger. `None` if the request needs one.
    fn without_ledger(&mut self, now: Now, partition: PartitionKey, what: &Manage) -> Option<Managed> {
        match what {
            Manage::Stats => {
                let holding = self.inner.holding(partition, Offset::ZERO, now.unix).unwrap_or_default();
                Some(Managed::Stats(stats_of(&holding)))
            }
            Manage::Claim(..) => Some(Managed::Claim(None)),
            Manage::Renew { .. } => Some(Managed::Renewed(false)),
            Manage::Release(..) => Some(Managed::Released),
            Manage::Find(_)
            | Manage::Remove { .. }
            | Manage::Pop { .. }
            | Manage::Purge
            | Manage::Redrive { .. } => None,
        }
    }

    /// Returns whether the ledger of a partition is known.
    fn is_ready(&self, partition: PartitionKey) -> bool {
        self.keepers.get(&partition).is_some_and(Keeper::is_ready)
    }

    /// Works on the keepers with something to do, and submits what they ask for.
    fn work(&mut self, now: Now) {
        while let Some(partition) = self.dirty.pop() {
            let Some(keeper) = self.keepers.get_mut(&partition) else { continue };
            keeper.is_dirty = false;
            for request in keeper.take_parked() {
                let result = self.submit(now, request);
                debug_assert!(result.is_ok(), "the ledgers take every request");
            }
            if let Some(keeper) = self.keepers.get_mut(&partition) {
                for unknown in keeper.take_unknown() {
                    let mut portions = Vec::new();
                    self.inner.each_portion(partition, unknown, &mut |portion| portions.push(portion));
                    portions.iter().for_each(|portion| keeper.learn(portion));
                }
                for token in keeper.stats.take_again() {
                    keeper.tell_stats(now, token, true, &mut self.inner, &mut self.out);
                }
                keeper.work(now, &mut self.out);
                if self.limits.is_any() {
                    self.count_limited(now, partition);
                }
            }
        }
        for (partition, below) in self.out.releases.drain(..) {
            match &mut self.held {
                Some(held) => {
                    let held = held.entry(partition).or_default();
                    *held = below.max(*held);
                }
                None => self.inner.release(partition, below),
            }
        }
        while let Some(request) = self.out.requests.pop_front() {
            if let Err(request) = self.inner.submit(now, request) {
                self.out.requests.push_front(request);
                break;
            }
        }
    }

    /// Handles a completion of the store below. Returns it if it is a client's.
    #[inline]
    fn handle(&mut self, now: Now, completion: Completion<Inner<T>>) -> Option<Completion<T>> {
        Some(match completion {
            Completion::Appended { token: AppendBy::Client(token), result } => {
                Completion::Appended { token, result }
            }
            Completion::Appended { token: AppendBy::Limited(token, partition), result } => {
                if let Ok(Some(stored)) = &result {
                    self.handle_limited(now, partition, stored.clone());
                }
                Completion::Appended { token, result }
            }
            Completion::Appended { token: AppendBy::Note(id, sequence), result } => {
                self.with_ledger(id, |keeper, out| keeper.handle_noted(now, sequence, result, out));
                return None;
            }
            Completion::Fetched { token: FetchBy::Client(token, partition, view), result } => {
                let result = match self.keepers.get(&partition) {
                    Some(keeper) if view != View::Stored => {
                        result.map(|fetched| shown(keeper, fetched, view))
                    }
                    _ => result,
                };
                Completion::Fetched { token, result }
            }
            Completion::Fetched { token: FetchBy::Ledger(id, purpose), result } => {
                if result.as_ref().is_err_and(|fault| *fault == StoreFault::Deleted) {
                    self.close(id.partition);
                }
                self.with_ledger(id, |keeper, out| keeper.handle_read(now, purpose, result, out));
                return None;
            }
            Completion::Opened { token, result } => Completion::Opened { token, result },
            Completion::Resolved { token, result } => Completion::Resolved { token, result },
            Completion::Deleted { token, result } => Completion::Deleted { token, result },
            Completion::Claimed { token, .. } | Completion::Watched { token, .. } => match token {},
            Completion::Settled { token, .. } => match token {},
            Completion::Managed { token, .. } => match token {},
            Completion::Altered { token, result } => Completion::Altered { token, result },
            Completion::Listed { token, result } => Completion::Listed { token, result },
        })
    }

    /// Ends the ledger of a deleted queue.
    fn close(&mut self, partition: PartitionKey) {
        let Some(keeper) = self.keepers.remove(&partition) else { return };
        keeper.close(&StoreFault::Deleted, &mut self.out);
    }

    /// Calls a ledger, unless it is another one now.
    fn with_ledger(&mut self, id: LedgerId, handle: impl FnOnce(&mut Keeper<T>, &mut Out<T>)) {
        if self.keepers.get(&id.partition).is_some_and(|keeper| keeper.id() == id) {
            self.with_keeper(id.partition, handle);
        }
    }
}

/// Applies the notes of a ledger in order. Returns the offset below which everything is settled, and the ledger as a
/// note. Bytes that are no records are left out.
pub fn fold<'a>(now: Now, notes: impl Iterator<Item = &'a [u8]>) -> (Offset, Vec<u8>) {
    let mut ledger = Ledger::default();
    for note in notes {
        record::read(note).0.iter().for_each(|record| ledger.apply(now, record));
    }
    let mut whole = Vec::new();
    Record::Snapshot(ledger.snapshot(now)).encode(&mut whole);
    (ledger.floor(), whole)
}

/// Returns what a reader sees of fetched messages.
fn shown<T: Asker>(keeper: &Keeper<T>, mut fetched: Fetched, view: View) -> Fetched {
    let (mut hidden, mut claims) = (Hidden::default(), Vec::new());
    for stored in &fetched.batches {
        let (base, end) = (stored.base_offset, stored.end_offset());
        let Range { start, .. } = fetched.hidden.visible(base, end);
        hidden.push(base..start);
        keeper.shown().view(start..end, view, &mut hidden, &mut claims);
    }
    fetched.batches.retain(|stored| !hidden.visible(stored.base_offset, stored.end_offset()).is_empty());
    Fetched { hidden, claims, ..fetched }
}

impl<T: Asker, S: Store<Inner<T>>> Store<T> for Ledgers<S, T> {
    const APPENDS: Placement = S::APPENDS;
    const CLAIMS: bool = !matches!(S::STATE, StateKeeping::None);
    const STATE: StateKeeping = S::STATE;

    #[inline]
    fn submit(&mut self, now: Now, request: Request<T>) -> Result<(), Request<T>> {
        let request = match request {
            Request::Append { token, stream, partition, batch } => {
                let token = self.append_by(token, partition);
                Request::Append { token, stream, partition, batch }
            }
            Request::Fetch { token, partition, mut from, bytes_max, exclude, view, wait } => {
                self.learn();
                match self.keepers.get(&partition) {
                    // What is stored does not depend on the ledger.
                    Some(_) if view == View::Stored => {}
                    Some(keeper) if !keeper.is_ready() => {
                        let request =
                            Request::Fetch { token, partition, from, bytes_max, exclude, view, wait };
                        self.with_keeper(partition, |keeper, out| keeper.handle(now, request, out));
                        return Ok(());
                    }
                    Some(keeper) => from = keeper.ledger().jump(from),
                    None => {}
                }
                let token = FetchBy::Client(token, partition, view);
                Request::Fetch { token, partition, from, bytes_max, exclude, view, wait }
            }
            Request::Cancel { token, partition } => {
                let parked = self.keepers.get_mut(&partition).and_then(|keeper| keeper.cancel(token));
                if let Some(from) = parked {
                    let fetched = Fetched { next: from, ..Fetched::default() };
                    self.out.completions.push_back(Completion::Fetched { token, result: Ok(fetched) });
                    return Ok(());
                }
                let token = FetchBy::Client(token, partition, View::default());
                Request::Cancel { token, partition }
            }
            Request::Open { token, queue, name, create } => Request::Open { token, queue, name, create },
            Request::Resolve { token, partition, position } => {
                Request::Resolve { token, partition, position }
            }
            Request::Delete { token, name } => Request::Delete { token, name },
            Request::List { token, age } => Request::List { token, age },
            Request::Alter { token, name, attributes, partitions } => {
                Request::Alter { token, name, attributes, partitions }
            }
            Request::Claim { partition, .. }
            | Request::Watch { partition, .. }
            | Request::Settle { partition, .. }
            | Request::Manage { partition, .. }
            | Request::Leave { partition, .. } => {
                if S::STATE == StateKeeping::None {
                    self.out.completions.extend(request.without_claims().ok().flatten());
                } else {
                    self.handle_claims(now, partition, request);
                }
                return Ok(());
            }
        };
        self.inner.submit(now, request).map_err(outer)
    }

    #[inline]
    fn poll_completion(&mut self, now: Now) -> Option<Completion<T>> {
        loop {
            if !self.dirty.is_empty() || !self.out.requests.is_empty() {
                self.work(now);
            }
            if let Some(completion) = self.out.completions.pop_front() {
                return Some(completion);
            }
            let completion = self.inner.poll_completion(now)?;
            if let Some(completion) = self.handle(now, completion) {
                return Some(completion);
            }
        }
    }

    fn has_completions(&self) -> bool {
        !self.out.completions.is_empty() || !self.dirty.is_empty() || self.inner.has_completions()
    }

    fn handle_tick(&mut self, now: Now) -> Option<Millis> {
        self.learn();
        let is_due = self.tick_due <= now.mono;
        if is_due {
            self.tick_due = now.mono + TICK;
            let pieces: usize = self.keepers.values().map(|keeper| keeper.ledger().pieces().len()).sum();
            self.out.is_crowded = pieces >= SHARD_PIECES_MAX;
        }
        let is_timed = |keeper: &Keeper<T>| keeper.next_timer().is_some_and(|at| at <= now.mono);
        let keepers = self.keepers.iter().filter(|(_, keeper)| is_due || is_timed(keeper));
        let partitions: Vec<PartitionKey> = keepers.map(|(partition, _)| *partition).collect();
        for partition in partitions {
            self.with_keeper(partition, |keeper, out| {
                if is_due {
                    keeper.handle_tick(now, out);
                }
            });
        }
        while let Some(partition) = self.inner.poll_stale_state() {
            // While releases are held, a snapshot would free nothing.
            if self.held.is_some() {
                continue;
            }
            self.with_keeper(partition, |keeper, out| keeper.renew_snapshot(now, out));
        }
        self.work(now);
        if is_due {
            self.keepers.retain(|_, keeper| !keeper.is_unused());
            self.look_at_limits(now);
        }
        if self.inner_due <= now.mono {
            // What has expired goes now, so what is leased is kept just before.
            if self.inner.may_release(now) {
                self.pin(now);
            }
            self.inner_due = self.inner.handle_tick(now).unwrap_or(now.mono + TICK);
        }
        let timer = self.keepers.values().filter_map(Keeper::next_timer).min();
        let due = match timer {
            // Timers that begin before the next tick may end before this one.
            Some(timer) => Some(timer.min(now.mono + TIMERS)),
            None => (!self.keepers.is_empty() || self.limits.is_any()).then_some(self.tick_due),
        };
        Some(due.map_or(self.inner_due, |due| due.min(self.inner_due)))
    }

    fn needs_ticks(&self) -> bool {
        !self.keepers.is_empty() || self.limits.is_any() || self.inner.needs_ticks()
    }

    fn poll_event(&mut self) -> Option<StoreEvent> {
        self.inner.poll_event()
    }

    fn hold_releases(&mut self) {
        if S::STATE == StateKeeping::Durable {
            self.held.get_or_insert_default();
        }
    }

    fn has_doubts(&mut self) -> bool {
        self.learn();
        // Each of them is asked, because one that was certain stays so.
        self.keepers.values_mut().map(Keeper::has_doubt).fold(false, |any, has| any | has)
    }

    fn handle_certain(&mut self) {
        for (partition, below) in self.held.take().unwrap_or_default() {
            self.inner.release(partition, below);
        }
    }

    fn poll_errand(&mut self) -> Option<Errand> {
        self.out.errands.pop_front()
    }

    fn handle_done(&mut self, now: Now, id: ErrandId, done: Done) {
        if let Some(partition) = self.out.waiting.remove(&id) {
            self.with_keeper(partition, |keeper, out| keeper.handle_done(now, id, done, out));
        }
    }

    fn forget(&mut self, queue: QueueId, incarnation: u64) {
        self.inner.forget(queue, incarnation);
        let gone: Vec<PartitionKey> = self.keepers.keys().filter(|key| key.queue == queue).copied().collect();
        gone.into_iter().for_each(|partition| self.close(partition));
        if let Some(held) = &mut self.held {
            held.retain(|partition, _| partition.queue != queue);
        }
        self.limits.forget(queue);
    }

    fn tail(&self, queue: &QueueInfo, partition: Partition) -> Option<Tail> {
        self.inner.tail(queue, partition)
    }

    fn describe(&self, unix: UnixMillis) -> Result<Vec<(FullName, QueueSummary)>, StoreFault> {
        self.inner.describe(unix)
    }

    fn handle_stop(&mut self, now: Now) -> bool {
        self.work(now);
        self.inner.handle_stop(now)
    }

    fn names(&self) -> Vec<FullName> {
        self.inner.names()
    }

    fn adopt(&mut self, queue: QueueId, name: &FullName) -> Option<Life> {
        self.inner.adopt(queue, name)
    }

    fn set_clock_step_max(&mut self, by: Millis) {
        self.inner.set_clock_step_max(by);
    }

    fn count_for(&mut self, tenants: &Arc<Tenants>) {
        self.inner.count_for(tenants);
        self.limits.watch(tenants);
        self.out.tenants = Some(tenants.clone());
    }

    fn counters(&self) -> StoreCounters {
        let counters = self.inner.counters();
        StoreCounters { dropped: counters.dropped + self.limits.dropped(), ..counters }
    }

    fn claims(&self) -> ClaimCounters {
        let mut counters = self.out.counters;
        for keeper in self.keepers.values() {
            let pieces = keeper.ledger().pieces();
            counters.held += pieces.held();
            counters.unsettled += pieces.given();
            counters.oldest = [counters.oldest, keeper.oldest()].into_iter().flatten().min();
        }
        counters
    }

    fn waiting(&self) -> usize {
        self.inner.waiting()
    }
}

impl<T: Asker, S: Store<Inner<T>>> Ledgers<S, T> {
    /// Makes the store keep messages that live longer than their TTL.
    fn pin(&mut self, now: Now) {
        for (partition, keeper) in self.keepers.iter_mut().filter(|(_, keeper)| keeper.is_ready()) {
            let pinned = keeper.ledger().pinned(now.mono, PINS_MAX);
            let had_pins = std::mem::replace(&mut keeper.has_pins, !pinned.is_empty());
            if had_pins || !pinned.is_empty() {
                self.inner.pin(*partition, pinned);
            }
        }
    }
}

/// Returns a request that the store below has not taken, as its client made it.
fn outer<T: Asker>(request: Request<Inner<T>>) -> Request<T> {
    match request {
        Request::Append {
            token: AppendBy::Client(token) | AppendBy::Limited(token, _),
            stream,
            partition,
            batch,
        } => Request::Append { token, stream, partition, batch },
        Request::Fetch {
            token: FetchBy::Client(token, ..),
            partition,
            from,
            bytes_max,
            exclude,
            view,
            wait,
        } => Request::Fetch { token, partition, from, bytes_max, exclude, view, wait },
        Request::Cancel { token: FetchBy::Client(token, ..), partition } => {
            Request::Cancel { token, partition }
        }
        Request::Open { token, queue, name, create } => Request::Open { token, queue, name, create },
        Request::Resolve { token, partition, position } => Request::Resolve { token, partition, position },
        Request::Delete { token, name } => Request::Delete { token, name },
        Request::List { token, age } => Request::List { token, age },
        Request::Alter { token, name, attributes, partitions } => {
            Request::Alter { token, name, attributes, partitions }
        }
        _ => unreachable!("a client's request comes back as it went"),
    }
}
