//! Claims the messages of a queue for a worker, and settles them, across reconnects.
//!
//! A claim belongs to the client, not to its connection. So after a lost connection, everything that is not known to
//! be settled is settled by the id of its claim, and what the worker still processes is renewed.

use std::cell::Cell;
use std::collections::{BTreeMap, VecDeque};
use std::ops::Range;
use std::rc::Rc;
use std::task::Context;
use std::time::{Duration, Instant};

use super::driver::{Application, Next};
use super::error::ClientError;
use super::place::parse_id;
use super::resume::Resume;
use super::wire::Wire;
use crate::client::session::{ClaimEvent, ClaimOptions, Claimer, Outcome, Renewable, Settle};
use crate::pb::{ReceivedClaim, ReceivedMessage, Settlement};
use crate::ws::Sender;

/// A claim is renewed when this part of its time has passed.
const RENEW_PART: u32 = 3;

/// The number of a message among all messages that a worker has got, from 1. The messages of later connections
/// continue it.
pub type Ticket = u64;

/// Processes messages.
pub trait Worker {
    /// Takes a message, which the client holds until the worker decides about it.
    fn take(&mut self, ticket: Ticket, message: &ReceivedMessage<'_>);

    /// Hears that the server has given the message to somebody else. A decision about it no longer counts.
    fn lose(&mut self, ticket: Ticket);

    /// Appends what the worker has decided about messages. It wakes `cx` when it has more to say.
    fn poll(&mut self, cx: &mut Context<'_>, decisions: &mut Vec<(Ticket, Settle)>) -> Stage;
}

/// How far a worker is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stage {
    /// It wants messages.
    Open,
    /// It begins no further message, and still processes some.
    Closing,
    /// It begins no further message, and has decided about all that it has begun. The rest is given back.
    Done,
}

/// What has become of the messages.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ClaimTally {
    /// How many messages are acknowledged, and the server has confirmed that.
    pub acknowledged: u64,
    /// How many messages were released.
    pub released: u64,
    /// How many messages were rejected.
    pub rejected: u64,
    /// How many messages were given to somebody else before they were settled.
    pub lost: u64,
}

/// When to stop, and how much to hold.
#[derive(Clone, Copy, Debug)]
pub struct ClaimLimits {
    /// How many messages the worker may hold that it has not decided about.
    pub held: u64,
    /// How many messages to take in total, if limited.
    pub count: Option<u64>,
    /// How long to wait for a message before the end, if limited.
    pub idle: Option<Duration>,
}

/// Claims of which nothing is held are forgotten when there are more of them than this, and than twice the messages that
/// are held.
const LEASES_MIN: usize = 1_024;

/// A message that is not known to be settled.
#[derive(Debug)]
struct Held {
    claim: Rc<str>,
    id: Box<str>,
    /// The operation in which it was claimed.
    operation: u64,
    decision: Option<Settle>,
}

/// The messages of one claim, and how often to renew it.
#[derive(Debug)]
struct Lease {
    tickets: Range<Ticket>,
    renew_every: Duration,
}

/// A worker's claims, across reconnects.
#[derive(Debug)]
pub struct Claim<W> {
    options: ClaimOptions,
    limits: ClaimLimits,
    /// Who processes the messages.
    pub worker: W,
    /// What has become of the messages.
    pub tally: ClaimTally,
    claimer: Option<Claimer>,
    /// The number of the current operation, and how many operations before it the server accepted.
    operation: u64,
    accepted: u64,
    /// How many messages were taken, and how many of them before the current operation.
    taken: u64,
    before: u64,
    held: BTreeMap<Ticket, Held>,
    /// The number of held messages, for others who watch it.
    watched: Rc<Cell<usize>>,
    /// How many of the held messages are not decided about.
    undecided: u64,
    /// The claims, by when they are to be renewed.
    leases: BTreeMap<(Instant, Ticket), Lease>,
    /// The ids of messages whose claim has not been read yet.
    fresh: Vec<Box<str>>,
    decisions: Vec<(Ticket, Settle)>,
    /// The settlements that the server has not confirmed, by the request that has them.
    unconfirmed: VecDeque<(u64, Vec<Ticket>)>,
    /// When the last message came or was decided about.
    active: Instant,
    stage: Stage,
    /// Whether the current operation gives out nothing more, and whether the client's half of it has ended.
    is_stopped: bool,
    is_finished: bool,
}

