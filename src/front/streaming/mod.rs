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
mod produce;

use super::Cx;
use super::context::status_of;
use crate::access::{Permit, Use};
use crate::base::batch::Fetched;
use crate::base::budget::{Share, Wanted};
use crate::base::clock::millis;
use crate::base::error::{Fault, PeerFault, StatusCode, StoreFault};
use crate::base::names::{ClientId, QueueAddress};
use crate::base::partitioner::client_partition;
use crate::base::planted;
use crate::base::queue::{Position, QueueInfo};
use crate::operation::{Author, Beginning, Command, Consume, OperationId, Place, Produce, Routing, Start};
use crate::pb::{ConsumeSetupRequest, ProduceSetupResponse, SetupRequest, Status};
use crate::pb::{Delimiter, Step};
use crate::ws::CloseCode;
use prost::Message;
use std::ops::Range;

#[derive(Debug)]
enum Setup {
    Produce { partition: Option<u16> },
    Consume { partition: Option<u16>, start: Start, echo: bool, has_extensions: bool },
}

#[derive(Debug)]
enum State {
    AwaitingSetup,
    /// Waits for the catalogue.
    Opening(Setup),
    /// Waits for the positions of `waiting` partitions.
    Positioning(Box<Positioning>),
    Producing(Box<Produce>),
    Consuming(Box<Consume>),
    /// Our half has ended, the client's has not.
    Discarding,
}

#[derive(Debug)]
struct Positioning {
    queue: QueueInfo,
    partition: Option<u16>,
    echo: bool,
    /// As far as they are known: what is asked for stands where the client's marker stands.
    beginning: Beginning,
    waiting: usize,
}

/// See the module's page.
#[derive(Debug)]
pub struct ServerSession {
    delimiter: Delimiter,
    operations: Operations,
}

/// All but the delimiter, so that a pb can be handled where it lies.
#[derive(Debug)]
struct Operations {
    client: ClientId,
    client_is_known: bool,
    operation: OperationId,
    state: State,
    /// The client's half of the present operation has ended.
    client_ended: bool,
    /// The project's permit for the present operation.
    permit: Option<Permit>,
    /// The operation ends with this once all that was accepted is spoken for.
    failing: Option<Fault>,
    /// Bytes of the present half that were discarded.
    discarded: u64,
    draining: bool,
    /// Bytes that the delimiter waits for.
    wanted: Option<Wanted>,
    /// When the pb that was begun must be whole.
    pb_due_ms: Option<u64>,
    close: Option<CloseCode>,
}

