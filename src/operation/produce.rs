//! One produce operation.
//!
//! Payloads are copied into the open batch; a batch that is closed goes to the shard and waits in `pending`
//! until its fate is known; numbers are spoken for in order. Messages with keys are copied into a batch for each partition
//! that they go to; those batches are closed together and have one fate.

use std::collections::VecDeque;
use std::ops::Range;

use super::command::{Command, OperationId};
use super::context::Context;
use super::credit::{MsgNum, ReceiveWindow};
use super::origin::Origin;
use super::quota::Quota;
use crate::access::Share;
use crate::base::batch::{BatchBuilder, Savepoint};
use crate::base::clock::Now;
use crate::base::error::{Fault, PeerFault, StoreFault};
use crate::base::limits::FATE_BYTES;
use crate::base::names::ClientId;
use crate::base::partitioner::key_partition;

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
    stored: Option<StoredAt>,
    /// When the first of them was read, and when their fate was known.
    read_ns: u64,
    known_ns: u64,
}

/// Where messages are stored, one after the other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredAt {
    /// Their partition.
    pub partition: u16,
    /// Their offsets.
    pub offsets: Range<u64>,
}

/// What is to be said of messages with one fate: of every one behind those that were spoken for before, up to `through`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Said {
    /// They are stored, or why they are refused.
    pub fate: Result<(), Fault>,
    /// The last of them.
    pub through: MsgNum,
    /// Where they are stored, if that is one stretch of one partition.
    pub stored: Option<StoredAt>,
}

/// One request of a producer, without its messages.
#[derive(Clone, Copy, Debug)]
pub struct Request {
    /// How many messages it has.
    pub payloads: u32,
    /// How many keys: none, or one for each message.
    pub keys: u32,
    /// Their time to live, seconds.
    pub ttl: Option<u32>,
    /// A payload is larger than allowed, so that it was not copied.
    pub is_too_large: bool,
    /// What it takes on the wire, bytes: reserved for it.
    pub bytes: usize,
}

/// The messages of a request. `keys` is empty, or has a key for each payload.
#[derive(Debug, Default)]
pub struct Messages<'a> {
    /// Their payloads.
    pub payloads: Vec<&'a [u8]>,
    /// Their keys.
    pub keys: Vec<&'a [u8]>,
}

