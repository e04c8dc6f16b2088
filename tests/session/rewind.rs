//! Tests consumers whose queue has gone back (`protocol`, "Rewind"): where they resume, and when they learn
//! of it.

use millstream::base::batch::{BatchBuilder, Fetched, StoredBatch};
use millstream::base::millis::UnixMillis;
use millstream::base::names::ClientId;
use millstream::base::queue::{Position, QueueInfo, Signing};
use millstream::base::units::{Offset, Partition};
use millstream::operation::{Answer, Command, Marker, OperationId};
use millstream::pb::{ConsumeRequest, ConsumeResponse, ConsumeSetupRequest, SetupRequest, Status};
use prost::Message;

use super::harness::{Harness, Read};
use super::rig::Rig;

/// Returns a queue of two partitions in this timeline of its store.
fn queue(timeline: u64) -> QueueInfo {
    QueueInfo { signing: Signing { key: 5, timeline, is_key_new: false }, ..Rig::queue(2) }
}

struct Consumer {
    harness: Harness,
    operation: OperationId,
}

impl Consumer {
    /// Begins at a marker, on the queue's current state. Also returns the first commands, and what the client
    /// reads.
    fn begin(marker: String, queue: QueueInfo, has_extensions: bool) -> (Self, Vec<Command>, Vec<Read>) {
        let mut harness = Harness::new(10_000);
        let get = Some(ConsumeSetupRequest {
            queue_name: Some("q".into()),
            echo_requested: Some(true),
            starting_marker: Some(marker),
            without_headers: has_extensions.then_some(false),
            ..ConsumeSetupRequest::default()
        });
        let bytes = SetupRequest { get, append: None, claim: None }.encode_length_delimited_to_vec();
        harness.receive(&bytes, false);
        let Some(Command::Open { operation, .. }) = harness.asked.pop_front() else {
            panic!("the session must open a queue")
        };
        let (_, mut reads) = harness.call(|session, cx| {
            session.answer(
                operation,
                Answer::Opened { result: Ok(queue), local_partition: Partition(0), has_claims: true },
                cx,
            )
        });
        let ((), more) = harness.call(|session, cx| session.poll_transmit(cx));
        reads.extend(more);
        let asked = harness.asked.drain(..).collect();
        (Self { harness, operation }, asked, reads)
    }

    fn resolve(&mut self, partition: Partition, position: Offset) -> Vec<Read> {
        let operation = self.operation;
        let (_, mut reads) = self.harness.call(|session, cx| {
            session.answer(operation, Answer::Resolved { partition, result: Ok(position) }, cx)
        });
        let ((), more) = self.harness.call(|session, cx| session.poll_transmit(cx));
        reads.extend(more);
        reads
    }

    fn fetched(&mut self, partition: Partition, fetched: Fetched) -> Vec<Read> {
        let operation = self.operation;
        let (_, mut reads) = self.harness.call(|session, cx| {
            session.answer(operation, Answer::Fetched { partition, result: Ok(fetched) }, cx)
        });
        let ((), more) = self.harness.call(|session, cx| session.poll_transmit(cx));
        reads.extend(more);
        reads
    }

    fn ask_for_marker(&mut self) -> Vec<Read> {
        let request = ConsumeRequest { send_marker: Some(true), ..ConsumeRequest::default() };
        let bytes = request.encode_length_delimited_to_vec();
        self.harness.receive(&bytes, false).1
    }

    /// Returns the offset of each partition's next fetch.
    fn fetches(&mut self) -> Vec<(Partition, Offset)> {
        let asked = self.harness.asked.drain(..).filter_map(|command| match command {
            Command::Fetch { target, from, .. } => Some((target.partition.partition, from)),
            _ => None,
        });
        asked.collect()
    }
}

fn stored(base_offset: Offset, timestamp: UnixMillis) -> StoredBatch {
    let mut builder = BatchBuilder::new(ClientId::from(3), 60, 0);
    builder.push(b"new");
    StoredBatch { base_offset, timestamp, stored_ns: 0, batch: builder.close() }
}

