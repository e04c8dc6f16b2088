//! The operations of a connection, in sequence: the current one, and which halves have ended.

use std::collections::VecDeque;

use super::consume::{self, Consuming};
use super::setup::{Asked, ConsumeSetup, Kind, Setup, Shown, Wishes};
use super::{claim, produce};
use crate::access::{Permit, Right};
use crate::base::budget::{Share, Wanted};
use crate::base::claim::View;
use crate::base::error::{Fault, PeerFault, StatusCode, StoreFault};
use crate::base::millis::Millis;
use crate::base::names::{Project, QueueName};
use crate::base::planted;
use crate::base::queue::{QueueId, QueueInfo};
use crate::base::secret::Secret;
use crate::base::units::{Offset, Partition};
use crate::front::{Cx, PbWriter, status_of};
use crate::operation::{
    Caller, Claim, ClaimEnd, Command, Consume, Granted, OperationId, Positioning, Produce, Routing, Subject,
};
use crate::pb::Status;
use crate::ws::CloseCode;

/// The most results of renewals that wait to be sent. With more, no requests are read.
const RENEWALS_MAX: usize = 16;

#[derive(Debug)]
pub(super) enum State {
    AwaitingSetup,
    /// Waits for the catalogue. `setup` is `None` if the request is malformed.
    Opening {
        kind: Kind,
        setup: Option<Setup>,
    },
    /// Waits for positions.
    Positioning(Box<Waiting>),
    Producing(Box<Produce>),
    Consuming(Box<Consuming>),
    Claiming(Box<Claim>),
    /// Our half has ended, the client's has not.
    Discarding,
}

/// A consume operation that waits for its positions.
#[derive(Debug)]
pub(super) struct Waiting {
    only: Option<Partition>,
    shown: Shown,
    positioning: Positioning,
}

/// All of a session except its delimiter, so that a pb can be handled while it borrows the delimiter.
#[derive(Debug)]
pub(super) struct Operations {
    caller: Caller,
    pub(super) operation: OperationId,
    pub(super) state: State,
    /// Whether the client's half of the current operation has ended.
    pub(super) client_ended: bool,
    /// The project's permit for the current operation.
    permit: Option<Permit>,
    /// The fault that ends the operation once all accepted messages are acknowledged or refused.
    failing: Option<Fault>,
    /// The number of discarded bytes of the current half.
    discarded: u64,
    pub(super) draining: bool,
    /// Why no operation may begin: the client's grant has ended.
    expired: Option<Fault>,
    /// The results of renewals, and the news that the grant ends soon. To be sent, in order.
    renewals: VecDeque<Result<(), Fault>>,
    /// The reservation that the delimiter waits for.
    pub(super) wanted: Option<Wanted>,
    /// When the pb that has started must be complete.
    pub(super) pb_due: Option<Millis>,
    pub(super) close: Option<CloseCode>,
}

impl Operations {
    pub(super) fn new(caller: Caller) -> Self {
        Self {
            caller,
            operation: OperationId::default(),
            state: State::AwaitingSetup,
            client_ended: false,
            permit: None,
            failing: None,
            discarded: 0,
            draining: false,
            expired: None,
            renewals: VecDeque::new(),
            wanted: None,
            pb_due: None,
            close: None,
        }
    }

    /// Returns the project of all operations.
    pub(super) fn project(&self) -> &Project {
        &self.caller.project
    }

    /// Returns the queue of the current operation.
    pub(super) fn queue_name(&self) -> Option<&QueueName> {
        match &self.state {
            State::Opening { setup, .. } => setup.as_ref().map(|setup| &setup.address.queue),
            State::Positioning(waiting) => Some(&waiting.positioning.subject().name),
            State::Producing(produce) => Some(&produce.subject().name),
            State::Consuming(consuming) => Some(&consuming.consume.subject().name),
            State::Claiming(claim) => Some(&claim.subject().name),
            State::AwaitingSetup | State::Discarding => None,
        }
    }