impl ServerSession {
    /// A session of `client`, which said so itself or not.
    pub fn new(client: ClientId, client_is_known: bool) -> Self {
        Self {
            delimiter: Delimiter::default(),
            operations: Operations {
                client,
                client_is_known,
                operation: OperationId::default(),
                state: State::AwaitingSetup,
                client_ended: false,
                permit: None,
                failing: None,
                discarded: 0,
                draining: false,
                wanted: None,
                pb_due_ms: None,
                close: None,
            },
        }
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
                operations.discard(rest.len(), cx.settings.discard_limit_bytes);
                rest = &[];
                break;
            }
            if rest.is_empty() || operations.is_blocked(cx) {
                break;
            }
            match delimiter.next(rest, cx.settings.pb_limits(), &mut cx.budget) {
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
            operations.pb_due_ms = Some(cx.now.mono_ms + millis(cx.settings.pb_timeout));
        }
        taken
    }

    /// The budget may have room for the pb that waits.
    pub fn retry(&mut self, cx: &mut Cx<'_>) {
        if self.operations.wanted.is_none() {
            return;
        }
        self.operations.wanted = self.delimiter.reserve(&mut cx.budget);
        if self.operations.wanted.is_none() {
            self.operations.pb_due_ms = Some(cx.now.mono_ms + millis(cx.settings.pb_timeout));
        }
    }

    /// All bytes of a turn were handed in: what they brought goes to the shard.
    pub fn flush(&mut self, cx: &mut Cx<'_>) {
        if let State::Producing(produce) = &mut self.operations.state {
            produce.close_batches(cx);
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
            && let Some(fault) = produce.handle_appended(sequence, result, cx.now)
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
            && let State::Consuming(consume) = &mut self.operations.state
        {
            match fetched {
                Ok(fetched) => consume.handle_fetched(partition, fetched, cx.has_room(), cx),
                Err(fault) => self.operations.fail(fault.into(), cx),
            }
        }
    }

    /// Time has passed.
    pub fn handle_timeout(&mut self, cx: &mut Cx<'_>) {
        if let State::Producing(produce) = &mut self.operations.state {
            produce.handle_timeout(cx.now);
        }
        if self.operations.pb_due_ms.is_some_and(|due| due <= cx.now.mono_ms) {
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
        if let State::Consuming(consume) = &mut self.operations.state {
            consume.drain(until_ms, cx);
        }
    }

    /// Writes everything that is due now.
    pub fn poll_transmit(&mut self, cx: &mut Cx<'_>) {
        self.operations.poll_transmit(cx);
    }

    /// What was begun of a pb is given up, and with it its time.
    fn forget_pb(&mut self, cx: &mut Cx<'_>) {
        self.delimiter.reset(&mut cx.budget);
        self.operations.pb_due_ms = None;
    }

    /// The connection is gone.
    pub fn abandon(&mut self, cx: &mut Cx<'_>) {
        self.forget_pb(cx);
        match &mut self.operations.state {
            State::Producing(produce) => produce.abandon(cx),
            State::Consuming(consume) => consume.cancel(cx),
            State::AwaitingSetup | State::Opening(_) | State::Positioning(_) | State::Discarding => {}
        }
        self.operations.end_half();
    }

    /// Our own code has failed in the middle of something: says so, where an operation is open, without looking at anything
    /// that may be half done. Nothing may follow.
    pub fn break_off(&mut self, cx: &mut Cx<'_>) {
        let fault = Fault::Internal("this connection's handling has failed; the log says where");
        cx.counters.failed.add(fault.status(), 1);
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

    /// Of a consume operation, each partition that it reads and the offset that comes next.
    pub fn positions(&self) -> Option<Vec<(u16, u64)>> {
        match &self.operations.state {
            State::Consuming(consume) => Some(consume.positions()),
            _ => None,
        }
    }

    /// Whether the client waits for us: for memory, the catalogue or the store.
    pub fn waits_for_us(&self) -> bool {
        match &self.operations.state {
            State::Opening(_) | State::Positioning(_) => true,
            State::Producing(produce) => self.operations.wanted.is_some() || produce.waits_for_store(),
            State::AwaitingSetup | State::Consuming(_) | State::Discarding => {
                self.operations.wanted.is_some()
            }
        }
    }

    /// Whether a produce operation is open.
    pub fn is_producing(&self) -> bool {
        matches!(self.operations.state, State::Producing(_) | State::Opening(_) | State::Positioning(_))
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
            State::Consuming(consume) => consume.next_deadline_ms(),
            State::Producing(produce) => produce.next_deadline_ms(),
            _ => None,
        };
        [self.operations.pb_due_ms, operation].into_iter().flatten().min()
    }
}

impl Operations {
    /// Whether what is waited for is memory that the store will give back. Memory that other peers must give back is waited
    /// for in the pb's own time.
    fn waits_for_the_store(&self) -> bool {
        self.wanted.is_some_and(|wanted| wanted.share == Share::Whole)
    }

    /// Whether the client's bytes mean nothing any more.
    fn discards(&self) -> bool {
        !self.client_ended && (self.failing.is_some() || matches!(self.state, State::Discarding))
    }

    fn discard(&mut self, bytes: usize, limit: u64) {
        self.discarded += bytes as u64;
        if self.discarded > limit {
            self.close = Some(CloseCode::POLICY);
        }
    }

    #[inline]
    fn is_blocked(&self, cx: &Cx<'_>) -> bool {
        if self.client_ended || self.wanted.is_some() {
            return true;
        }
        match &self.state {
            State::Opening(_) | State::Positioning(_) => true,
            State::Producing(produce) => self.failing.is_none() && produce.is_full(cx),
            State::AwaitingSetup | State::Consuming(_) | State::Discarding => false,
        }
    }

    #[inline]
    fn handle_pb(&mut self, pb: &[u8], expected: usize, cx: &mut Cx<'_>) -> Result<(), Fault> {
        match &mut self.state {
            State::Producing(produce) => produce::handle_pb(produce, pb, expected, cx),
            State::Consuming(consume) => {
                cx.budget.release(pb.len());
                consume::handle_pb(consume, pb, cx)
            }
            State::AwaitingSetup => {
                cx.budget.release(pb.len());
                self.handle_setup(pb, cx)
            }
            State::Opening(_) | State::Positioning(_) | State::Discarding => {
                cx.budget.release(pb.len());
                Err(Fault::Internal("a pb in a state that takes none"))
            }
        }
    }

    fn handle_setup(&mut self, pb: &[u8], cx: &mut Cx<'_>) -> Result<(), Fault> {
        let request = SetupRequest::decode(pb)
            .map_err(|error| PeerFault::PbInvalid(format!("SetupRequest: {error}")))?;
        let (setup, address) = match (request.get, request.append) {
            (None, Some(append)) => {
                self.state = State::Opening(Setup::Produce { partition: None });
                let address = QueueAddress::parse(append.queue_name())?;
                (Setup::Produce { partition: address.partition }, address)
            }
            (Some(get), None) => {
                self.state = State::Opening(Setup::Consume {
                    partition: None,
                    start: Start::Oldest,
                    echo: false,
                    has_extensions: false,
                });
                parse_consume(&get)?
            }
            _ => {
                return Err(PeerFault::PbInvalid("SetupRequest: exactly one of get and append".into()).into());
            }
        };
        if self.draining {
            return Err(Fault::Draining);
        }
        if cx.settings.test_faults {
            planted::in_connection(address.queue.as_str().as_bytes());
        }
        self.admit(matches!(setup, Setup::Produce { .. }), cx)?;
        cx.counters.operations += 1;
        self.state = State::Opening(setup);
        cx.commands.push(Command::Open { operation: self.operation, queue: address.queue });
        Ok(())
    }

    /// Whether the project may have one more operation, and may produce at all.
    fn admit(&mut self, produces: bool, cx: &Cx<'_>) -> Result<(), PeerFault> {
        let Some(tenant) = cx.tenant else { return Ok(()) };
        if produces && tenant.is_over(cx.now.mono_ms) {
            return Err(PeerFault::OverRate { sent: 0, rates: tenant.rates() });
        }
        let key = "project_max_operations";
        let taken = tenant.take(Use::Operation);
        self.permit = Some(taken.map_err(|limit| PeerFault::TooMany { what: "operations", key, limit })?);
        Ok(())
    }

    fn handle_opened(&mut self, opened: Result<QueueInfo, Fault>, local_partition: u16, cx: &mut Cx<'_>) {
        let State::Opening(setup) = &self.state else { return };
        if self.failing.is_some() {
            return;
        }
        let queue = match opened {
            _ if self.draining => return self.fail(Fault::Draining, cx),
            Ok(queue) => queue,
            Err(fault) => return self.fail(fault, cx),
        };
        let (Setup::Produce { partition } | Setup::Consume { partition, .. }) = setup;
        if partition.is_some_and(|partition| partition >= queue.partitions) {
            return self.fail(PeerFault::NoPartition { partitions: queue.partitions }.into(), cx);
        }
        match setup {
            Setup::Produce { partition } => {
                let keyless = match partition {
                    Some(partition) => *partition,
                    None if self.client_is_known => client_partition(self.client, queue.partitions),
                    None => local_partition.min(queue.partitions - 1),
                };
                let author = Author { client: self.client, is_known: self.client_is_known };
                let keyed_over = partition.is_none().then_some(queue.partitions);
                let routing = Routing { partition: keyless, keyed_over };
                let produce = produce::start(self.operation, author, routing, cx);
                self.state = State::Producing(Box::new(produce));
            }
            Setup::Consume { partition, start, echo, has_extensions } => {
                let all = 0..queue.partitions;
                let mut beginning = Beginning {
                    positions: vec![0; usize::from(queue.partitions)],
                    is_rewound: false,
                    has_extensions: *has_extensions,
                };
                let resolve: Vec<(u16, Position)> = match start {
                    Start::Oldest => Vec::new(),
                    Start::Latest => all.map(|partition| (partition, Position::Latest)).collect(),
                    Start::Time(time) => all.map(|partition| (partition, Position::Time(*time))).collect(),
                    Start::Marker(marker) => match marker.place(&queue) {
                        Err(fault) => return self.fail(fault.into(), cx),
                        Ok(Place::OtherLife) => {
                            beginning.is_rewound = true;
                            Vec::new()
                        }
                        Ok(Place::Here(positions)) => {
                            beginning.positions = positions;
                            Vec::new()
                        }
                        Ok(Place::OtherTimeline(timeline, positions)) => {
                            beginning.positions = positions;
                            let asked = all.zip(&beginning.positions).filter(|(_, offset)| **offset > 0);
                            asked
                                .map(|(partition, offset)| {
                                    (partition, Position::After { timeline, offset: *offset })
                                })
                                .collect()
                        }
                    },
                };
                let waiting = resolve.len();
                for (partition, position) in resolve {
                    cx.commands.push(Command::Resolve { operation: self.operation, partition, position });
                }
                let positioning =
                    Positioning { queue, partition: *partition, echo: *echo, beginning, waiting };
                self.state = State::Positioning(Box::new(positioning));
                self.start_consuming(cx);
            }
        }
    }

    fn handle_position(&mut self, partition: u16, position: Result<u64, StoreFault>, cx: &mut Cx<'_>) {
        let State::Positioning(positioning) = &mut self.state else { return };
        match position {
            Ok(position) => {
                let beginning = &mut positioning.beginning;
                let asked = std::mem::replace(&mut beginning.positions[usize::from(partition)], position);
                beginning.is_rewound |= position < asked;
            }
            Err(fault) => return self.fail(fault.into(), cx),
        }
        positioning.waiting -= 1;
        self.start_consuming(cx);
    }

    /// The positions are fixed: says 100.
    fn start_consuming(&mut self, cx: &mut Cx<'_>) {
        let State::Positioning(positioning) = &mut self.state else { return };
        if positioning.waiting > 0 || self.failing.is_some() {
            return;
        }
        if self.draining {
            return self.fail(Fault::Draining, cx);
        }
        let beginning = positioning.beginning.clone();
        let exclude = (!positioning.echo).then_some(self.client);
        let consume =
            Consume::start(self.operation, positioning.queue, exclude, positioning.partition, beginning);
        self.state = State::Consuming(Box::new(consume));
        cx.reply.pb(&Status { status_code: Some(StatusCode::CONTINUE.0), reason_phrase: None }, false);
    }

    /// The client's half ends.
    fn handle_fin(&mut self, cx: &mut Cx<'_>) {
        if matches!(self.state, State::Discarding) {
            return self.end_operation();
        }
        if matches!(self.state, State::AwaitingSetup) && self.failing.is_none() {
            self.fail(PeerFault::PbInvalid("SetupRequest: absent".into()).into(), cx);
        }
        self.client_ended = true;
    }

    /// The operation ends with `fault`, once all that was accepted is spoken for. The first fault counts.
    fn fail(&mut self, fault: Fault, cx: &mut Cx<'_>) {
        if matches!(self.state, State::Discarding) {
            return;
        }
        if let State::Producing(produce) = &mut self.state {
            produce.close_batches(cx);
        }
        self.wanted = None;
        if self.failing.is_none() {
            cx.counters.failed.add(fault.status(), 1);
            cx.commands.push(Command::Report { fault: fault.clone() });
            self.failing = Some(fault);
        }
    }

    fn poll_transmit(&mut self, cx: &mut Cx<'_>) {
        match &mut self.state {
            State::Producing(produce) => {
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
            State::Consuming(consume) => {
                if self.failing.is_none() && !self.client_ended {
                    consume::poll_transmit(consume, cx);
                    if consume.is_drained(cx.now) {
                        self.failing = Some(Fault::Draining);
                    }
                }
                if self.failing.is_some() || self.client_ended {
                    consume::finish(consume, self.failing.as_ref(), cx);
                    self.end_half();
                }
            }
            State::AwaitingSetup | State::Opening(_) | State::Positioning(_) => {
                let Some(fault) = self.failing.take() else { return };
                self.end_with(&fault, cx);
                self.end_half();
            }
            State::Discarding => {}
        }
    }

    /// Writes the pb that ends the operation with `fault`.
    fn end_with(&mut self, fault: &Fault, cx: &mut Cx<'_>) {
        let status = status_of(fault);
        match &mut self.state {
            State::Producing(produce) => produce::finish_failed(produce, fault, cx),
            State::Consuming(consume) => consume::finish(consume, Some(fault), cx),
            State::Opening(Setup::Produce { .. }) => {
                let status = Some(status);
                cx.reply.pb(&ProduceSetupResponse { status, max_msgnum_to_send: Some(0) }, true);
            }
            State::AwaitingSetup | State::Opening(_) | State::Positioning(_) => cx.reply.pb(&status, true),
            State::Discarding => {}
        }
    }

    /// Our half has ended.
    fn end_half(&mut self) {
        self.state = State::Discarding;
        self.failing = None;
        self.permit = None;
        self.operation.0 = self.operation.0.wrapping_add(1);
        if self.client_ended {
            self.end_operation();
        }
    }

    /// Both halves have ended.
    fn end_operation(&mut self) {
        self.state = State::AwaitingSetup;
        self.client_ended = false;
        self.discarded = 0;
    }
}

fn parse_consume(get: &ConsumeSetupRequest) -> Result<(Setup, QueueAddress), Fault> {
    if get.group.is_some() {
        return Err(PeerFault::PbInvalid("group: not served yet".into()).into());
    }
    let address = QueueAddress::parse(get.queue_name())?;
    let start = Start::parse(get.starting_marker())?;
    let (partition, echo) = (address.partition, get.echo_requested());
    let has_extensions = get.without_headers.is_some();
    Ok((Setup::Consume { partition, start, echo, has_extensions }, address))
}