impl<W: Worker> Claim<W> {
    /// Creates the claims of a worker, which have not started.
    pub fn new(options: ClaimOptions, limits: ClaimLimits, worker: W) -> Self {
        Self {
            options,
            limits,
            worker,
            tally: ClaimTally::default(),
            claimer: None,
            operation: 0,
            accepted: 0,
            taken: 0,
            before: 0,
            held: BTreeMap::new(),
            watched: Rc::default(),
            undecided: 0,
            leases: BTreeMap::new(),
            fresh: Vec::new(),
            decisions: Vec::new(),
            unconfirmed: VecDeque::new(),
            active: Instant::now(),
            stage: Stage::Open,
            is_stopped: false,
            is_finished: false,
        }
    }

    /// Returns the number of messages that are not known to be settled, which changes as they are.
    pub fn watch(&self) -> Rc<Cell<usize>> {
        Rc::clone(&self.watched)
    }

    /// Returns how many messages the worker has decided about, and the server has not confirmed that.
    pub fn unconfirmed(&self) -> u64 {
        self.held.len() as u64 - self.undecided
    }

    fn is_accepted(&self) -> bool {
        self.claimer.as_ref().is_some_and(Claimer::is_accepted)
    }

    /// Starts the next operation, and tells it what the ones before have left.
    fn begin(&mut self, now: Instant, sender: &mut Sender, out: &mut Vec<u8>) {
        self.operation += 1;
        self.claimer = Some(Claimer::start(&self.options, sender, out));
        self.active = now;
        let decided = |(ticket, held): (&Ticket, &Held)| held.decision.map(|decision| (*ticket, decision));
        let decisions: Vec<_> = self.held.iter().filter_map(decided).collect();
        self.tell(&decisions);
        // Nobody knows how long the connection was lost.
        let leases = std::mem::take(&mut self.leases);
        self.leases = leases.into_values().map(|lease| ((now, lease.tickets.start), lease)).collect();
        self.write(decisions, sender, out);
    }

    /// Tells the current operation to settle messages: those of its own by number, others by the id of their claim.
    /// The tickets ascend.
    fn tell(&mut self, settled: &[(Ticket, Settle)]) {
        let Self { claimer: Some(claimer), held, operation, before, .. } = self else { return };
        let mut rest = settled.iter().filter_map(|(ticket, what)| {
            let held = held.get(ticket)?;
            Some((*ticket, *what, held))
        });
        let mut next = rest.next();
        while let Some((first, what, held)) = next {
            let mut last = (first, held);
            next = rest.next();
            while let Some((ticket, same, other)) = next
                && ticket == last.0 + 1
                && same == what
                && Rc::ptr_eq(&other.claim, &held.claim)
            {
                last = (ticket, other);
                next = rest.next();
            }
            if held.operation == *operation {
                claimer.settle(first - *before..last.0 + 1 - *before, what);
            } else {
                claimer.settle_claim(what.of_claim(&held.claim, &held.id, &last.1.id));
            }
        }
    }

    /// Writes what the operation was told. It contains these settlements.
    fn write(&mut self, settled: Vec<(Ticket, Settle)>, sender: &mut Sender, out: &mut Vec<u8>) {
        let Some(claimer) = &mut self.claimer else { return };
        let request = claimer.poll_transmit(sender, out);
        if !settled.is_empty() {
            self.unconfirmed.push_back((request, settled.into_iter().map(|(ticket, _)| ticket).collect()));
        }
    }

