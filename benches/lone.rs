//! Measures the latency of a single message, from the produce request to its 201, next to a plain TCP echo on
//! the same kind of executor.
//!
//! Run with `cargo bench --bench lone`. The server runs on core 0 and a blocking client on core 1, one round
//! trip after another. In the first part the shards never sleep (awake). In the second part the client pauses
//! before each round trip, so that the shard has parked. Echo and Millstream alternate.
//! `MILLSTREAM_BENCH_ROUNDS` sets the number of round trips per part (default 20,000; the parked part runs a
//! tenth of it).
#![allow(clippy::unwrap_used, missing_docs)]

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use bytes::Bytes;
use hdrhistogram::Histogram;
use millstream::pb::{ProduceRequest, ProduceSetupRequest, SetupRequest};
use millstream::shard::Settings;
use millstream::shard::acceptor::Acceptor;
use millstream::shard::cores::Cores;
use millstream::shard::executor::{ExecutorSettings, spawn};
use millstream::shard::inbox::inbox;
use millstream::shard::listener::{Accepted, Listener, SocketKind};
use millstream::shard::parker::Parker;
use millstream::shard::server::Server;
use millstream::shard::transport::{Plain, Transport};
use millstream::store::StoreKind;
use millstream::ws::frame::{FrameHeader, Opcode};
use prost::Message;

const SERVER_CORE: usize = 0;
const CLIENT_CORE: usize = 1;
/// The spin time for a shard that never sleeps: longer than any pause.
const AWAKE: Duration = Duration::from_secs(10);
/// The pause after which a shard has parked.
const PAUSE: Duration = Duration::from_millis(1);
const ALTERNATIONS: usize = 5;

const HANDSHAKE: &str = "GET / HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
    Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";

fn frame(opcode: Opcode, pb: &impl Message) -> Vec<u8> {
    let body = pb.encode_length_delimited_to_vec();
    let mut out = Vec::new();
    FrameHeader { fin: false, opcode, mask: Some([0; 4]), length: body.len() as u64 }.write(&mut out);
    out.extend(body);
    out
}

/// Returns a request with one message of 100 bytes.
fn request() -> Vec<u8> {
    let payloads = vec![Bytes::from(vec![b'x'; 100])];
    frame(
        Opcode::Continuation,
        &ProduceRequest { ttl: Some(60), payloads, keys: vec![], ..Default::default() },
    )
}

fn dial(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).unwrap();
    stream.set_nodelay(true).unwrap();
    stream
}

/// Reads one short frame from the server.
fn read_frame(stream: &mut TcpStream) -> Vec<u8> {
    let mut head = [0; 2];
    stream.read_exact(&mut head).unwrap();
    let mut body = vec![0; usize::from(head[1])];
    stream.read_exact(&mut body).unwrap();
    body
}

/// Times `rounds` round trips of `trip`, each after `pause`.
fn time(rounds: usize, pause: Duration, mut trip: impl FnMut()) -> Histogram<u64> {
    let mut histogram = Histogram::new_with_bounds(1, 10_000_000_000, 3).unwrap();
    for round in 0..rounds + rounds / 10 {
        if !pause.is_zero() {
            thread::sleep(pause);
        }
        let began = Instant::now();
        trip();
        // The first rounds only warm up.
        if round >= rounds / 10 {
            histogram.saturating_record(began.elapsed().as_nanos() as u64);
        }
    }
    histogram
}

