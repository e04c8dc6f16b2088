//! Clients of the Zaqar API on a queue of their own, and a judge of what they see.
//!
//! Each guest has one connection and sends requests without waiting for their answers. The judge checks that the answers
//! come in order, that every message that was posted, or pushed to a subscriber, is there at the end unless it was deleted, that none is seen after its
//! deletion was answered, and that no message is in two claims at once.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use millstream::base::millis::Millis;
use millstream::ws::handshake::{ClientHandshake, ClientRequest};
use millstream::ws::{Input, MessageKind, Receiver, Role, Sender};
use serde_json::{Value, json};

use super::clock::Clock;
use super::pipe::{Pipe, ServerEnd, Shared};
use super::random::Random;
use super::server::Server;

const QUEUE: &str = "guests";
const CLIENT_ID: &str = "67e55044-10b1-426f-9247-bb680e5fe0c8";

/// The most guests at once, and the most requests of one that are not answered.
const GUESTS_MAX: usize = 3;
const ASKED_MAX: usize = 12;

/// The capacity of a connection in each direction, in bytes.
const PIPE_BYTES: usize = 20_000;

/// The shortest TTL of a claim.
const CLAIM_SECS: u32 = 60;

/// What the judge knows of a message.
#[derive(Debug, Default)]
struct Fact {
    /// Whether its post was answered with 201.
    is_stored: bool,
    /// Whether a request may have deleted it.
    may_be_deleted: bool,
    /// When a deletion of it was answered.
    deleted_at: Option<u64>,
    /// The claim that it is in, and the earliest time of the claim's end.
    held: Option<(String, Millis)>,
}

#[derive(Debug)]
enum Asked {
    Post(Vec<String>),
    /// Shows messages: a list, or a claim if `claims` says so.
    Show {
        claims: bool,
    },
    Delete(Vec<String>),
    Release,
    Subscription,
    Other,
}

#[derive(Debug)]
struct Pending {
    number: u64,
    asked: Asked,
    /// When it was sent, in events and by the clock.
    sent: u64,
    sent_ms: Millis,
}

struct Guest {
    pipe: Shared,
    handshake: Option<ClientHandshake>,
    receiver: Receiver,
    sender: Sender,
    /// Bytes to send, and received bytes that are not handled.
    out: VecDeque<u8>,
    received: Vec<u8>,
    document: Vec<u8>,
    pending: VecDeque<Pending>,
    has_subscribed: bool,
}

/// The guests, and the judge of what they see.
pub struct Guests {
    random: Random,
    clock: Clock,
    guests: Vec<Guest>,
    facts: BTreeMap<String, Fact>,
    ids: BTreeMap<String, String>,
    claims: BTreeMap<String, Vec<String>>,
    /// The number of the last event, of the last request, and of the last message.
    event: u64,
    number: u64,
    posted: u64,
    /// Whether clocks are wrong, so that claims end at other times.
    may_hide: bool,
    /// The first thing that was wrong.
    fault: Option<String>,
    /// The pages of the audit.
    audit: Option<BTreeSet<String>>,
    is_audited: bool,
}

impl Guests {
    pub fn new(random: Random, clock: Clock, may_hide: bool) -> Self {
        Self {
            random,
            clock,
            guests: Vec::new(),
            facts: BTreeMap::new(),
            ids: BTreeMap::new(),
            claims: BTreeMap::new(),
            event: 0,
            number: 0,
            posted: 0,
            may_hide,
            fault: None,
            audit: None,
            is_audited: false,
        }
    }

    /// Does one randomly chosen thing.
    pub fn step(&mut self, server: &Server) -> Result<(), String> {
        match self.random.below(12) {
            0 if self.guests.len() < GUESTS_MAX => self.connect(server),
            1 if self.random.one_in(8) => self.leave(),
            2..=6 => drop(self.pass()),
            _ => self.ask(),
        }
        self.look()
    }

    /// Returns what was wrong so far.
    fn look(&self) -> Result<(), String> {
        self.fault.clone().map_or(Ok(()), Err)
    }

    fn connect(&mut self, server: &Server) {
        let pipe = Pipe::new(PIPE_BYTES);
        if !server.accept(self.random.below(server.shards()), pipe.clone()) {
            return;
        }
        let mut request = Vec::new();
        let asked = ClientRequest { host: "h", path: "/v2", subprotocol: None, headers: &[] };
        let handshake = Some(ClientHandshake::start(&asked, &mut request));
        self.guests.push(Guest {
            pipe,
            handshake,
            receiver: Receiver::new(Role::Client),
            sender: Sender::new(Role::Client),
            out: request.into(),
            received: Vec::new(),
            document: Vec::new(),
            pending: VecDeque::new(),
            has_subscribed: false,
        });
    }

