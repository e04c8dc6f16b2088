//! The server's side of a connection's operations, in sequence (protocol sections 2 to 6).
//!
//! ```text
//!                 SetupRequest{append}            opened
//! AwaitingSetup ────────────────────▶ Opening ───────────▶ Producing ─┐ client FIN or a failure, and
//!       ▲        SetupRequest{get}       │      positions             │ all acknowledged or refused
//!       │                                ├─▶ Positioning ▶ Consuming ─┤ client FIN, or a failure
//!       │        SetupRequest{claim}     ├─────────────────▶ Claiming ─┤ the same, and all settled
//!       │                     refused    ▼                            ▼
//!       └──────────── client FIN ──────────────────────────────── Discarding
//! ```
//! If the client's FIN has already arrived when our half ends, `Discarding` is skipped.
//!
//! | file | one concept |
//! | --- | --- |
//! | here | the client's half, pb by pb |
//! | `operations` | the current operation, and which halves have ended |
//! | `setup` | parses and checks a SetupRequest |
//! | `produce` | the requests and responses of a produce operation |
//! | `consume` | the requests and responses of a consume operation |
//! | `claim` | the requests and responses of a claim operation |

mod claim;
mod consume;
mod operations;
mod produce;
mod setup;

use self::operations::{Operations, State};
use super::{Cx, DrainStep, FrontStatus};
use crate::access::Right;
use crate::base::error::{Fault, PeerFault};
use crate::base::millis::Millis;
use crate::base::names::{FullName, Project, QueueName};
use crate::base::queue::QueueId;
use crate::base::units::{Offset, Partition};
use crate::operation::{Answer, Caller, ClaimEnd, Granted, OperationId, UNAWAITED};
use crate::pb::{Delimiter, Step};
use crate::ws::CloseCode;

/// The server's side of a streaming connection: the input of the current half, and the operations.
#[derive(Debug)]
pub struct ServerSession {
    delimiter: Delimiter,
    operations: Operations,
}

impl ServerSession {
    /// Creates a session for `caller`.
    pub fn new(caller: Caller) -> Self {
        Self { delimiter: Delimiter::default(), operations: Operations::new(caller) }
    }

    /// Handles a piece of the client's half. `fin` says whether it ends the half. Returns how many bytes were
    /// taken; pass the rest again once [`Self::is_blocked`] returns false.
    pub fn handle_data(&mut self, piece: &[u8], fin: bool, cx: &mut Cx<'_>) -> usize {
        let Self { delimiter, operations } = self;
        let mut rest = piece;
        let mut whole = false;
        operations.wanted = None;
        loop {
            if operations.discards() {
                operations.discard(rest.len(), cx.resources.settings.discard_limit_bytes);
                rest = &[];
                break;
            }
            if rest.is_empty() || operations.is_blocked(cx) {
                break;
            }
            match delimiter.next(rest, cx.resources.settings.pb_limits(), &mut cx.resources.budget) {
                Ok((used, Step::Pb(pb))) => {
                    rest = &rest[used..];
                    whole = true;
                    if let Err(fault) = operations.handle_pb(pb, rest.len(), cx) {
                        operations.fail(fault, cx);
                    }
                }
                Ok((used, Step::More)) => rest = &rest[used..],
                Ok((used, Step::Wait(wanted))) => {
                    rest = &rest[used..];
                    operations.wanted = Some(wanted);
                    break;
                }
                Err(fault) => operations.fail(fault.into(), cx),
            }
        }
        let taken = piece.len() - rest.len();
        if rest.is_empty() && fin {
            if !operations.discards() && delimiter.is_inside() {
                operations.fail(PeerFault::PbCut.into(), cx);
            }
            operations.handle_fin(cx);
        }
        if operations.discards() || !delimiter.is_inside() || operations.client_ended {
            self.forget_pb(cx);
            self.operations.wanted = None;
        } else if operations.waits_for_the_store() {
            // The timeout of the pb starts when there is room for it.
            operations.pb_due = None;
        } else if whole || operations.pb_due.is_none() {
            operations.pb_due = Some(cx.resources.now.mono + Millis::from(cx.resources.settings.pb_timeout));
        }
        taken
    }

    /// Retries the reservation for the waiting pb, because the budget may have room.
    pub fn retry(&mut self, cx: &mut Cx<'_>) {
        if self.operations.wanted.is_none() {
            return;
        }
        self.operations.wanted = self.delimiter.reserve(&mut cx.resources.budget);
        if self.operations.wanted.is_none() {
            self.operations.pb_due =
                Some(cx.resources.now.mono + Millis::from(cx.resources.settings.pb_timeout));
        }
    }

