//! The server's side of a Zaqar connection: requests, each with an answer, in order.
//!
//! A request is checked, waits until the requests before it have come far enough, begins, and is answered when it is done and
//! everything before it is answered:
//!
//! ```text
//! Waiting ──▶ (Opening ──▶ (Creating)) ──▶ Running ──▶ Done ──▶ written
//!    └── refused, or done at once ──────────────────────▲
//! ```
//!
//! | file | one concept |
//! | --- | --- |
//! | here | the requests of a connection, in order |
//! | `access` | what the client has shown of itself, and what it may do |
//! | `incoming` | a request that arrives in pieces |
//! | `order` | which requests may be under way together, and how one begins |
//! | `opening` | the queue of a request |
//! | `pending` | a request that is not answered yet |
//! | `known` | the queues that the connection uses |
//! | `begin` | begins an action |
//! | `task` | an action that waits for the shard |
//! | `queues`, `post`, `list`, `messages`, `claims` | the actions |
//! | `subscribed` | the actions about subscriptions |
//! | `subscriptions` | the subscriptions of the connection |
//! | `outcome` | what a request has come to |
//! | `ids` | the ids of messages and claims |
//! | `limits` | the limits of the API |

mod access;
mod begin;
mod claims;
mod ids;
mod incoming;
mod known;
mod limits;
mod list;
mod messages;
mod opening;
mod order;
mod outcome;
mod pending;
mod post;
mod queues;
mod subscribed;
mod subscriptions;
mod task;

use std::collections::VecDeque;
use std::sync::Arc;

use self::access::Access;
pub use self::access::Standing;
use self::incoming::{Incoming, Taken};
use self::known::KnownQueues;
use self::outcome::Outcome;
use self::pending::{Class, EchoAt, Pending, State};
use self::subscriptions::{Begun, Subscriptions};
use self::task::Call;
use super::document::Format;
use super::request::Request;
use super::texts;
use crate::access::{Right, Tenant, Tenants};
use crate::base::budget::{Share, Wanted};
use crate::base::error::{Fault, StatusCode, StoreFault};
use crate::base::names::{ClientId, FullName, Project, QueueName};
use crate::base::queue::QueueId;
use crate::front::{Cx, DrainStep, FrontStatus, Origin};
use crate::operation::{Answer, Caller, Command, Granted, OperationId, SubscriptionInfo};
use crate::ws::{CloseCode, MessageKind};

/// The client that the claims of this API belong to. Who knows the id of a claim may use it, so no other client does.
const CLAIMS_OF: ClientId = ClientId::of_claims_by_id();

/// The most requests of a connection that are not answered. Further ones are not read.
const PENDING_MAX: usize = 64;

/// The bytes of messages in answers that are not written, above which no further request begins.
const UNWRITTEN_BYTES: usize = 256 << 10;

/// Bytes that a request takes besides its own, and those that it stores.
const REQUEST_BYTES: usize = 512;

/// The most memory for answers that a connection keeps between two calls.
const SCRATCH_BYTES: usize = 16 << 10;

/// What ends with a piece of a request.
enum End {
    /// Nothing: more must come.
    None,
    /// The request, which was handled.
    Handled,
    /// Nothing: there is no room for the request, and the piece comes again.
    TakenBack,
    /// The connection.
    Refused(CloseCode),
}

/// The server's side of a connection.
#[derive(Debug)]
pub struct Session {
    caller: Caller,
    access: Access,
    tenants: Arc<Tenants>,
    /// The project of the last request, and what it uses.
    tenant: Option<(Project, Arc<Tenant>)>,
    incoming: Incoming,
    pending: VecDeque<Pending>,
    known: KnownQueues,
    subscriptions: Subscriptions,
    /// The number of the last operation.
    last: u32,
    /// About the memory that the answers hold which are not written.
    unwritten_bytes: usize,
    wanted: Option<Wanted>,
    close: Option<CloseCode>,
    is_draining: bool,
    /// The queue and the right of the request that began last, for the log.
    named: Option<(QueueName, Right)>,
    /// Counts claims, to spread them over partitions.
    turn: u16,
}

impl Session {
    /// Creates the session of a caller, whose project is that of requests that name none.
    pub fn new(caller: Caller, standing: Standing, tenants: Arc<Tenants>) -> Self {
        Self {
            caller,
            access: Access::new(standing),
            tenants,
            tenant: None,
            incoming: Incoming::default(),
            pending: VecDeque::new(),
            known: KnownQueues::default(),
            subscriptions: Subscriptions::default(),
            last: 0,
            unwritten_bytes: 0,
            wanted: None,
            close: None,
            is_draining: false,
            named: None,
            turn: 0,
        }
    }

