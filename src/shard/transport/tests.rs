//! [`Secure`] over a socket in memory that accepts and gives as much as the test allows.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::rc::Rc;
use std::sync::Arc;

use rustls::crypto::cipher::{OutboundChunks, OutboundPlainMessage};
use rustls::pki_types::{PrivateKeyDer, ServerName};
use rustls::{
    ClientConfig, ClientConnection, ConnectionTrafficSecrets, ContentType, ProtocolVersion, RootCertStore,
    SupportedCipherSuite,
};

use super::{AHEAD_BYTES, Secure, Tls, Transport};
use crate::base::clock::Now;
use crate::base::millis::Millis;
use crate::tls::{ClientAuth, Config, Failure, Material, Pair, Settings};

/// The room of a reader.
const WINDOW: usize = 64 << 10;

#[derive(Debug, Default)]
struct Wire {
    up: VecDeque<u8>,
    down: Vec<u8>,
    /// How much `down` may hold.
    room: usize,
    is_ended: bool,
    is_shut: bool,
    /// The peer has reset the connection.
    is_reset: bool,
}

#[derive(Debug, Default)]
struct Socket {
    wire: Rc<RefCell<Wire>>,
    is_empty: bool,
}

impl Transport for Socket {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<Option<usize>> {
        let wire = &mut *self.wire.borrow_mut();
        let bytes = wire.up.len().min(buffer.len());
        self.is_empty = bytes == 0 && !wire.is_ended;
        if self.is_empty {
            return Ok(None);
        }
        wire.up.drain(..bytes).zip(buffer).for_each(|(from, to)| *to = from);
        Ok(Some(bytes))
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let wire = &mut *self.wire.borrow_mut();
        assert!(!wire.is_shut, "written after the end");
        if wire.is_reset {
            return Err(io::ErrorKind::ConnectionReset.into());
        }
        let accepted = bytes.len().min(wire.room.saturating_sub(wire.down.len()));
        wire.down.extend(&bytes[..accepted]);
        Ok(accepted)
    }

    fn is_readable(&self) -> bool {
        !self.is_empty
    }

    fn shut_down(&mut self) {
        self.wire.borrow_mut().is_shut = true;
    }

    fn mark(&self) {}

    fn clear_mark(&mut self) {}
}

/// Returns a certificate for the server.
fn material() -> Material {
    let made = rcgen::generate_simple_self_signed(vec!["server.example".to_owned()]).unwrap();
    let key = PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
    Material { pairs: vec![Pair { chain: vec![made.cert.der().clone()], key }], ..Material::default() }
}

struct Rig {
    secure: Secure<Socket>,
    shared: Rc<Tls>,
    wire: Rc<RefCell<Wire>>,
    client: ClientConnection,
}

impl Rig {
    /// Connects a client, and completes the handshake.
    fn new() -> Self {
        let mut rig = Self::begin();
        rig.shake().unwrap();
        assert!(rig.secure.take_news(now(0)).handshake_ns.unwrap() > 0);
        rig
    }

    /// Connects a client.
    fn begin() -> Self {
        let material = material();
        let mut roots = RootCertStore::empty();
        roots.add(material.pairs[0].chain[0].clone()).unwrap();
        let config = Config::new(material, &Settings::default()).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut client = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        client.enable_secret_extraction = true;
        let client = ClientConnection::new(Arc::new(client), ServerName::try_from("server.example").unwrap());
        let shared = Rc::new(Tls::new(Arc::new(config), WINDOW));
        let wire: Rc<RefCell<Wire>> = Rc::default();
        wire.borrow_mut().room = usize::MAX;
        let socket = Socket { wire: wire.clone(), is_empty: false };
        let secure = Secure::new(socket, &shared).unwrap();
        Self { secure, shared, wire, client: client.unwrap() }
    }

    /// Completes the handshake.
    fn shake(&mut self) -> io::Result<()> {
        while self.client.is_handshaking() || Transport::is_handshaking(&self.secure) {
            self.send(b"");
            assert_eq!(self.secure.read(&mut [0; 10])?, None, "a step of the handshake gives nothing");
            self.receive();
        }
        Ok(())
    }

    /// Lets the client send.
    fn send(&mut self, bytes: &[u8]) {
        self.client.writer().write_all(bytes).unwrap();
        while self.client.wants_write() {
            self.client.write_tls(&mut self.wire.borrow_mut().up).unwrap();
        }
    }

    /// Returns what the client can read.
    fn receive(&mut self) -> Vec<u8> {
        let down = std::mem::take(&mut self.wire.borrow_mut().down);
        let (mut left, mut read) = (&down[..], Vec::new());
        while !left.is_empty() {
            self.client.read_tls(&mut left).unwrap();
            self.client.process_new_packets().unwrap();
            // WouldBlock when everything is read.
            let _ = self.client.reader().read_to_end(&mut read);
        }
        read
    }
}

