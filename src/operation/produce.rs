//! One produce operation, server side (protocol section 5).
//!
//! Payloads are copied into the open batch; a batch that is closed goes to the shard and waits in `pending`
//! until its fate is known; numbers are spoken for in order. Messages with keys are copied into a batch for each partition
//! that they go to; those batches are closed together and have one fate.

use std::collections::VecDeque;
use std::ops::Range;

use super::command::{Command, OperationId};
use super::credit::{MsgNum, ReceiveWindow};
use super::quota::Quota;
use crate::access::Share;
use crate::base::batch::{BatchBuilder, Savepoint};
use crate::base::clock::Now;
use crate::base::error::{Fault, PeerFault, StatusCode, StoreFault};
use crate::base::limits::FATE_BYTES;
use crate::base::names::ClientId;
use crate::base::partitioner::key_partition;
use crate::base::planted;
use crate::base::queue::message_id;
use crate::front::Origin;
use crate::front::PbWriter;
use crate::front::{Cx, status_of};
use crate::pb::{
    ProduceField, ProduceRequestHead, ProduceResponse, ProduceSetupResponse, Status, decode_produce_request,
    first_ttl,
};

type Fate = Result<(), Fault>;

/// Messages whose fate is one. Invariant of the queue of them: `through` grows.
#[derive(Debug)]
struct Pending {
    through: MsgNum,
    /// Bytes of the budget that are held until the store has answered.
    reserved: usize,
    /// Batches of it that the store has not answered for; with none left the fate is known.
    waiting: u16,
    fate: Fate,
    place: Option<Place>,
    /// When the first of them was read, and when their fate was known.
    read_ns: u64,
    known_ns: u64,
}

/// Where messages are stored, one after the other: known once their fate is.
#[derive(Debug)]
struct Place {
    partition: u16,
    offsets: Range<u64>,
}

/// A batch that payloads are copied into.
#[derive(Debug)]
struct Building {
    partition: u16,
    builder: BatchBuilder,
    reserved: usize,
}

/// Who produces.
#[derive(Clone, Copy, Debug)]
pub struct Author {
    /// The client.
    pub client: ClientId,
    /// It named itself.
    pub is_known: bool,
}

/// Where the messages of an operation go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Routing {
    /// The keyless ones: in their order, in one partition.
    pub partition: u16,
    /// The others: spread over so many; `None` where the client named the partition.
    pub keyed_over: Option<u16>,
}

impl Routing {
    fn partition_of(self, key: &[u8]) -> u16 {
        match self.keyed_over {
            Some(partitions) if !key.is_empty() => key_partition(key, partitions),
            _ => self.partition,
        }
    }
}

/// See the module's page.
#[derive(Debug)]
pub struct Produce {
    operation: OperationId,
    author: Author,
    routing: Routing,
    window: ReceiveWindow,
    /// The highest grant that the client was told.
    told: MsgNum,
    /// The batches that are open, of one TTL: the one of `routing.partition`, or one for each partition that messages with
    /// keys go to. They are closed together.
    building: Vec<Building>,
    /// The last message in them, and when the first was read.
    building_through: MsgNum,
    building_read_ns: u64,
    /// The last request had keys, so that the next is likely to.
    expects_keys: bool,
    /// The oldest first; those before `first_sequence` are spoken for.
    pending: VecDeque<Pending>,
    first_sequence: u64,
    /// Batches of `pending` that the store has not answered for.
    batches: usize,
    /// Bytes reserved by `building` and `pending`.
    outstanding_bytes: usize,
    quota: Quota,
    /// `outstanding_bytes` as a part of the project's storage, where that is limited.
    share: Option<Share>,
    /// The budget was too short to raise the credit.
    is_withheld: bool,
}

