//! Tests deletions of queues: the home deletes the queue, and answers when every shard has forgotten it.

use millstream::base::clock::Now;
use millstream::base::error::{Fault, StoreFault};
use millstream::base::queue::QueueId;
use millstream::operation::OperationId;
use millstream::shard::core::{Asking, ConnectionId, Deleted, FORGET, Letter};
use millstream::store::StoreEvent;

use super::scripted::{SHARDS, Shard, name};

#[test]
fn a_deletion_is_answered_once_every_shard_has_forgotten() {
    let mut home = Shard::new(0, SHARDS);
    home.open(1);
    let queue = home.opens(5);
    home.opened();
    let id = home.core.delete(home.now, name());
    assert_eq!(home.core.poll_deleted(), None, "not before the store has deleted it");
    home.deletes(Ok(5));
    assert_eq!(home.script.borrow().forgotten, [(queue, 5)]);
    assert_eq!((home.forgets(1), home.forgets(2)), (vec![(Some(0), queue, 5)], vec![(Some(0), queue, 5)]));
    assert_eq!(home.core.poll_deleted(), None);
    home.has_forgotten(2, queue);
    home.has_forgotten(2, queue);
    assert_eq!(home.core.poll_deleted(), None, "shard 1 may still serve it");
    home.has_forgotten(1, queue);
    assert_eq!(home.core.poll_deleted(), Some((id, Ok(Deleted::Everywhere))));
    assert_eq!((home.core.poll_deleted(), home.core.next_deadline()), (None, None));
}

#[test]
fn a_single_shard_answers_as_soon_as_its_store_does() {
    let mut home = Shard::new(0, 1);
    home.core.delete(home.now, name());
    home.deletes(Err(StoreFault::NoQueue));
    assert!(matches!(home.core.poll_deleted(), Some((_, Err(StoreFault::NoQueue)))));
    home.core.handle_letter(
        home.now,
        Letter::Open {
            by: Asking { shard: 0, connection: ConnectionId::default(), operation: OperationId(1) },
            name: name(),
            may_create: true,
        },
    );
    home.opens(5);
    home.core.delete(home.now, name());
    home.deletes(Ok(5));
    assert!(matches!(home.core.poll_deleted(), Some((_, Ok(Deleted::Everywhere)))));
}

#[test]
fn a_shard_that_does_not_answer_is_named() {
    let mut home = Shard::new(0, SHARDS);
    home.open(1);
    let queue = home.opens(5);
    let id = home.core.delete(home.now, name());
    home.deletes(Ok(5));
    home.has_forgotten(1, queue);
    let due = home.now.mono + FORGET;
    assert_eq!(home.core.next_deadline(), Some(due));
    home.now = Now::at_ms(due.get() - 1, home.now.unix.get());
    home.core.handle_timeouts(home.now);
    assert_eq!(home.core.poll_deleted(), None);
    home.now = Now::at_ms(due.get(), home.now.unix.get());
    home.core.handle_timeouts(home.now);
    assert_eq!(home.core.poll_deleted(), Some((id, Ok(Deleted::NotBy(2)))));
    home.has_forgotten(2, queue);
    assert_eq!((home.core.poll_deleted(), home.core.next_deadline()), (None, None));
}

#[test]
fn openings_and_deletions_of_a_queue_run_in_order() {
    let mut home = Shard::new(0, SHARDS);
    home.open(1);
    home.open(2);
    let first = home.core.delete(home.now, name());
    home.open(3);
    let second = home.core.delete(home.now, name());
    let third = home.core.delete(home.now, name());
    assert_eq!(home.script.borrow().asked.len(), 1, "one change at a time");
    let old = home.opens(5);
    let mut opened = home.opened();
    opened.sort_by_key(|(operation, _)| *operation);
    assert_eq!(opened, [(1, Ok(5)), (2, Ok(5))]);
    home.deletes(Ok(5));
    assert_eq!(home.opened(), [], "operation 3 came after the deletion: it waits for a new queue");
    let new = home.opens(6);
    assert!(new != old);
    assert_eq!(home.opened(), [(3, Ok(6))]);
    home.deletes(Ok(6));
    home.deletes(Err(StoreFault::NoQueue));
    assert_eq!(home.core.poll_deleted(), Some((third, Err(StoreFault::NoQueue))), "nothing is left of it");
    for (id, queue) in [(second, new), (first, old)] {
        home.has_forgotten(1, queue);
        home.has_forgotten(2, queue);
        assert_eq!(home.core.poll_deleted(), Some((id, Ok(Deleted::Everywhere))));
    }
    assert!(!home.is_asked());
}

#[test]
fn a_queue_that_cannot_be_deleted_still_serves() {
    let mut home = Shard::new(0, SHARDS);
    home.open(1);
    home.opens(5);
    home.opened();
    let id = home.core.delete(home.now, name());
    home.open(2);
    assert_eq!(home.opened(), []);
    let fault = StoreFault::Unavailable("the disk is full");
    home.deletes(Err(fault.clone()));
    assert_eq!(home.core.poll_deleted(), Some((id, Err(fault))));
    assert_eq!(home.opened(), [(2, Ok(5))]);
    assert!(!home.is_asked() && home.script.borrow().forgotten.is_empty());
}

