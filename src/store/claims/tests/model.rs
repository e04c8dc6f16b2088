//! The ledger against a model that knows the state of every single message.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use proptest::collection::vec;
use proptest::prelude::*;

use crate::base::claim::{LeaseId, Leases, Settle, Settlement, Terms};
use crate::base::clock::Now;
use crate::base::millis::Millis;
use crate::base::names::ClientId;
use crate::base::units::Offset;
use crate::store::claims::ledger::Ledger;
use crate::store::claims::pieces::{Phase, Piece, Tally};
use crate::store::claims::record::{Given, Passed, Record, read};
use crate::store::stock::Minute;

/// The size of every message.
const BYTES: u64 = 7;

/// The state of a message in the model. Messages that are not in the map are settled, or not given out yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Message {
    lease: u64,
    count: u32,
    phase: Phase,
    expires: Minute,
    lives_until: Millis,
    is_released: bool,
}

/// The terms of a lease in the model.
#[derive(Clone, Copy, Debug)]
struct Made {
    client: u8,
    ttl: u32,
    grace: u32,
}

impl Message {
    /// A message that was passed over.
    fn passed(phase: Phase, expires: Minute) -> Self {
        Self { lease: 0, count: 0, phase, expires, lives_until: Millis::ZERO, is_released: false }
    }
}

#[derive(Clone, Debug)]
enum Step {
    /// Leases new messages behind a gap, some of them after a batch that is delayed.
    New {
        gap: u64,
        delayed: u64,
        count: u64,
        ttl: u32,
        client: u8,
    },
    /// Leases the first free messages.
    Again {
        count: u64,
        ttl: u32,
        client: u8,
    },
    /// Settles messages of a lease, named from the first unsettled one on.
    Settle {
        lease: u64,
        client: u8,
        ranges: Vec<(u64, u64)>,
        what: Settle,
    },
    /// Renews a whole lease with other terms.
    Renew {
        lease: u64,
        client: u8,
        ttl: u32,
        grace: u32,
    },
    Ended {
        client: u8,
        what: Settle,
    },
    Gone {
        skip: u64,
        count: u64,
    },
    /// Deletes messages, also behind those that were given out.
    Delete(Vec<(u64, u64)>),
    Purge,
    Pass {
        ms: u64,
    },
    Snapshot,
}

fn what() -> impl Strategy<Value = Settle> {
    prop_oneof![
        4 => Just(Settle::Ack),
        2 => Just(Settle::Release(None)),
        1 => (0u32..5).prop_map(|delay| Settle::Release(Some(delay))),
        1 => Just(Settle::Return),
        1 => Just(Settle::Reject),
        2 => (1u32..10).prop_map(Settle::Renew),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        3 => (0u64..3, 0u64..4, 1u64..12, 1u32..10, 0u8..3).prop_map(|(gap, delayed, count, ttl, client)| {
            Step::New { gap, delayed, count, ttl, client }
        }),
        3 => (1u64..9, 1u32..10, 0u8..3).prop_map(|(count, ttl, client)| Step::Again { count, ttl, client }),
        6 => (0u64..12, 0u8..3, vec((0u64..6, 1u64..6), 0..4), what())
            .prop_map(|(lease, client, ranges, what)| Step::Settle { lease, client, ranges, what }),
        3 => (0u64..12, 0u8..3, 1u32..20, 0u32..90)
            .prop_map(|(lease, client, ttl, grace)| Step::Renew { lease, client, ttl, grace }),
        1 => (0u8..3, what()).prop_map(|(client, what)| Step::Ended { client, what }),
        1 => (0u64..9, 1u64..5).prop_map(|(skip, count)| Step::Gone { skip, count }),
        1 => vec((0u64..6, 1u64..4), 1..4).prop_map(Step::Delete),
        1 => prop_oneof![5 => Just(Step::Snapshot), 1 => Just(Step::Purge)],
        3 => (0u64..6_000).prop_map(|ms| Step::Pass { ms }),
        1 => (0u64..100_000).prop_map(|ms| Step::Pass { ms }),
        1 => Just(Step::Snapshot),
    ]
}

/// The ledger, the model, and all records so far.
#[derive(Debug)]
struct Trial {
    now: Now,
    ledger: Ledger,
    next: Offset,
    messages: BTreeMap<Offset, Message>,
    made: BTreeMap<u64, Made>,
    /// Where the messages of each lease were.
    leased: BTreeMap<u64, BTreeSet<Offset>>,
    records: Vec<Vec<u8>>,
}