impl Produce {
    /// An operation whose setup was accepted; says so to the client.
    pub fn start(operation: OperationId, author: Author, routing: Routing, cx: &mut Cx<'_>) -> Self {
        let mut window = ReceiveWindow::new(cx.settings.produce_window);
        let mut quota = Quota::new(cx);
        let is_withheld = cx.budget.is_tight();
        if !is_withheld {
            window.grant(quota.pay_for(window.grantable(), cx));
        }
        cx.reply.pb(
            &ProduceSetupResponse {
                status: Some(status(StatusCode::CONTINUE)),
                max_msgnum_to_send: Some(window.granted().to_wire()),
            },
            false,
        );
        Self {
            operation,
            author,
            routing,
            window,
            told: window.granted(),
            building: Vec::new(),
            building_through: MsgNum::ZERO,
            building_read_ns: 0,
            expects_keys: false,
            pending: VecDeque::new(),
            first_sequence: 0,
            batches: 0,
            outstanding_bytes: 0,
            quota,
            share: cx.tenant.and_then(|tenant| tenant.share()),
            is_withheld,
        }
    }

    /// Whether so much is outstanding that no more may be read.
    #[inline]
    pub fn is_full(&self, cx: &Cx<'_>) -> bool {
        let most = if cx.budget.is_pressed() {
            cx.settings.produce_batches_pressed
        } else {
            cx.settings.produce_batches
        };
        self.outstanding_bytes >= cx.settings.produce_window_bytes
            || self.pending.len().max(self.batches) >= most
    }

    /// Whether the store has not answered for all that it was given.
    pub fn waits_for_store(&self) -> bool {
        self.batches > 0
    }

    /// Whether the fate of the next messages is known and not yet said.
    pub fn has_more_to_say(&self) -> bool {
        self.pending.front().is_some_and(|pending| pending.waiting == 0)
    }

    /// One ProduceRequest, whose length is reserved; `expected` more bytes have come already.
    pub fn handle_pb(&mut self, pb: &[u8], expected: usize, cx: &mut Cx<'_>) -> Result<(), Fault> {
        if cx.settings.test_faults {
            planted::in_connection(pb);
        }
        let before = self.window.received();
        let guess = first_ttl(pb).unwrap_or(cx.settings.ttl_min_secs);
        let max = cx.settings.max_payload_bytes;
        let mut too_large = false;
        let mut copied = None;
        // Where no keys are expected, payloads are copied as they are read.
        let decoded = if self.expects_keys {
            decode_produce_request(pb, |_| {})
        } else {
            let builder = &mut self.open_plain(guess, pb.len(), expected, cx).builder;
            copied = Some(builder.savepoint());
            decode_produce_request(pb, |field| match field {
                ProduceField::Payload(payload) if payload.len() > max => too_large = true,
                ProduceField::Payload(payload) => builder.push(payload),
                ProduceField::Key(_) => {}
            })
        };
        let judged = match decoded {
            Ok(head) if head.payloads == 0 => Err(PeerFault::PbInvalid("payloads: at least one".into())),
            Ok(head) => self.receive(&head, pb.len(), cx).map(|last| (head, last)),
            Err(malformed) => Err(PeerFault::PbInvalid(malformed.0.into())),
        };
        let (head, last) = match judged {
            Ok(judged) => judged,
            Err(fault) => {
                self.roll_back(copied);
                cx.budget.release(pb.len());
                return Err(fault.into());
            }
        };
        self.expects_keys = head.keys > 0;
        let ttl = match check(&head, cx) {
            Ok(ttl) => ttl,
            Err(fault) => {
                self.roll_back(copied);
                self.refuse(last, fault, cx);
                cx.budget.release(pb.len());
                return Ok(());
            }
        };
        // That is the operation's end: nothing sent behind it may overtake it, once there is room again.
        if let Err(limit) = self.reserve(pb.len()) {
            self.roll_back(copied);
            cx.budget.release(pb.len());
            return Err(PeerFault::StorageFull { sent: last.to_wire(), limit }.into());
        }
        match self.building.first_mut() {
            Some(building) if copied.is_some() && head.keys == 0 && ttl == guess && !too_large => {
                building.reserved += pb.len();
                self.building_through = last;
                self.outstanding_bytes += pb.len();
            }
            _ => {
                self.roll_back(copied);
                self.store_one_by_one(pb, before, ttl, cx);
            }
        }
        let bytes: usize = self.building.iter().map(|building| building.builder.stored_bytes()).sum();
        if bytes >= cx.settings.append_batch_bytes {
            self.close_batches(cx);
        }
        self.count_outstanding();
        Ok(())
    }

