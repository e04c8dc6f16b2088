//! What requests settle, until the store has answered.
//!
//! The settlements of a request go to each partition in one command. `settled_requests` rises once all commands of the
//! requests before it are answered.

use std::collections::VecDeque;
use std::ops::Range;

use super::ranges::{Ranges, join};
use super::sent::{Part, Piece};
use crate::base::claim::{Leases, Lost, Settle, Settlement};
use crate::base::names::ClientId;
use crate::base::queue::message_id;
use crate::base::units::{Offset, Partition, Sequence};

/// The most requests under way, and the most pieces of them. With more, the client is not read.
const REQUESTS_MAX: usize = 1_024;
const PIECES_MAX: usize = 16_384;

/// The memory of a lost settlement by claim, until it is told, in bytes.
const LOST_BYTES: usize = 256;

/// The memory of a request, and of a piece with its settlement, in bytes.
const REQUEST_BYTES: usize = 96;
const PIECE_BYTES: usize = 192;

/// What became of requests.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct News {
    /// The settlements of this many requests, from the first on, are durable.
    pub settled_requests: u64,
    /// The numbers whose settlement came too late, as ranges.
    pub lost: Vec<u64>,
    /// The messages of other operations' claims whose settlement came too late.
    pub lost_claims: Vec<LostClaim>,
}

/// Messages of another operation's claim whose settlement came too late.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LostClaim {
    /// The id of the claim, as the client sent it.
    pub claim_id: Option<String>,
    /// The ids of the first and the last message.
    pub ids: (String, String),
    /// What the settlement was, as the client sent it.
    pub kind: u32,
}

/// What a settlement of a command settles.
#[derive(Debug)]
enum Origin {
    /// Messages of this operation.
    Own(Vec<Piece>),
    /// Another operation's claim: its id, and the kind of the settlement.
    Named(Option<Box<str>>, u32),
}

/// The settlements of a request, by partition.
#[derive(Debug)]
pub(super) struct Plan {
    client: ClientId,
    commands: Vec<(Partition, Vec<Settlement>, Vec<Origin>)>,
    /// Numbers that the operation has forgotten.
    pub(super) lost: Vec<Range<u64>>,
    /// Whether the client expects an answer, because the request names something to settle.
    pub(super) is_awaited: bool,
}

/// A request under way.
#[derive(Debug)]
struct Pending {
    /// For each partition that has not answered, what its settlements settle.
    waiting: Vec<(Partition, Vec<Origin>)>,
    lost: Vec<Range<u64>>,
    lost_claims: Vec<LostClaim>,
    is_awaited: bool,
}

/// The requests of an operation that are under way.
#[derive(Debug, Default)]
pub(super) struct Requests {
    /// The requests after those that are settled, oldest first.
    pending: VecDeque<Pending>,
    /// The number of requests that are settled.
    settled: u64,
    /// Whether there is anything to tell the client, and what was lost since it was told.
    has_news: bool,
    lost: Vec<Range<u64>>,
    lost_claims: Vec<LostClaim>,
    /// The number of pieces in `pending`.
    pieces: usize,
}

impl Plan {
    pub(super) fn new(client: ClientId) -> Self {
        Self { client, commands: Vec::new(), lost: Vec::new(), is_awaited: false }
    }

    /// Adds messages of this operation.
    pub(super) fn settle(&mut self, part: Part, what: Settle) {
        let Part { partition, lease, pieces } = part;
        let leases = Leases::One(lease);
        let (settlements, origins) = self.command(partition);
        if let (Some(last), Some(Origin::Own(of_last))) = (settlements.last_mut(), origins.last_mut())
            && (last.leases, last.what) == (leases, what)
        {
            last.offsets.extend(pieces.iter().map(|piece| piece.offsets.clone()));
            of_last.extend(pieces);
            return;
        }
        // Named one by one, also if they are the whole claim: the answer then says which came too late.
        let offsets = pieces.iter().map(|piece| piece.offsets.clone()).collect();
        origins.push(Origin::Own(pieces));
        let client = self.client;
        let (settlements, _) = self.command(partition);
        settlements.push(Settlement { client, leases, offsets, what });
    }

    /// Adds a settlement of another operation's claim.
    pub(super) fn name(&mut self, partition: Partition, settlement: Settlement, id: Option<&str>, kind: u32) {
        let (settlements, origins) = self.command(partition);
        settlements.push(settlement);
        origins.push(Origin::Named(id.map(Into::into), kind));
    }

    fn command(&mut self, partition: Partition) -> (&mut Vec<Settlement>, &mut Vec<Origin>) {
        let known = self.commands.iter().position(|(of, ..)| *of == partition);
        let index = known.unwrap_or_else(|| {
            self.commands.push((partition, Vec::new(), Vec::new()));
            self.commands.len() - 1
        });
        let (_, settlements, origins) = &mut self.commands[index];
        (settlements, origins)
    }
}

