//! Single cases that chance finds seldom.

use prost::encoding::encode_varint;

use super::stores::KEY;
use crate::base::batch::BatchBuilder;
use crate::base::claim::{LeaseId, Leases, Leaving, Settle, Settlement, Terms, Worker};
use crate::base::clock::Now;
use crate::base::error::StoreFault;
use crate::base::manage::CLAIM_BYTES_MAX;
use crate::base::millis::{Millis, UnixMillis};
use crate::base::names::{ClientId, QueueName};
use crate::base::units::{Offset, Partition};
use crate::store::claims::ledger::Ledger;
use crate::store::claims::pieces::Phase;
use crate::store::claims::record::{self, Aim, Given, Move, Record, Why};
use crate::store::claims::{Inner, Ledgers, leases};
use crate::store::memory::{Memory, WhenFull};
use crate::store::stock::Minute;
use crate::store::{Completion, Request, Store, Stream};

const CLIENT: u128 = 3;

fn now() -> Now {
    Now::at_ms(1_000_000, 1_700_000_000_000)
}

fn terms() -> Terms {
    Terms { client: ClientId::from(CLIENT), ttl_secs: 100, grace_secs: 10 }
}

fn settlement(lease: u64, offsets: std::ops::Range<u64>, what: Settle) -> Settlement {
    let offsets = vec![Offset(offsets.start)..Offset(offsets.end)];
    Settlement { client: ClientId::from(CLIENT), leases: Leases::One(LeaseId(lease)), offsets, what }
}

/// Leases these messages. Returns the record.
fn lease(ledger: &mut Ledger, first: u64, end: u64) -> Record {
    let (expires, bytes) = (Minute(1 << 30), 10 * (end - first));
    let given = Given { offsets: Offset(first)..Offset(end), count: 1, expires, bytes };
    let record = ledger.grant(now(), &terms(), vec![given]);
    ledger.apply(now(), &record);
    record
}

#[test]
fn the_messages_of_a_missing_note_are_given_out_again() {
    let mut ledger = Ledger::default();
    let missing = lease(&mut ledger, 0, 10);
    let second = lease(&mut ledger, 12, 20);
    for (records, free) in [(vec![&second], 10), (vec![&missing, &second], 0)] {
        let mut replayed = Ledger::default();
        records.into_iter().for_each(|record| replayed.apply(now(), record));
        assert_eq!(replayed.pieces().free_messages(), free);
        assert_eq!((replayed.floor(), replayed.next()), (Offset(0), Offset(20)));
    }
}

#[test]
fn settlements_at_the_end_of_all_offsets_settle_nothing_else() {
    let mut ledger = Ledger::default();
    lease(&mut ledger, 0, 10);
    for range in [u64::MAX..u64::MAX, 10..u64::MAX, 5..5, u64::MAX - 1..u64::MAX] {
        assert_eq!(ledger.settle(now(), &settlement(1, range, Settle::Ack)), (Vec::new(), Vec::new()));
    }
    let (records, lost) = ledger.settle(now(), &settlement(1, 0..u64::MAX, Settle::Ack));
    records.iter().for_each(|record| ledger.apply(now(), record));
    assert_eq!((ledger.floor(), lost), (Offset(10), Vec::new()));
}

#[test]
fn a_wide_settlement_names_no_messages_of_other_leases() {
    let mut ledger = Ledger::default();
    lease(&mut ledger, 0, 10);
    lease(&mut ledger, 10, 20);
    let (records, lost) = ledger.settle(now(), &settlement(1, 0..1_000_000, Settle::Ack));
    assert!(matches!(&records[..], [Record::Settle { offsets, .. }] if *offsets == [Offset(0)..Offset(10)]));
    assert_eq!(lost, []);
}

#[test]
fn a_recall_keeps_the_operations_and_the_ends_of_leases() {
    let mut before = Ledger::default();
    let record = lease(&mut before, 0, 10);
    before.assign(LeaseId(1), Worker(7));
    // The wall clock jumps ahead before the ledger is recalled.
    let later = now().later(Millis::new(5_000));
    let jumped = Now { unix: later.unix + Millis::from_secs(1_000), ..later };
    let mut recalled = Ledger::default();
    recalled.apply(jumped, &record);
    recalled.adopt(&before);
    recalled.expire(jumped.mono);
    assert_eq!(recalled.pieces().held(), 10);
    assert!(
        recalled
            .pieces()
            .all()
            .all(|(_, piece)| piece.phase == Phase::Held(now().mono + Millis::from_secs(100)))
    );
    assert_eq!(recalled.settle_all_of(jumped, Worker(7), Settle::Return).len(), 1);
}

/// A memory store with claims, and what it answers.
struct Shop(Ledgers<Memory<Inner<u64>>, u64>);

