//! What the room `tls` adds to rustls: both open and seal the same bytes.
//!
//! `opened` and `sealed` process 256 KiB in records of 16 KiB; `handshake` is the server's part of one with ECDSA
//! P-256. The room's times should be at most 1.25 times those of rustls alone.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used)]

use std::hint::black_box;
use std::io::Write;
use std::sync::Arc;
use std::time::{Duration, Instant};

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use millstream::tls::{Config, Material, Pair, Session, Settings};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::server::UnbufferedServerConnection;
use rustls::unbuffered::ConnectionState;
use rustls::{CipherSuite, ClientConfig, ClientConnection, RootCertStore, ServerConfig};

/// The plaintext that is processed at once: a shard's receive buffer.
const BYTES: usize = 256 << 10;

/// A server, as far as the benches use it.
trait Server {
    fn open(&mut self, wire: &mut [u8], reply: &mut Vec<u8>, plain: &mut Vec<u8>);
    fn seal(&mut self, plain: &[u8], wire: &mut Vec<u8>);
}

impl Server for Session {
    fn open(&mut self, wire: &mut [u8], reply: &mut Vec<u8>, plain: &mut Vec<u8>) {
        Session::open(self, wire, reply, |record| plain.extend_from_slice(record)).unwrap();
    }

    fn seal(&mut self, plain: &[u8], wire: &mut Vec<u8>) {
        Session::seal(self, plain, wire).unwrap();
    }
}

impl Server for UnbufferedServerConnection {
    fn open(&mut self, wire: &mut [u8], reply: &mut Vec<u8>, plain: &mut Vec<u8>) {
        let mut used = 0;
        loop {
            let status = self.process_tls_records(&mut wire[used..]);
            used += status.discard;
            match status.state.unwrap() {
                ConnectionState::ReadTraffic(mut traffic) => {
                    while let Some(record) = traffic.next_record() {
                        plain.extend_from_slice(record.unwrap().payload);
                    }
                }
                ConnectionState::EncodeTlsData(mut data) => {
                    let mut chunk = [0; 8 << 10];
                    let bytes = data.encode(&mut chunk).unwrap();
                    reply.extend_from_slice(&chunk[..bytes]);
                }
                ConnectionState::TransmitTlsData(sent) => sent.done(),
                _ => return,
            }
        }
    }

    fn seal(&mut self, plain: &[u8], wire: &mut Vec<u8>) {
        wire.resize(BYTES + BYTES / 64, 0);
        let ConnectionState::WriteTraffic(mut traffic) = self.process_tls_records(&mut []).state.unwrap()
        else {
            panic!("the handshake has ended");
        };
        let bytes = traffic.encrypt(plain, wire).unwrap();
        wire.truncate(bytes);
    }
}

struct Both {
    room: Config,
    alone: Arc<ServerConfig>,
    client: Arc<ClientConfig>,
}

fn both() -> Both {
    let mut provider = rustls::crypto::aws_lc_rs::default_provider();
    let made = rcgen::generate_simple_self_signed(vec!["server.example".to_owned()]).unwrap();
    let certificate: CertificateDer<'static> = made.cert.der().clone();
    let key = || PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
    let pair = Pair { chain: vec![certificate.clone()], key: key() };
    let room =
        Config::new(Material { pairs: vec![pair], ..Material::default() }, &Settings::default()).unwrap();
    let mut alone = ServerConfig::builder_with_provider(Arc::new(provider.clone()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate.clone()], key())
        .unwrap();
    alone.send_tls13_tickets = 0;
    let mut roots = RootCertStore::empty();
    roots.add(certificate).unwrap();
    provider.cipher_suites.retain(|suite| suite.suite() == CipherSuite::TLS13_AES_128_GCM_SHA256);
    let client = ClientConfig::builder_with_provider(Arc::new(provider))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    Both { room, alone: Arc::new(alone), client: Arc::new(client) }
}

/// Completes a handshake. Returns the client, and the time that the server took.
fn shake(server: &mut impl Server, both: &Both) -> (ClientConnection, Duration) {
    let name = ServerName::try_from("server.example").unwrap();
    let mut client = ClientConnection::new(both.client.clone(), name).unwrap();
    let (mut took, mut plain) = (Duration::ZERO, Vec::new());
    client.set_buffer_limit(None);
    while client.is_handshaking() || client.wants_write() {
        let (mut up, mut down) = (Vec::new(), Vec::new());
        while client.wants_write() {
            client.write_tls(&mut up).unwrap();
        }
        let began = Instant::now();
        server.open(&mut up, &mut down, &mut plain);
        took += began.elapsed();
        let mut left = &down[..];
        while !left.is_empty() {
            client.read_tls(&mut left).unwrap();
            client.process_new_packets().unwrap();
        }
    }
    (client, took)
}

fn measure<S: Server>(criterion: &mut Criterion, name: &str, both: &Both, make: impl Fn() -> S) {
    let plain = vec![7; BYTES];
    let mut group = criterion.benchmark_group("tls");
    group.throughput(Throughput::Bytes(BYTES as u64));
    let mut server = make();
    let (mut client, _) = shake(&mut server, both);
    group.bench_function(format!("opened/{name}"), |bencher| {
        let (mut wire, mut reply, mut opened) = (Vec::new(), Vec::new(), Vec::with_capacity(BYTES));
        bencher.iter_custom(|rounds| {
            let mut took = Duration::ZERO;
            for _ in 0..rounds {
                client.writer().write_all(&plain).unwrap();
                wire.clear();
                while client.wants_write() {
                    client.write_tls(&mut wire).unwrap();
                }
                opened.clear();
                let began = Instant::now();
                server.open(&mut wire, &mut reply, &mut opened);
                took += began.elapsed();
                assert_eq!(opened.len(), BYTES);
            }
            took
        });
    });
    group.bench_function(format!("sealed/{name}"), |bencher| {
        let mut wire = Vec::with_capacity(BYTES + BYTES / 64);
        bencher.iter(|| {
            wire.clear();
            server.seal(black_box(&plain), &mut wire);
            wire.len()
        });
        assert!(wire.len() > BYTES);
    });
    group.finish();
    criterion.benchmark_group("tls").bench_function(format!("handshake/{name}"), |bencher| {
        bencher.iter_custom(|rounds| (0..rounds).map(|_| shake(&mut make(), both).1).sum());
    });
}

fn compare(criterion: &mut Criterion) {
    let both = both();
    measure(criterion, "rustls", &both, || UnbufferedServerConnection::new(both.alone.clone()).unwrap());
    measure(criterion, "room", &both, || Session::new(&both.room).unwrap());
}

criterion_group!(benches, compare);
criterion_main!(benches);
