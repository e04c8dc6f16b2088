//! Tests the real clients over TLS: what they trust, what they say when they refuse, and that a cut connection
//! is never a clean end.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used)]

mod common;

#[path = "common/certificates.rs"]
mod certificates;
#[path = "common/place.rs"]
mod place;
#[path = "common/terminator.rs"]
mod terminator;

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener};
use std::path::Path;
use std::process::{Command, Output};

use certificates::{Authority, Certified};
use common::{BINARY, Server, eventually, feed};
use millstream::load::ResultFile;
use place::Place;
use rustls::version::{TLS12, TLS13};
use rustls::{ServerConnection, SupportedProtocolVersion};
use terminator::{Terminator, server_config};

const BOTH: [&SupportedProtocolVersion; 2] = [&TLS12, &TLS13];

/// A server behind TLS, and the files that a client needs.
struct Secure {
    server: Server,
    terminator: Terminator,
    authority: Authority,
    place: Place,
}

impl Secure {
    fn start(name: &str) -> Self {
        let (authority, place) = (Authority::new("an authority"), Place::new(name));
        authority.write(&place.0, "ca");
        let server = Server::start(&["--cores", "0"]);
        let config = server_config(&authority.server(&["localhost", "127.0.0.1"]), &BOTH, None);
        let terminator = Terminator::start(server.port, config, true);
        Self { server, terminator, authority, place }
    }

    fn file(&self, name: &str) -> String {
        self.place.0.join(name).to_str().unwrap().to_owned()
    }

    /// Runs a client that trusts the authority, with the given arguments, and no input.
    fn run(&self, port: u16, arguments: &[&str]) -> Output {
        let ca = ["--ca", &self.file("ca.pem")[..]];
        client(&format!("wss://localhost:{port}/"), &[arguments, &ca].concat(), b"one\n")
    }
}

