//! One connection: its handshake, its frames, and the front that handles their content. Bytes in, bytes out.
//!
//! ```text
//! Introducing ──header──▶ Handshaking      (only if the peer must send a PROXY header)
//!
//! Handshaking ──whole──▶ Admitting ──admitted──▶ Open ──Close, violation, silence, drained──▶ Closing ──sent──▶ gone
//!      │                     │                                                                  ▲
//!      └──too long, invalid──┴──────────────────refused, too slow───────────────────────────────┘
//! ```
//! Bytes that cannot be processed yet stay in `inbound`, and the socket is not read until they are. They
//! count in the budget once the connection is open. Before that, `handshake_max_bytes` bounds them.

mod client;

use std::sync::Arc;

use super::applicant::Admitted;
use super::deadlines::Armed;
use super::entry::{self, RefusedHeaders};
use super::liveness::{Liveness, Look, REFUSED_READ_BYTES, closed_read_bytes};
use super::login::Login;
use super::output::{Mark, Output, UNSENT_SLACK_BYTES};
use super::pass::{Ended, Pass};
use super::peer::Peer;
use super::proxy::{Announced, ProxyHeader};
use super::{CoreCounters, Settings};
use crate::access::{Permit, Tenants};
use crate::auth::Key;
use crate::base::budget::{Account, Budget, Purse, Share};
use crate::base::clock::Now;
use crate::base::millis::{Millis, UnixMillis};
use crate::base::names::QueueName;
use crate::front::{Cx, Framed, Front, FrontStatus, Handshake, Standing};
use crate::latency::Recorder;
use crate::operation::{Caller, Command, Regulator, Resources};
use crate::tls::ClientCertificate;
use crate::ws::frame::Opcode;
use crate::ws::handshake::Refusal;
use crate::ws::{CloseCode, Input, Receiver, Role};

/// The parts of a shard that a connection borrows for one call.
#[derive(Debug)]
pub struct Env<'a> {
    /// The time of this call.
    pub now: Now,
    /// The settings of the shard.
    pub settings: &'a Settings,
    /// The budget of the shard.
    pub budget: &'a mut Budget,
    /// Collects the commands of operations.
    pub commands: &'a mut Vec<Command>,
    /// The counters of the shard.
    pub counters: &'a mut CoreCounters,
    /// Bounds what the shard's producers have under way.
    pub regulator: &'a mut Regulator,
    /// What projects use.
    pub tenants: &'a Arc<Tenants>,
    /// Logs refused PROXY headers.
    pub refused_headers: &'a mut RefusedHeaders,
}

#[derive(Debug)]
enum Phase {
    /// The PROXY header is incomplete. Nothing is known about the protocol behind it, so nothing is answered.
    Introducing(ProxyHeader),
    /// The request is incomplete.
    Handshaking,
    /// The request is acceptable, and the connection waits for the verdict on its client. The socket is not
    /// read.
    Admitting(Box<Handshake>),
    Open(Front),
    /// The output holds the last bytes to send.
    Closing,
}

/// Lends the front everything except the phase, which holds the front itself. A method would borrow the phase
/// too.
macro_rules! cx {
    ($connection:expr, $env:expr) => {{
        let resources = Resources {
            now: $env.now,
            read_ns: $connection.read_ns,
            settings: &$env.settings.operation,
            budget: $env.budget.purse(&mut $connection.account),
            commands: $env.commands,
            counters: &mut $env.counters.sessions,
            regulator: $env.regulator,
        };
        let writable = $connection.output.is_writable();
        let (reply, framed) = $connection.output.lend();
        Cx { resources, reply, framed, writable }
    }};
}

/// The reason that a client reads when an operator closes its connection.
const DISMISSED: &str = "closed by the operator";