    /// Takes the first byte of a binary message whose rest has not arrived.
    pub fn begin_with(&mut self, first: u8) {
        self.incoming.begin_with(first);
    }

    /// Handles a piece of a message. Returns how many bytes were taken: all or none.
    pub fn handle_data(
        &mut self,
        kind: MessageKind,
        piece: &[u8],
        fin: bool,
        cx: &mut Cx<'_>,
    ) -> Result<usize, CloseCode> {
        self.wanted = None;
        if self.is_blocked() {
            return Ok(0);
        }
        let max = self.access.request_max(cx.resources.settings);
        let mut incoming = std::mem::take(&mut self.incoming);
        let end = match incoming.take(kind, piece, fin, max, &mut cx.resources) {
            Ok(Taken::Part) => End::None,
            Ok(Taken::Blocked(wanted)) => {
                self.wanted = Some(wanted);
                self.incoming = incoming;
                return Ok(0);
            }
            Ok(Taken::Whole(text)) if kind == MessageKind::Text && str::from_utf8(text).is_err() => {
                End::Refused(CloseCode::INVALID_UTF8)
            }
            Ok(Taken::Whole(text)) if self.receive(kind, text, cx) => End::Handled,
            Ok(Taken::Whole(_)) => End::TakenBack,
            Err(code) => End::Refused(code),
        };
        match end {
            End::None => {}
            End::Handled | End::Refused(_) => incoming.finish(&mut cx.resources),
            End::TakenBack => incoming.take_back(piece.len()),
        }
        self.incoming = incoming;
        match end {
            End::None | End::Handled => Ok(piece.len()),
            End::TakenBack => Ok(0),
            End::Refused(code) => Err(code),
        }
    }

    /// Takes a whole request. Returns false if there is no room for it.
    fn receive(&mut self, kind: MessageKind, text: &[u8], cx: &mut Cx<'_>) -> bool {
        let bytes = 2 * text.len() + REQUEST_BYTES;
        let wanted = Wanted { bytes, rest: bytes, share: Share::Whole };
        if cx.resources.budget.try_reserve(wanted) == 0 {
            self.wanted = Some(wanted);
            return false;
        }
        let format = match kind {
            MessageKind::Text => Format::Json,
            MessageKind::Binary => Format::MessagePack,
        };
        cx.resources.counters.operations += 1;
        let mut pending = Pending {
            operation: self.next_operation(),
            format,
            text: text.into(),
            echo: EchoAt::default(),
            class: Class::Alone,
            state: State::Waiting,
            reserved: bytes,
            read_ns: cx.resources.read_ns,
            known_ns: 0,
            queue: None,
            is_second: false,
        };
        let text = std::mem::take(&mut pending.text);
        match Request::parse(format, &text) {
            Ok(request) => {
                pending.echo = EchoAt::of(&request.echo, &text);
                pending.class = Class::of(&request.action);
                if self.may_begin(self.pending.len(), pending.class) {
                    self.begin(&mut pending, &request, cx);
                }
            }
            Err(refused) => {
                pending.echo = EchoAt::of(&refused.echo, &text);
                pending.state = State::Done(Outcome::refused(refused.status, refused.text.clone()));
            }
        }
        pending.text = text;
        self.pending.push_back(pending);
        true
    }

    /// Returns the number of the next operation, which none has that goes on.
    fn next_operation(&mut self) -> OperationId {
        loop {
            self.last = self.last.wrapping_add(1);
            let next = OperationId(self.last);
            if self.index_of(next).is_none() && !self.subscriptions.uses(next) {
                return next;
            }
        }
    }

    /// Returns the state of a request that is done.
    fn done(&mut self, pending: &mut Pending, outcome: Outcome, cx: &mut Cx<'_>) -> State {
        pending.known_ns = cx.resources.now.mono_ns;
        self.unwritten_bytes += outcome.held_bytes();
        if outcome.status >= 400 {
            cx.resources.counters.failed.add(StatusCode(outcome.status.into()), 1);
        }
        State::Done(outcome)
    }

    /// Handles an answer of the shard.
    pub fn answer(&mut self, operation: OperationId, answer: Answer, cx: &mut Cx<'_>) {
        if let Answer::Authenticated(result) = &answer {
            self.handle_authenticated(result, cx);
        }
        let Some(index) = self.index_of(operation) else {
            return self.answer_subscription(operation, answer, cx);
        };
        let pending = &mut self.pending[index];
        match std::mem::replace(&mut pending.state, State::Waiting) {
            State::Running(mut task) => {
                let mut reserved = 0;
                let mut call = Call { operation, resources: &mut cx.resources, reserved: &mut reserved };
                match task.answer(answer, &mut call) {
                    None => pending.state = State::Running(task),
                    Some(result) => self.end(index, result, cx),
                }
            }
            State::Opening(name) => self.handle_opened(index, name, answer, cx),
            State::Creating(name) => self.handle_created(index, name, answer, cx),
            state @ (State::Waiting | State::Subscribing | State::Done(_)) => pending.state = state,
        }
        self.advance(cx);
    }

