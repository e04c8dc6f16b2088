//! Tests authentication in a shard's core. The test plays the judge, in virtual time.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use millstream::access::{Grant, ProjectLimits, Projects, Rule, Tenants};
use millstream::auth::{Answer, Denial, Keyer, Question, Verdict};
use millstream::base::clock::Now;
use millstream::base::millis::UnixMillis;
use millstream::base::names::Project;
use millstream::pb::{
    ConsumeRequest, ConsumeResponse, ConsumeSetupRequest, ProduceRequest, ProduceResponse,
    ProduceSetupRequest, ProduceSetupResponse, SetupRequest, Status,
};
use millstream::shard::core::{AuthCounters, ConnectionId, Connections, Core, Peer, Settings};
use millstream::store::memory::{Memory, WhenFull};
use prost::Message;
use tungstenite::protocol::frame::Frame;
use tungstenite::protocol::frame::coding::{Data, OpCode};

use crate::random::Random;

const UNIX: u64 = 1_700_000_000_000;

/// A client of the shard, and what it has read.
pub(crate) struct Client {
    pub(crate) id: ConnectionId,
    has_begun: bool,
    /// The answer to the handshake.
    pub(crate) head: String,
    /// The payload of all data frames since it was last taken.
    pub(crate) data: Vec<u8>,
    /// The code and the reason of the Close.
    pub(crate) close: Option<(u16, String)>,
    unparsed: Vec<u8>,
}

pub(crate) struct Rig {
    pub(crate) core: Core<Memory<Connections>>,
    pub(crate) now: Now,
    random: Random,
    ports: u16,
    /// Bytes for clients that have not read them.
    mail: HashMap<ConnectionId, Vec<u8>>,
}

pub(crate) fn grant(rules: &[&str]) -> Grant {
    Grant {
        principal: "static:app".into(),
        projects: Projects::Listed([Project::parse("acme").unwrap()].into()),
        rules: rules.iter().map(|rule| Rule::parse(rule).unwrap()).collect(),
        expires: None,
    }
}

pub(crate) fn all() -> Verdict {
    Ok(Arc::new(grant(&["all:*"])))
}

/// A grant of everything that ends after some seconds of the rig's time.
pub(crate) fn until(second: u64) -> Verdict {
    Ok(Arc::new(Grant { expires: Some(UnixMillis::new(UNIX + second * 1_000)), ..grant(&["all:*"]) }))
}

impl Rig {
    pub(crate) fn new() -> Self {
        Self::with(settings())
    }

    pub(crate) fn with(settings: Settings) -> Self {
        let settings = Arc::new(Settings { partitions: 2, ..settings });
        let tenants = Arc::new(Tenants::new(ProjectLimits::default()));
        let mut core = Core::new(0, 1, settings, tenants, Memory::new(64 << 20, WhenFull::Refuse, 7));
        core.authenticate(Keyer::fixed());
        Self { core, now: at(0), random: Random(5), ports: 0, mail: HashMap::new() }
    }

    /// Connects from an address of its own, with these headers.
    fn connect(&mut self, headers: &str) -> Client {
        self.ports += 1;
        self.connect_from(SocketAddr::from(([192, 0, 2, (self.ports % 250) as u8], self.ports)), headers)
    }

    fn connect_from(&mut self, address: SocketAddr, headers: &str) -> Client {
        self.connect_to("/", address, headers)
    }

    /// Connects to a path.
    pub(crate) fn connect_to(&mut self, path: &str, address: SocketAddr, headers: &str) -> Client {
        let id = self.core.handle_accepted(self.now, Peer::ip(address)).unwrap();
        let client = Client {
            id,
            has_begun: false,
            head: String::new(),
            data: Vec::new(),
            close: None,
            unparsed: Vec::new(),
        };
        let request = crate::HANDSHAKE.replace("\r\n\r\n", &format!("\r\n{headers}\r\n"));
        let request = request.replace("GET / ", &format!("GET {path} "));
        self.receive(&client, request.into_bytes());
        client
    }

    pub(crate) fn receive(&mut self, client: &Client, mut bytes: Vec<u8>) {
        assert!(self.core.wanted_read(self.now, client.id, bytes.len()) >= bytes.len(), "the socket is read");
        let now = self.now;
        self.core.handle_received(now, client.id, &mut bytes, || now);
        self.core.flush(now, client.id);
    }

    /// Connects with a token that is granted this.
    fn admit(&mut self, token: &str, verdict: Verdict) -> Client {
        let mut client = self.connect(&format!("Authorization: Bearer {token}\r\n"));
        let question = self.question();
        self.answer(&question, verdict);
        self.run(&mut [&mut client]);
        assert!(client.head.starts_with("HTTP/1.1 101"), "{}", client.head);
        client
    }

