//! Leases that are known by their ids alone, on the memory store and on the log.

use super::managing::{Site, TTL, client};
use super::stores::{Ground, InMemory, KEY, OnDisk};
use crate::base::claim::{Granted, LeaseId, Leaving, Settle, Worker};
use crate::base::clock::Now;
use crate::base::error::StoreFault;
use crate::base::manage::{ClaimView, MANAGED_MAX, Manage, Managed, Only, Removed};
use crate::base::millis::{Millis, UnixMillis};
use crate::base::names::ClientId;
use crate::store::{Request, Store};

/// Somebody else.
fn other() -> ClientId {
    ClientId::from(4)
}

/// Returns the seconds until a time, rounded up.
fn secs_to(now: Now, at: UnixMillis) -> u32 {
    at.since(now.unix).as_secs_up()
}

impl<G: Ground> Site<G> {
    fn look_at(&mut self, client: ClientId, lease: LeaseId) -> Option<ClaimView> {
        match self.manage(Manage::Claim(client, lease)) {
            Ok(Managed::Claim(view)) => view,
            other => panic!("{other:?}"),
        }
    }

    /// Looks at a lease. Returns its age and TTL in seconds, how long it still lasts, and its messages.
    fn look(&mut self, lease: LeaseId) -> Option<(u64, u32, u64, Vec<u64>)> {
        let view = self.look_at(client(), lease)?;
        let (age, left) = (self.now.mono.since(view.since), view.ends.since(self.now.mono));
        let offsets: Vec<u64> =
            view.runs.iter().flat_map(|run| run.offsets.start.0..run.offsets.end.0).collect();
        for Granted { stored, offsets, record, .. } in &view.runs {
            let index = offsets.start.since(stored.base_offset) as u32;
            assert_eq!(*record, stored.batch.position_of(index));
            assert!(stored.base_offset <= offsets.start && offsets.end <= stored.end_offset());
        }
        assert_eq!(view.messages, offsets.len() as u64);
        Some((age.get() / 1_000, view.ttl_secs, left.get().div_ceil(1_000), offsets))
    }

    fn renew(
        &mut self,
        client: ClientId,
        lease: LeaseId,
        ttl_secs: u32,
        grace_secs: u32,
    ) -> Result<bool, StoreFault> {
        match self.manage(Manage::Renew { client, lease, ttl_secs, grace_secs }) {
            Ok(Managed::Renewed(is_live)) => Ok(is_live),
            Err(fault) => Err(fault),
            other => panic!("{other:?}"),
        }
    }

    fn release(&mut self, client: ClientId, lease: LeaseId) {
        assert!(matches!(self.manage(Manage::Release(client, lease)), Ok(Managed::Released)));
    }

    /// The worker that claims goes, as that of one request does.
    fn leave(&mut self) {
        let leave = Request::Leave { worker: Worker(1), partition: KEY, leaving: Leaving::Keep };
        assert!(self.store.submit(self.now, leave).is_ok());
    }

    /// Returns the counts and the seconds for which messages live, by their offsets.
    fn lives(&mut self, offsets: &[u64]) -> Vec<(u32, Option<u32>)> {
        let now = self.now;
        let found = self.find(offsets).into_iter();
        found.map(|found| (found.count, found.expires.map(|at| secs_to(now, at)))).collect()
    }
}

on_both! {
    a_lease_is_known_by_its_id,
    a_renewal_restarts_the_clock_with_other_terms,
    a_released_lease_is_over_and_its_messages_keep_their_counts,
    a_lease_of_somebody_else_is_none,
    leases_survive_a_restart_and_no_number_is_given_twice,
    messages_live_as_long_as_the_terms_of_their_leases_say,
    deletions_tell_leases_apart,
    a_partition_without_a_ledger_has_no_leases,
    a_large_lease_is_shown_in_part,
}

