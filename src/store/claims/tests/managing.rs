//! Requests about single messages, and about all, on the memory store and on the log.

use super::stores::{Ground, InMemory, KEY, OnDisk};
use crate::base::batch::BatchBuilder;
use crate::base::claim::{Grant, LeaseId, Leases, Leaving, Lost, Settle, Settlement, Terms, View, Worker};
use crate::base::clock::Now;
use crate::base::error::StoreFault;
use crate::base::manage::{Found, Manage, Managed, Only, PartitionStats, Removed};
use crate::base::millis::{Millis, UnixMillis};
use crate::base::names::{ClientId, Project, QueueName};
use crate::base::queue::PartitionKey;
use crate::base::units::{Offset, Partition};
use crate::store::claims::{Inner, Ledgers, PIECES_MAX, TOO_SCATTERED};
use crate::store::log::random::Random;
use crate::store::{Completion, NewQueue, Request, Store, Stream};

pub(super) fn client() -> ClientId {
    ClientId::from(3)
}
pub(super) const TTL: u32 = 1_000;

/// A store with one queue, whose requests are answered at once.
pub(super) struct Site<G: Ground> {
    pub ground: G,
    pub store: Ledgers<G::Store, u64>,
    pub now: Now,
    tokens: u64,
}

impl<G: Ground> Site<G> {
    pub fn new(mut ground: G) -> Self {
        // A minute begins, so that messages expire exactly.
        let now = Now::at_ms(1_000_000, 60_000 * 20_000_000);
        let store = Ledgers::new(ground.start(now));
        let mut site = Self { ground, store, now, tokens: 0 };
        site.open();
        site
    }

    fn open(&mut self) {
        let name = (Project::parse("p").unwrap(), QueueName::parse("q").unwrap());
        let create = Some(NewQueue::plain(2));
        let opened = self.ask(|token| Request::Open { token, queue: KEY.queue, name, create });
        assert!(matches!(opened, Completion::Opened { result: Ok(_), .. }), "{opened:?}");
    }

    /// Ends the store without a warning, and starts it again. Returns false if it cannot survive that.
    pub fn crash(&mut self) -> bool {
        let survives = self.ground.crash(&mut Random(7));
        if survives {
            self.store = Ledgers::new(self.ground.start(self.now));
            self.open();
        }
        survives
    }

    pub fn ask(&mut self, make: impl FnOnce(u64) -> Request<u64>) -> Completion<u64> {
        self.tokens += 1;
        assert!(self.store.submit(self.now, make(self.tokens)).is_ok());
        self.answer()
    }

    /// Waits for the next answer.
    fn answer(&mut self) -> Completion<u64> {
        for _ in 0..100_000 {
            if let Some(completion) = self.store.poll_completion(self.now) {
                return completion;
            }
            if !self.ground.advance() {
                self.pass(Millis::new(1));
            }
        }
        panic!("no answer");
    }

    /// Lets everything end that is under way.
    pub fn settle_down(&mut self) {
        while self.store.poll_completion(self.now).is_some() || self.ground.advance() {}
    }

    pub fn pass(&mut self, length: Millis) {
        self.now = self.now.later(length);
        self.store.handle_tick(self.now);
    }

    /// Stores messages of these sizes in one batch. Returns the offset of the first.
    pub fn append(&mut self, ttl: u32, delay: u32, sizes: &[usize]) -> Offset {
        self.append_in(KEY, ttl, delay, sizes)
    }

    pub fn append_in(&mut self, partition: PartitionKey, ttl: u32, delay: u32, sizes: &[usize]) -> Offset {
        let mut builder = BatchBuilder::new(ClientId::from(9), ttl, 0).delayed(delay);
        sizes.iter().for_each(|size| builder.push(&vec![7; *size]));
        let batch = builder.close();
        match self.ask(|token| Request::Append { token, stream: Stream(1), partition, batch }) {
            Completion::Appended { result, .. } => result.unwrap().unwrap().start,
            other => panic!("{other:?}"),
        }
    }

    pub fn claim(&mut self, messages_max: u32) -> Grant {
        self.try_claim(messages_max).unwrap()
    }

    /// Claims messages, if there are any.
    pub fn try_claim(&mut self, messages_max: u32) -> Option<Grant> {
        let terms = Terms { client: client(), ttl_secs: 100, grace_secs: 10 };
        let (worker, partition, bytes_max) = (Worker(1), KEY, 1 << 20);
        let claim =
            self.ask(|token| Request::Claim { token, worker, partition, terms, messages_max, bytes_max });
        match claim {
            Completion::Claimed { result, .. } => result.unwrap(),
            other => panic!("{other:?}"),
        }
    }

