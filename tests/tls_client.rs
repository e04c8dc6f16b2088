//! The client's side of TLS without I/O, against a server in memory: with every cut of the bytes, with damage,
//! and with messages that arrive in mid-stream.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used)]

#[path = "common/certificates.rs"]
mod certificates;
#[path = "common/terminator.rs"]
mod terminator;

use std::io::{Read, Write};
use std::sync::Arc;

use certificates::Authority;
use millstream::tls::client::{Asked, Fault, Records, Roots, RootsFrom, Session, config};
use rustls::client::Resumption;
use rustls::version::{TLS12, TLS13};
use rustls::{ClientConfig, ServerConfig, ServerConnection, SupportedProtocolVersion};
use terminator::server_config;

const NAME: &str = "queues.example";

/// What the client sends and the server answers: shorter and longer than a record.
const REQUEST: usize = 20_000;
const ANSWERS: [usize; 4] = [1, 700, 0, 40_000];

struct Pair {
    client: Arc<ClientConfig>,
    server: Arc<ServerConfig>,
}

impl Pair {
    fn new(version: &'static SupportedProtocolVersion) -> Self {
        Self::with_fragments(version, None)
    }

    /// Creates a server whose records have at most `bytes` bytes, also those of its handshake.
    fn with_fragments(version: &'static SupportedProtocolVersion, bytes: Option<usize>) -> Self {
        let authority = Authority::new("an authority");
        let mut client = config(Roots::Authorities(authority.roots()), None).unwrap();
        // The server sends tickets only to clients that could use them.
        client.resumption = Resumption::in_memory_sessions(8);
        let server = server_config(&authority.server(&[NAME]), &[version], None);
        let mut server = server.as_ref().clone();
        server.max_fragment_size = bytes;
        Self { client: Arc::new(client), server: Arc::new(server) }
    }

    fn client(&self) -> Client {
        let mut client = Client {
            session: Session::new(self.client.clone(), NAME.try_into().unwrap()).unwrap(),
            plain: Vec::new(),
            records: Records::default(),
        };
        client.receive(&[]).unwrap();
        client
    }

    fn server(&self) -> ServerConnection {
        ServerConnection::new(self.server.clone()).unwrap()
    }
}

/// A session with its buffers, as a socket's owner has them.
struct Client {
    session: Session,
    plain: Vec<u8>,
    records: Records,
}

impl Client {
    fn receive(&mut self, bytes: &[u8]) -> Result<(), rustls::Error> {
        let mut input = [self.session.kept(), bytes].concat();
        self.session.handle(&mut input, &mut self.plain, &mut self.records)
    }

    fn take_records(&mut self) -> Vec<u8> {
        let records = self.records.waiting().to_vec();
        self.records.sent(records.len());
        records
    }
}

/// Gives the server bytes, and returns what it answers.
fn serve(server: &mut ServerConnection, mut bytes: &[u8]) -> Vec<u8> {
    while !bytes.is_empty() {
        server.read_tls(&mut bytes).unwrap();
        server.process_new_packets().unwrap();
    }
    let mut out = Vec::new();
    while server.wants_write() {
        server.write_tls(&mut out).unwrap();
    }
    out
}

fn read(server: &mut ServerConnection, bytes: usize) -> Vec<u8> {
    let mut plain = vec![0; bytes];
    server.reader().read_exact(&mut plain).unwrap();
    plain
}

fn text(bytes: usize) -> Vec<u8> {
    (0..bytes).map(|index| (index * 7 % 251) as u8).collect()
}

/// The flights of a server: its handshake, and then its answers, a `close_notify` after them.
fn answers(server: &mut ServerConnection) -> (Vec<u8>, Vec<u8>) {
    let (mut sent, mut expected) = (Vec::new(), Vec::new());
    for (number, bytes) in ANSWERS.into_iter().enumerate() {
        server.writer().write_all(&text(bytes)).unwrap();
        expected.extend(text(bytes));
        if number == 1 && server.protocol_version() == Some(rustls::ProtocolVersion::TLSv1_3) {
            server.refresh_traffic_keys().unwrap();
        }
        sent.extend(serve(server, &[]));
    }
    server.send_close_notify();
    sent.extend(serve(server, &[]));
    (sent, expected)
}

/// Completes a handshake. The bytes of the server arrive in pieces, which `cut` makes.
fn handshake(pair: &Pair, cut: impl Fn(&[u8]) -> Vec<Vec<u8>>) -> (Client, ServerConnection) {
    let (mut client, mut server) = (pair.client(), pair.server());
    for _ in 0..4 {
        let flight = serve(&mut server, &client.take_records());
        for piece in cut(&flight) {
            client.receive(&piece).unwrap();
        }
    }
    assert!(client.session.is_open() && !server.is_handshaking());
    (client, server)
}

