//! Measures the stages of the data path one by one, on one core: what a shard does between two system calls.
//!
//! Run with `cargo bench --bench stages`. Throughput is in bytes or messages per second. Compare `frame` with
//! the plain copy of the same bytes.
#![allow(clippy::unwrap_used, missing_docs)]

#[path = "common/measured.rs"]
mod measured;
#[path = "../tests/common/rig.rs"]
mod rig;

use std::hint::black_box;
use std::ops::Range;
use std::time::{Duration, Instant};

use bytes::Bytes;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use measured::iter;
use millstream::base::batch::{Batch, BatchBuilder, Fetched, StoredBatch};
use millstream::base::budget::{Account, Budget};
use millstream::base::claim::{Grant, LeaseId, Leases, Settle, Settlement, Terms, View, Worker};
use millstream::base::clock::Now;
use millstream::base::manage::{Manage, Only};
use millstream::base::millis::UnixMillis;
use millstream::base::names::ClientId;
use millstream::base::queue::{PartitionKey, QueueId};
use millstream::base::units::{Offset, Partition};
use millstream::latency::{Recorder, Stage};
use millstream::operation::{Answer, Command};
use millstream::pb::{
    ConsumeRequest, ConsumeSetupRequest, ProduceRequest, ProduceSetupRequest, SetupRequest,
};
use millstream::pb::{Delimiter, PbLimits, Step};
use millstream::shard::inbox::inbox;
use millstream::store::claims::Inner;
use millstream::store::memory::{Memory, WhenFull};
use millstream::store::{Completion, Ledgers, Request, Store, Stream};
use millstream::ws::frame::{FrameHeader, Opcode};
use millstream::ws::mask::apply;
use millstream::ws::{Input, Receiver, Role};
use prost::Message;
use rig::Rig;
use rustix::thread::{CpuSet, sched_setaffinity};

/// The number of messages in a pb, and the size of a message in bytes.
const BATCH: usize = 100;
const SIZE: usize = 100;
/// The number of pbs in one read of a socket.
const PBS: usize = 25;
/// The number of frames that [`frames`] returns.
const FRAMES: usize = 16;
/// The number of values that a recorder collects before it counts them.
const VALUES: usize = 512;

fn requests() -> Vec<u8> {
    let request = ProduceRequest {
        ttl: Some(60),
        payloads: vec![Bytes::from(vec![b'x'; SIZE]); BATCH],
        keys: vec![],
        ..Default::default()
    };
    request.encode_length_delimited_to_vec().repeat(PBS)
}

/// Returns 16 frames of 16 KiB, as a client sends them.
fn frames() -> Vec<u8> {
    let mut out = Vec::new();
    for number in 0..FRAMES as u32 {
        let opcode = if number == 0 { Opcode::Binary } else { Opcode::Continuation };
        let mask = Some(number.wrapping_mul(0x9e37_79b9).to_ne_bytes());
        FrameHeader { fin: false, opcode, mask, length: 16 << 10 }.write(&mut out);
        out.resize(out.len() + (16 << 10), 7);
    }
    out
}

fn frame(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("frame");
    let mut bytes = frames();
    group.throughput(Throughput::Bytes(bytes.len() as u64));
    group.bench_function("decode and unmask, 16 KiB", |bencher| {
        iter(bencher, FRAMES, "frame", || {
            // Unmasking twice restores the bytes, and headers do not change, so each pass does the same work.
            let mut receiver = Receiver::new(Role::Server);
            let mut rest = &mut bytes[..];
            while let Ok(Input::Data { payload, .. }) = receiver.handle(rest) {
                rest = &mut rest[payload.end..];
            }
            assert!(rest.is_empty());
        });
    });
    let (from, mut to) = (frames(), frames());
    group.bench_function("copy_from_slice of the same", |bencher| {
        bencher.iter(|| black_box(&mut to[..]).copy_from_slice(black_box(&from)));
    });
    group.finish();
}

fn unmask(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("unmask");
    let mut bytes = vec![7; 64 << 10];
    group.throughput(Throughput::Bytes(bytes.len() as u64));
    group.bench_function("64 KiB in place", |bencher| {
        iter(bencher, 64, "KiB", || apply(black_box(&mut bytes), [0x12, 0x34, 0x56, 0x78], 0));
    });
    group.finish();
}

