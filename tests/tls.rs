//! TLS of the real binary: versions, names, client certificates, reloads, and streams that break.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used)]

mod common;
#[path = "common/place.rs"]
mod place;

use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use common::{BINARY, STORE, Server, append, code, eventually, frame, handshake, request, status};
use millstream::pb::{ProduceResponse, ProduceSetupResponse};
use place::Place;
use prost::Message;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, DistinguishedName, DnType, IsCa,
    Issuer, KeyIdMethod, KeyPair, KeyUsagePurpose, RevokedCertParams, SerialNumber, date_time_ymd,
};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned, SupportedProtocolVersion};

type Secure = StreamOwned<ClientConnection, TcpStream>;

/// A CA that signs servers and clients.
struct Ca {
    issuer: Issuer<'static, KeyPair>,
    certificate: rcgen::Certificate,
}

impl Ca {
    fn new() -> Self {
        Self::named("the CA")
    }

    fn named(name: &str) -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let certificate = params.self_signed(&key).unwrap();
        Self { issuer: Issuer::new(params, key), certificate }
    }

    fn sign(&self, name: &str, serial: u64) -> (rcgen::Certificate, KeyPair) {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        params.serial_number = Some(SerialNumber::from(serial));
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, name);
        (params.signed_by(&key, &self.issuer).unwrap(), key)
    }

    fn crl(&self, serials: &[u64]) -> String {
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
        params.signed_by(&self.issuer).unwrap().pem().unwrap()
    }
}

/// The files of a server, and a CA that its clients trust.
struct Files {
    place: Place,
    ca: Ca,
}

impl Files {
    fn new() -> Self {
        // Tests run in parallel.
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        let name = format!("tls-{}", NUMBER.fetch_add(1, Ordering::Relaxed));
        let files = Self { place: Place::new(&name), ca: Ca::new() };
        files.write("ca.pem", &files.ca.certificate.pem());
        files.put("server", "server.example", 1);
        files
    }

    fn path(&self, name: &str) -> PathBuf {
        self.place.0.join(name)
    }

    /// Replaces a file at once, as an ACME client does.
    fn write(&self, name: &str, text: &str) {
        let new = self.path(&format!(".{name}.new"));
        fs::write(&new, text).unwrap();
        fs::set_permissions(&new, fs::Permissions::from_mode(0o600)).unwrap();
        fs::rename(new, self.path(name)).unwrap();
    }

    /// Writes a new certificate and its key.
    fn put(&self, file: &str, name: &str, serial: u64) {
        let (certificate, key) = self.ca.sign(name, serial);
        self.write(&format!("{file}.key"), &key.serialize_pem());
        self.write(&format!("{file}.pem"), &certificate.pem());
    }

    fn pair(&self, file: &str) -> String {
        format!(
            "{}:{}",
            self.path(&format!("{file}.pem")).display(),
            self.path(&format!("{file}.key")).display()
        )
    }

    fn start(&self, more: &[&str]) -> Server {
        let pair = self.pair("server");
        let mut arguments = vec!["--cores", "0", "--tls-listen", "127.0.0.1:0"];
        if !more.contains(&"--tls-certificates") {
            arguments.extend(["--tls-certificates", &pair]);
        }
        arguments.extend(more);
        Server::start(&arguments)
    }

