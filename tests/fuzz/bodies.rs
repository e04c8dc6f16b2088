//! The bodies of the fuzz targets. `cargo fuzz` runs them for hours, `cargo test` on the committed corpus.
//!
//! They cover everything that an untrusted client can send: PROXY headers, tokens, frames, the handshake, lengths, pbs, markers, and
//! a whole session, with the shard and the store also driven by the input. Each body compares the code with
//! an oracle or checks an invariant; it does not only look for panics.
#![allow(dead_code, clippy::unwrap_used, clippy::expect_used)]

#[path = "../common/rig.rs"]
mod rig;

use std::borrow::Cow;
use std::collections::VecDeque;
use std::net::IpAddr;
use std::sync::OnceLock;

use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair};
use base64::prelude::*;
use bytes::Bytes;
use millstream::access::{ProjectLimits, Projects, Right, Rule, Tenants};
use millstream::auth::token::Digest;
use millstream::auth::{Line, Settings as AuthSettings, verify_jwt};
use millstream::base::batch::{BatchBuilder, Fetched, StoredBatch};
use millstream::base::budget::{Account, Budget};
use millstream::base::claim::{Grant, Granted, LeaseId, Lost};
use millstream::base::error::{Fault, PeerFault, StoreFault};
use millstream::base::millis::{Millis, UnixMillis};
use millstream::base::names::{ClientId, Project, QueueAddress};
use millstream::base::queue::{QueueId, QueueInfo};
use millstream::base::units::{Offset, Partition};
use millstream::front::{DrainStep, Handshake, Policy};
use millstream::operation::{Answer, ClaimId, Command, MarkerPlace, Ranges, Start};
use millstream::pb::headers::{HeadersReader, SERVER_PREFIX, checked_headers};
use millstream::pb::wire::Malformed;
use millstream::pb::{
    BY_CLAIM_MAX, ClaimRequest, ConsumeRequest, ConsumeResponse, ConsumeResponseReader, Header, Headers,
    ProduceField, ProduceRequest, SetupRequest, WITH_EXTRAS, WITH_TOKEN, decode_claim_request,
    decode_full_request, decode_produce_request,
};
use millstream::pb::{Delimiter, PbLimits, Step};
use millstream::shard::core::{Announced, ProxyHeader};
use millstream::tls::{
    Config, Failure, HANDSHAKE_BYTES_MAX, Material, Pair, RECORD_BYTES_MAX, Session, Settings as TlsSettings,
    State,
};
use millstream::ws::frame::FrameHeader;
use millstream::ws::handshake::{ClientHandshake, ClientRequest};
use millstream::ws::origin::AllowedOrigins;
use millstream::ws::{CloseCode, Input, MessageKind, Receiver, Role};
use prost::Message;
use rig::Rig;

/// The rest of the input, consumed from the front.
struct Bag<'a>(&'a [u8]);

impl<'a> Bag<'a> {
    fn byte(&mut self) -> u8 {
        match self.0.split_first() {
            Some((first, rest)) => {
                self.0 = rest;
                *first
            }
            None => 0,
        }
    }

    fn take(&mut self, bytes: usize) -> &'a [u8] {
        let (some, rest) = self.0.split_at(bytes.min(self.0.len()));
        self.0 = rest;
        some
    }
}

/// The output of a receiver, independent of how its input was split.
#[derive(Debug, PartialEq, Eq)]
enum Heard {
    Data(MessageKind, Vec<u8>, bool),
    Ping(Vec<u8>),
    Pong,
    Close(Option<CloseCode>),
    Broken(CloseCode),
}

fn hear(role: Role, bytes: &[u8], mut piece: impl FnMut() -> usize) -> Vec<Heard> {
    let mut receiver = Receiver::new(role);
    let mut heard = Vec::new();
    let mut rest = bytes;
    while !rest.is_empty() {
        let (now, later) = rest.split_at(piece().clamp(1, rest.len()));
        rest = later;
        let mut input = now.to_vec();
        let mut at = 0;
        loop {
            match receiver.handle(&mut input[at..]) {
                Ok(Input::More) => break,
                Ok(Input::Data { kind, payload, fin }) => {
                    let piece = &input[at..][payload.clone()];
                    match heard.last_mut() {
                        Some(Heard::Data(_, all, ended @ false)) => {
                            all.extend_from_slice(piece);
                            *ended = fin;
                        }
                        _ => heard.push(Heard::Data(kind, piece.to_vec(), fin)),
                    }
                    at += payload.end;
                }
                Ok(Input::Ping { used, payload }) => {
                    heard.push(Heard::Ping(payload.as_slice().to_vec()));
                    at += used;
                }
                Ok(Input::Pong { used }) => {
                    heard.push(Heard::Pong);
                    at += used;
                }
                Ok(Input::Close { code }) => {
                    heard.push(Heard::Close(code));
                    return heard;
                }
                Err(code) => {
                    heard.push(Heard::Broken(code));
                    return heard;
                }
            }
        }
    }
    heard
}