/// Returns for each response whether it reports a rewind, and the ids of its messages.
fn responses(reads: &[Read]) -> Vec<(bool, Vec<String>)> {
    let pbs = reads.iter().filter_map(|read| match read {
        Read::Pb(pb) => Some(ConsumeResponse::decode(&pb[..]).unwrap()),
        Read::End => None,
    });
    pbs.map(|response| {
        let ids = response.messages.iter().map(|message| message.id().to_owned()).collect();
        (response.rewound(), ids)
    })
    .collect()
}

fn is_accepted(reads: &[Read]) -> bool {
    matches!(reads.first(), Some(Read::Pb(pb)) if Status::decode(&pb[..]).unwrap().status_code() == 100)
}

#[test]
fn only_a_marker_of_another_timeline_is_resolved_by_the_store() {
    let marker = Marker::encode(&queue(7), &[Offset(4), Offset(0)]);
    let (_, asked, reads) = Consumer::begin(marker.clone(), queue(7), false);
    assert!(
        is_accepted(&reads) && asked.iter().all(|command| matches!(command, Command::Fetch { .. })),
        "{asked:?}"
    );
    let (mut consumer, asked, reads) = Consumer::begin(marker, queue(8), true);
    let position = Position::After { timeline: 7, offset: Offset(4) };
    assert!(
        matches!(asked[..], [Command::Resolve { target, position: of, .. }] if target.partition.partition == Partition(0) && of == position),
        "{asked:?}"
    );
    assert!(reads.is_empty(), "nothing may be sent before the position is known");
    let reads = consumer.resolve(Partition(0), Offset(3));
    assert!(is_accepted(&reads));
    assert_eq!(responses(&reads[1..]), [(true, vec![])], "the client must learn of the rewind at once");
    assert_eq!(consumer.fetches(), [(Partition(0), Offset(3)), (Partition(1), Offset(0))]);
}

#[test]
fn a_marker_where_both_timelines_agree_causes_no_rewind() {
    let (mut consumer, _, _) =
        Consumer::begin(Marker::encode(&queue(7), &[Offset(4), Offset(0)]), queue(8), true);
    let reads = consumer.resolve(Partition(0), Offset(4));
    assert!(is_accepted(&reads) && reads.len() == 1, "{reads:?}");
    assert_eq!(consumer.fetches(), [(Partition(0), Offset(4)), (Partition(1), Offset(0))]);
}

#[test]
fn a_changed_marker_is_refused() {
    let marker = Marker::encode(&queue(7), &[Offset(4), Offset(0)]);
    let other_key = QueueInfo { signing: Signing { key: 6, timeline: 7, is_key_new: false }, ..queue(7) };
    let (_, asked, reads) = Consumer::begin(marker, other_key, false);
    let Some(Read::Pb(pb)) = reads.first() else { panic!("{reads:?}") };
    assert_eq!(Status::decode(&pb[..]).unwrap().status_code(), 400);
    assert!(!asked.iter().any(|command| matches!(command, Command::Fetch { .. })));
}

#[test]
fn a_rewound_partition_is_read_from_its_new_position_and_old_clients_learn_with_the_next_messages() {
    for has_extensions in [false, true] {
        let marker = Marker::encode(&queue(7), &[Offset(50), Offset(0)]);
        let (mut consumer, _, _) = Consumer::begin(marker, queue(7), has_extensions);
        let now = consumer.harness.rig.now.unix;
        let back = Fetched { next: Offset(10), is_rewound: true, ..Fetched::default() };
        let reads = consumer.fetched(Partition(0), back);
        let at_once: &[(bool, Vec<String>)] = if has_extensions { &[(true, vec![])] } else { &[] };
        assert_eq!(responses(&reads), at_once);
        assert_eq!(
            consumer.fetches(),
            [(Partition(0), Offset(10))],
            "the position must not stay beyond the end"
        );
        consumer.ask_for_marker();
        let fetched = Fetched {
            batches: vec![stored(Offset(10), now)],
            next: Offset(11),
            at_end: true,
            ..Fetched::default()
        };
        let reads = consumer.fetched(Partition(0), fetched);
        assert_eq!(responses(&reads), [(!has_extensions, vec!["0.a".to_owned()])]);
        let Read::Pb(pb) = &reads[0] else { panic!() };
        let marked = ConsumeResponse::decode(&pb[..]).unwrap().messages[0].marker().to_owned();
        assert_eq!(Marker::positions(&marked), Some(vec![Offset(11), Offset(0)]));
    }
}
