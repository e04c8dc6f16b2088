//! Tests the tokens of the real clients against a server that follows a script: which token they show, how they
//! renew it, what they do when it is refused, and that none is ever printed.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used)]

mod common;

#[path = "common/place.rs"]
mod place;

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use common::{BINARY, Server};
use millstream::base::queue::{QueueId, QueueInfo};
use millstream::base::units::Offset;
use millstream::operation::Marker;
use millstream::pb::wire::Reader;
use millstream::pb::{
    ConsumeRequest, ConsumeResponse, MessageAndMetadata, ProduceRequest, ProduceResponse,
    ProduceSetupResponse, SetupRequest, Status,
};
use place::Place;
use prost::Message;
use tungstenite::handshake::derive_accept_key;

/// What every token of these tests contains, and no output may.
const CANARY: &str = "canary-6fc1e0";

/// How long the script waits for the client.
const PATIENCE: Duration = Duration::from_secs(30);

/// A server that follows a script.
struct Scripted(TcpListener);

impl Scripted {
    fn new() -> Self {
        Self(TcpListener::bind("127.0.0.1:0").unwrap())
    }

    fn port(&self) -> u16 {
        self.0.local_addr().unwrap().port()
    }

    fn url(&self) -> String {
        format!("ws://127.0.0.1:{}/", self.port())
    }

    /// Waits for a client, and reads its handshake.
    fn accept(&self) -> Caller {
        self.0.set_nonblocking(true).unwrap();
        let mut stream = common::eventually("a connection", || self.0.accept().ok()).0;
        stream.set_nonblocking(false).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let head = common::response(&mut stream);
        Caller { stream, head }
    }

    fn nobody_waits(&self) -> bool {
        self.0.set_nonblocking(true).unwrap();
        self.0.accept().is_err()
    }
}

/// A client whose handshake is not answered.
struct Caller {
    stream: TcpStream,
    head: String,
}

impl Caller {
    fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
    }

    /// Returns the token's part after the canary.
    fn token(&self) -> Option<&str> {
        self.header("Authorization")?.strip_prefix("Bearer ")?.strip_prefix(CANARY)
    }

    /// Refuses the client, and sends back everything that it has sent, like some proxies do.
    fn refuse(mut self, status: u16, headers: &str) {
        let Self { stream, head } = &mut self;
        write!(stream, "HTTP/1.1 {status} No\r\n{headers}Connection: close\r\n\r\n{head}").unwrap();
    }

    fn welcome(mut self) -> Peer {
        let accept = derive_accept_key(self.header("Sec-WebSocket-Key").unwrap().as_bytes());
        let protocol = self.header("Sec-WebSocket-Protocol").unwrap().to_owned();
        write!(
            self.stream,
            "HTTP/1.1 101 Switching\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Accept: {accept}\r\nSec-WebSocket-Protocol: {protocol}\r\n\r\n"
        )
        .unwrap();
        Peer { stream: self.stream, read: Vec::new(), is_over: false, has_begun: false }
    }

    /// Accepts the client and its setup. The grant lasts this long.
    fn welcome_producer(self, expires: u32) -> Peer {
        let mut peer = self.welcome();
        assert!(peer.receive::<SetupRequest>().unwrap().append.is_some());
        let status = Some(status(100, Some(expires)));
        peer.send(&ProduceSetupResponse { status, max_msgnum_to_send: Some(1_000) });
        peer
    }

    /// Like [`Self::welcome_producer`]. Also returns where the consumer begins.
    fn welcome_consumer(self, expires: u32) -> (Peer, String) {
        let mut peer = self.welcome();
        let setup = peer.receive::<SetupRequest>().unwrap().get.unwrap();
        peer.send(&status(100, Some(expires)));
        (peer, setup.starting_marker().to_owned())
    }
}

fn status(code: u32, expires: Option<u32>) -> Status {
    let reason_phrase = (code >= 300).then(|| "credentials: not accepted".to_owned());
    Status { status_code: Some(code), reason_phrase, token_expires_s: expires }
}