/// Reads a PROXY header from a stream. Returns its meaning, or `None` if it is refused, and its length. `None` if
/// the stream ends before that.
fn announced(stream: &[u8], mut piece: impl FnMut() -> usize) -> Option<(Option<Announced>, usize)> {
    let (mut header, mut at) = (ProxyHeader::default(), 0);
    while at < stream.len() {
        let count = header.wanted().min(piece().max(1)).min(stream.len() - at);
        let result = header.handle(&stream[at..at + count]);
        at += count;
        match result {
            Ok(None) => {}
            Ok(Some(announced)) => return Some((Some(announced), at)),
            Err(_) => return Some((None, at)),
        }
    }
    None
}

/// PROXY headers: every split gives the same result, a header has exactly the length that it states, and the
/// client's address is the one in it.
pub fn proxy(data: &[u8]) {
    let mut bag = Bag(data);
    let flags = bag.byte();
    let cuts = bag.take(usize::from(flags >> 4)).to_vec();
    let stream = bag.0;
    let mut sizes = cuts.iter().map(|size| usize::from(*size)).chain(std::iter::repeat(1));
    let whole = announced(stream, || usize::MAX);
    let cut = announced(stream, || sizes.next().unwrap_or(1));
    match (whole, cut) {
        (Some((Some(_), _)), _) => assert_eq!(whole, cut),
        (Some((None, _)), Some((None, _))) | (None, None) => {}
        _ => panic!("{whole:?} in one piece, {cut:?} in several"),
    }
    let Some((result, length)) = whole else { return };
    assert!(length <= 536, "{length}");
    let Some(result) = result else { return };
    let header = &stream[..length];
    let client = if header.starts_with(b"PROXY ") {
        assert!(header.ends_with(b"\r\n") && length <= 107);
        let words: Vec<_> = header[..length - 2].split(|byte| *byte == b' ').collect();
        let text = |at: usize| std::str::from_utf8(words[at]).unwrap();
        matches!(words[1], b"TCP4" | b"TCP6").then(|| format!("{} {}", text(2), text(4)))
    } else {
        assert_eq!(length, 16 + usize::from(u16::from_be_bytes([header[14], header[15]])));
        match (header[12], header[13]) {
            (0x21, 0x11) => {
                let ip: [u8; 4] = header[16..20].try_into().unwrap();
                Some(format!("{} {}", IpAddr::from(ip), u16::from_be_bytes([header[24], header[25]])))
            }
            (0x21, 0x21) => {
                let ip: [u8; 16] = header[16..32].try_into().unwrap();
                Some(format!("{} {}", IpAddr::from(ip), u16::from_be_bytes([header[48], header[49]])))
            }
            _ => None,
        }
    };
    let expected = client.map_or(Announced::Nothing, |client| {
        let (ip, port) = client.split_once(' ').unwrap();
        Announced::Client((ip.parse::<IpAddr>().unwrap(), port.parse().unwrap()).into())
    });
    assert_eq!(result, expected);
}