    fn client(
        &self,
        versions: &[&'static SupportedProtocolVersion],
        certificate: Option<(&rcgen::Certificate, &KeyPair)>,
    ) -> ClientConfig {
        let mut roots = RootCertStore::empty();
        roots.add(self.ca.certificate.der().clone()).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder = ClientConfig::builder_with_provider(provider).with_protocol_versions(versions).unwrap();
        let builder = builder.with_root_certificates(roots);
        match certificate {
            None => builder.with_no_client_auth(),
            Some((certificate, key)) => {
                let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
                builder.with_client_auth_cert(vec![certificate.der().clone()], key).unwrap()
            }
        }
    }

    fn connect(&self, server: &Server) -> Secure {
        connect(server, self.client(rustls::ALL_VERSIONS, None), "server.example")
    }
}

/// Returns the port for TLS.
fn secure_port(server: &Server) -> u16 {
    let line = server.wait_for_log("tls_listen=").replace('"', "");
    let rest = line.split_once("tls_listen=127.0.0.1:").unwrap().1;
    rest.chars().take_while(char::is_ascii_digit).collect::<String>().parse().unwrap()
}

fn dial(server: &Server) -> TcpStream {
    let stream = TcpStream::connect(("127.0.0.1", secure_port(server))).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    stream
}

fn connect(server: &Server, config: ClientConfig, name: &str) -> Secure {
    let client = ClientConnection::new(Arc::new(config), ServerName::try_from(name.to_owned()).unwrap());
    StreamOwned::new(client.unwrap(), dial(server))
}

/// Performs the WebSocket handshake.
fn open(stream: &mut Secure) {
    stream.write_all(handshake("/", "").as_bytes()).unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).unwrap();
        head.push(byte[0]);
    }
    assert_eq!(status(&String::from_utf8(head).unwrap()), 101);
}

/// Returns the payload of the next data frame.
fn read_frame(stream: &mut Secure) -> Vec<u8> {
    loop {
        let mut head = [0; 2];
        stream.read_exact(&mut head).unwrap();
        let mut length = usize::from(head[1]);
        if length == 126 {
            let mut wide = [0; 2];
            stream.read_exact(&mut wide).unwrap();
            length = usize::from(u16::from_be_bytes(wide));
        }
        let mut payload = vec![0; length];
        stream.read_exact(&mut payload).unwrap();
        if head[0] & 0x0f <= 2 {
            return payload;
        }
    }
}

/// A producer over TLS.
struct Producer(Secure, i64);

impl Producer {
    fn begin(mut stream: Secure, queue: &str) -> Self {
        open(&mut stream);
        stream.write_all(&frame(0x02, &append(queue).encode_length_delimited_to_vec())).unwrap();
        let pb = read_frame(&mut stream);
        let setup = ProduceSetupResponse::decode_length_delimited(&pb[..]).unwrap();
        assert_eq!(code(&setup.status), 100);
        Self(stream, 0)
    }

    /// Stores a message of `bytes` bytes, and waits for its acknowledgement.
    fn produce(&mut self, bytes: usize) {
        self.1 += 1;
        let pb = request(Some(60), &[&vec![7; bytes]]).encode_length_delimited_to_vec();
        self.0.write_all(&frame(0x00, &pb)).unwrap();
        loop {
            let frame = read_frame(&mut self.0);
            let mut left = &frame[..];
            while !left.is_empty() {
                let response = ProduceResponse::decode_length_delimited(&mut left).unwrap();
                if response.status.is_some() && response.msgnum_status_is_thru() >= self.1 {
                    assert_eq!(code(&response.status), 201);
                    return;
                }
            }
        }
    }
}

/// Reads until the stream ends. Returns the error, if it did not end with `close_notify`.
fn end(stream: &mut Secure) -> Option<ErrorKind> {
    let mut buffer = [0; 4096];
    loop {
        match stream.read(&mut buffer) {
            Ok(0) => return None,
            Ok(_) => {}
            Err(error) => return Some(error.kind()),
        }
    }
}