fn now(ms: u64) -> Now {
    Now::at_ms(ms, 1_700_000_000_000)
}

#[test]
fn no_more_is_accepted_than_can_be_kept_sealed_and_all_of_it_arrives() {
    let mut rig = Rig::new();
    let bytes: Vec<u8> = (0..1_000_000_u32).map(|at| (at / 7) as u8).collect();
    rig.wire.borrow_mut().room = 1_000;
    let mut accepted = rig.secure.write(&bytes).unwrap();
    assert_eq!(accepted, AHEAD_BYTES);
    assert_eq!(
        rig.secure.write(&bytes[accepted..]).unwrap(),
        0,
        "the socket has not accepted the first part"
    );
    let mut read = rig.receive();
    while read.len() < bytes.len() {
        rig.secure.resume().unwrap();
        let more = rig.secure.write(&bytes[accepted..]).unwrap();
        assert!(more <= 2 * AHEAD_BYTES, "{more} accepted, with room for 1,000");
        accepted += more;
        read.extend(rig.receive());
    }
    assert!(read == bytes);
    rig.wire.borrow_mut().room = usize::MAX;
    rig.secure.resume().unwrap();
    assert_eq!(rig.shared.kept(), 0, "an idle connection keeps nothing");
}

#[test]
fn the_end_follows_what_was_accepted_and_close_notify() {
    let mut rig = Rig::new();
    rig.wire.borrow_mut().room = 100;
    assert_eq!(rig.secure.write(&[7; 5_000]).unwrap(), 5_000);
    rig.secure.shut_down();
    assert!(!rig.wire.borrow().is_shut, "sealed bytes still wait");
    assert!(rig.secure.write(b"more").is_err());
    rig.wire.borrow_mut().room = usize::MAX;
    rig.secure.resume().unwrap();
    assert!(rig.wire.borrow().is_shut);
    assert_eq!(rig.receive().len(), 5_000);
    assert_eq!(rig.client.reader().read(&mut [0]).unwrap(), 0, "close_notify arrived");
    // The client's answer ends the connection cleanly.
    rig.client.send_close_notify();
    rig.send(b"");
    assert!(rig.secure.read(&mut [0; 100]).unwrap().is_some_and(|bytes| bytes > 0));
    rig.wire.borrow_mut().is_ended = true;
    assert_eq!(rig.secure.read(&mut [0; 10]).unwrap(), Some(0));
    assert_eq!(rig.shared.counters().truncated, 0);
}

#[test]
fn after_the_end_invalid_bytes_are_counted_and_discarded() {
    let mut rig = Rig::new();
    rig.secure.shut_down();
    rig.wire.borrow_mut().up.extend([7; 100]);
    let mut buffer = [1; 60];
    assert_eq!(rig.secure.read(&mut buffer).unwrap(), Some(60));
    assert_eq!(buffer, [0; 60]);
    assert_eq!(rig.secure.read(&mut buffer).unwrap(), Some(40));
    assert_eq!(rig.secure.read(&mut buffer).unwrap(), None);
    assert_eq!(rig.secure.take_news(now(1)).cut_since, None);
    assert_eq!(rig.shared.counters().broken, 0);
}

#[test]
fn debug_output_contains_no_plaintext() {
    let mut rig = Rig::new();
    rig.send(&[7; 1_000]);
    assert_eq!(rig.secure.read(&mut [0; 10]).unwrap(), Some(10));
    let shown = format!("{:?}", (&rig.secure, &rig.shared));
    assert!(shown.contains("opened: 990") && !shown.contains("7, 7, 7"), "{shown}");
}

#[test]
fn a_reader_with_little_room_gets_everything_in_order() {
    let mut rig = Rig::new();
    let bytes: Vec<u8> = (0..50_000_u32).map(|at| (at / 3) as u8).collect();
    rig.send(&bytes);
    let mut read: Vec<u8> = Vec::new();
    let mut buffer = [0; 700];
    while let Some(count) = rig.secure.read(&mut buffer).unwrap() {
        read.extend(&buffer[..count]);
        assert!(read.len() == bytes.len() || rig.secure.is_readable());
    }
    assert!(read == bytes);
    assert_eq!(rig.shared.kept(), 0);
}

#[test]
fn a_read_tells_how_much_it_took_from_the_socket() {
    let mut rig = Rig::new();
    for _ in 0..100 {
        rig.send(b"x");
    }
    let sent = rig.wire.borrow().up.len();
    assert!(sent > 2_000, "each byte is a record: {sent}");
    assert_eq!(rig.secure.read(&mut [0; 10]).unwrap(), Some(10));
    assert_eq!(rig.secure.wire_bytes_read(), sent);
    assert_eq!(rig.secure.read(&mut [0; 90]).unwrap(), Some(90));
    assert_eq!(rig.secure.wire_bytes_read(), 0, "counted by the read before");
}