fn client(url: &str, arguments: &[&str], input: &[u8]) -> Output {
    let mut command = Command::new(BINARY);
    command.args(arguments).args(["--url", url]);
    feed(command, input)
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[track_caller]
fn fails(output: &Output, code: i32, words: &[&str]) {
    let said = said(output);
    assert_eq!(output.status.code(), Some(code), "{said}");
    for word in words {
        assert!(said.contains(word), "{word:?} is not in: {said}");
    }
}

const PRODUCE: [&str; 2] = ["produce", "q"];

#[test]
fn messages_pass_in_both_versions_by_name_and_by_address() {
    let secure = Secure::start("wss-pass");
    let certified = secure.authority.server(&["localhost", "127.0.0.1"]);
    let lines: String = (0..2_000).map(|number| format!("{number} {}\n", "x".repeat(number % 900))).collect();
    let ca = secure.file("ca.pem");
    for (number, version) in BOTH.into_iter().enumerate() {
        let config = server_config(&certified, &[version], None);
        let terminator = Terminator::start(secure.server.port, config, true);
        let queue = format!("q{number}");
        let host = ["localhost", "127.0.0.1"][number];
        let url = format!("wss://{host}:{}/", terminator.port);
        let produced = client(&url, &["produce", &queue, "--ca", &ca], lines.as_bytes());
        assert!(produced.status.success(), "{}", said(&produced));
        let consumed = client(&url, &["consume", &queue, "--exit-at-end", "--ca", &ca], b"");
        assert!(consumed.status.success(), "{}", said(&consumed));
        assert!(consumed.stdout == lines.as_bytes(), "{version:?}: what was consumed differs");
        eventually("both clients end their side of TLS", || (terminator.clean_ends() == 2).then_some(()));
    }
}

#[test]
fn a_server_that_is_not_trusted_is_refused_with_the_reason() {
    let secure = Secure::start("wss-refuse");
    let port = secure.terminator.port;
    let other = Authority::new("another authority").write(&secure.place.0, "other");
    let by = |arguments: &[&str]| {
        client(&format!("wss://localhost:{port}/"), &[&PRODUCE, arguments].concat(), b"one\n")
    };
    fails(&by(&["--ca", other.to_str().unwrap()]), 1, &["no authority in", "other.pem", "--ca"]);
    // A new authority with the old name is another one.
    let renewed = Authority::new("an authority").write(&secure.place.0, "renewed");
    fails(&by(&["--ca", renewed.to_str().unwrap()]), 1, &["no authority in", "renewed.pem", "another key"]);
    // The system trusts another authority.
    let mut command = Command::new(BINARY);
    command.args(PRODUCE).args(["--url", &format!("wss://localhost:{port}/")]).env("SSL_CERT_FILE", &other);
    fails(&feed(command, b"one\n"), 1, &["no authority that this machine trusts", "--ca"]);
    let against = |certified: &Certified| {
        let terminator = Terminator::start(secure.server.port, server_config(certified, &BOTH, None), true);
        secure.run(terminator.port, &PRODUCE)
    };
    let elsewhere = secure.authority.server(&["a.example", "10.0.0.1"]);
    fails(&against(&elsewhere), 1, &["for a.example, 10.0.0.1", "names localhost"]);
    fails(&against(&secure.authority.server(&[])), 1, &["names no host", "localhost"]);
    fails(&against(&secure.authority.expired(&["localhost"])), 1, &["expired at 2020-01-01T00:00:00Z"]);
    fails(&against(&secure.authority.client("localhost")), 1, &["not for servers"]);
    assert!(secure.run(port, &PRODUCE).status.success(), "the right one is trusted");
}

#[test]
fn an_insecure_client_warns_and_accepts_every_certificate() {
    let secure = Secure::start("wss-insecure");
    let certified = secure.authority.expired(&["a.example"]);
    let terminator = Terminator::start(secure.server.port, server_config(&certified, &BOTH, None), true);
    let url = format!("wss://localhost:{}/", terminator.port);
    let output = client(&url, &["produce", "q", "--insecure", "--connections", "3"], b"one\n");
    assert!(output.status.success(), "{}", said(&output));
    assert_eq!(said(&output).matches("WARNING: --insecure").count(), 1, "{}", said(&output));
    assert!(!said(&secure.run(secure.terminator.port, &PRODUCE)).contains("WARNING"));
}

#[test]
fn a_server_may_require_a_certificate_of_the_client() {
    let secure = Secure::start("wss-mutual");
    let directory = &secure.place.0;
    let (cert, key) = secure.authority.client("a client").write(directory, "client");
    let (wrong, wrong_key) = Authority::new("another").client("a client").write(directory, "wrong");
    let certified = secure.authority.server(&["localhost"]);
    let path = |path: &Path| path.to_str().unwrap().to_owned();
    for version in BOTH {
        let config = server_config(&certified, &[version], Some(secure.authority.roots()));
        let terminator = Terminator::start(secure.server.port, config, true);
        let with = |cert: &Path, key: &Path| {
            secure.run(terminator.port, &["produce", "q", "--cert", &path(cert), "--key", &path(key)])
        };
        let output = with(&cert, &key);
        assert!(output.status.success(), "{}", said(&output));
        let without = secure.run(terminator.port, &PRODUCE);
        fails(&without, 1, &["requires a certificate of the client", "--cert and --key"]);
        fails(&with(&wrong, &wrong_key), 1, &["refused the certificate of the client", "--cert"]);
        fails(&with(&cert, &wrong_key), 2, &["--key", "not the key of the certificate"]);
    }
}

#[test]
fn files_and_flags_that_cannot_work_are_refused_before_anything_connects() {
    let secure = Secure::start("wss-files");
    let (empty, encrypted) = (secure.file("empty.pem"), secure.file("encrypted.pem"));
    std::fs::write(&empty, "nothing").unwrap();
    let pem = "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n";
    std::fs::write(&encrypted, pem).unwrap();
    let ca = secure.file("ca.pem");
    let cases: [(&[&str], &[&str]); 8] = [
        (&["--ca", "/no/such/file"], &["--ca /no/such/file", "No such file"]),
        (&["--ca", &empty], &["no certificate in it"]),
        (&["--cert", &ca], &["--key"]),
        (&["--key", &ca], &["--cert"]),
        (&["--cert", &ca, "--key", &empty], &["no private key in it"]),
        (&["--cert", &ca, "--key", &encrypted], &["has a password", "openssl pkey"]),
        (&["--cert", &empty, "--key", &empty], &["--cert", "no certificate in it"]),
        (&["--insecure", "--ca", &ca], &["cannot be used with"]),
    ];
    for (arguments, words) in cases {
        for command in [&["produce", "q"][..], &["consume", "q"], &["bench", "produce"]] {
            let output = client("wss://localhost:1/", &[command, arguments].concat(), b"");
            fails(&output, 2, words);
        }
    }
    for flag in ["--insecure", "--ca=ca.pem"] {
        fails(&client("ws://localhost:1/", &["produce", "q", flag], b""), 2, &["wss://"]);
        let against = ["bench", "produce", "--against", "kafka", flag];
        fails(&client("127.0.0.1:1", &against, b""), 2, &["--against kafka"]);
    }
    let mut command = Command::new(BINARY);
    command.args(PRODUCE).args(["--url", "wss://localhost:1/"]).env("SSL_CERT_FILE", "/no/roots");
    command.env_remove("SSL_CERT_DIR");
    fails(&feed(command, b""), 2, &["no trusted certificate authorities", "/no/roots", "--ca"]);
}

#[test]
fn the_wrong_kind_of_port_is_named() {
    let secure = Secure::start("wss-ports");
    let output = secure.run(secure.server.port, &["produce", "q", "--retries", "0"]);
    fails(&output, 1, &["did not answer with TLS", "plain port", "ws://"]);
    let url = format!("ws://127.0.0.1:{}/", secure.terminator.port);
    fails(&client(&url, &["produce", "q", "--retries", "0"], b"one\n"), 1, &["TLS port", "wss://"]);
}

/// A server that completes the handshake of TLS and of WebSocket, sends `rest`, and closes the connection.
fn closing(certified: &Certified, says_its_end: bool) -> u16 {
    let config = server_config(certified, &BOTH, None);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut tls = ServerConnection::new(config).unwrap();
        let mut request = String::new();
        while !request.ends_with("\r\n\r\n") {
            tls.complete_io(&mut stream).unwrap();
            let mut bytes = [0; 4096];
            if let Ok(read) = tls.reader().read(&mut bytes) {
                request.push_str(std::str::from_utf8(&bytes[..read]).unwrap());
            }
        }
        let key = request.lines().find_map(|line| line.strip_prefix("Sec-WebSocket-Key: ")).unwrap();
        let accept = tungstenite::handshake::derive_accept_key(key.trim().as_bytes());
        write!(
            tls.writer(),
            "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
             Sec-WebSocket-Accept: {accept}\r\nSec-WebSocket-Protocol: queuing-streaming.v1\r\n\r\n"
        )
        .unwrap();
        if says_its_end {
            tls.send_close_notify();
        }
        while tls.wants_write() {
            tls.write_tls(&mut stream).unwrap();
        }
        stream.shutdown(Shutdown::Write).unwrap();
        // Read until the client has gone, so that the kernel does not reset the connection.
        let _ = std::io::copy(&mut stream, &mut std::io::sink());
    });
    port
}