    /// Claims exactly so many messages.
    fn take(&mut self, messages: u64) -> Vec<LeaseId> {
        let (mut left, mut leases) = (messages, Vec::new());
        while left > 0 {
            let Grant { lease, runs, .. } = self.claim(left as u32);
            left -= runs.iter().map(|run| run.offsets.end.since(run.offsets.start)).sum::<u64>();
            leases.push(lease);
        }
        leases
    }

    pub fn settle(&mut self, lease: LeaseId, what: Settle) -> Vec<Lost> {
        let (leases, offsets) = (Leases::One(lease), Vec::new());
        let settlements = vec![Settlement { client: client(), leases, offsets, what }];
        match self.ask(|token| Request::Settle { token, partition: KEY, settlements }) {
            Completion::Settled { result, .. } => result.unwrap(),
            other => panic!("{other:?}"),
        }
    }

    pub fn manage(&mut self, what: Manage) -> Result<Managed, StoreFault> {
        self.manage_in(KEY, what)
    }

    pub fn manage_in(&mut self, partition: PartitionKey, what: Manage) -> Result<Managed, StoreFault> {
        match self.ask(|token| Request::Manage { token, partition, what }) {
            Completion::Managed { result, .. } => result,
            other => panic!("{other:?}"),
        }
    }

    pub fn stats(&mut self) -> PartitionStats {
        match self.manage(Manage::Stats) {
            Ok(Managed::Stats(stats)) => stats,
            other => panic!("{other:?}"),
        }
    }

    /// Returns the numbers of free, claimed and delayed messages, and their bytes.
    pub fn counts(&mut self) -> [u64; 4] {
        let PartitionStats { free, claimed, delayed, bytes, .. } = self.stats();
        [free, claimed, delayed, bytes]
    }

    pub fn remove(&mut self, offsets: &[u64], only: Only) -> Result<Vec<Removed>, StoreFault> {
        let offsets = offsets.iter().copied().map(Offset).collect();
        match self.manage(Manage::Remove { offsets, only }) {
            Ok(Managed::Removed(removed)) => Ok(removed),
            Err(fault) => Err(fault),
            other => panic!("{other:?}"),
        }
    }

    pub fn find(&mut self, offsets: &[u64]) -> Vec<Found> {
        match self.manage(Manage::Find(offsets.iter().copied().map(Offset).collect())) {
            Ok(Managed::Found(found)) => found,
            other => panic!("{other:?}"),
        }
    }

    fn found(&mut self, offsets: &[u64]) -> Vec<u64> {
        self.find(offsets).into_iter().map(|found| found.offset.0).collect()
    }

    /// Pops messages. Returns their offsets.
    fn pop(&mut self, messages_max: u32) -> Result<Vec<u64>, StoreFault> {
        match self.manage(Manage::Pop { messages_max, bytes_max: 1 << 20 }) {
            Ok(Managed::Popped(runs)) => {
                Ok(runs.into_iter().flat_map(|run| run.offsets.start.0..run.offsets.end.0).collect())
            }
            Err(fault) => Err(fault),
            other => panic!("{other:?}"),
        }
    }

    /// Returns the offsets that a plain consumer sees.
    fn read(&mut self) -> Vec<u64> {
        let (mut from, mut seen) = (Offset::ZERO, Vec::new());
        loop {
            let fetched = self.ask(|token| Request::Fetch {
                token,
                partition: KEY,
                from,
                bytes_max: 1 << 20,
                exclude: None,
                view: View::Live,
                wait: false,
            });
            let Completion::Fetched { result: Ok(fetched), .. } = fetched else { panic!("{fetched:?}") };
            for stored in &fetched.batches {
                let offsets = stored.base_offset.following(u64::from(stored.batch.count()));
                let shown =
                    offsets.filter(|offset| fetched.hidden.visible(*offset, *offset + 1).start == *offset);
                seen.extend(shown.map(|offset| offset.0));
            }
            from = fetched.next;
            if fetched.at_end {
                return seen;
            }
        }
    }
}

