//! Tests produce operations: each message number gets one answer, in order, with the right status.

use std::collections::{HashMap, VecDeque};

use millstream::access::{ProjectLimits, Tenants};
use millstream::base::error::StoreFault;
use millstream::base::millis::Millis;
use millstream::base::names::{ClientId, Project};
use millstream::base::partitioner::{client_partition, key_partition};
use millstream::base::queue::message_id;
use millstream::base::units::{Offset, Partition, Sequence};
use millstream::front::{Cx, DrainStep, ServerSession};
use millstream::operation::{Answer, Command, OperationId};
use millstream::pb::headers::{HeaderRef, put_header};
use millstream::pb::wire::write_varint;
use millstream::pb::{
    ProduceRequest, ProduceResponse, ProduceSetupRequest, ProduceSetupResponse, SetupRequest,
};
use proptest::prelude::*;
use prost::Message;

use super::harness::{HEADERS_MAX, Harness, PAYLOAD_MAX, PB_MAX, Read, WINDOW, note_input};
use super::random::Random;
use super::rig::{CLIENT, Rig};

/// A ProduceRequest.
#[derive(Clone, Debug)]
struct Request {
    ttl: Option<u32>,
    delay: Option<u32>,
    sizes: Vec<usize>,
    /// Whether the TTL and the delay come after the payloads.
    ttl_last: bool,
    keys: Each,
    headers: Each,
}

/// The keys or the headers of a request's payloads.
#[derive(Clone, Copy, Debug)]
enum Each {
    None,
    One,
    OneTooMany,
}

const PARTITIONS: u16 = 4;

/// How the client's half ends.
#[derive(Clone, Copy, Debug)]
enum End {
    Fin,
    CutInPb,
    CutInLength,
    LengthTooLong,
    PbTooLarge,
    NoPayloads,
    WrongWireType,
    TooMany,
}

#[derive(Clone, Debug)]
struct Operation {
    requests: Vec<Request>,
    end: End,
}

fn request() -> impl Strategy<Value = Request> {
    let ttl = prop_oneof![8 => Just(Some(60)), 3 => Just(Some(61)), 1 => Just(Some(59)), 1 => Just(None)];
    let sizes = proptest::collection::vec(
        prop_oneof![12 => 0..=PAYLOAD_MAX, 1 => PAYLOAD_MAX + 1..=PAYLOAD_MAX + 9],
        1..8,
    );
    let keys = prop_oneof![6 => Just(Each::None), 6 => Just(Each::One), 1 => Just(Each::OneTooMany)];
    let headers = prop_oneof![9 => Just(Each::None), 4 => Just(Each::One), 1 => Just(Each::OneTooMany)];
    // With a TTL of 60, a delay of 60 is too long. Those above 900 always are.
    let delay =
        prop_oneof![9 => Just(None), 4 => proptest::sample::select(vec![0, 5, 59, 60, 901]).prop_map(Some)];
    let parts = (ttl, delay, sizes, any::<bool>(), keys, headers);
    parts.prop_map(|(ttl, delay, sizes, ttl_last, keys, headers)| Request {
        ttl,
        delay,
        sizes,
        ttl_last,
        keys,
        headers,
    })
}

fn operation() -> impl Strategy<Value = Operation> {
    use End::*;
    let end = prop_oneof![
        4 => Just(Fin),
        1 => proptest::sample::select(vec![
            CutInPb, CutInLength, LengthTooLong, PbTooLarge, NoPayloads, WrongWireType, TooMany,
        ]),
    ];
    // Few enough messages for the first credit, so that a budget that withholds credit has no effect.
    (proptest::collection::vec(request(), 0..12), end).prop_map(|(requests, end)| Operation { requests, end })
}

fn payload(number: i64, size: usize) -> Vec<u8> {
    (0..size).map(|index| (number as usize * 31 + index) as u8).collect()
}

/// Returns one of four keys. The empty key counts as no key.
fn key(number: i64) -> Vec<u8> {
    vec![b'k'; number as usize * 7 % 4]
}

