//! Tests consume operations: each message comes once, in the order of its partition, and markers state
//! exactly what was sent.

use std::collections::BTreeSet;

use millstream::base::batch::{BatchBuilder, Fetched, Record, Shape, StoredBatch};
use millstream::base::millis::UnixMillis;
use millstream::base::names::ClientId;
use millstream::base::units::{Offset, Partition};
use millstream::front::{Cx, ServerSession};
use millstream::operation::{Answer, Command, MarkerPlace, OperationId, Start};
use millstream::pb::{ConsumeRequest, ConsumeResponse, ConsumeSetupRequest, SetupRequest, Status};
use proptest::prelude::*;
use prost::Message;

use super::harness::{Harness, PB_MAX, Read, note_input};
use super::random::Random;
use super::rig::{CLIENT, Rig};

/// A batch of a partition: the client that stored it, and the sizes of its payloads.
type Stored = (u128, Vec<usize>);

#[derive(Clone, Debug)]
struct Plan {
    /// The batches of each partition, in order.
    partitions: Vec<Vec<Stored>>,
    echo: bool,
    without_headers: bool,
    /// The offset to start at in each partition. Values beyond the end mean the end.
    from: Vec<Offset>,
    /// For each ConsumeRequest: the increase of the credit, and whether it requests a marker.
    requests: Vec<(i64, bool)>,
}

fn plan() -> impl Strategy<Value = Plan> {
    let batch = (prop_oneof![Just(CLIENT), Just(CLIENT + 1)], proptest::collection::vec(0usize..90, 1..40));
    let partitions = proptest::collection::vec(proptest::collection::vec(batch, 0..6), 1..5);
    let requests = proptest::collection::vec((-20i64..60, any::<bool>()), 0..20);
    let from = proptest::collection::vec((0u64..60).prop_map(Offset), 4);
    (partitions, any::<bool>(), any::<bool>(), from, requests).prop_map(
        |(partitions, echo, without_headers, from, requests)| Plan {
            partitions,
            echo,
            without_headers,
            from,
            requests,
        },
    )
}

/// A fetch of the session that has no answer yet.
struct Fetch {
    operation: OperationId,
    partition: Partition,
    from: Offset,
    exclude: Option<ClientId>,
    wait: bool,
    cancelled: bool,
}

struct Run<'a> {
    plan: &'a Plan,
    /// The length of each run of messages that the store hides; 0 hides none.
    hides: u64,
    harness: Harness,
    schedule: Random,
    store: Vec<Vec<StoredBatch>>,
    /// The number of batches in each partition so far.
    there: Vec<usize>,
    fetches: Vec<Fetch>,
    bytes: Vec<u8>,
    taken: usize,
    fin: bool,
    reads: Vec<Read>,
}

fn build(partitions: &[Vec<Stored>]) -> Vec<Vec<StoredBatch>> {
    let now = UnixMillis::new(1_700_000_000_000);
    let build = |batches: &Vec<Stored>| {
        let mut base_offset = Offset::ZERO;
        let each = |(client, sizes): &Stored| {
            let builder = BatchBuilder::new(ClientId::from(*client), 60, 0);
            let mut builder = builder.with_shape(Shape::Headers);
            for (offset, size) in base_offset.following(sizes.len() as u64).zip(sizes) {
                let (headers, payload) = (headers(offset), payload(offset, *size));
                builder.push_record(Record { headers: &headers, ..Record::plain(&payload) });
            }
            let stored = StoredBatch { base_offset, timestamp: now, stored_ns: 0, batch: builder.close() };
            base_offset = stored.end_offset();
            stored
        };
        batches.iter().map(each).collect()
    };
    partitions.iter().map(build).collect()
}

fn payload(offset: Offset, size: usize) -> Vec<u8> {
    (0..size).map(|index| (offset.0 as usize * 17 + index) as u8).collect()
}

/// Every third message has none. They are opaque to the session.
fn headers(offset: Offset) -> Vec<u8> {
    vec![b'h'; offset.0 as usize % 3 * 5]
}

impl<'a> Run<'a> {
    fn new(plan: &'a Plan, seed: u64) -> Self {
        let queue = Rig::queue(plan.partitions.len() as u16);
        let from: Vec<Offset> = plan.from[..plan.partitions.len()].to_vec();
        let get = ConsumeSetupRequest {
            queue_name: Some("q".into()),
            echo_requested: Some(plan.echo),
            starting_marker: Some(millstream::operation::Marker::encode(&queue, &from)),
            without_headers: plan.without_headers.then_some(true),
            ..Default::default()
        };
        let mut bytes =
            SetupRequest { get: Some(get), append: None, claim: None }.encode_length_delimited_to_vec();
        let mut credit = 100;
        for (more, marker) in &plan.requests {
            credit += more;
            let request = ConsumeRequest {
                max_msgnum_to_send: Some(credit),
                send_marker: Some(*marker),
                commit_marker: None,
                token: None,
            };
            bytes.extend(request.encode_length_delimited_to_vec());
        }
        let store = build(&plan.partitions);
        Self {
            plan,
            hides: 0,
            harness: Harness::new(10 * PB_MAX),
            schedule: Random(seed),
            there: vec![0; store.len()],
            store,
            fetches: Vec::new(),
            bytes,
            taken: 0,
            fin: false,
            reads: Vec::new(),
        }
    }