/// Runs a case on each store.
macro_rules! on_both {
    ($($case:ident),* $(,)?) => {
        mod memory {
            $(#[test] fn $case() { super::$case(super::Site::new(super::InMemory)); })*
        }
        mod log {
            $(#[test] fn $case() {
                super::$case(super::Site::new(super::OnDisk::with_segments(1, 1 << 20, 1 << 20)));
                super::$case(super::Site::new(super::OnDisk::with_segments(2, 0, 1 << 20)));
            })*
        }
    };
}

on_both! {
    statistics_follow_the_life_of_messages,
    statistics_name_the_oldest_and_the_newest_message,
    what_has_expired_leaves_the_count_within_a_minute,
    messages_are_found_by_their_offsets,
    messages_are_deleted_by_their_offsets,
    a_deletion_heeds_claims_if_it_is_told_to,
    popped_messages_are_deleted_in_order,
    a_purge_takes_what_is_there_and_nothing_that_comes_later,
    deleted_messages_are_not_delayed_and_not_given_out,
    too_many_gaps_are_refused,
    a_partition_that_is_only_looked_at_has_no_ledger,
    deleted_messages_leave_the_store,
}

fn statistics_follow_the_life_of_messages(mut site: Site<impl Ground>) {
    assert_eq!(site.counts(), [0; 4]);
    site.append(TTL, 0, &[6; 10]);
    site.append(TTL, 5, &[16; 4]);
    assert_eq!(site.counts(), [10, 0, 4, 10 * 10 + 4 * 20]);
    let Grant { lease, .. } = site.claim(4);
    assert_eq!(site.counts(), [6, 4, 4, 180]);
    site.settle(lease, Settle::Release(Some(20)));
    assert_eq!(site.counts(), [6, 0, 8, 180]);
    site.pass(Millis::new(5_000));
    assert_eq!(site.counts(), [10, 0, 4, 180]);
    if site.crash() {
        assert_eq!(site.counts(), [10, 0, 4, 180], "after a restart");
    }
    for lease in site.take(7) {
        site.settle(lease, Settle::Ack);
    }
    assert_eq!(site.counts(), [3, 0, 4, 100]);
    site.pass(Millis::new(15_000));
    assert_eq!(site.counts(), [7, 0, 0, 100]);
    site.take(7);
    assert_eq!(site.counts(), [0, 7, 0, 100]);
    if site.crash() {
        assert_eq!(site.counts(), [0, 7, 0, 100], "after a restart");
    }
    // The lease ends.
    site.pass(Millis::new(100_000));
    assert_eq!(site.counts(), [7, 0, 0, 100]);
    let mut left = 7;
    while left > 0 {
        left -= site.pop(100).unwrap().len();
    }
    assert_eq!(site.stats(), PartitionStats::default());
}

fn statistics_name_the_oldest_and_the_newest_message(mut site: Site<impl Ground>) {
    let ends = |site: &mut Site<_>| {
        let PartitionStats { oldest, newest, .. } = site.stats();
        [oldest, newest].map(|end| end.map(|stored| (stored.offset.0, stored.timestamp.get() % 60_000)))
    };
    assert_eq!(ends(&mut site), [None; 2]);
    for _ in 0..3 {
        site.append(TTL, 0, &[6; 4]);
        site.pass(Millis::new(1_000));
    }
    let base = ends(&mut site)[0].unwrap().1;
    let at = |offset: u64| Some((offset, base + offset / 4 * 1_000));
    let expected = |site: &mut Site<_>, oldest, newest| {
        let found = ends(site).map(|end| end.map(|(offset, at)| (offset, at / 100 * 100)));
        let wanted = [at(oldest), at(newest)].map(|end| end.map(|(offset, at)| (offset, at / 100 * 100)));
        assert_eq!(found, wanted);
    };
    expected(&mut site, 0, 11);
    let Grant { lease, .. } = site.claim(6);
    expected(&mut site, 0, 11);
    site.settle(lease, Settle::Ack);
    expected(&mut site, 6, 11);
    site.crash();
    expected(&mut site, 6, 11);
    site.remove(&[6, 7, 8, 10, 11], Only::All).unwrap();
    expected(&mut site, 9, 9);
    site.crash();
    expected(&mut site, 9, 9);
}