/// JSON Web Tokens: the header, a zero byte, the claims. Whatever they say, only a token that the key signed, of this
/// issuer, for this audience and not expired, is granted, and never one that names a key itself.
pub fn jwt(data: &[u8]) {
    const NOW: u64 = 1_000_000;
    let (header, claims) = match data.iter().position(|byte| *byte == 0) {
        Some(at) => (&data[..at], &data[at + 1..]),
        None => (&br#"{"alg":"EdDSA","kid":"k"}"#[..], data),
    };
    let pair = |seed| Ed25519KeyPair::from_seed_unchecked(&[seed; 32]).unwrap();
    let x = BASE64_URL_SAFE_NO_PAD.encode(pair(1).public_key().as_ref());
    let keys = format!(r#"{{"keys":[{{"kty":"OKP","crv":"Ed25519","kid":"k","x":"{x}"}}]}}"#);
    let settings = AuthSettings {
        jwt_issuer: "https://issuer.example".into(),
        jwt_audience: "millstream".into(),
        ..AuthSettings::default()
    };
    let encoded = |bytes: &[u8]| BASE64_URL_SAFE_NO_PAD.encode(bytes);
    let message = format!("{}.{}", encoded(header), encoded(claims));
    let verdict = |signature: &[u8]| {
        let token = format!("{message}.{}", encoded(signature));
        verify_jwt(&settings, keys.as_bytes(), UnixMillis::new(NOW * 1_000), &token)
    };
    assert!(verdict(pair(2).sign(message.as_bytes()).as_ref()).is_err(), "another key signed it");
    assert!(verdict(b"").is_err(), "nobody signed it");
    let Ok(grant) = verdict(pair(1).sign(message.as_bytes()).as_ref()) else { return };
    let header: serde_json::Value = serde_json::from_slice(header).unwrap();
    let claims: serde_json::Value = serde_json::from_slice(claims).unwrap();
    assert_eq!(header["alg"], "EdDSA");
    for name in ["jku", "jwk", "x5u", "x5c", "crit", "b64"] {
        assert!(header.get(name).is_none(), "{name}");
    }
    assert_eq!(claims["iss"], "https://issuer.example");
    assert!(
        claims["aud"] == "millstream" || claims["aud"].as_array().unwrap().contains(&"millstream".into())
    );
    assert!(claims["exp"].as_f64().unwrap() > NOW as f64 - 30.0);
    assert!(grant.principal.starts_with("jwt:https://issuer.example|"));
    assert_eq!(grant.principal.matches('|').count(), 1);
    assert!(grant.principal.chars().all(|char| !char.is_control()));
    assert!(matches!(grant.projects, Projects::Listed(_)) && grant.rules.is_empty(), "no role has rules");
}

/// Rules: the first line is a rule, the second the name of a queue. A rule is shown as it is read, matches what its
/// pattern says, and fits in a file of tokens.
pub fn rules(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let (rule, queue) = text.split_once('\n').unwrap_or((&text, "orders"));
    let line = Line::new("app", Digest::of("x"), "*", &[rule.to_owned()]);
    let Ok(parsed) = Rule::parse(rule) else {
        assert!(line.is_err());
        return;
    };
    assert!(line.is_ok());
    assert_eq!(Rule::parse(&parsed.to_string()), Ok(parsed.clone()));
    let (rights, pattern) = rule.split_once(':').unwrap();
    for right in Right::ALL {
        let is_named = rights.split(',').any(|name| name == "all" || name == right.name());
        let matches = match pattern.strip_suffix('*') {
            Some(prefix) => queue.starts_with(prefix),
            None => queue == pattern,
        };
        assert_eq!(
            parsed.allows(right, queue),
            is_named && matches && !pattern.contains('@'),
            "{rule} {queue}"
        );
    }
}

/// Frames: every split gives the same output, and headers parse as in tungstenite.
pub fn frames(data: &[u8]) {
    let mut bag = Bag(data);
    let flags = bag.byte();
    let role = if flags & 1 == 0 { Role::Server } else { Role::Client };
    let cuts = bag.take(usize::from(flags >> 4)).to_vec();
    let whole = hear(role, bag.0, || usize::MAX);
    let mut sizes = cuts.iter().map(|size| usize::from(*size)).chain(std::iter::repeat(1));
    let cut = hear(role, bag.0, || sizes.next().unwrap_or(1));
    // A ping may split a message into two pieces.
    let text = |heard: &[Heard]| {
        let mut text: Vec<u8> = Vec::new();
        for one in heard {
            if let Heard::Data(_, all, _) = one {
                text.extend_from_slice(all);
            }
        }
        text
    };
    assert_eq!(text(&whole), text(&cut));
    assert_eq!(whole.last(), cut.last());
    if let Ok(Some((header, used))) = FrameHeader::parse(bag.0) {
        let mut written = Vec::new();
        header.write(&mut written);
        assert_eq!(written, &bag.0[..used]);
        let oracle =
            tungstenite::protocol::frame::FrameHeader::parse(&mut std::io::Cursor::new(bag.0)).unwrap();
        let (oracle, length) = oracle.unwrap();
        assert_eq!((header.fin, header.mask, header.length), (oracle.is_final, oracle.mask, length));
    }
}

/// The handshake: the result (refused, accepted or incomplete) is the same for each prefix that is long
/// enough.
pub fn handshake(data: &[u8]) {
    let policy = Policy {
        allowed_origins: AllowedOrigins::parse("https://console.example").unwrap(),
        test_echo: true,
        ..Policy::default()
    };
    let mut out = Vec::new();
    if let Ok(Some(handshake)) = Handshake::read(data, &policy) {
        handshake.accept(&mut out).unwrap();
        let used = handshake.used();
        assert!(out.starts_with(b"HTTP/1.1 101 ") && out.ends_with(b"\r\n\r\n"));
        assert!(used <= data.len());
        for end in [0, 1, used / 2, used - 1] {
            assert!(!matches!(Handshake::read(&data[..end], &policy), Ok(Some(_))));
        }
        assert!(matches!(Handshake::read(&data[..used], &policy), Ok(Some(_))));
    }
    let request = ClientRequest { host: "h", path: "/", subprotocol: Some("s"), headers: &[] };
    let _ = ClientHandshake::start(&request, &mut Vec::new()).handle(data);
}

const PB_MAX: usize = 3_000;
const PB_LIMITS: PbLimits = PbLimits { max_bytes: PB_MAX, foothold_bytes: 64, large_bytes: 1_000 };

fn split(bytes: &[u8], mut piece: impl FnMut() -> usize) -> (Vec<Vec<u8>>, Option<PeerFault>) {
    let (mut delimiter, mut budget, mut account) =
        (Delimiter::default(), Budget::new(1 << 20), Account::default());
    let (mut purse, mut pbs) = (budget.purse(&mut account), Vec::new());
    let mut rest = bytes;
    while !rest.is_empty() {
        let (mut input, later) = rest.split_at(piece().clamp(1, rest.len()));
        rest = later;
        loop {
            match delimiter.next(input, PB_LIMITS, &mut purse) {
                Ok((used, Step::Pb(pb))) => {
                    pbs.push(pb.to_vec());
                    purse.release(pb.len());
                    input = &input[used..];
                }
                Ok((used, Step::More)) => {
                    assert_eq!(used, input.len());
                    break;
                }
                Ok((_, Step::Wait(wanted))) => panic!("a large budget must have {wanted:?}"),
                Err(fault) => return (pbs, Some(fault)),
            }
        }
        assert!(purse.reserved() <= PB_MAX);
    }
    delimiter.reset(&mut purse);
    assert_eq!(purse.reserved(), 0);
    (pbs, None)
}

/// Lengths and pbs: every split gives the same pbs.
pub fn delimiter(data: &[u8]) {
    let mut bag = Bag(data);
    let cuts = bag.byte();
    let cuts = bag.take(usize::from(cuts)).to_vec();
    let mut sizes = cuts.iter().map(|size| usize::from(*size) * 8 + 1);
    let cut = split(bag.0, || sizes.next().unwrap_or(7));
    assert_eq!(split(bag.0, || usize::MAX), cut);
}

/// What the hand-written decoders say of a group. prost skips a well-formed one.
const GROUP: Malformed = Malformed("a group or an unknown wire type");

/// The headers of a message: what is accepted is what prost decodes, without the server's names, and is accepted again.
fn headers(data: &[u8]) {
    let Ok(kept) = checked_headers(data) else { return };
    let oracle = Headers::decode(data).expect("prost decodes what is accepted");
    let kept_by = |header: &&Header| !header.name().starts_with(SERVER_PREFIX);
    let expected =
        oracle.headers.iter().filter(kept_by).map(|header| (header.name(), header.value.as_deref()));
    let read = HeadersReader::new(&kept).map(|header| header.expect("it was checked"));
    assert!(read.map(|header| (header.name, header.value)).eq(expected));
    assert!(matches!(checked_headers(&kept), Ok(Cow::Borrowed(again)) if again == &kept[..]));
}

/// The pbs: the hand-written decoders agree with prost.
pub fn pbs(data: &[u8]) {
    headers(data);
    let (mut payloads, mut keys, mut headers) = (Vec::new(), Vec::new(), Vec::new());
    let ours = decode_produce_request(data, |_| {});
    // A request with a delay or headers is decoded again.
    assert!(ours != Err(WITH_EXTRAS) || decode_full_request(data, |_| {}) != Ok(Default::default()));
    let ours = decode_full_request(data, |field| match field {
        ProduceField::Payload(payload) => payloads.push(Bytes::copy_from_slice(payload)),
        ProduceField::Key(key) => keys.push(Bytes::copy_from_slice(key)),
        ProduceField::Headers(of_one) => headers.push(Bytes::copy_from_slice(of_one)),
    });
    match (&ours, ProduceRequest::decode(data)) {
        (Err(GROUP), _) => {}
        (Err(WITH_TOKEN), Ok(oracle)) => assert!(oracle.token.is_some()),
        (Err(_), oracle) => assert!(oracle.is_err()),
        (Ok((head, extras)), Ok(oracle)) => {
            assert_eq!((head.ttl, extras.delay), (oracle.ttl, oracle.delay));
            assert_eq!((payloads, keys, headers), (oracle.payloads, oracle.keys, oracle.headers));
        }
        // prost reads the token, too.
        (Ok(head), Err(error)) => panic!("{head:?}, but prost says {error}"),
    }
    let mut reader = ConsumeResponseReader::new(data);
    let mut messages = Vec::new();
    let ours = loop {
        match reader.next_message() {
            Ok(Some(message)) => messages.push((message.id, message.payload, message.key, message.ttl)),
            Ok(None) => break Ok(()),
            Err(error) => break Err(error),
        }
    };
    // The client's reader knows fewer fields than prost, so it accepts some input that prost refuses.
    if let (Ok(()), Ok(oracle)) = (ours, ConsumeResponse::decode(data)) {
        assert_eq!(messages.len(), oracle.messages.len());
        for ((id, payload, key, ttl), oracle) in messages.into_iter().zip(&oracle.messages) {
            assert_eq!((id, ttl), (oracle.id(), oracle.ttl()));
            assert_eq!((payload, key), (oracle.payload.as_deref(), oracle.key.as_deref()));
        }
    }
    let _ = SetupRequest::decode(data);
    let _ = ConsumeRequest::decode(data);
}

/// Requests of workers: the decoder agrees with prost, and a list that passes the check names only numbers that were
/// sent, each once. Ids of claims: a parsed id prints as the same text.
pub fn claims(data: &[u8]) {
    match (decode_claim_request(data), ClaimRequest::decode(data)) {
        (Err(GROUP), _) => {}
        // The numbers in the lists are read later.
        (Ok(_), Err(_)) => {}
        (Err(error), oracle) => {
            let has_many = oracle.as_ref().is_ok_and(|oracle| oracle.by_claim.len() > BY_CLAIM_MAX);
            assert!(oracle.is_err() || has_many, "{error:?}");
        }
        (Ok(ours), Ok(oracle)) => {
            assert_eq!(
                (ours.max_msgnum_to_send, ours.token),
                (oracle.max_msgnum_to_send, oracle.token.as_deref())
            );
            assert_eq!((ours.release_delay, ours.renew_ttl), (oracle.release_delay, oracle.renew_ttl));
            assert_eq!((ours.by_claim, ours.stop), (oracle.by_claim, oracle.stop.unwrap_or(false)));
            let lists = [(ours.ack, oracle.ack), (ours.release, oracle.release), (ours.renew, oracle.renew)];
            for (ours, oracle) in lists {
                let sent = oracle.iter().copied().max().unwrap_or(0).wrapping_mul(3);
                let ranges = Ranges(&ours);
                if ranges.check("ack", sent).is_err() {
                    continue;
                }
                let (mut end, mut pairs) = (0, Vec::new());
                for range in ranges.iter() {
                    assert!(range.start > end && range.end > range.start && range.end - 1 <= sent);
                    pairs.extend([range.start - 1 - end, range.end - range.start]);
                    end = range.end - 1;
                }
                assert_eq!(pairs, oracle);
            }
        }
    }
    if let Some((text, id)) =
        std::str::from_utf8(data).ok().and_then(|text| Some((text, ClaimId::parse(text)?)))
    {
        assert_eq!(id.to_string(), text.to_ascii_lowercase());
    }
}

/// Starts of consumers, and names: a parsed marker encodes to text that parses to the same marker.
pub fn marker(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let _ = QueueAddress::parse(text);
    let _ = ClientId::parse(text);
    let Ok(Start::Marker(marker)) = Start::parse(text) else { return };
    for partitions in [1, 8, 64] {
        let queue = QueueInfo {
            id: QueueId(1),
            incarnation: 9,
            partitions,
            hash: 7,
            signing: Default::default(),
            policy: Default::default(),
        };
        if let Ok(MarkerPlace::Here(positions) | MarkerPlace::OtherTimeline(_, positions)) =
            marker.place(&queue)
        {
            assert_eq!(positions.len(), usize::from(partitions));
        }
    }
}

/// A session. The input is the client's half, the answers of the shard and the store, and the passing of
/// time. In any case, frames must be whole, all memory must be released, and no append may be requested
/// twice.
pub fn session(data: &[u8]) {
    let mut bag = Bag(data);
    let mut settings = Rig::defaults();
    settings.max_payload_bytes = 200;
    settings.max_pb_bytes = PB_MAX;
    settings.foothold_bytes = 64;
    settings.large_pb_bytes = 1_000;
    settings.produce_window = 100 + u32::from(bag.byte());
    settings.produce_window_bytes = 2_000;
    settings.consume_batch_messages = 1 + usize::from(bag.byte() % 9);
    settings.consume_batch_bytes = 300;
    settings.discard_limit_bytes = 20_000;
    let budget_bytes = PB_MAX + 64 * usize::from(bag.byte());
    let rates = bag.byte();
    let tenants = Tenants::new(ProjectLimits {
        messages_per_sec: u64::from(rates & 15) * 20,
        bytes_per_sec: u64::from(rates >> 4) * 900,
        ..ProjectLimits::default()
    });
    let mut rig = Rig::with_budget(settings, budget_bytes);
    rig.limit(Some(tenants.get(&Project::parse("p").unwrap(), Millis::new(1))));
    let mut asked: VecDeque<Command> = VecDeque::new();
    let mut appends = 0;
    let mut ended = false;
    while !bag.0.is_empty() && !ended {
        let step = bag.byte();
        match step & 7 {
            0..=2 => {
                let fin = step & 8 != 0;
                let canned;
                let piece = match step & 7 {
                    0 => {
                        let length = usize::from(bag.byte());
                        bag.take(length)
                    }
                    1 => {
                        canned = canned_setup(bag.byte());
                        &canned[..]
                    }
                    _ => {
                        canned = canned_request(bag.byte());
                        &canned[..]
                    }
                };
                let mut rest = piece;
                while !rig.call(|session, cx| session.is_blocked(cx)) {
                    let used = rig.call(|session, cx| session.handle_data(rest, fin, cx));
                    rest = &rest[used..];
                    if rest.is_empty() {
                        break;
                    }
                    rig.call(|session, cx| session.poll_transmit(cx));
                }
                // The rest is dropped if the session is blocked. The shard's own tests pass it again.
            }
            3 => rig.call(|session, cx| session.flush(cx)),
            4 | 5 => {
                if let Some(command) = asked.pop_front() {
                    answer(&mut rig, command, step, &mut bag);
                }
            }
            6 => {
                rig.writable = step & 8 == 0;
                rig.call(|session, cx| session.retry(cx));
            }
            _ => {
                rig.now.mono = rig.now.mono + Millis::new(u64::from(bag.byte()) * 200);
                rig.now.unix = rig.now.unix + Millis::new(1_000);
                rig.call(|session, cx| session.handle_timeout(cx));
                if step & 0xf0 == 0xf0 {
                    rig.call(|session, cx| session.drain(DrainStep::Producers, cx));
                    let until = rig.now.mono + Millis::new(1_000);
                    rig.call(|session, cx| session.drain(DrainStep::Consumers { until }, cx));
                }
            }
        }
        rig.call(|session, cx| session.poll_transmit(cx));
        check_frames(&rig.out);
        rig.out.clear();
        appends += rig.commands.iter().filter(|command| matches!(command, Command::Append { .. })).count();
        asked.extend(rig.commands.drain(..));
        assert!(appends <= data.len() * 64, "too many appends for the input");
        ended = rig.call(|session, _| session.status().close.is_some());
    }
    rig.call(|session, cx| session.abandon(cx));
    asked.extend(rig.commands.drain(..));
    for command in asked {
        if let Command::Append { reserved, .. } = command {
            rig.budget.release(reserved);
        }
    }
    assert_eq!((rig.budget.reserved(), rig.budget.held()), (0, 0), "all memory must be released");
}

fn canned_setup(variant: u8) -> Vec<u8> {
    let queue = if variant & 1 == 0 { "q" } else { "q/1" };
    let setup = if variant & 34 == 34 {
        let claim = millstream::pb::ClaimSetupRequest {
            queue_name: Some(queue.into()),
            ttl: Some(u32::from(variant >> 6)),
            release_on_disconnect: Some(variant & 4 == 0),
            ..Default::default()
        };
        SetupRequest { claim: Some(claim), ..SetupRequest::default() }
    } else if variant & 2 == 0 {
        SetupRequest {
            append: Some(millstream::pb::ProduceSetupRequest { queue_name: Some(queue.into()) }),
            get: None,
            claim: None,
        }
    } else {
        let marker = ["", "0", "latest", "time:5"][usize::from(variant >> 2 & 3)];
        SetupRequest {
            get: Some(millstream::pb::ConsumeSetupRequest {
                queue_name: Some(queue.into()),
                starting_marker: Some(marker.into()),
                echo_requested: Some(variant & 16 != 0),
                ..Default::default()
            }),
            append: None,
            claim: None,
        }
    };
    setup.encode_length_delimited_to_vec()
}

fn canned_request(variant: u8) -> Vec<u8> {
    if variant & 0xc1 == 0xc1 {
        let list = |bit: u8| if variant & bit == 0 { vec![] } else { vec![u64::from(bit) / 4, 3, 2, 1] };
        let request = ClaimRequest {
            max_msgnum_to_send: Some(i64::from(variant & 0x3e) * 3),
            ack: list(2),
            release: list(4),
            reject: list(8),
            renew: list(16),
            stop: (variant & 0x3e == 0x3e).then_some(true),
            ..ClaimRequest::default()
        };
        return request.encode_length_delimited_to_vec();
    }
    if variant & 1 != 0 {
        let credit = i64::from(variant) * 3;
        let request = ConsumeRequest {
            send_marker: Some(variant & 2 != 0),
            max_msgnum_to_send: Some(credit),
            ..ConsumeRequest::default()
        };
        return request.encode_length_delimited_to_vec();
    }
    let payloads: Vec<Bytes> =
        (0..usize::from(variant >> 4)).map(|size| Bytes::from(vec![b'x'; size * 16])).collect();
    let keys = payloads.iter().map(|payload| Bytes::from(vec![b'k'; payload.len() % 3])).collect();
    let ttl = if variant & 2 == 0 { 60 } else { 61 };
    let keys = if variant & 4 == 0 { vec![] } else { keys };
    // Of three headers, one is none, one is `Headers` and one is not.
    let headers = payloads
        .iter()
        .map(|payload| Bytes::from_static([&b""[..], b"\x0a\0", b"\x0a"][payload.len() / 16 % 3]));
    let headers = if variant & 8 == 0 { vec![] } else { headers.collect() };
    ProduceRequest { ttl: Some(ttl), payloads, keys, headers, ..ProduceRequest::default() }
        .encode_length_delimited_to_vec()
}

fn answer(rig: &mut Rig, command: Command, step: u8, bag: &mut Bag<'_>) {
    let fails = step & 0xf8 == 0x08;
    match command {
        Command::Claim { operation, target, messages_max, terms, .. } => {
            let partition = target.partition.partition;
            let count = u64::from(messages_max.min(u32::from(bag.byte() % 9)));
            let mut builder = BatchBuilder::new(ClientId::from(3), 60, 0);
            (0..count).for_each(|index| builder.push(&[7; 90][..index as usize * 4]));
            let base = Offset(u64::from(bag.byte()));
            let end = base + count;
            let ends = rig.now.mono + Millis::from_secs(terms.ttl_secs);
            let result = if fails {
                Err(StoreFault::Full)
            } else if count == 0 {
                Ok(None)
            } else {
                let (timestamp, batch) = (rig.now.unix, builder.close());
                let stored = StoredBatch { base_offset: base, timestamp, stored_ns: 0, batch };
                let runs = vec![Granted { stored, offsets: base..end, record: 0, count: 1, expires: None }];
                Ok(Some(Grant { lease: LeaseId(u64::from(step)), ends, runs }))
            };
            rig.call(|session, cx| session.answer(operation, Answer::Claimed { partition, result }, cx));
        }
        Command::Watch { operation, target, .. } => {
            let partition = target.partition.partition;
            let result = if fails { Err(StoreFault::Full) } else { Ok(()) };
            rig.call(|session, cx| session.answer(operation, Answer::Watched { partition, result }, cx));
        }
        Command::Settle { operation, sequence, target, settlements } => {
            let partition = target.partition.partition;
            let offset = Offset(u64::from(bag.byte()));
            let lost =
                Lost { settlement: usize::from(step) % settlements.len(), offsets: vec![offset..offset + 3] };
            let result = if fails { Err(StoreFault::Full) } else { Ok(vec![lost]) };
            let answer = Answer::Settled { sequence, partition, result };
            rig.call(|session, cx| session.answer(operation, answer, cx));
        }
        // Without an answer, or not for streaming sessions.
        Command::Leave { .. }
        | Command::Manage { .. }
        | Command::Order { .. }
        | Command::Authenticate { .. }
        | Command::Vouch => {}
        Command::Renew { operation, .. } => {
            let renewed = if fails { Err(Fault::Unverified) } else { Ok(()) };
            rig.call(|session, cx| session.answer(operation, Answer::Renewed(renewed), cx));
        }
        Command::Open { operation, .. } => {
            let opened = if fails {
                Err(Fault::Internal("planned"))
            } else {
                Ok(Rig::queue(1 + u16::from(step >> 6)))
            };
            rig.call(|session, cx| {
                session.answer(
                    operation,
                    Answer::Opened { result: opened, local_partition: Partition(0), has_claims: true },
                    cx,
                )
            });
        }
        Command::Append { operation, sequence, batch, reserved, .. } => {
            rig.budget.release(reserved);
            let offset = Offset(u64::from(bag.byte()));
            let result = if fails {
                Err(StoreFault::Full)
            } else {
                Ok((step & 0x20 == 0).then(|| offset..offset + u64::from(batch.count())))
            };
            rig.call(|session, cx| session.answer(operation, Answer::Appended { sequence, result }, cx));
        }
        Command::Resolve { operation, target, .. } => {
            let partition = target.partition.partition;
            let position = if fails { Err(StoreFault::Full) } else { Ok(Offset(u64::from(bag.byte()))) };
            rig.call(|session, cx| {
                session.answer(operation, Answer::Resolved { partition, result: position }, cx)
            });
        }
        Command::Fetch { operation, target, from, wait, .. } => {
            let partition = target.partition.partition;
            let count = u64::from(bag.byte() % 20);
            if count == 0 && wait && !fails {
                return;
            }
            let mut builder = BatchBuilder::new(ClientId::from(3), 60, 0);
            (0..count).for_each(|index| builder.push(&[7; 90][..index as usize * 4]));
            let timestamp = rig.now.unix.saturating_sub(Millis::new(u64::from(step) * 400));
            let stored = StoredBatch { base_offset: from, timestamp, stored_ns: 0, batch: builder.close() };
            let batches = if count == 0 { vec![] } else { vec![stored] };
            let fetched = Fetched { batches, next: from + count, at_end: true, ..Fetched::default() };
            let fetched = if fails { Err(StoreFault::Full) } else { Ok(fetched) };
            rig.call(|session, cx| {
                session.answer(operation, Answer::Fetched { partition, result: fetched }, cx)
            });
        }
        // A streaming client does not send the last two.
        Command::Cancel { .. } | Command::Report { .. } => {}
    }
}

/// Checks that the output consists of whole, unmasked data frames.
fn check_frames(mut out: &[u8]) {
    while !out.is_empty() {
        let (header, used) = FrameHeader::parse(out).expect("a valid header").expect("a whole header");
        assert!(header.mask.is_none() && !header.opcode.is_control());
        out = &out[used + header.length as usize..];
    }
}

/// A configuration with an Ed25519 key, whose signatures all have the same length.
fn tls_config() -> &'static Config {
    static CONFIG: OnceLock<Config> = OnceLock::new();
    CONFIG.get_or_init(|| {
        let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap();
        let params = rcgen::CertificateParams::new(vec!["server.example".to_owned()]).unwrap();
        let certificate = params.self_signed(&key).unwrap();
        let pair =
            Pair { chain: vec![certificate.der().clone()], key: key.serialize_der().try_into().unwrap() };
        Config::new(Material { pairs: vec![pair], ..Material::default() }, &TlsSettings::default()).unwrap()
    })
}

/// Passes bytes to a session, at most `most` at once. Returns the result and how many bytes the session sent.
fn tls_handshake(mut input: &[u8], most: usize) -> (Result<State, Failure>, usize) {
    let mut session = Session::new(tls_config()).unwrap();
    let mut wire = vec![0; RECORD_BYTES_MAX.max(HANDSHAKE_BYTES_MAX + 1)];
    let mut reply = Vec::new();
    while !input.is_empty() {
        let cut = session.put_back(&mut wire);
        let count = most.min(input.len()).min(session.wanted(0)).min(wire.len() - cut);
        wire[cut..cut + count].copy_from_slice(&input[..count]);
        input = &input[count..];
        let take = |_: &[u8]| panic!("plaintext without a handshake");
        if let Err(failure) = session.open(&mut wire[..cut + count], &mut reply, take) {
            assert_eq!(session.certificate(), Ok(None));
            return (Err(failure), reply.len());
        }
        assert!(session.cut().is_none_or(|(_, bytes)| bytes <= HANDSHAKE_BYTES_MAX));
        assert!(session.seal(b"early", &mut Vec::new()).is_err());
    }
    (Ok(session.state()), reply.len())
}

/// The cuts of a client's bytes do not change what a TLS session makes of them.
pub fn tls(data: &[u8]) {
    let Some((most, input)) = data.split_first() else { return };
    let whole = tls_handshake(input, usize::MAX);
    let cut = tls_handshake(input, usize::from(*most).max(1));
    assert_eq!(whole, cut);
    assert_eq!(whole.0.ok(), whole.0.ok().filter(|state| *state == State::Handshaking));
}
