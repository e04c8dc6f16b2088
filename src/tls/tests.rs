//! Sessions against rustls' client, with the bytes cut anywhere.

use std::io::{Read, Write};
use std::sync::Arc;

use proptest::prelude::*;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, IsCa, Issuer, KeyIdMethod, KeyPair,
    KeyUsagePurpose, RevokedCertParams, SerialNumber, date_time_ymd,
};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, SupportedProtocolVersion};

use super::*;

const NAME: &str = "server.example";

fn private(key: &KeyPair) -> PrivateKeyDer<'static> {
    PrivateKeyDer::try_from(key.serialize_der()).unwrap()
}

fn pair(name: &str) -> Pair {
    let made = rcgen::generate_simple_self_signed(vec![name.to_owned()]).unwrap();
    Pair { chain: vec![made.cert.der().clone()], key: private(&made.signing_key) }
}

/// A CA of client certificates.
struct Ca {
    issuer: Issuer<'static, KeyPair>,
    certificate: CertificateDer<'static>,
}

impl Ca {
    fn new() -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let certificate = params.self_signed(&key).unwrap().der().clone();
        Self { issuer: Issuer::new(params, key), certificate }
    }

    fn client(&self, name: &str, serial: u64) -> Pair {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        params.serial_number = Some(SerialNumber::from(serial));
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        Pair { chain: vec![certificate.der().clone()], key: private(&key) }
    }

    fn crl(&self, serials: &[u64]) -> rustls::pki_types::CertificateRevocationListDer<'static> {
        let revoked = |serial: &u64| RevokedCertParams {
            serial_number: SerialNumber::from(*serial),
            revocation_time: date_time_ymd(2024, 1, 1),
            reason_code: None,
            invalidity_date: None,
        };
        let params = CertificateRevocationListParams {
            this_update: date_time_ymd(2024, 1, 1),
            next_update: date_time_ymd(2124, 1, 1),
            crl_number: SerialNumber::from(1),
            issuing_distribution_point: None,
            revoked_certs: serials.iter().map(revoked).collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        params.signed_by(&self.issuer).unwrap().der().clone()
    }
}

/// A session and a client, with the bytes between them.
struct Rig {
    session: Session,
    client: ClientConnection,
    /// What the client has sent, and the session not received.
    up: Vec<u8>,
    /// What the session has sent, and the client not received.
    down: Vec<u8>,
    wire: Vec<u8>,
    received: Vec<u8>,
}