/// A client whose operation is under way, frame by frame.
struct Peer {
    stream: TcpStream,
    read: Vec<u8>,
    is_over: bool,
    has_begun: bool,
}

impl Peer {
    /// Returns the next pb of the client's half, or `None` at its end.
    fn receive<T: Message + Default>(&mut self) -> Option<T> {
        loop {
            let mut reader = Reader(&self.read);
            if let Ok(pb) = reader.bytes() {
                let pb = T::decode(pb).unwrap();
                self.read = reader.0.to_vec();
                return Some(pb);
            }
            if self.is_over {
                return None;
            }
            let mut head = [0; 2];
            self.stream.read_exact(&mut head).unwrap();
            let length = match head[1] & 0x7f {
                126 => {
                    let mut length = [0; 2];
                    self.stream.read_exact(&mut length).unwrap();
                    usize::from(u16::from_be_bytes(length))
                }
                short => usize::from(short),
            };
            let mut mask = [0; 4];
            self.stream.read_exact(&mut mask).unwrap();
            let mut payload = vec![0; length];
            self.stream.read_exact(&mut payload).unwrap();
            payload.iter_mut().zip(mask.iter().cycle()).for_each(|(byte, mask)| *byte ^= mask);
            if matches!(head[0] & 0x0f, 0 | 2) {
                self.read.extend(payload);
                self.is_over |= head[0] & 0x80 != 0;
            }
        }
    }

    fn frame(&mut self, first: u8, payload: &[u8]) {
        let mut frame = vec![first];
        match payload.len() {
            short @ 0..126 => frame.push(short as u8),
            long => {
                frame.push(126);
                frame.extend((long as u16).to_be_bytes());
            }
        }
        frame.extend(payload);
        self.stream.write_all(&frame).unwrap();
    }

    fn send(&mut self, pb: &impl Message) {
        let opcode = if std::mem::replace(&mut self.has_begun, true) { 0 } else { 2 };
        self.frame(opcode, &pb.encode_length_delimited_to_vec());
    }

    /// Ends the server's half.
    fn finish(&mut self) {
        self.frame(0x80, &[]);
    }

    /// Closes the connection because the token has expired.
    fn expire(&mut self) {
        self.frame(0x88, &[&1008u16.to_be_bytes()[..], b"token expired"].concat());
    }

    /// Stores a message: reads its request, which must have this payload only, and acknowledges it.
    fn store(&mut self, number: i64, payload: &str) {
        self.expect_message(payload);
        self.send(&acknowledged(number));
    }

    fn expect_message(&mut self, payload: &str) {
        let request: ProduceRequest = self.receive().unwrap();
        assert_eq!(request.payloads, [payload.as_bytes()]);
        assert_eq!(request.token, None);
    }

    /// Returns the part of the token that a request carries, which must carry nothing else.
    fn renewed(&mut self) -> String {
        let request: ProduceRequest = self.receive().unwrap();
        let token = request.token().to_owned();
        assert_eq!(request, ProduceRequest { token: request.token.clone(), ..Default::default() });
        token.strip_prefix(CANARY).unwrap().to_owned()
    }
}

fn acknowledged(number: i64) -> ProduceResponse {
    ProduceResponse {
        status: Some(status(201, None)),
        msgnum_status_is_thru: Some(number),
        max_msgnum_to_send: Some(1_000),
        ..Default::default()
    }
}

/// A response to a producer of `number` stored messages that only speaks of its grant.
fn grant(number: i64, renewal: Status) -> ProduceResponse {
    ProduceResponse { status: None, renewal: Some(renewal), ..acknowledged(number) }
}

/// A running client.
struct Running(Child);

impl Running {
    fn write(&mut self, line: &str) {
        writeln!(self.0.stdin.as_ref().unwrap(), "{line}").unwrap();
    }

    /// Closes standard input, and waits for the end. Fails if any output contains a token.
    fn end(mut self) -> Output {
        drop(self.0.stdin.take());
        clean(self.0.wait_with_output().unwrap())
    }