/// Returns headers as they are sent, and as they are stored or the status of their message.
fn headers(number: i64) -> (Vec<u8>, Result<Vec<u8>, u32>) {
    let encoded = |headers: &[(&str, &[u8])]| {
        let mut bytes = Vec::new();
        for (name, value) in headers {
            put_header(HeaderRef { name, value: Some(value) }, &mut bytes);
        }
        bytes
    };
    let value = number.to_le_bytes();
    let mine = encoded(&[("n", &value)]);
    match number * 5 % 9 {
        0 | 1 => (vec![], Ok(vec![])),
        2 => (encoded(&[("millstream-x", b""), ("n", &value)]), Ok(mine)),
        3 => (encoded(&[("ms", &value)]), Err(400)),
        4 => (vec![0x0a, 9], Err(400)),
        5 => (encoded(&[("large", &[7; HEADERS_MAX])]), Err(413)),
        _ => (mine.clone(), Ok(mine)),
    }
}

/// A stored message.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Stored {
    partition: Partition,
    ttl: u32,
    delay: u32,
    key: Vec<u8>,
    headers: Vec<u8>,
    payload: Vec<u8>,
}

/// The outcome that the protocol requires for an operation whose appends all succeed.
struct Expected {
    bytes: Vec<u8>,
    /// For each whole pb of messages: its end in `bytes`, and its last message number.
    numbers: Vec<(usize, i64)>,
    /// The status of each message number: 201, or its own 4xx.
    fates: Vec<u32>,
    /// The messages to store.
    stored: Vec<Stored>,
    /// The client's violation, if any: the status, and the last message number that it covers.
    failure: Option<(u32, i64)>,
    /// The number of bytes, and whether FIN, that must arrive before the violation is detectable.
    breach: (usize, bool),
}

impl Expected {
    fn of(operation: &Operation, has_claims: bool) -> Self {
        let setup = SetupRequest {
            append: Some(ProduceSetupRequest { queue_name: Some("q".into()) }),
            get: None,
            claim: None,
        };
        let mut expected = Self {
            bytes: setup.encode_length_delimited_to_vec(),
            numbers: Vec::new(),
            fates: Vec::new(),
            stored: Vec::new(),
            failure: None,
            breach: (0, false),
        };
        for request in &operation.requests {
            expected.add(request, has_claims);
        }
        let through = expected.fates.len() as i64;
        let too_many = i64::from(WINDOW) + 50;
        let (bytes, failure): (Vec<u8>, _) = match operation.end {
            End::Fin => (vec![], None),
            End::CutInPb => (vec![9, 8, 60], Some((400, through))),
            End::CutInLength => (vec![0x80, 0x80], Some((400, through))),
            End::LengthTooLong => (vec![0xff; 6], Some((400, through))),
            End::PbTooLarge => (length(PB_MAX + 1), Some((413, through))),
            End::NoPayloads => (vec![2, 8, 60], Some((400, through))),
            End::WrongWireType => (vec![2, 0x10, 1], Some((400, through))),
            End::TooMany => {
                let payloads = vec![bytes::Bytes::new(); too_many as usize];
                let request = ProduceRequest { ttl: Some(60), payloads, keys: vec![], ..Default::default() };
                (request.encode_length_delimited_to_vec(), Some((429, through + too_many)))
            }
        };
        expected.bytes.extend(bytes);
        expected.failure = failure;
        expected.breach = match operation.end {
            // The sixth byte is discarded, like everything after it.
            End::LengthTooLong => (expected.bytes.len() - 1, false),
            End::CutInPb | End::CutInLength => (expected.bytes.len(), true),
            _ => (expected.bytes.len(), false),
        };
        expected
    }

    /// Returns whether the client has violated the protocol in this part of its half.
    fn broken_by(&self, (bytes, fin): (usize, bool)) -> bool {
        self.failure.is_some() && bytes >= self.breach.0 && (fin || !self.breach.1)
    }

