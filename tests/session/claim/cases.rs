//! One case each: the ends of an operation, what is refused, and what is told.

use millstream::base::claim::{Leaving, Settle};
use millstream::base::error::StoreFault;
use millstream::base::millis::Millis;
use millstream::base::units::{Partition, Sequence};
use millstream::front::DrainStep;
use millstream::operation::{Answer, Command};
use millstream::pb::{ClaimRequest, ClaimResponse, ClaimSetupRequest, Settlement};

use super::worker::{LEASE, Worker, credit, setup};

const WINDOW: u32 = 1_000;

fn ack(pairs: &[u64]) -> ClaimRequest {
    ClaimRequest { ack: pairs.to_vec(), ..ClaimRequest::default() }
}

fn worker(messages: &[usize]) -> Worker {
    Worker::begin(setup(), messages, WINDOW)
}

/// Returns the number of messages in responses.
fn count(responses: &[ClaimResponse]) -> usize {
    responses.iter().map(|response| response.messages.len()).sum()
}

fn settled(responses: &[ClaimResponse]) -> Vec<i64> {
    responses.iter().filter_map(|response| response.settled_requests).collect()
}

fn status(responses: &[ClaimResponse]) -> Option<(u32, String)> {
    let status = responses.last()?.status.clone()?;
    Some((status.status_code(), status.reason_phrase().to_owned()))
}

fn later(worker: &mut Worker, by: Millis) {
    worker.harness.rig.now.mono = worker.harness.rig.now.mono + by;
    worker.call(|session, cx| session.handle_timeout(cx));
}

#[test]
fn nothing_is_asked_for_without_credit_and_no_more_than_it() {
    let mut worker = worker(&[10, 10]);
    assert_eq!((worker.run(), worker.watches.len()), (vec![], 0));
    assert_eq!(count(&worker.settle(&credit(3))), 3);
    assert_eq!(count(&worker.settle(&credit(2))), 0, "a lower credit is ignored");
    assert_eq!(count(&worker.settle(&credit(1_000))), 17);
    assert_eq!(worker.watches.len(), 2, "empty partitions are watched");
    worker.produce(1, 2);
    let woken = worker.run();
    assert_eq!(count(&woken), 2, "{woken:?}");
    assert_eq!(woken[0].settled_requests, None, "credit alone is not answered");
}

#[test]
fn a_turn_without_credit_is_passed_on_and_the_partition_is_asked_next() {
    let mut worker = worker(&[0, 0, 0]);
    worker.settle(&credit(1));
    assert_eq!(worker.watches.len(), 3);
    (0..3).for_each(|partition| worker.produce(partition, 1));
    assert_eq!(count(&worker.run()), 1);
    assert_eq!(worker.left.iter().filter(|(_, leaving)| *leaving == Leaving::Pause).count(), 2);
    assert_eq!(count(&worker.settle(&credit(2))), 1);
    assert_eq!(count(&worker.settle(&credit(3))), 1);
}

#[test]
fn the_window_bounds_what_is_leased_and_a_lease_that_is_over_no_longer_counts() {
    let mut worker = Worker::begin(setup(), &[50], 20);
    assert_eq!(count(&worker.settle(&credit(1_000))), 20);
    assert_eq!(count(&worker.settle(&ack(&[0, 5]))), 5);
    let due = worker.harness.rig.session.status().next_deadline;
    assert_eq!(due, Some(worker.harness.rig.now.mono + LEASE));
    later(&mut worker, LEASE);
    assert_eq!(count(&worker.run()), 20);
}

#[test]
fn settlements_of_a_lease_that_is_over_count_until_it_is_forgotten() {
    let mut worker = Worker::begin(setup(), &[40], 20);
    worker.settle(&credit(20));
    later(&mut worker, LEASE);
    assert!(worker.settle(&ack(&[0, 1]))[0].lost.is_empty());
    worker.settle(&credit(60));
    later(&mut worker, LEASE);
    let told = worker.settle(&ack(&[0, 3]));
    assert_eq!((told[0].settled_requests, &told[0].lost[..]), (Some(4), &[1, 2][..]), "1 was settled before");
}

#[test]
fn a_bad_range_ends_the_operation_after_earlier_requests_are_answered() {
    let whys: [(&[u64], &str); 4] = [
        (&[0], "odd number"),
        (&[0, 0], "count of 0"),
        (&[10, 1], "message 11 was never sent"),
        (&[0, 11], "11"),
    ];
    for (bad, why) in whys {
        let mut worker = worker(&[10]);
        worker.settle(&credit(10));
        assert!(worker.send(&ack(&[0, 2])));
        // Nothing of this request is done.
        assert!(worker.send(&ClaimRequest { reject: bad.to_vec(), ..ack(&[5, 1]) }));
        let told = worker.run();
        assert_eq!(settled(&told), [2]);
        let (code, reason) = status(&told).unwrap();
        assert!(code == 400 && reason.contains(why) && reason.contains("reject"), "{reason}");
        assert!(worker.ended);
        assert_eq!(worker.settled.len(), 2);
        assert_eq!(worker.left, [(Partition(0), Leaving::Keep)]);
    }
}