impl Requests {
    /// Adds a request. Calls `send` with each command that it takes.
    pub(super) fn push(&mut self, plan: Plan, mut send: impl FnMut(Sequence, Partition, Vec<Settlement>)) {
        let sequence = Sequence(self.settled + self.pending.len() as u64 + 1);
        let Plan { commands, lost, is_awaited, .. } = plan;
        let mut waiting = Vec::with_capacity(commands.len());
        for (partition, settlements, origins) in commands {
            self.pieces += pieces(&origins);
            waiting.push((partition, origins));
            send(sequence, partition, settlements);
        }
        self.pending.push_back(Pending { waiting, lost, lost_claims: Vec::new(), is_awaited });
        self.advance();
    }

    /// Returns whether no further request may be read.
    pub(super) fn is_full(&self) -> bool {
        self.pending.len() >= REQUESTS_MAX || self.pieces >= PIECES_MAX
    }

    /// Returns whether the store has answered everything.
    pub(super) fn is_settled(&self) -> bool {
        self.pending.is_empty()
    }

    /// Returns the memory of the requests, in bytes.
    pub(super) fn bytes(&self) -> usize {
        let lost = |pending: &Pending| pending.lost_claims.len();
        let lost = self.lost_claims.len() + self.pending.iter().map(lost).sum::<usize>();
        self.pending.len() * REQUEST_BYTES + self.pieces * PIECE_BYTES + lost * LOST_BYTES
    }

    /// Handles the store's answer for one partition of a request. Calls `each` with the numbers of this operation's
    /// messages that were given out again.
    pub(super) fn handle_settled(
        &mut self,
        sequence: Sequence,
        partition: Partition,
        lost: &[Lost],
        mut each: impl FnMut(Range<u64>),
    ) {
        let index =
            sequence.checked_since(Sequence(self.settled + 1)).and_then(|at| usize::try_from(at).ok());
        let Some(pending) = index.and_then(|index| self.pending.get_mut(index)) else { return };
        let Some(at) = pending.waiting.iter().position(|(of, _)| *of == partition) else { return };
        let (_, origins) = pending.waiting.swap_remove(at);
        self.pieces -= pieces(&origins);
        for Lost { settlement, offsets } in lost {
            match origins.get(*settlement) {
                Some(Origin::Own(pieces)) => numbers(pieces, offsets, |numbers| {
                    each(numbers.clone());
                    pending.lost.push(numbers);
                }),
                Some(Origin::Named(id, kind)) => {
                    let lost_claims = offsets.iter().filter(|offsets| !offsets.is_empty()).map(|offsets| {
                        let id_of = |offset| message_id(partition, offset);
                        LostClaim {
                            claim_id: id.as_deref().map(str::to_owned),
                            ids: (id_of(offsets.start), id_of(offsets.end.previous())),
                            kind: *kind,
                        }
                    });
                    pending.lost_claims.extend(lost_claims);
                }
                None => debug_assert!(false, "a lost settlement is one of its command"),
            }
        }
        self.advance();
    }

    /// Handles that the store has failed to settle a request. This request and later ones stay unsettled.
    pub(super) fn handle_failed(&mut self, sequence: Sequence) {
        let index =
            sequence.checked_since(Sequence(self.settled + 1)).and_then(|at| usize::try_from(at).ok());
        let Some(index) = index.filter(|index| *index < self.pending.len()) else { return };
        for pending in self.pending.drain(index..) {
            self.pieces -= pending.waiting.iter().map(|(_, origins)| pieces(origins)).sum::<usize>();
        }
    }

    /// Counts the requests that are settled.
    fn advance(&mut self) {
        while let Some(done) = self.pending.pop_front_if(|pending| pending.waiting.is_empty()) {
            self.settled += 1;
            self.has_news |= done.is_awaited;
            self.lost.extend(done.lost);
            self.lost_claims.extend(done.lost_claims);
        }
    }

    /// Takes what there is to tell the client.
    pub(super) fn take_news(&mut self) -> Option<News> {
        if !std::mem::take(&mut self.has_news) {
            return None;
        }
        let lost = Ranges::encode(&join(std::mem::take(&mut self.lost)));
        let lost_claims = std::mem::take(&mut self.lost_claims);
        Some(News { settled_requests: self.settled, lost, lost_claims })
    }
}

/// Returns how many pieces these origins take.
fn pieces(origins: &[Origin]) -> usize {
    let of = |origin: &Origin| match origin {
        Origin::Own(pieces) => pieces.len(),
        Origin::Named(..) => 1,
    };
    origins.iter().map(of).sum()
}