    fn add(&mut self, request: &Request, has_claims: bool) {
        let first = self.fates.len() as i64 + 1;
        let payloads: Vec<Vec<u8>> =
            (first..).zip(&request.sizes).map(|(number, size)| payload(number, *size)).collect();
        let mut keys: Vec<Vec<u8>> = match request.keys {
            Each::None => vec![],
            Each::One | Each::OneTooMany => (first..).take(payloads.len()).map(key).collect(),
        };
        keys.extend(matches!(request.keys, Each::OneTooMany).then(Vec::new));
        let mut all_headers = match request.headers {
            Each::None => vec![],
            Each::One | Each::OneTooMany => (first..).take(payloads.len()).map(headers).collect(),
        };
        let one_more = || (Vec::new(), Ok(Vec::new()));
        all_headers.extend(matches!(request.headers, Each::OneTooMany).then(one_more));
        let times = ProduceRequest { ttl: request.ttl, delay: request.delay, ..Default::default() };
        let mut parts = [times.encode_to_vec(), {
            let payloads = payloads.iter().map(|payload| payload.clone().into()).collect();
            let keys = keys.iter().map(|key| key.clone().into()).collect();
            let headers = all_headers.iter().map(|(sent, _)| sent.clone().into()).collect();
            ProduceRequest { payloads, keys, headers, ..Default::default() }.encode_to_vec()
        }];
        if request.ttl_last {
            parts.reverse();
        }
        let pb = parts.concat();
        self.bytes.extend(length(pb.len()));
        self.bytes.extend(pb);
        let has_too_many = [request.keys, request.headers].iter().any(|of| matches!(of, Each::OneTooMany));
        let ttl = request.ttl.filter(|ttl| *ttl >= 60 && !has_too_many);
        let delay = request.delay.unwrap_or(0);
        let ttl = ttl.filter(|ttl| delay <= 900 && delay < *ttl);
        for (index, payload) in payloads.into_iter().enumerate() {
            match ttl {
                None => self.fates.push(400),
                Some(_) if delay > 0 && !has_claims => self.fates.push(501),
                Some(_) if payload.len() > PAYLOAD_MAX => self.fates.push(413),
                Some(ttl) => {
                    let headers = match all_headers.get(index).map_or(Ok(vec![]), |(_, kept)| kept.clone()) {
                        Ok(headers) => headers,
                        Err(status) => {
                            self.fates.push(status);
                            continue;
                        }
                    };
                    self.fates.push(201);
                    let key = keys.get(index).cloned().unwrap_or_default();
                    let partition = if key.is_empty() {
                        client_partition(ClientId::from(CLIENT), PARTITIONS)
                    } else {
                        key_partition(&key, PARTITIONS)
                    };
                    self.stored.push(Stored { partition, ttl, delay, key, headers, payload });
                }
            }
        }
        self.numbers.push((self.bytes.len(), self.fates.len() as i64));
    }
}

fn length(bytes: usize) -> Vec<u8> {
    let mut out = Vec::new();
    write_varint(bytes as u64, &mut out);
    out
}

/// An append that the session requested.
struct Append {
    operation: OperationId,
    sequence: Sequence,
    reserved: usize,
    partition: Partition,
    offset: Offset,
    count: u64,
    /// Whether the append has no answer yet.
    open: bool,
}

struct Run {
    harness: Harness,
    schedule: Random,
    opens: Vec<OperationId>,
    appends: Vec<Append>,
    /// The messages to store, in the order of their partitions, with their offsets and the index of their
    /// batch in `appends`.
    stored: HashMap<Partition, VecDeque<(Stored, Offset, usize)>>,
    /// The end of each partition.
    ends: HashMap<Partition, Offset>,
    reads: Vec<Read>,
    has_claims: bool,
    /// The number of successful answers before the store fails.
    fails_in: Option<usize>,
    /// The number of accepted bytes of the half, and whether FIN was accepted.
    taken: (usize, bool),
    /// The value of `taken` when the store failed, and the index of the failed append.
    failed: Option<((usize, bool), usize)>,
}

impl Run {
    /// Runs an operation, from its first byte to the end of both halves.
    fn operation(&mut self, expected: &Expected) {
        self.appends.clear();
        self.stored.clear();
        self.reads.clear();
        (self.taken, self.failed) = ((0, false), None);
        for _ in 0..200_000 {
            if self.taken.1 && self.reads.last() == Some(&Read::End) {
                return;
            }
            match self.schedule.below(6) {
                0 | 1 => self.receive(&expected.bytes),
                2 => self.call(|session, cx| session.flush(cx)),
                3 => self.answer(),
                4 => self.call(|session, cx| session.retry(cx)),
                _ => self.call(|session, cx| session.poll_transmit(cx)),
            }
        }
        panic!("the operation must end");
    }