    pub(crate) fn question(&mut self) -> Question {
        self.core.poll_question().expect("a question")
    }

    pub(crate) fn answer(&mut self, question: &Question, verdict: Verdict) {
        let Question { tag, key, .. } = *question;
        self.core.handle_answer(self.now, Answer::Judged { tag, key, verdict });
    }

    /// Passes time, as a turn does.
    pub(crate) fn pass(&mut self, second: u64) {
        self.now = at(second);
        self.core.handle_timeouts(self.now);
    }

    /// Runs turns until nothing is left to do, and lets these clients read.
    pub(crate) fn run(&mut self, clients: &mut [&mut Client]) {
        for _ in 0..20 {
            self.core.handle_completions(self.now);
            while let Some(id) = self.core.poll_dirty().or_else(|| self.core.poll_behind()) {
                let bytes = self.core.poll_transmit(self.now, id).to_vec();
                self.core.handle_sent(self.now, id, bytes.len(), true);
                self.mail.entry(id).or_default().extend(bytes);
            }
        }
        for client in clients {
            client.read(&self.mail.remove(&client.id).unwrap_or_default());
        }
    }

    /// Sends a pb of the operation that is open or begins.
    fn send(&mut self, client: &mut Client, pb: &impl Message) {
        let opcode =
            if std::mem::replace(&mut client.has_begun, true) { Data::Continue } else { Data::Binary };
        self.frame(client, Frame::message(pb.encode_length_delimited_to_vec(), OpCode::Data(opcode), false));
    }

    /// Ends the client's half.
    fn end(&mut self, client: &mut Client) {
        client.has_begun = false;
        self.frame(client, Frame::message(Vec::new(), OpCode::Data(Data::Continue), true));
    }

    pub(crate) fn frame(&mut self, client: &mut Client, frame: Frame) {
        let mut bytes = Vec::new();
        crate::masked(frame, &mut self.random, &mut bytes);
        self.receive(client, bytes);
        self.run(&mut [client]);
    }

    fn produce(&mut self, client: &mut Client, queue: &str) -> Status {
        let append = Some(ProduceSetupRequest { queue_name: Some(queue.into()) });
        self.send(client, &SetupRequest { append, get: None, claim: None });
        client.take::<ProduceSetupResponse>().status.unwrap()
    }

    fn consume(&mut self, client: &mut Client, queue: &str) -> Status {
        let get = Some(ConsumeSetupRequest { queue_name: Some(queue.into()), ..Default::default() });
        self.send(client, &SetupRequest { append: None, get, claim: None });
        client.take()
    }

    fn message(&mut self, client: &mut Client) {
        let payloads = vec![Bytes::from_static(b"x")];
        self.send(client, &ProduceRequest { ttl: Some(60), payloads, ..Default::default() });
    }

    pub(crate) fn counters(&self) -> &AuthCounters {
        &self.core.counters().auth
    }
}

impl Client {
    fn read(&mut self, bytes: &[u8]) {
        self.unparsed.extend(bytes);
        if self.head.is_empty() {
            let Some(end) = self.unparsed.windows(4).position(|four| four == b"\r\n\r\n") else { return };
            self.head = String::from_utf8(self.unparsed.drain(..end + 4).collect()).unwrap();
            if !self.head.starts_with("HTTP/1.1 101") {
                self.head += &String::from_utf8(std::mem::take(&mut self.unparsed)).unwrap();
            }
        }
        while let [first, short, rest @ ..] = &self.unparsed[..] {
            let (head, length) = match (short, rest) {
                (126, [high, low, ..]) => (4, usize::from(u16::from_be_bytes([*high, *low]))),
                (short, _) => (2, usize::from(*short)),
            };
            assert!(length < 65_536, "the frames of these tests are small");
            let payload = self.unparsed[head..head + length].to_vec();
            if first & 0x0f == 8 {
                let code = u16::from_be_bytes([payload[0], payload[1]]);
                self.close = Some((code, String::from_utf8(payload[2..].to_vec()).unwrap()));
            } else if first & 0x0f < 8 {
                self.data.extend(&payload);
            }
            self.unparsed.drain(..head + length);
        }
    }

    /// Returns the next pb.
    fn take<M: Message + Default>(&mut self) -> M {
        let mut rest = &self.data[..];
        let pb = M::decode_length_delimited(&mut rest).expect("a pb");
        self.data = rest.to_vec();
        pb
    }
}

pub(crate) fn settings() -> Settings {
    let long = Duration::from_secs(3_600);
    let mut settings = Settings { ping_interval: long, idle_timeout: 2 * long, ..Settings::default() };
    settings.policy.reads_tokens = true;
    settings
}

pub(crate) fn at(second: u64) -> Now {
    Now::at_ms(second * 1_000 + 1, UNIX + second * 1_000)
}

