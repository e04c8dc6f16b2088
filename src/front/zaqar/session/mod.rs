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
//! | `incoming` | a request that arrives in pieces |
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

mod begin;
mod claims;
mod ids;
mod incoming;
mod known;
mod limits;
mod list;
mod messages;
mod outcome;
mod pending;
mod post;
mod queues;
mod subscribed;
mod subscriptions;
mod task;

use std::collections::VecDeque;
use std::sync::Arc;

use self::begin::Needs;
use self::incoming::{Incoming, Taken};
use self::known::{KnownQueue, KnownQueues};
use self::outcome::Outcome;
use self::pending::{Class, EchoAt, Pending, State};
use self::subscriptions::{Begun, Subscriptions};
use self::task::{Call, Progress};
use super::action::Action;
use super::document::{Format, Node};
use super::request::Request;
use super::texts;
use crate::access::{Right, Tenant, Tenants};
use crate::base::budget::{Share, Wanted};
use crate::base::error::{Fault, PeerFault, StoreFault};
use crate::base::names::{ClientId, FullName, Project, QueueName};
use crate::base::queue::QueueId;
use crate::front::{Cx, DrainStep, FrontStatus, Origin};
use crate::operation::{Answer, Caller, Command, Granted, OperationId, Order, SubscriptionInfo};
use crate::ws::{CloseCode, MessageKind};

/// The client that the claims of this API belong to. Who knows the id of a claim may use it, so no other client does.
const CLAIMS_OF: ClientId = ClientId::of_claims_by_id();

/// The most requests of a connection that are not answered. Further ones are not read.
const PENDING_MAX: usize = 64;

/// Bytes that a request takes besides its own, and those that it stores.
const REQUEST_BYTES: usize = 512;

/// The most memory for answers that a connection keeps between two calls.
const SCRATCH_BYTES: usize = 16 << 10;