fn a_lease_is_known_by_its_id(mut site: Site<impl Ground>) {
    for _ in 0..3 {
        site.append(TTL, 0, &[6; 4]);
    }
    let lease = site.claim(6).lease;
    site.leave();
    assert_eq!(site.look(lease), Some((0, 100, 100, vec![0, 1, 2, 3, 4, 5])));
    site.pass(Millis::new(30_000));
    assert_eq!(site.look(lease), Some((30, 100, 70, vec![0, 1, 2, 3, 4, 5])));
    assert_eq!(site.look(LeaseId(lease.0 + 1)), None);
    assert_eq!(site.look(LeaseId(0)), None);
    // To look at it delivers nothing.
    assert!(site.find(&[0, 5]).iter().all(|found| found.count == 1));
    assert_eq!(site.remove(&[1, 4], Only::In(client(), lease)), Ok(vec![Removed::Yes; 2]));
    assert_eq!(site.look(lease), Some((30, 100, 70, vec![0, 2, 3, 5])));
    site.remove(&[0, 2, 3, 5], Only::In(client(), lease)).unwrap();
    assert_eq!(site.look(lease), None, "it has no messages left");
    let lease = site.claim(2).lease;
    site.pass(Millis::new(99_000));
    assert!(site.look(lease).is_some());
    site.pass(Millis::new(1_000));
    assert_eq!(site.look(lease), None, "its time is over");
    assert_eq!(site.renew(client(), lease, 100, 10), Ok(false));
    assert_eq!(site.counts(), [6, 0, 0, 60]);
}

fn a_renewal_restarts_the_clock_with_other_terms(mut site: Site<impl Ground>) {
    site.append(TTL, 0, &[6; 8]);
    let lease = site.claim(8).lease;
    site.pass(Millis::new(60_000));
    assert_eq!(site.renew(client(), lease, 300, 20), Ok(true));
    site.pass(Millis::new(299_000));
    assert_eq!(site.look(lease), Some((299, 300, 1, (0..8).collect())));
    // A shorter one ends sooner.
    assert_eq!(site.renew(client(), lease, 5, 20), Ok(true));
    assert_eq!(site.look(lease), Some((0, 5, 5, (0..8).collect())));
    site.pass(Millis::new(5_000));
    assert_eq!(site.look(lease), None);
    assert_eq!(site.counts(), [8, 0, 0, 80]);
    assert!(site.find(&[0, 7]).iter().all(|found| found.count == 1), "a renewal is no delivery");
    let next = site.claim(8);
    assert!(next.lease > lease && next.runs.iter().all(|run| run.count == 2));
    // Messages that the worker has released are not renewed.
    site.release(client(), next.lease);
    let lease = site.claim(8).lease;
    assert_eq!(site.remove(&[0, 1], Only::All).unwrap().len(), 2);
    assert_eq!(site.renew(client(), lease, 50, 10), Ok(true));
    assert_eq!(site.look(lease), Some((0, 50, 50, (2..8).collect())));
    assert_eq!(site.settle(lease, Settle::Ack), []);
    assert_eq!(site.counts(), [0; 4]);
    assert_eq!(site.store.claims().renewed, 8 + 8 + 6);
}

fn a_released_lease_is_over_and_its_messages_keep_their_counts(mut site: Site<impl Ground>) {
    site.append(TTL, 0, &[6; 4]);
    for count in 1..4 {
        let grant = site.claim(4);
        assert!(grant.runs.iter().all(|run| run.count == count));
        assert_eq!(site.counts(), [0, 4, 0, 40]);
        site.release(client(), grant.lease);
        assert_eq!(site.look(grant.lease), None);
        assert_eq!(site.renew(client(), grant.lease, 100, 10), Ok(false));
        assert_eq!(site.counts(), [4, 0, 0, 40], "they can be claimed at once");
        site.release(client(), grant.lease);
    }
    let lease = site.claim(2).lease;
    site.pass(Millis::new(100_000));
    let next = site.claim(2).lease;
    site.release(client(), lease);
    assert_eq!(site.counts(), [2, 2, 0, 40], "the lease that is over releases nothing of the next one");
    site.release(client(), next);
    site.release(client(), LeaseId(99));
    assert_eq!(site.counts(), [4, 0, 0, 40]);
}