fn serial(stream: &mut Secure) -> u64 {
    while stream.conn.is_handshaking() {
        stream.conn.complete_io(&mut stream.sock).unwrap();
    }
    let chain: &[CertificateDer<'_>] = stream.conn.peer_certificates().unwrap();
    let (_, parsed) = x509_parser::parse_x509_certificate(&chain[0]).unwrap();
    parsed.raw_serial().iter().fold(0, |value, byte| value << 8 | u64::from(*byte))
}

#[test]
fn both_versions_serve_producers_next_to_plain_ones() {
    let files = Files::new();
    let server = files.start(&[]);
    common::others_are_served(&server);
    for version in [&rustls::version::TLS13, &rustls::version::TLS12] {
        let stream = connect(&server, files.client(&[version], None), "server.example");
        let mut producer = Producer::begin(stream, "secure");
        for bytes in [1, 100, 20_000, 300_000] {
            producer.produce(bytes);
        }
        assert_eq!(
            producer.0.conn.negotiated_cipher_suite().map(|suite| suite.version().version),
            Some(version.version)
        );
    }
    assert_eq!(
        server.metric(
            "millstream_tls_handshakes_total{shard=\"0\",suite=\"AES_256_GCM_SHA384\",version=\"1.3\"}"
        ),
        1
    );
    assert_eq!(server.metric("millstream_tls_handshakes_total"), 2);
    assert_eq!(server.metric("millstream_tls_handshakes_failed_total"), 0);
    assert!(server.metric("millstream_tls_received_bytes_total") > 640_000);
    assert!(server.metric("millstream_tls_sent_bytes_total") > 2_000);
    assert!(server.metric("millstream_tls_certificate_expiry_timestamp_seconds") > 1_700_000_000);
    assert_eq!(server.metric("millstream_stage_duration_seconds_count{stage=\"tls\"}"), 2);
}

#[test]
fn keys_are_updated_in_mid_stream() {
    let files = Files::new();
    let server = files.start(&[]);
    let mut producer = Producer::begin(files.connect(&server), "keys");
    for _ in 0..5 {
        producer.produce(20_000);
        producer.0.conn.refresh_traffic_keys().unwrap();
    }
    producer.produce(1);
}

#[test]
fn each_name_gets_its_certificate_and_others_the_first() {
    let files = Files::new();
    files.put("other", "other.example", 2);
    files.put("wild", "*.apps.example", 3);
    let pairs = [files.pair("server"), files.pair("other"), files.pair("wild")].join(",");
    let server = files.start(&["--tls-certificates", &pairs]);
    for (name, wanted) in [("server.example", 1), ("other.example", 2), ("one.apps.example", 3)] {
        let mut stream = connect(&server, files.client(rustls::ALL_VERSIONS, None), name);
        assert_eq!(serial(&mut stream), wanted, "{name}");
    }
    // The default is not valid for this name, so the client refuses it with an alert.
    let mut stream = connect(&server, files.client(rustls::ALL_VERSIONS, None), "unknown.example");
    assert!(stream.write_all(b"x").is_err());
    eventually("the alert", || {
        (server.metric("millstream_tls_handshakes_failed_total{reason=\"alert\"") == 1).then_some(())
    });
}

#[test]
fn a_closed_connection_ends_with_close_notify_and_a_cut_one_is_counted() {
    let files = Files::new();
    let server = files.start(&[]);
    let mut stream = files.connect(&server);
    open(&mut stream);
    stream.write_all(&frame(0x88, &1000_u16.to_be_bytes())).unwrap();
    assert_eq!(end(&mut stream), None, "the server sent close_notify");
    let mut refused = files.connect(&server);
    refused.write_all(b"GET / HTTP/1.1\r\nHost: here\r\n\r\n").unwrap();
    assert_eq!(end(&mut refused), None);
    assert_eq!(server.metric("millstream_tls_connections_broken_total"), 0);
    let mut cut = files.connect(&server);
    open(&mut cut);
    drop(cut.sock);
    eventually("the truncated stream", || {
        let name = "millstream_tls_connections_broken_total{reason=\"truncated\"";
        (server.metric(name) == 1).then_some(())
    });
    let mut corrupted = files.connect(&server);
    open(&mut corrupted);
    corrupted.sock.write_all(&[23, 3, 3, 0, 40]).unwrap();
    corrupted.sock.write_all(&[9; 40]).unwrap();
    assert!(end(&mut corrupted).is_some(), "an alert");
    assert_eq!(server.metric("millstream_tls_connections_broken_total{reason=\"invalid\""), 1);
    common::others_are_served(&server);
}

#[test]
fn plaintext_late_and_cut_handshakes_end_and_are_counted() {
    let files = Files::new();
    let server = files.start(&["--handshake-timeout", "300ms", "--pb-timeout", "300ms"]);
    let mut plain = dial(&server);
    plain.write_all(handshake("/", "").as_bytes()).unwrap();
    let mut text = String::new();
    plain.read_to_string(&mut text).unwrap();
    assert!(text.starts_with("HTTP/1.1 400 ") && text.contains("wss://"), "{text}");
    let failed =
        |reason: &str| server.metric(&format!("millstream_tls_handshakes_failed_total{{reason=\"{reason}\""));
    assert_eq!(failed("plain_http"), 1);
    let mut garbage = dial(&server);
    garbage.write_all(&[0; 100]).unwrap();
    let _ = garbage.read_to_end(&mut Vec::new());
    assert_eq!(failed("protocol"), 1);
    // One that sends nothing, and one whose TLS handshake ends but not its request.
    let mut silent = dial(&server);
    assert_eq!(silent.read(&mut [0]).unwrap(), 0);
    assert_eq!(failed("unfinished"), 1);
    let mut slow = files.connect(&server);
    slow.write_all(b"GET / HTTP/1.1\r\n").unwrap();
    let mut answer = String::new();
    slow.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 408 "), "{answer}");
    // The rest of a record is missing, although pings could be answered.
    let mut cut = files.connect(&server);
    open(&mut cut);
    cut.sock.write_all(&[23, 3, 3, 0, 40, 1, 2, 3]).unwrap();
    assert_eq!(end(&mut cut), None, "closed within pb_timeout");
}

#[test]
fn a_new_certificate_is_served_without_losing_a_connection_and_a_bad_one_is_not() {
    let files = Files::new();
    let server = files.start(&[]);
    let (stop, stored) = (AtomicBool::new(false), AtomicU64::new(0));
    std::thread::scope(|scope| {
        let load = scope.spawn(|| {
            let mut producer = Producer::begin(files.connect(&server), "load");
            while !stop.load(Ordering::Relaxed) {
                producer.produce(10_000);
                stored.fetch_add(1, Ordering::Relaxed);
            }
        });
        let await_more = || {
            let before = stored.load(Ordering::Relaxed);
            eventually("more messages", || (stored.load(Ordering::Relaxed) > before + 5).then_some(()));
        };
        await_more();
        files.put("server", "server.example", 77);
        eventually("the new certificate", || (serial(&mut files.connect(&server)) == 77).then_some(()));
        await_more();
        // The key of another certificate: the server keeps what it has, says so and counts it.
        files.write("server.key", &KeyPair::generate().unwrap().serialize_pem());
        server.wait_for_log("the key does not belong to the certificate");
        assert_eq!(serial(&mut files.connect(&server)), 77);
        assert!(server.metric("millstream_tls_reload_failures_total") >= 1);
        await_more();
        stop.store(true, Ordering::Relaxed);
        load.join().unwrap();
    });
    assert_eq!(server.metric("millstream_tls_connections_broken_total{reason=\"invalid\""), 0);
}

#[test]
fn a_reload_reads_certificates_again_and_bad_ones_stop_no_other_setting() {
    let files = Files::new();
    files.write("millstream.toml", "max_connections = 500\n");
    let config = files.path("millstream.toml").display().to_string();
    let server = files.start(&["--config", &config]);
    let reload = || {
        let control = format!("http://127.0.0.1:{}", server.control);
        let output = Command::new(BINARY).args(["reload", "--control", &control]).output().unwrap();
        (output.status.code(), String::from_utf8(output.stdout).unwrap())
    };
    assert_eq!(reload(), (Some(0), "TLS certificates: read again\n".into()));
    files.write("server.key", "no key");
    files.write("millstream.toml", "max_connections = 400\n");
    let (code, text) = reload();
    assert_eq!(code, Some(0), "{text}");
    assert!(
        text.starts_with("max_connections: \"500\" is now \"400\"\nwarning: tls_certificates: "),
        "{text}"
    );
    assert!(text.contains("the server keeps the certificates that it has"), "{text}");
    assert_eq!(serial(&mut files.connect(&server)), 1);
    // A setting of TLS is not applied without its files.
    files.write("millstream.toml", "max_connections = 300\ntls_min_version = \"1.3\"\n");
    assert_eq!(reload().0, Some(1));
}

#[test]
fn a_symbolic_link_that_is_swapped_is_noticed() {
    // Kubernetes mounts a secret like this.
    let files = Files::new();
    for (version, serial) in [("v1", 11), ("v2", 12)] {
        fs::create_dir(files.path(version)).unwrap();
        files.put(&format!("{version}-new"), "server.example", serial);
        for kind in ["pem", "key"] {
            let to = files.path(version).join(format!("tls.{kind}"));
            fs::rename(files.path(&format!("{version}-new.{kind}")), to).unwrap();
        }
    }
    symlink("v1", files.path("..data")).unwrap();
    for kind in ["pem", "key"] {
        symlink(format!("..data/tls.{kind}"), files.path(&format!("tls.{kind}"))).unwrap();
    }
    let server = files.start(&["--tls-certificates", &files.pair("tls")]);
    assert_eq!(serial(&mut files.connect(&server)), 11);
    symlink("v2", files.path("..data_tmp")).unwrap();
    fs::rename(files.path("..data_tmp"), files.path("..data")).unwrap();
    eventually("the new certificate", || (serial(&mut files.connect(&server)) == 12).then_some(()));
}

#[test]
fn a_revoked_client_is_closed_and_no_other() {
    let files = Files::new();
    files.write("crl.pem", &files.ca.crl(&[]));
    let (ca, crl) = (files.path("ca.pem"), files.path("crl.pem"));
    let server = files.start(&[
        "--tls-client-auth",
        "required",
        "--tls-client-ca",
        ca.to_str().unwrap(),
        "--tls-client-crl",
        crl.to_str().unwrap(),
    ]);
    let (one, other) = (files.ca.sign("one", 51), files.ca.sign("other", 52));
    let with = |(certificate, key): &(rcgen::Certificate, KeyPair)| {
        let config = files.client(rustls::ALL_VERSIONS, Some((certificate, key)));
        connect(&server, config, "server.example")
    };
    // This connection leaves its slot to the next one, whose certificate stays valid.
    let mut before = with(&one);
    open(&mut before);
    before.write_all(&frame(0x88, &1000_u16.to_be_bytes())).unwrap();
    assert_eq!(end(&mut before), None);
    drop(before);
    eventually("the first connection's slot to be free", || {
        (server.metric("millstream_connections{") == 0).then_some(())
    });
    let mut kept = Producer::begin(with(&other), "kept");
    let mut revoked = Producer::begin(with(&one), "revoked");
    revoked.produce(1);
    files.write("crl.pem", &files.ca.crl(&[51]));
    assert_eq!(end(&mut revoked.0), None, "closed, with close_notify");
    kept.produce(1);
    assert_eq!(server.metric("millstream_tls_connections_revoked_total"), 1);
    let mut again = with(&one);
    let _ = again.write_all(b"x");
    assert!(end(&mut again).is_some(), "a revoked client is refused");
    let mut nameless = files.connect(&server);
    let _ = nameless.write_all(b"x");
    assert!(end(&mut nameless).is_some(), "and so is one without a certificate");
    assert_eq!(server.metric("millstream_tls_handshakes_failed_total{reason=\"certificate\""), 2);
    kept.produce(1);
}

#[test]
fn a_proxy_header_precedes_tls() {
    let files = Files::new();
    let server = files.start(&["--proxy-from", "127.0.0.1/32"]);
    let mut stream = files.connect(&server);
    stream.sock.write_all(b"PROXY TCP4 192.0.2.1 192.0.2.2 1000 2000\r\n").unwrap();
    Producer::begin(stream, "proxied").produce(1);
    // The server logs the peer of a page that it refuses.
    let mut page = files.connect(&server);
    page.sock.write_all(b"PROXY TCP4 192.0.2.1 192.0.2.2 1000 2000\r\n").unwrap();
    page.write_all(handshake("/", "Origin: https://page.example\r\n").as_bytes()).unwrap();
    let line = server.wait_for_log("https://page.example");
    assert!(line.contains("peer=192.0.2.1:1000"), "{line}");
    let mut missing = files.connect(&server);
    let _ = missing.write_all(b"x");
    assert!(end(&mut missing).is_some(), "a proxy without a header is closed");
    assert_eq!(server.metric("millstream_proxy_headers_refused_total"), 1);
}

#[test]
fn a_passed_socket_speaks_tls() {
    let files = Files::new();
    let [listen, secure] = [(); 2].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
    let port = secure.local_addr().unwrap().port();
    let script = "export LISTEN_PID=$$ LISTEN_FDS=2; exec \"$0\" \"$@\" 3<&0 4<&1 </dev/null >/dev/null";
    let mut command = Command::new("sh");
    command.args(["-c", script, BINARY]).env("LISTEN_FDNAMES", "listen:tls_listen");
    command.stdin(OwnedFd::from(listen)).stdout(OwnedFd::from(secure));
    let pair = files.pair("server");
    let free = "127.0.0.1:0";
    let set = ["--cores", "0", "--tls-listen", free, "--control-listen", free, "--tls-certificates", &pair];
    let server = Server::start_by(command, &set);
    assert_eq!(secure_port(&server), port);
    Producer::begin(files.connect(&server), "passed").produce(1);
    assert_eq!(server.stop(), 0);
}

/// Runs the server with files that do not work, and returns what it says.
fn refused(arguments: &[&str]) -> String {
    let output = Command::new(BINARY)
        .args(["serve", "--cores", "0", "--listen", "127.0.0.1:0", "--tls-listen", "127.0.0.1:0"])
        .args(arguments)
        .env(STORE.0, STORE.1)
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(2));
    String::from_utf8(output.stderr).unwrap()
}