/// The state of one connection.
#[derive(Debug)]
pub struct Connection {
    phase: Phase,
    receiver: Receiver,
    /// The project's permit for this connection, once it is admitted.
    permit: Option<Permit>,
    peer: Peer,
    /// When it was accepted.
    since: UnixMillis,
    /// Bytes that were read but not processed: of the handshake, or because the front is blocked.
    inbound: Vec<u8>,
    output: Output,
    /// The grant of the client, if clients must authenticate.
    pass: Option<Box<Pass>>,
    /// The credential whose verdict decides about the handshake.
    awaited: Option<Key>,
    /// The client's token, while an open connection waits for the verdict on it.
    login: Option<Box<Login>>,
    /// How many logins were refused since the last that was not.
    pub(super) refused_logins: u8,
    /// Set when the grant has ended: why, and until when operations may take to end.
    ending: Option<(Ended, Millis)>,
    /// The certificate of the client, if it has one and speaks TLS.
    certificate: Option<Arc<ClientCertificate>>,
    /// Since when the peer owes the rest of a TLS record.
    cut_since: Option<Millis>,
    /// When the socket was last read, [`Now::mono_ns`]. `inbound` is from then.
    read_ns: u64,
    /// Its part of the budget.
    account: Account,
    liveness: Liveness,
    pub(super) armed: Armed,
    /// Whether it is in the shard's list of connections with something to do.
    pub(super) is_dirty: bool,
    /// The waiting list for bytes of the budget that it is in, if any.
    pub(super) waits_in: Option<Share>,
    /// Whether it is in the shard's list of connections that wait for credit.
    pub(super) is_starved: bool,
}

impl Connection {
    /// Creates the state of a connection that was just accepted. `is_proxied` tells whether it begins with a
    /// PROXY header.
    pub fn new(now: Now, peer: Peer, is_proxied: bool) -> Self {
        let phase = if is_proxied { Phase::Introducing(ProxyHeader::default()) } else { Phase::Handshaking };
        Self {
            phase,
            receiver: Receiver::new(Role::Server),
            permit: None,
            peer,
            since: now.unix,
            inbound: Vec::new(),
            output: Output::new(now),
            pass: None,
            awaited: None,
            login: None,
            refused_logins: 0,
            ending: None,
            certificate: None,
            cut_since: None,
            read_ns: now.mono_ns,
            account: Account::default(),
            liveness: Liveness::new(now.mono),
            armed: Armed::default(),
            is_dirty: false,
            waits_in: None,
            is_starved: false,
        }
    }

    /// Returns the project and the queue of the present operation, for the log; empty if there is none.
    pub fn names(&self) -> (&str, &str) {
        match self.front().and_then(Front::names) {
            Some((project, queue)) => (project.as_str(), queue.map_or("", QueueName::as_str)),
            None => ("", ""),
        }
    }

    /// Returns whether the handshake is not answered yet.
    pub fn is_handshaking(&self) -> bool {
        matches!(self.phase, Phase::Introducing(_) | Phase::Handshaking | Phase::Admitting(_))
    }

    /// Returns when it was accepted.
    pub fn since(&self) -> UnixMillis {
        self.since
    }

    /// Returns the peer: the client that the PROXY header names, otherwise the other end of the socket.
    pub fn peer(&self) -> Peer {
        self.peer
    }

    /// Returns how many bytes certainly belong to the rest of the PROXY header; 0 if none is expected.
    pub fn wanted_header(&self) -> usize {
        match &self.phase {
            Phase::Introducing(header) => header.wanted(),
            _ => 0,
        }
    }

    /// Handles bytes of the PROXY header, at most [`Self::wanted_header`].
    pub fn handle_header(&mut self, input: &[u8], env: &mut Env<'_>) {
        let Phase::Introducing(header) = &mut self.phase else { return };
        match header.handle(input) {
            Ok(None) => {}
            // The request must arrive within the time that began with the connection.
            Ok(Some(announced)) => {
                self.phase = Phase::Handshaking;
                if let Announced::Client(address) = announced {
                    self.peer = Peer::ip(address);
                }
            }
            Err(why) => self.refuse_header(why, env),
        }
    }

    /// Closes the connection at once, because its PROXY header is refused.
    fn refuse_header(&mut self, why: &str, env: &mut Env<'_>) {
        env.counters.proxy_headers_refused += 1;
        env.refused_headers.log(&self.peer, why, env.now.mono);
        self.begin_closing(0, env);
    }

    /// Sets the verified certificate of the client.
    pub fn set_certificate(&mut self, certificate: Arc<ClientCertificate>) {
        self.certificate = Some(certificate);
    }

    /// Returns the verified certificate of the client.
    pub fn certificate(&self) -> Option<&ClientCertificate> {
        self.certificate.as_deref()
    }

    /// Sets since when the peer owes the rest of a TLS record.
    pub fn set_cut_since(&mut self, cut_since: Option<Millis>) {
        self.cut_since = cut_since;
    }