    /// Submits the messages of this turn, after all input of the turn was passed in.
    pub fn flush(&mut self, cx: &mut Cx<'_>) {
        if let State::Producing(produce) = &mut self.operations.state {
            produce.close_batches(&mut cx.resources);
        }
    }

    /// Handles the answer to a command of `operation`. Ignores answers for earlier operations.
    pub fn answer(&mut self, operation: OperationId, answer: Answer, cx: &mut Cx<'_>) {
        let operations = &mut self.operations;
        if operation != operations.operation {
            return;
        }
        match (answer, &mut operations.state) {
            (Answer::Opened { result, local_partition, has_claims }, _) => {
                operations.handle_opened(result, local_partition, has_claims, cx);
            }
            (Answer::Renewed(result), _) => operations.tell_renewal(result),
            (Answer::Resolved { partition, result }, _) => operations.handle_position(partition, result, cx),
            (Answer::Appended { sequence, result }, State::Producing(produce)) => {
                if let Some(fault) = produce.handle_appended(sequence, result, cx.resources.now) {
                    self.forget_pb(cx);
                    self.operations.fail(fault, cx);
                }
            }
            (Answer::Fetched { partition, result }, State::Consuming(consuming)) => match result {
                Ok(fetched) => consuming.handle_fetched(partition, fetched, cx),
                Err(fault) => operations.fail(fault.into(), cx),
            },
            (Answer::Claimed { partition, result }, State::Claiming(claim)) => match result {
                Ok(grant) => claim.handle_claimed(partition, grant, &mut cx.resources),
                Err(fault) => self.fail_claim(fault.into(), cx),
            },
            (Answer::Watched { partition, result }, State::Claiming(claim)) => match result {
                Ok(()) => claim.handle_watched(partition),
                Err(fault) => self.fail_claim(fault.into(), cx),
            },
            (Answer::Settled { sequence, partition, result }, State::Claiming(claim)) => match result {
                Ok(lost) => claim.handle_settled(sequence, partition, &lost, &mut cx.resources),
                Err(_) if sequence == UNAWAITED => {}
                Err(fault) => {
                    claim.handle_failed(sequence, &mut cx.resources);
                    self.fail_claim(fault.into(), cx);
                }
            },
            (
                Answer::Appended { .. }
                | Answer::Fetched { .. }
                | Answer::Claimed { .. }
                | Answer::Watched { .. }
                | Answer::Settled { .. }
                // A streaming client asks for none of these.
                | Answer::Managed { .. }
                | Answer::Wished(_)
                | Answer::Deleted(_)
                | Answer::Authenticated(_)
                | Answer::Listed { .. }
                | Answer::Subscriptions { .. },
                _,
            ) => {}
        }
    }

    /// Ends a claim operation, because the store has failed. What it owes will not come.
    fn fail_claim(&mut self, fault: Fault, cx: &mut Cx<'_>) {
        self.forget_pb(cx);
        self.operations.fail(fault, cx);
    }

    /// Returns whether an operation reads or claims messages of a queue.
    pub fn reads(&self, queue: QueueId) -> bool {
        self.operations.reads(queue)
    }

    /// Handles that the queue that it reads has more partitions.
    pub fn handle_grown(&mut self) {
        self.operations.handle_grown();
    }

    /// Continues with another grant of the same client. Ends the operation if the grant does not allow it.
    pub fn handle_grant(&mut self, granted: Granted, cx: &mut Cx<'_>) {
        self.operations.handle_grant(granted, cx);
        if self.operations.discards() {
            self.forget_pb(cx);
        }
    }

    /// Ends the operation, because the client's grant has ended. No further one may begin.
    pub fn handle_expired(&mut self, fault: Fault, cx: &mut Cx<'_>) {
        self.operations.handle_expired(fault, cx);
        self.forget_pb(cx);
    }

    /// Tells the client that its grant ends soon, if an operation is open.
    pub fn announce_expiry(&mut self) {
        self.operations.tell_renewal(Ok(()));
    }

    /// Handles the deadlines that have passed.
    pub fn handle_timeout(&mut self, cx: &mut Cx<'_>) {
        if let State::Producing(produce) = &mut self.operations.state {
            produce.handle_timeout(cx.resources.now);
        }
        if self.operations.pb_due.is_some_and(|due| due <= cx.resources.now.mono) {
            self.forget_pb(cx);
            self.operations.fail(PeerFault::PbTimeout.into(), cx);
        }
    }