fn a_lease_of_somebody_else_is_none(mut site: Site<impl Ground>) {
    site.append(TTL, 0, &[6; 4]);
    let lease = site.claim(4).lease;
    assert!(site.look_at(other(), lease).is_none());
    assert_eq!(site.renew(other(), lease, 1_000, 10), Ok(false));
    site.release(other(), lease);
    assert_eq!(site.look(lease), Some((0, 100, 100, vec![0, 1, 2, 3])));
    assert_eq!(site.remove(&[0], Only::In(other(), lease)), Ok(vec![Removed::Claimed]));
}

fn leases_survive_a_restart_and_no_number_is_given_twice(mut site: Site<impl Ground>) {
    site.append(TTL, 0, &[6; 12]);
    let [kept, renewed, released, over] = [0; 4].map(|_| site.claim(3).lease);
    site.leave();
    site.pass(Millis::new(10_000));
    assert_eq!(site.renew(client(), renewed, 200, 30), Ok(true));
    assert_eq!(site.renew(client(), over, 5, 0), Ok(true));
    site.release(client(), released);
    site.pass(Millis::new(10_000));
    let check = |site: &mut Site<_>| {
        assert_eq!(site.look(kept), Some((20, 100, 80, vec![0, 1, 2])));
        assert_eq!(site.look(renewed), Some((10, 200, 190, vec![3, 4, 5])));
        assert_eq!((site.look(released), site.look(over)), (None, None));
        assert_eq!(site.counts(), [6, 6, 0, 120]);
        assert_eq!(site.remove(&[6], Only::In(client(), released)), Ok(vec![Removed::Unclaimed]));
    };
    check(&mut site);
    if site.crash() {
        check(&mut site);
        // The same, by a snapshot.
        let now = site.now;
        site.store.with_keeper(KEY, |keeper, out| keeper.renew_snapshot(now, out));
        site.settle_down();
        assert!(site.crash());
        check(&mut site);
    }
    assert!(site.claim(1).lease > over);
    assert_eq!(site.renew(client(), kept, 100, 10), Ok(true));
    site.release(client(), renewed);
    site.crash();
    assert_eq!(site.look(kept), Some((0, 100, 100, vec![0, 1, 2])));
    assert_eq!(site.look(renewed), None);
    assert!(site.claim(1).lease.0 > over.0 + 1);
}

fn messages_live_as_long_as_the_terms_of_their_leases_say(mut site: Site<impl Ground>) {
    site.append(60, 0, &[6; 4]);
    site.append(TTL, 0, &[6; 2]);
    assert_eq!(site.lives(&[0, 4]), [(0, None), (0, None)]);
    // The claim lasts for 100 seconds, with a grace of 10.
    let mut runs = Vec::new();
    let mut leases = Vec::new();
    while runs.len() < 2 {
        let grant = site.claim(6);
        leases.push(grant.lease);
        runs.extend(grant.runs);
    }
    let secs = |site: &Site<_>, run: &Granted| run.expires.map(|at| secs_to(site.now, at));
    assert_eq!(runs.iter().map(|run| secs(&site, run)).collect::<Vec<_>>(), [Some(110), None]);
    site.pass(Millis::new(50_000));
    assert_eq!(site.lives(&[0, 4]), [(1, Some(60)), (1, None)]);
    let view = site.look_at(client(), leases[0]).unwrap();
    assert_eq!(secs(&site, &view.runs[0]), Some(60));
    assert_eq!(site.renew(client(), leases[0], 200, 30), Ok(true));
    assert_eq!(site.lives(&[0, 4]), [(1, Some(230)), (1, None)]);
    site.crash();
    assert_eq!(site.lives(&[0, 4]), [(1, Some(230)), (1, None)]);
    // What a lease has prolonged stays so.
    leases.into_iter().for_each(|lease| site.release(client(), lease));
    site.pass(Millis::new(100_000));
    assert_eq!(site.lives(&[0, 4]), [(1, Some(130)), (1, None)]);
    let grant = site.claim(3);
    assert_eq!((grant.runs[0].count, secs(&site, &grant.runs[0])), (2, Some(130)));
    site.release(client(), grant.lease);
    let Ok(Managed::Popped(runs)) = site.manage(Manage::Pop { messages_max: 2, bytes_max: 1 << 20 }) else {
        panic!("nothing is popped");
    };
    assert_eq!((runs[0].count, secs(&site, &runs[0])), (3, Some(130)));
    site.pass(Millis::new(129_000));
    assert_eq!(site.lives(&[0, 1, 2, 3]), [(2, Some(1)), (1, Some(1))]);
    site.pass(Millis::new(1_000));
    assert_eq!(site.lives(&[0, 1, 2, 3]), []);
}