    fn call(&mut self, call: impl FnOnce(&mut ServerSession, &mut Cx<'_>)) {
        let ((), reads) = self.harness.call(call);
        self.note(reads);
    }

    fn receive(&mut self, bytes: &[u8]) {
        let (blocked, _) = self.harness.call(|session, cx| session.is_blocked(cx));
        if blocked || self.taken.1 {
            return;
        }
        let rest = &bytes[self.taken.0..];
        let cut = self.schedule.below(rest.len() + 1);
        let fin = cut == rest.len() && self.schedule.below(2) == 0;
        let (used, reads) = self.harness.receive(&rest[..cut], fin);
        self.taken = (self.taken.0 + used, fin && used == cut);
        self.note(reads);
    }

    /// Answers a random outstanding command as the shard or the store.
    fn answer(&mut self) {
        if let Some(operation) = self.opens.pop() {
            let (queue, has_claims) = (Rig::queue(PARTITIONS), self.has_claims);
            return self.call(|session, cx| {
                session.answer(
                    operation,
                    Answer::Opened { result: Ok(queue), local_partition: Partition(2), has_claims },
                    cx,
                )
            });
        }
        let open: Vec<usize> = (0..self.appends.len()).filter(|index| self.appends[*index].open).collect();
        if open.is_empty() {
            return;
        }
        let index = open[self.schedule.below(open.len())];
        let Append { operation, sequence, reserved, offset, count, .. } = self.appends[index];
        self.appends[index].open = false;
        let fails = self.fails_in == Some(0);
        self.fails_in = self.fails_in.and_then(|left| left.checked_sub(1));
        if fails {
            self.failed = Some((self.taken, index));
        }
        let result = if fails { Err(StoreFault::Unavailable("planned")) } else { Ok(offset..offset + count) };
        self.harness.rig.budget.release(reserved);
        self.call(|session, cx| {
            session.answer(operation, Answer::Appended { sequence, result: result.map(Some) }, cx)
        });
    }

    fn note(&mut self, reads: Vec<Read>) {
        self.reads.extend(reads);
        while let Some(command) = self.harness.asked.pop_front() {
            match command {
                Command::Open { operation, .. } => self.opens.push(operation),
                Command::Append { operation, sequence, target, batch, reserved, .. } => {
                    let partition = target.partition.partition;
                    assert!(
                        self.appends.last().is_none_or(|last| last.sequence < sequence
                            || (last.sequence == sequence && last.partition != partition)),
                        "batches must come in order"
                    );
                    let (ttl, delay) = (batch.ttl_secs(), batch.delay_secs());
                    let (index, count) = (self.appends.len(), u64::from(batch.count()));
                    // Other producers store messages in between.
                    let gap = self.schedule.below(3) as u64 / 2;
                    let end = self.ends.entry(partition).or_default();
                    let offset = *end + gap;
                    *end = offset + count;
                    let of_partition = self.stored.entry(partition).or_default();
                    of_partition.extend(offset.following(count).zip(batch.records()).map(
                        |(offset, record)| {
                            let [key, headers, payload] =
                                [record.key, record.headers, record.payload].map(<[u8]>::to_vec);
                            (Stored { partition, ttl, delay, key, headers, payload }, offset, index)
                        },
                    ));
                    self.appends.push(Append {
                        operation,
                        sequence,
                        reserved,
                        partition,
                        offset,
                        count,
                        open: true,
                    });
                }
                Command::Report { .. } => {}
                other => panic!("a producer must not ask for {other:?}"),
            }
        }
    }

    /// Compares what the client read and what the session stored with the expected outcome.
    fn judge(&self, expected: &Expected) {
        let mut reads = self.reads.iter();
        let Some(Read::Pb(pb)) = reads.next() else { panic!("the setup must have an answer") };
        let setup = ProduceSetupResponse::decode(&pb[..]).unwrap();
        assert_eq!(setup.status.as_ref().unwrap().status_code(), 100);
        let mut granted = setup.max_msgnum_to_send();
        let mut spoken = Vec::new();
        let mut places = Vec::new();
        let mut end = None;
        for read in reads {
            let Read::Pb(pb) = read else { break };
            assert!(end.is_none(), "nothing may follow the pb that ends an operation");
            let response = ProduceResponse::decode(&pb[..]).unwrap();
            let through = response.msgnum_status_is_thru.expect("each response must have a message number");
            let grant = response.max_msgnum_to_send.expect("each response must have credit");
            assert!(
                grant >= granted && grant <= spoken.len().max(through as usize) as i64 + i64::from(WINDOW)
            );
            granted = grant;
            match response.status.map(|status| status.status_code()) {
                None => assert_eq!(
                    through,
                    spoken.len() as i64,
                    "a response with only credit must repeat the number"
                ),
                Some(code) if code == 429 || through as usize <= spoken.len() => end = Some((code, through)),
                Some(code) => {
                    places.push((spoken.len()..through as usize, response.first_id, response.last_id));
                    spoken.resize(through as usize, code);
                }
            }
        }
        assert_eq!(self.reads.iter().filter(|read| **read == Read::End).count(), 1);
        // A store failure ends the operation, unless the client violated the protocol first.
        let failed_first = self.failed.filter(|(taken, _)| !expected.broken_by(*taken));
        let accepted = match failed_first {
            Some(((bytes, _), _)) => expected
                .numbers
                .iter()
                .take_while(|(end, _)| *end <= bytes)
                .last()
                .map_or(0, |(_, last)| *last),
            None => expected.fates.len() as i64,
        };
        let mut fates = expected.fates[..accepted as usize].to_vec();
        let mut stored = self.stored.clone();
        let mut to_store = expected.stored.iter();
        let mut ids = vec![None; fates.len()];
        for (fate, id) in fates.iter_mut().zip(&mut ids).filter(|(fate, _)| **fate == 201) {
            let wanted = to_store.next().unwrap();
            let kept = stored.get_mut(&wanted.partition).and_then(VecDeque::pop_front);
            let (kept, offset, append) = kept.expect("an acknowledged message must be stored");
            assert_eq!(kept, *wanted);
            *id = Some((kept.partition, offset));
            let sequence = self.appends[append].sequence;
            if self.failed.is_some_and(|(_, failed)| self.appends[failed].sequence == sequence) {
                *fate = 503;
            }
        }
        assert!(stored.values().all(VecDeque::is_empty), "each stored message must be acknowledged");
        assert_eq!(spoken, fates);
        for (numbers, first_id, last_id) in places {
            let ids: Vec<(Partition, Offset)> = ids[numbers.clone()].iter().copied().flatten().collect();
            let neighbours =
                |pair: &[(Partition, Offset)]| pair[0].0 == pair[1].0 && pair[0].1 + 1 == pair[1].1;
            let in_a_row = spoken[numbers.start] == 201 && ids.windows(2).all(neighbours);
            let id =
                |of: Option<&(Partition, Offset)>| of.filter(|_| in_a_row).map(|(p, o)| message_id(*p, *o));
            assert_eq!((first_id, last_id), (id(ids.first()), id(ids.last())));
        }
        assert_eq!(end, if failed_first.is_some() { Some((503, accepted)) } else { expected.failure });
        assert_eq!(self.harness.rig.budget.reserved(), 0);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(600))]