fn whole(bytes: &[u8]) -> Vec<Vec<u8>> {
    vec![bytes.to_vec()]
}

#[test]
fn a_handshake_survives_every_cut() {
    for version in [&TLS12, &TLS13] {
        let pair = Pair::new(version);
        let longest = serve(&mut pair.server(), &pair.client().take_records()).len();
        for at in 0..longest + 8 {
            let two = |bytes: &[u8]| {
                let (head, tail) = bytes.split_at(at.min(bytes.len()));
                vec![head.to_vec(), tail.to_vec()]
            };
            handshake(&pair, two);
        }
        for length in [1, 2, 5, 17, 64] {
            handshake(&pair, |bytes| bytes.chunks(length).map(<[u8]>::to_vec).collect());
        }
    }
}

#[test]
fn handshake_messages_of_many_records_survive_every_cut_and_do_not_disturb_what_is_sent() {
    for version in [&TLS12, &TLS13] {
        let pair = Pair::with_fragments(version, Some(40));
        let (mut client, mut server) = (pair.client(), pair.server());
        let (mut sent, mut received) = (0, 0);
        for _ in 0..4 {
            let flight = serve(&mut server, &client.take_records());
            let mut bytes = Vec::new();
            // Ends with an error when everything is read.
            let _ = server.reader().read_to_end(&mut bytes);
            received += bytes.len();
            for byte in flight {
                client.receive(&[byte]).unwrap();
                // The server's tickets arrive after the handshake, in several records each.
                if client.session.is_open() {
                    client.session.seal(b"x", &mut client.records).unwrap();
                    sent += 1;
                }
            }
        }
        assert!(client.session.is_open() && sent == received);
        assert!(*version != TLS13 || sent > 200, "{sent} bytes of tickets");
    }
}

#[test]
fn content_survives_every_cut_and_only_a_close_notify_is_the_end() {
    for version in [&TLS12, &TLS13] {
        let pair = Pair::new(version);
        let (mut client, mut server) = handshake(&pair, whole);
        client.session.seal(&text(REQUEST), &mut client.records).unwrap();
        serve(&mut server, &client.take_records());
        assert_eq!(read(&mut server, REQUEST), text(REQUEST));
        let (sent, expected) = answers(&mut server);
        for (number, byte) in sent.iter().enumerate() {
            assert!(!client.session.is_ended(), "ended after {number} of {} bytes", sent.len());
            client.receive(&[*byte]).unwrap();
            assert!(expected.starts_with(&client.plain));
        }
        assert!(client.session.is_ended() && client.session.kept().is_empty());
        assert_eq!(client.plain, expected);
        // The client answers the key update, and may still send.
        client.session.seal(b"thanks", &mut client.records).unwrap();
        client.session.close(&mut client.records).unwrap();
        serve(&mut server, &client.take_records());
        assert_eq!(read(&mut server, 6), b"thanks");
        assert!(server.process_new_packets().unwrap().peer_has_closed());
    }
}

#[test]
fn one_piece_gives_everything_at_once() {
    let pair = Pair::new(&TLS13);
    let (mut client, mut server) = handshake(&pair, whole);
    let (sent, expected) = answers(&mut server);
    client.receive(&sent).unwrap();
    assert!(client.plain == expected && client.session.is_ended());
    let security = client.session.security().unwrap().to_string();
    assert_eq!(security, "TLS 1.3 (TLS_AES_128_GCM_SHA256)");
    assert_eq!(server.alpn_protocol(), Some(&b"http/1.1"[..]));
}

#[test]
fn a_damaged_record_ends_the_connection_with_an_alert_and_gives_no_content() {
    let asked = Asked { roots: RootsFrom::System, has_identity: false };
    for version in [&TLS12, &TLS13] {
        let pair = Pair::new(version);
        let (mut client, mut server) = handshake(&pair, whole);
        server.writer().write_all(&text(700)).unwrap();
        let mut sent = serve(&mut server, &[]);
        *sent.last_mut().unwrap() ^= 1;
        let error = client.receive(&sent).unwrap_err();
        assert!(client.plain.is_empty());
        let fault = Fault::explain(&error, &asked, client.session.is_open());
        assert!(fault.is_transient() && fault.to_string().contains("damaged"), "{fault}");
        let mut alert = &client.take_records()[..];
        server.read_tls(&mut alert).unwrap();
        let told = server.process_new_packets().unwrap_err();
        assert_eq!(told, rustls::Error::AlertReceived(rustls::AlertDescription::BadRecordMac));
    }
}

#[test]
fn nothing_is_sealed_before_the_handshake_is_complete() {
    let pair = Pair::new(&TLS13);
    let mut client = pair.client();
    client.take_records();
    assert!(client.session.seal(b"early", &mut client.records).is_err());
    client.session.close(&mut client.records).unwrap();
    assert!(client.records.is_empty());
}