fn delimiter(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("delimiter");
    let small = ProduceRequest {
        ttl: Some(60),
        payloads: vec![Bytes::from(vec![b'x'; SIZE])],
        keys: vec![],
        ..Default::default()
    };
    let bytes = small.encode_length_delimited_to_vec().repeat(1_000);
    let (mut budget, mut account) = (Budget::new(1 << 20), Account::default());
    let limits = PbLimits { max_bytes: 1 << 20, foothold_bytes: 1 << 10, large_bytes: 64 << 10 };
    group.throughput(Throughput::Elements(1_000));
    group.bench_function("a pb of one message", |bencher| {
        iter(bencher, 1_000, "pb", || {
            let (mut delimiter, mut rest, mut pbs) = (Delimiter::default(), &bytes[..], 0);
            let mut purse = budget.purse(&mut account);
            while let Ok((used, Step::Pb(pb))) = delimiter.next(rest, limits, &mut purse) {
                purse.release(pb.len());
                rest = &rest[used..];
                pbs += 1;
            }
            assert_eq!(pbs, 1_000);
        });
    });
    group.finish();
}

fn session_produce(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("session produce");
    let setup = SetupRequest {
        append: Some(ProduceSetupRequest { queue_name: Some("q".into()) }),
        get: None,
        claim: None,
    };
    let mut rig = Rig::new(Rig::defaults());
    rig.begin(&setup);
    let bytes = requests();
    group.throughput(Throughput::Elements((PBS * BATCH) as u64));
    group.bench_function("decode, check, append, acknowledge: pbs of 100 x 100 B", |bencher| {
        iter(bencher, PBS * BATCH, "message", || {
            assert_eq!(rig.call(|session, cx| session.handle_data(&bytes, false, cx)), bytes.len());
            rig.call(|session, cx| session.flush(cx));
            assert_eq!(rig.store(), PBS * BATCH);
        });
    });
    group.finish();
}

fn batch() -> Batch {
    let mut builder = BatchBuilder::new(ClientId::from(8), 60, PBS * BATCH * (SIZE + 4));
    (0..PBS * BATCH).for_each(|_| builder.push(&[b'x'; SIZE]));
    builder.close()
}

fn session_consume(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("session consume");
    let get = ConsumeSetupRequest { queue_name: Some("q".into()), ..Default::default() };
    let mut rig = Rig::new(Rig::defaults());
    rig.begin(&SetupRequest { get: Some(get), append: None, claim: None });
    let credit = ConsumeRequest { max_msgnum_to_send: Some(i64::MAX), ..Default::default() };
    let credit = credit.encode_length_delimited_to_vec();
    rig.call(|session, cx| session.handle_data(&credit, false, cx));
    let batch = batch();
    let mut base_offset = Offset::ZERO;
    group.throughput(Throughput::Elements((PBS * BATCH) as u64));
    group.bench_function("frame a batch of 2,500 x 100 B", |bencher| {
        iter(bencher, PBS * BATCH, "message", || {
            let Some(Command::Fetch { operation, target, .. }) = rig.commands.pop() else { unreachable!() };
            let stored = StoredBatch {
                base_offset,
                timestamp: UnixMillis::new(1_700_000_000_000),
                stored_ns: 0,
                batch: batch.clone(),
            };
            base_offset = stored.end_offset();
            let fetched =
                Fetched { batches: vec![stored], next: base_offset, at_end: true, ..Fetched::default() };
            let partition = target.partition.partition;
            rig.call(|session, cx| {
                session.answer(operation, Answer::Fetched { partition, result: Ok(fetched) }, cx)
            });
            while rig.commands.is_empty() {
                rig.call(|session, cx| session.poll_transmit(cx));
                black_box(&rig.out);
                rig.out.clear();
            }
        });
    });
    group.finish();
}

fn memory(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("memory store");
    let key = PartitionKey { queue: QueueId(1), partition: Partition(0) };
    let now = Now::at_ms(1, 1_700_000_000_000);
    let mut store: Memory<u64> = Memory::new(64 << 20, WhenFull::DropOldest, 1);
    let batch = batch();
    let mut stored = Offset::ZERO;
    let append = |store: &mut Memory<u64>| {
        let append = Request::Append { token: 0, stream: Stream(0), partition: key, batch: batch.clone() };
        assert!(store.submit(now, append).is_ok());
        black_box(store.poll_completion(now)).unwrap();
    };
    group.throughput(Throughput::Elements((PBS * BATCH) as u64));
    group.bench_function("append a batch of 2,500 messages", |bencher| {
        iter(bencher, 1, "batch", || {
            append(&mut store);
            stored += (PBS * BATCH) as u64;
        });
    });
    append(&mut store);
    group.bench_function("fetch a batch of 2,500 messages", |bencher| {
        let from = stored;
        iter(bencher, 1, "batch", || {
            let (token, bytes_max) = (1, 1 << 20);
            let fetch = Request::Fetch {
                token,
                partition: key,
                from,
                bytes_max,
                exclude: None,
                view: View::Unclaimed,
                wait: true,
            };
            assert!(store.submit(now, fetch).is_ok());
            black_box(store.poll_completion(now)).unwrap();
        });
    });
    group.finish();
}