impl Shop {
    fn new() -> Self {
        Self(Ledgers::new(Memory::new(1 << 20, WhenFull::Refuse, 7)))
    }

    fn ask(&mut self, now: Now, request: Request<u64>) -> Vec<Completion<u64>> {
        assert!(self.0.submit(now, request).is_ok());
        std::iter::from_fn(|| self.0.poll_completion(now)).collect()
    }

    fn append(&mut self, now: Now) {
        let mut builder = BatchBuilder::new(ClientId::from(9), 10_000, 0);
        builder.push(b"work");
        let batch = builder.close();
        let append = Request::Append { token: 1, stream: Stream(1), partition: KEY, batch };
        assert!(matches!(self.ask(now, append)[..], [Completion::Appended { result: Ok(_), .. }]));
    }

    /// Claims. Returns the number of messages, or why not.
    fn claim(&mut self, now: Now) -> Result<u64, StoreFault> {
        let (worker, terms, messages_max, bytes_max) = (Worker(1), terms(), 100, 1 << 20);
        let claim = Request::Claim { token: 2, worker, partition: KEY, terms, messages_max, bytes_max };
        match self.ask(now, claim).pop() {
            Some(Completion::Claimed { result, .. }) => result.map(|grant| {
                let runs = grant.into_iter().flat_map(|grant| grant.runs);
                runs.map(|run| run.offsets.end.since(run.offsets.start)).sum()
            }),
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn messages_are_claimed_although_the_clock_was_set_back() {
    let mut shop = Shop::new();
    shop.append(now());
    let later = now().later(Millis::new(1_000));
    let set_back = Now { unix: UnixMillis::new(now().unix.get() - 1_200_000), ..later };
    // Its timestamp is not before that of the first.
    shop.append(set_back);
    let mut claimed = 0;
    for _ in 0..3 {
        claimed += shop.claim(set_back).unwrap();
    }
    assert_eq!(claimed, 2);
}

#[test]
fn workers_that_leave_a_deleted_queue_leave_no_ledger() {
    let mut shop = Shop::new();
    shop.append(now());
    assert_eq!(shop.claim(now()), Ok(1));
    shop.0.forget(KEY.queue, 7);
    let leave = Request::Leave { worker: Worker(1), partition: KEY, leaving: Leaving::Keep };
    assert!(shop.ask(now(), leave).is_empty());
    let settlements = vec![settlement(1, 0..1, Settle::Ack)];
    let settle = Request::Settle { token: 3, partition: KEY, settlements };
    assert!(matches!(shop.ask(now(), settle)[..], [Completion::Settled { result: Ok(_), .. }]));
    assert_eq!(shop.0.claims().held, 0);
    assert!(shop.0.keepers.is_empty());
}

#[test]
fn offsets_that_a_start_leaves_out_are_not_filled_when_a_note_is_missing() {
    let mut ledger = Ledger::default();
    lease(&mut ledger, 0, 10);
    // A note about messages from 10 on, and about some behind the offsets that a start has left out, is lost.
    let behind = 1 << 41;
    let mut other = ledger.clone();
    lease(&mut other, behind, behind + 5);
    let record = lease(&mut other, behind + 5, behind + 9);
    ledger.apply(now(), &record);
    assert!(ledger.is_sound());
    assert_eq!(ledger.pieces().len(), 4, "{:?}", ledger.pieces());
    for free in [10, behind, behind + 4] {
        let (_, piece) = ledger.pieces().overlapping(Offset(free)..Offset(free + 1)).next().unwrap();
        assert_eq!(piece.phase, Phase::Free, "{free}");
    }
}

#[test]
fn a_claim_finds_what_was_stored_since_the_last_one_found_nothing() {
    let mut shop = Shop::new();
    for _ in 0..3 {
        assert_eq!(shop.claim(now()), Ok(0));
        shop.append(now());
        assert_eq!(shop.claim(now()), Ok(1));
    }
}

#[test]
fn moves_survive_their_notes_and_a_snapshot() {
    let queue = QueueName::parse("dead").unwrap();
    let of = Move { why: Why::Worn, to: Some(queue.clone()), made: UnixMillis::new(7) };
    let aim = Aim { queue, incarnation: 3, partition: Partition(1), from: Offset(40) };
    let range = |from, to| vec![Offset(from)..Offset(to)];
    let mut ledger = Ledger::default();
    lease(&mut ledger, 0, 9);
    let records = [
        Record::Move { number: 1, of: of.clone(), offsets: range(2, 5) },
        Record::Aim { number: 1, aim },
        Record::Move { number: 2, of: Move { to: None, why: Why::Redriven, ..of }, offsets: range(7, 8) },
        Record::Stay { offsets: range(4, 5) },
        Record::Gone { offsets: range(7, 8) },
    ];
    for record in &records {
        let mut note = Vec::new();
        record.encode(&mut note);
        assert_eq!(record::read(&note), (vec![record.clone()], true));
        ledger.apply(now(), record);
        assert!(ledger.is_sound(), "{record:?}");
    }
    let mut again = Ledger::default();
    let mut note = Vec::new();
    Record::Snapshot(ledger.snapshot(now())).encode(&mut note);
    record::read(&note).0.iter().for_each(|record| again.apply(now(), record));
    for ledger in [&mut ledger, &mut again] {
        assert!(ledger.is_sound());
        assert_eq!((ledger.moving_messages(), ledger.first_moved(1)), (2, range(2, 4).pop()));
        assert!(ledger.moves().next().is_some_and(|(number, moving)| number == 1 && moving.aim.is_some()));
        assert!(ledger.pinned(Millis::new(u64::MAX >> 1), 9) == range(2, 4), "what moves does not expire");
    }
    assert_eq!(again.snapshot(now()), ledger.snapshot(now()));
}

#[test]
fn snapshots_of_earlier_versions_are_read() {
    for kind in [20, 24] {
        let mut note = vec![kind];
        // At, next, sequence, the number of leases, and the number of the lease.
        for number in [now().unix.get(), 10, 7, 1, 3] {
            encode_varint(number, &mut note);
        }
        note.extend_from_slice(&CLIENT.to_le_bytes());
        // Grace, and the number of pieces. The first one is held for 50 seconds, and lives for 60.
        for number in [10, 2, 0, 4, 1, 3, 1, 2 * 50_000, 2 * 60_000, 0, 40] {
            encode_varint(number, &mut note);
        }
        // The second one is free, and was never given out.
        note.extend_from_slice(&[2, 4, 0, 0, 1 << 7, 0, 0]);
        if kind == 24 {
            note.push(0);
        }
        let (records, is_whole) = record::read(&note);
        assert!(is_whole && records.len() == 1, "{kind}: {records:?}");
        let mut ledger = Ledger::default();
        records.iter().for_each(|record| ledger.apply(now(), record));
        assert!(ledger.is_sound());
        assert_eq!((ledger.next(), ledger.pieces().free_messages()), (Offset(10), 4));
        let live = ledger.live(ClientId::from(CLIENT), LeaseId(3)).unwrap();
        assert_eq!(
            live.pieces.iter().map(|(offsets, _)| offsets.clone()).collect::<Vec<_>>(),
            [Offset(0)..Offset(4)]
        );
        // How long the lease lasts was not written, so what is left of it counts.
        let view = leases::view(now(), &live, Vec::new());
        assert_eq!((view.since, view.ttl_secs), (now().mono, 50));
        assert_eq!((view.ends, view.messages), (now().mono + Millis::new(50_000), 4));
    }
}

#[test]
fn a_lease_that_is_renewed_in_part_forgets_none_of_its_messages() {
    let mut ledger = Ledger::default();
    lease(&mut ledger, 0, 10);
    let (client, id) = (ClientId::from(CLIENT), LeaseId(1));
    let (records, _) = ledger.settle(now(), &settlement(1, 2..4, Settle::Release(Some(5))));
    records.iter().for_each(|record| ledger.apply(now(), record));
    let live = ledger.live(client, id).unwrap();
    let record = ledger.renewal(now(), id, &live, &Terms { ttl_secs: 7, ..terms() });
    ledger.apply(now(), &record);
    assert!(ledger.is_sound());
    assert_eq!(ledger.live(client, id).map(|live| live.ttl_secs), Some(7));
    let all = Settlement { offsets: Vec::new(), ..settlement(1, 0..1, Settle::Ack) };
    let (records, lost) = ledger.settle(now(), &all);
    let Ok([record]) = <[Record; 1]>::try_from(records) else { panic!("it is one settlement") };
    let mut note = Vec::new();
    record.encode(&mut note);
    assert_eq!((record::read(&note), lost), ((vec![record.clone()], true), Vec::new()));
    ledger.apply(now(), &record);
    assert_eq!(ledger.pieces().len(), 0);
}

#[test]
fn a_lease_of_large_messages_is_shown_in_part() {
    let mut ledger = Ledger::default();
    let large = CLAIM_BYTES_MAX / 8;
    let given = (0..30).map(|first| {
        let (offsets, bytes) = (Offset(2 * first)..Offset(2 * first + 2), 2 * large);
        Given { offsets, count: 1, expires: Minute(1 << 30), bytes }
    });
    let record = ledger.grant(now(), &terms(), given.collect());
    ledger.apply(now(), &record);
    let live = ledger.live(ClientId::from(CLIENT), LeaseId(1)).unwrap();
    assert_eq!(leases::first_of(&live), (0..8).map(Offset).collect::<Vec<_>>());
    assert_eq!(leases::view(now(), &live, Vec::new()).messages, 60);
}