    /// Handles bytes from the socket, at most as many as [`Self::wanted_read`] allows. Returns true if the
    /// client now waits for [`Self::handle_verdict`].
    pub fn handle_received(&mut self, input: &mut [u8], env: &mut Env<'_>) -> bool {
        match self.phase {
            Phase::Handshaking => return self.handle_handshake(input, env),
            // The turn passes the header to `handle_header`.
            Phase::Introducing(_) => return false,
            Phase::Closing => {
                self.liveness.handle_lingering(input.len());
                return false;
            }
            Phase::Admitting(_) | Phase::Open(_) => {}
        }
        self.liveness.hear(env.now.mono);
        self.read_ns = env.now.mono_ns;
        let taken = self.process(input, env);
        let rest = &input[taken..];
        if !rest.is_empty() {
            self.inbound = rest.to_vec();
            self.purse(env).hold(rest.len());
        }
        false
    }

    /// Retries what the front waits for, because the budget may have room.
    pub fn retry(&mut self, env: &mut Env<'_>) {
        self.with_front(env, Front::retry);
        self.resume(env);
    }

    /// Processes the waiting bytes, if the front is no longer blocked. Returns whether there were any.
    fn resume(&mut self, env: &mut Env<'_>) -> bool {
        if self.inbound.is_empty() || self.is_handshaking() || self.is_blocked(env) {
            return false;
        }
        let mut input = std::mem::take(&mut self.inbound);
        self.purse(env).drop_held(input.len());
        let taken = self.process(&mut input, env);
        if taken < input.len() {
            input.drain(..taken);
            if input.capacity() > 2 * input.len() + UNSENT_SLACK_BYTES {
                input.shrink_to_fit();
            }
            self.purse(env).hold(input.len());
            self.inbound = input;
        }
        self.with_front(env, Front::flush);
        true
    }

    /// Parses the request. Returns true if it is acceptable.
    fn handle_handshake(&mut self, input: &[u8], env: &mut Env<'_>) -> bool {
        let had = self.inbound.len();
        self.inbound.extend_from_slice(input);
        match entry::read(&self.inbound, had, env.settings) {
            Ok(Some(handshake)) => {
                self.phase = Phase::Admitting(Box::new(handshake));
                // A slow client does not use up the time of the verdict.
                self.liveness.hear(env.now.mono);
                return true;
            }
            Ok(None) => {}
            Err(refusal) => self.refuse(&refusal, env),
        }
        false
    }

    /// Answers the handshake with the verdict on the client. A verdict that nothing waits for any more is
    /// dropped together with its permit.
    pub(super) fn handle_verdict(&mut self, verdict: Result<Admitted, Refusal>, env: &mut Env<'_>) {
        self.phase = match std::mem::replace(&mut self.phase, Phase::Handshaking) {
            Phase::Admitting(handshake) => match verdict {
                Ok(admitted) => return self.open(*handshake, admitted, env),
                Err(refusal) => return self.refuse(&refusal, env),
            },
            other => other,
        };
    }

    /// Accepts a handshake, and writes the answer.
    fn open(&mut self, handshake: Handshake, admitted: Admitted, env: &mut Env<'_>) {
        if let Err(refusal) = handshake.accept(self.output.bytes()) {
            return self.refuse(&refusal, env);
        }
        let used = handshake.used();
        let Admitted { permit, project, author, pass, stranger_until } = admitted;
        let tenant = permit.as_ref().map(|permit| permit.tenant().clone());
        let granted = pass.as_ref().map(|pass| pass.granted());
        let standing = match (stranger_until, &pass) {
            (Some(until), _) => Standing::Stranger(until),
            (None, Some(_)) => Standing::Known,
            (None, None) => Standing::Anyone,
        };
        (self.permit, self.pass) = (permit, pass);
        let caller = Caller { project, author, tenant, granted };
        self.phase = Phase::Open(Front::new(handshake.endpoint, caller, standing, env.tenants));
        self.liveness.hear(env.now.mono);
        // Bytes after the handshake are processed in a separate call. If that call fails, this answer is
        // already sent.
        self.inbound.drain(..used);
        self.inbound.shrink_to_fit();
        let left = self.inbound.len();
        self.purse(env).hold(left);
    }

    /// Answers a refused request, and closes.
    fn refuse(&mut self, refusal: &Refusal, env: &mut Env<'_>) {
        *env.counters.handshakes_refused.entry(refusal.status).or_default() += 1;
        if let Phase::Introducing(_) = self.phase {
            return self.begin_closing(0, env);
        }
        entry::log_refused_origin(refusal, &self.peer, env.settings, env.now);
        self.output.refuse(refusal);
        self.begin_closing(REFUSED_READ_BYTES, env);
    }