#[test]
fn a_connection_without_a_close_notify_was_cut() {
    let secure = Secure::start("wss-cut");
    let certified = secure.authority.server(&["localhost"]);
    for (says_its_end, words) in [(true, "the server closed the connection"), (false, "was cut")] {
        let port = closing(&certified, says_its_end);
        let output = secure.run(port, &["consume", "q", "--retries", "0"]);
        fails(&output, 1, &[words]);
    }
}

#[test]
fn a_load_over_tls_is_measured_and_the_result_says_so() {
    let secure = Secure::start("wss-bench");
    let out = secure.file("result.json");
    let arguments = ["bench", "both", "--count", "3000", "--control", "off", "--out", &out, "--idle", "3"];
    let output = secure.run(secure.terminator.port, &arguments);
    assert!(output.status.success(), "{}", said(&output));
    let expected = "TLS 1.3 (TLS_AES_128_GCM_SHA256)";
    assert!(String::from_utf8_lossy(&output.stdout).contains(expected));
    let result = ResultFile::parse(&std::fs::read_to_string(&out).unwrap()).unwrap();
    let figures = &result.runs[0].figures;
    assert_eq!((figures.tls.as_deref(), figures.verified.received), (Some(expected), 3_000));
    let report = Command::new(BINARY).args(["report", &out, "--markdown", "-"]).output().unwrap();
    assert!(String::from_utf8_lossy(&report.stdout).contains(&format!("over {expected}")));
    eventually("every connection ends its side of TLS", || {
        (secure.terminator.clean_ends() == 8).then_some(())
    });
}
