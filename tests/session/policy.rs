//! Tests what the attributes of a queue ask of operations: defaults, limits, and partitions that are added.

use std::sync::Arc;

use bytes::Bytes;
use millstream::base::policy::{Held, HeldShare, LivePolicy, Policy, WhenFull};
use millstream::base::queue::{QueueId, QueueInfo};
use millstream::base::units::{Offset, Partition};
use millstream::operation::{Answer, Command, OperationId};
use millstream::pb::{
    ClaimRequest, ClaimSetupRequest, ConsumeRequest, ConsumeSetupRequest, ProduceRequest, ProduceResponse,
    ProduceSetupRequest, SetupRequest,
};
use prost::Message;

use super::harness::{Harness, PAYLOAD_MAX, Read};
use super::rig::Rig;

/// A session, and the policy of its queue of two partitions.
struct Queue {
    harness: Harness,
    policy: Arc<LivePolicy>,
}

impl Queue {
    fn open(policy: Policy, setup: &SetupRequest) -> Self {
        let mut harness = Harness::new(1 << 20);
        harness.receive(&setup.encode_length_delimited_to_vec(), false);
        let info = Rig::queue(2);
        info.policy.set(policy);
        let policy = info.policy.clone();
        let mut queue = Self { harness, policy };
        queue.opens(info);
        queue
    }

    fn producer(policy: Policy) -> Self {
        let append = ProduceSetupRequest { queue_name: Some("q".into()) };
        Self::open(policy, &SetupRequest { append: Some(append), ..SetupRequest::default() })
    }

    fn opens(&mut self, info: QueueInfo) {
        let Some(Command::Open { operation, .. }) = self.harness.asked.pop_front() else { panic!() };
        let answer = Answer::Opened { result: Ok(info), local_partition: Partition(0), has_claims: true };
        self.answer(operation, answer);
        self.harness.call(|session, cx| session.poll_transmit(cx));
    }

    fn answer(&mut self, operation: OperationId, answer: Answer) {
        self.harness.call(|session, cx| session.answer(operation, answer, cx));
    }

    fn produce(&mut self, request: &ProduceRequest) {
        self.harness.receive(&request.encode_length_delimited_to_vec(), false);
        self.harness.call(|session, cx| session.flush(cx));
    }

    /// Returns the TTL, the delay and the number of messages of each batch that is appended.
    fn appended(&self) -> Vec<(u32, u32, u32)> {
        let of = |command: &Command| match command {
            Command::Append { batch, .. } => Some((batch.ttl_secs(), batch.delay_secs(), batch.count())),
            _ => None,
        };
        self.harness.asked.iter().filter_map(of).collect()
    }

    /// Stores what is appended. Returns each answer: the status, its reason, and the number of the last message.
    fn told(&mut self) -> Vec<(u32, String, i64)> {
        while let Some(command) = self.harness.asked.pop_front() {
            let Command::Append { operation, sequence, reserved, .. } = command else { continue };
            self.harness.rig.budget.release(reserved);
            self.answer(operation, Answer::Appended { sequence, result: Ok(None) });
        }
        let (_, reads) = self.harness.call(|session, cx| session.poll_transmit(cx));
        let told = reads.into_iter().filter_map(|read| match read {
            Read::Pb(pb) => Some(ProduceResponse::decode(&pb[..]).unwrap()),
            Read::End => None,
        });
        let told = told.filter_map(|pb| {
            let through = pb.msgnum_status_is_thru();
            pb.status.map(|status| (status.status_code(), status.reason_phrase().to_owned(), through))
        });
        told.collect()
    }
}

fn request(ttl: Option<u32>, delay: Option<u32>, sizes: &[usize]) -> ProduceRequest {
    let payloads = sizes.iter().map(|size| Bytes::from(vec![7; *size])).collect();
    ProduceRequest { ttl, delay, payloads, ..ProduceRequest::default() }
}