    /// Disconnects a random guest. Nobody knows what becomes of its requests.
    fn leave(&mut self) {
        if !self.guests.is_empty() {
            let index = self.random.below(self.guests.len());
            self.guests.swap_remove(index).pipe.borrow_mut().close();
        }
    }

    /// Disconnects every guest.
    pub fn leave_all(&mut self) {
        for guest in self.guests.drain(..) {
            guest.pipe.borrow_mut().close();
        }
    }

    /// Sends a random request of a random guest.
    fn ask(&mut self) {
        let ready = |guest: &&mut Guest| guest.handshake.is_none() && guest.pending.len() < ASKED_MAX;
        let count = self.guests.iter_mut().filter(ready).count();
        if count == 0 {
            return;
        }
        let chosen = self.random.below(count);
        let queue = json!({"queue_name": QUEUE});
        let with = |mut body: Value, more: Value| {
            body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            body
        };
        let (action, body, asked) = match self.random.below(16) {
            0..=5 => {
                let first = self.posted;
                self.posted += self.random.between(1, 4) as u64;
                let bodies: Vec<String> =
                    (first..self.posted).map(|number| format!("guest {number}")).collect();
                for body in &bodies {
                    self.facts.insert(body.clone(), Fact::default());
                }
                let messages: Vec<Value> =
                    bodies.iter().map(|body| json!({"body": body, "ttl": 1_209_600})).collect();
                ("message_post", with(queue, json!({"messages": messages})), Asked::Post(bodies))
            }
            6..=8 => {
                let list = json!({"echo": true, "limit": 20, "include_claimed": self.random.one_in(2)});
                ("message_list", with(queue, list), Asked::Show { claims: false })
            }
            9..=11 => {
                let claim = json!({"limit": self.random.between(1, 8), "ttl": CLAIM_SECS, "grace": 60});
                ("claim_create", with(queue, claim), Asked::Show { claims: true })
            }
            12..=13 if !self.ids.is_empty() => {
                let (mut ids, mut bodies) = (Vec::new(), Vec::new());
                for _ in 0..self.random.between(1, 3) {
                    let index = self.random.below(self.ids.len());
                    let (id, body) = self.ids.iter().nth(index).unwrap();
                    ids.push(id.clone());
                    bodies.push(body.clone());
                    self.facts.get_mut(body).unwrap().may_be_deleted = true;
                }
                ("message_delete_many", with(queue, json!({"message_ids": ids})), Asked::Delete(bodies))
            }
            14 if !self.claims.is_empty() => {
                let index = self.random.below(self.claims.len());
                let claim = self.claims.keys().nth(index).unwrap().clone();
                // From now on, its messages may be in another claim.
                for body in self.claims.remove(&claim).unwrap() {
                    self.facts.get_mut(&body).unwrap().held = None;
                }
                ("claim_delete", with(queue, json!({"claim_id": claim})), Asked::Release)
            }
            15 => ("subscription_create", queue, Asked::Subscription),
            _ => ("queue_get_stats", queue, Asked::Other),
        };
        self.send(chosen, action, body, asked);
    }

    /// Sends a request of the guest with this number among those that may send one.
    fn send(&mut self, chosen: usize, action: &str, mut body: Value, asked: Asked) {
        self.event += 1;
        self.number += 1;
        body.as_object_mut().unwrap().insert("n".to_owned(), json!(self.number));
        let headers = json!({"Client-ID": CLIENT_ID, "X-Project-ID": "p"});
        let text = json!({"action": action, "headers": headers, "body": body}).to_string();
        let ready = |guest: &&mut Guest| guest.handshake.is_none() && guest.pending.len() < ASKED_MAX;
        let Some(guest) = self.guests.iter_mut().filter(ready).nth(chosen) else { return };
        let mut frame = Vec::new();
        guest.sender.data(&mut frame, MessageKind::Text, true, text.len(), |out| {
            out.extend_from_slice(text.as_bytes());
        });
        guest.out.extend(frame);
        let pending = Pending { number: self.number, asked, sent: self.event, sent_ms: self.clock.millis() };
        guest.pending.push_back(pending);
    }