#[test]
fn files_that_do_not_work_are_named_at_start() {
    let files = Files::new();
    files.put("other", "other.example", 2);
    let mismatched = format!("{}:{}", files.path("server.pem").display(), files.path("other.key").display());
    for (pair, words) in [
        (mismatched, "other.key: the key does not belong to the certificate"),
        (files.pair("gone"), "gone.pem: No such file"),
        (format!("{0}:{0}", files.path("server.pem").display()), "server.pem: contains no private key"),
        (format!("{0}:{0}", files.path("server.key").display()), "server.key: contains no certificate"),
    ] {
        let said = refused(&["--tls-certificates", &pair]);
        assert!(said.contains("tls_certificates: ") && said.contains(words), "{said}");
    }
    assert!(refused(&[]).contains("tls_certificates: empty"));
    let pair = files.pair("server");
    let said = refused(&["--tls-certificates", &pair, "--tls-client-auth", "required"]);
    assert!(said.contains("tls_client_auth: needs tls_client_ca"), "{said}");
}

#[test]
fn a_readable_key_and_an_expired_certificate_get_warnings() {
    let files = Files::new();
    fs::set_permissions(files.path("server.key"), fs::Permissions::from_mode(0o644)).unwrap();
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(vec!["old.example".to_owned()]).unwrap();
    params.not_after = date_time_ymd(2020, 1, 1);
    params.not_before = date_time_ymd(2019, 1, 1);
    files.write("old.pem", &params.signed_by(&key, &files.ca.issuer).unwrap().pem());
    files.write("old.key", &key.serialize_pem());
    let pairs = [files.pair("server"), files.pair("old")].join(",");
    let server = files.start(&["--tls-certificates", &pairs]);
    server.wait_for_log("server.key: every user of this machine can read the key");
    server.wait_for_log("old.pem: the certificate has expired");
    assert_eq!(server.metric("millstream_tls_certificate_expiry_timestamp_seconds"), 1_577_836_800);
}