    /// Like [`Self::end`]. Returns standard error of a client that succeeds.
    fn succeed(self) -> String {
        let output = self.end();
        assert!(output.status.success(), "{output:?}");
        said(&output)
    }
}

fn said(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

fn clean(output: Output) -> Output {
    let all = [&output.stdout[..], &output.stderr[..]].concat();
    assert!(!String::from_utf8_lossy(&all).contains(CANARY), "a token was printed: {output:?}");
    output
}

/// A file with a token.
struct TokenFile(Place);

impl TokenFile {
    fn new(name: &str, token: &str) -> Self {
        let file = Self(Place::new(name));
        file.write(token);
        file
    }

    fn path(&self) -> String {
        self.0.0.join("token").to_str().unwrap().to_owned()
    }

    /// Replaces the token in one step.
    fn write(&self, token: &str) {
        let new = self.0.0.join("new");
        std::fs::write(&new, format!("{CANARY}{token}\n")).unwrap();
        std::fs::rename(new, self.path()).unwrap();
    }

    fn start(&self, server: &Scripted, arguments: &[&str]) -> Running {
        start(&[arguments, &["--url", &server.url(), "--token-file", &self.path()]].concat())
    }
}

fn command(arguments: &[&str]) -> Command {
    let mut command = Command::new(BINARY);
    command.args(arguments).env_remove("MILLSTREAM_TOKEN");
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

fn start(arguments: &[&str]) -> Running {
    Running(command(arguments).spawn().unwrap())
}

#[test]
fn a_producer_renews_its_token_and_its_messages_keep_their_numbers() {
    let (server, file) = (Scripted::new(), TokenFile::new("tokens-produce", "1"));
    let mut client = file.start(&server, &["produce", "q"]);
    let caller = server.accept();
    assert_eq!(caller.token(), Some("1"));
    let mut peer = caller.welcome_producer(3_600);
    client.write("one");
    peer.store(1, "one");
    file.write("2");
    peer.send(&grant(1, status(100, Some(60))));
    assert_eq!(peer.renewed(), "2");
    peer.send(&grant(1, status(100, Some(3_600))));
    client.write("two");
    peer.store(2, "two");
    drop(client.0.stdin.take());
    assert_eq!(peer.receive::<ProduceRequest>(), None);
    peer.finish();
    let said = client.succeed();
    assert!(said.contains("2 acknowledged") && said.contains("0 sent again"), "{said}");
}

#[test]
fn a_token_is_renewed_without_an_announcement_before_it_expires() {
    let (server, file) = (Scripted::new(), TokenFile::new("tokens-alone", "1"));
    let mut client = file.start(&server, &["produce", "q"]);
    let mut peer = server.accept().welcome_producer(5);
    let began = Instant::now();
    file.write("2");
    assert_eq!(peer.renewed(), "2");
    let after = began.elapsed();
    assert!(after > Duration::from_secs(3), "a fifth of its life before the end, not after {after:?}");
    peer.send(&grant(0, status(100, Some(3_600))));
    client.write("one");
    peer.store(1, "one");
    drop(client.0.stdin.take());
    assert_eq!(peer.receive::<ProduceRequest>(), None);
    peer.finish();
    client.succeed();
}

#[test]
fn a_refused_renewal_ends_nothing_and_is_said_once() {
    let (server, file) = (Scripted::new(), TokenFile::new("tokens-refused", "1"));
    let runs = file.0.0.join("runs");
    let program = format!("echo run >> {}; cat {}", runs.display(), file.path());
    let mut client = start(&["produce", "q", "--url", &server.url(), "--token-command", &program]);
    let mut peer = server.accept().welcome_producer(3_600);
    file.write("2");
    peer.send(&grant(0, status(100, Some(60))));
    assert_eq!(peer.renewed(), "2");
    peer.send(&grant(0, status(401, Some(60))));
    client.write("one");
    peer.store(1, "one");
    // The same token is not sent again, however often the server announces the end.
    peer.send(&grant(1, status(100, Some(59))));
    // The first two readings gave the tokens 1 and 2. The third one is handled before the fourth.
    common::eventually("a fourth reading", || {
        let count = std::fs::read_to_string(&runs).unwrap_or_default().lines().count();
        (count >= 4).then_some(())
    });
    file.write("3");
    assert_eq!(peer.renewed(), "3");
    peer.send(&grant(1, status(401, Some(58))));
    client.write("two");
    peer.store(2, "two");
    drop(client.0.stdin.take());
    assert_eq!(peer.receive::<ProduceRequest>(), None);
    peer.finish();
    let said = client.succeed();
    assert_eq!(said.matches("did not accept another token: 401").count(), 1, "{said}");
}

fn message(offset: u64, payload: &'static str, marker: Option<String>) -> MessageAndMetadata {
    MessageAndMetadata {
        id: Some(format!("0.{offset:x}")),
        payload: Some(bytes::Bytes::from_static(payload.as_bytes())),
        marker,
        ..Default::default()
    }
}

fn marker(position: u64) -> String {
    let info = QueueInfo {
        id: QueueId(1),
        incarnation: 1,
        partitions: 1,
        hash: 7,
        signing: Default::default(),
        policy: Default::default(),
    };
    Marker::encode(&info, &[Offset(position)])
}

fn messages(messages: Vec<MessageAndMetadata>) -> ConsumeResponse {
    ConsumeResponse { messages, ..Default::default() }
}

#[test]
fn a_consumer_renews_its_token_and_goes_on_from_its_marker_after_it_has_expired() {
    let (server, file) = (Scripted::new(), TokenFile::new("tokens-consume", "1"));
    let client = file.start(&server, &["consume", "q", "--count", "3"]);
    let caller = server.accept();
    assert_eq!(caller.token(), Some("1"));
    let (mut peer, from) = caller.welcome_consumer(3_600);
    assert_eq!(from, "");
    peer.send(&messages(vec![message(0, "one", Some(marker(1)))]));
    file.write("2");
    peer.send(&ConsumeResponse { renewal: Some(status(100, Some(60))), ..messages(vec![]) });
    // Credit comes in requests of its own.
    let renewal = loop {
        let request: ConsumeRequest = peer.receive().unwrap();
        if request.token.is_some() {
            break request;
        }
    };
    let expected = Some(format!("{CANARY}2"));
    assert_eq!(renewal, ConsumeRequest { token: expected, ..Default::default() });
    peer.send(&ConsumeResponse { renewal: Some(status(100, Some(3_600))), ..messages(vec![]) });
    peer.send(&messages(vec![message(1, "two", Some(marker(2)))]));
    file.write("3");
    peer.send(&ConsumeResponse { status: Some(status(401, None)), ..messages(vec![]) });
    peer.finish();
    peer.expire();
    let caller = server.accept();
    assert_eq!(caller.token(), Some("3"));
    let (mut peer, from) = caller.welcome_consumer(3_600);
    assert_eq!(from, marker(2));
    peer.send(&messages(vec![message(2, "three", None)]));
    while peer.receive::<ConsumeRequest>().is_some() {}
    peer.finish();
    let output = client.end();
    assert!(output.status.success(), "{output:?}");
    assert_eq!(output.stdout, b"one\ntwo\nthree\n");
}

#[test]
fn after_a_401_a_producer_sends_what_is_not_acknowledged_with_another_token() {
    // The server may answer for the message, or not.
    for answered in [0, 1] {
        let (server, file) = (Scripted::new(), TokenFile::new("tokens-expired", "1"));
        let mut client = file.start(&server, &["produce", "q"]);
        let mut peer = server.accept().welcome_producer(3_600);
        client.write("one");
        peer.expect_message("one");
        file.write("2");
        let response = ProduceResponse { status: Some(status(401, None)), ..acknowledged(answered) };
        peer.send(&response);
        peer.finish();
        peer.expire();
        let caller = server.accept();
        assert_eq!(caller.token(), Some("2"));
        let mut peer = caller.welcome_producer(3_600);
        peer.store(1, "one");
        drop(client.0.stdin.take());
        assert_eq!(peer.receive::<ProduceRequest>(), None);
        peer.finish();
        let said = client.succeed();
        assert!(said.contains("1 acknowledged") && said.contains("0 refused, 1 sent again"), "{said}");
    }
}

#[test]
fn a_token_that_is_being_replaced_is_read_once_more_and_then_refused_for_good() {
    for is_replaced in [true, false] {
        let (server, file) = (Scripted::new(), TokenFile::new("tokens-401", "1"));
        let mut client = file.start(&server, &["produce", "q"]);
        let caller = server.accept();
        file.write("2");
        caller.refuse(401, "");
        let caller = server.accept();
        assert_eq!(caller.token(), Some("2"));
        if is_replaced {
            let mut peer = caller.welcome_producer(3_600);
            client.write("one");
            peer.store(1, "one");
            drop(client.0.stdin.take());
            assert_eq!(peer.receive::<ProduceRequest>(), None);
            peer.finish();
            client.succeed();
        } else {
            caller.refuse(401, "");
            let output = client.end();
            assert_eq!(output.status.code(), Some(1), "{output:?}");
            assert!(said(&output).contains("401") && said(&output).contains("was read again"), "{output:?}");
            assert!(server.nobody_waits());
        }
    }
}

#[test]
fn a_client_that_must_not_do_that_fails_at_once() {
    let (server, file) = (Scripted::new(), TokenFile::new("tokens-403", "1"));
    let client = file.start(&server, &["consume", "q"]);
    server.accept().refuse(403, "");
    let output = client.end();
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert!(server.nobody_waits());
}

#[test]
fn a_server_that_cannot_decide_is_asked_again_when_it_says() {
    let (server, file) = (Scripted::new(), TokenFile::new("tokens-503", "1"));
    let client = file.start(&server, &["consume", "q", "--count", "1"]);
    for status in [503, 429] {
        server.accept().refuse(status, "Retry-After: 2\r\n");
        let began = Instant::now();
        let caller = server.accept();
        assert!(began.elapsed() > Duration::from_millis(1_900), "{status}: {:?}", began.elapsed());
        caller.refuse(503, "");
    }
    let (mut peer, _) = server.accept().welcome_consumer(3_600);
    peer.send(&messages(vec![message(0, "one", None)]));
    while peer.receive::<ConsumeRequest>().is_some() {}
    peer.finish();
    client.succeed();
}

#[test]
fn a_token_of_the_environment_is_sent_and_not_tried_twice() {
    let server = Scripted::new();
    let mut command = command(&["produce", "q", "--url", &server.url()]);
    let client = Running(command.env("MILLSTREAM_TOKEN", format!("{CANARY}7")).spawn().unwrap());
    let caller = server.accept();
    assert_eq!(caller.token(), Some("7"));
    caller.refuse(401, "");
    let output = client.end();
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert!(said(&output).contains("MILLSTREAM_TOKEN cannot be read again"), "{output:?}");
    assert!(server.nobody_waits());
}

#[test]
fn a_client_without_a_token_sends_none_and_is_told_how_to_give_one() {
    let server = Scripted::new();
    let client = start(&["consume", "q", "--url", &server.url()]);
    let caller = server.accept();
    assert_eq!(caller.header("Authorization"), None);
    caller.refuse(401, "");
    let output = client.end();
    assert!(said(&output).contains("give a token with --token-file"), "{output:?}");
    assert!(server.nobody_waits());
}

#[test]
fn a_command_gives_the_token_and_its_messages_reach_the_user() {
    let server = Scripted::new();
    let program = format!("echo from the command >&2; echo {CANARY}9");
    let client = start(&["consume", "q", "--url", &server.url(), "--token-command", &program]);
    let caller = server.accept();
    assert_eq!(caller.token(), Some("9"));
    caller.refuse(403, "");
    assert!(said(&client.end()).contains("from the command"));
}

#[test]
fn wrong_sources_are_usage_errors_that_show_no_token() {
    let server = Scripted::new();
    let file = TokenFile::new("tokens-usage", "1");
    let (file, url) = (file.path(), server.url());
    let failing = format!("echo {CANARY}; exit 3");
    let missing = format!("{file}-missing");
    for (variable, arguments, words) in [
        ("", &["--token-file", &missing[..]][..], "No such file"),
        ("", &["--token-file", "/"], "not a regular file"),
        ("", &["--token-command", &failing], "exit status: 3"),
        ("", &["--token-command", &failing, "--token-file", &file], "cannot be used with"),
        (CANARY, &["--token-file", &file], "both give a token"),
        (CANARY, &["--token-command", "true"], "both give a token"),
        ("two words", &[], "not a visible ASCII character"),
        (CANARY, &["--url", "ws://192.0.2.1:9000/"], "--token-over-plaintext"),
        (CANARY, &["--url", "ws://queues.example/"], "write wss://"),
    ] {
        for kind in [&["produce", "q"][..], &["consume", "q"], &["bench", "produce"]] {
            let mut command = command(&[kind, arguments].concat());
            if !arguments.contains(&"--url") {
                command.args(["--url", &url]);
            }
            let output = clean(command.env("MILLSTREAM_TOKEN", variable).output().unwrap());
            assert_eq!(output.status.code(), Some(2), "{arguments:?}: {output:?}");
            // The error of clap shows the arguments as the user wrote them, but not their values.
            assert!(said(&output).contains(words), "{arguments:?}: {output:?}");
        }
    }
    assert!(server.nobody_waits());
}

#[test]
fn a_token_without_tls_to_another_machine_is_sent_only_on_request_and_with_a_warning() {
    let (server, file) = (Scripted::new(), TokenFile::new("tokens-plain", "1"));
    // Linux takes this address for its own, but it is not a loopback address.
    let url = format!("ws://0.0.0.0:{}/", server.port());
    let arguments = ["consume", "q", "--url", &url, "--token-file", &file.path(), "--token-over-plaintext"];
    let client = start(&arguments);
    let caller = server.accept();
    assert_eq!(caller.token(), Some("1"));
    caller.refuse(403, "");
    let said = said(&client.end());
    assert!(said.contains("WARNING: --token-over-plaintext"), "{said}");
}

#[test]
fn many_connections_of_a_load_share_a_token_and_results_do_not_show_it() {
    let (server, place) = (Server::start(&["--cores", "0"]), Place::new("tokens-bench"));
    let path = |name: &str| place.0.join(name).to_str().unwrap().to_owned();
    let program = format!("echo run >> {}; echo {CANARY}", path("runs"));
    for flag in
        [vec!["--token-command".to_owned(), program.clone()], vec![format!("--token-command={program}")]]
    {
        std::fs::write(path("runs"), "").unwrap();
        let arguments = ["bench", "produce", "--connections", "200", "--count", "2000", "--control", "off"];
        let mut bench = command(&arguments);
        bench.args(["--url", &server.url(), "--out", &path("result.json")]).args(flag);
        let output = clean(bench.output().unwrap());
        assert!(output.status.success(), "{output:?}");
        let result = std::fs::read_to_string(path("result.json")).unwrap();
        assert!(result.contains("--token-command"), "the result has the command");
        assert!(!result.contains(CANARY), "the result shows a token");
        let mut report = command(&["report", &path("result.json"), "--html", &path("report.html")]);
        assert!(clean(report.output().unwrap()).status.success());
        assert!(!std::fs::read_to_string(path("report.html")).unwrap().contains(CANARY));
        let runs = std::fs::read_to_string(path("runs")).unwrap().lines().count();
        assert!((1..=5).contains(&runs), "the command ran {runs} times for 200 connections");
    }
}