fn code(status: &Option<Status>) -> u32 {
    status.as_ref().expect("a status").status_code()
}

/// Connects without a verdict yet, and returns what the handshake gets with it.
fn head(headers: &str, verdict: Verdict) -> String {
    let mut rig = Rig::new();
    let mut client = rig.connect(headers);
    let question = rig.question();
    rig.answer(&question, verdict);
    rig.run(&mut [&mut client]);
    client.head
}

#[test]
fn a_client_without_a_credential_gets_401_and_nobody_is_asked() {
    let mut rig = Rig::new();
    let mut client = rig.connect("");
    rig.run(&mut [&mut client]);
    assert!(client.head.starts_with("HTTP/1.1 401 ") && client.head.contains("WWW-Authenticate: Bearer"));
    assert!(rig.core.poll_question().is_none());
    assert_eq!(rig.counters().refused["missing"], 1);
}

#[test]
fn a_client_works_only_in_projects_of_its_grant() {
    let token = "Authorization: Bearer t\r\n";
    let with = |project: &str| format!("{token}X-Project-Id: {project}\r\n");
    let acme = Project::parse("acme").unwrap();
    let several = Projects::Listed([acme, Project::parse("other").unwrap()].into());
    let several = Ok(Arc::new(Grant { projects: several, ..grant(&[]) }));
    assert!(head(token, all()).starts_with("HTTP/1.1 101 "));
    assert!(head(&with("acme"), all()).starts_with("HTTP/1.1 101 "));
    assert!(head(&with("other"), all()).starts_with("HTTP/1.1 403 "));
    assert!(head(&with("other"), several.clone()).starts_with("HTTP/1.1 101 "));
    assert!(head(token, several).starts_with("HTTP/1.1 400 "));
}

#[test]
fn a_denial_has_its_status_and_does_not_tell_how_close_a_guess_was() {
    for denial in Denial::ALL {
        let head = head("X-Auth-Token: t\r\n", Err(denial));
        assert!(head.starts_with(&format!("HTTP/1.1 {} ", denial.status())), "{head}");
    }
    let body = |denial| head("X-Auth-Token: t\r\n", Err(denial));
    assert_eq!(body(Denial::Unknown), body(Denial::Invalid));
}

#[test]
fn a_verdict_is_not_given_to_the_next_connection_in_the_slot() {
    let mut rig = Rig::new();
    let first = rig.connect("X-Auth-Token: one\r\n");
    let of_first = rig.question();
    rig.core.handle_gone(rig.now, first.id);
    let mut second = rig.connect("X-Auth-Token: two\r\n");
    assert_eq!(first.id.slot, second.id.slot);
    let of_second = rig.question();
    rig.answer(&of_first, all());
    // A tag that was mixed up does not help: the key is another credential's.
    rig.answer(&Question { tag: of_second.tag, ..of_first }, all());
    rig.run(&mut [&mut second]);
    assert_eq!(second.head, "");
    rig.answer(&of_second, Err(Denial::Unknown));
    rig.run(&mut [&mut second]);
    assert!(second.head.starts_with("HTTP/1.1 401 "));
}

#[test]
fn a_silent_provider_costs_newcomers_three_seconds() {
    let mut rig = Rig::new();
    let mut client = rig.connect("X-Auth-Token: t\r\n");
    let question = rig.question();
    rig.pass(2);
    rig.run(&mut [&mut client]);
    assert_eq!(client.head, "");
    rig.pass(3);
    rig.run(&mut [&mut client]);
    assert!(client.head.starts_with("HTTP/1.1 503 "), "the answer is {:?}", client.head);
    assert_eq!(rig.counters().refused["unavailable"], 1);
    rig.answer(&question, all());
    rig.run(&mut [&mut client]);
    assert!(rig.core.closing(rig.now, client.id).0, "a late verdict admits nobody");
}

#[test]
fn a_question_that_cannot_be_asked_is_a_503() {
    let mut rig = Rig::new();
    let mut client = rig.connect("X-Auth-Token: t\r\n");
    let question = rig.question();
    rig.core.handle_unasked(rig.now, &question);
    rig.run(&mut [&mut client]);
    assert!(client.head.starts_with("HTTP/1.1 503 "));
}

#[test]
fn a_verdict_is_remembered_for_a_time_that_use_does_not_prolong() {
    let mut rig = Rig::new();
    rig.admit("t", all());
    for second in (50..300).step_by(50) {
        rig.pass(second);
        let mut client = rig.connect("X-Auth-Token: t\r\n");
        rig.run(&mut [&mut client]);
        assert!(client.head.starts_with("HTTP/1.1 101 "), "after {second} s");
        assert!(rig.core.poll_question().is_none());
    }
    rig.pass(300);
    rig.connect("X-Auth-Token: t\r\n");
    rig.question();
}