    /// Records the worker's decisions. Returns those that count, in the order of tickets.
    fn decide(&mut self, now: Instant) -> Vec<(Ticket, Settle)> {
        let mut decisions = std::mem::take(&mut self.decisions);
        decisions.sort_unstable_by_key(|(ticket, _)| *ticket);
        decisions.retain(|(ticket, what)| {
            // A message that was lost is no longer held.
            let Some(held) = self.held.get_mut(ticket).filter(|held| held.decision.is_none()) else {
                return false;
            };
            held.decision = Some(*what);
            self.undecided -= 1;
            self.active = now;
            true
        });
        decisions
    }

    /// Renews the claims that are due and not decided about.
    fn renew(&mut self, now: Instant) {
        while let Some(due) = self.leases.first_entry().filter(|lease| lease.key().0 <= now) {
            let lease = due.remove();
            let open = self.held.range(lease.tickets.clone()).filter(|(_, held)| held.decision.is_none());
            let open: Vec<_> = open.map(|(ticket, _)| (*ticket, Settle::Renew)).collect();
            if !open.is_empty() {
                self.tell(&open);
                self.leases.insert((now + lease.renew_every, lease.tickets.start), lease);
            }
        }
    }

    /// Grants what the worker may hold.
    fn grant(&mut self) {
        let Some(claimer) = &mut self.claimer else { return };
        let mut through = self.taken - self.undecided + self.limits.held;
        if let Some(count) = self.limits.count {
            through = through.min(count);
        }
        claimer.grant(through.saturating_sub(self.before));
    }

    /// Has the server give out nothing more. It then ends an operation that has nothing left to settle, so an operation
    /// that only settles the claims of others is not stopped.
    fn stop(&mut self) {
        let Self { claimer: Some(claimer), held, operation, .. } = self else { return };
        // The messages of the current operation are the last ones.
        let has_own = held.last_key_value().is_some_and(|(_, last)| last.operation == *operation);
        if has_own && !self.is_stopped {
            self.is_stopped = true;
            claimer.stop();
        }
    }

    fn handle_claim(&mut self, numbers: Range<u64>, claim: ReceivedClaim<'_>) {
        let tickets = self.before + numbers.start..self.before + numbers.end;
        let (id, operation, now) = (Rc::from(claim.id), self.operation, Instant::now());
        for (ticket, message) in tickets.clone().zip(self.fresh.drain(..)) {
            let held = Held { claim: Rc::clone(&id), id: message, operation, decision: None };
            self.held.insert(ticket, held);
            self.undecided += 1;
        }
        self.taken = tickets.end - 1;
        self.active = now;
        let renew_every = Duration::from_secs(claim.ttl.max(1).into()) / RENEW_PART;
        self.leases.insert((now + renew_every, tickets.start), Lease { tickets, renew_every });
    }

    fn lose(&mut self, ticket: Ticket) {
        if let Some(lost) = self.held.remove(&ticket) {
            self.undecided -= u64::from(lost.decision.is_none());
            self.tally.lost += 1;
            self.worker.lose(ticket);
        }
    }

    /// Handles messages of an earlier operation that were given to somebody else.
    fn lose_claim(&mut self, lost: &Settlement) {
        let first = parse_id(lost.first_id());
        let last = lost.last_id.as_deref().map_or(first, parse_id);
        let is_lost = |held: &Held| {
            let id = parse_id(&held.id);
            &*held.claim == lost.claim_id() && (lost.first_id.is_none() || (first <= id && id <= last))
        };
        let tickets: Vec<_> =
            self.held.iter().filter(|(_, held)| is_lost(held)).map(|(ticket, _)| *ticket).collect();
        tickets.into_iter().for_each(|ticket| self.lose(ticket));
    }