#[test]
fn absent_times_take_those_of_the_queue_and_explicit_ones_win() {
    let times = |ttl_secs, delay_secs| Policy { ttl_secs, delay_secs, ..Policy::default() };
    for (policy, ttl, delay, expected) in [
        (times(Some(100), None), None, None, Some((100, 0))),
        (times(Some(100), None), Some(61), None, Some((61, 0))),
        (times(Some(1), None), None, None, Some((60, 0))),
        (times(Some(u32::MAX), None), None, None, Some((1_209_600, 0))),
        (times(None, None), None, None, None),
        (times(None, Some(5)), None, None, None),
        (times(None, Some(5)), Some(60), None, Some((60, 5))),
        (times(None, Some(5)), Some(60), Some(0), Some((60, 0))),
        (times(None, Some(5)), Some(60), Some(7), Some((60, 7))),
        (times(None, Some(500)), Some(60), None, Some((60, 59))),
        (times(Some(90), Some(100)), None, None, Some((90, 89))),
        (times(None, Some(u32::MAX)), Some(2_000), None, Some((2_000, 900))),
    ] {
        let mut queue = Queue::producer(policy.clone());
        // The first request is copied in another way than those that follow a delay.
        for _ in 0..2 {
            queue.produce(&request(ttl, delay, &[3, 4]));
            let stored = expected.map(|(ttl, delay)| (ttl, delay, 2));
            assert_eq!(
                queue.appended(),
                stored.into_iter().collect::<Vec<_>>(),
                "{policy:?} {ttl:?} {delay:?}"
            );
            let status = if expected.is_some() { 201 } else { 400 };
            assert_eq!(queue.told()[0].0, status);
        }
    }
}

#[test]
fn a_payload_that_the_queue_does_not_allow_is_refused_alone() {
    let mut queue = Queue::producer(Policy { payload_max: Some(10), ..Policy::default() });
    queue.produce(&request(Some(60), None, &[10, 11, 10, PAYLOAD_MAX + 1]));
    let told = queue.told();
    let statuses: Vec<_> = told.iter().map(|(status, _, through)| (*status, *through)).collect();
    assert_eq!(statuses, [(201, 1), (413, 2), (201, 3), (413, 4)]);
    assert!(
        told[1].1.contains("11 bytes are more than the queue's _max_messages_post_size = 10"),
        "{told:?}"
    );
    assert!(told[3].1.contains("max_payload_bytes"), "{told:?}");
    queue.policy.set(Policy::default());
    queue.produce(&request(Some(60), None, &[11]));
    assert_eq!(queue.told()[0].0, 201, "a change reaches an open operation at once");
}

#[test]
fn messages_beyond_a_limit_are_refused_and_the_operation_goes_on() {
    let mut queue = Queue::producer(Policy { messages_max: Some(5), ..Policy::default() });
    let mut stored = HeldShare::new(queue.policy.clone());
    stored.set(Held { messages: 3, bytes: 0 });
    queue.produce(&request(Some(60), None, &[1, 2, 3, 4]));
    // Another request while these are under way.
    queue.produce(&request(Some(60), None, &[5]));
    assert_eq!(queue.policy.held().messages, 5);
    let told = queue.told();
    let statuses: Vec<_> = told.iter().map(|(status, _, through)| (*status, *through)).collect();
    assert_eq!(statuses, [(201, 2), (429, 5)], "{told:?}");
    assert!(told[1].1.contains("_max_messages = 5"), "{told:?}");
    assert_eq!(queue.policy.held().messages, 3, "what is answered counts in its partition");
    stored.set(Held { messages: 4, bytes: 0 });
    queue.produce(&request(Some(60), None, &[1]));
    stored.set(Held { messages: 5, bytes: 0 });
    assert_eq!(queue.told()[0].0, 201);
    queue.produce(&request(Some(60), None, &[1]));
    assert_eq!(queue.told()[0].0, 429);
    stored.set(Held { messages: 0, bytes: 0 });
    queue.produce(&request(Some(60), None, &[1; 5]));
    assert_eq!(queue.told()[0], (201, String::new(), 12));
}

#[test]
fn bytes_are_limited_and_count_with_what_other_operations_have_under_way() {
    let policy = Policy { bytes_max: Some(100), ..Policy::default() };
    let mut queue = Queue::producer(policy.clone());
    let mut other = HeldShare::new(queue.policy.clone());
    other.set(Held { messages: 1, bytes: 60 });
    queue.produce(&request(Some(60), None, &[30, 40, 3]));
    let told = queue.told();
    let statuses: Vec<_> = told.iter().map(|(status, _, through)| (*status, *through)).collect();
    assert_eq!(statuses, [(201, 1), (429, 2), (201, 3)], "{told:?}");
    assert!(told[1].1.contains("_max_bytes = 100"), "{told:?}");
    other.set(Held { messages: 1, bytes: 1_000 });
    queue.policy.set(Policy { when_full: WhenFull::DropOldest, ..policy });
    queue.produce(&request(Some(60), None, &[40]));
    assert_eq!(queue.told()[0].0, 201, "the oldest are dropped instead");
    drop(queue);
    assert_eq!(other.policy().held().bytes, 1_000);
}