    /// Starts to close, after the last bytes were written to the output.
    fn begin_closing(&mut self, linger_bytes: u64, env: &Env<'_>) {
        self.inbound = Vec::new();
        self.phase = Phase::Closing;
        self.liveness.linger(env.now.mono, linger_bytes);
    }

    /// Processes frames, and returns how many bytes were processed: not all if the front is blocked.
    fn process(&mut self, input: &mut [u8], env: &mut Env<'_>) -> usize {
        let mut taken = 0;
        loop {
            if self.is_closing() {
                return input.len();
            }
            if self.is_blocked(env) {
                return taken;
            }
            let rest = &mut input[taken..];
            match self.receiver.handle(rest) {
                Ok(Input::More) => return input.len(),
                Ok(Input::Data { kind, payload, fin }) => {
                    let (start, length) = (payload.start, payload.len());
                    let piece = &rest[payload];
                    let Phase::Open(front) = &mut self.phase else { return input.len() };
                    let used = match front.handle_data(kind, piece, fin, &mut cx!(self, env)) {
                        Ok(used) => used,
                        Err(code) => {
                            self.close(code, env);
                            return input.len();
                        }
                    };
                    self.receiver.leave(length - used);
                    taken += start + used;
                    if used < length {
                        return taken;
                    }
                }
                Ok(Input::Ping { used, payload }) => {
                    taken += used;
                    self.output.control(Opcode::Pong, payload.as_slice());
                }
                Ok(Input::Pong { used }) => taken += used,
                Ok(Input::Close { code }) => {
                    self.finish(code, "", env);
                    return input.len();
                }
                Err(code) => {
                    self.close(code, env);
                    return input.len();
                }
            }
        }
    }

    /// Returns whether no frame can be processed now.
    fn is_blocked(&mut self, env: &mut Env<'_>) -> bool {
        self.is_unread(env) || self.is_front_blocked(env)
    }

    /// Returns whether the peer does not read its answers. Then no more of its requests are read.
    fn is_unread(&self, env: &Env<'_>) -> bool {
        let open = matches!(self.phase, Phase::Open(_));
        let most = if env.budget.is_pressed() {
            env.settings.operation.send_buffer_bytes_pressed
        } else {
            env.settings.operation.send_buffer_bytes
        };
        open && self.output.unsent().len() >= most
    }

    fn is_front_blocked(&mut self, env: &mut Env<'_>) -> bool {
        match &self.phase {
            Phase::Open(front) => front.is_blocked(&cx!(self, env)),
            Phase::Introducing(_) | Phase::Handshaking | Phase::Admitting(_) | Phase::Closing => false,
        }
    }

    /// Returns how many bytes of the socket may be read at most; 0 if it must not be read.
    pub fn wanted_read(&mut self, env: &mut Env<'_>) -> usize {
        match self.phase {
            // One byte over the limit shows that a handshake is too long.
            Phase::Handshaking => (env.settings.handshake_max_bytes + 1).saturating_sub(self.inbound.len()),
            Phase::Introducing(_) | Phase::Admitting(_) => 0,
            Phase::Closing => self.liveness.linger_bytes(),
            Phase::Open(_) => {
                if self.inbound.is_empty() && !self.is_blocked(env) {
                    usize::MAX
                } else {
                    0
                }
            }
        }
    }