#[test]
fn operations_that_wait_for_a_late_deletion_are_refused() {
    let mut home = Shard::new(0, SHARDS);
    home.open(1);
    let queue = home.opens(5);
    home.opened();
    let id = home.core.delete(home.now, name());
    for operation in 2..4 {
        home.open(operation);
        let due = home.core.next_deadline().unwrap();
        home.passes_to(due.get() - 1);
        assert_eq!(home.opened(), []);
        home.passes_to(due.get());
        let fault = Fault::Store(StoreFault::Unavailable("the queue is being deleted"));
        assert_eq!(home.opened(), [(operation, Err(fault))]);
    }
    assert_eq!(home.core.poll_deleted(), None);
    home.open(4);
    home.deletes(Ok(5));
    home.has_forgotten(1, queue);
    home.has_forgotten(2, queue);
    assert_eq!(home.core.poll_deleted(), Some((id, Ok(Deleted::Everywhere))));
    assert!(home.is_asked(), "operation 4 opens another queue");
}

#[test]
fn a_deletion_is_answered_although_the_store_reports_the_queue_as_gone_first() {
    let mut home = Shard::new(0, SHARDS);
    home.open(1);
    let queue = home.opens(5);
    let id = home.core.delete(home.now, name());
    home.script.borrow_mut().events.push_back(StoreEvent::Gone { queue, incarnation: 5 });
    home.core.handle_completions(home.now);
    assert_eq!(home.forgets(1), [(None, queue, 5)]);
    home.deletes(Ok(5));
    assert_eq!(home.forgets(1), [(Some(0), queue, 5)]);
    home.has_forgotten(1, queue);
    home.has_forgotten(2, queue);
    assert_eq!(home.core.poll_deleted(), Some((id, Ok(Deleted::Everywhere))));
}

#[test]
fn a_drain_waits_for_deletions_unless_the_store_is_late() {
    for is_late in [false, true] {
        let mut home = Shard::new(0, SHARDS);
        home.open(1);
        let queue = home.opens(5);
        home.core.delete(home.now, name());
        home.core.handle_drain(home.now);
        for _ in 1..SHARDS {
            home.core.handle_letter(home.now, Letter::ProducersDrained);
        }
        // The last stage begins after the shard has told the others that its own producers are done.
        for _ in 0..2 {
            home.core.handle_completions(home.now);
        }
        for shard in 1..SHARDS {
            home.core.poll_outbox(shard);
        }
        assert!(!home.core.is_drained());
        if is_late {
            home.passes_to(home.core.next_deadline().unwrap().get());
            assert!(home.core.is_drained());
            continue;
        }
        home.deletes(Ok(5));
        for shard in 1..SHARDS {
            home.core.poll_outbox(shard);
        }
        assert!(!home.core.is_drained());
        home.has_forgotten(1, queue);
        home.has_forgotten(2, queue);
        assert!(home.core.is_drained());
    }
}

/// Takes the letters to another shard, without the one that every shard sends at its start.
fn letters(from: &mut Shard, to: u16) -> Vec<Letter> {
    let mut letters = from.core.poll_outbox(to).unwrap_or_default();
    letters.retain(|letter| !matches!(letter, Letter::Adopted | Letter::Certain));
    letters
}

#[test]
fn another_shard_forgets_before_it_says_so() {
    let mut other = Shard::new(2, SHARDS);
    let queue = QueueId(9);
    other.core.handle_letter(other.now, Letter::Forget { queue, incarnation: 5, confirm_to: Some(0) });
    assert_eq!(other.script.borrow().forgotten, [(queue, 5)], "even if it was never opened here");
    let said = letters(&mut other, 0);
    assert!(matches!(said[..], [Letter::Forgotten { shard: 2, queue: QueueId(9) }]), "{said:?}");
    assert!(letters(&mut other, 1).is_empty());
}

#[test]
fn every_shard_forgets_a_queue_that_a_store_reports_as_gone() {
    let mut home = Shard::new(0, SHARDS);
    let queue = QueueId::new(0, 9);
    home.finds_gone(queue, 5);
    assert_eq!(home.script.borrow().forgotten, [(queue, 5)]);
    assert_eq!((home.forgets(1), home.forgets(2)), (vec![(None, queue, 5)], vec![(None, queue, 5)]));
    let mut other = Shard::new(1, SHARDS);
    other.core.handle_letter(other.now, Letter::Forget { queue, incarnation: 5, confirm_to: None });
    assert_eq!(other.script.borrow().forgotten, [(queue, 5)]);
    assert!(letters(&mut other, 0).is_empty(), "no deletion waits");
    assert_eq!(home.core.poll_deleted(), None, "no deletion was requested");
}

#[test]
fn a_forget_never_overtakes_an_answer_to_an_open() {
    let [mut home, mut finder, mut opener] = [0, 1, 2].map(|number| Shard::new(number, SHARDS));
    opener.open_from(2, 1);
    opener.deliver(&mut home);
    let queue = home.opens(5);
    // The answer to shard 2 is in flight. Shard 1 finds the queue gone, and its letter could arrive first.
    finder.finds_gone(queue, 5);
    assert!(letters(&mut finder, 2).is_empty(), "only the home tells other shards to forget");
    finder.deliver(&mut home);
    home.deliver(&mut finder);
    home.deliver(&mut opener);
    for shard in [&home, &finder, &opener] {
        assert_eq!(shard.script.borrow().forgotten, [(queue, 5)]);
    }
    // Shard 2 does not know the dead queue: it asks the home again, and the home asks its store.
    opener.open_from(2, 2);
    opener.deliver(&mut home);
    assert!(home.opens(6) != queue);
}