    /// Returns whether the pb waits for memory that the store will release. Waiting for memory of other peers
    /// counts towards the pb's timeout.
    pub(super) fn waits_for_the_store(&self) -> bool {
        self.wanted.is_some_and(|wanted| wanted.share == Share::Whole)
    }

    /// Returns whether the client's bytes are ignored.
    pub(super) fn discards(&self) -> bool {
        !self.client_ended && (self.failing.is_some() || matches!(self.state, State::Discarding))
    }

    pub(super) fn discard(&mut self, bytes: usize, limit: u64) {
        self.discarded += bytes as u64;
        if self.discarded > limit {
            self.close = Some(CloseCode::POLICY);
        }
    }

    #[inline]
    pub(super) fn is_blocked(&self, cx: &Cx<'_>) -> bool {
        if self.client_ended || self.wanted.is_some() || self.renewals.len() >= RENEWALS_MAX {
            return true;
        }
        match &self.state {
            State::Opening { .. } | State::Positioning(_) => true,
            State::Producing(produce) => self.failing.is_none() && produce.is_full(&cx.resources),
            State::Claiming(claim) => self.failing.is_none() && claim.is_full(&cx.resources),
            State::AwaitingSetup | State::Consuming(_) | State::Discarding => false,
        }
    }

    #[inline]
    pub(super) fn handle_pb(&mut self, pb: &[u8], expected: usize, cx: &mut Cx<'_>) -> Result<(), Fault> {
        match &mut self.state {
            State::Producing(produce) => match produce::handle_pb(produce, pb, expected, cx)? {
                None => Ok(()),
                Some(token) => {
                    self.renew(token, cx);
                    Ok(())
                }
            },
            State::Consuming(consuming) => {
                cx.resources.budget.release(pb.len());
                if let Some(token) = consuming.handle_pb(pb, cx)? {
                    self.renew(&token, cx);
                }
                Ok(())
            }
            State::Claiming(claim) => {
                cx.resources.budget.release(pb.len());
                if let Some(token) = claim::handle_pb(claim, pb, cx)? {
                    self.renew(token, cx);
                }
                Ok(())
            }
            State::AwaitingSetup => {
                cx.resources.budget.release(pb.len());
                self.handle_setup(pb, cx)
            }
            State::Opening { .. } | State::Positioning(_) | State::Discarding => {
                cx.resources.budget.release(pb.len());
                Err(Fault::Internal("pb received in a state that accepts none"))
            }
        }
    }

    fn handle_setup(&mut self, pb: &[u8], cx: &mut Cx<'_>) -> Result<(), Fault> {
        let asked = Asked::decode(pb)?;
        let kind = asked.kind();
        let produces = kind == Kind::Produce;
        // From here on, a refusal has the form of the operation's response.
        self.state = State::Opening { kind, setup: None };
        let setup = asked.check(cx.resources.settings)?;
        let queue = setup.address.queue.clone();
        self.state = State::Opening { kind, setup: Some(setup) };
        if let Some(expired) = &self.expired {
            return Err(expired.clone());
        }
        let right = kind.right();
        // Before anything that depends on the queue: what is forbidden looks alike whether it exists or not.
        if !self.caller.may(right, &queue) {
            return Err(PeerFault::Forbidden(right.name()).into());
        }
        if self.draining {
            return Err(Fault::Draining);
        }
        if cx.resources.settings.test_faults {
            planted::in_connection(queue.as_str().as_bytes());
        }
        self.permit = self.caller.admit(produces, cx.resources.now)?;
        cx.resources.counters.operations += 1;
        let may_create =
            produces || self.caller.may(Right::Manage, &queue) || self.caller.may(Right::Produce, &queue);
        let name = (self.caller.project.clone(), queue);
        let (operation, needs_claims) = (self.operation, kind == Kind::Claim);
        cx.resources.commands.push(Command::Open { operation, name, may_create, needs_claims });
        Ok(())
    }

