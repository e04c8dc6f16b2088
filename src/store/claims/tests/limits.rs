//! Queues with limits: what they hold, and what is dropped.

use std::sync::Arc;

use super::managing::{Site, TTL};
use super::stores::{Ground, InMemory, KEY, OnDisk};
use crate::access::{ProjectLimits, Tenants};
use crate::base::claim::Settle;
use crate::base::manage::Manage;
use crate::base::millis::Millis;
use crate::base::names::{Project, QueueName};
use crate::base::policy::{Held, LivePolicy, Policy, WhenFull};
use crate::store::Store;

/// A store with one queue, whose policy is known.
fn site<G: Ground>(ground: G, policy: Policy) -> (Site<G>, Arc<LivePolicy>) {
    let mut site = Site::new(ground);
    let tenants = Arc::new(Tenants::new(ProjectLimits::default()));
    site.store.count_for(&tenants);
    let live = tenants.policies().add(
        KEY.queue,
        (Project::parse("p").unwrap(), QueueName::parse("q").unwrap()),
        policy,
    );
    (site, live)
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