#[test]
fn a_remembered_grant_ends_when_its_token_does() {
    let mut rig = Rig::new();
    rig.admit("t", until(10));
    rig.pass(9);
    let mut client = rig.connect("X-Auth-Token: t\r\n");
    rig.run(&mut [&mut client]);
    assert!(client.head.starts_with("HTTP/1.1 101 "));
    rig.pass(10);
    rig.connect("X-Auth-Token: t\r\n");
    rig.question();
}

#[test]
fn a_denial_is_remembered_briefly_but_trouble_of_a_provider_is_not() {
    let mut rig = Rig::new();
    for (denial, is_remembered) in
        [(Denial::Unavailable, false), (Denial::Throttled, false), (Denial::Unknown, true)]
    {
        rig.connect("X-Auth-Token: t\r\n");
        let question = rig.question();
        rig.answer(&question, Err(denial));
        rig.connect("X-Auth-Token: t\r\n");
        let asked = rig.core.poll_question();
        assert_eq!(asked.is_none(), is_remembered, "{denial:?}");
        if let Some(question) = asked {
            rig.answer(&question, Err(denial));
        }
    }
    rig.pass(10);
    rig.connect("X-Auth-Token: t\r\n");
    rig.question();
}

#[test]
fn the_65th_of_an_address_waits_in_line_and_holds_up_no_other_address() {
    let mut rig = Rig::new();
    // One IPv6 network of 64 bits counts as one address.
    let of = |last: u16| SocketAddr::from(([0x2001, 0xdb8, 0, 1, 0, 0, 0, last], 1));
    let mut questions = Vec::new();
    for number in 0..64 {
        rig.connect_from(of(number), &format!("X-Auth-Token: {number}\r\n"));
        questions.push(rig.question());
    }
    let mut next = rig.connect_from(of(64), "X-Auth-Token: 64\r\n");
    let gone = rig.connect_from(of(65), "X-Auth-Token: 65\r\n");
    let mut known = rig.connect_from(of(66), "X-Auth-Token: 1\r\n");
    let mut late = rig.connect_from(of(67), "X-Auth-Token: 67\r\n");
    assert!(rig.core.poll_question().is_none());
    rig.connect("X-Auth-Token: other\r\n");
    rig.question();
    rig.core.handle_gone(rig.now, gone.id);
    for question in questions.drain(..2) {
        rig.answer(&question, all());
    }
    rig.core.resume_waiting(rig.now);
    let of_next = rig.question();
    rig.answer(&of_next, Err(Denial::Unknown));
    let of_late = rig.question();
    assert_eq!(of_late.tag, late.id.as_u64());
    assert!(rig.core.poll_question().is_none());
    rig.run(&mut [&mut next, &mut known, &mut late]);
    assert!(next.head.starts_with("HTTP/1.1 401 "));
    assert!(known.head.starts_with("HTTP/1.1 101 "), "its verdict is remembered by now: {}", known.head);
    assert_eq!(late.head, "");
    rig.pass(3);
    rig.run(&mut [&mut late]);
    assert!(late.head.starts_with("HTTP/1.1 503 "), "{}", late.head);
}

#[test]
fn what_no_rule_allows_gets_403_whether_the_queue_exists_or_not() {
    let mut rig = Rig::new();
    let mut client = rig.admit("t", Ok(Arc::new(grant(&["produce:a*"]))));
    assert_eq!(rig.produce(&mut client, "apples").status_code(), 100);
    rig.end(&mut client);
    let exists = rig.consume(&mut client, "apples");
    rig.end(&mut client);
    let absent = rig.consume(&mut client, "absent");
    assert_eq!(exists.status_code(), 403);
    assert_eq!(exists, absent);
    rig.end(&mut client);
    assert_eq!(rig.produce(&mut client, "pears").status_code(), 403);
    assert_eq!((rig.counters().forbidden, client.close), (3, None));
}

#[test]
fn a_consumer_without_a_right_to_create_gets_404() {
    let mut rig = Rig::new();
    let mut reader = rig.admit("r", Ok(Arc::new(grant(&["consume:*"]))));
    assert_eq!(rig.consume(&mut reader, "q").status_code(), 404);
    rig.end(&mut reader);
    let mut writer = rig.admit("w", all());
    assert_eq!(rig.produce(&mut writer, "q").status_code(), 100);
    assert_eq!(rig.consume(&mut reader, "q").status_code(), 100);
}