    /// Whether the project may store a request of so many bytes; what is outstanding counts like what is stored.
    fn reserve(&mut self, bytes: usize) -> Result<(), u64> {
        self.share.as_mut().map_or(Ok(()), |share| share.try_add(bytes as u64))
    }

    /// What is outstanding has changed.
    fn count_outstanding(&mut self) {
        if let Some(share) = &mut self.share {
            share.set(self.outstanding_bytes as u64);
        }
    }

    /// Counts a request's messages: within the credit, and within what the project may produce.
    fn receive(
        &mut self,
        head: &ProduceRequestHead,
        bytes: usize,
        cx: &mut Cx<'_>,
    ) -> Result<MsgNum, PeerFault> {
        let last = self.window.receive(head.payloads)?;
        if let Some(tenant) = cx.tenant.filter(|tenant| tenant.has_rates())
            && !self.quota.charge(tenant, u64::from(head.payloads), bytes as u64, cx.now)
        {
            return Err(PeerFault::OverRate { sent: last.to_wire(), rates: tenant.rates() });
        }
        cx.counters.received += u64::from(head.payloads);
        cx.counters.received_bytes += bytes as u64;
        Ok(last)
    }

    /// Messages with keys; and the rare cases: a TTL that comes late in the pb, payloads that are too large among others.
    fn store_one_by_one(&mut self, pb: &[u8], before: MsgNum, ttl: u32, cx: &mut Cx<'_>) {
        let (max, max_key) = (cx.settings.max_payload_bytes, cx.settings.max_key_bytes);
        let (mut payloads, mut keys) = (Vec::new(), Vec::new());
        // It was decoded before, so it decodes.
        let _ = decode_produce_request(pb, |field| match field {
            ProduceField::Payload(payload) => payloads.push(payload),
            ProduceField::Key(key) => keys.push(key),
        });
        let mut kept = 0;
        for (index, payload) in payloads.into_iter().enumerate() {
            let number = before.plus(index as u64 + 1);
            let key = keys.get(index).copied();
            let key_bytes = key.map_or(0, <[u8]>::len);
            if payload.len() > max {
                self.refuse(number, PeerFault::PayloadTooLarge { bytes: payload.len(), max }, cx);
                continue;
            }
            if key_bytes > max_key {
                self.refuse(number, PeerFault::KeyTooLarge { bytes: key_bytes, max: max_key }, cx);
                continue;
            }
            let building = match key {
                Some(key) => {
                    let building = self.open_keyed(ttl, self.routing.partition_of(key), cx);
                    building.builder.push_keyed(key, payload);
                    building
                }
                None => {
                    let building = self.open_plain(ttl, pb.len(), 0, cx);
                    building.builder.push(payload);
                    building
                }
            };
            building.reserved += key_bytes + payload.len();
            kept += key_bytes + payload.len();
            self.outstanding_bytes += key_bytes + payload.len();
            self.building_through = number;
        }
        // Records have longer headers than fields: what is left of the pb's bytes stays with the last batch.
        let left = pb.len() - kept;
        match self.building.last_mut() {
            Some(building) if kept > 0 || building.builder.count() > 0 => {
                building.reserved += left;
                self.outstanding_bytes += left;
            }
            _ => cx.budget.release(left),
        }
    }