    fn handle_settled(&mut self, requests: u64) {
        while let Some((_, tickets)) = self.unconfirmed.pop_front_if(|(request, _)| *request <= requests) {
            for held in tickets.iter().filter_map(|ticket| self.held.remove(ticket)) {
                match held.decision {
                    Some(Settle::Ack) => self.tally.acknowledged += 1,
                    Some(Settle::Reject) => self.tally.rejected += 1,
                    _ => self.tally.released += 1,
                }
            }
        }
        self.forget_leases();
    }

    /// Forgets claims of which nothing is held, when there are many of them.
    fn forget_leases(&mut self) {
        if self.leases.len() > LEASES_MIN.max(2 * self.held.len()) {
            let held = &self.held;
            self.leases.retain(|_, lease| held.range(lease.tickets.clone()).next().is_some());
        }
    }

    fn handle_event(&mut self, event: &ClaimEvent<'_>) {
        match event {
            ClaimEvent::Message(number, message) => {
                self.fresh.push(message.id.into());
                self.worker.take(self.before + number, message);
            }
            ClaimEvent::Claimed(numbers, claim) => self.handle_claim(numbers.clone(), *claim),
            ClaimEvent::Lost(numbers) => {
                numbers.clone().for_each(|number| self.lose(self.before + number));
            }
            ClaimEvent::LostClaim(lost) => self.lose_claim(lost),
            ClaimEvent::Settled(requests) => self.handle_settled(*requests),
        }
    }

    /// Returns when the worker has been without a message for too long.
    fn idle_at(&self) -> Option<Instant> {
        let idle = self.limits.idle.filter(|_| self.undecided == 0 && self.is_accepted());
        idle.map(|idle| self.active + idle)
    }
}

impl<W: Worker> Resume for Claim<W> {
    fn is_complete(&self) -> bool {
        self.stage == Stage::Done && self.held.is_empty()
    }

    fn failure(&self) -> Option<&Outcome> {
        self.claimer.as_ref().and_then(Claimer::failure)
    }

    fn progress(&self) -> u64 {
        let ClaimTally { acknowledged, released, rejected, lost } = self.tally;
        self.taken + acknowledged + released + rejected + lost + self.accepted + u64::from(self.is_accepted())
    }

    fn reset(&mut self) {
        self.accepted += u64::from(self.is_accepted());
        self.claimer = None;
        self.before = self.taken;
        self.fresh.clear();
        self.unconfirmed.clear();
        (self.is_stopped, self.is_finished) = (false, false);
        if self.stage == Stage::Done {
            // The worker begins nothing more, and only its own operation could have given these back.
            for held in self.held.values_mut().filter(|held| held.decision.is_none()) {
                held.decision = Some(Settle::Release(Some(0)));
            }
            self.undecided = 0;
        }
    }
}

impl<W: Worker> Application for Claim<W> {
    fn handle_data(&mut self, piece: &[u8], fin: bool) -> Result<(), ClientError> {
        let Some(mut claimer) = self.claimer.take() else { return Ok(()) };
        let was_accepted = claimer.is_accepted();
        let handled = claimer.handle_data(piece, fin, |event| self.handle_event(&event));
        if claimer.is_accepted() && !was_accepted {
            self.active = Instant::now();
        }
        if self.is_finished && claimer.is_ended() && claimer.failure().is_none() {
            // The end of the client's half has released what was left.
            self.held.clear();
            self.undecided = 0;
        }
        self.claimer = Some(claimer);
        self.watched.set(self.held.len());
        Ok(handled?)
    }