fn what_has_expired_leaves_the_count_within_a_minute(mut site: Site<impl Ground>) {
    site.append(120, 0, &[6; 10]);
    site.append(300, 0, &[6; 10]);
    let Grant { lease, .. } = site.claim(4);
    site.settle(lease, Settle::Release(Some(0)));
    site.pass(Millis::new(61_000));
    assert_eq!(site.counts(), [20, 0, 0, 200]);
    // The grant made them live for 10 seconds after its end at least, which is shorter than their TTL.
    site.pass(Millis::new(119_000));
    assert_eq!(site.counts(), [10, 0, 0, 100]);
    if site.crash() {
        assert_eq!(site.counts(), [10, 0, 0, 100]);
    }
    // What is leased lives on.
    let Grant { lease, .. } = site.claim(5);
    site.pass(Millis::new(99_000));
    assert_eq!(site.settle(lease, Settle::Renew(300)), []);
    site.pass(Millis::new(120_000));
    assert_eq!(site.counts(), [0, 5, 0, 50]);
    site.settle(lease, Settle::Release(Some(0)));
    site.pass(Millis::new(400_000));
    assert_eq!(site.stats(), PartitionStats::default());
}

fn messages_are_found_by_their_offsets(mut site: Site<impl Ground>) {
    assert_eq!(site.found(&[0, 5]), [0u64; 0]);
    for _ in 0..30 {
        site.append(TTL, 0, &[3, 4, 5]);
    }
    site.append(60, 0, &[1]);
    assert_eq!(site.found(&[0, 1, 44, 89, 90, 91, 1 << 40]), [0, 1, 44, 89, 90]);
    let Grant { lease, .. } = site.claim(4);
    site.remove(&[1, 50], Only::All).unwrap();
    let found = site.find(&[0, 1, 3, 4, 50, 51]);
    let offsets: Vec<u64> = found.iter().map(|found| found.offset.0).collect();
    assert_eq!(offsets, [0, 3, 4, 51]);
    for Found { stored, offset, record, count, claim, .. } in found {
        let size = 3 + offset.0 % 3;
        assert_eq!(stored.batch.record_at(record).unwrap().1.payload.len() as u64, size);
        assert_eq!(
            (count, claim.map(|claim| claim.lease)),
            match offset.0 {
                0 | 3 => (1, Some(lease)),
                _ => (0, None),
            }
        );
    }
    site.settle(lease, Settle::Ack);
    site.pass(Millis::new(61_000));
    assert_eq!(site.found(&[0, 1, 2, 3, 4, 90]), [4]);
    site.crash();
    assert_eq!(site.found(&(0..200).collect::<Vec<_>>()).len(), 85);
}

fn messages_are_deleted_by_their_offsets(mut site: Site<impl Ground>) {
    use Removed::{Absent, Yes};
    for _ in 0..20 {
        site.append(TTL, 0, &[6; 5]);
    }
    assert_eq!(site.remove(&[3, 50, 99, 100], Only::All), Ok(vec![Yes, Yes, Yes, Absent]));
    assert_eq!(site.remove(&[3, 4, 50, 60], Only::All), Ok(vec![Absent, Yes, Absent, Yes]));
    assert_eq!(site.counts(), [95, 0, 0, 950]);
    let left: Vec<u64> = (0..100).filter(|offset| ![3, 4, 50, 60, 99].contains(offset)).collect();
    assert_eq!(site.read(), left);
    if site.crash() {
        assert_eq!(site.read(), left);
        assert_eq!(site.counts(), [95, 0, 0, 950]);
    }
    assert_eq!(site.pop(200).unwrap(), left);
    assert_eq!(site.append(TTL, 0, &[6]), Offset(100));
    assert_eq!(site.pop(200).unwrap(), [100]);
}

fn a_deletion_heeds_claims_if_it_is_told_to(mut site: Site<impl Ground>) {
    use Removed::{Absent, Claimed, Unclaimed, Yes};
    site.append(TTL, 0, &[6; 10]);
    let first = site.claim(3).lease;
    let second = site.claim(3).lease;
    let mine = Only::In(client(), first);
    assert_eq!(site.remove(&[0, 3, 6, 20], mine), Ok(vec![Yes, Claimed, Unclaimed, Absent]));
    assert_eq!(site.remove(&[1], Only::In(ClientId::from(77), first)), Ok(vec![Claimed]));
    assert_eq!(site.remove(&[1, 4, 7], Only::Unclaimed), Ok(vec![Claimed, Claimed, Yes]));
    site.settle(second, Settle::Release(Some(0)));
    // What was released is nobody's.
    assert_eq!(site.remove(&[3], mine), Ok(vec![Unclaimed]));
    assert_eq!(site.remove(&[3], Only::In(client(), second)), Ok(vec![Unclaimed]));
    assert_eq!(site.remove(&[1, 3, 4], Only::All), Ok(vec![Yes; 3]));
    assert_eq!(site.read(), [2, 5, 6, 8, 9]);
    assert_eq!(site.settle(first, Settle::Ack), []);
    assert_eq!(site.read(), [5, 6, 8, 9]);
    site.crash();
    assert_eq!(site.read(), [5, 6, 8, 9]);
}