#[test]
fn a_stream_without_close_notify_is_truncated() {
    let mut rig = Rig::new();
    rig.wire.borrow_mut().is_ended = true;
    let error = rig.secure.read(&mut [0; 10]).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
    assert_eq!(rig.shared.counters().truncated, 1);
}

#[test]
fn a_cut_record_is_due_from_its_first_byte_on() {
    let mut rig = Rig::new();
    rig.send(&[7; 1_000]);
    let rest = rig.wire.borrow_mut().up.split_off(500);
    let cut_since = |rig: &mut Rig, ms| {
        while rig.secure.read(&mut [0; 4_000]).unwrap().is_some() {}
        while rig.secure.is_readable() {
            let _ = rig.secure.read(&mut [0; 4_000]).unwrap();
        }
        rig.secure.take_news(now(ms)).cut_since
    };
    assert_eq!(cut_since(&mut rig, 10), Some(Millis::new(10)));
    assert_eq!(cut_since(&mut rig, 20), Some(Millis::new(10)));
    assert!(rig.shared.kept() >= 500);
    rig.wire.borrow_mut().up.extend(&rest);
    assert_eq!(cut_since(&mut rig, 30), None);
    // Another record is cut later.
    rig.send(&[7; 1_000]);
    rig.wire.borrow_mut().up.truncate(3);
    assert_eq!(cut_since(&mut rig, 40), Some(Millis::new(40)));
    drop(rig.secure);
    assert_eq!(rig.shared.kept(), 0);
}

#[test]
fn a_handshake_that_does_not_end_is_counted() {
    let rig = Rig::new();
    let socket = Socket { wire: rig.wire.clone(), is_empty: false };
    let mut secure = Secure::new(socket, &rig.shared).unwrap();
    assert!(secure.write(b"HTTP/1.1 408 ").is_err(), "nothing is sent before the handshake ends");
    drop(secure);
    assert_eq!(rig.shared.counters().failed.iter().sum::<u64>(), 1);
}

/// Returns a record of the client that contains the start of a handshake message.
fn half_a_message(client: ClientConnection) -> Vec<u8> {
    let Some(SupportedCipherSuite::Tls13(suite)) = client.negotiated_cipher_suite() else {
        panic!("TLS 1.3")
    };
    let (sequence, secrets) = client.dangerous_extract_secrets().unwrap().tx;
    let (ConnectionTrafficSecrets::Aes128Gcm { key, iv }
    | ConnectionTrafficSecrets::Aes256Gcm { key, iv }
    | ConnectionTrafficSecrets::Chacha20Poly1305 { key, iv }) = secrets
    else {
        panic!("an unknown cipher")
    };
    let header_of_key_update = [24, 0, 0, 1];
    let message = OutboundPlainMessage {
        typ: ContentType::Handshake,
        version: ProtocolVersion::TLSv1_2,
        payload: OutboundChunks::Single(&header_of_key_update),
    };
    suite.aead_alg.encrypter(key, iv).encrypt(message, sequence).unwrap().encode()
}

#[test]
fn a_peer_that_breaks_a_record_within_a_message_and_is_gone_ends_only_its_connection() {
    let Rig { mut secure, shared, wire, client } = Rig::new();
    let corrupted = [&[23, 3, 3, 0, 20][..], &[7; 20]].concat();
    wire.borrow_mut().up.extend(half_a_message(client));
    assert_eq!(secure.read(&mut [0; 10]).unwrap(), None);
    wire.borrow_mut().up.extend(corrupted);
    wire.borrow_mut().is_reset = true;
    let why = secure.read(&mut [0; 10]).unwrap_err();
    assert_eq!(why.to_string(), "the bytes are not valid TLS");
    assert!(secure.read(&mut [0; 10]).is_err());
    assert!(secure.write(b"more").is_err());
    secure.shut_down();
    drop(secure);
    assert_eq!((shared.counters().broken, shared.kept()), (1, 0));
}

#[test]
fn a_handshake_that_outlives_a_reload_follows_the_new_rules_for_clients() {
    let reloaded = |client_auth| {
        let mut rig = Rig::begin();
        rig.send(b"");
        assert_eq!(rig.secure.read(&mut [0; 10]).unwrap(), None);
        rig.receive();
        let mut material = material();
        if client_auth != ClientAuth::None {
            material.client_cas = material.pairs[0].chain.clone();
        }
        let settings = Settings { client_auth, ..Settings::default() };
        rig.shared.set_config(Arc::new(Config::new(material, &settings).unwrap()));
        let shaken = rig.shake();
        (shaken.is_ok(), rig.shared.counters().failed[Failure::Certificate.index()])
    };
    assert_eq!(reloaded(ClientAuth::None), (true, 0));
    assert_eq!(reloaded(ClientAuth::Optional), (false, 1));
    assert_eq!(reloaded(ClientAuth::Required), (false, 1));
}
