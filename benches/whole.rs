//! Measures the whole path in one process, without sockets: a producer's bytes go into a shard's core with
//! the memory store; the acknowledgement and the consumer's messages come out.
//!
//! Run with `cargo bench --bench whole`. A message costs this plus the kernel's work on the same bytes.
#![allow(clippy::unwrap_used, missing_docs)]

#[path = "common/measured.rs"]
mod measured;

use std::cell::Cell;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use measured::iter;
use millstream::access::{ProjectLimits, Tenants};
use millstream::base::clock::Now;
use millstream::base::millis::UnixMillis;
use millstream::pb::{
    ConsumeRequest, ConsumeSetupRequest, ProduceRequest, ProduceSetupRequest, SetupRequest,
};
use millstream::shard::core::{ConnectionId, Connections, Core, Peer, Settings};
use millstream::store::Ledgers;
use millstream::store::claims::Inner;
use millstream::store::memory::{Memory, WhenFull};
use millstream::ws::frame::{FrameHeader, Opcode};
use prost::Message;

/// The number of messages in a pb, the size of a message in bytes, and the number of pbs in one read of a
/// socket.
const BATCH: usize = 100;
const SIZE: usize = 100;
const PBS: usize = 25;

/// How far the clock advances from one look to the next.
const LOOK: Duration = Duration::from_micros(5);

const HANDSHAKE: &str = "GET / HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
    Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";

struct Shard {
    core: Core<Ledgers<Memory<Inner<Connections>>, Connections>>,
    /// How often the clock was read.
    looks: Cell<u32>,
}

impl Shard {
    fn new() -> Self {
        let settings = Arc::new(Settings::default());
        let tenants = Arc::new(Tenants::new(ProjectLimits::default()));
        let store = Ledgers::new(Memory::new(64 << 20, WhenFull::DropOldest, 7));
        Self { core: Core::new(0, 1, settings, tenants, store), looks: Cell::new(0) }
    }

    /// Returns a time from a synthetic clock, so that each run does the same work. Each look advances it by a
    /// part of a turn.
    fn now(&self) -> Now {
        self.looks.set(self.looks.get().wrapping_add(1));
        Now::new(LOOK * self.looks.get(), UnixMillis::new(1_700_000_000_000))
    }

    /// Opens a connection and sends these bytes.
    fn connect(&mut self, said: &[Vec<u8>]) -> ConnectionId {
        let id = self.core.handle_accepted(self.now(), Peer::Unix).unwrap();
        self.receive(id, HANDSHAKE.as_bytes().to_vec());
        for bytes in said {
            self.receive(id, bytes.clone());
        }
        id
    }

    /// Runs a turn of the driver that receives these bytes from a connection. Returns how many bytes all
    /// sockets accepted.
    fn receive(&mut self, id: ConnectionId, mut input: Vec<u8>) -> usize {
        let wanted = self.core.wanted_read(self.now(), id, input.len());
        assert_eq!(wanted, input.len(), "nothing limits the read");
        let later = self.now();
        self.core.handle_received(later, id, &mut input, || later);
        self.core.flush(self.now(), id);
        let mut sent = 0;
        loop {
            self.core.handle_completions(self.now());
            if !self.core.has_work() {
                return sent;
            }
            while let Some(id) = self.core.poll_dirty() {
                let bytes = self.core.poll_transmit(self.now(), id).len();
                if bytes > 0 {
                    self.core.handle_sent(self.now(), id, bytes, true);
                    sent += bytes;
                }
            }
        }
    }
}

/// Returns a client's frame of pbs. Its mask is zero, so creating the frame takes no time for masking.
fn frame(opcode: Opcode, pbs: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    FrameHeader { fin: false, opcode, mask: Some([0; 4]), length: pbs.len() as u64 }.write(&mut out);
    out.extend(pbs);
    out
}

fn whole(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("whole path");
    let append = ProduceSetupRequest { queue_name: Some("q/0".into()) };
    let append =
        SetupRequest { append: Some(append), get: None, claim: None }.encode_length_delimited_to_vec();
    let get = ConsumeSetupRequest {
        queue_name: Some("q/0".into()),
        echo_requested: Some(true),
        ..Default::default()
    };
    let get = SetupRequest { get: Some(get), append: None, claim: None }.encode_length_delimited_to_vec();
    let credit = ConsumeRequest { max_msgnum_to_send: Some(i64::MAX), ..Default::default() };
    let credit = credit.encode_length_delimited_to_vec();
    let payloads = vec![Bytes::from(vec![b'x'; SIZE]); BATCH];
    let request = ProduceRequest { ttl: Some(60), payloads, keys: vec![], ..Default::default() };
    let requests = frame(Opcode::Continuation, &request.encode_length_delimited_to_vec().repeat(PBS));
    let messages = PBS * BATCH;
    group.throughput(Throughput::Elements(messages as u64));
    for (name, consumers) in [("produce 2,500 x 100 B", 0), ("produce and consume 2,500 x 100 B", 1)] {
        let mut shard = Shard::new();
        let producer = shard.connect(&[frame(Opcode::Binary, &append)]);
        for _ in 0..consumers {
            shard.connect(&[frame(Opcode::Binary, &[get.clone(), credit.clone()].concat())]);
        }
        group.bench_function(name, |bencher| {
            iter(bencher, messages, "message", || {
                let sent = shard.receive(producer, requests.clone());
                assert!(sent >= consumers * messages * SIZE, "every consumer receives every message");
            });
        });
    }
    group.finish();
}

criterion_group! {
    name = benches;
    config = Criterion::default().measurement_time(Duration::from_secs(4)).warm_up_time(Duration::from_secs(1));
    targets = whole
}
criterion_main!(benches);