    /// Takes a step of draining.
    pub fn drain(&mut self, step: DrainStep, cx: &mut Cx<'_>) {
        match (step, &mut self.operations.state) {
            (DrainStep::Producers, state) => {
                let is_producing = matches!(state, State::Producing(_));
                self.operations.draining = true;
                if is_producing {
                    self.operations.fail(Fault::Draining, cx);
                    self.forget_pb(cx);
                }
            }
            (DrainStep::Consumers { until }, State::Consuming(consuming)) => {
                consuming.consume.drain(until, &mut cx.resources);
            }
            (DrainStep::Consumers { until }, State::Claiming(claim)) => claim.drain(until, &mut cx.resources),
            (DrainStep::Consumers { .. }, _) => {}
        }
    }

    /// Writes everything that is due.
    pub fn poll_transmit(&mut self, cx: &mut Cx<'_>) {
        self.operations.poll_transmit(cx);
    }

    /// Drops a pb that has started, and its timeout.
    fn forget_pb(&mut self, cx: &mut Cx<'_>) {
        self.delimiter.reset(&mut cx.resources.budget);
        self.operations.pb_due = None;
    }

    /// Releases everything, because the connection is closed.
    pub fn abandon(&mut self, cx: &mut Cx<'_>) {
        self.forget_pb(cx);
        match &mut self.operations.state {
            State::Producing(produce) => produce.abandon(&mut cx.resources),
            State::Consuming(consuming) => consuming.consume.cancel(&mut cx.resources),
            State::Claiming(claim) => {
                claim.leave(ClaimEnd::Broken, &mut cx.resources);
                claim.forget(&mut cx.resources);
            }
            State::AwaitingSetup | State::Opening { .. } | State::Positioning(_) | State::Discarding => {}
        }
        self.operations.end_half();
    }

    /// Ends the current operation with an internal error after a panic, without touching state that may be
    /// inconsistent. No other call may follow.
    pub fn break_off(&mut self, cx: &mut Cx<'_>) {
        let fault = Fault::Internal("the server failed while handling this connection; see its log");
        cx.resources.counters.failed.add(fault.status(), 1);
        self.operations.end_with(&fault, cx);
    }

    /// Returns whether no more input can be taken for now.
    pub fn is_blocked(&self, cx: &Cx<'_>) -> bool {
        self.operations.is_blocked(cx)
    }

    /// Returns the code to close the connection with, if any.
    #[inline]
    pub(super) fn close_code(&self) -> Option<CloseCode> {
        self.operations.close
    }

    /// Returns the state that the connection acts on.
    #[inline]
    pub fn status(&self) -> FrontStatus {
        let Operations { state, wanted, close, pb_due, .. } = &self.operations;
        let (wanted, close) = (*wanted, *close);
        let open = FrontStatus {
            wanted,
            close,
            is_busy: true,
            waits_for_us: wanted.is_some(),
            next_deadline: *pb_due,
            ..FrontStatus::default()
        };
        let earliest = |due: Option<Millis>| [*pb_due, due].into_iter().flatten().min();
        match state {
            State::AwaitingSetup | State::Discarding => FrontStatus { is_busy: false, ..open },
            State::Opening { .. } | State::Positioning(_) => {
                FrontStatus { is_producing: true, waits_for_us: true, ..open }
            }
            State::Producing(produce) => FrontStatus {
                is_producing: true,
                is_starved: produce.is_starved(),
                waits_for_us: wanted.is_some() || produce.waits_for_store(),
                goes_on: produce.has_more_to_say() || self.operations.has_renewals(),
                credit: Some(produce.credit()),
                next_deadline: earliest(produce.next_deadline()),
                ..open
            },
            State::Consuming(consuming) => FrontStatus {
                is_consuming: true,
                is_behind: consuming.consume.is_behind(),
                goes_on: true,
                next_deadline: earliest(consuming.consume.next_deadline()),
                ..open
            },
            State::Claiming(claim) => FrontStatus {
                is_claiming: true,
                waits_for_us: wanted.is_some() || !claim.is_settled(),
                goes_on: true,
                next_deadline: earliest(claim.next_deadline()),
                ..open
            },
        }
    }

    /// Returns the project, and the queue of the current operation if there is one.
    pub fn names(&self) -> (&Project, Option<&QueueName>) {
        (self.operations.project(), self.operations.queue_name())
    }

    /// Returns the right that the present operation needs.
    pub fn right(&self) -> Option<Right> {
        self.operations.right()
    }

    /// Returns the queue of a consume operation, and each partition that it reads with the next offset.
    pub fn positions(&self) -> Option<(FullName, Vec<(Partition, Offset)>)> {
        match &self.operations.state {
            State::Consuming(consuming) => {
                let consume = &consuming.consume;
                Some((consume.subject().full_name(), consume.positions()))
            }
            _ => None,
        }
    }
}