#[test]
fn a_live_operation_ends_with_401_after_the_answers_for_what_it_accepted() {
    let mut rig = Rig::new();
    let mut client = rig.admit("t", until(10));
    let status = rig.produce(&mut client, "q");
    assert_eq!(status.token_expires_s, Some(10));
    rig.pass(9);
    // This message is accepted before the end, and its answer comes after it.
    let payloads = vec![Bytes::from_static(b"x")];
    let request = ProduceRequest { ttl: Some(60), payloads, ..Default::default() };
    let frame = Frame::message(request.encode_length_delimited_to_vec(), OpCode::Data(Data::Continue), false);
    let mut bytes = Vec::new();
    crate::masked(frame, &mut rig.random, &mut bytes);
    rig.receive(&client, bytes);
    rig.now = at(10);
    rig.core.handle_timeouts(rig.now);
    rig.run(&mut [&mut client]);
    let notice = client.take::<ProduceResponse>();
    assert_eq!((code(&notice.renewal), notice.status), (100, None), "it was told before");
    let answer = client.take::<ProduceResponse>();
    assert_eq!((code(&answer.status), answer.msgnum_status_is_thru()), (201, 1));
    let last = client.take::<ProduceResponse>();
    assert_eq!(code(&last.status), 401);
    assert_eq!(last.status.unwrap().reason_phrase(), "token expired");
    assert_eq!(client.close, Some((1008, "token expired".into())));
    assert!(client.data.is_empty());
    assert_eq!(rig.counters().expired, 1);
}

#[test]
fn an_idle_connection_and_a_consumer_end_with_their_grants() {
    let mut rig = Rig::new();
    let mut idle = rig.admit("t", until(10));
    let mut consumer = rig.admit("u", until(10));
    assert_eq!(rig.consume(&mut consumer, "q").status_code(), 100);
    rig.pass(9);
    rig.run(&mut [&mut idle, &mut consumer]);
    assert_eq!((&idle.close, &consumer.close), (&None, &None));
    rig.pass(10);
    rig.run(&mut [&mut idle, &mut consumer]);
    let closed = Some((1008, "token expired".into()));
    assert_eq!((&idle.close, &consumer.close), (&closed, &closed));
    assert_eq!(code(&consumer.take::<ConsumeResponse>().renewal), 100);
    assert_eq!(code(&consumer.take::<ConsumeResponse>().status), 401);
}

#[test]
fn a_jump_of_the_clock_neither_prolongs_nor_shortens_a_grant() {
    for jump in [1_000_000, -1_000_000_i64] {
        let mut rig = Rig::new();
        let mut client = rig.admit("t", until(100));
        let jumped = |second: u64| {
            let Now { mono, mono_ns, .. } = at(second);
            let unix = UnixMillis::new((UNIX as i64 + second as i64 * 1_000 + jump) as u64);
            Now { mono, mono_ns, unix }
        };
        rig.now = jumped(99);
        rig.core.handle_timeouts(rig.now);
        rig.run(&mut [&mut client]);
        assert_eq!(client.close, None);
        rig.now = jumped(100);
        rig.core.handle_timeouts(rig.now);
        rig.run(&mut [&mut client]);
        assert!(client.close.is_some());
    }
}

fn renew_producer(rig: &mut Rig, client: &mut Client, token: &str) {
    rig.send(client, &ProduceRequest { token: Some(token.into()), ..Default::default() });
}

#[test]
fn a_renewal_prolongs_the_grant_and_loses_nothing() {
    let mut rig = Rig::new();
    let mut client = rig.admit("t", until(100));
    rig.produce(&mut client, "q");
    rig.pass(79);
    rig.run(&mut [&mut client]);
    assert!(client.data.is_empty());
    rig.pass(80);
    rig.run(&mut [&mut client]);
    let notice = client.take::<ProduceResponse>().renewal.unwrap();
    assert_eq!((notice.status_code(), notice.token_expires_s), (100, Some(20)));
    renew_producer(&mut rig, &mut client, "u");
    let question = rig.question();
    rig.message(&mut client);
    assert_eq!(code(&client.take::<ProduceResponse>().status), 201, "messages do not wait for the verdict");
    // The verdict comes after the end: a renewal that was read before is waited for.
    rig.pass(89);
    rig.answer(&question, until(200));
    rig.run(&mut [&mut client]);
    let renewal = client.take::<ProduceResponse>();
    assert_eq!((code(&renewal.renewal), renewal.msgnum_status_is_thru()), (100, 1));
    assert_eq!(renewal.renewal.unwrap().token_expires_s, Some(111));
    rig.pass(150);
    rig.message(&mut client);
    assert_eq!(client.take::<ProduceResponse>().msgnum_status_is_thru(), 2);
    rig.pass(200);
    rig.run(&mut [&mut client]);
    assert!(client.close.is_some());
}