fn deletions_tell_leases_apart(mut site: Site<impl Ground>) {
    use Removed::{Absent, Claimed, Unclaimed, Yes};
    site.append(TTL, 0, &[6; 12]);
    let [first, second] = [0; 2].map(|_| site.claim(4).lease);
    let (mine, unknown) = (Only::In(client(), first), Only::In(client(), LeaseId(77)));
    assert_eq!(site.remove(&[4, 8, 20], Only::Unclaimed), Ok(vec![Claimed, Yes, Absent]));
    assert_eq!(site.remove(&[4, 9, 20], mine), Ok(vec![Claimed, Unclaimed, Absent]));
    assert_eq!(site.remove(&[4, 9], unknown), Ok(vec![Claimed, Unclaimed]));
    assert_eq!(site.remove(&[0, 8], mine), Ok(vec![Yes, Absent]));
    // The time of the first is over. It still deletes what was not claimed again since.
    assert_eq!(site.renew(client(), second, 1_000, 10), Ok(true));
    site.pass(Millis::new(100_000));
    assert_eq!(site.remove(&[4], mine), Ok(vec![Claimed]));
    assert_eq!(site.remove(&[1, 1], unknown), Ok(vec![Unclaimed; 2]));
    assert_eq!(site.remove(&[1], mine), Ok(vec![Yes]));
    let third = site.claim(1).lease;
    assert_eq!(site.remove(&[2, 3], mine), Ok(vec![Claimed, Yes]));
    // What was released is nobody's.
    site.release(client(), third);
    for only in [mine, Only::In(client(), third)] {
        assert_eq!(site.remove(&[2], only), Ok(vec![Unclaimed]));
    }
    assert_eq!(site.remove(&[2, 5], Only::All), Ok(vec![Yes; 2]));
}

fn a_partition_without_a_ledger_has_no_leases(mut site: Site<impl Ground>) {
    site.append(TTL, 0, &[6; 4]);
    assert_eq!(site.look(LeaseId(1)), None);
    assert_eq!(site.renew(client(), LeaseId(1), 100, 10), Ok(false));
    site.release(client(), LeaseId(1));
    assert!(site.store.keepers.is_empty());
}

fn a_large_lease_is_shown_in_part(mut site: Site<impl Ground>) {
    site.append(TTL, 0, &[6; 1_200]);
    let lease = site.claim(1_200).lease;
    let view = site.look_at(client(), lease).unwrap();
    assert_eq!((view.messages, view.runs.len()), (1_200, 1));
    assert_eq!(view.runs[0].offsets.end.since(view.runs[0].offsets.start), MANAGED_MAX as u64);
}

#[test]
fn a_renewal_that_is_not_durable_fails() {
    for steps in 0..4 {
        let mut site = Site::new(OnDisk::new(steps, 1 << 20));
        site.append(TTL, 0, &[6; 4]);
        let lease = site.claim(4).lease;
        site.leave();
        site.settle_down();
        site.ground.disk.fail_after(steps, 5, 1);
        let renewed = site.renew(client(), lease, 500, 10);
        site.ground.disk.heal();
        assert!(site.crash());
        site.pass(Millis::new(150_000));
        assert!(renewed != Ok(false));
        if renewed.is_ok() {
            assert!(site.look(lease).is_some(), "step {steps}");
        }
    }
}