impl Trial {
    fn new() -> Self {
        let (now, ledger) = (Now::at_ms(1 << 40, 1 << 41), Ledger::default());
        let (next, messages, made, leased) =
            (Offset::ZERO, BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
        Self { now, ledger, next, messages, made, leased, records: Vec::new() }
    }

    fn apply(&mut self, record: &Record) {
        let mut note = Vec::new();
        record.encode(&mut note);
        prop_assert_read(&note, record);
        self.ledger.apply(self.now, record);
        self.records.push(note);
    }

    /// Returns messages with a TTL that follows from their offsets.
    fn given(&self, offsets: Range<Offset>, count: u32) -> Given {
        let (expires, bytes) = (self.expires(offsets.start), BYTES * offsets.end.since(offsets.start));
        Given { offsets, count, expires, bytes }
    }

    fn passed(&self, offsets: Range<Offset>, wait: Millis) -> Passed {
        let Given { offsets, expires, bytes, .. } = self.given(offsets, 0);
        Passed { offsets, wait, expires, bytes }
    }

    fn expires(&self, offset: Offset) -> Minute {
        let known = self.messages.get(&offset).map(|message| message.expires);
        known.unwrap_or(Minute(Minute::from(self.now.unix).0 + (offset.0 % 3) as u32))
    }

    /// Leases ranges in the ledger and in the model.
    fn grant(&mut self, pieces: Vec<(Range<Offset>, u32)>, ttl_secs: u32, client: u8) {
        let given: Vec<Given> =
            pieces.iter().map(|(offsets, count)| self.given(offsets.clone(), *count)).collect();
        let terms = Terms { client: ClientId::from(u128::from(client)), ttl_secs, grace_secs: 3 };
        let record = self.ledger.grant(self.now, &terms, given.clone());
        let Record::Grant { lease, .. } = record else { panic!("{record:?}") };
        let made = Made { client, ttl: ttl_secs, grace: 3 };
        assert!(self.made.insert(lease.0, made).is_none(), "{lease:?} was given twice");
        let ends = self.now.mono + Millis::from_secs(ttl_secs);
        for Given { offsets, count, expires, .. } in given {
            for offset in offsets.start.following(offsets.end.since(offsets.start)) {
                self.leased.entry(lease.0).or_default().insert(offset);
                let before = self.messages.get(&offset).copied();
                let lives_until = before.map_or(Millis::ZERO, |before| before.lives_until);
                let lives_until = lives_until.max(ends + Millis::from_secs(3));
                let (lease, phase, is_released) = (lease.0, Phase::Held(ends), false);
                let message = Message { lease, count, phase, expires, lives_until, is_released };
                self.messages.insert(offset, message);
                assert!(before.is_none_or(|before| before.phase == Phase::Free), "{offset} is in two leases");
                self.next = self.next.max(offset + 1);
            }
        }
        self.apply(&record);
    }

    /// Returns the messages that a lease of a client holds.
    fn held(&self, lease: u64, client: u8) -> Vec<Offset> {
        let is_its = self.made.get(&lease).is_some_and(|made| made.client == client);
        let is_held = |message: &Message| message.lease == lease && matches!(message.phase, Phase::Held(_));
        let held = self.messages.iter().filter(|(_, message)| is_its && is_held(message));
        held.map(|(offset, _)| *offset).collect()
    }

    fn renew(&mut self, lease: u64, client: u8, ttl: u32, grace: u32) {
        let id = ClientId::from(u128::from(client));
        let held = self.held(lease, client);
        let Some(live) = self.ledger.live(id, LeaseId(lease)) else {
            return assert!(held.is_empty(), "{lease} is live");
        };
        let terms = Terms { client: id, ttl_secs: ttl, grace_secs: grace };
        let record = self.ledger.renewal(self.now, LeaseId(lease), &live, &terms);
        let ends = self.now.mono + Millis::from_secs(ttl);
        for offset in &held {
            let Some(message) = self.messages.get_mut(offset) else { continue };
            message.phase = Phase::Held(ends);
            message.lives_until = message.lives_until.max(ends + Millis::from_secs(grace));
        }
        self.made.insert(lease, Made { client, ttl, grace });
        if self.messages.values().filter(|message| message.lease == lease).count() == held.len() {
            // What it held before is forgotten.
            self.leased.insert(lease, held.into_iter().collect());
        }
        self.apply(&record);
    }

    /// Checks what is told of each lease.
    fn check_leases(&self) {
        for lease in 0..=self.made.keys().next_back().map_or(0, |last| last + 1) {
            for client in 0..3 {
                let live = self.ledger.live(ClientId::from(u128::from(client)), LeaseId(lease));
                let held = self.held(lease, client);
                let Some(live) = live else {
                    assert!(held.is_empty(), "{lease} of {client} is live");
                    continue;
                };
                let offsets = live
                    .pieces
                    .iter()
                    .flat_map(|(offsets, _)| offsets.start.following(offsets.end.since(offsets.start)));
                assert_eq!(offsets.collect::<Vec<_>>(), held, "{lease} of {client}");
                let ends = held.iter().map(|offset| self.messages[offset].phase);
                let ends =
                    ends.filter_map(|phase| if let Phase::Held(ends) = phase { Some(ends) } else { None });
                assert_eq!((Some(live.ends), live.ttl_secs), (ends.max(), self.made[&lease].ttl));
            }
        }
    }

    fn settle(&mut self, settlement: &Settlement) {
        let (records, lost) = self.ledger.settle(self.now, settlement);
        let client = settlement.client.as_u128();
        let its: BTreeSet<u64> = self
            .made
            .iter()
            .filter(|(_, made)| u128::from(made.client) == client)
            .map(|(id, _)| *id)
            .collect();
        let is_its = |lease: u64| its.contains(&lease);
        let is_meant = |message: &Message| match settlement.leases {
            Leases::One(lease) => lease.0 == message.lease,
            Leases::Ended => message.lease != 0,
        };
        let is_named = |offset: Offset| {
            settlement.offsets.is_empty() || settlement.offsets.iter().any(|range| range.contains(&offset))
        };
        let mut late = Vec::new();
        let lives = match settlement.leases {
            Leases::One(lease) => self.messages.values().any(|message| message.lease == lease.0),
            Leases::Ended => true,
        };
        let named: Vec<Offset> = self.messages.keys().copied().filter(|offset| is_named(*offset)).collect();
        for offset in named {
            let message = self.messages[&offset];
            if !is_meant(&message) {
                let Leases::One(lease) = settlement.leases else { continue };
                // A lease without messages is forgotten. Then those that are named count.
                let was_leased = self.leased.get(&lease.0).is_some_and(|leased| leased.contains(&offset));
                let is_meant = match lives {
                    true => is_its(lease.0) && was_leased,
                    false => self.made.contains_key(&lease.0) && !settlement.offsets.is_empty(),
                };
                if is_meant && message.lease != 0 {
                    late.push(offset);
                }
                continue;
            }
            if !is_its(message.lease) {
                continue;
            }
            let after = |secs: u32| match secs {
                0 => Phase::Free,
                secs => Phase::Later(self.now.mono + Millis::from_secs(secs)),
            };
            let message = match settlement.what {
                Settle::Ack | Settle::Reject => {
                    self.messages.remove(&offset);
                    continue;
                }
                Settle::Release(Some(delay)) => Message { phase: after(delay), is_released: true, ..message },
                Settle::Release(None) => {
                    let waits = [0, 0, 2, 4, 8, 16, 32, 60];
                    let phase = after(waits[message.count.min(7) as usize]);
                    Message { phase, is_released: true, ..message }
                }
                Settle::Return => {
                    let count = message.count.saturating_sub(1);
                    Message { phase: Phase::Free, count, is_released: true, ..message }
                }
                Settle::Renew(ttl) => {
                    let Some(made) = self.made.get_mut(&message.lease) else { continue };
                    made.ttl = ttl;
                    let ends = self.now.mono + Millis::from_secs(ttl);
                    let lives_until = message.lives_until.max(ends + Millis::from_secs(made.grace));
                    Message { phase: Phase::Held(ends), lives_until, is_released: false, ..message }
                }
            };
            self.messages.insert(offset, message);
        }
        let lost: Vec<Offset> =
            lost.iter().flat_map(|range| range.start.following(range.end.since(range.start))).collect();
        assert_eq!(lost, late, "{settlement:?}");
        records.iter().for_each(|record| self.apply(record));
    }

    fn run(&mut self, step: &Step) {
        self.take(step);
        self.ledger.end_lives(self.now);
    }

    fn take(&mut self, step: &Step) {
        match step {
            Step::New { gap, delayed, count, ttl, client } => {
                let next = self.next;
                let mut start = next + *gap;
                if *delayed > 0 {
                    let (end, wait) = (start + *delayed, Millis::new(2_500));
                    let phase = Phase::Later(self.now.mono + wait);
                    let passed = self.passed(start..end, wait);
                    for offset in start.following(*delayed) {
                        self.messages.insert(offset, Message::passed(phase, passed.expires));
                    }
                    self.apply(&Record::Pass { at: self.now.unix, next, pieces: vec![passed] });
                    (start, self.next) = (end, end);
                }
                self.grant(vec![(start..start + *count, 1)], *ttl, *client);
            }
            Step::Again { count, ttl, client } => {
                let (mut pieces, mut left) = (Vec::new(), *count);
                for (offsets, piece) in self.ledger.pieces().free() {
                    let taken = left.min(offsets.end.since(offsets.start));
                    if taken > 0 {
                        pieces.push((offsets.start..offsets.start + taken, piece.count + 1));
                    }
                    left -= taken;
                }
                if !pieces.is_empty() {
                    self.grant(pieces, *ttl, *client);
                }
            }
            Step::Settle { lease, client, ranges, what } => {
                let mut end = self.ledger.floor();
                let mut offsets = Vec::new();
                for (skip, count) in ranges {
                    offsets.push(end + *skip..end + *skip + *count);
                    end = end + *skip + *count;
                }
                let client = ClientId::from(u128::from(*client));
                let leases = Leases::One(LeaseId(*lease));
                self.settle(&Settlement { client, leases, offsets, what: *what });
            }
            Step::Renew { lease, client, ttl, grace } => self.renew(*lease, *client, *ttl, *grace),
            Step::Ended { client, what } => {
                let (client, offsets) = (ClientId::from(u128::from(*client)), Vec::new());
                self.settle(&Settlement { client, leases: Leases::Ended, offsets, what: *what });
            }
            Step::Gone { skip, count } => {
                let start = self.ledger.floor() + *skip;
                let offsets = start..start + *count;
                self.messages.retain(|offset, _| !offsets.contains(offset));
                self.apply(&Record::Gone { offsets: vec![offsets] });
            }
            Step::Delete(ranges) => {
                let (mut end, mut offsets) = (self.ledger.floor(), Vec::new());
                for (skip, count) in ranges {
                    offsets.push(end + *skip..end + *skip + *count);
                    end = end + *skip + *count;
                }
                let next = self.next;
                if end > next {
                    let passed = self.passed(next..end, Millis::ZERO);
                    for offset in next.following(end.since(next)) {
                        self.messages.insert(offset, Message::passed(Phase::Free, passed.expires));
                    }
                    self.apply(&Record::Pass { at: self.now.unix, next, pieces: vec![passed] });
                    self.next = end;
                }
                for range in &offsets {
                    self.messages.retain(|offset, _| !range.contains(offset));
                }
                self.apply(&Record::Delete { next: self.next, offsets });
            }
            Step::Purge => {
                self.messages.clear();
                self.next += 2;
                self.apply(&Record::Purge { through: self.next });
            }
            Step::Pass { ms } => {
                self.now = self.now.later(Millis::new(*ms));
                self.ledger.expire(self.now.mono);
                self.ledger.end_lives(self.now);
                for message in self.messages.values_mut() {
                    if let Phase::Held(at) | Phase::Later(at) = message.phase
                        && at <= self.now.mono
                    {
                        message.phase = Phase::Free;
                    }
                }
            }
            Step::Snapshot => {
                self.apply(&Record::Snapshot(self.ledger.snapshot(self.now)));
                // A snapshot knows only what is left of leases.
                self.leased.clear();
                for (offset, message) in &self.messages {
                    self.leased.entry(message.lease).or_default().insert(*offset);
                }
            }
        }
    }

    /// Checks the ledger against the model, message by message.
    fn check(&self) {
        assert!(self.ledger.is_sound(), "{:?}", self.ledger);
        assert_eq!(self.ledger.next(), self.next);
        let messages = self.ledger.pieces().all().flat_map(|(offsets, piece)| {
            let Piece { count, phase, expires, lives_until, is_released, .. } = *piece;
            let message = Message { lease: piece.lease.0, count, phase, expires, lives_until, is_released };
            offsets.start.following(piece.length.into()).map(move |offset| (offset, message))
        });
        let messages: BTreeMap<Offset, Message> = messages.collect();
        assert_eq!(messages, self.messages);
        self.check_counts();
        self.check_leases();
        assert_eq!(self.ledger.floor(), self.messages.keys().next().copied().unwrap_or(self.next));
        for from in Offset::ZERO.following(self.next.0 + 2) {
            let expected =
                self.messages.range(from..).next().map_or(self.next.max(from), |(offset, _)| *offset);
            assert_eq!(self.ledger.jump(from), expected, "from {from}");
        }
        let pinned = self.ledger.pinned(self.now.mono, 3);
        assert!(pinned.len() <= 3 && pinned.is_sorted_by(|one, two| one.end < two.start), "{pinned:?}");
        for (offset, message) in &self.messages {
            if matches!(message.phase, Phase::Held(_)) {
                assert!(
                    pinned.iter().any(|range| range.contains(offset)),
                    "{offset} is leased and not pinned"
                );
            }
        }
    }

    /// Checks the counts. Messages that have expired may count for another minute.
    fn check_counts(&self) {
        let count = |is_counted: &dyn Fn(&Message) -> bool| {
            let mut tally = Tally::default();
            for message in self.messages.values() {
                let is_held = matches!(message.phase, Phase::Held(_));
                if !is_held && !is_counted(message) {
                    continue;
                }
                tally.bytes += BYTES;
                match message.phase {
                    Phase::Held(_) => tally.held += 1,
                    Phase::Later(_) => tally.later += 1,
                    Phase::Free => tally.free += 1,
                    Phase::Moving(_) => unreachable!("the model moves nothing"),
                }
            }
            tally
        };
        let now = self.now;
        let lives = |message: &Message, lag: Millis| {
            let unix = now.unix.saturating_sub(lag);
            !message.expires.has_begun(unix) || message.lives_until + lag > now.mono
        };
        let least = count(&|message| lives(message, Millis::ZERO));
        let most = count(&|message| lives(message, Millis::new(60_000)));
        let tally = self.ledger.pieces().tally();
        assert_eq!(tally.held, least.held);
        let numbers = |tally: Tally| [tally.free, tally.later, tally.bytes];
        for ((least, count), most) in numbers(least).into_iter().zip(numbers(tally)).zip(numbers(most)) {
            assert!(
                (least..=most).contains(&count),
                "{count} is not within {least} and {most}: {:?}",
                self.ledger
            );
        }
        assert_eq!(tally.bytes, BYTES * (tally.free + tally.held + tally.later));
    }

    /// Checks that the records from any snapshot on, and all of them, make the same ledger.
    fn check_replay(&self) {
        let snapshots = (0..self.records.len()).filter(|index| self.records[*index].first() == Some(&25));
        for first in snapshots.chain([0]) {
            let mut replayed = Ledger::default();
            for note in &self.records[first..] {
                read(note).0.iter().for_each(|record| replayed.apply(self.now, record));
            }
            replayed.expire(self.now.mono);
            replayed.end_lives(self.now);
            assert!(replayed.is_sound());
            assert_eq!(replayed.pieces().tally().held, self.ledger.pieces().tally().held);
            let (replayed, live) = (replayed.snapshot(self.now), self.ledger.snapshot(self.now));
            assert_eq!(replayed, live, "from record {first}");
        }
    }
}

fn prop_assert_read(note: &[u8], record: &Record) {
    assert_eq!(read(note), (vec![record.clone()], true));
    for cut in 1..note.len() {
        let (records, is_whole) = read(&note[..cut]);
        assert!(!is_whole && records.is_empty(), "{cut} bytes of {record:?} are read as {records:?}");
    }
}

proptest! {
    #[test]
    fn every_message_is_settled_or_in_one_lease_or_free_or_new(steps in vec(step(), 1..60)) {
        let mut trial = Trial::new();
        for step in &steps {
            trial.run(step);
            trial.check();
            trial.check_replay();
        }
    }

    #[test]
    fn garbage_is_read_without_harm(note in vec(any::<u8>(), 0..200)) {
        let (records, _) = read(&note);
        let mut again = Vec::new();
        records.iter().for_each(|record| record.encode(&mut again));
        prop_assert_eq!(read(&again), (records, true));
    }
}