    fn poll(&mut self, cx: &mut Context<'_>, wire: &mut Wire) -> Result<Next, ClientError> {
        let (Wire { sender, out, .. }, now) = (wire, Instant::now());
        if self.claimer.is_none() {
            self.begin(now, sender, out);
        }
        let is_complete = self.is_complete();
        if let Some(claimer) = self.claimer.as_mut().filter(|claimer| claimer.is_ended()) {
            let has_more = self.is_stopped && claimer.failure().is_none();
            if !has_more || is_complete {
                return Ok(Next::Done);
            }
            // Everything of this operation is settled, or its claims are over. Others have left something.
            if !self.is_finished {
                claimer.finish(sender, out);
            }
            self.reset();
            self.begin(now, sender, out);
        }
        if self.is_finished {
            return Ok(Next::Wait);
        }
        let stage = self.worker.poll(cx, &mut self.decisions);
        let decisions = self.decide(now);
        let has_all = self.undecided == 0 && self.limits.count.is_some_and(|count| self.taken >= count);
        let is_idle = self.idle_at().is_some_and(|at| now >= at);
        self.stage = self.stage.max(if has_all || is_idle { Stage::Done } else { stage });
        self.tell(&decisions);
        self.renew(now);
        if self.stage == Stage::Open {
            self.grant();
        } else {
            self.stop();
        }
        self.write(decisions, sender, out);
        if self.stage == Stage::Done && self.unconfirmed() == 0 {
            self.is_finished = true;
            if let Some(claimer) = &mut self.claimer {
                claimer.finish(sender, out);
            }
            return Ok(Next::Wait);
        }
        let renewal = self.leases.first_key_value().map(|((at, _), _)| *at);
        Ok(match [renewal, self.idle_at()].into_iter().flatten().min() {
            Some(at) => Next::At(at),
            None => Next::Wait,
        })
    }

    fn operation(&mut self) -> Option<&mut dyn Renewable> {
        self.claimer.as_mut().map(|claimer| claimer as &mut dyn Renewable)
    }
}

#[cfg(test)]
mod tests {
    use std::task::Waker;

    use bytes::Bytes;
    use prost::Message;

    use super::super::wire::Target;
    use super::*;
    use crate::pb::{
        Claim as ClaimPb, ClaimRequest, ClaimResponse, MessageAndMetadata, SetupRequest, Status,
    };
    use crate::ws::{Input, Receiver, Role};

    /// A worker that decides what the test says.
    #[derive(Debug)]
    struct Scripted {
        taken: Vec<(Ticket, String)>,
        lost: Vec<Ticket>,
        decisions: Vec<(Ticket, Settle)>,
        stage: Stage,
    }

    impl Worker for Scripted {
        fn take(&mut self, ticket: Ticket, message: &ReceivedMessage<'_>) {
            self.taken.push((ticket, message.id.to_owned()));
        }

        fn lose(&mut self, ticket: Ticket) {
            self.lost.push(ticket);
        }

        fn poll(&mut self, _: &mut Context<'_>, decisions: &mut Vec<(Ticket, Settle)>) -> Stage {
            decisions.append(&mut self.decisions);
            self.stage
        }
    }

    /// The claims of a worker, and the server's side of their connection.
    struct Conversation {
        claim: Claim<Scripted>,
        wire: Wire,
        server: Receiver,
        /// What the client has written and the test has not looked at.
        written: Vec<u8>,
        has_ended: bool,
    }

    fn wire() -> Wire {
        let mut wire = Wire::start(&Target::parse("ws://127.0.0.1/", None, None).unwrap());
        // These connections have no handshake.
        wire.out.clear();
        wire
    }

    impl Conversation {
        /// Starts a worker that may hold this many messages.
        fn holding(held: u64) -> Self {
            let options = ClaimOptions { queue: "q".into(), ttl: Some(30), ..ClaimOptions::default() };
            let worker =
                Scripted { taken: Vec::new(), lost: Vec::new(), decisions: Vec::new(), stage: Stage::Open };
            let claim = Claim::new(options, ClaimLimits { held, count: None, idle: None }, worker);
            let mut conversation = Self {
                claim,
                wire: wire(),
                server: Receiver::new(Role::Server),
                written: Vec::new(),
                has_ended: false,
            };
            conversation.begin();
            conversation
        }

        /// Sets an operation up.
        fn begin(&mut self) {
            self.poll();
            let mut rest = &self.written[..];
            assert!(SetupRequest::decode_length_delimited(&mut rest).unwrap().claim.is_some());
            self.written = rest.to_vec();
            let status = Status { status_code: Some(100), ..Status::default() };
            self.claim.handle_data(&status.encode_length_delimited_to_vec(), false).unwrap();
        }

