//! A worker's client, and a store that keeps leases by the book.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use millstream::base::batch::{BatchBuilder, StoredBatch};
use millstream::base::claim::{Grant, Granted, LeaseId, Leases, Leaving, Lost, Settle, Settlement};
use millstream::base::error::{NO_CLAIMS, StoreFault};
use millstream::base::millis::{Millis, UnixMillis};
use millstream::base::names::ClientId;
use millstream::base::units::{Offset, Partition, Sequence};
use millstream::front::{Cx, ServerSession};
use millstream::operation::{Answer, ClaimId, Command, OperationId};
use millstream::pb::{ClaimRequest, ClaimResponse, ClaimSetupRequest, SetupRequest, Status};
use prost::Message;

use crate::harness::{Harness, Read};
use crate::rig::{CLIENT, Rig};

/// A message: its partition, its lease, and its offset.
pub type Place = (Partition, LeaseId, Offset);

/// How long every lease lasts.
pub const LEASE: Millis = Millis::new(10_000);

/// The messages of a partition: whether each can be claimed, and how often it was given out.
#[derive(Debug, Default)]
struct Shelf {
    messages: Vec<(bool, u32)>,
    /// The lease that holds each message, and its end.
    held: BTreeMap<Offset, LeaseId>,
    leases: u64,
}

pub struct Worker {
    pub harness: Harness,
    pub operation: OperationId,
    shelves: Vec<Shelf>,
    /// Commands that the store has not handled.
    pub asked: VecDeque<Command>,
    /// What the store has answered, and the session does not know yet.
    pub answers: Vec<Answer>,
    /// What the store was told of each message.
    pub settled: BTreeMap<Place, Settle>,
    /// The messages that were given out again before they were settled.
    pub lost: BTreeSet<Place>,
    /// What leaving said, and how often.
    pub left: Vec<(Partition, Leaving)>,
    /// The watches that the store has not answered.
    pub watches: Vec<Partition>,
    /// The messages of all asks that were not answered.
    pub reserved: u64,
    /// The place of each message that the client has read, from number 1 on.
    pub numbers: Vec<Place>,
    pub responses: Vec<ClaimResponse>,
    pub ended: bool,
}

/// Returns message numbers as ranges.
pub fn ranges(numbers: &[u64]) -> Vec<u64> {
    let (mut pairs, mut end): (Vec<u64>, u64) = (Vec::new(), 0);
    for number in numbers {
        match pairs.last_mut() {
            Some(count) if *number == end + 1 && end > 0 => *count += 1,
            _ => pairs.extend([number - end - 1, 1]),
        }
        end = *number;
    }
    pairs
}

pub fn credit(number: i64) -> ClaimRequest {
    ClaimRequest { max_msgnum_to_send: Some(number), ..ClaimRequest::default() }
}

pub fn setup() -> ClaimSetupRequest {
    ClaimSetupRequest { queue_name: Some("q".into()), ..ClaimSetupRequest::default() }
}

impl Worker {
    /// Begins an operation. Each partition has these numbers of messages.
    pub fn begin(setup: ClaimSetupRequest, messages: &[usize], window: u32) -> Self {
        let (mut worker, status) = Self::try_begin(setup, messages, window, true);
        assert_eq!(status.status_code(), 100, "{status:?}");
        worker.poll();
        worker
    }

    /// Begins an operation, or is refused.
    pub fn try_begin(
        setup: ClaimSetupRequest,
        messages: &[usize],
        window: u32,
        has_claims: bool,
    ) -> (Self, Status) {
        let mut harness = Harness::new(100_000);
        harness.rig.settings.claim_window = window;
        let shelf = |count: &usize| Shelf { messages: vec![(true, 0); *count], ..Shelf::default() };
        let mut worker = Self {
            harness,
            operation: OperationId(0),
            shelves: messages.iter().map(shelf).collect(),
            asked: VecDeque::new(),
            answers: Vec::new(),
            settled: BTreeMap::new(),
            lost: BTreeSet::new(),
            left: Vec::new(),
            watches: Vec::new(),
            reserved: 0,
            numbers: Vec::new(),
            responses: Vec::new(),
            ended: false,
        };
        let bytes =
            SetupRequest { claim: Some(setup), ..SetupRequest::default() }.encode_length_delimited_to_vec();
        let (_, mut reads) = worker.harness.receive(&bytes, false);
        if let Some(Command::Open { operation, needs_claims, .. }) = worker.harness.asked.pop_front() {
            worker.operation = operation;
            // As the shard answers.
            let result = match has_claims || !needs_claims {
                true => Ok(Rig::queue(messages.len() as u16)),
                false => Err(StoreFault::Unsupported(NO_CLAIMS).into()),
            };
            let opened = Answer::Opened { result, local_partition: Partition(0), has_claims };
            reads.extend(worker.harness.call(|session, cx| session.answer(operation, opened, cx)).1);
        }
        reads.extend(worker.harness.call(|session, cx| session.poll_transmit(cx)).1);
        let Some(Read::Pb(pb)) = reads.first() else { panic!("the setup must have an answer") };
        worker.ended = reads.last() == Some(&Read::End);
        let status = Status::decode(&pb[..]).unwrap();
        worker.asked.extend(worker.harness.asked.drain(..));
        (worker, status)
    }

