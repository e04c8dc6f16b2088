//! Queues with limits: what they hold, and what is dropped.

use std::sync::Arc;

use super::managing::{Site, TTL};
use super::stores::{Ground, InMemory, KEY, OnDisk};
use crate::access::{ProjectLimits, Tenants};
use crate::base::claim::Settle;
use crate::base::manage::{Manage, Managed};
use crate::base::millis::Millis;
use crate::base::names::{Project, QueueName};
use crate::base::policy::{Held, LivePolicy, Policy, WhenFull};
use crate::base::queue::{PartitionKey, QueueId};
use crate::base::units::Partition;
use crate::store::Store;
use crate::store::log::random::Random;

/// A store with one queue, whose policy is known.
fn site<G: Ground>(ground: G, policy: Policy) -> (Site<G>, Arc<LivePolicy>) {
    let (site, live, _) = site_of(ground, policy);
    (site, live)
}

/// As [`site`], with the policies of all queues.
fn site_of<G: Ground>(ground: G, policy: Policy) -> (Site<G>, Arc<LivePolicy>, Arc<Tenants>) {
    let mut site = Site::new(ground);
    let tenants = Arc::new(Tenants::new(ProjectLimits::default()));
    site.store.count_for(&tenants);
    let live = tenants.policies().add(
        KEY.queue,
        (Project::parse("p").unwrap(), QueueName::parse("q").unwrap()),
        policy,
    );
    (site, live, tenants)
}

fn limited(messages: u64, when_full: WhenFull) -> Policy {
    Policy { messages_max: Some(messages), when_full, ..Policy::default() }
}

fn held(messages: u64) -> Held {
    Held { messages, bytes: 10 * messages }
}

fn a_limited_queue_counts_what_is_there(ground: impl Ground) {
    let (mut site, live) = site(ground, limited(100, WhenFull::Refuse));
    site.append(TTL, 0, &[6; 10]);
    site.append(120, 5, &[6; 4]);
    assert_eq!(live.held(), held(14));
    let lease = site.claim(6).lease;
    assert_eq!(live.held(), held(14));
    site.settle(lease, Settle::Ack);
    assert_eq!(live.held(), held(8), "acknowledged messages do not count");
    assert!(site.manage(Manage::Pop { messages_max: 1, bytes_max: 100 }).is_ok());
    assert_eq!(live.held(), held(7), "deleted messages do not count");
    site.pass(Millis::new(180_000));
    assert_eq!(live.held(), held(3), "expired messages do not count");
    live.set(Policy::default());
    site.pass(Millis::new(1_000));
    assert_eq!(live.held(), Held::default(), "nothing is counted without a limit");
    site.append(TTL, 0, &[6; 5]);
    live.set(limited(5, WhenFull::Refuse));
    site.pass(Millis::new(1_000));
    assert_eq!(live.held(), held(8), "what is there counts");
    assert_eq!(live.excess(Held::default()).messages, 3);
    site.store.forget(KEY.queue, 7);
    assert_eq!(live.held(), Held::default());
}

fn a_full_queue_drops_its_oldest_messages_that_are_not_claimed(ground: impl Ground) {
    let (mut site, live) = site(ground, limited(10, WhenFull::DropOldest));
    site.append(TTL, 0, &[6; 8]);
    let lease = site.claim(3).lease;
    site.append(TTL, 30, &[6; 4]);
    assert_eq!((live.held(), site.store.counters().dropped), (held(10), 2));
    assert_eq!(site.counts(), [3, 3, 4, 100]);
    site.append(TTL, 0, &[6; 6]);
    assert_eq!(site.counts(), [6, 3, 1, 100]);
    site.append(TTL, 0, &[6; 20]);
    assert_eq!(site.counts(), [7, 3, 0, 100]);
    assert_eq!((live.held(), site.store.counters().dropped), (held(10), 28));
    site.settle(lease, Settle::Ack);
    assert_eq!(live.held(), held(7));
    // What is claimed is spared, even if that is too much.
    site.claim(7);
    live.set(limited(5, WhenFull::DropOldest));
    site.append(TTL, 0, &[6; 1]);
    assert_eq!((live.held(), site.counts()), (held(8), [1, 7, 0, 80]), "and so is the newest message");
}

fn a_queue_that_is_full_of_bytes_drops_enough_of_its_messages(ground: impl Ground) {
    let policy = Policy { bytes_max: Some(100), when_full: WhenFull::DropOldest, ..Policy::default() };
    let (mut site, live) = site(ground, policy);
    for _ in 0..50 {
        site.append(TTL, 0, &[6; 3]);
        assert!(live.held().bytes <= 100, "{:?}", live.held());
    }
    assert!(live.held().bytes > 70, "{:?}", live.held());
    site.append(TTL, 0, &[500]);
    assert_eq!(live.held().messages, 1, "the newest message stays, though it does not fit");
}