    /// The open batch of messages without keys, if it has this TTL, or a new one.
    #[inline]
    fn open_plain(&mut self, ttl: u32, pb_bytes: usize, expected: usize, cx: &mut Cx<'_>) -> &mut Building {
        match self.building.first_mut().map(|building| &mut building.builder) {
            Some(open) if !open.has_keys() && open.ttl_secs() == ttl => {}
            Some(open) if !open.has_keys() && open.count() == 0 => open.set_ttl_secs(ttl),
            _ => self.close_batches(cx),
        }
        if self.building.is_empty() {
            self.building_read_ns = cx.read_ns;
            let bytes = pb_bytes + expected.min(cx.settings.append_batch_bytes);
            // Four bytes before a payload take the place of two or three on the wire.
            let builder = BatchBuilder::new(self.author.client, ttl, bytes + bytes / 16 + 16);
            let builder = builder.anonymous(!self.author.is_known);
            self.building.push(Building { partition: self.routing.partition, builder, reserved: 0 });
        }
        &mut self.building[0]
    }

    /// The open batch of a partition for messages with keys, if the open ones have this TTL, or a new one.
    fn open_keyed(&mut self, ttl: u32, partition: u16, cx: &mut Cx<'_>) -> &mut Building {
        let fits = |open: &BatchBuilder| open.has_keys() && open.ttl_secs() == ttl;
        if !self.building.first().is_some_and(|building| fits(&building.builder)) {
            self.close_batches(cx);
        }
        let known = self.building.iter().position(|building| building.partition == partition);
        if self.building.is_empty() {
            self.building_read_ns = cx.read_ns;
        }
        let index = known.unwrap_or_else(|| {
            let builder = BatchBuilder::with_keys(self.author.client, ttl, 0);
            let builder = builder.anonymous(!self.author.is_known);
            self.building.push(Building { partition, builder, reserved: 0 });
            self.building.len() - 1
        });
        &mut self.building[index]
    }

    /// Forgets what was copied since.
    fn roll_back(&mut self, savepoint: Option<Savepoint>) {
        if let Some(savepoint) = savepoint
            && let Some(Building { builder, reserved, .. }) = self.building.first_mut()
        {
            builder.roll_back(savepoint);
            if builder.count() == 0 && *reserved == 0 {
                self.building.clear();
            }
        }
    }

    fn push(&mut self, pending: Pending, cx: &mut Cx<'_>) {
        cx.budget.hold(FATE_BYTES);
        self.pending.push_back(pending);
    }

    /// The oldest, if its fate is known and `wanted`.
    fn pop(&mut self, wanted: impl FnOnce(&Fate) -> bool, cx: &mut Cx<'_>) -> Option<Pending> {
        let known = |pending: &mut Pending| pending.waiting == 0 && wanted(&pending.fate);
        let pending = self.pending.pop_front_if(known)?;
        cx.budget.drop_held(FATE_BYTES);
        self.first_sequence += 1;
        Some(pending)
    }

    /// Every message up to `through` that is not in a batch has this fate.
    fn refuse(&mut self, through: MsgNum, fault: PeerFault, cx: &mut Cx<'_>) {
        self.close_batches(cx);
        let fate = Err(fault.into());
        let (read_ns, known_ns) = (cx.read_ns, cx.now.mono_ns);
        self.push(Pending { through, reserved: 0, waiting: 0, fate, place: None, read_ns, known_ns }, cx);
    }