/// The server's side of a connection.
#[derive(Debug)]
pub struct Session {
    caller: Caller,
    tenants: Arc<Tenants>,
    /// The project of the last request, and what it uses.
    tenant: Option<(Project, Arc<Tenant>)>,
    incoming: Incoming,
    pending: VecDeque<Pending>,
    known: KnownQueues,
    subscriptions: Subscriptions,
    /// The number of the last operation.
    last: u32,
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
    pub fn new(caller: Caller, tenants: Arc<Tenants>) -> Self {
        Self {
            caller,
            tenants,
            tenant: None,
            incoming: Incoming::default(),
            pending: VecDeque::new(),
            known: KnownQueues::default(),
            subscriptions: Subscriptions::default(),
            last: 0,
            wanted: None,
            close: None,
            is_draining: false,
            named: None,
            turn: 0,
        }
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
        let mut incoming = std::mem::take(&mut self.incoming);
        let is_taken = match incoming.take(kind, piece, fin, &mut cx.resources)? {
            Taken::Part => true,
            Taken::Blocked(wanted) => {
                self.wanted = Some(wanted);
                false
            }
            Taken::Whole(text) if kind == MessageKind::Text && str::from_utf8(text).is_err() => {
                return Err(CloseCode::INVALID_UTF8);
            }
            Taken::Whole(text) => {
                let is_taken = self.receive(kind, text, cx);
                if is_taken {
                    incoming.finish(&mut cx.resources);
                }
                is_taken
            }
        };
        self.incoming = incoming;
        Ok(if is_taken { piece.len() } else { 0 })
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
        self.last = self.last.wrapping_add(1);
        let mut pending = Pending {
            operation: OperationId(self.last),
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

    /// Returns whether a request of a class may begin behind the first `before` requests.
    fn may_begin(&self, before: usize, class: Class) -> bool {
        self.pending.iter().take(before).all(|pending| match pending.state {
            State::Done(_) => true,
            State::Running(_) => pending.class == class && class != Class::Alone,
            State::Waiting | State::Opening(_) | State::Creating(_) | State::Subscribing => false,
        })
    }

    /// Begins the requests that wait and may.
    fn advance(&mut self, cx: &mut Cx<'_>) {
        let mut index = 0;
        while index < self.pending.len() {
            if matches!(self.pending[index].state, State::Waiting) {
                if !self.may_begin(index, self.pending[index].class) {
                    return;
                }
                self.begin_at(index, cx);
            }
            index += 1;
        }
    }

    /// Begins a request, or begins it again.
    fn begin_at(&mut self, index: usize, cx: &mut Cx<'_>) {
        let Some(mut pending) = self.pending.remove(index) else { return };
        let text = std::mem::take(&mut pending.text);
        if let Ok(request) = Request::parse(pending.format, &text) {
            self.begin(&mut pending, &request, cx);
        }
        pending.text = text;
        self.pending.insert(index, pending);
    }

    fn begin(&mut self, pending: &mut Pending, request: &Request<'_>, cx: &mut Cx<'_>) {
        let progress = self.progress(pending, request, cx);
        cx.resources.counters.operations += 1;
        match progress {
            Ok(progress) => self.proceed(pending, progress, cx),
            Err(state) => pending.state = state,
        }
    }

    /// Begins a request. An error is the state of one that does not begin yet.
    fn progress(
        &mut self,
        pending: &mut Pending,
        request: &Request<'_>,
        cx: &mut Cx<'_>,
    ) -> Result<Progress, State> {
        let done = |outcome| Ok(Progress::Done(outcome));
        if self.is_draining {
            return done(Outcome::fault(&Fault::Draining));
        }
        let project = match self.project(&request.headers.project) {
            Ok(project) => project,
            Err(fault) => return done(Outcome::bad(fault.to_string())),
        };
        if let Some(outcome) = self.forbidden(&project, request, cx) {
            return done(outcome);
        }
        let operation = pending.operation;
        let (name, is_made) = match begin::needs(&request.action) {
            Needs::Nothing => {
                let mut reserved = 0;
                let mut call = Call { operation, resources: &mut cx.resources, reserved: &mut reserved };
                return Ok(begin::without(request, &project, &mut call));
            }
            Needs::Queue(name) => (QueueName::parse(name), false),
            Needs::MadeQueue(name) => (QueueName::parse(name), true),
        };
        let name = match name {
            Ok(name) => name,
            Err(fault) if is_made => return done(begin::bad_name(&fault)),
            Err(_) => return done(begin::without_queue(&request.action)),
        };
        let Some(queue) = self.known.get(&project, &name) else {
            let name = (project, name);
            let open =
                Command::Open { operation, name: name.clone(), may_create: false, needs_claims: false };
            cx.resources.commands.push(open);
            return Err(State::Opening(name));
        };
        pending.queue = Some(queue.info.id);
        if let Action::SubscriptionCreate { subscriber, ttl, options, .. } = &request.action {
            return self.subscribe(pending, queue, (subscriber.as_deref(), *ttl, *options), cx);
        }
        let tenant = self.tenant(&project, cx);
        self.turn = self.turn.wrapping_add(1);
        // The request itself is kept until it is answered.
        let mut reserved = pending.reserved / 2;
        let kept = pending.reserved - reserved;
        let mut call = Call { operation, resources: &mut cx.resources, reserved: &mut reserved };
        let progress = begin::with(request, queue, &tenant, self.turn, &mut call);
        pending.reserved = kept + reserved;
        Ok(progress)
    }

    /// Begins a subscription of this connection to a queue.
    fn subscribe(
        &mut self,
        pending: &Pending,
        queue: KnownQueue,
        (subscriber, ttl, options): (Option<&str>, Option<i64>, Option<Node<'_>>),
        cx: &mut Cx<'_>,
    ) -> Result<Progress, State> {
        let checked = subscribed::check(subscriber, ttl).and_then(|ttl| {
            let name = queue.name.1.as_str();
            if self.subscriptions.has(&queue.name) {
                return Err(Outcome::text(409, texts::subscription_not_created(name)));
            }
            if self.subscriptions.is_full() {
                return Err(subscribed::too_many());
            }
            Ok((ttl, subscribed::options(options)?))
        });
        let (ttl, options) = match checked {
            Ok(checked) => checked,
            Err(outcome) => return Ok(Progress::Done(outcome)),
        };
        self.last = self.last.wrapping_add(1);
        let operation = OperationId(self.last);
        self.subscriptions.begin(queue, (operation, pending.operation), ttl, options, &mut cx.resources);
        Err(State::Subscribing)
    }

    /// Returns the project of a request.
    fn project(&self, name: &str) -> Result<Project, PeerFault> {
        match name {
            "" => Ok(self.caller.project.clone()),
            name if name == self.caller.project.as_str() => Ok(self.caller.project.clone()),
            name => match &self.tenant {
                Some((project, _)) if project.as_str() == name => Ok(project.clone()),
                _ => Project::parse(name),
            },
        }
    }

    /// Returns what the project uses.
    fn tenant(&mut self, project: &Project, cx: &Cx<'_>) -> Arc<Tenant> {
        match &self.tenant {
            Some((last, tenant)) if last == project => tenant.clone(),
            _ => {
                let tenant = self.tenants.get(project, cx.resources.now.mono);
                self.tenant = Some((project.clone(), tenant.clone()));
                tenant
            }
        }
    }

    /// Returns the outcome of a request that the client's grant does not allow.
    fn forbidden(&mut self, project: &Project, request: &Request<'_>, cx: &mut Cx<'_>) -> Option<Outcome> {
        let (queue, rights) = begin::rights(&request.action)?;
        // What has no valid name exists for nobody.
        let name = QueueName::parse(queue).ok()?;
        let caller = Caller { project: project.clone(), ..self.caller.clone() };
        let right = *rights.first()?;
        let may = rights.iter().any(|right| caller.may(*right, &name));
        self.named = Some((name.clone(), right));
        if may {
            return None;
        }
        let fault = Fault::from(PeerFault::Forbidden(right.name()));
        let report = Command::Report { project: project.clone(), queue: Some(name), fault: fault.clone() };
        cx.resources.commands.push(report);
        Some(Outcome::refused(403, fault.to_string()))
    }

    /// Continues with what a request has come to.
    fn proceed(&mut self, pending: &mut Pending, progress: Progress, cx: &mut Cx<'_>) {
        pending.state = match progress {
            Progress::Waits(task) => State::Running(task),
            Progress::Done(outcome) => {
                pending.known_ns = cx.resources.now.mono_ns;
                State::Done(outcome)
            }
        };
    }

    /// Handles an answer of the shard.
    pub fn answer(&mut self, operation: OperationId, answer: Answer, cx: &mut Cx<'_>) {
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
                self.last = self.last.wrapping_add(1);
                pending.operation = OperationId(self.last);
                if let Some(queue) = pending.queue.take() {
                    self.known.forget(queue);
                }
            }
            (Err(fault), _) => self.finish(index, Outcome::store_fault(fault), cx),
        }
    }

    /// Handles that the queue of a request was opened, or not.
    fn handle_opened(&mut self, index: usize, name: FullName, answer: Answer, cx: &mut Cx<'_>) {
        let Answer::Opened { result, .. } = answer else { return };
        match result {
            Ok(info) => {
                self.known.add(KnownQueue { name, info });
                self.begin_at(index, cx);
            }
            Err(Fault::Store(StoreFault::NoQueue)) => self.handle_missing(index, name, cx),
            Err(fault) => self.finish(index, Outcome::fault(&fault), cx),
        }
    }

    /// Handles that the queue of a request does not exist.
    fn handle_missing(&mut self, index: usize, name: FullName, cx: &mut Cx<'_>) {
        let Some(pending) = self.pending.get_mut(index) else { return };
        let Ok(request) = Request::parse(pending.format, &pending.text) else { return };
        if let Needs::MadeQueue(_) = begin::needs(&request.action) {
            let operation = pending.operation;
            let order = Order::Make(name.clone(), queues::new_queue());
            cx.resources.commands.push(Command::Order { operation, order });
            pending.state = State::Creating(name);
            return;
        }
        if let Action::QueuePurge { .. } = &request.action {
            // Subscriptions outlive their queue.
            let mut reserved = 0;
            let mut call =
                Call { operation: pending.operation, resources: &mut cx.resources, reserved: &mut reserved };
            let progress = begin::without(&request, &name.0, &mut call);
            pending.state = match progress {
                Progress::Waits(task) => State::Running(task),
                Progress::Done(outcome) => State::Done(outcome),
            };
            return;
        }
        let outcome = begin::without_queue(&request.action);
        self.finish(index, outcome, cx);
    }

    /// Handles that the queue of a request was created, or not.
    fn handle_created(&mut self, index: usize, name: FullName, answer: Answer, cx: &mut Cx<'_>) {
        let Answer::Wished(result) = answer else { return };
        match result {
            Ok(created) => {
                self.known.add(KnownQueue { name, info: created.queue.info });
                self.begin_at(index, cx);
            }
            Err(fault) => self.finish(index, queues::not_granted(&fault), cx),
        }
    }

    fn finish(&mut self, index: usize, outcome: Outcome, cx: &mut Cx<'_>) {
        if let Some(pending) = self.pending.get_mut(index) {
            pending.known_ns = cx.resources.now.mono_ns;
            pending.state = State::Done(outcome);
        }
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
            if scratch.capacity() > SCRATCH_BYTES {
                scratch = Vec::new();
            }
        }
        if !self.subscriptions.is_empty() {
            self.subscriptions.poll_transmit(&mut scratch, cx);
        }
    }

