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

mod consume;
mod operations;
mod produce;
mod setup;

use std::ops::Range;

use self::operations::{Operations, State};
use super::context::Cx;
use crate::base::batch::Fetched;
use crate::base::budget::{Budget, Remaining, Wanted};
use crate::base::clock::millis;
use crate::base::error::{Fault, PeerFault, StoreFault};
use crate::base::names::{FullName, Project, QueueName};
use crate::base::queue::QueueInfo;
use crate::operation::{Caller, OperationId};
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
            match delimiter.next(rest, cx.resources.settings.pb_limits(), cx.resources.budget) {
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
            operations.pb_due_ms = None;
        } else if whole || operations.pb_due_ms.is_none() {
            operations.pb_due_ms = Some(cx.resources.now.mono_ms + millis(cx.resources.settings.pb_timeout));
        }
        taken
    }

    /// The budget may have room for the pb that waits.
    pub fn retry(&mut self, cx: &mut Cx<'_>) {
        if self.operations.wanted.is_none() {
            return;
        }
        self.operations.wanted = self.delimiter.reserve(cx.resources.budget);
        if self.operations.wanted.is_none() {
            self.operations.pb_due_ms =
                Some(cx.resources.now.mono_ms + millis(cx.resources.settings.pb_timeout));
        }
    }

    /// All bytes of a turn were handed in: what they brought goes to the shard.
    pub fn flush(&mut self, cx: &mut Cx<'_>) {
        if let State::Producing(produce) = &mut self.operations.state {
            produce.close_batches(&mut cx.resources);
        }
    }

    /// The catalogue's answer; `local_partition` is one that costs no hop.
    pub fn handle_opened(
        &mut self,
        operation: OperationId,
        opened: Result<QueueInfo, Fault>,
        local_partition: u16,
        cx: &mut Cx<'_>,
    ) {
        if operation == self.operations.operation {
            self.operations.handle_opened(opened, local_partition, cx);
        }
    }

    /// The store's answer to a `Resolve`.
    pub fn handle_position(
        &mut self,
        operation: OperationId,
        partition: u16,
        position: Result<u64, StoreFault>,
        cx: &mut Cx<'_>,
    ) {
        if operation == self.operations.operation {
            self.operations.handle_position(partition, position, cx);
        }
    }

    /// The store's answer to an `Append`: the offsets. The shard has given the bytes back.
    pub fn handle_appended(
        &mut self,
        operation: OperationId,
        sequence: u64,
        result: Result<Option<Range<u64>>, StoreFault>,
        cx: &mut Cx<'_>,
    ) {
        if operation == self.operations.operation
            && let State::Producing(produce) = &mut self.operations.state
            && let Some(fault) = produce.handle_appended(sequence, result, cx.resources.now)
        {
            self.forget_pb(cx);
            self.operations.fail(fault, cx);
        }
    }

    /// The store's answer to a `Fetch`.
    pub fn handle_fetched(
        &mut self,
        operation: OperationId,
        partition: u16,
        fetched: Result<Fetched, StoreFault>,
        cx: &mut Cx<'_>,
    ) {
        if operation == self.operations.operation
            && let State::Consuming(consuming) = &mut self.operations.state
        {
            match fetched {
                Ok(fetched) => consuming.handle_fetched(partition, fetched, cx),
                Err(fault) => self.operations.fail(fault.into(), cx),
            }
        }
    }

    /// Time has passed.
    pub fn handle_timeout(&mut self, cx: &mut Cx<'_>) {
        if let State::Producing(produce) = &mut self.operations.state {
            produce.handle_timeout(cx.resources.now);
        }
        if self.operations.pb_due_ms.is_some_and(|due| due <= cx.resources.now.mono_ms) {
            self.forget_pb(cx);
            self.operations.fail(PeerFault::PbTimeout.into(), cx);
        }
    }

    /// Draining, first step: no new operation; a produce operation is ended.
    pub fn drain_producers(&mut self, cx: &mut Cx<'_>) {
        self.operations.draining = true;
        if matches!(self.operations.state, State::Producing(_)) {
            self.operations.fail(Fault::Draining, cx);
            self.forget_pb(cx);
        }
    }

    /// Draining, second step: a consume operation sends what is stored, until then at the latest, and ends.
    pub fn drain_consumers(&mut self, until_ms: u64, cx: &mut Cx<'_>) {
        if let State::Consuming(consuming) = &mut self.operations.state {
            consuming.consume.drain(until_ms, &mut cx.resources);
        }
    }

    /// Writes everything that is due now.
    pub fn poll_transmit(&mut self, cx: &mut Cx<'_>) {
        self.operations.poll_transmit(cx);
    }

    /// What was begun of a pb is given up, and with it its time.
    fn forget_pb(&mut self, cx: &mut Cx<'_>) {
        self.delimiter.reset(cx.resources.budget);
        self.operations.pb_due_ms = None;
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

    /// What would be left of the budget if this session were gone, but for what its connection holds.
    #[inline]
    pub fn without_it(&self, budget: &Budget, held: usize, unsent: usize) -> Remaining {
        let (reserved, (share, cut)) = self.delimiter.reserved();
        let (building, fates) = match &self.operations.state {
            State::Producing(produce) => produce.has(),
            _ => (0, 0),
        };
        budget.without(reserved + building, held + fates, unsent).without_cut(share, cut)
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

    /// What is waited for of the budget.
    pub fn wanted(&self) -> Option<Wanted> {
        self.operations.wanted
    }

    /// Whether a producer waits for credit that the budget withheld.
    pub fn is_starved(&self) -> bool {
        match &self.operations.state {
            State::Producing(produce) => produce.is_starved(),
            _ => false,
        }
    }

    /// Whether an operation is open: our half of it has begun, or will.
    pub fn is_busy(&self) -> bool {
        !matches!(self.operations.state, State::AwaitingSetup | State::Discarding)
    }

    /// Messages that the client of a produce operation may send and has not sent.
    pub fn credit(&self) -> Option<u64> {
        match &self.operations.state {
            State::Producing(produce) => Some(produce.credit()),
            _ => None,
        }
    }

    /// Whether a consume operation is open.
    pub fn is_consuming(&self) -> bool {
        matches!(self.operations.state, State::Consuming(_))
    }

    /// The project of all its operations.
    pub fn project(&self) -> &Project {
        self.operations.project()
    }

    /// The queue of the present operation.
    pub fn queue_name(&self) -> Option<&QueueName> {
        self.operations.queue_name()
    }

    /// Of a consume operation, its queue, each partition that it reads and the offset that comes next.
    pub fn positions(&self) -> Option<(FullName, Vec<(u16, u64)>)> {
        match &self.operations.state {
            State::Consuming(consuming) => {
                let consume = &consuming.consume;
                Some((consume.subject().full_name(), consume.positions()))
            }
            _ => None,
        }
    }

    /// Whether the client waits for us: for memory, the catalogue or the store.
    pub fn waits_for_us(&self) -> bool {
        match &self.operations.state {
            State::Opening { .. } | State::Positioning(_) => true,
            State::Producing(produce) => self.operations.wanted.is_some() || produce.waits_for_store(),
            State::AwaitingSetup | State::Consuming(_) | State::Discarding => {
                self.operations.wanted.is_some()
            }
        }
    }

    /// Whether a produce operation is open.
    pub fn is_producing(&self) -> bool {
        matches!(self.operations.state, State::Producing(_) | State::Opening { .. } | State::Positioning(_))
    }

    /// Whether there may be more to send whenever there is room.
    pub fn goes_on(&self) -> bool {
        match &self.operations.state {
            State::Producing(produce) => produce.has_more_to_say(),
            State::Consuming(_) => true,
            _ => false,
        }
    }

    /// A reason to close the connection.
    pub fn close_code(&self) -> Option<CloseCode> {
        self.operations.close
    }

    /// When something is due without any event.
    pub fn next_deadline_ms(&self) -> Option<u64> {
        let operation = match &self.operations.state {
            State::Consuming(consuming) => consuming.consume.next_deadline_ms(),
            State::Producing(produce) => produce.next_deadline_ms(),
            _ => None,
        };
        [self.operations.pb_due_ms, operation].into_iter().flatten().min()
    }
}