/// The number of messages in a claim, and of those that are outstanding where acknowledgements come in random order.
const CLAIM: u32 = 100;
const OUTSTANDING: u64 = 65_536;

/// The number of messages in a deletion by id, and of those among which they are.
const DELETED: usize = 20;
const DELETABLE: usize = 50_000;

/// A work queue in memory.
struct WorkQueue {
    store: Ledgers<Memory<Inner<u64>>, u64>,
    batch: Batch,
}

impl WorkQueue {
    const KEY: PartitionKey = PartitionKey { queue: QueueId(1), partition: Partition(0) };

    fn new() -> Self {
        let store = Ledgers::new(Memory::new(64 << 20, WhenFull::DropOldest, 1));
        Self { store, batch: batch() }
    }

    fn ask(&mut self, request: Request<u64>) -> Completion<u64> {
        let now = Now::at_ms(1, 1_700_000_000_000);
        assert!(self.store.submit(now, request).is_ok());
        let completion = self.store.poll_completion(now).unwrap();
        // What was stored wakes the ledger.
        assert!(self.store.poll_completion(now).is_none());
        completion
    }

    fn append(&mut self) {
        let batch = self.batch.clone();
        black_box(self.ask(Request::Append { token: 0, stream: Stream(0), partition: Self::KEY, batch }));
    }

    /// Leases as many messages as there are, at most a claim. `None` if there are none.
    fn claim(&mut self) -> Option<Grant> {
        let (worker, partition) = (Worker(1), Self::KEY);
        let terms = Terms { client: ClientId::from(1), ttl_secs: 300, grace_secs: 60 };
        let (messages_max, bytes_max) = (CLAIM, 256 << 10);
        let claim = Request::Claim { token: 1, worker, partition, terms, messages_max, bytes_max };
        match self.ask(claim) {
            Completion::Claimed { result, .. } => result.unwrap(),
            other => panic!("{other:?}"),
        }
    }

    fn delete(&mut self, offsets: Vec<Offset>) {
        let what = Manage::Remove { offsets, only: Only::All };
        let removed = self.ask(Request::Manage { token: 3, partition: Self::KEY, what });
        assert!(matches!(removed, Completion::Managed { result: Ok(_), .. }), "{removed:?}");
    }

    fn ack(&mut self, lease: LeaseId, offsets: Vec<Range<Offset>>) {
        let (client, leases) = (ClientId::from(1), Leases::One(lease));
        let settlements = vec![Settlement { client, leases, offsets, what: Settle::Ack }];
        black_box(self.ask(Request::Settle { token: 2, partition: Self::KEY, settlements }));
    }
}

/// Measures claims on the memory store: the ledger, without notes.
fn claims(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("claims");
    let mut queue = WorkQueue::new();
    queue.append();
    group.throughput(Throughput::Elements(u64::from(CLAIM)));
    group.bench_function("claim and acknowledge 100 messages", |bencher| {
        iter(bencher, CLAIM as usize, "message", || {
            loop {
                let Some(grant) = queue.claim() else {
                    queue.append();
                    continue;
                };
                let offsets = grant.runs.into_iter().map(|run| run.offsets).collect();
                break queue.ack(grant.lease, offsets);
            }
        });
    });
    let mut queue = WorkQueue::new();
    let mut open: Vec<(LeaseId, Offset)> = Vec::new();
    let mut random = 1u64;
    group.throughput(Throughput::Elements(1));
    group.bench_function("acknowledge one of 65,536 messages, in random order", |bencher| {
        iter(bencher, 1, "message", || {
            while open.len() < OUTSTANDING as usize {
                match queue.claim() {
                    Some(Grant { lease, runs, .. }) => open.extend(runs.iter().flat_map(|run| {
                        let Range { start, end } = run.offsets;
                        start.following(end.since(start)).map(move |offset| (lease, offset))
                    })),
                    None => queue.append(),
                }
            }
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let (lease, offset) = open.swap_remove((random >> 33) as usize % open.len());
            queue.ack(lease, vec![offset..offset + 1]);
        });
    });
    let mut queue = WorkQueue::new();
    let (mut left, mut end) = (Vec::new(), Offset::ZERO);
    group.throughput(Throughput::Elements(DELETED as u64));
    group.bench_function("delete 20 of 50,000 messages by id, in random order", |bencher| {
        iter(bencher, DELETED, "message", || {
            while left.len() < DELETABLE {
                queue.append();
                let (begins, count) = (end, u64::from(queue.batch.count()));
                end += count;
                left.extend(begins.following(count));
            }
            let mut offsets: Vec<Offset> = Vec::with_capacity(DELETED);
            for _ in 0..DELETED {
                random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                offsets.push(left.swap_remove((random >> 33) as usize % left.len()));
            }
            offsets.sort_unstable();
            queue.delete(offsets);
        });
    });
    group.finish();
}