/// Payloads that were copied into the open batch before their request was judged.
#[derive(Debug)]
struct Copied {
    savepoint: Savepoint,
    /// The TTL of the batch.
    ttl: u32,
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
    /// Of the request that is being handled.
    copied: Option<Copied>,
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
    /// An operation whose setup was accepted. The client is to be told its first credit.
    pub fn start(operation: OperationId, author: Author, routing: Routing, cx: &mut Context<'_>) -> Self {
        let mut window = ReceiveWindow::new(cx.settings.produce_window);
        let mut quota = Quota::new(cx);
        let is_withheld = cx.budget.is_tight();
        if !is_withheld {
            window.grant(quota.pay_for(window.grantable(), cx));
        }
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
            copied: None,
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
    pub fn is_full(&self, cx: &Context<'_>) -> bool {
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

    /// The batch to copy the payloads of the next request into as they are read; `bytes` of it are reserved, and `expected` more
    /// bytes have come already. `None` if the request is likely to have keys: then nothing is copied before it is judged.
    #[inline]
    pub fn copy_into(
        &mut self,
        ttl: u32,
        bytes: usize,
        expected: usize,
        cx: &mut Context<'_>,
    ) -> Option<&mut BatchBuilder> {
        if self.expects_keys {
            return None;
        }
        self.open_plain(ttl, bytes, expected, cx);
        let builder = &mut self.building[0].builder;
        self.copied = Some(Copied { savepoint: builder.savepoint(), ttl });
        Some(builder)
    }

    /// One request, or why it cannot be read; `bytes` are reserved for it. `messages` gives those that were not copied, and is asked
    /// only where that is needed.
    pub fn handle_request<'a>(
        &mut self,
        request: Result<Request, PeerFault>,
        bytes: usize,
        messages: impl FnOnce() -> Messages<'a>,
        cx: &mut Context<'_>,
    ) -> Result<(), Fault> {
        let before = self.window.received();
        let copied = self.copied.take();
        let judged = request.and_then(|request| self.receive(&request, cx).map(|last| (request, last)));
        let (request, last) = match judged {
            Ok(judged) => judged,
            Err(fault) => {
                self.roll_back(copied);
                cx.budget.release(bytes);
                return Err(fault.into());
            }
        };
        self.expects_keys = request.keys > 0;
        let ttl = match check(&request, cx) {
            Ok(ttl) => ttl,
            Err(fault) => {
                self.roll_back(copied);
                self.refuse(last, fault, cx);
                cx.budget.release(bytes);
                return Ok(());
            }
        };
        // That is the operation's end: nothing sent behind it may overtake it, once there is room again.
        if let Err(limit) = self.reserve(bytes) {
            self.roll_back(copied);
            cx.budget.release(bytes);
            return Err(PeerFault::StorageFull { sent: last.to_wire(), limit }.into());
        }
        let is_copied = copied.as_ref().is_some_and(|copied| copied.ttl == ttl);
        match self.building.first_mut() {
            Some(building) if is_copied && request.keys == 0 && !request.is_too_large => {
                building.reserved += bytes;
                self.building_through = last;
                self.outstanding_bytes += bytes;
            }
            _ => {
                self.roll_back(copied);
                self.store_one_by_one(&messages(), bytes, before, ttl, cx);
            }
        }
        let stored: usize = self.building.iter().map(|building| building.builder.stored_bytes()).sum();
        if stored >= cx.settings.append_batch_bytes {
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
    fn receive(&mut self, request: &Request, cx: &mut Context<'_>) -> Result<MsgNum, PeerFault> {
        let (messages, bytes) = (u64::from(request.payloads), request.bytes as u64);
        let last = self.window.receive(request.payloads)?;
        if let Some(tenant) = cx.tenant.filter(|tenant| tenant.has_rates())
            && !self.quota.charge(tenant, messages, bytes, cx.now)
        {
            return Err(PeerFault::OverRate { sent: last.to_wire(), rates: tenant.rates() });
        }
        cx.counters.received += messages;
        cx.counters.received_bytes += bytes;
        Ok(last)
    }

    /// Messages with keys; and the rare cases: a TTL that the request names behind its payloads, payloads that are too large among
    /// others.
    fn store_one_by_one(
        &mut self,
        messages: &Messages<'_>,
        bytes: usize,
        before: MsgNum,
        ttl: u32,
        cx: &mut Context<'_>,
    ) {
        let (max, max_key) = (cx.settings.max_payload_bytes, cx.settings.max_key_bytes);
        let mut kept = 0;
        for (index, payload) in messages.payloads.iter().enumerate() {
            let number = before.plus(index as u64 + 1);
            let key = messages.keys.get(index).copied();
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
                    let building = self.open_plain(ttl, bytes, 0, cx);
                    building.builder.push(payload);
                    building
                }
            };
            building.reserved += key_bytes + payload.len();
            kept += key_bytes + payload.len();
            self.outstanding_bytes += key_bytes + payload.len();
            self.building_through = number;
        }
        // Records have longer headers than fields: what is left of the request's bytes stays with the last batch.
        let left = bytes - kept;
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
    fn open_plain(
        &mut self,
        ttl: u32,
        pb_bytes: usize,
        expected: usize,
        cx: &mut Context<'_>,
    ) -> &mut Building {
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
    fn open_keyed(&mut self, ttl: u32, partition: u16, cx: &mut Context<'_>) -> &mut Building {
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
    fn roll_back(&mut self, copied: Option<Copied>) {
        if let Some(Copied { savepoint, .. }) = copied
            && let Some(Building { builder, reserved, .. }) = self.building.first_mut()
        {
            builder.roll_back(savepoint);
            if builder.count() == 0 && *reserved == 0 {
                self.building.clear();
            }
        }
    }

    fn push(&mut self, pending: Pending, cx: &mut Context<'_>) {
        cx.budget.hold(FATE_BYTES);
        self.pending.push_back(pending);
    }

    /// The oldest, if its fate is known and `wanted`.
    fn pop(&mut self, wanted: impl FnOnce(&Fate) -> bool, cx: &mut Context<'_>) -> Option<Pending> {
        let known = |pending: &mut Pending| pending.waiting == 0 && wanted(&pending.fate);
        let pending = self.pending.pop_front_if(known)?;
        cx.budget.drop_held(FATE_BYTES);
        self.first_sequence += 1;
        Some(pending)
    }

    /// Every message up to `through` that is not in a batch has this fate.
    fn refuse(&mut self, through: MsgNum, fault: PeerFault, cx: &mut Context<'_>) {
        self.close_batches(cx);
        let fate = Err(fault.into());
        let (read_ns, known_ns) = (cx.read_ns, cx.now.mono_ns);
        self.push(Pending { through, reserved: 0, waiting: 0, fate, stored: None, read_ns, known_ns }, cx);
    }

    /// Sends the open batches to the shard.
    pub fn close_batches(&mut self, cx: &mut Context<'_>) {
        let sequence = self.first_sequence + self.pending.len() as u64;
        let stored = match &self.building[..] {
            [] => return,
            [one] => Some(StoredAt { partition: one.partition, offsets: 0..0 }),
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
                stored,
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
                let stored = pending.stored.take().zip(offsets);
                pending.stored = stored.map(|(stored, offsets)| StoredAt { offsets, ..stored });
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

    /// Speaks for the next messages whose fate is known and one, and raises the credit; `note` is told of those that are stored, and
    /// how many they are.
    pub fn speak(&mut self, cx: &mut Context<'_>, mut note: impl FnMut(u32, Origin)) -> Option<Said> {
        let first = self.pop(|_| true, cx)?;
        let before = self.window.spoken_for();
        first.note(before, &mut note);
        let Pending { mut through, fate, mut stored, .. } = first;
        while let Some(next) = self.pop(|next| *next == fate, cx) {
            next.note(through, &mut note);
            through = next.through;
            stored = StoredAt::join(stored, next.stored);
        }
        if let Err(fault) = &fate {
            cx.counters.refused.add(fault.status(), through.since(before));
        }
        self.window.speak_for(through);
        self.grant(cx);
        let stored = stored.filter(|_| fate.is_ok());
        Some(Said { fate, through, stored })
    }

    /// The last message that was spoken for, if there is credit to be told and no response to come that could carry it.
    pub fn owes_credit(&mut self, cx: &Context<'_>) -> Option<MsgNum> {
        self.grant(cx);
        (self.is_settled() && self.window.granted() > self.told).then(|| self.window.spoken_for())
    }

    /// The credit: the last message that the client may send. It is told now.
    pub fn tell_credit(&mut self) -> MsgNum {
        self.told = self.window.granted();
        self.told
    }

    /// Raises the credit, unless memory is short, as far as the project's rates go.
    fn grant(&mut self, cx: &Context<'_>) {
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

    /// All is said: gives back what the project has paid for and not used.
    pub fn finish(&mut self, cx: &mut Context<'_>) {
        self.quota.refund(cx);
    }

    /// The message up to which `fault` holds, if it ends the operation.
    pub fn through(&self, fault: &Fault) -> i64 {
        match fault {
            Fault::Peer(
                PeerFault::CreditExceeded { sent, .. }
                | PeerFault::OverRate { sent, .. }
                | PeerFault::StorageFull { sent, .. },
            ) => *sent,
            _ => self.window.spoken_for().to_wire(),
        }
    }

    /// The connection is gone: gives back what no answer will give back.
    pub fn abandon(&mut self, cx: &mut Context<'_>) {
        for building in self.building.drain(..) {
            cx.budget.release(building.reserved);
        }
        cx.budget.drop_held(self.pending.len() * FATE_BYTES);
        self.pending.clear();
        self.share = None;
        self.quota.refund(cx);
    }
}

impl Pending {
    /// They are spoken for behind `before`: stored ones are measured until the socket has that.
    fn note(&self, before: MsgNum, note: &mut impl FnMut(u32, Origin)) {
        if self.fate.is_ok() {
            let (read_ns, known_ns) = (self.read_ns, self.known_ns);
            let messages = u32::try_from(self.through.since(before)).unwrap_or(u32::MAX);
            note(messages, Origin::Produced { read_ns, known_ns });
        }
    }
}

impl StoredAt {
    /// Both together, where the second goes on where the first ends.
    fn join(first: Option<Self>, second: Option<Self>) -> Option<Self> {
        let (first, second) = (first?, second?);
        let joined = first.partition == second.partition && first.offsets.end == second.offsets.start;
        joined
            .then_some(Self { partition: first.partition, offsets: first.offsets.start..second.offsets.end })
    }
}

/// The TTL of a request's messages, or why all of them are refused.
fn check(request: &Request, cx: &Context<'_>) -> Result<u32, PeerFault> {
    let (shortest, longest) = cx.settings.ttl_secs();
    let ttl = request.ttl.filter(|ttl| (shortest..=longest).contains(ttl));
    let ttl = ttl.ok_or(PeerFault::Ttl { ttl: request.ttl, range: cx.settings.ttl_secs() })?;
    if request.keys != 0 && request.keys != request.payloads {
        return Err(PeerFault::KeyCount { keys: request.keys, payloads: request.payloads });
    }
    Ok(ttl)
}