    /// Lets every guest send and receive once. Returns false if there was nothing to do.
    pub fn pass(&mut self) -> bool {
        self.send_and_receive().unwrap_or_else(|fault| {
            self.fault.get_or_insert(fault);
            false
        })
    }

    fn send_and_receive(&mut self) -> Result<bool, String> {
        let mut progress = false;
        let (up, down) = (self.random.between(1, 5_000), self.random.between(1, 8_000));
        for index in (0..self.guests.len()).rev() {
            let guest = &mut self.guests[index];
            let Guest { pipe, out, received, .. } = guest;
            progress |= pipe.borrow_mut().send(out, up) > 0;
            let bytes = pipe.borrow_mut().receive(down);
            progress |= !bytes.is_empty();
            received.extend(bytes);
            let is_over = !matches!(pipe.borrow().server, ServerEnd::Open) && pipe.borrow().down.is_empty();
            self.handle_received(index)?;
            if is_over {
                self.guests.swap_remove(index).pipe.borrow_mut().close();
            }
        }
        Ok(progress)
    }

    fn handle_received(&mut self, index: usize) -> Result<(), String> {
        let guest = &mut self.guests[index];
        if let Some(handshake) = &guest.handshake {
            match handshake.handle(&guest.received) {
                Ok(Some(used)) => {
                    guest.received.drain(..used);
                    guest.handshake = None;
                }
                Ok(None) => return Ok(()),
                // The server has no room, or drains.
                Err(_) => return Ok(()),
            }
        }
        loop {
            let guest = &mut self.guests[index];
            match guest.receiver.handle(&mut guest.received) {
                Ok(Input::More) => {
                    guest.received.clear();
                    return Ok(());
                }
                Ok(Input::Data { payload, fin, .. }) => {
                    guest.document.extend_from_slice(&guest.received[payload.clone()]);
                    guest.received.drain(..payload.end);
                    if fin {
                        let document = std::mem::take(&mut guest.document);
                        self.handle_document(index, &document)?;
                    }
                }
                Ok(Input::Ping { used, payload }) => {
                    guest.received.drain(..used);
                    let mut pong = Vec::new();
                    let opcode = millstream::ws::frame::Opcode::Pong;
                    guest.sender.control(&mut pong, opcode, payload.as_slice());
                    guest.out.extend(pong);
                }
                Ok(Input::Pong { used }) => drop(guest.received.drain(..used)),
                Ok(Input::Close { .. }) => {
                    guest.received.clear();
                    guest.pipe.borrow_mut().close();
                    return Ok(());
                }
                Err(code) => return Err(format!("the server broke a rule of WebSocket: {code:?}")),
            }
        }
    }

    fn handle_document(&mut self, index: usize, document: &[u8]) -> Result<(), String> {
        let document: Value = serde_json::from_slice(document).map_err(|error| error.to_string())?;
        if document["Message_Type"] == "Notification" {
            let shown = document["body"].as_str().unwrap_or("");
            let fact = self.facts.get_mut(shown).ok_or(format!("{document} was never posted"))?;
            // It is told only once it is durable.
            fact.is_stored = true;
            return if self.guests[index].has_subscribed {
                Ok(())
            } else {
                Err(format!("{document} is unasked for"))
            };
        }
        let number = document["request"]["body"]["n"].as_u64();
        let Some(pending) = self.guests[index].pending.pop_front() else {
            return Err(format!("nobody has asked for {document}"));
        };
        if number != Some(pending.number) {
            return Err(format!("{document} came before the answer to {}", pending.number));
        }
        self.event += 1;
        let status = document["headers"]["status"].as_u64().unwrap_or(0);
        // A store that fails or is full, a drain, a limit.
        if matches!(status, 429 | 500 | 503) && self.audit.is_none() {
            return Ok(());
        }
        self.guests[index].has_subscribed |= matches!(pending.asked, Asked::Subscription) && status == 201;
        self.judge(pending, status, &document["body"])
    }