        /// Goes on over another connection.
        fn reconnect(&mut self) {
            self.claim.reset();
            (self.wire, self.server, self.written) = (wire(), Receiver::new(Role::Server), Vec::new());
            self.begin();
        }

        fn poll(&mut self) -> Next {
            let next = self.claim.poll(&mut Context::from_waker(Waker::noop()), &mut self.wire).unwrap();
            let mut rest = &mut std::mem::take(&mut self.wire.out)[..];
            while let Ok(Input::Data { payload, fin, .. }) = self.server.handle(rest) {
                self.written.extend_from_slice(&rest[payload.clone()]);
                self.has_ended |= fin;
                rest = &mut rest[payload.end..];
            }
            next
        }

        /// Returns the requests that were written since the last call.
        fn requests(&mut self) -> Vec<ClaimRequest> {
            self.poll();
            let written = std::mem::take(&mut self.written);
            let mut rest = &written[..];
            std::iter::from_fn(|| {
                (!rest.is_empty()).then(|| ClaimRequest::decode_length_delimited(&mut rest).unwrap())
            })
            .collect()
        }

        fn hear(&mut self, response: &ClaimResponse) {
            self.claim.handle_data(&response.encode_length_delimited_to_vec(), false).unwrap();
        }

        /// Gives the worker a claim with messages of partition 0.
        fn give(&mut self, claim: &str, offsets: Range<u64>) {
            let message = |offset| MessageAndMetadata {
                id: Some(format!("0.{offset:x}")),
                payload: Some(Bytes::from_static(b"x")),
                claim_count: Some(1),
                ..Default::default()
            };
            self.hear(&ClaimResponse {
                messages: offsets.map(message).collect(),
                claim: Some(ClaimPb { id: Some(claim.into()), ttl: Some(30), ..ClaimPb::default() }),
                ..ClaimResponse::default()
            });
        }

        fn settled(&mut self, requests: i64) {
            self.hear(&ClaimResponse { settled_requests: Some(requests), ..ClaimResponse::default() });
        }
    }

    fn by_claim(requests: &[ClaimRequest]) -> Vec<(String, String, String, u32, Option<u32>)> {
        let all = requests.iter().flat_map(|request| &request.by_claim);
        all.map(|one| {
            let [claim, first, last] = [one.claim_id(), one.first_id(), one.last_id()].map(str::to_owned);
            (claim, first, last, one.kind(), one.seconds)
        })
        .collect()
    }

    fn entry(claim: &str, first: &str, last: &str, kind: u32) -> (String, String, String, u32, Option<u32>) {
        (claim.into(), first.into(), last.into(), kind, None)
    }

    #[test]
    fn the_worker_never_holds_more_than_it_may() {
        let mut conversation = Conversation::holding(3);
        assert_eq!(conversation.requests()[0].max_msgnum_to_send(), 3);
        conversation.give("a", 0..3);
        assert!(conversation.requests().is_empty());
        conversation.claim.worker.decisions = vec![(2, Settle::Release(Some(7))), (1, Settle::Ack)];
        let requests = conversation.requests();
        assert_eq!((requests[0].ack.clone(), requests[0].release.clone()), (vec![0, 1], vec![1, 1]));
        assert_eq!((requests[0].release_delay(), requests[0].max_msgnum_to_send()), (7, 5));
        assert_eq!((conversation.claim.tally, conversation.claim.unconfirmed()), (ClaimTally::default(), 2));
        conversation.settled(2);
        let tally = ClaimTally { acknowledged: 1, released: 1, ..ClaimTally::default() };
        assert_eq!((conversation.claim.tally, conversation.claim.unconfirmed()), (tally, 0));
    }