#[test]
fn what_is_out_of_range_is_refused_with_its_limits() {
    let setups = [
        (ClaimSetupRequest { ttl: Some(0), ..setup() }, "ttl: 0 is not within 1 to 43200 seconds"),
        (ClaimSetupRequest { ttl: Some(43_201), ..setup() }, "ttl: 43201 is not within"),
        (
            ClaimSetupRequest { grace: Some(43_201), ..setup() },
            "grace: 43201 is not within 0 to 43200 seconds",
        ),
        (ClaimSetupRequest { queue_name: Some("/".into()), ..setup() }, "queue_name"),
    ];
    for (setup, why) in setups {
        let (worker, status) = Worker::try_begin(setup, &[1], WINDOW, true);
        assert_eq!(status.status_code(), 400);
        assert!(status.reason_phrase().contains(why) && worker.ended, "{status:?}");
    }
    let requests = [
        (ClaimRequest { release_delay: Some(43_201), ..ClaimRequest::default() }, "release_delay: 43201"),
        (ClaimRequest { renew_ttl: Some(0), ..ClaimRequest::default() }, "renew_ttl: 0 is not within 1 to"),
        (ClaimRequest { by_claim: vec![Settlement::default()], ..ClaimRequest::default() }, "kind is absent"),
        (
            ClaimRequest { token: Some("t".into()), stop: Some(true), ..ClaimRequest::default() },
            "nothing else",
        ),
    ];
    for (request, why) in requests {
        let mut worker = worker(&[1]);
        let told = worker.settle(&request);
        assert!(status(&told).is_some_and(|(code, reason)| code == 400 && reason.contains(why)), "{told:?}");
    }
}

#[test]
fn a_store_without_claims_refuses_with_the_reason() {
    let (worker, status) = Worker::try_begin(setup(), &[1], WINDOW, false);
    assert_eq!(status.status_code(), 501);
    assert!(status.reason_phrase().contains("need the embedded log") && worker.ended, "{status:?}");
}

#[test]
fn a_fin_gives_everything_back() {
    let mut worker = worker(&[5, 0]);
    worker.settle(&credit(100));
    assert!(worker.send(&ack(&[1, 2])));
    let told = worker.fin();
    assert_eq!(settled(&told), [2], "what was settled before is answered");
    let back = Leaving::Settle(Settle::Return);
    assert_eq!(worker.left, [(Partition(0), back), (Partition(1), back)]);
    assert!(worker.ended);
}

#[test]
fn a_lost_connection_keeps_the_leases_or_releases_them_as_the_client_wished() {
    for (wish, leaving) in [(false, Leaving::Keep), (true, Leaving::Settle(Settle::Release(None)))] {
        let wish = ClaimSetupRequest { release_on_disconnect: Some(wish), ..setup() };
        let mut worker = Worker::begin(wish, &[5], WINDOW);
        worker.settle(&credit(2));
        worker.call(|session, cx| session.abandon(cx));
        worker.run();
        assert_eq!(worker.left, [(Partition(0), leaving)]);
        assert_eq!(worker.harness.rig.budget.held(), 0);
    }
}

#[test]
fn leases_that_were_not_sent_are_given_back() {
    let mut worker = worker(&[5]);
    assert!(worker.send(&credit(5)));
    worker.poll();
    let claim = worker.asked.pop_front().unwrap();
    worker.handle(claim, 9, &mut |_| false);
    worker.harness.rig.writable = false;
    worker.answer(0);
    worker.poll();
    worker.call(|session, cx| session.abandon(cx));
    assert!(
        matches!(&worker.asked[0], Command::Settle { settlements, .. } if settlements[0].what == Settle::Return)
    );
    assert!(matches!(&worker.asked[1], Command::Leave { leaving: Leaving::Keep, .. }));
}

#[test]
fn after_stop_nothing_is_given_out_and_the_half_ends_when_all_is_settled_or_over() {
    for settles in [true, false] {
        let mut worker = worker(&[5, 0]);
        worker.settle(&credit(3));
        let told = worker.settle(&ClaimRequest { stop: Some(true), ..credit(100) });
        assert!(told.is_empty() && !worker.ended, "{told:?}");
        worker.produce(1, 3);
        assert_eq!(count(&worker.run()), 0);
        if settles {
            assert_eq!(settled(&worker.settle(&ack(&[0, 3]))), [3]);
        } else {
            later(&mut worker, LEASE);
            assert_eq!(worker.run(), []);
        }
        assert!(worker.ended);
        assert_eq!(worker.left.last(), Some(&(Partition(0), Leaving::Keep)));
    }
}

#[test]
fn draining_answers_settlements_and_then_ends_with_503() {
    let mut worker = worker(&[9]);
    worker.settle(&credit(3));
    worker.call(|session, cx| session.drain(DrainStep::Producers, cx));
    let until = worker.harness.rig.now.mono + Millis::new(5_000);
    worker.call(|session, cx| session.drain(DrainStep::Consumers { until }, cx));
    assert_eq!(count(&worker.settle(&ClaimRequest { max_msgnum_to_send: Some(9), ..ack(&[0, 1]) })), 0);
    assert!(!worker.ended);
    later(&mut worker, Millis::new(5_000));
    let told = worker.run();
    assert_eq!(status(&told).map(|(code, _)| code), Some(503));
    assert!(worker.ended);
    assert_eq!(worker.left.last(), Some(&(Partition(0), Leaving::Keep)));
}