    fn judge(&mut self, pending: Pending, status: u64, body: &Value) -> Result<(), String> {
        let Pending { asked, sent, sent_ms, .. } = pending;
        match asked {
            Asked::Post(bodies) if status == 201 => {
                let ids = body["message_ids"].as_array().ok_or("no ids")?;
                if ids.len() != bodies.len() {
                    return Err(format!("{} ids of {} messages", ids.len(), bodies.len()));
                }
                for (body, id) in bodies.into_iter().zip(ids) {
                    let id = id.as_str().ok_or("an id that is no text")?.to_owned();
                    self.facts.entry(body.clone()).or_default().is_stored = true;
                    // A list may have shown it before.
                    if let Some(other) =
                        self.ids.insert(id.clone(), body.clone()).filter(|other| *other != body)
                    {
                        return Err(format!("{other:?} and {body:?} have the id {id}"));
                    }
                }
            }
            Asked::Show { claims } if matches!(status, 200 | 201 | 204) => {
                let claim = body["claim_id"].as_str().map(str::to_owned);
                let mut held = Vec::new();
                for message in body["messages"].as_array().into_iter().flatten() {
                    let shown = message["body"].as_str().ok_or(format!("{message} has another body"))?;
                    let Some(fact) = self.facts.get_mut(shown) else {
                        return Err(format!("{shown:?} was never posted"));
                    };
                    if fact.deleted_at.is_some_and(|deleted| deleted < sent) {
                        return Err(format!("{shown:?} was deleted before it was asked for"));
                    }
                    self.ids.insert(message["id"].as_str().unwrap_or("").to_owned(), shown.to_owned());
                    if let Some(claim) = claim.as_ref().filter(|_| claims && !self.may_hide) {
                        if let Some((other, until)) = &fact.held
                            && self.clock.millis() < *until
                        {
                            return Err(format!("{shown:?} is in the claims {other} and {claim}"));
                        }
                        fact.held = Some((claim.clone(), sent_ms + Millis::from_secs(CLAIM_SECS)));
                        held.push(shown.to_owned());
                    }
                    if let Some(audit) = &mut self.audit
                        && !audit.insert(shown.to_owned())
                    {
                        return Err(format!("{shown:?} is listed twice"));
                    }
                }
                if let Some(claim) = claim.filter(|_| !held.is_empty()) {
                    self.claims.insert(claim, held);
                }
                self.go_on(body);
            }
            Asked::Delete(bodies) if status == 204 => {
                for body in bodies {
                    let fact = self.facts.entry(body).or_default();
                    (fact.deleted_at, fact.held) = (fact.deleted_at.or(Some(self.event)), None);
                }
            }
            Asked::Release if status == 204 => {}
            Asked::Subscription if matches!(status, 201 | 409) => {}
            Asked::Other if matches!(status, 200 | 404) => {}
            asked => return Err(format!("{asked:?} was answered with {status}: {body}")),
        }
        Ok(())
    }

    /// Connects a guest that lists every message, page by page.
    pub fn begin_audit(&mut self, server: &Server) -> Result<(), String> {
        self.leave_all();
        self.connect(server);
        if self.guests.is_empty() { Err("a shard's inbox is full at rest".into()) } else { Ok(()) }
    }

    /// Asks for the first page, once the guest is connected.
    pub fn audit(&mut self) -> Result<(), String> {
        self.look()?;
        if self.guests.first().is_none_or(|guest| guest.handshake.is_some()) {
            let said = self.guests.first().map(|guest| String::from_utf8_lossy(&guest.received).into_owned());
            return Err(format!("the auditing guest is not connected: {said:?}"));
        }
        (self.audit, self.is_audited) = (Some(BTreeSet::new()), false);
        self.list(None);
        Ok(())
    }

    fn list(&mut self, marker: Option<&str>) {
        let mut body = json!({
            "queue_name": QUEUE, "echo": true, "limit": 20, "include_claimed": true, "include_delayed": true,
        });
        if let Some(marker) = marker {
            body["marker"] = json!(marker);
        }
        self.send(0, "message_list", body, Asked::Show { claims: false });
    }

    /// Asks for the next page of the audit.
    fn go_on(&mut self, body: &Value) {
        if self.audit.is_none() {
            return;
        }
        match body["marker"].as_str() {
            Some(marker) if body["messages"].as_array().is_some_and(|page| !page.is_empty()) => {
                self.list(Some(marker));
            }
            _ => self.is_audited = true,
        }
    }

    /// Judges what the audit has seen.
    pub fn end_audit(&mut self) -> Result<(), String> {
        self.look()?;
        let Some(seen) = self.audit.take() else { return Err("there was no audit".into()) };
        if !self.is_audited {
            return Err("the audit was never answered".into());
        }
        let missing =
            |(body, fact): &(&String, &Fact)| fact.is_stored && !fact.may_be_deleted && !seen.contains(*body);
        match self.facts.iter().find(missing) {
            Some((body, _)) if !self.may_hide => Err(format!("{body:?} was posted and is missing")),
            _ => Ok(()),
        }
    }
}