/// Two partitions of a queue whose limits change, with everything that changes what they hold. What the queue is said to
/// hold is what its partitions say.
fn what_a_queue_holds_is_what_its_partitions_say<G: Ground>(seed: u64, ground: G) {
    const OTHER: PartitionKey = PartitionKey { queue: KEY.queue, partition: Partition(1) };
    let mut random = Random(seed);
    let (mut site, live, tenants) = site_of(ground, Policy::default());
    let name = || (Project::parse("p").unwrap(), QueueName::parse("r").unwrap());
    let (mut leases, mut queues) = (Vec::new(), KEY.queue.0);
    for _ in 0..random.between(20, 120) {
        let (messages, when_full) = (random.between(1, 40) as u64, random.below(3));
        match random.below(12) {
            0 if when_full == 0 => live.set(Policy::default()),
            0 if when_full == 1 => live.set(limited(messages, WhenFull::Refuse)),
            0 => live.set(limited(messages, WhenFull::DropOldest)),
            // Another queue with limits makes the shard look at once.
            1 => {
                queues += 1;
                tenants.policies().add(QueueId(queues), name(), limited(9, WhenFull::Refuse));
            }
            2..=5 => {
                let partition = if random.one_in(2) { KEY } else { OTHER };
                let (ttl, delay) = ([120, TTL][random.below(2)], [0, 0, 5][random.below(3)]);
                site.append_in(partition, ttl, delay, &vec![6; random.between(1, 12)]);
            }
            6 => leases.extend(site.try_claim(random.between(1, 5) as u32).map(|grant| grant.lease)),
            7 if !leases.is_empty() => {
                let lease = leases.swap_remove(random.below(leases.len()));
                let what = [Settle::Ack, Settle::Reject, Settle::Release(None)][random.below(3)];
                site.settle(lease, what);
            }
            8 => drop(site.manage(Manage::Pop { messages_max: 2, bytes_max: 100 }).unwrap()),
            9 if random.one_in(4) => drop(site.manage_in(OTHER, Manage::Purge).unwrap()),
            10 if site.crash() => site.store.count_for(&tenants),
            _ => site.pass(Millis::new(random.between(1, 100_000) as u64)),
        }
        // Several things happen between two ticks.
        if random.one_in(2) {
            continue;
        }
        let drops = live.get().when_full == WhenFull::DropOldest && live.is_limited();
        let before = site.store.counters().dropped;
        // A partition whose messages are claimed leaves its part to the next ticks of the others. What expires leaves the
        // count at the next tick.
        let (said, kept) = (0..20)
            .map(|_| {
                site.pass(Millis::new(1_000));
                site.settle_down();
                said_and_kept(&mut site, [KEY, OTHER])
            })
            .find(|(said, kept)| {
                let is_counted = live.held() == if live.is_limited() { *said } else { Held::default() };
                is_counted && (!drops || live.excess(Held::default()).messages == 0 || said.messages <= *kept)
            })
            .unwrap_or_else(|| said_and_kept(&mut site, [KEY, OTHER]));
        assert!(drops || site.store.counters().dropped == before, "seed {seed}: nothing is dropped");
        let expected = if live.is_limited() { said } else { Held::default() };
        assert_eq!(live.held(), expected, "seed {seed}");
        if let Some(most) = live.get().messages_max.filter(|_| drops) {
            assert!(
                said.messages <= most.max(kept),
                "seed {seed}: {said:?}, {most} are allowed, {kept} kept"
            );
        }
    }
}

/// Returns what partitions say that they hold, and how many of these messages are never dropped.
fn said_and_kept<G: Ground>(site: &mut Site<G>, partitions: [PartitionKey; 2]) -> (Held, u64) {
    let (mut said, mut kept) = (Held::default(), 0);
    for partition in partitions {
        let Ok(Managed::Stats(stats)) = site.manage_in(partition, Manage::Stats) else {
            panic!("it must be counted")
        };
        said.messages += stats.free + stats.claimed + stats.delayed;
        said.bytes += stats.bytes;
        kept += stats.claimed + u64::from(stats.free + stats.delayed > 0);
    }
    (said, kept)
}

#[test]
fn the_count_follows_every_history() {
    for seed in 0..150 {
        what_a_queue_holds_is_what_its_partitions_say(seed, InMemory);
        what_a_queue_holds_is_what_its_partitions_say(seed, OnDisk::new(seed, 1 << 20));
    }
}

#[test]
fn in_memory() {
    a_limited_queue_counts_what_is_there(InMemory);
    a_full_queue_drops_its_oldest_messages_that_are_not_claimed(InMemory);
    a_queue_that_is_full_of_bytes_drops_enough_of_its_messages(InMemory);
}

#[test]
fn on_disk() {
    a_limited_queue_counts_what_is_there(OnDisk::new(1, 1 << 20));
    a_full_queue_drops_its_oldest_messages_that_are_not_claimed(OnDisk::new(2, 0));
    a_queue_that_is_full_of_bytes_drops_enough_of_its_messages(OnDisk::new(3, 1 << 20));
}