#[test]
fn revocation_lists_that_do_not_fit_the_cas_get_warnings() {
    let files = Files::new();
    let other = Ca::named("the other CA");
    files.write("crl.pem", &other.crl(&[]));
    let [ca, crl] = ["ca.pem", "crl.pem"].map(|name| files.path(name).display().to_string());
    let server =
        files.start(&["--tls-client-auth", "required", "--tls-client-ca", &ca, "--tls-client-crl", &crl]);
    server.wait_for_log("contains no list of the CA");
    server.wait_for_log("the other CA");
    assert!(server.metric("millstream_tls_crl_expiry_timestamp_seconds") > 4_000_000_000);
}

/// Starts `openssl s_client`, or returns `None` if the machine has no openssl. With TESTS_REQUIRE_OPENSSL it must
/// have it.
fn openssl(server: &Server, ca: &Path, arguments: &[&str]) -> Option<Child> {
    let address = format!("127.0.0.1:{}", secure_port(server));
    let spawned = Command::new("openssl")
        .args(["s_client", "-connect", &address, "-servername", "server.example", "-CAfile"])
        .arg(ca)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    match spawned {
        Ok(child) => Some(child),
        Err(error) => {
            assert!(std::env::var_os("TESTS_REQUIRE_OPENSSL").is_none(), "openssl: {error}");
            eprintln!("openssl cannot be run ({error}): its checks are skipped");
            None
        }
    }
}