    /// Sends the open batches to the shard.
    pub fn close_batches(&mut self, cx: &mut Cx<'_>) {
        let sequence = self.first_sequence + self.pending.len() as u64;
        let place = match &self.building[..] {
            [] => return,
            [one] => Some(Place { partition: one.partition, offsets: 0..0 }),
            _ => None,
        };
        let (mut waiting, mut total) = (0, 0);
        for Building { partition, builder, reserved } in self.building.drain(..) {
            if builder.count() == 0 {
                cx.budget.release(reserved);
                self.outstanding_bytes -= reserved;
                continue;
            }
            waiting += 1;
            total += reserved;
            cx.budget.hand_over(reserved);
            cx.commands.push(Command::Append {
                operation: self.operation,
                sequence,
                partition,
                batch: builder.close(),
                reserved,
                read_ns: self.building_read_ns,
            });
        }
        if waiting > 0 {
            self.batches += usize::from(waiting);
            let pending = Pending {
                through: self.building_through,
                reserved: total,
                waiting,
                fate: Ok(()),
                place,
                read_ns: self.building_read_ns,
                known_ns: 0,
            };
            self.push(pending, cx);
        }
        self.count_outstanding();
    }

    /// The store's answer for one batch; a fault, where nothing later may be accepted.
    pub fn handle_appended(
        &mut self,
        sequence: u64,
        result: Result<Option<Range<u64>>, StoreFault>,
        now: Now,
    ) -> Option<Fault> {
        let index = usize::try_from(sequence.checked_sub(self.first_sequence)?).ok()?;
        let pending = self.pending.get_mut(index)?;
        debug_assert!(pending.waiting > 0, "a batch is answered once");
        pending.waiting -= 1;
        self.batches -= 1;
        if pending.waiting == 0 {
            self.outstanding_bytes -= pending.reserved;
            if let Some(share) = &mut self.share {
                share.set(self.outstanding_bytes as u64);
            }
            pending.known_ns = now.mono_ns;
        }
        match result {
            Ok(offsets) => {
                pending.place =
                    pending.place.take().zip(offsets).map(|(place, offsets)| Place { offsets, ..place });
                None
            }
            Err(fault) => {
                let fault = Fault::from(fault);
                if pending.fate.is_ok() {
                    pending.fate = Err(fault.clone());
                }
                Some(fault)
            }
        }
    }

    /// Speaks for every message whose fate is known, and gives credit.
    pub fn speak(&mut self, cx: &mut Cx<'_>) {
        while cx.has_space()
            && let Some(first) = self.pop(|_| true, cx)
        {
            let before = self.window.spoken_for();
            first.note(before, cx);
            let Pending { mut through, fate, mut place, .. } = first;
            while let Some(next) = self.pop(|next| *next == fate, cx) {
                next.note(through, cx);
                through = next.through;
                place = Place::join(place, next.place);
            }
            let status = match &fate {
                Ok(()) => status(StatusCode::CREATED),
                Err(fault) => {
                    cx.counters.refused.add(fault.status(), through.since(before));
                    status_of(fault)
                }
            };
            self.window.speak_for(through);
            self.grant(cx);
            let place = place.filter(|_| fate.is_ok());
            self.respond(Some(status), through.to_wire(), place, false, &mut cx.reply);
            cx.framed.close(cx.reply.out.len());
        }
        // Credit alone, where no response is to come that could carry it.
        self.grant(cx);
        if self.is_settled() && self.window.granted() > self.told {
            self.respond(None, self.window.spoken_for().to_wire(), None, false, &mut cx.reply);
        }
    }

    /// Raises the credit, unless memory is short, as far as the project's rates go.
    fn grant(&mut self, cx: &Cx<'_>) {
        self.is_withheld = cx.budget.is_tight();
        if !self.is_withheld && !self.is_full(cx) {
            self.window.grant(self.quota.pay_for(self.window.grantable(), cx));
        }
    }

    /// Whether more credit is wanted than the budget has allowed. What the project's rates did not allow is waited for by
    /// [`Self::next_deadline_ms`].
    pub fn is_starved(&self) -> bool {
        self.is_withheld && self.is_settled() && self.window.is_low()
    }

    /// When the project may have more credit to give.
    pub fn next_deadline_ms(&self) -> Option<u64> {
        self.quota.due_ms().filter(|_| self.is_settled() && self.window.is_low())
    }