    fn call(&mut self, call: impl FnOnce(&mut ServerSession, &mut Cx<'_>)) {
        let ((), reads) = self.harness.call(call);
        self.reads.extend(reads);
        while let Some(command) = self.harness.asked.pop_front() {
            match command {
                Command::Open { operation, .. } => {
                    let queue = Rig::queue(self.store.len() as u16);
                    let (_, reads) = self.harness.call(|session, cx| {
                        session.answer(
                            operation,
                            Answer::Opened {
                                result: Ok(queue),
                                local_partition: Partition(0),
                                has_claims: true,
                            },
                            cx,
                        )
                    });
                    self.reads.extend(reads);
                }
                Command::Fetch { operation, target, from, exclude, wait, .. } => {
                    let partition = target.partition.partition;
                    assert!(
                        self.fetches.iter().all(|fetch| fetch.partition != partition),
                        "a partition must have at most one outstanding fetch"
                    );
                    let cancelled = false;
                    self.fetches.push(Fetch { operation, partition, from, exclude, wait, cancelled });
                }
                Command::Cancel { target, .. } => {
                    let partition = target.partition.partition;
                    self.fetches.iter_mut().filter(|fetch| fetch.partition == partition).for_each(|fetch| {
                        fetch.cancelled = true;
                    });
                }
                other => panic!("a consumer must not ask for {other:?}"),
            }
        }
    }

    fn step(&mut self) {
        match self.schedule.below(6) {
            0 => {
                let rest = self.bytes[self.taken..].to_vec();
                let cut = self.schedule.below(rest.len() + 1);
                self.receive(&rest[..cut], false);
            }
            1 => self.answer(),
            2 => {
                let partition = self.schedule.below(self.store.len());
                self.there[partition] = (self.there[partition] + 1).min(self.store[partition].len());
            }
            3 => self.harness.rig.writable = !self.schedule.one_in(3),
            _ => self.call(|session, cx| session.poll_transmit(cx)),
        }
    }

    fn receive(&mut self, piece: &[u8], fin: bool) {
        let (blocked, _) = self.harness.call(|session, cx| session.is_blocked(cx));
        if !blocked {
            let mut used = 0;
            note_input(piece, fin);
            self.call(|session, cx| used = session.handle_data(piece, fin, cx));
            self.taken += used;
            self.fin = fin && used == piece.len();
        }
    }

    /// Answers one of the session's fetches, in random order, with a random number of batches.
    fn answer(&mut self) {
        let answerable = |fetch: &Fetch| {
            let stored = &self.store[fetch.partition.index()][..self.there[fetch.partition.index()]];
            let has_more = stored.last().is_some_and(|last| last.end_offset() > fetch.from);
            has_more || !fetch.wait || fetch.cancelled
        };
        let ready: Vec<usize> =
            (0..self.fetches.len()).filter(|index| answerable(&self.fetches[*index])).collect();
        if ready.is_empty() {
            return;
        }
        let index = ready[self.schedule.below(ready.len())];
        self.answer_one(index);
    }

    fn answer_one(&mut self, index: usize) {
        let fetch = self.fetches.swap_remove(index);
        let there = self.there[fetch.partition.index()];
        let mut fetched = Fetched { next: fetch.from, ..Fetched::default() };
        if !fetch.cancelled {
            let from = fetch.from;
            let stored = self.store[fetch.partition.index()][..there].iter();
            let rest: Vec<_> = stored.filter(|stored| stored.end_offset() > from).collect();
            let most = self.schedule.between(1, rest.len().max(1));
            fetched.at_end = most >= rest.len();
            for stored in rest.into_iter().take(most) {
                fetched.next = stored.end_offset();
                if fetch.exclude != Some(stored.batch.client()) {
                    let of_batch = stored.base_offset.following(u64::from(stored.batch.count()));
                    of_batch
                        .filter(|offset| *offset < from || self.is_hidden(*offset))
                        .for_each(|offset| fetched.hidden.push(offset..offset + 1));
                    fetched.batches.push(stored.clone());
                }
            }
        }
        let Fetch { operation, partition, .. } = fetch;
        self.call(|session, cx| {
            session.answer(operation, Answer::Fetched { partition, result: Ok(fetched) }, cx)
        });
    }

    /// Stretches of different lengths, some at the edges of batches.
    fn is_hidden(&self, Offset(offset): Offset) -> bool {
        self.hides > 0 && (offset % 7 == 3 || offset / self.hides % 3 == 1)
    }

    /// Ends the random schedule: does everything that can still happen.
    fn settle(&mut self) {
        self.harness.rig.writable = true;
        for _ in 0..2_000 {
            let rest = self.bytes[self.taken..].to_vec();
            self.receive(&rest, false);
            (0..self.store.len()).for_each(|partition| self.there[partition] = self.store[partition].len());
            self.answer();
            self.call(|session, cx| session.poll_transmit(cx));
        }
        while !self.fin {
            self.receive(&[], true);
            self.call(|session, cx| session.poll_transmit(cx));
        }
        while !self.fetches.is_empty() {
            self.fetches
                .iter()
                .for_each(|fetch| assert!(fetch.cancelled, "an ended operation must cancel its fetches"));
            self.answer();
        }
    }

    /// Compares what the client has read with what is stored.
    fn judge(&self) {
        let mut reads = self.reads.iter();
        let Some(Read::Pb(pb)) = reads.next() else { panic!("the setup must have an answer") };
        assert_eq!(Status::decode(&pb[..]).unwrap().status_code(), 100);
        let wanted: BTreeSet<(Partition, Offset)> = (0..)
            .map(Partition)
            .zip(&self.store)
            .flat_map(|(partition, batches)| {
                let from = self.plan.from[partition.index()];
                let comes =
                    |stored: &&StoredBatch| self.plan.echo || stored.batch.client() != ClientId::from(CLIENT);
                let offsets = batches
                    .iter()
                    .filter(comes)
                    .flat_map(|stored| stored.base_offset.following(u64::from(stored.batch.count())));
                let is_visible = move |offset: &Offset| *offset >= from && !self.is_hidden(*offset);
                offsets.filter(is_visible).map(move |offset| (partition, offset))
            })
            .collect();
        let mut seen = BTreeSet::new();
        let mut markers = 0;
        for read in reads {
            let Read::Pb(pb) = read else { break };
            let response = ConsumeResponse::decode(&pb[..]).unwrap();
            assert_eq!(response.status, None);
            for message in &response.messages {
                let id = message.id().split_once('.').map(|(partition, offset)| {
                    let partition = u16::from_str_radix(partition, 16).unwrap();
                    (Partition(partition), Offset(u64::from_str_radix(offset, 16).unwrap()))
                });
                if let Some(sent) = &message.payload {
                    let (partition, offset) = id.unwrap();
                    assert!(wanted.contains(&(partition, offset)), "only requested messages may come");
                    let later = seen.range((partition, offset)..).next();
                    assert!(
                        later.is_none_or(|(of, _)| *of != partition),
                        "each message must come once, and in order"
                    );
                    seen.insert((partition, offset));
                    let batches = &self.store[partition.index()];
                    let batch = batches.iter().find(|stored| stored.end_offset() > offset).unwrap();
                    let index = offset.since(batch.base_offset) as usize;
                    assert_eq!(batch.batch.payloads().nth(index), Some(&sent[..]));
                    assert_eq!((message.ttl, message.age), (Some(60), Some(0)));
                    let headers = if self.plan.without_headers { vec![] } else { headers(offset) };
                    assert_eq!(message.headers.is_some(), !headers.is_empty());
                    assert_eq!(message.headers(), headers);
                }
                if message.marker.is_some() {
                    markers += 1;
                    self.judge_marker(message.marker(), &wanted, &seen);
                }
            }
        }
        let requests = &self.plan.requests;
        let credit = requests.iter().scan(100, |credit, (more, _)| {
            *credit += more;
            Some(*credit)
        });
        let credit = credit.max().unwrap_or(100).max(100) as usize;
        assert_eq!(seen.len(), wanted.len().min(credit), "all stored messages must come, within the credit");
        assert_eq!(markers > 0, requests.iter().any(|(_, marker)| *marker));
        assert_eq!(self.reads.last(), Some(&Read::End));
        assert_eq!(self.harness.rig.budget.reserved(), 0);
    }

    /// Checks that exactly the messages before a marker were read.
    fn judge_marker(
        &self,
        marker: &str,
        wanted: &BTreeSet<(Partition, Offset)>,
        seen: &BTreeSet<(Partition, Offset)>,
    ) {
        let Ok(Start::Marker(marker)) = Start::parse(marker) else { panic!("no marker: {marker}") };
        let Ok(MarkerPlace::Here(positions)) = marker.place(&Rig::queue(self.store.len() as u16)) else {
            panic!("{marker:?}")
        };
        for (partition, offset) in wanted {
            let before = *offset < positions[partition.index()];
            assert_eq!(
                before,
                seen.contains(&(*partition, *offset)),
                "{partition}.{offset} and {positions:?}"
            );
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(600))]

    #[test]
    fn any_split_and_order_of_fetches_delivers_each_message_once_with_exact_markers(
        plan in plan(),
        seed in any::<u64>(),
        steps in 0usize..2_000,
    ) {
        let mut run = Run::new(&plan, seed);
        for _ in 0..steps {
            run.step();
        }
        run.settle();
        run.judge();
    }

    #[test]
    fn of_a_batch_every_message_comes_but_those_that_the_store_hides(
        plan in plan(),
        hides in 1u64..6,
        seed in any::<u64>(),
        steps in 0usize..1_000,
    ) {
        let mut run = Run::new(&plan, seed);
        run.hides = hides;
        for _ in 0..steps {
            run.step();
        }
        run.settle();
        run.judge();
    }
}

#[test]
fn an_empty_pb_does_not_wait_for_memory() {
    let mut rig = Rig::new(Rig::defaults());
    let get = ConsumeSetupRequest { queue_name: Some("q".into()), ..Default::default() };
    rig.begin(&SetupRequest { get: Some(get), append: None, claim: None });
    rig.budget.set_waiting(millstream::base::budget::Share::Whole, 1);
    rig.call(|session, cx| session.handle_data(&[0], true, cx));
    rig.call(|session, cx| session.poll_transmit(cx));
    assert_eq!(rig.out, [0x80, 0], "the half must end without a failure");
}

#[test]
fn a_busy_partition_does_not_starve_the_others() {
    let partitions = vec![
        (0..10).map(|_| (CLIENT + 1, vec![3; 120])).collect::<Vec<Stored>>(),
        vec![(CLIENT + 1, vec![7])],
    ];
    let plan = Plan {
        partitions,
        echo: true,
        without_headers: false,
        from: vec![Offset::ZERO; 2],
        requests: vec![],
    };
    let mut run = Run::new(&plan, 1);
    run.there = vec![10, 1];
    run.receive(&run.bytes.clone(), false);
    let mut credit = 100;
    for _ in 0..20 {
        // The busy partition always answers first, and with more than the credit.
        for partition in Partition::all(2) {
            let index = run.fetches.iter().position(|fetch| {
                let parked = fetch.wait && partition == Partition(1) && fetch.from > Offset::ZERO;
                fetch.partition == partition && !parked
            });
            if let Some(index) = index {
                run.answer_one(index);
                run.call(|session, cx| session.poll_transmit(cx));
            }
        }
        credit += 10;
        let request = ConsumeRequest { max_msgnum_to_send: Some(credit), ..Default::default() };
        run.receive(&request.encode_length_delimited_to_vec(), false);
        run.call(|session, cx| session.poll_transmit(cx));
    }
    let reads = run.reads.iter().filter_map(|read| match read {
        Read::Pb(pb) => Some(ConsumeResponse::decode(&pb[..]).unwrap_or_default()),
        Read::End => None,
    });
    let of_the_quiet: usize =
        reads.flat_map(|response| response.messages).filter(|message| message.id().starts_with("1.")).count();
    assert_eq!(of_the_quiet, 1);
}

#[test]
fn a_marker_follows_excluded_messages_at_the_end() {
    // All messages are the consumer's own.
    let plan = Plan {
        without_headers: false,
        partitions: vec![vec![(CLIENT, vec![3; 5])]],
        echo: false,
        from: vec![Offset::ZERO; 2],
        requests: vec![(0, true)],
    };
    let mut run = Run::new(&plan, 1);
    run.there = vec![1];
    run.receive(&run.bytes.clone(), false);
    run.call(|session, cx| session.poll_transmit(cx));
    assert!(
        !run.fetches[0].wait,
        "the fetch must not wait: a waiting fetch gets no answer if all messages are excluded"
    );
    run.answer_one(0);
    run.call(|session, cx| session.poll_transmit(cx));
    assert!(run.fetches[0].wait && run.fetches[0].from == Offset(5), "at the end, the fetch must wait");
    // The rig sends an owed marker at once.
    let request = run.bytes[run.taken..].to_vec();
    run.receive(&request, false);
    assert_eq!(run.taken, run.bytes.len());
    run.receive(&[], true);
    run.call(|session, cx| session.poll_transmit(cx));
    let markers: Vec<String> = run
        .reads
        .iter()
        .skip(1)
        .filter_map(|read| match read {
            Read::Pb(pb) => Some(ConsumeResponse::decode(&pb[..]).unwrap()),
            Read::End => None,
        })
        .flat_map(|response| response.messages)
        .map(|message| message.marker().to_owned())
        .collect();
    let end = millstream::operation::Marker::encode(&Rig::queue(1), &[Offset(5)]);
    assert_eq!(markers, [end]);
}