#[test]
fn a_renewal_that_was_read_before_the_end_is_waited_for() {
    let mut rig = Rig::new();
    let mut client = rig.admit("t", until(100));
    rig.consume(&mut client, "q");
    rig.pass(99);
    rig.run(&mut [&mut client]);
    client.take::<ConsumeResponse>();
    rig.send(&mut client, &ConsumeRequest { token: Some("u".into()), ..Default::default() });
    let question = rig.question();
    rig.pass(105);
    rig.run(&mut [&mut client]);
    assert_eq!(client.close, None);
    rig.answer(&question, until(300));
    rig.run(&mut [&mut client]);
    assert_eq!(code(&client.take::<ConsumeResponse>().renewal), 100);
    assert_eq!(client.close, None);
}

#[test]
fn a_renewal_without_a_verdict_ends_with_503_and_the_grant() {
    let mut rig = Rig::new();
    let mut client = rig.admit("t", until(100));
    rig.produce(&mut client, "q");
    rig.pass(99);
    rig.run(&mut [&mut client]);
    client.take::<ProduceResponse>();
    renew_producer(&mut rig, &mut client, "u");
    rig.pass(109);
    rig.pass(110);
    rig.run(&mut [&mut client]);
    assert_eq!(code(&client.take::<ProduceResponse>().renewal), 503);
    assert_eq!(code(&client.take::<ProduceResponse>().status), 401);
    assert!(client.close.is_some());
}

#[test]
fn a_refused_renewal_ends_nothing() {
    let other = Ok(Arc::new(Grant { principal: "static:other".into(), ..grant(&["all:*"]) }));
    for (verdict, expected) in [(Err(Denial::Unknown), 401), (Err(Denial::Unavailable), 503), (other, 403)] {
        let mut rig = Rig::new();
        let mut client = rig.admit("t", until(100));
        rig.produce(&mut client, "q");
        renew_producer(&mut rig, &mut client, "u");
        let question = rig.question();
        renew_producer(&mut rig, &mut client, "v");
        assert_eq!(code(&client.take::<ProduceResponse>().renewal), 429, "one at a time");
        rig.answer(&question, verdict);
        rig.run(&mut [&mut client]);
        let renewal = client.take::<ProduceResponse>().renewal.unwrap();
        assert_eq!((renewal.status_code(), renewal.token_expires_s), (expected, Some(100)));
        rig.message(&mut client);
        assert_eq!(code(&client.take::<ProduceResponse>().status), 201);
        rig.pass(100);
        rig.run(&mut [&mut client]);
        assert!(client.close.is_some(), "and does not prolong the grant");
    }
}

#[test]
fn a_request_with_a_token_and_messages_is_refused() {
    let mut rig = Rig::new();
    let mut client = rig.admit("t", all());
    rig.produce(&mut client, "q");
    let payloads = vec![Bytes::from_static(b"x")];
    rig.send(
        &mut client,
        &ProduceRequest { ttl: Some(60), payloads, token: Some("u".into()), ..Default::default() },
    );
    assert_eq!(code(&client.take::<ProduceResponse>().status), 400);
    assert!(rig.core.poll_question().is_none());
}

#[test]
fn without_authentication_tokens_are_ignored() {
    let mut rig = Rig::new();
    let tenants = Arc::new(Tenants::new(ProjectLimits::default()));
    let settings = Arc::new(Settings::default());
    rig.core = Core::new(0, 1, settings, tenants, Memory::new(64 << 20, WhenFull::Refuse, 7));
    let mut client = rig.connect("X-Auth-Token: t\r\nAuthorization: Bearer u\r\n");
    rig.run(&mut [&mut client]);
    assert_eq!(rig.produce(&mut client, "q").token_expires_s, None);
    renew_producer(&mut rig, &mut client, "u");
    assert_eq!(code(&client.take::<ProduceResponse>().renewal), 100);
    rig.message(&mut client);
    assert_eq!(code(&client.take::<ProduceResponse>().status), 201);
}

#[test]
fn a_smaller_grant_ends_what_it_forbids_and_the_connection_stays() {
    let mut rig = Rig::new();
    let mut client = rig.connect("X-Auth-Token: t\r\n");
    let question = rig.question();
    rig.answer(&question, all());
    rig.run(&mut [&mut client]);
    rig.produce(&mut client, "q");
    let change = |rules: &[&str]| Answer::Changed([(question.key, Ok(Arc::new(grant(rules))))].into());
    rig.core.handle_answer(rig.now, change(&["produce:q"]));
    rig.message(&mut client);
    assert_eq!(code(&client.take::<ProduceResponse>().status), 201, "what is still allowed goes on");
    rig.core.handle_answer(rig.now, change(&["consume:q"]));
    rig.run(&mut [&mut client]);
    assert_eq!(code(&client.take::<ProduceResponse>().status), 403);
    rig.end(&mut client);
    assert_eq!(client.close, None);
    assert_eq!(rig.consume(&mut client, "q").status_code(), 100);
    // What is remembered has changed, too.
    let mut next = rig.connect("X-Auth-Token: t\r\n");
    rig.run(&mut [&mut next]);
    assert!(rig.core.poll_question().is_none());
    assert_eq!(rig.produce(&mut next, "q").status_code(), 403);
}