    /// Messages that may be sent and were not.
    pub fn credit(&self) -> u64 {
        self.window.granted().since(self.window.received())
    }

    /// Time has passed.
    pub fn handle_timeout(&mut self, now: Now) {
        self.quota.handle_timeout(now);
    }

    /// Whether every message that was received is spoken for.
    pub fn is_settled(&self) -> bool {
        self.pending.is_empty() && self.building.is_empty()
    }

    /// All is said, and the client says no more.
    pub fn finish(&mut self, cx: &mut Cx<'_>) {
        self.quota.refund(cx);
        cx.reply.fin();
    }

    /// The pb that ends a failed operation.
    pub fn finish_failed(&mut self, fault: &Fault, cx: &mut Cx<'_>) {
        self.quota.refund(cx);
        let through = match fault {
            Fault::Peer(
                PeerFault::CreditExceeded { sent, .. }
                | PeerFault::OverRate { sent, .. }
                | PeerFault::StorageFull { sent, .. },
            ) => *sent,
            _ => self.window.spoken_for().to_wire(),
        };
        self.respond(Some(status_of(fault)), through, None, true, &mut cx.reply);
    }

    /// The connection is gone: gives back what no answer will give back.
    pub fn abandon(&mut self, cx: &mut Cx<'_>) {
        for building in self.building.drain(..) {
            cx.budget.release(building.reserved);
        }
        cx.budget.drop_held(self.pending.len() * FATE_BYTES);
        self.pending.clear();
        self.share = None;
        self.quota.refund(cx);
    }

    fn respond(
        &mut self,
        status: Option<Status>,
        through: i64,
        place: Option<Place>,
        fin: bool,
        reply: &mut PbWriter<'_>,
    ) {
        self.told = self.window.granted();
        let id = |offset| place.as_ref().map(|place| message_id(place.partition, offset));
        let (first, last) =
            place.as_ref().map_or((0, 0), |place| (place.offsets.start, place.offsets.end - 1));
        reply.pb(
            &ProduceResponse {
                status,
                msgnum_status_is_thru: Some(through),
                max_msgnum_to_send: Some(self.told.to_wire()),
                first_id: id(first),
                last_id: id(last),
            },
            fin,
        );
    }
}

impl Pending {
    /// They are spoken for behind `before`: stored ones are measured until the socket has that.
    fn note(&self, before: MsgNum, cx: &mut Cx<'_>) {
        if self.fate.is_ok() {
            let (read_ns, known_ns) = (self.read_ns, self.known_ns);
            let messages = u32::try_from(self.through.since(before)).unwrap_or(u32::MAX);
            cx.framed.note(messages, Origin::Produced { read_ns, known_ns });
        }
    }
}

impl Place {
    /// Both together, where the second goes on where the first ends.
    fn join(first: Option<Self>, second: Option<Self>) -> Option<Self> {
        let (first, second) = (first?, second?);
        let joined = first.partition == second.partition && first.offsets.end == second.offsets.start;
        joined
            .then_some(Self { partition: first.partition, offsets: first.offsets.start..second.offsets.end })
    }
}

/// The TTL of a request's messages, or why all of them are refused.
fn check(head: &ProduceRequestHead, cx: &Cx<'_>) -> Result<u32, PeerFault> {
    let (shortest, longest) = cx.settings.ttl_secs();
    let ttl = head.ttl.filter(|ttl| (shortest..=longest).contains(ttl));
    let ttl = ttl.ok_or(PeerFault::Ttl { ttl: head.ttl, range: cx.settings.ttl_secs() })?;
    if head.keys != 0 && head.keys != head.payloads {
        return Err(PeerFault::KeyCount { keys: head.keys, payloads: head.payloads });
    }
    Ok(ttl)
}

fn status(code: StatusCode) -> Status {
    Status { status_code: Some(code.0), reason_phrase: None }
}