    fn index_of(&self, operation: OperationId) -> Option<usize> {
        self.pending.iter().position(|pending| pending.operation == operation)
    }

    /// Handles an answer for a subscription.
    fn answer_subscription(&mut self, operation: OperationId, answer: Answer, cx: &mut Cx<'_>) {
        let (request, result) = match self.subscriptions.answer(operation, answer, cx.resources.now) {
            Begun::Nothing => return,
            Begun::Subscribed(request, queue, id) => {
                (request, Ok(Outcome::new(201, outcome::Body::Subscribed(id, queue))))
            }
            Begun::Failed(request, fault) => (request, Err(fault)),
        };
        let Some(index) = self.index_of(request) else { return };
        if result.is_ok() {
            self.subscriptions.set_format(self.pending[index].format);
        }
        self.pending[index].state = State::Waiting;
        self.end(index, result, cx);
        // The grant may have changed meanwhile.
        self.end_forbidden(cx);
        self.advance(cx);
    }

    /// Handles that the action of a request has ended.
    fn end(&mut self, index: usize, result: Result<Outcome, StoreFault>, cx: &mut Cx<'_>) {
        match (result, self.pending.get_mut(index)) {
            (Ok(outcome), _) => self.finish(index, outcome, cx),
            // The queue was deleted, and may have been made again. The action begins anew.
            (Err(StoreFault::Deleted | StoreFault::NoQueue), Some(pending)) if !pending.is_second => {
                pending.is_second = true;
                // What the store refused of the operation, it refuses for ever.
                if let Some(queue) = pending.queue.take() {
                    self.known.forget(queue);
                }
                let operation = self.next_operation();
                self.pending[index].operation = operation;
            }
            (Err(fault), _) => self.fail(index, fault.into(), cx),
        }
    }

    fn finish(&mut self, index: usize, outcome: Outcome, cx: &mut Cx<'_>) {
        if let Some(mut pending) = self.pending.remove(index) {
            pending.state = self.done(&mut pending, outcome, cx);
            self.pending.insert(index, pending);
        }
    }

    /// Ends a request with a fault that is not the client's, and reports it.
    fn fail(&mut self, index: usize, fault: Fault, cx: &mut Cx<'_>) {
        let (project, queue) = self.names();
        let (project, queue) = (project.clone(), queue.cloned());
        cx.resources.commands.push(Command::Report { project, queue, fault: fault.clone() });
        self.finish(index, Outcome::fault(&fault), cx);
    }

    /// Writes the answers that are due.
    pub fn poll_transmit(&mut self, cx: &mut Cx<'_>) {
        let mut scratch = Vec::new();
        while cx.has_room()
            && let Some(Pending { state: State::Done(_), .. }) = self.pending.front()
            && let Some(pending) = self.pending.pop_front()
        {
            let State::Done(outcome) = &pending.state else { return };
            scratch.clear();
            outcome.write(pending.format, &pending.echo(), cx.resources.now, &mut scratch);
            let kind = match pending.format {
                Format::Json => MessageKind::Text,
                Format::MessagePack => MessageKind::Binary,
            };
            if let outcome::Body::Posted(_, messages) = &outcome.body {
                let origin = Origin::Produced { read_ns: pending.read_ns, known_ns: pending.known_ns };
                cx.framed.note(u32::try_from(messages.len()).unwrap_or(u32::MAX), origin);
            }
            cx.reply
                .sender
                .data(cx.reply.out, kind, true, scratch.len(), |out| out.extend_from_slice(&scratch));
            cx.framed.close(cx.reply.out.len());
            cx.resources.budget.release(pending.reserved);
            self.unwritten_bytes -= outcome.held_bytes();
            if scratch.capacity() > SCRATCH_BYTES {
                scratch = Vec::new();
            }
        }
        self.advance(cx);
        if !self.subscriptions.is_empty() {
            self.subscriptions.poll_transmit(&mut scratch, cx);
        }
    }

    /// Returns whether no more input can be taken for now.
    pub fn is_blocked(&self) -> bool {
        self.pending.len() >= PENDING_MAX || self.wanted.is_some() || self.access.is_blocked()
    }

    /// Tries again to take the request that waits for memory.
    pub fn retry(&mut self, cx: &mut Cx<'_>) {
        self.wanted = None;
        self.incoming.excuse(&cx.resources);
    }