/// Measures the statistics of a queue with 10 million messages.
fn stats(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("statistics");
    let mut store: Ledgers<Memory<Inner<u64>>, u64> =
        Ledgers::new(Memory::new(4 << 30, WhenFull::DropOldest, 1));
    let batch = batch();
    let count = u64::from(batch.count());
    // Each partition gets some messages in each of many minutes.
    for round in 0..10_000_000 / 64 / count + 1 {
        for partition in Partition::all(64) {
            let partition = PartitionKey { queue: QueueId(1), partition };
            let now = Now::at_ms(1, 1_700_000_000_000 + 30_000 * round);
            let (stream, batch) = (Stream(0), batch.clone());
            assert!(store.submit(now, Request::Append { token: 0, stream, partition, batch }).is_ok());
            while store.poll_completion(now).is_some() {}
        }
    }
    let now = Now::at_ms(1, 1_700_000_000_000);
    group.throughput(Throughput::Elements(64));
    group.bench_function("statistics of 10,000,000 messages in 64 partitions", |bencher| {
        iter(bencher, 64, "partition", || {
            for partition in Partition::all(64) {
                let partition = PartitionKey { queue: QueueId(1), partition };
                let request = Request::Manage { token: 0, partition, what: Manage::Stats };
                assert!(store.submit(now, request).is_ok());
                black_box(store.poll_completion(now).unwrap());
            }
        });
    });
    group.finish();
}

fn histogram(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("histogram");
    let mut recorder = Recorder::default();
    let mut nanos = 1_000;
    group.throughput(Throughput::Elements(VALUES as u64));
    group.bench_function("record a value", |bencher| {
        iter(bencher, VALUES, "value", || {
            for _ in 0..VALUES {
                nanos = nanos * 5 % 10_007 + 1_000;
                recorder.record(Stage::Commit, black_box(nanos), 1);
            }
        });
    });
    group.finish();
}

/// Measures batches through an inbox: on one core, and between two cores that never sleep.
fn hop(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("inbox hop");
    group.throughput(Throughput::Elements(1));
    let (sender, own) = inbox::<u64>(1024);
    group.bench_function("same core", |bencher| {
        iter(bencher, 1, "hop", || {
            sender.send(black_box(7)).unwrap();
            own.poll().unwrap()
        });
    });
    group.bench_function("there and back between two cores", |bencher| {
        bencher.iter_custom(|rounds| {
            let ((there, at_other), (back, at_us)) = (inbox::<u64>(1024), inbox::<u64>(1024));
            let other = std::thread::spawn(move || {
                pin(1);
                for _ in 0..rounds {
                    let batch = loop {
                        match at_other.poll() {
                            Some(batch) => break batch,
                            None => std::hint::spin_loop(),
                        }
                    };
                    back.send(batch).unwrap();
                }
            });
            pin(0);
            let began = Instant::now();
            for round in 0..rounds {
                there.send(round).unwrap();
                while at_us.poll().is_none() {
                    std::hint::spin_loop();
                }
            }
            let took = began.elapsed();
            other.join().unwrap();
            took
        });
    });
    group.finish();
}

/// Pins this thread to a core, if the machine has it.
fn pin(core: usize) {
    let mut cores = CpuSet::new();
    cores.set(core);
    let _ = sched_setaffinity(None, &cores);
}

criterion_group! {
    name = stages;
    config = Criterion::default().measurement_time(Duration::from_secs(4)).warm_up_time(Duration::from_secs(1));
    targets = frame, unmask, delimiter, session_produce, session_consume, memory, claims, stats, histogram, hop
}
criterion_main!(stages);