/// Calls `each` with the numbers of those messages of `pieces` that have these offsets. Both are ascending.
fn numbers(pieces: &[Piece], offsets: &[Range<Offset>], mut each: impl FnMut(Range<u64>)) {
    let mut at = 0;
    for offsets in offsets {
        while pieces.get(at).is_some_and(|piece| piece.offsets.end <= offsets.start) {
            at += 1;
        }
        for piece in pieces[at..].iter().take_while(|piece| piece.offsets.start < offsets.end) {
            let start = piece.offsets.start.max(offsets.start);
            let end = piece.offsets.end.min(offsets.end);
            let number = |offset: Offset| piece.number + offset.since(piece.offsets.start);
            each(number(start)..number(end));
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::single_range_in_vec_init, reason = "the ranges are the elements")]

    use super::*;
    use crate::base::claim::LeaseId;

    const CLIENT: u128 = 3;

    fn part(partition: u16, lease: u64, number: u64, offsets: Range<u64>) -> Part {
        let offsets = Offset(offsets.start)..Offset(offsets.end);
        let pieces = vec![Piece { number, offsets }];
        Part { partition: Partition(partition), lease: LeaseId(lease), pieces }
    }

    fn plan(parts: Vec<Part>) -> Plan {
        let mut plan = Plan::new(ClientId::from(CLIENT));
        plan.is_awaited = !parts.is_empty();
        parts.into_iter().for_each(|part| plan.settle(part, Settle::Ack));
        plan
    }

    fn push(requests: &mut Requests, plan: Plan) -> Vec<(Sequence, Partition, usize)> {
        let mut sent = Vec::new();
        requests.push(plan, |sequence, partition, settlements| {
            sent.push((sequence, partition, settlements.len()))
        });
        sent
    }

    fn lost(settlement: usize, offsets: Range<u64>) -> Lost {
        Lost { settlement, offsets: vec![Offset(offsets.start)..Offset(offsets.end)] }
    }

    #[test]
    fn requests_are_settled_in_their_order_and_told_once() {
        let mut requests = Requests::default();
        let first =
            push(&mut requests, plan(vec![part(0, 1, 1, 0..5), part(1, 1, 6, 0..5), part(0, 1, 11, 7..8)]));
        assert_eq!(
            first,
            [(Sequence(1), Partition(0), 1), (Sequence(1), Partition(1), 1)],
            "one lease, one settlement"
        );
        push(&mut requests, plan(vec![]));
        push(&mut requests, plan(vec![part(1, 1, 20, 9..10)]));
        requests.handle_settled(Sequence(3), Partition(1), &[], drop);
        requests.handle_settled(Sequence(1), Partition(1), &[], drop);
        assert_eq!(requests.take_news(), None);
        let mut numbers = Vec::new();
        requests.handle_settled(Sequence(1), Partition(0), &[lost(0, 3..8)], |range| numbers.push(range));
        assert_eq!(numbers, [4..6, 11..12]);
        let news = requests.take_news().unwrap();
        assert_eq!((news.settled_requests, news.lost), (3, vec![3, 2, 5, 1]));
        assert_eq!((requests.take_news(), requests.bytes()), (None, 0));
    }

    #[test]
    fn a_request_that_settles_nothing_counts_with_the_next() {
        let mut requests = Requests::default();
        push(&mut requests, plan(vec![]));
        assert_eq!(requests.take_news(), None);
        push(&mut requests, plan(vec![part(0, 1, 1, 0..1)]));
        requests.handle_settled(Sequence(2), Partition(0), &[], drop);
        assert_eq!(requests.take_news().map(|news| news.settled_requests), Some(2));
    }

    #[test]
    fn a_failed_request_and_later_ones_stay_unsettled() {
        let mut requests = Requests::default();
        for _ in 0..3 {
            push(&mut requests, plan(vec![part(0, 1, 1, 0..1)]));
        }
        requests.handle_failed(Sequence(2));
        requests.handle_settled(Sequence(3), Partition(0), &[], drop);
        requests.handle_settled(Sequence(1), Partition(0), &[], drop);
        assert!(requests.is_settled());
        assert_eq!(requests.take_news().map(|news| news.settled_requests), Some(1));
    }

    #[test]
    fn lost_messages_of_other_operations_are_named_by_their_ids() {
        let mut requests = Requests::default();
        let mut plan = plan(vec![part(4, 1, 1, 0..1)]);
        let settlement = Settlement {
            client: ClientId::from(CLIENT),
            leases: Leases::Ended,
            offsets: Vec::new(),
            what: Settle::Release(None),
        };
        plan.name(Partition(4), settlement, Some("4.1.x"), 2);
        push(&mut requests, plan);
        requests.handle_settled(Sequence(1), Partition(4), &[lost(1, 16..18)], |_| {
            panic!("not of this operation")
        });
        let lost_claims = requests.take_news().unwrap().lost_claims;
        let expected =
            LostClaim { claim_id: Some("4.1.x".into()), ids: ("4.10".into(), "4.11".into()), kind: 2 };
        assert_eq!(lost_claims, [expected]);
    }

    #[test]
    fn too_much_under_way_is_told() {
        let mut requests = Requests::default();
        assert!(!requests.is_full());
        (0..REQUESTS_MAX).for_each(|_| drop(push(&mut requests, plan(vec![part(0, 1, 1, 0..1)]))));
        assert!(requests.is_full());
        let mut requests = Requests::default();
        let parts = (0..PIECES_MAX as u64).map(|index| part(0, index, index, index..index + 1));
        push(&mut requests, plan(parts.collect()));
        assert!(requests.is_full());
    }
}