    pub(super) fn handle_opened(
        &mut self,
        opened: Result<QueueInfo, Fault>,
        local_partition: Partition,
        has_claims: bool,
        cx: &mut Cx<'_>,
    ) {
        let State::Opening { setup, .. } = &mut self.state else { return };
        if self.failing.is_some() {
            return;
        }
        let queue = match opened {
            _ if self.draining => return self.fail(Fault::Draining, cx),
            Ok(queue) => queue,
            Err(fault) => return self.fail(fault, cx),
        };
        let only = setup.as_ref().and_then(|setup| setup.address.partition);
        if only.is_some_and(|partition| partition.0 >= queue.partitions) {
            return self.fail(PeerFault::NoPartition { partitions: queue.partitions }.into(), cx);
        }
        let Some(Setup { address, wishes }) = setup.take() else { return };
        // The operation's own copy needs no grant. It would stay in use after a change.
        let (operation, caller) = (self.operation, Caller { granted: None, ..self.caller.clone() });
        let partitions = queue.partitions;
        let subject = Subject { operation, caller, name: address.queue, queue };
        let token_expires = self.caller.seconds_left(cx.resources.now);
        match wishes {
            Wishes::Produce => {
                let author = self.caller.author;
                let routing = Routing::of(author, only, partitions, local_partition);
                let produce = Produce::start(subject, routing, has_claims, &mut cx.resources);
                let granted = produce.granted();
                self.state = State::Producing(Box::new(produce));
                produce::accept(granted, token_expires, &mut cx.reply);
            }
            Wishes::Consume(ConsumeSetup { start, shown }) => {
                match Positioning::start(subject, &start, &mut cx.resources) {
                    Ok(positioning) => {
                        let waiting = Waiting { only, shown, positioning };
                        self.state = State::Positioning(Box::new(waiting));
                        self.start_consuming(cx);
                    }
                    Err(fault) => self.fail(fault.into(), cx),
                }
            }
            Wishes::Claim(terms) => {
                self.state = State::Claiming(Box::new(Claim::start(subject, terms, only)));
                accept(token_expires, &mut cx.reply);
            }
        }
    }

    pub(super) fn handle_position(
        &mut self,
        partition: Partition,
        position: Result<Offset, StoreFault>,
        cx: &mut Cx<'_>,
    ) {
        let State::Positioning(waiting) = &mut self.state else { return };
        match position {
            Ok(position) => waiting.positioning.handle_position(partition, position),
            Err(fault) => return self.fail(fault.into(), cx),
        }
        self.start_consuming(cx);
    }

    /// Accepts the consume operation (status 100) once its positions are known.
    fn start_consuming(&mut self, cx: &mut Cx<'_>) {
        let State::Positioning(waiting) = &mut self.state else { return };
        let Some(beginning) = waiting.positioning.found().filter(|_| self.failing.is_none()) else { return };
        if self.draining {
            return self.fail(Fault::Draining, cx);
        }
        let Shown { echo, claimed, has_extensions, is_bare } = waiting.shown;
        let exclude = (!echo).then_some(self.caller.author.client);
        let view = if claimed { View::Live } else { View::Unclaimed };
        let mut consume = Consume::start(beginning, exclude, view, waiting.only);
        consume.follow_growth();
        let consuming = Consuming { consume, has_extensions, is_bare };
        accept(self.caller.seconds_left(cx.resources.now), &mut cx.reply);
        self.state = State::Consuming(Box::new(consuming));
    }

    /// Returns the right that the operation needs.
    pub(super) fn right(&self) -> Option<Right> {
        match &self.state {
            State::Opening { kind, .. } => Some(kind.right()),
            State::Producing(_) => Some(Right::Produce),
            State::Positioning(_) | State::Consuming(_) => Some(Right::Consume),
            State::Claiming(_) => Some(Right::Claim),
            State::AwaitingSetup | State::Discarding => None,
        }
    }