#[test]
fn an_idle_worker_does_not_hold_up_draining() {
    let mut worker = worker(&[0]);
    worker.settle(&credit(3));
    let until = worker.harness.rig.now.mono + Millis::new(5_000);
    worker.call(|session, cx| session.drain(DrainStep::Producers, cx));
    worker.call(|session, cx| session.drain(DrainStep::Consumers { until }, cx));
    assert_eq!(status(&worker.run()).map(|(code, _)| code), Some(503));
}

#[test]
fn a_failed_settlement_ends_the_operation_and_is_not_called_settled() {
    let mut worker = worker(&[9]);
    worker.settle(&credit(9));
    (0..3).for_each(|number| assert!(worker.send(&ack(&[number, 1]))));
    let operation = worker.operation;
    for (sequence, result) in [(4, Ok(vec![])), (3, Err(StoreFault::Full)), (2, Ok(vec![]))] {
        let answer = Answer::Settled { sequence: Sequence(sequence), partition: Partition(0), result };
        worker.call(|session, cx| session.answer(operation, answer, cx));
    }
    worker.poll();
    let told = std::mem::take(&mut worker.responses);
    assert_eq!((settled(&told), status(&told).map(|(code, _)| code)), (vec![2], Some(503)));
}

#[test]
fn a_duplicate_settlement_is_answered_although_it_changes_nothing() {
    let mut worker = worker(&[9]);
    worker.settle(&credit(9));
    assert_eq!(settled(&worker.settle(&ack(&[0, 2]))), [2]);
    assert_eq!(settled(&worker.settle(&ack(&[0, 2]))), [3]);
    assert_eq!(worker.settled.len(), 2);
}

#[test]
fn claims_of_other_operations_are_settled_by_their_ids() {
    let mut worker = worker(&[9, 9]);
    let id = worker.settle(&credit(1))[0].claim.clone().unwrap().id;
    let by =
        |claim_id: Option<String>, kind| Settlement { claim_id, kind: Some(kind), ..Settlement::default() };
    let foreign = Some("0.1.0000000000000000".to_owned());
    let request = ClaimRequest {
        by_claim: vec![by(id, 1), by(None, 2), by(foreign, 3), by(None, 2)],
        ..ClaimRequest::default()
    };
    assert!(worker.send(&request));
    let settlements = worker.asked.iter().map(|command| match command {
        Command::Settle { target, settlements, .. } => (target.partition.partition, settlements.len()),
        other => panic!("{other:?}"),
    });
    let settlements: Vec<_> = settlements.collect();
    assert_eq!(settlements, [(Partition(0), 2), (Partition(1), 1)], "the foreign id names nothing");
    assert_eq!(settled(&worker.run()), [2]);
}

#[test]
fn a_token_is_passed_on_and_answered() {
    let mut worker = worker(&[1]);
    assert!(worker.send(&ClaimRequest { token: Some("t".into()), ..ClaimRequest::default() }));
    let Some(Command::Renew { operation, .. }) = worker.asked.pop_front() else {
        panic!("the token is renewed")
    };
    worker.call(|session, cx| session.answer(operation, Answer::Renewed(Ok(())), cx));
    let told = worker.run();
    assert_eq!(told[0].renewal.as_ref().and_then(|renewal| renewal.status_code), Some(100));
}

#[test]
fn no_further_request_is_read_while_too_many_are_under_way() {
    let mut worker = worker(&[1]);
    worker.settle(&credit(1));
    let mut sent = 0;
    while worker.send(&ClaimRequest { renew: vec![0, 1], ..ClaimRequest::default() }) {
        sent += 1;
        assert!(sent <= 10_000, "the requests under way are bounded");
    }
    assert_eq!(settled(&worker.run()), [sent + 1]);
    assert!(worker.send(&credit(2)), "it goes on");
}

#[test]
fn while_the_budget_is_exhausted_an_operation_has_one_small_claim() {
    let mut worker = worker(&[100]);
    let budget = &mut worker.harness.rig.budget;
    let ceiling = budget.ceiling();
    budget.purse(&mut worker.harness.rig.account).hold(ceiling);
    assert_eq!(count(&worker.settle(&credit(1_000))), 16);
    assert_eq!(count(&worker.settle(&ack(&[0, 15]))), 0);
    assert_eq!(count(&worker.settle(&ack(&[15, 1]))), 16, "it goes on when that claim is settled");
    later(&mut worker, LEASE);
    assert_eq!(count(&worker.run()), 16, "and when it is over");
    assert_eq!(worker.settle(&ack(&[16, 1]))[0].lost, vec![16, 1], "which is then forgotten");
    worker.harness.rig.budget.purse(&mut worker.harness.rig.account).drop_held(ceiling);
    assert_eq!(count(&worker.settle(&credit(2_000))), 52, "the scripted store frees no lease that is over");
}