#[test]
fn nothing_stays_counted_when_a_producer_is_lost() {
    let mut queue = Queue::producer(Policy { messages_max: Some(5), ..Policy::default() });
    queue.produce(&request(Some(60), None, &[1, 2]));
    assert_eq!(queue.policy.held().messages, 2);
    queue.harness.call(|session, cx| session.abandon(cx));
    assert_eq!(queue.policy.held(), Held::default());
}

/// Returns the partitions that are fetched, and from where.
fn fetched(queue: &mut Queue) -> Vec<(u16, Offset)> {
    queue.harness.call(|session, cx| session.poll_transmit(cx));
    let asked = queue.harness.asked.drain(..);
    let fetches = asked.filter_map(|command| match command {
        Command::Fetch { target, from, .. } => Some((target.partition.partition.0, from)),
        _ => None,
    });
    fetches.collect()
}

#[test]
fn a_consumer_of_all_partitions_reads_those_that_are_added_from_their_beginning() {
    for (name, more) in [("q", vec![(2, Offset(0)), (3, Offset(0))]), ("q/1", vec![])] {
        let get = ConsumeSetupRequest { queue_name: Some(name.into()), ..ConsumeSetupRequest::default() };
        let mut queue =
            Queue::open(Policy::default(), &SetupRequest { get: Some(get), ..SetupRequest::default() });
        let request = ConsumeRequest { max_msgnum_to_send: Some(10), ..ConsumeRequest::default() };
        queue.harness.receive(&request.encode_length_delimited_to_vec(), false);
        fetched(&mut queue);
        let reads = |queue: &Queue, id| queue.harness.rig.session.reads(id);
        assert!(reads(&queue, Rig::queue(2).id) && !reads(&queue, QueueId(2)));
        queue.policy.grow(4);
        queue.harness.call(|session, _| session.handle_grown());
        assert_eq!(fetched(&mut queue), more);
        queue.harness.call(|session, _| session.handle_grown());
        assert_eq!(fetched(&mut queue), [], "once");
    }
}

/// Answers that nothing can be claimed until the session asks no more. Returns the partitions that it watches then.
fn watched(queue: &mut Queue) -> Vec<u16> {
    let mut watched = Vec::new();
    loop {
        queue.harness.call(|session, cx| session.poll_transmit(cx));
        let Some(command) = queue.harness.asked.pop_front() else { return watched };
        match command {
            Command::Claim { operation, target, .. } => {
                let partition = target.partition.partition;
                queue.answer(operation, Answer::Claimed { partition, result: Ok(None) });
            }
            Command::Watch { target, .. } => watched.push(target.partition.partition.0),
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn a_worker_of_all_partitions_claims_from_those_that_are_added() {
    for (name, before, more) in [("q", vec![0, 1], vec![2, 3]), ("q/1", vec![1], vec![])] {
        let claim = ClaimSetupRequest { queue_name: Some(name.into()), ..ClaimSetupRequest::default() };
        let setup = SetupRequest { claim: Some(claim), ..SetupRequest::default() };
        let mut queue = Queue::open(Policy::default(), &setup);
        let request = ClaimRequest { max_msgnum_to_send: Some(10), ..ClaimRequest::default() };
        queue.harness.receive(&request.encode_length_delimited_to_vec(), false);
        assert_eq!(watched(&mut queue), before);
        queue.policy.grow(4);
        queue.harness.call(|session, _| session.handle_grown());
        assert_eq!(watched(&mut queue), more);
    }
}

#[test]
fn keys_are_spread_over_added_partitions_from_the_next_batch_on() {
    let mut queue = Queue::producer(Policy::default());
    let keyed = |key: &'static [u8]| ProduceRequest {
        keys: vec![Bytes::from_static(key)],
        ..request(Some(60), None, &[1])
    };
    let mut used = std::collections::BTreeSet::new();
    let keys: [&[u8]; 12] = [b"a", b"b", b"c", b"d", b"e", b"f", b"g", b"h", b"i", b"j", b"k", b"l"];
    for grown in [false, true] {
        for key in keys {
            queue.produce(&keyed(key));
            for command in &queue.harness.asked {
                if let Command::Append { target, .. } = command {
                    used.insert((grown, target.partition.partition.0));
                }
            }
            queue.told();
        }
        queue.policy.grow(8);
    }
    assert!(used.iter().all(|(grown, partition)| *grown || *partition < 2), "{used:?}");
    assert!(used.iter().any(|(_, partition)| *partition >= 2), "{used:?}");
}