#[test]
fn a_grant_for_other_projects_ends_every_operation() {
    let mut rig = Rig::new();
    let mut client = rig.connect("X-Auth-Token: t\r\n");
    let question = rig.question();
    rig.answer(&question, all());
    rig.run(&mut [&mut client]);
    rig.consume(&mut client, "q");
    let elsewhere = Projects::Listed([Project::parse("elsewhere").unwrap()].into());
    let moved = Grant { projects: elsewhere, ..grant(&["all:*"]) };
    rig.core.handle_answer(rig.now, Answer::Changed([(question.key, Ok(Arc::new(moved)))].into()));
    rig.run(&mut [&mut client]);
    assert_eq!(code(&client.take::<ConsumeResponse>().status), 403);
    rig.end(&mut client);
    assert_eq!(rig.produce(&mut client, "q").status_code(), 403);
}

#[test]
fn a_revoked_credential_acts_like_an_expired_one() {
    let mut rig = Rig::new();
    let mut client = rig.connect("X-Auth-Token: t\r\n");
    let question = rig.question();
    rig.answer(&question, all());
    let mut other = rig.admit("u", all());
    rig.run(&mut [&mut client]);
    rig.consume(&mut client, "q");
    rig.core.handle_answer(rig.now, Answer::Changed([(question.key, Err(Denial::Revoked))].into()));
    rig.run(&mut [&mut client, &mut other]);
    assert_eq!(code(&client.take::<ConsumeResponse>().status), 401);
    assert_eq!(client.close, Some((1008, "token revoked".into())));
    assert_eq!(other.close, None);
    let mut again = rig.connect("X-Auth-Token: t\r\n");
    rig.run(&mut [&mut again]);
    assert!(again.head.starts_with("HTTP/1.1 401 "), "a revoked grant is not remembered");
}

#[test]
fn an_answer_that_a_token_has_expired_does_not_overtake_its_renewal() {
    let mut rig = Rig::new();
    let mut client = rig.connect("X-Auth-Token: t\r\n");
    let question = rig.question();
    rig.answer(&question, until(100));
    rig.run(&mut [&mut client]);
    rig.produce(&mut client, "q");
    rig.pass(99);
    renew_producer(&mut rig, &mut client, "u");
    let renewal = rig.question();
    rig.pass(101);
    rig.core.handle_answer(rig.now, Answer::Changed([(question.key, Err(Denial::Expired))].into()));
    rig.answer(&renewal, until(300));
    rig.message(&mut client);
    client.take::<ProduceResponse>();
    assert_eq!(code(&client.take::<ProduceResponse>().renewal), 100);
    assert_eq!((code(&client.take::<ProduceResponse>().status), &client.close), (201, &None));
}

#[test]
fn bad_renewals_one_after_another_do_not_put_the_end_off() {
    let mut rig = Rig::new();
    let mut client = rig.admit("t", until(100));
    rig.consume(&mut client, "q");
    rig.pass(99);
    rig.run(&mut [&mut client]);
    client.take::<ConsumeResponse>();
    rig.send(&mut client, &ConsumeRequest { token: Some("bad".into()), ..Default::default() });
    let question = rig.question();
    rig.now = at(101);
    // In one turn: the verdict on one token, the next token, and then the time.
    rig.answer(&question, Err(Denial::Unknown));
    rig.send(&mut client, &ConsumeRequest { token: Some("worse".into()), ..Default::default() });
    assert!(rig.core.poll_question().is_none());
    rig.core.handle_timeouts(rig.now);
    rig.run(&mut [&mut client]);
    assert_eq!(code(&client.take::<ConsumeResponse>().renewal), 401);
    assert_eq!(code(&client.take::<ConsumeResponse>().renewal), 401);
    assert_eq!(code(&client.take::<ConsumeResponse>().status), 401);
    assert!(client.close.is_some());
}

#[test]
fn other_rules_do_not_lose_a_renewal_in_progress() {
    let mut rig = Rig::new();
    let mut client = rig.connect("X-Auth-Token: t\r\n");
    let question = rig.question();
    rig.answer(&question, until(100));
    rig.run(&mut [&mut client]);
    rig.produce(&mut client, "q");
    renew_producer(&mut rig, &mut client, "u");
    let renewal = rig.question();
    let expires = Some(UnixMillis::new(UNIX + 100_000));
    let smaller = Ok(Arc::new(Grant { expires, ..grant(&["produce:q"]) }));
    rig.core.handle_answer(rig.now, Answer::Changed([(question.key, smaller)].into()));
    rig.answer(&renewal, until(200));
    rig.run(&mut [&mut client]);
    let told = client.take::<ProduceResponse>().renewal.unwrap();
    assert_eq!((told.status_code(), told.token_expires_s), (100, Some(200)));
}