fn popped_messages_are_deleted_in_order(mut site: Site<impl Ground>) {
    assert_eq!(site.pop(5).unwrap(), [0u64; 0]);
    site.append(TTL, 0, &[6; 4]);
    site.append(TTL, 100, &[6; 2]);
    site.append(TTL, 0, &[6; 4]);
    let lease = site.claim(2).lease;
    assert_eq!(site.pop(4).unwrap(), [2, 3, 6, 7]);
    assert_eq!(site.counts(), [2, 2, 2, 60]);
    site.crash();
    site.settle(lease, Settle::Release(Some(0)));
    assert_eq!(site.pop(3).unwrap(), [0, 1, 8]);
    site.pass(Millis::new(100_000));
    assert_eq!(site.pop(9).unwrap(), [4, 5, 9]);
    assert_eq!((site.pop(9).unwrap(), site.read()), (vec![], vec![]));
    assert_eq!(site.stats(), PartitionStats::default());
}

fn a_purge_takes_what_is_there_and_nothing_that_comes_later(mut site: Site<impl Ground>) {
    let purge = |site: &mut Site<_>| match site.manage(Manage::Purge) {
        Ok(Managed::Purged(count)) => count,
        other => panic!("{other:?}"),
    };
    assert_eq!(purge(&mut site), 0);
    site.append(TTL, 0, &[6; 10]);
    site.append(TTL, 50, &[6; 10]);
    let leases = [site.claim(3).lease, site.claim(3).lease];
    site.settle(leases[0], Settle::Release(Some(30)));
    assert_eq!(purge(&mut site), 20);
    assert_eq!(site.stats(), PartitionStats::default());
    assert_eq!(site.append(TTL, 0, &[6; 3]), Offset(20));
    for lease in leases {
        assert_eq!(site.settle(lease, Settle::Ack), [], "it is ignored");
    }
    assert_eq!((site.counts(), site.read()), ([3, 0, 0, 30], vec![20, 21, 22]));
    site.crash();
    assert_eq!((site.counts(), site.read()), ([3, 0, 0, 30], vec![20, 21, 22]));
    assert_eq!(site.claim(9).runs.len(), 1);
    assert_eq!(purge(&mut site), 3);
    assert_eq!(site.pop(5).unwrap(), [0u64; 0]);
}

fn deleted_messages_are_not_delayed_and_not_given_out(mut site: Site<impl Ground>) {
    site.append(TTL, 20, &[6; 4]);
    site.append(TTL, 0, &[6; 4]);
    // This passes over delayed messages.
    assert_eq!(site.remove(&[1, 6], Only::Unclaimed), Ok(vec![Removed::Yes; 2]));
    assert_eq!(site.counts(), [3, 0, 3, 60]);
    assert_eq!(site.pop(9).unwrap(), [4, 5, 7]);
    site.crash();
    assert_eq!(site.pop(9).unwrap(), [0u64; 0]);
    site.pass(Millis::new(20_000));
    assert_eq!(site.pop(9).unwrap(), [0, 2, 3]);
}

fn too_many_gaps_are_refused(mut site: Site<impl Ground>) {
    for _ in 0..140 {
        site.append(TTL, 0, &[0; 1_000]);
    }
    let (mut deleted, mut offset) = (0, 1);
    let refused = loop {
        let offsets: Vec<u64> = (0..1_000).map(|index| offset + 2 * index).collect();
        match site.remove(&offsets, Only::All) {
            Ok(removed) => assert!(removed.iter().all(|removed| *removed == Removed::Yes)),
            Err(fault) => break fault,
        }
        (deleted, offset) = (deleted + 1_000, offset + 2_000);
    };
    assert_eq!(refused, StoreFault::Unavailable(TOO_SCATTERED));
    assert!((PIECES_MAX as u64 - 1_100..PIECES_MAX as u64).contains(&deleted), "{deleted}");
    assert_eq!(site.counts()[0], 140_000 - deleted, "what is refused changes nothing");
    // The oldest can still be deleted, one by one.
    let oldest: Vec<u64> = (0..500).map(|index| 2 * index).collect();
    assert_eq!(site.remove(&oldest, Only::All), Ok(vec![Removed::Yes; 500]));
    assert_eq!(site.pop(100).unwrap().len(), 100);
    // As many messages are moved as there is room for.
    let to = Some(QueueName::parse("elsewhere").unwrap());
    let moved = site.manage(Manage::Redrive { to });
    assert!(matches!(moved, Ok(Managed::Redriven(1..))), "{moved:?}");
}