    #[test]
    fn a_lost_connection_settles_by_claim_what_is_not_confirmed_and_renews_the_rest() {
        let mut conversation = Conversation::holding(6);
        conversation.requests();
        conversation.give("a", 0..3);
        conversation.give("b", 9..12);
        conversation.claim.worker.decisions = vec![(1, Settle::Ack)];
        conversation.requests();
        conversation.settled(2);
        conversation.claim.worker.decisions = vec![(2, Settle::Ack), (3, Settle::Ack), (4, Settle::Ack)];
        conversation.requests();
        conversation.reconnect();
        let requests = conversation.requests();
        let expected =
            [entry("a", "0.1", "0.2", 1), entry("b", "0.9", "0.9", 1), entry("b", "0.a", "0.b", 4)];
        assert_eq!(by_claim(&requests), expected);
        assert_eq!(requests.last().unwrap().max_msgnum_to_send(), 4, "two messages are still held");
        // A message of the new operation is settled by number, one of the old operation by claim.
        conversation.give("c", 20..21);
        conversation.claim.worker.decisions = vec![(5, Settle::Reject), (7, Settle::Ack)];
        let requests = conversation.requests();
        assert_eq!(
            (by_claim(&requests), requests[0].ack.clone()),
            (vec![entry("b", "0.a", "0.a", 3)], vec![0, 1])
        );
        conversation.settled(requests.len() as i64 + 1);
        assert_eq!(conversation.claim.tally.acknowledged, 4);
    }

    #[test]
    fn what_was_given_to_somebody_else_counts_as_lost() {
        let mut conversation = Conversation::holding(4);
        conversation.requests();
        conversation.give("a", 0..3);
        conversation.claim.worker.decisions = vec![(1, Settle::Ack), (2, Settle::Ack)];
        conversation.requests();
        let lost = ClaimResponse { lost: vec![1, 2], settled_requests: Some(2), ..ClaimResponse::default() };
        conversation.hear(&lost);
        let tally = ClaimTally { acknowledged: 1, lost: 2, ..ClaimTally::default() };
        assert_eq!((conversation.claim.tally, &conversation.claim.worker.lost[..]), (tally, &[2, 3][..]));
        conversation.claim.worker.decisions = vec![(3, Settle::Ack)];
        assert!(
            conversation.requests().iter().all(|request| request.ack.is_empty()),
            "a late decision is dropped"
        );

        conversation.give("b", 5..8);
        conversation.claim.worker.decisions = vec![(5, Settle::Ack)];
        conversation.requests();
        conversation.reconnect();
        conversation.requests();
        let lost = Settle::Ack.of_claim("b", "0.6", "0.7");
        conversation.hear(&ClaimResponse { lost_claims: vec![lost], ..ClaimResponse::default() });
        assert_eq!(conversation.claim.worker.lost, [2, 3, 5, 6]);
    }

    #[test]
    fn a_claim_is_renewed_while_its_messages_are_processed() {
        let mut conversation = Conversation::holding(2);
        conversation.requests();
        conversation.give("a", 0..2);
        let Next::At(due) = conversation.poll() else { panic!("no renewal is planned") };
        assert!(due <= Instant::now() + Duration::from_secs(10), "a third of the ttl");
        conversation.claim.worker.decisions = vec![(1, Settle::Ack)];
        conversation.requests();
        conversation.claim.renew(due);
        assert_eq!(conversation.requests()[0].renew, [1, 1], "only what is processed");
        let later = due + Duration::from_secs(10);
        assert!(matches!(conversation.poll(), Next::At(at) if at == later));
        conversation.claim.worker.decisions = vec![(2, Settle::Ack)];
        conversation.requests();
        conversation.claim.renew(later);
        assert!(conversation.requests().is_empty(), "nothing is left to renew");
    }