#[test]
fn a_token_that_expires_while_it_is_checked_renews_nothing() {
    let mut rig = Rig::new();
    let mut client = rig.admit("t", until(100));
    rig.produce(&mut client, "q");
    renew_producer(&mut rig, &mut client, "u");
    let renewal = rig.question();
    rig.pass(3);
    rig.answer(&renewal, until(3));
    rig.run(&mut [&mut client]);
    let told = client.take::<ProduceResponse>().renewal.unwrap();
    assert_eq!((told.status_code(), told.token_expires_s), (401, Some(97)));
    assert_eq!(client.close, None);
}

#[test]
fn a_credential_that_names_another_principal_now_ends_its_connections() {
    let mut rig = Rig::new();
    let mut client = rig.connect("X-Auth-Token: t\r\n");
    let question = rig.question();
    rig.answer(&question, all());
    rig.run(&mut [&mut client]);
    let renamed = Ok(Arc::new(Grant { principal: "static:other".into(), ..grant(&["all:*"]) }));
    rig.core.handle_answer(rig.now, Answer::Changed([(question.key, renamed)].into()));
    rig.run(&mut [&mut client]);
    assert_eq!(client.close, Some((1008, "token revoked".into())));
}

#[test]
fn the_news_of_the_end_is_not_kept_for_a_later_operation() {
    let mut rig = Rig::new();
    let mut client = rig.admit("t", until(100));
    rig.pass(80);
    rig.pass(90);
    assert_eq!(rig.produce(&mut client, "q").token_expires_s, Some(10));
    assert!(client.data.is_empty());
}

#[test]
fn each_token_gets_its_answer_in_order() {
    let mut rig = Rig::new();
    let mut client = rig.admit("t", until(100));
    rig.admit("known", until(200));
    rig.produce(&mut client, "q");
    let token = |token: &str| ProduceRequest { token: Some(token.into()), ..Default::default() };
    let both =
        [token("known").encode_length_delimited_to_vec(), token("new").encode_length_delimited_to_vec()];
    let frame = Frame::message(both.concat(), OpCode::Data(Data::Continue), false);
    let mut bytes = Vec::new();
    crate::masked(frame, &mut rig.random, &mut bytes);
    rig.receive(&client, bytes);
    let question = rig.question();
    rig.answer(&question, Err(Denial::Unknown));
    rig.run(&mut [&mut client]);
    let [first, second] = [(); 2].map(|()| client.take::<ProduceResponse>().renewal.unwrap());
    assert_eq!((first.status_code(), second.status_code()), (100, 401));
}

#[test]
fn verdicts_that_have_ended_are_let_go() {
    let mut rig = Rig::new();
    let grant = Arc::new(grant(&["all:*"]));
    let client = rig.admit("t", Ok(grant.clone()));
    rig.core.handle_gone(rig.now, client.id);
    assert_eq!(Arc::strong_count(&grant), 2, "remembered");
    rig.pass(299);
    assert_eq!(Arc::strong_count(&grant), 2);
    assert!(rig.core.next_deadline().is_some());
    rig.pass(310);
    assert_eq!(Arc::strong_count(&grant), 1);
    assert_eq!(rig.core.next_deadline(), None);
}

#[test]
fn a_reload_makes_the_shard_forget_what_it_refused() {
    let mut rig = Rig::new();
    rig.connect("X-Auth-Token: t\r\n");
    let question = rig.question();
    rig.answer(&question, Err(Denial::Unknown));
    rig.connect("X-Auth-Token: t\r\n");
    assert!(rig.core.poll_question().is_none());
    rig.core.handle_answer(rig.now, Answer::Reloaded);
    rig.connect("X-Auth-Token: t\r\n");
    assert!(!rig.question().is_renewal);
}

#[test]
fn the_same_client_id_of_another_principal_is_another_client() {
    let mut rig = Rig::new();
    let mut writer = rig.admit("w", all());
    let other = Ok(Arc::new(Grant { principal: "static:other".into(), ..grant(&["all:*"]) }));
    let mut same = rig.admit("s", all());
    let mut reader = rig.admit("r", other);
    for client in [&mut same, &mut reader] {
        assert_eq!(rig.consume(client, "q").status_code(), 100);
    }
    assert_eq!(rig.produce(&mut writer, "q").status_code(), 100);
    rig.message(&mut writer);
    rig.run(&mut [&mut same, &mut reader, &mut writer]);
    assert_eq!(reader.take::<ConsumeResponse>().messages.len(), 1);
    assert!(same.data.is_empty(), "its own message is left out");
}