/// Sends a request, and returns whether openssl succeeded and what it said.
fn ask(mut child: Child) -> (bool, String) {
    // Fails if openssl has already ended, as it must after a refused handshake.
    let _ = child.stdin.take().unwrap().write_all(REQUEST);
    let output = child.wait_with_output().unwrap();
    let text = [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
    (output.status.success(), text.concat())
}

/// Gives openssl's interactive mode a command, and waits until it says `words`.
fn command(child: &mut Child, letter: &[u8], words: &str) {
    child.stdin.as_mut().unwrap().write_all(letter).unwrap();
    let (mut said, mut byte) = (String::new(), [0]);
    while !said.contains(words) {
        let read = child.stderr.as_mut().unwrap().read(&mut byte).unwrap();
        assert_eq!(read, 1, "openssl ended after {said}");
        said.push(char::from(byte[0]));
    }
}

/// A request that the server refuses, after which it closes.
const REQUEST: &[u8] = b"GET /nowhere HTTP/1.1\r\nHost: here\r\n\r\n";

#[test]
fn openssl_agrees() {
    let files = Files::new();
    let server = files.start(&[]);
    let ca = files.path("ca.pem");
    let start = |arguments: &[&str]| openssl(&server, &ca, arguments);
    for version in ["-tls1_2", "-tls1_3"] {
        let Some(child) = start(&[version, "-ign_eof", "-alpn", "h2,http/1.1"]) else { return };
        let (_, said) = ask(child);
        assert!(said.contains("Verify return code: 0 (ok)"), "{said}");
        assert!(said.contains("ALPN protocol: http/1.1"), "{said}");
        assert!(said.contains("HTTP/1.1 4"), "{said}");
        assert!(!said.contains("unexpected eof"), "{said}");
    }
    let Some(child) = start(&["-tls1_1", "-cipher", "ALL:@SECLEVEL=0"]) else { return };
    let (success, said) = ask(child);
    assert!(!success && said.contains("alert") && said.contains("Cipher is (NONE)"), "{said}");
    assert_eq!(server.metric("millstream_tls_handshakes_failed_total{reason=\"version\""), 1);
    let Some(child) = start(&["-tls1_3", "-alpn", "h2"]) else { return };
    let (success, said) = ask(child);
    assert!(!success && said.contains("no application protocol"), "{said}");
    assert_eq!(server.metric("millstream_tls_handshakes_failed_total{reason=\"nothing_in_common\""), 1);
    // K updates the keys of both sides in mid-stream. The request gets its answer with the new ones.
    let Some(mut child) = start(&["-tls1_3"]) else { return };
    for _ in 0..3 {
        command(&mut child, b"K\n", "KEYUPDATE");
    }
    child.stdin.as_mut().unwrap().write_all(REQUEST).unwrap();
    let mut answer = String::new();
    child.stdout.take().unwrap().read_to_string(&mut answer).unwrap();
    assert!(answer.contains("HTTP/1.1 4"), "{answer}");
    child.wait().unwrap();
    // R renegotiates, which the server refuses.
    let Some(mut child) = start(&["-tls1_2"]) else { return };
    command(&mut child, b"R\n", "RENEGOTIATING");
    let mut said = String::new();
    child.stderr.take().unwrap().read_to_string(&mut said).unwrap();
    assert!(said.contains("no renegotiation"), "{said}");
    child.wait().unwrap();
    common::others_are_served(&server);
}