    /// Handles the deadlines that have passed.
    pub fn handle_timeout(&mut self, cx: &mut Cx<'_>) {
        let is_late = self.wanted.is_none() && self.incoming.is_late(cx.resources.now);
        if is_late || self.access.is_late(cx.resources.now) {
            self.close = Some(CloseCode::POLICY);
        }
        let mut subscriptions = std::mem::take(&mut self.subscriptions);
        subscriptions.handle_timeout(|| self.next_operation(), &mut cx.resources);
        self.subscriptions = subscriptions;
    }

    /// Takes a step of draining: requests that have not begun are refused.
    pub fn drain(&mut self, step: DrainStep, cx: &mut Cx<'_>) {
        if let DrainStep::Producers = step {
            self.is_draining = true;
            self.advance(cx);
        }
    }

    /// Releases everything, because the connection is closed.
    pub fn abandon(&mut self, cx: &mut Cx<'_>) {
        self.incoming.finish(&mut cx.resources);
        self.subscriptions.end_all(&mut cx.resources);
        for pending in self.pending.drain(..) {
            let operation = pending.operation;
            let mut reserved = 0;
            let mut call = Call { operation, resources: &mut cx.resources, reserved: &mut reserved };
            match pending.state {
                State::Running(mut task) => task.abandon(&mut call),
                State::Done(outcome) => {
                    let queue = pending.queue.and_then(|queue| self.known.by_id(queue));
                    if let (Some(queue), Some(id)) = (queue, outcome.new_claim()) {
                        claims::give_back(queue, id, &mut call);
                    }
                }
                _ => {}
            }
            cx.resources.budget.release(pending.reserved);
        }
    }

    /// Handles a panic: says nothing, because what was said last may be incomplete. The connection is closed.
    pub fn break_off(&mut self, _cx: &mut Cx<'_>) {}

    /// Returns whether it reads messages of a queue as they are stored.
    pub fn reads(&self, queue: QueueId) -> bool {
        self.subscriptions.reads(queue)
    }

    /// Handles that a queue has more partitions.
    pub fn handle_grown(&mut self) {
        self.subscriptions.handle_grown();
    }

    /// Returns its subscriptions to a queue.
    pub fn subscriptions(&self, name: &FullName) -> Vec<SubscriptionInfo> {
        self.subscriptions.of(name).cloned().collect()
    }

    /// Ends subscriptions to a queue: the one with this id, or all.
    pub fn end_subscriptions(&mut self, name: &FullName, id: Option<&str>, cx: &mut Cx<'_>) {
        self.subscriptions.end(name, id, &mut cx.resources);
    }

    /// Continues with another grant.
    pub fn handle_grant(&mut self, granted: Granted, cx: &mut Cx<'_>) {
        self.caller.granted = Some(granted);
        self.end_forbidden(cx);
    }

    /// Handles that the client's grant has ended.
    pub fn handle_expired(&mut self, cx: &mut Cx<'_>) {
        self.access.end();
        self.subscriptions.end_all(&mut cx.resources);
        let subscribing = |pending: &Pending| matches!(pending.state, State::Subscribing);
        while let Some(index) = self.pending.iter().position(subscribing) {
            self.finish(index, Outcome::refused(403, texts::NOT_AUTHENTICATED), cx);
        }
        self.advance(cx);
    }

    /// Returns what the connection must know.
    pub fn status(&self) -> FrontStatus {
        let is_busy = !self.pending.is_empty();
        // An answer that is ready waits for the client, which must read.
        let is_ready = matches!(self.pending.front(), Some(Pending { state: State::Done(_), .. }));
        let incoming = self.incoming.due().filter(|_| self.wanted.is_none());
        FrontStatus {
            wanted: self.wanted,
            close: self.close,
            is_busy,
            is_producing: is_busy && !is_ready,
            waits_for_us: is_busy && !is_ready || self.wanted.is_some(),
            is_consuming: is_ready || !self.subscriptions.is_empty(),
            goes_on: is_ready || self.subscriptions.goes_on(),
            next_deadline: [incoming, self.access.due(), self.subscriptions.next_deadline()]
                .into_iter()
                .flatten()
                .min(),
            ..FrontStatus::default()
        }
    }

    /// Returns the project, and the queue of the request that began last.
    pub fn names(&self) -> (&Project, Option<&QueueName>) {
        let project = self.tenant.as_ref().map_or(&self.caller.project, |(project, _)| project);
        (project, self.named.as_ref().map(|(name, _)| name))
    }

    /// Returns the right that the request needs that began last.
    pub fn right(&self) -> Option<Right> {
        self.named.as_ref().map(|(_, right)| *right)
    }
}