    #[test]
    fn any_split_and_order_of_answers_gives_each_message_its_status(
        operations in proptest::collection::vec(operation(), 1..4),
        seed in any::<u64>(),
        fails_in in proptest::option::weighted(0.3, 0usize..6),
        budget in PB_MAX..10 * PB_MAX,
        has_claims in any::<bool>(),
    ) {
        let mut run = Run {
            harness: Harness::new(budget),
            schedule: Random(seed),
            opens: Vec::new(),
            appends: Vec::new(),
            stored: HashMap::new(),
            ends: HashMap::new(),
            reads: Vec::new(),
            has_claims,
            fails_in,
            taken: (0, false),
            failed: None,
        };
        for operation in &operations {
            let expected = Expected::of(operation, has_claims);
            run.operation(&expected);
            run.judge(&expected);
        }
    }
}

#[test]
fn a_draining_server_begins_no_operation() {
    let append = ProduceSetupRequest { queue_name: Some("q".into()) };
    let get = millstream::pb::ConsumeSetupRequest { queue_name: Some("q".into()), ..Default::default() };
    for setup in [
        SetupRequest { append: Some(append), get: None, claim: None },
        SetupRequest { get: Some(get), append: None, claim: None },
    ] {
        let mut harness = Harness::new(10 * PB_MAX);
        harness.call(|session, cx| session.drain(DrainStep::Producers, cx));
        let bytes = setup.encode_length_delimited_to_vec();
        harness.receive(&bytes, true);
        let ((), reads) = harness.call(|session, cx| session.poll_transmit(cx));
        let [Read::Pb(pb), Read::End] = &reads[..] else { panic!("{reads:?}") };
        if setup.append.is_some() {
            let answer = ProduceSetupResponse::decode(&pb[..]).unwrap();
            assert_eq!((answer.status.unwrap().status_code(), answer.max_msgnum_to_send), (503, Some(0)));
        } else {
            assert_eq!(millstream::pb::Status::decode(&pb[..]).unwrap().status_code(), 503);
        }
        assert!(harness.asked.iter().all(|command| matches!(command, Command::Report { .. })));
    }
}