    /// Calls the session, reads what it wrote, and collects its commands.
    pub fn call(&mut self, call: impl FnOnce(&mut ServerSession, &mut Cx<'_>)) {
        let ((), reads) = self.harness.call(call);
        self.read(reads);
        for command in self.harness.asked.drain(..) {
            if let Command::Claim { messages_max, .. } = &command {
                self.reserved += u64::from(*messages_max);
            }
            self.asked.push_back(command);
        }
    }

    pub fn poll(&mut self) {
        self.call(|session, cx| session.poll_transmit(cx));
    }

    /// Passes a request to the session. Returns false if the session did not take it.
    pub fn send(&mut self, request: &ClaimRequest) -> bool {
        let (blocked, _) = self.harness.call(|session, cx| session.is_blocked(cx));
        if blocked {
            return false;
        }
        let bytes = request.encode_length_delimited_to_vec();
        let (used, reads) = self.harness.receive(&bytes, false);
        assert_eq!(used, bytes.len());
        self.read(reads);
        self.call(|_, _| {});
        true
    }

    /// Passes a request, and lets the store and the session do all that follows.
    pub fn settle(&mut self, request: &ClaimRequest) -> Vec<ClaimResponse> {
        assert!(self.send(request));
        self.run()
    }

    /// Ends the client's half.
    pub fn fin(&mut self) -> Vec<ClaimResponse> {
        self.call(|session, cx| {
            session.handle_data(&[], true, cx);
        });
        self.run()
    }

    /// Lets the store and the session do all that follows. Returns what the client has read since the last time.
    pub fn run(&mut self) -> Vec<ClaimResponse> {
        loop {
            self.poll();
            while let Some(command) = self.asked.pop_front() {
                self.handle(command, usize::MAX, &mut |_| false);
            }
            self.watch();
            if self.answers.is_empty() {
                return std::mem::take(&mut self.responses);
            }
            (0..self.answers.len()).for_each(|_| self.answer(0));
        }
    }

    /// Passes one of the store's answers to the session.
    pub fn answer(&mut self, index: usize) {
        let (operation, answer) = (self.operation, self.answers.swap_remove(index));
        self.call(|session, cx| session.answer(operation, answer, cx));
    }

    /// Answers the watches of partitions that have messages.
    pub fn watch(&mut self) {
        let shelves = &self.shelves;
        let has_some =
            |partition: &mut Partition| shelves[partition.index()].messages.iter().any(|(free, _)| *free);
        let told: Vec<Partition> = self.watches.extract_if(.., has_some).collect();
        self.answers.extend(told.into_iter().map(|partition| Answer::Watched { partition, result: Ok(()) }));
    }

    /// Adds messages to a partition.
    pub fn produce(&mut self, partition: u16, count: usize) {
        let messages = &mut self.shelves[usize::from(partition)].messages;
        messages.extend(vec![(true, 0); count]);
    }

    /// Handles a command as a store does. A grant has at most `most` messages; `loses` says which settlements come too
    /// late.
    pub fn handle(&mut self, command: Command, most: usize, loses: &mut dyn FnMut(Place) -> bool) {
        match command {
            Command::Claim { target, messages_max, terms, .. } => {
                assert_eq!(terms.client, ClientId::from(CLIENT));
                let partition = target.partition.partition;
                let grant = self.grant(partition, most.min(messages_max as usize));
                self.reserved -= u64::from(messages_max);
                self.reserved += grant.as_ref().map_or(0, size);
                self.answers.push(Answer::Claimed { partition, result: Ok(grant) });
            }
            Command::Watch { target, .. } => {
                let partition = target.partition.partition;
                assert!(!self.watches.contains(&partition), "a partition is watched once");
                self.watches.push(partition);
            }
            Command::Settle { sequence, target, settlements, .. } => {
                let partition = target.partition.partition;
                let lost = settlements.iter().enumerate();
                let lost = lost.filter_map(|(index, settlement)| {
                    let offsets = self.apply(partition, settlement, loses);
                    let offsets: Vec<_> = offsets.into_iter().map(|offset| offset..offset + 1).collect();
                    (!offsets.is_empty()).then_some(Lost { settlement: index, offsets })
                });
                let result = Ok(lost.collect());
                self.answers.push(Answer::Settled { sequence, partition, result });
            }
            Command::Leave { target, leaving, .. } => {
                let partition = target.partition.partition;
                self.left.push((partition, leaving));
                if let Some(at) = self.watches.iter().position(|of| *of == partition) {
                    self.watches.remove(at);
                    self.answers.push(Answer::Watched { partition, result: Ok(()) });
                }
            }
            Command::Report { .. } => {}
            other => panic!("a worker must not ask for {other:?}"),
        }
    }

    fn grant(&mut self, partition: Partition, most: usize) -> Option<Grant> {
        let ends = self.harness.rig.now.mono + LEASE;
        let shelf = &mut self.shelves[partition.index()];
        let free = (0..shelf.messages.len()).filter(|index| shelf.messages[*index].0);
        let taken: Vec<usize> = free.take(most).collect();
        if taken.is_empty() {
            return None;
        }
        shelf.leases += 1;
        let lease = LeaseId(shelf.leases);
        let mut builder = BatchBuilder::new(ClientId::from(1), 60, 0);
        (0..shelf.messages.len()).for_each(|index| builder.push(&[index as u8]));
        let timestamp = UnixMillis::new(1_700_000_000_000);
        let batch = builder.close();
        let stored = StoredBatch { base_offset: Offset::ZERO, timestamp, stored_ns: 0, batch };
        let mut runs: Vec<Granted> = Vec::new();
        for index in taken {
            let offset = Offset(index as u64);
            let (free, count) = &mut shelf.messages[index];
            (*free, *count) = (false, *count + 1);
            shelf.held.insert(offset, lease);
            match runs.last_mut() {
                Some(run) if run.offsets.end == offset && run.count == *count => run.offsets.end = offset + 1,
                _ => {
                    let record = stored.batch.position_of(index as u32);
                    let (stored, offsets) = (stored.clone(), offset..offset + 1);
                    runs.push(Granted { stored, offsets, record, count: *count, expires: None });
                }
            }
        }
        Some(Grant { lease, ends, runs })
    }

    /// Settles messages. Returns those whose settlement comes too late.
    fn apply(
        &mut self,
        partition: Partition,
        settlement: &Settlement,
        loses: &mut dyn FnMut(Place) -> bool,
    ) -> Vec<Offset> {
        assert_eq!(settlement.client, ClientId::from(CLIENT));
        let Leases::One(lease) = settlement.leases else { return Vec::new() };
        let shelf = &mut self.shelves[partition.index()];
        let offsets: Vec<Offset> = if settlement.offsets.is_empty() {
            shelf.held.iter().filter(|(_, of)| **of == lease).map(|(offset, _)| *offset).collect()
        } else {
            let ranges = settlement.offsets.iter().cloned();
            ranges.flat_map(|range| range.start.following(range.end.since(range.start))).collect()
        };
        let mut lost = Vec::new();
        for offset in offsets {
            let place = (partition, lease, offset);
            let is_renewal = matches!(settlement.what, Settle::Renew(_));
            if self.lost.contains(&place) {
                // A renewal was too late, and the operation did not know that yet.
                lost.push(offset);
                continue;
            }
            let is_first = !self.settled.contains_key(&place);
            assert!(is_first, "{place:?} is settled twice");
            if loses(place) {
                lost.push(offset);
                self.lost.insert(place);
                self.settled.insert(place, settlement.what);
                shelf.held.remove(&offset);
                continue;
            }
            if is_renewal {
                continue;
            }
            self.settled.insert(place, settlement.what);
            shelf.held.remove(&offset);
            shelf.messages[offset.0 as usize].0 =
                matches!(settlement.what, Settle::Release(_) | Settle::Return);
        }
        lost
    }

    fn read(&mut self, reads: Vec<Read>) {
        for read in reads {
            assert!(!self.ended, "nothing comes behind the end");
            let Read::Pb(pb) = read else {
                self.ended = true;
                continue;
            };
            let response = ClaimResponse::decode(&pb[..]).unwrap();
            assert_eq!(response.claim.is_some(), !response.messages.is_empty());
            if let Some(claim) = &response.claim {
                let id = ClaimId::parse(claim.id()).unwrap();
                let (partition, lease) = id.place(&Rig::queue(self.shelves.len() as u16)).unwrap();
                assert!(claim.ttl() > 0 && claim.ttl() <= 10, "{claim:?}");
                assert_eq!(claim.client_id(), ClientId::from(CLIENT).to_string());
                for message in &response.messages {
                    let (of, offset) = message.id().split_once('.').unwrap();
                    assert_eq!(u16::from_str_radix(of, 16), Ok(partition.0), "a claim is of one partition");
                    let offset = Offset(u64::from_str_radix(offset, 16).unwrap());
                    assert_eq!(message.payload.as_deref(), Some(&[offset.0 as u8][..]));
                    assert!(message.claim_count() > 0 && message.ttl() >= 60);
                    self.numbers.push((partition, lease, offset));
                }
                self.reserved -= response.messages.len() as u64;
            }
            self.responses.push(response);
        }
    }
}

fn size(grant: &Grant) -> u64 {
    grant.runs.iter().map(|run| run.offsets.end.since(run.offsets.start)).sum()
}

/// Returns the number of a request's settlement.
pub fn sequence(answer: &Answer) -> Option<Sequence> {
    match answer {
        Answer::Settled { sequence, .. } => Some(*sequence),
        _ => None,
    }
}