    /// Returns whether the operation reads or claims messages of a queue.
    pub(super) fn reads(&self, queue: QueueId) -> bool {
        match &self.state {
            State::Consuming(consuming) => consuming.consume.subject().queue.id == queue,
            State::Claiming(claim) => claim.subject().queue.id == queue,
            _ => false,
        }
    }

    /// Reads and claims from the partitions that the queue has got. A producer looks for them by itself.
    pub(super) fn handle_grown(&mut self) {
        match &mut self.state {
            State::Consuming(consuming) => consuming.consume.follow_growth(),
            State::Claiming(claim) => claim.follow_growth(),
            _ => {}
        }
    }

    /// Continues with another grant of the same client. Ends the operation if the grant does not allow it.
    pub(super) fn handle_grant(&mut self, granted: Granted, cx: &mut Cx<'_>) {
        self.caller.granted = Some(granted);
        let Some(right) = self.right() else { return };
        if self.queue_name().is_some_and(|queue| !self.caller.may(right, queue)) {
            self.fail(PeerFault::Forbidden(right.name()).into(), cx);
        }
    }

    /// Ends the operation, because the client's grant has ended. No further one may begin.
    pub(super) fn handle_expired(&mut self, fault: Fault, cx: &mut Cx<'_>) {
        if !matches!(self.state, State::AwaitingSetup | State::Discarding) {
            self.fail(fault.clone(), cx);
        }
        self.expired = Some(fault);
    }

    /// Asks the shard to renew the client's grant.
    pub(super) fn renew(&self, token: &str, cx: &mut Cx<'_>) {
        let token = Secret::new(token);
        cx.resources.commands.push(Command::Renew { operation: self.operation, token });
    }

    /// Tells the client the result of a renewal, or that its grant ends soon. Only an operation that is open can
    /// carry that.
    pub(super) fn tell_renewal(&mut self, result: Result<(), Fault>) {
        if matches!(self.state, State::Producing(_) | State::Consuming(_) | State::Claiming(_)) {
            self.renewals.push_back(result);
        }
    }

    /// Returns whether there are results of renewals to send.
    #[inline]
    pub(super) fn has_renewals(&self) -> bool {
        !self.renewals.is_empty()
    }

    /// Handles the end of the client's half.
    pub(super) fn handle_fin(&mut self, cx: &mut Cx<'_>) {
        if matches!(self.state, State::Discarding) {
            return self.end_operation();
        }
        if matches!(self.state, State::AwaitingSetup) && self.failing.is_none() {
            self.fail(PeerFault::PbInvalid("SetupRequest: absent".into()).into(), cx);
        }
        self.client_ended = true;
        match &mut self.state {
            State::Producing(produce) => produce.handle_ending(),
            State::Claiming(claim) => claim.leave(ClaimEnd::Finished, &mut cx.resources),
            _ => {}
        }
    }

    /// Ends the operation with `fault` once all accepted messages are acknowledged or refused. Later faults
    /// are ignored.
    pub(super) fn fail(&mut self, fault: Fault, cx: &mut Cx<'_>) {
        if matches!(self.state, State::Discarding) {
            return;
        }
        match &mut self.state {
            State::Producing(produce) => {
                produce.close_batches(&mut cx.resources);
                produce.handle_ending();
            }
            State::Claiming(claim) => claim.leave(ClaimEnd::Broken, &mut cx.resources),
            _ => {}
        }
        self.wanted = None;
        if self.failing.is_none() {
            cx.resources.counters.failed.add(fault.status(), 1);
            let (project, queue) = (self.caller.project.clone(), self.queue_name().cloned());
            cx.resources.commands.push(Command::Report { project, queue, fault: fault.clone() });
            self.failing = Some(fault);
        }
    }