    /// Runs `handle` on the front, if the connection is open.
    pub fn with_front(&mut self, env: &mut Env<'_>, handle: impl FnOnce(&mut Front, &mut Cx<'_>)) {
        if let Phase::Open(front) = &mut self.phase {
            handle(front, &mut cx!(self, env));
        }
    }

    /// Returns the front, if the connection is open.
    pub fn front(&self) -> Option<&Front> {
        match &self.phase {
            Phase::Open(front) => Some(front),
            Phase::Introducing(_) | Phase::Handshaking | Phase::Admitting(_) | Phase::Closing => None,
        }
    }

    /// Returns the status of the front.
    #[inline]
    pub fn status(&self) -> FrontStatus {
        self.front().map(Front::status).unwrap_or_default()
    }

    /// Writes due output, and processes waiting bytes if that is possible again. Returns true if it processed
    /// any: then there may be more to write.
    pub fn poll_transmit(&mut self, env: &mut Env<'_>) -> bool {
        self.with_front(env, Front::poll_transmit);
        if let Some((ended, _)) = self.ending
            && !self.status().is_busy
        {
            self.finish_ended(ended, env);
        }
        self.resume(env)
    }

    /// Returns whether there may be more to write or to process after the present output is sent.
    pub fn goes_on(&self) -> bool {
        !self.inbound.is_empty() || self.status().goes_on
    }

    /// Returns the bytes to send.
    pub fn unsent(&self) -> &[u8] {
        self.output.unsent()
    }

    /// Handles that the socket accepted `bytes`. If that was all, returns the buffer for reuse.
    pub fn handle_sent(
        &mut self,
        now: Now,
        bytes: usize,
        budget: &mut Budget,
        latency: &mut Recorder,
    ) -> Option<Vec<u8>> {
        self.output.handle_sent(now, bytes, budget.purse(&mut self.account), latency)
    }

    /// Lends a buffer to encode into, if the connection has none, and space for notes.
    pub fn lend_buffer(&mut self, spare: &mut Vec<Vec<u8>>, notes: &mut Framed) {
        self.output.borrow_buffer(spare, notes);
    }

    /// Returns the space for notes.
    pub fn return_notes(&mut self, notes: &mut Framed) {
        self.output.return_notes(notes);
    }

    /// Returns whether everything was sent.
    pub fn is_flushed(&self) -> bool {
        self.output.is_flushed()
    }

    /// Returns whether the socket accepted everything that it was given.
    pub fn is_writable(&self) -> bool {
        self.output.is_writable()
    }

    /// Sets whether the socket accepts more bytes.
    pub fn set_writable(&mut self, writable: bool) {
        self.output.set_writable(writable);
    }

    /// Closes the connection with a code, after a violation, silence or draining.
    pub fn close(&mut self, code: CloseCode, env: &mut Env<'_>) {
        self.finish(Some(code), "", env);
    }

    /// Closes the connection because an operator wants that.
    pub fn dismiss(&mut self, env: &mut Env<'_>) {
        if self.is_handshaking() {
            self.refuse(&Refusal::new(503, DISMISSED), env);
        } else {
            self.finish(Some(CloseCode::AWAY), DISMISSED, env);
        }
    }

    /// Closes the connection of a client whose grant has ended.
    fn finish_ended(&mut self, ended: Ended, env: &mut Env<'_>) {
        let reason = ended.reason();
        let farewell = self.front().map(|front| front.farewell_of_ended(reason));
        let (code, reason) = farewell.unwrap_or((CloseCode::POLICY, reason));
        self.finish(Some(code), reason, env);
    }

    fn finish(&mut self, code: Option<CloseCode>, reason: &'static str, env: &mut Env<'_>) {
        if matches!(self.phase, Phase::Closing) {
            return;
        }
        self.end_front(env);
        if self.is_handshaking() {
            self.refuse(&Refusal::new(503, "the server is draining"), env);
        } else {
            self.output.close(code, reason);
            // The bytes in `inbound` count in the budget until they are released.
            self.phase = Phase::Closing;
            self.liveness.linger(env.now.mono, closed_read_bytes(env.settings));
        }
    }

    fn end_front(&mut self, env: &mut Env<'_>) {
        self.with_front(env, |front, cx| {
            // Acknowledgements of messages that are already stored are still sent.
            front.poll_transmit(cx);
            front.abandon(cx);
        });
    }

    /// Releases everything, because the socket is closed.
    pub fn abandon(&mut self, env: &mut Env<'_>) {
        self.with_front(env, Front::abandon);
        if !self.is_handshaking() {
            let left = self.inbound.len();
            self.purse(env).drop_held(left);
        }
        self.output.drop_all(env.budget.purse(&mut self.account));
        debug_assert!(
            self.account.is_empty(),
            "a closed connection still holds bytes of the budget: {:?}",
            self.account
        );
        self.inbound = Vec::new();
        self.phase = Phase::Closing;
        self.liveness.linger(env.now.mono, closed_read_bytes(env.settings));
        self.permit = None;
    }

    /// Returns since when its socket has accepted none of the waiting bytes.
    pub fn stuck_since(&self) -> Option<Millis> {
        self.output.stuck_since()
    }

    /// Returns the state that [`Self::break_off`] restores.
    #[inline]
    pub fn mark(&self) -> Mark {
        self.output.mark()
    }

    /// Ends the connection after a panic in a call that began at `mark`: with 500 in place of the handshake's
    /// answer, otherwise with 500 and 1011. Removes the output of that call, and releases all that the
    /// connection has of the budget.
    pub fn break_off(&mut self, mark: Mark, env: &mut Env<'_>) {
        self.output.cut_back(mark);
        if self.is_handshaking() {
            self.refuse(&Refusal::new(500, "internal: the server failed to handle this handshake"), env);
        } else {
            self.with_front(env, Front::break_off);
            self.output.close(Some(CloseCode::INTERNAL), "");
            self.begin_closing(closed_read_bytes(env.settings), env);
        }
        self.close_account(env.budget);
    }

    /// Releases all that the connection has of the budget.
    pub fn close_account(&mut self, budget: &mut Budget) {
        budget.close(&mut self.account);
    }

    fn purse<'a>(&'a mut self, env: &'a mut Env<'_>) -> Purse<'a> {
        env.budget.purse(&mut self.account)
    }

    /// Returns whether the last bytes are written, so that the sending direction can be shut down.
    pub fn is_closing(&self) -> bool {
        matches!(self.phase, Phase::Closing)
    }

    /// Returns whether the peer's time to close is over, or it has sent more than may be read.
    pub fn is_over(&self, now: Now) -> bool {
        self.is_closing() && self.liveness.is_linger_over(now.mono)
    }

    /// Handles the passing of time.
    pub fn handle_timeout(&mut self, env: &mut Env<'_>) {
        // A peer cannot be heard while its socket is not read. If that is because of us, it counts as alive.
        // If that is because it does not read its answers, it counts as alive while its socket accepts bytes.
        let takes = self.output.take_sign_of_life() && self.is_unread(env);
        if self.status().waits_for_us || takes {
            self.liveness.excuse(env.now.mono);
        }
        let is_late = self.liveness.is_handshake_late(env.now.mono, env.settings);
        match &self.phase {
            Phase::Introducing(_) if is_late => {
                self.refuse_header("it sent no complete PROXY header within handshake_timeout", env);
            }
            Phase::Handshaking if is_late => {
                let refusal = Refusal::new(408, "handshake: not completed within handshake_timeout");
                self.refuse(&refusal, env);
            }
            Phase::Admitting(_) if is_late => {
                let refusal = Refusal::new(503, "handshake: not decided within handshake_timeout");
                self.refuse(&refusal, env);
            }
            Phase::Open(_) => {
                if self.cut_due(env.settings).is_some_and(|due| due <= env.now.mono) {
                    return self.close(CloseCode::POLICY, env);
                }
                match self.liveness.look(env.now.mono, env.settings) {
                    Look::Over => return self.close(CloseCode::AWAY, env),
                    Look::Ping => self.output.control(Opcode::Ping, b""),
                    Look::Wait => {}
                }
                self.with_front(env, Front::handle_timeout);
                if let Some((code, reason)) = self.front().and_then(Front::farewell) {
                    return self.finish(Some(code), reason, env);
                }
                self.look_at_pass(env);
            }
            Phase::Introducing(_) | Phase::Handshaking | Phase::Admitting(_) | Phase::Closing => {}
        }
    }

    /// Starts the time of the peer's silence anew. An unfinished handshake keeps its time, and so does a
    /// connection that is closing.
    pub fn excuse(&mut self, now: Now) {
        if matches!(self.phase, Phase::Open(_)) {
            self.liveness.excuse(now.mono);
        }
    }

    /// Returns when the connection must be served without an event. `status` is [`Self::status`].
    pub fn next_deadline(&self, status: &FrontStatus, settings: &Settings) -> Option<Millis> {
        match &self.phase {
            Phase::Introducing(_) | Phase::Handshaking | Phase::Admitting(_) => {
                let due = self.liveness.handshake_due(settings);
                Some(self.awaited.map_or(due, |_| due.min(self.liveness.verdict_due())))
            }
            Phase::Closing => Some(self.liveness.linger_due()),
            Phase::Open(_) => {
                let silence = self.liveness.look_due(settings);
                let due = status.next_deadline.map_or(silence, |due| due.min(silence));
                let due = self.pass_due().map_or(due, |at| at.min(due));
                Some(self.cut_due(settings).map_or(due, |cut| cut.min(due)))
            }
        }
    }

    /// Returns when the rest of a cut TLS record is late.
    #[inline]
    fn cut_due(&self, settings: &Settings) -> Option<Millis> {
        self.cut_since.map(|since| since + Millis::from(settings.operation.pb_timeout))
    }
}