    /// Returns whether no more input can be taken for now.
    pub fn is_blocked(&self) -> bool {
        self.pending.len() >= PENDING_MAX || self.wanted.is_some()
    }

    /// Tries again to take the request that waits for memory.
    pub fn retry(&mut self, _cx: &mut Cx<'_>) {
        self.wanted = None;
    }

    /// Handles the deadlines that have passed.
    pub fn handle_timeout(&mut self, cx: &mut Cx<'_>) {
        if self.incoming.is_late(cx.resources.now) {
            self.close = Some(CloseCode::POLICY);
        }
        self.subscriptions.handle_timeout(&mut cx.resources);
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
            if let State::Running(mut task) = pending.state {
                let mut reserved = 0;
                task.abandon(&mut Call { operation, resources: &mut cx.resources, reserved: &mut reserved });
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
    pub fn handle_grant(&mut self, granted: Granted) {
        self.caller.granted = Some(granted);
    }

    /// Handles that the client's grant has ended.
    pub fn handle_expired(&mut self) {
        self.is_draining = true;
    }

    /// Returns what the connection must know.
    pub fn status(&self) -> FrontStatus {
        let is_busy = !self.pending.is_empty();
        FrontStatus {
            wanted: self.wanted,
            close: self.close,
            is_busy,
            is_producing: is_busy,
            waits_for_us: is_busy || self.wanted.is_some(),
            is_consuming: !self.subscriptions.is_empty(),
            goes_on: self.subscriptions.goes_on()
                || matches!(self.pending.front(), Some(Pending { state: State::Done(_), .. })),
            next_deadline: [self.incoming.due(), self.subscriptions.next_deadline()]
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