    pub(super) fn poll_transmit(&mut self, cx: &mut Cx<'_>) {
        match &mut self.state {
            State::Producing(produce) => {
                while let Some(result) = self.renewals.pop_front() {
                    produce::tell_renewal(produce, renewal_status(&result, &self.caller, cx), cx);
                }
                produce::speak(produce, cx);
                if produce.is_settled() {
                    match &self.failing {
                        Some(fault) => produce::finish_failed(produce, fault, cx),
                        None if self.client_ended => produce::finish(produce, cx),
                        None => return,
                    }
                    self.end_half();
                }
            }
            State::Consuming(consuming) => {
                while let Some(result) = self.renewals.pop_front() {
                    consume::tell_renewal(renewal_status(&result, &self.caller, cx), cx);
                }
                if self.failing.is_none() && !self.client_ended {
                    consuming.poll_transmit(cx);
                    if consuming.consume.is_drained(cx.resources.now) {
                        self.failing = Some(Fault::Draining);
                    }
                }
                if self.failing.is_some() || self.client_ended {
                    consuming.finish(self.failing.as_ref(), cx);
                    self.end_half();
                }
            }
            State::Claiming(claim) => {
                while let Some(result) = self.renewals.pop_front() {
                    claim::tell_renewal(renewal_status(&result, &self.caller, cx), cx);
                }
                if self.failing.is_none() && !self.client_ended {
                    claim::poll_transmit(claim, cx);
                    if claim.is_drained(cx.resources.now) {
                        claim.leave(ClaimEnd::Broken, &mut cx.resources);
                        self.failing = Some(Fault::Draining);
                    }
                }
                claim::tell_news(claim, cx);
                let ends = self.failing.is_some() || self.client_ended;
                if ends && claim.is_settled() || claim.is_stopped() {
                    claim::finish(claim, self.failing.as_ref(), cx);
                    self.end_half();
                }
            }
            State::AwaitingSetup | State::Opening { .. } | State::Positioning(_) => {
                let Some(fault) = self.failing.take() else { return };
                self.end_with(&fault, cx);
                self.end_half();
            }
            State::Discarding => {}
        }
    }

    /// Writes the pb that ends the operation with `fault`.
    pub(super) fn end_with(&mut self, fault: &Fault, cx: &mut Cx<'_>) {
        match &mut self.state {
            State::Producing(produce) => produce::finish_failed(produce, fault, cx),
            State::Consuming(consuming) => consuming.finish(Some(fault), cx),
            State::Claiming(claim) => claim::finish(claim, Some(fault), cx),
            State::Opening { kind: Kind::Produce, .. } => produce::refuse(fault, &mut cx.reply),
            State::AwaitingSetup | State::Opening { .. } | State::Positioning(_) => {
                cx.reply.pb(&status_of(fault), true);
            }
            State::Discarding => {}
        }
    }

    /// Records the end of our half.
    pub(super) fn end_half(&mut self) {
        self.state = State::Discarding;
        self.failing = None;
        self.renewals.clear();
        self.permit = None;
        self.operation.0 = self.operation.0.wrapping_add(1);
        if self.client_ended {
            self.end_operation();
        }
    }

    /// Prepares for the next operation after both halves have ended.
    fn end_operation(&mut self) {
        self.state = State::AwaitingSetup;
        self.client_ended = false;
        self.discarded = 0;
    }
}

/// Writes the response that accepts the setup of a consumer or a worker.
fn accept(token_expires_s: Option<u32>, reply: &mut PbWriter<'_>) {
    let status_code = Some(StatusCode::CONTINUE.0);
    reply.pb(&Status { status_code, token_expires_s, ..Status::default() }, false);
}

/// Returns the status that tells the result of a renewal. Its time is that of the grant in force.
fn renewal_status(result: &Result<(), Fault>, caller: &Caller, cx: &Cx<'_>) -> Status {
    let status = match result {
        Ok(()) => Status { status_code: Some(StatusCode::CONTINUE.0), ..Status::default() },
        Err(fault) => status_of(fault),
    };
    Status { token_expires_s: caller.seconds_left(cx.resources.now), ..status }
}