    #[test]
    fn a_worker_that_closes_finishes_and_gives_the_rest_back() {
        let mut conversation = Conversation::holding(2);
        conversation.requests();
        conversation.give("a", 0..2);
        conversation.claim.worker.stage = Stage::Closing;
        let requests = conversation.requests();
        assert!(requests[0].stop() && requests[0].max_msgnum_to_send.is_none());
        conversation.claim.worker.decisions = vec![(1, Settle::Ack)];
        conversation.claim.worker.stage = Stage::Done;
        assert_eq!(conversation.requests()[0].ack, [0, 1]);
        assert!(!conversation.has_ended, "the acknowledgement is not confirmed");
        conversation.settled(3);
        conversation.poll();
        assert!(conversation.has_ended && !conversation.claim.is_complete());
        conversation.claim.handle_data(&[], true).unwrap();
        assert_eq!(conversation.poll(), Next::Done);
        assert!(conversation.claim.is_complete());
    }

    #[test]
    fn a_worker_that_has_closed_releases_the_rest_by_claim_after_a_lost_connection() {
        let mut conversation = Conversation::holding(2);
        conversation.requests();
        conversation.give("a", 0..2);
        conversation.claim.worker.decisions = vec![(1, Settle::Ack)];
        conversation.claim.worker.stage = Stage::Done;
        conversation.requests();
        conversation.reconnect();
        let requests = conversation.requests();
        let released = ("a".into(), "0.1".into(), "0.1".into(), 2, Some(0));
        assert_eq!(by_claim(&requests), [entry("a", "0.0", "0.0", 1), released]);
        assert!(requests.iter().all(|request| request.max_msgnum_to_send.is_none() && !request.stop()));
        conversation.settled(requests.len() as i64);
        assert!(conversation.claim.is_complete());
    }

    #[test]
    fn a_worker_goes_on_with_the_claims_of_others_when_its_own_operation_ends() {
        let mut conversation = Conversation::holding(2);
        conversation.requests();
        conversation.give("a", 0..1);
        conversation.reconnect();
        conversation.requests();
        conversation.give("b", 1..2);
        conversation.claim.worker.stage = Stage::Closing;
        conversation.claim.worker.decisions = vec![(2, Settle::Ack)];
        let requests = conversation.requests();
        assert!(requests[0].stop() && requests[0].ack == [0, 1]);
        conversation.settled(2);
        conversation.claim.handle_data(&[], true).unwrap();
        assert!(!conversation.has_ended);
        conversation.begin();
        assert!(conversation.has_ended, "the operation before has ended, too");
        conversation.claim.worker.stage = Stage::Done;
        conversation.claim.worker.decisions = vec![(1, Settle::Ack)];
        let requests = conversation.requests();
        assert_eq!(by_claim(&requests), [entry("a", "0.0", "0.0", 4), entry("a", "0.0", "0.0", 1)]);
        conversation.settled(requests.len() as i64);
        assert!(conversation.claim.is_complete());
    }

    #[test]
    fn a_limited_worker_takes_no_more_than_its_count() {
        let mut conversation = Conversation::holding(10);
        conversation.claim.limits.count = Some(3);
        // The first credit was written before the limit.
        conversation.requests();
        conversation.reconnect();
        assert_eq!(conversation.requests()[0].max_msgnum_to_send(), 3);
        conversation.give("a", 0..3);
        conversation.claim.worker.decisions = (1..4).map(|ticket| (ticket, Settle::Ack)).collect();
        conversation.requests();
        conversation.settled(2);
        conversation.poll();
        assert!(conversation.has_ended && conversation.claim.is_complete());
    }

    #[test]
    fn an_idle_worker_ends() {
        let mut conversation = Conversation::holding(1);
        conversation.claim.limits.idle = Some(Duration::from_secs(5));
        let Next::At(at) = conversation.poll() else { panic!("no end is planned") };
        assert!(at <= Instant::now() + Duration::from_secs(5));
        conversation.claim.active = Instant::now().checked_sub(Duration::from_secs(5)).unwrap();
        conversation.poll();
        assert!(conversation.has_ended && conversation.claim.is_complete());
    }
}