/// Measures a TCP echo that waits for its socket like the driver does, and does nothing else.
fn echo(spin: Duration, rounds: usize, pause: Duration) -> Histogram<u64> {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let mut client = dial(address);
    let (accepted, _) = listener.accept().unwrap();
    let settings = ExecutorSettings { name: "echo".into(), core: Some(SERVER_CORE) };
    let server = spawn(settings, move || async move {
        let accepted =
            Accepted { socket: socket2::Socket::from(accepted), kind: SocketKind::Tcp, is_secure: false };
        let mut socket = Plain::new(accepted, 0).unwrap();
        let mut parker = Parker::new(Arc::default());
        let (_sender, inbox) = inbox::<()>(1);
        let (mut buffer, mut ready, mut worked) = (vec![0; 256 << 10], Vec::new(), Instant::now());
        socket.mark();
        loop {
            parker.take_ready(&mut ready);
            if ready.pop().is_some() {
                socket.clear_mark();
                worked = Instant::now();
                while let Some(bytes) = socket.read(&mut buffer).unwrap() {
                    if bytes == 0 {
                        return;
                    }
                    socket.write(&buffer[..bytes]).unwrap();
                }
            }
            if worked.elapsed() < spin {
                parker.reactor_pass().await;
            } else {
                parker.park(&inbox, None).await;
            }
        }
    });
    let request = request();
    let mut answer = vec![0; request.len()];
    let histogram = time(rounds, pause, || {
        client.write_all(&request).unwrap();
        client.read_exact(&mut answer).unwrap();
    });
    drop(client);
    server.unwrap().join().unwrap();
    histogram
}

fn millstream(spin: Duration, rounds: usize, pause: Duration) -> Histogram<u64> {
    let mut settings =
        Settings { cores: Cores(vec![SERVER_CORE]), spin_before_park: spin, ..Settings::default() };
    settings.store.kind = StoreKind::Memory;
    settings.listen = SocketAddr::from(([127, 0, 0, 1], 0)).into();
    let listeners =
        Listener::bind_all(&settings.listen, settings.listen_backlog, settings.listen_unix_mode).unwrap();
    let server = Server::start(&settings, Acceptor::new(listeners).unwrap(), None).unwrap();
    let mut client = dial(server.addresses().first_tcp().unwrap());
    client.write_all(HANDSHAKE.as_bytes()).unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        client.read_exact(&mut byte).unwrap();
        head.push(byte[0]);
    }
    let setup = SetupRequest {
        append: Some(ProduceSetupRequest { queue_name: Some("q".into()) }),
        get: None,
        claim: None,
    };
    client.write_all(&frame(Opcode::Binary, &setup)).unwrap();
    read_frame(&mut client);
    let request = request();
    let mut acknowledged = 0;
    let histogram = time(rounds, pause, || {
        client.write_all(&request).unwrap();
        let body = read_frame(&mut client);
        let response = millstream::pb::ProduceResponse::decode(&body[1..]).unwrap();
        acknowledged += 1;
        assert_eq!(response.msgnum_status_is_thru(), acknowledged);
    });
    drop(client);
    server.drain_handle().drain();
    server.join().unwrap();
    histogram
}

fn main() {
    // The executor only pins the client to its core: the client blocks.
    let client = ExecutorSettings { name: "client".into(), core: Some(CLIENT_CORE) };
    spawn(client, || async { measure() }).unwrap().join().unwrap();
}

fn measure() {
    let rounds: usize =
        std::env::var("MILLSTREAM_BENCH_ROUNDS").ok().and_then(|text| text.parse().ok()).unwrap_or(20_000);
    println!("shards  alternation   echo p50   p99   millstream p50   p99   difference p50   p99  (us)");
    for (name, spin, rounds, pause) in
        [("awake", AWAKE, rounds, Duration::ZERO), ("parked", Duration::ZERO, rounds / 10, PAUSE)]
    {
        let mut differences = Vec::new();
        for alternation in 1..=ALTERNATIONS {
            let (echo, ours) = (echo(spin, rounds, pause), millstream(spin, rounds, pause));
            let us =
                |histogram: &Histogram<u64>, quantile| histogram.value_at_quantile(quantile) as f64 / 1e3;
            let of = |quantile| (us(&echo, quantile), us(&ours, quantile));
            let ((e50, m50), (e99, m99)) = (of(0.5), of(0.99));
            println!(
                "{name:7} {alternation:11} {e50:10.1} {e99:5.1} {m50:16.1} {m99:5.1} {:16.1} {:5.1}",
                m50 - e50,
                m99 - e99
            );
            differences.push(m99 - e99);
        }
        differences.sort_by(f64::total_cmp);
        println!("{name}: the median difference of p99 is {:.1} us", differences[ALTERNATIONS / 2]);
    }
}