fn a_partition_that_is_only_looked_at_has_no_ledger(mut site: Site<impl Ground>) {
    site.append(TTL, 0, &[6; 4]);
    assert_eq!(site.counts(), [4, 0, 0, 40]);
    assert!(site.store.keepers.is_empty());
    assert_eq!(site.found(&[2]), [2]);
    site.settle_down();
    site.pass(Millis::new(2_000));
    assert!(site.store.keepers.is_empty());
    let leave = Request::Leave { worker: Worker(1), partition: KEY, leaving: Leaving::Keep };
    assert!(site.store.submit(site.now, leave).is_ok());
    let other = PartitionKey { partition: Partition(1), ..KEY };
    assert!(matches!(site.manage_in(other, Manage::Stats), Ok(Managed::Stats(_))));
}

fn deleted_messages_leave_the_store(mut site: Site<impl Ground>) {
    for _ in 0..60 {
        site.append(TTL, 0, &[100_000]);
    }
    let held = |site: &mut Site<_>| {
        let holding =
            Store::<Inner<u64>>::holding(&mut site.store.inner, KEY, Offset::ZERO, UnixMillis::ZERO);
        holding.unwrap().stored
    };
    assert_eq!(held(&mut site), Offset(0)..Offset(60));
    assert_eq!(site.remove(&(0..30).collect::<Vec<_>>(), Only::All).unwrap().len(), 30);
    site.settle_down();
    site.pass(Millis::new(1_000));
    assert!(held(&mut site).start >= Offset(20), "{:?}", held(&mut site));
    assert!(matches!(site.manage(Manage::Purge), Ok(Managed::Purged(30))));
    site.settle_down();
    site.pass(Millis::new(1_000));
    assert!(held(&mut site).start >= Offset(48), "{:?}", held(&mut site));
}

#[test]
fn a_pop_or_a_deletion_that_is_not_durable_fails_and_deletes_nothing() {
    for steps in 0..4 {
        let mut site = Site::new(OnDisk::new(steps, 1 << 20));
        site.append(TTL, 0, &[6; 10]);
        site.settle_down();
        site.ground.disk.fail_after(steps, 5, 1);
        let popped = site.pop(3);
        let removed = site.remove(&[7], Only::All);
        site.ground.disk.heal();
        for _ in 0..10 {
            site.settle_down();
            site.pass(Millis::new(1_000));
        }
        let is_gone = |offset: u64| match offset {
            0..3 => popped.is_ok(),
            7 => removed.is_ok(),
            _ => false,
        };
        let expected: Vec<u64> = (0..10).filter(|offset| !is_gone(*offset)).collect();
        assert_eq!(site.read(), expected, "step {steps}: {popped:?}, {removed:?}");
        site.crash();
        assert_eq!(site.read(), expected, "step {steps}: {popped:?}, {removed:?}");
        assert_eq!(site.counts()[0], expected.len() as u64);
    }
}

#[test]
fn a_purge_lets_the_notes_go() {
    let mut site = Site::new(OnDisk::new(5, 1 << 20));
    site.append(TTL, 0, &[0; 2_000]);
    for _ in 0..1_000 {
        let lease = site.claim(1).lease;
        site.settle(lease, Settle::Release(Some(500)));
    }
    assert!(matches!(site.manage(Manage::Purge), Ok(Managed::Purged(2_000))));
    // New segments take the place of those that held the notes.
    for _ in 0..40 {
        site.append(TTL, 0, &[9_000]);
        site.pass(Millis::new(1_000));
        site.settle_down();
    }
    let hidden = PartitionKey { partition: KEY.partition.state(), ..KEY };
    let stored = Store::<Inner<u64>>::holding(&mut site.store.inner, hidden, Offset::ZERO, site.now.unix);
    let stored = stored.unwrap().stored;
    assert!(stored.end.since(stored.start) < 100, "{stored:?}");
}
