//! The server's side of a connection's operations, one after the other (protocol sections 2 to 6).
//!
//! ```text
//!                 SetupRequest{append}            opened
//! AwaitingSetup ────────────────────▶ Opening ───────────▶ Producing ─┐ client FIN and all spoken for,
//!       ▲        SetupRequest{get}       │      positions             │ or a failure and all spoken for
//!       │                                ├─▶ Positioning ▶ Consuming ─┤ client FIN, or a failure
//!       │                     refused    ▼                            ▼
//!       └──────────── client FIN ──────────────────────────────── Discarding
//! ```
//! A half that ends with the client's FIN already there passes `Discarding` over.
//!
//! | file | one concept |
//! | --- | --- |
//! | here | the client's half, pb by pb |
//! | `operations` | which operation is open, and which halves have ended |
//! | `setup` | what a SetupRequest asks for |
//! | `produce` | requests and responses of a produce operation |
//! | `consume` | requests and responses of a consume operation |

mod consume;
mod operations;
mod produce;
mod setup;

use self::operations::{Operations, State};
use super::{Cx, DrainStep, FrontStatus};
use crate::base::error::{Fault, PeerFault};
use crate::base::millis::Millis;
use crate::base::names::{FullName, Project, QueueName};
use crate::base::units::{Offset, Partition};
use crate::operation::{Answer, Caller, OperationId};
use crate::pb::{Delimiter, Step};
use crate::ws::CloseCode;

/// See the module's page.
#[derive(Debug)]
pub struct ServerSession {
    delimiter: Delimiter,
    operations: Operations,
}

impl ServerSession {
    /// A session of `caller`.
    pub fn new(caller: Caller) -> Self {
        Self { delimiter: Delimiter::default(), operations: Operations::new(caller) }
    }

    /// A piece of the client's half, and whether it ends it. Returns how much was taken; where that is not all,
    /// the rest must be brought again once [`Self::is_blocked`] is false.
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
            // The pb's time begins when there is room for it.
            operations.pb_due = None;
        } else if whole || operations.pb_due.is_none() {
            operations.pb_due = Some(cx.resources.now.mono + Millis::from(cx.resources.settings.pb_timeout));
        }
        taken
    }

    /// The budget may have room for the pb that waits.
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

    /// All bytes of a turn were handed in: what they brought goes to the shard.
    pub fn flush(&mut self, cx: &mut Cx<'_>) {
        if let State::Producing(produce) = &mut self.operations.state {
            produce.close_batches(&mut cx.resources);
        }
    }

    /// An answer to a command of `operation`; one to an earlier operation is ignored.
    pub fn answer(&mut self, operation: OperationId, answer: Answer, cx: &mut Cx<'_>) {
        let operations = &mut self.operations;
        if operation != operations.operation {
            return;
        }
        match (answer, &mut operations.state) {
            (Answer::Opened { result, local_partition }, _) => {
                operations.handle_opened(result, local_partition, cx);
            }
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
            (Answer::Appended { .. } | Answer::Fetched { .. }, _) => {}
        }
    }

    /// Time has passed.
    pub fn handle_timeout(&mut self, cx: &mut Cx<'_>) {
        if let State::Producing(produce) = &mut self.operations.state {
            produce.handle_timeout(cx.resources.now);
        }
        if self.operations.pb_due.is_some_and(|due| due <= cx.resources.now.mono) {
            self.forget_pb(cx);
            self.operations.fail(PeerFault::PbTimeout.into(), cx);
        }
    }

    /// Draining takes a step.
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
            (DrainStep::Consumers { .. }, _) => {}
        }
    }

    /// Writes everything that is due now.
    pub fn poll_transmit(&mut self, cx: &mut Cx<'_>) {
        self.operations.poll_transmit(cx);
    }

    /// What was begun of a pb is given up, and with it its time.
    fn forget_pb(&mut self, cx: &mut Cx<'_>) {
        self.delimiter.reset(&mut cx.resources.budget);
        self.operations.pb_due = None;
    }

    /// The connection is gone.
    pub fn abandon(&mut self, cx: &mut Cx<'_>) {
        self.forget_pb(cx);
        match &mut self.operations.state {
            State::Producing(produce) => produce.abandon(&mut cx.resources),
            State::Consuming(consuming) => consuming.consume.cancel(&mut cx.resources),
            State::AwaitingSetup | State::Opening { .. } | State::Positioning(_) | State::Discarding => {}
        }
        self.operations.end_half();
    }

    /// Our own code has failed in the middle of something: says so, where an operation is open, without looking at anything
    /// that may be half done. Nothing may follow.
    pub fn break_off(&mut self, cx: &mut Cx<'_>) {
        let fault = Fault::Internal("this connection's handling has failed; the log says where");
        cx.resources.counters.failed.add(fault.status(), 1);
        self.operations.end_with(&fault, cx);
    }

    /// Whether no more of the client's bytes can be taken now.
    pub fn is_blocked(&self, cx: &Cx<'_>) -> bool {
        self.operations.is_blocked(cx)
    }

    /// A reason to close the connection.
    #[inline]
    pub(super) fn close_code(&self) -> Option<CloseCode> {
        self.operations.close
    }

    /// What its connection must know.
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
                goes_on: produce.has_more_to_say(),
                credit: Some(produce.credit()),
                next_deadline: earliest(produce.next_deadline()),
                ..open
            },
            State::Consuming(consuming) => FrontStatus {
                is_consuming: true,
                goes_on: true,
                next_deadline: earliest(consuming.consume.next_deadline()),
                ..open
            },
        }
    }

    /// The project of all its operations, and the queue of the present one.
    pub fn names(&self) -> (&Project, Option<&QueueName>) {
        (self.operations.project(), self.operations.queue_name())
    }

    /// Of a consume operation, its queue, each partition that it reads and the offset that comes next.
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