#[test]
fn messages_beyond_a_projects_storage_are_refused_by_number_and_end_the_operation() {
    let tenants = Tenants::new(ProjectLimits { storage_bytes: 400, ..ProjectLimits::default() });
    let tenant = tenants.get(&Project::parse("p").unwrap(), Millis::new(1));
    let mut harness = Harness::new(1 << 20);
    harness.rig.limit(Some(tenant.clone()));
    let append = ProduceSetupRequest { queue_name: Some("q".into()) };
    harness.rig.begin(&SetupRequest { append: Some(append), get: None, claim: None });
    // Returns the statuses with their message numbers, and whether the operation has ended.
    let fates = |reads: Vec<Read>| -> (Vec<(u32, i64)>, bool) {
        let is_ended = reads.contains(&Read::End);
        let pbs = reads.into_iter().filter_map(|read| match read {
            Read::Pb(pb) => Some(ProduceResponse::decode(&pb[..]).unwrap()),
            Read::End => None,
        });
        let told = pbs.filter_map(|response| {
            let thru = response.msgnum_status_is_thru();
            response.status.map(|status| {
                let names_it = status.reason_phrase().contains("project_storage_bytes = 400");
                assert!(status.status_code() == 201 || names_it, "{status:?}");
                (status.status_code(), thru)
            })
        });
        (told.collect(), is_ended)
    };
    // Sends four messages, together 170 bytes.
    let send = |harness: &mut Harness| {
        let payloads = vec![vec![7u8; 40].into(); 4];
        let request = ProduceRequest { ttl: Some(60), payloads, keys: vec![], ..Default::default() };
        let bytes = request.encode_length_delimited_to_vec();
        note_input(&bytes, false);
        harness.call(|session, cx| {
            session.handle_data(&bytes, false, cx);
            session.flush(cx);
        });
        fates(harness.call(|session, cx| session.poll_transmit(cx)).1)
    };
    let store = |harness: &mut Harness| {
        while let Some(command) = harness.asked.pop_front() {
            let Command::Append { operation, sequence, reserved, .. } = command else { continue };
            harness.rig.budget.release(reserved);
            harness.call(|session, cx| {
                session.answer(
                    operation,
                    Answer::Appended { sequence, result: Ok(Some(Offset(0)..Offset(4))) },
                    cx,
                )
            });
        }
        fates(harness.call(|session, cx| session.poll_transmit(cx)).1)
    };
    // Messages in flight count.
    assert_eq!((send(&mut harness), send(&mut harness)), ((vec![], false), (vec![], false)));
    assert_eq!(tenant.storage(), 340);
    // Messages after the refused ones are discarded, even if the project has room again.
    assert_eq!((send(&mut harness), send(&mut harness)), ((vec![], false), (vec![], false)));
    assert_eq!(store(&mut harness), (vec![(201, 8), (429, 12)], true));
    assert_eq!(tenant.storage(), 0, "this store does not count messages");
    // Stored messages count, even those of other connections.
    for (stored, is_refused) in [(231, true), (230, false)] {
        let mut share = tenant.share().unwrap();
        share.add(stored);
        harness.receive(&[], true);
        harness.call(|session, cx| session.poll_transmit(cx));
        let append = ProduceSetupRequest { queue_name: Some("q".into()) };
        harness.rig.begin(&SetupRequest { append: Some(append), get: None, claim: None });
        assert_eq!(send(&mut harness), if is_refused { (vec![(429, 4)], true) } else { (vec![], false) });
        assert_eq!(tenant.storage(), stored + if is_refused { 0 } else { 170 });
    }
    // The connection is closed.
    drop(harness);
    assert_eq!(tenant.storage(), 0);
}