fn client_of(
    server: &CertificateDer<'static>,
    versions: &[&'static SupportedProtocolVersion],
    certificate: Option<Pair>,
) -> ClientConnection {
    let mut roots = RootCertStore::empty();
    roots.add(server.clone()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider).with_protocol_versions(versions).unwrap();
    let builder = builder.with_root_certificates(roots);
    let mut config = match certificate {
        Some(Pair { chain, key }) => builder.with_client_auth_cert(chain, key).unwrap(),
        None => builder.with_no_client_auth(),
    };
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    ClientConnection::new(Arc::new(config), ServerName::try_from(NAME).unwrap()).unwrap()
}

impl Rig {
    fn new(versions: &[&'static SupportedProtocolVersion]) -> Self {
        let pair = pair(NAME);
        let server = pair.chain[0].clone();
        let material = Material { pairs: vec![pair], ..Material::default() };
        let config = Config::new(material, &Settings::default()).unwrap();
        Self::of(&config, client_of(&server, versions, None))
    }

    fn of(config: &Config, client: ClientConnection) -> Self {
        let session = Session::new(config).unwrap();
        let wire = vec![0; RECORD_BYTES_MAX.max(HANDSHAKE_BYTES_MAX + 1)];
        Self { session, client, up: Vec::new(), down: Vec::new(), wire, received: Vec::new() }
    }

    /// Passes at most `count` bytes to the session.
    fn up(&mut self, count: usize) -> Result<State, Failure> {
        self.client.write_tls(&mut self.up).unwrap();
        let cut = self.session.put_back(&mut self.wire);
        let count = count.min(self.up.len()).min(self.session.wanted(0));
        self.wire[cut..cut + count].copy_from_slice(&self.up[..count]);
        self.up.drain(..count);
        let received = &mut self.received;
        self.session.open(&mut self.wire[..cut + count], &mut self.down, |plain| received.extend(plain))
    }

    /// Passes at most `count` bytes to the client, and appends what it can read to `read`.
    fn down(&mut self, count: usize, read: &mut Vec<u8>) -> Result<(), rustls::Error> {
        let count = count.min(self.down.len());
        let mut left = &self.down[..count];
        while !left.is_empty() {
            self.client.read_tls(&mut left).unwrap();
            self.client.process_new_packets()?;
            // WouldBlock when everything is read.
            let _ = self.client.reader().read_to_end(read);
        }
        self.down.drain(..count);
        Ok(())
    }

    /// Completes the handshake, with everything passed at once.
    fn shake(mut self) -> Result<Self, Failure> {
        let mut nothing = Vec::new();
        for _ in 0..4 {
            self.up(usize::MAX)?;
            self.down(usize::MAX, &mut nothing).map_err(|error| Failure::of(&error))?;
        }
        assert_eq!((self.session.state(), self.client.is_handshaking()), (State::Open, false));
        Ok(self)
    }
}

fn any_versions() -> impl Strategy<Value = &'static [&'static SupportedProtocolVersion]> {
    static TLS12: &[&SupportedProtocolVersion] = &[&rustls::version::TLS12];
    static TLS13: &[&SupportedProtocolVersion] = &[&rustls::version::TLS13];
    prop_oneof![Just(TLS12), Just(TLS13)]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    /// Whatever the cuts, both sides get what the other has sent, and an idle session keeps nothing.
    #[test]
    fn every_cut_of_the_bytes_gives_the_same_plaintext(
        versions in any_versions(),
        cuts in prop::collection::vec(prop_oneof![1..8_usize, 1..600_usize, 1..40_000_usize], 1..40),
        sizes in prop::collection::vec(prop_oneof![1..200_usize, 1..40_000_usize], 1..6),
        updates_keys in any::<bool>(),
    ) {
        let mut rig = Rig::new(versions);
        let mut cuts = cuts.into_iter().cycle();
        let (mut sent, mut answered, mut read) = (Vec::<u8>::new(), Vec::<u8>::new(), Vec::new());
        let mut sizes = sizes.into_iter().enumerate();
        let mut wrote_all = false;
        for round in 0.. {
            prop_assert!(round < 200_000, "stuck: {:?}", rig.session);
            rig.up(cuts.next().unwrap()).unwrap();
            rig.down(cuts.next().unwrap(), &mut read).unwrap();
            if !rig.client.is_handshaking() && rig.session.state() == State::Open && !wrote_all {
                match sizes.next() {
                    Some((number, size)) => {
                        let bytes: Vec<u8> = (0..size).map(|at| (at * 7 + number) as u8).collect();
                        if updates_keys && versions[0].version == rustls::ProtocolVersion::TLSv1_3 {
                            rig.client.refresh_traffic_keys().unwrap();
                        }
                        rig.client.writer().write_all(&bytes).unwrap();
                        rig.session.seal(&bytes, &mut rig.down).unwrap();
                        sent.extend(&bytes);
                        answered.extend(&bytes);
                    }
                    None => wrote_all = true,
                }
            }
            if wrote_all && rig.received.len() >= sent.len() && read.len() >= answered.len()
                && rig.up.is_empty() && !rig.client.wants_write()
            {
                break;
            }
        }
        prop_assert_eq!(&rig.received, &sent);
        prop_assert_eq!(&read, &answered);
        prop_assert_eq!(rig.session.cut(), None);
        rig.client.send_close_notify();
        while rig.up(cuts.next().unwrap()).unwrap() != State::PeerClosed {}
        rig.session.close(&mut rig.down);
        prop_assert!(!rig.down.is_empty());
        while !rig.down.is_empty() {
            rig.down(cuts.next().unwrap(), &mut read).unwrap();
        }
        prop_assert!(matches!(rig.client.reader().read(&mut [0]), Ok(0)), "the client saw close_notify");
    }

    /// A changed byte ends the session with an alert, and passes on nothing of its record.
    #[test]
    fn a_corrupted_record_ends_the_session(
        versions in any_versions(), at in 5..60_usize, flip in 1..=255_u8,
    ) {
        let mut rig = Rig::new(versions).shake().unwrap();
        rig.client.writer().write_all(&[7; 100]).unwrap();
        rig.client.write_tls(&mut rig.up).unwrap();
        rig.up[at] ^= flip;
        prop_assert_eq!(rig.up(usize::MAX), Err(Failure::Protocol));
        prop_assert!(rig.received.is_empty());
        prop_assert!(rig.down(usize::MAX, &mut Vec::new()).is_err(), "the client got an alert");
    }
}

#[test]
fn a_cut_record_is_kept_and_freed_when_the_rest_arrives() {
    let mut rig = Rig::new(rustls::ALL_VERSIONS).shake().unwrap();
    rig.client.writer().write_all(&[7; 5_000]).unwrap();
    rig.up(3_000).unwrap();
    let (number, bytes) = rig.session.cut().unwrap();
    assert_eq!((bytes, rig.received.len()), (3_000, 0));
    rig.up(1_000).unwrap();
    assert_eq!(rig.session.cut(), Some((number, 4_000)), "the same record");
    // Sealing in between keeps the cut record.
    rig.session.seal(b"hello", &mut rig.down).unwrap();
    rig.up(usize::MAX).unwrap();
    assert_eq!((rig.session.cut(), rig.received.len()), (None, 5_000));
}

#[test]
fn a_plaintext_request_and_garbage_are_told_apart() {
    let mut rig = Rig::new(rustls::ALL_VERSIONS);
    rig.wire[..14].copy_from_slice(b"GET / HTTP/1.1");
    let Rig { session, wire, down, .. } = &mut rig;
    assert_eq!(session.open(&mut wire[..14], down, |_| ()), Err(Failure::PlainHttp));
    let mut rig = Rig::new(rustls::ALL_VERSIONS);
    let Rig { session, down, .. } = &mut rig;
    assert_eq!(session.open(&mut [0; 14], down, |_| ()), Err(Failure::Protocol));
}

#[test]
fn a_handshake_may_take_a_bounded_number_of_bytes() {
    let mut rig = Rig::new(rustls::ALL_VERSIONS);
    // A handshake message of 64 KiB - 1, in records of 1 KiB.
    let mut sent = 0;
    let mut header = vec![1, 0, 0xff, 0xff];
    let result = loop {
        let body = [std::mem::take(&mut header), vec![0; 1_000]].concat();
        let record = [&[22, 3, 1][..], &(body.len() as u16).to_be_bytes(), &body].concat();
        sent += record.len();
        rig.up = record;
        match rig.up(usize::MAX) {
            Ok(State::Handshaking) if sent < 2 * HANDSHAKE_BYTES_MAX => {}
            other => break other,
        }
    };
    assert_eq!(result, Err(Failure::TooLong));
    assert_eq!(rig.down[..3], [21, 3, 3], "an alert");
    assert!(sent < HANDSHAKE_BYTES_MAX + 2_000, "{sent}");
}

#[test]
fn what_follows_the_handshake_at_once_does_not_count_as_handshake() {
    let mut rig = Rig::new(&[&rustls::version::TLS13]);
    rig.up(usize::MAX).unwrap();
    rig.down(usize::MAX, &mut Vec::new()).unwrap();
    let sent = vec![7; 2 * HANDSHAKE_BYTES_MAX];
    rig.client.writer().write_all(&sent).unwrap();
    assert_eq!(rig.up(usize::MAX), Ok(State::Open));
    while !rig.up.is_empty() {
        rig.up(usize::MAX).unwrap();
    }
    assert!(rig.received == sent);
}

#[test]
fn nothing_is_sealed_before_the_handshake_ends() {
    let mut rig = Rig::new(rustls::ALL_VERSIONS);
    let mut wire = Vec::new();
    assert!(rig.session.seal(b"early", &mut wire).is_err());
    rig.session.close(&mut wire);
    assert!(wire.is_empty());
    rig.up(usize::MAX).unwrap();
    // The server's flight is sent, but the client's Finished is missing.
    assert!(rig.session.seal(b"early", &mut wire).is_err());
    assert!(wire.is_empty());
}

#[test]
fn a_failed_session_stays_failed_also_within_a_handshake_message() {
    let mut rig = Rig::new(rustls::ALL_VERSIONS);
    // The header of a handshake message, and a record of no known kind.
    rig.up = [&[22, 3, 1, 0, 4, 1, 0, 0, 99][..], &[99, 3, 3, 0, 1, 0]].concat();
    let sent = rig.up.len();
    let Rig { session, up, down, .. } = &mut rig;
    assert_eq!(session.open(&mut up[..sent], down, |_| ()), Err(Failure::Protocol));
    assert!(!down.is_empty(), "an alert");
    let mut wire = Vec::new();
    assert!(session.open(&mut [22, 3], &mut wire, |_| ()).is_err());
    assert!(session.seal(b"late", &mut wire).is_err());
    session.close(&mut wire);
    assert!(wire.is_empty());
}

#[test]
fn client_certificates_are_required_named_and_revoked() {
    let ca = Ca::new();
    let config = |auth, revoked: &[u64]| {
        let pair = pair(NAME);
        let server = pair.chain[0].clone();
        let settings = Settings { client_auth: auth, ..Settings::default() };
        let material = Material {
            pairs: vec![pair],
            client_cas: vec![ca.certificate.clone()],
            crls: vec![ca.crl(revoked)],
        };
        (Config::new(material, &settings).unwrap(), server)
    };
    let (required, server) = config(ClientAuth::Required, &[6]);
    let with = |certificate| Rig::of(&required, client_of(&server, rustls::ALL_VERSIONS, certificate));
    let rig = with(Some(ca.client("app.example", 5))).shake().unwrap();
    let client = rig.session.certificate().unwrap().unwrap();
    assert_eq!(client.dns_names, ["app.example"]);
    assert!(client.uris.is_empty() && client.not_after > 0);
    assert_eq!(&*client.chain[0].serial, &[5]);
    assert!(!required.revokes(&client));
    let (later, _) = config(ClientAuth::Required, &[5, 6]);
    assert!(later.revokes(&client), "a later list revokes it");
    // Without a certificate, with a revoked one, with one of another CA, and with a malformed one that follows.
    let mut followed = ca.client("app.example", 5);
    followed.chain.push(CertificateDer::from(b"garbage".to_vec()));
    let revoked = ca.client("gone.example", 6);
    for certificate in [None, Some(revoked), Some(Ca::new().client("app.example", 5)), Some(followed)] {
        let mut rig = with(certificate);
        let mut failure = None;
        for _ in 0..4 {
            if let Err(why) = rig.up(usize::MAX) {
                failure = Some(why);
                break;
            }
            rig.down(usize::MAX, &mut Vec::new()).unwrap();
        }
        assert_eq!(failure, Some(Failure::Certificate));
        assert_eq!(rig.session.certificate(), Ok(None));
        assert!(rig.down(usize::MAX, &mut Vec::new()).is_err(), "the client got an alert");
    }
    let (optional, server) = config(ClientAuth::Optional, &[]);
    let rig = Rig::of(&optional, client_of(&server, rustls::ALL_VERSIONS, None)).shake().unwrap();
    assert_eq!(rig.session.certificate(), Ok(None));
}

#[test]
fn a_key_of_another_certificate_is_refused() {
    let (one, other) = (pair(NAME), pair(NAME));
    let material =
        Material { pairs: vec![pair(NAME), Pair { key: other.key, ..one }], ..Material::default() };
    let why = Config::new(material, &Settings::default()).unwrap_err();
    assert_eq!(why, Unusable::Pair(1, "the key does not belong to the certificate".into()));
}

#[test]
fn an_oldest_version_of_1_3_refuses_1_2() {
    let pair = pair(NAME);
    let server = pair.chain[0].clone();
    let settings = Settings { min_version: MinVersion::Tls13, ..Settings::default() };
    let config = Config::new(Material { pairs: vec![pair], ..Material::default() }, &settings).unwrap();
    let mut rig = Rig::of(&config, client_of(&server, &[&rustls::version::TLS12], None));
    assert_eq!(rig.up(usize::MAX), Err(Failure::Version));
    assert!(rig.down(usize::MAX, &mut Vec::new()).is_err());
}
