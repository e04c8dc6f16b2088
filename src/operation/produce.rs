//! One produce operation, server side (protocol section 5).
//!
//! Payloads are copied into an open batch. A closed batch goes to the shard, and its fate waits in `fates`
//! until the store has answered. Messages are acknowledged or refused in order. Messages with keys are copied
//! into one batch for each target partition. Those batches are closed together and share one fate.
//!
//! A protocol passes in a request in two steps: [`Produce::copy`] while it reads the payloads, then either
//! [`Produce::receive`] or, if the request is malformed, [`Produce::give_up`].

use std::ops::Range;

use super::building::{Building, OpenBatches, Times};
use super::command::Command;
use super::credit::ReceiveWindow;
use super::fates::{Answered, Fate, Fates, Pending, StoredAt};
use super::quota::Quota;
use super::regulator::Regulated;
use super::request::{self, Copied, Copying, Request};
use super::resources::Resources;
use super::routing::Routing;
use super::settings::Settings;
use super::subject::Subject;
use super::word::{Acknowledged, Word};
use crate::access::StorageShare;
use crate::base::attributes::{BYTES_MAX, MESSAGES_MAX};
use crate::base::batch::{Record, Shape};
use crate::base::clock::Now;
use crate::base::error::{Fault, PeerFault, StoreFault};
use crate::base::millis::Millis;
use crate::base::policy::{Held, HeldShare};
use crate::base::units::{MsgNum, Offset, Partition, Sequence};

/// The state of one produce operation.
#[derive(Debug)]
pub struct Produce {
    subject: Subject,
    routing: Routing,
    window: ReceiveWindow,
    /// The highest number that the client was told it may send.
    told: MsgNum,
    open: OpenBatches,
    /// Whether the last request had keys, headers or a delay: the next is then likely to be alike.
    expects_more: bool,
    /// Whether the store can keep delays.
    has_claims: bool,
    fates: Fates,
    /// Bytes reserved by `open` and `fates`, and the messages in them.
    outstanding_bytes: usize,
    outstanding_messages: u64,
    /// The messages that the regulator allowed when credit was last granted.
    allowed: u64,
    /// The largest `outstanding_bytes` since credit was last granted.
    peak_bytes: usize,
    regulated: Regulated,
    quota: Quota,
    /// Counts `outstanding_bytes` against the project's storage limit, if there is one.
    share: Option<StorageShare>,
    /// Counts what is outstanding against the queue's limits, once it has had some.
    held: Option<Box<HeldShare>>,
    /// Whether credit was withheld because the budget is short.
    is_withheld: bool,
    /// Until when a known fate waits for others.
    collecting: Option<Millis>,
    /// Whether no further messages are accepted.
    is_ending: bool,
}

impl Produce {
    /// Starts an operation whose setup was accepted. `has_claims` says whether the store can keep claims and delays.
    pub fn start(
        subject: Subject,
        routing: Routing,
        has_claims: bool,
        resources: &mut Resources<'_>,
    ) -> Self {
        let mut window = ReceiveWindow::new(resources.settings.produce_window);
        let mut quota = Quota::new(subject.caller.tenant.as_ref(), resources.now);
        let share = subject.caller.tenant.as_ref().and_then(|tenant| tenant.share());
        let is_withheld = resources.budget.is_tight();
        let mut regulated = resources.regulator.open();
        let allowed = resources.regulator.allowance(&mut regulated, 0);
        if !is_withheld {
            window.grant(quota.pay_for(window.grantable_within(allowed), resources.now));
        }
        Self {
            subject,
            routing,
            window,
            told: window.granted(),
            open: OpenBatches::default(),
            expects_more: false,
            has_claims,
            fates: Fates::default(),
            outstanding_bytes: 0,
            outstanding_messages: 0,
            allowed,
            peak_bytes: 0,
            regulated,
            quota,
            share,
            held: None,
            is_withheld,
            collecting: None,
            is_ending: false,
        }
    }

    /// Returns the client and the queue of the operation.
    pub fn subject(&self) -> &Subject {
        &self.subject
    }

    /// Returns the highest number that the client may send.
    pub fn granted(&self) -> MsgNum {
        self.window.granted()
    }

    /// Returns whether the outstanding bytes or batches reach their limit, so that no more may be read.
    #[inline]
    pub fn is_full(&self, resources: &Resources<'_>) -> bool {
        let settings = resources.settings;
        let most = if resources.budget.is_pressed() {
            settings.produce_batches_pressed
        } else {
            settings.produce_batches
        };
        self.outstanding_bytes >= settings.produce_window_bytes || self.fates.outstanding() >= most
    }

    /// Returns whether the store still owes an answer.
    pub fn waits_for_store(&self) -> bool {
        self.fates.waits_for_store()
    }

    /// Returns whether the fate of the next messages is known, not yet reported, and does not wait for others.
    pub fn has_more_to_say(&self) -> bool {
        self.fates.is_first_known() && self.collecting.is_none()
    }

    /// Returns whether a known fate waits for those of the batches under way, at most for the target delay. In a
    /// crowd of producers, one answer for all of them costs much less than one for each.
    fn collects_fates(&mut self, resources: &Resources<'_>) -> bool {
        let longest = resources.regulator.collects_for().filter(|_| !self.is_ending);
        let Some(longest) = longest.filter(|_| self.fates.is_first_known()) else {
            self.collecting = None;
            return false;
        };
        let now = resources.now.mono;
        let until = *self.collecting.get_or_insert(now + longest);
        let goes_on = now < until && self.fates.waits_for_store();
        if !goes_on {
            self.collecting = None;
        }
        goes_on
    }

    /// Reports fates as soon as they are known, because the operation ends.
    pub fn handle_ending(&mut self) {
        (self.is_ending, self.collecting) = (true, None);
    }

    /// Begins to copy a request of `bytes`, whose TTL is probably `ttl`. `expected` more bytes have already
    /// arrived. Returns `None` if keys, headers or a delay are expected: those payloads are copied after all of the request is
    /// known.
    #[inline]
    pub fn copy(
        &mut self,
        bytes: usize,
        expected: usize,
        ttl: Option<u32>,
        resources: &mut Resources<'_>,
    ) -> Option<Copying<'_>> {
        if self.expects_more {
            return None;
        }
        let settings = resources.settings;
        let mut payload_max = settings.max_payload_bytes;
        let mut times = Times { ttl: ttl.unwrap_or(settings.ttl_min_secs), delay: 0 };
        if !self.subject.queue.policy.is_plain() {
            (payload_max, times.ttl) = self.expected(ttl, settings);
        }
        let building = self.open_plain(times, bytes, expected, resources);
        Some(Copying::start(&mut building.builder, payload_max))
    }

    /// Returns what the attributes of the queue say of the next request: the largest payload, and the TTL.
    #[cold]
    fn expected(&self, ttl: Option<u32>, settings: &Settings) -> (usize, u32) {
        let policy = &self.subject.queue.policy;
        let payload_max = policy.payload_max().unwrap_or(usize::MAX).min(settings.max_payload_bytes);
        let ttl = ttl.or_else(|| request::default_ttl(policy, settings));
        (payload_max, ttl.unwrap_or(settings.ttl_min_secs))
    }

    /// Drops what was copied of a malformed request, and releases its bytes.
    pub fn give_up(&mut self, copied: Option<Copied>, bytes: usize, resources: &mut Resources<'_>) {
        self.roll_back(copied);
        resources.budget.release(bytes);
    }

    /// Handles a complete request. `messages` reads its messages again, if they must be stored one by one. An
    /// error ends the operation.
    #[inline]
    pub fn receive<'m>(
        &mut self,
        mut request: Request,
        mut copied: Option<Copied>,
        messages: impl FnOnce() -> Vec<Record<'m>>,
        resources: &mut Resources<'_>,
    ) -> Result<(), Fault> {
        let is_plain = self.subject.queue.policy.is_plain();
        if !is_plain {
            request = request.with_defaults(&self.subject.queue.policy, resources.settings);
            if request.delay_secs() > 0 {
                self.roll_back(copied.take());
            }
        }
        let before = self.window.received();
        let last = match self.count(request, resources) {
            Ok(last) => last,
            Err(fault) => {
                self.give_up(copied, request.bytes, resources);
                return Err(fault.into());
            }
        };
        self.expects_more = request.keys | request.delay_secs() | request.headers > 0;
        resources.regulator.handle_received(
            &mut self.regulated,
            request.payloads.into(),
            request.bytes as u64,
        );
        let ttl = match request.checked_ttl(self.has_claims, resources) {
            Ok(ttl) => ttl,
            Err(fault) => {
                self.roll_back(copied);
                self.refuse(last, fault, resources);
                resources.budget.release(request.bytes);
                return Ok(());
            }
        };
        // A full storage ends the operation. Otherwise messages sent after this request could overtake it
        // once there is room again.
        if let Err(limit) = self.reserve(request.bytes) {
            self.give_up(copied, request.bytes, resources);
            return Err(PeerFault::StorageFull { sent: last, limit }.into());
        }
        let fits = is_plain || self.fits(request);
        match self.open.first_mut() {
            Some(building) if fits && copied.is_some_and(|copied| copied.holds_all(request, ttl)) => {
                building.reserved += request.bytes;
                self.open.through = last;
                self.outstanding_bytes += request.bytes;
                self.outstanding_messages += u64::from(request.payloads);
            }
            _ => {
                self.roll_back(copied);
                let times = Times { ttl, delay: request.delay_secs() };
                self.store_one_by_one(messages(), request, before, times, fits, resources);
            }
        }
        if self.open.stored_bytes() >= resources.settings.append_batch_bytes {
            self.close_batches(resources);
        }
        self.count_outstanding();
        Ok(())
    }

    /// Counts the messages of a request against the credit and the project's rates.
    fn count(&mut self, request: Request, resources: &mut Resources<'_>) -> Result<MsgNum, PeerFault> {
        let (messages, bytes) = (u64::from(request.payloads), request.bytes as u64);
        let last = self.window.receive(request.payloads)?;
        let charged = self.quota.charge(messages, bytes, resources.now);
        charged.map_err(|rates| PeerFault::OverRate { sent: last, rates })?;
        resources.counters.received += messages;
        resources.counters.received_bytes += bytes;
        Ok(last)
    }

    /// Reserves `bytes` of the project's storage limit, or returns the limit. Outstanding bytes count like
    /// stored ones.
    fn reserve(&mut self, bytes: usize) -> Result<(), u64> {
        self.share.as_mut().map_or(Ok(()), |share| share.try_add(bytes as u64))
    }

    /// Updates the use of the project's storage and of the queue's limits after a change of what is outstanding.
    fn count_outstanding(&mut self) {
        self.peak_bytes = self.peak_bytes.max(self.outstanding_bytes);
        if let Some(share) = &mut self.share {
            share.set(self.outstanding_bytes as u64);
        }
        if let Some(held) = &mut self.held {
            held.set(Held { messages: self.outstanding_messages, bytes: self.outstanding_bytes as u64 });
        }
    }

    /// Returns whether the queue's limits allow to store all messages of a request.
    #[cold]
    fn fits(&mut self, request: Request) -> bool {
        self.full_for(u64::from(request.payloads), request.bytes).is_none()
    }

    /// Returns the fault of messages that would exceed a limit of the queue. What is outstanding here and in other
    /// operations counts as what is stored.
    fn full_for(&mut self, messages: u64, bytes: usize) -> Option<PeerFault> {
        if !self.subject.queue.policy.refuses() {
            return None;
        }
        if self.held.is_none() {
            self.held = Some(Box::new(HeldShare::new(self.subject.queue.policy.clone())));
        }
        self.count_outstanding();
        let policy = &self.subject.queue.policy;
        let excess = policy.excess(Held { messages, bytes: bytes as u64 });
        if excess == Held::default() {
            return None;
        }
        let limits = policy.get();
        let (attribute, limit) = match excess.messages {
            0 => (BYTES_MAX, limits.bytes_max),
            _ => (MESSAGES_MAX, limits.messages_max),
        };
        // The limit may have been removed since.
        limit.map(|limit| PeerFault::QueueFull { attribute, limit })
    }

    /// Stores messages that were not copied as a whole: messages with keys, headers or a delay, and two rare cases, a TTL that
    /// follows the payloads in the request, and requests in which some messages are refused. `fits` says whether the
    /// queue's limits allow all of them.
    fn store_one_by_one(
        &mut self,
        messages: Vec<Record<'_>>,
        request: Request,
        before: MsgNum,
        times: Times,
        fits: bool,
        resources: &mut Resources<'_>,
    ) {
        // All messages of a request go into batches of one shape, so that those without headers do not close the
        // batches of those with.
        let shape = match request.keys {
            _ if messages.iter().any(|message| !message.headers.is_empty()) => Shape::Headers,
            0 => Shape::Payloads,
            _ => Shape::Keys,
        };
        self.follow_growth();
        let (mut kept, mut refused) = (0, 0);
        for (index, message) in messages.into_iter().enumerate() {
            let number = before.plus(index as u64 + 1);
            let policy = &self.subject.queue.policy;
            let checked = request::checked_message(message, policy, resources.settings);
            let full = if fits { None } else { self.full_for(1, message.bytes()) };
            let headers = match (checked, full) {
                (Ok(headers), None) => headers,
                (Err(fault), _) | (Ok(_), Some(fault)) => {
                    refused += message.bytes();
                    self.refuse(number, fault.into(), resources);
                    continue;
                }
            };
            let message = Record { headers: &headers, ..message };
            let building = if shape == Shape::Payloads {
                let building = self.open_plain(times, request.bytes, 0, resources);
                building.builder.push(message.payload);
                building
            } else {
                let partition = self.routing.partition_of(message.key);
                let building = self.open_shaped(shape, times, partition, resources);
                building.builder.push_record(message);
                building
            };
            building.reserved += message.bytes();
            kept += message.bytes();
            self.outstanding_bytes += message.bytes();
            self.outstanding_messages += 1;
            self.open.through = number;
        }
        resources.budget.release(refused);
        // Fields on the wire have headers too. The bytes of the request that are left count for the last
        // batch.
        let left = request.bytes - kept - refused;
        match self.open.last_mut() {
            Some(building) if kept > 0 || building.builder.count() > 0 => {
                building.reserved += left;
                self.outstanding_bytes += left;
            }
            _ => resources.budget.release(left),
        }
    }

    /// Spreads keys over all partitions that the queue has by now.
    fn follow_growth(&mut self) {
        let partitions = self.subject.queue.policy.grown_to();
        self.routing.keyed_over = self.routing.keyed_over.map(|over| over.max(partitions));
    }

    /// Returns the open batch of payloads if it has these times, otherwise a new one.
    #[inline]
    fn open_plain(
        &mut self,
        times: Times,
        request_bytes: usize,
        expected: usize,
        resources: &mut Resources<'_>,
    ) -> &mut Building {
        if !self.open.takes_plain(times) {
            self.close_batches(resources);
        }
        let bytes = request_bytes + expected.min(resources.settings.append_batch_bytes);
        // Stored payloads have four bytes of header, compared with two or three on the wire.
        let capacity = bytes + bytes / 16 + 16;
        self.open.plain(
            self.subject.caller.author,
            self.routing.partition,
            times,
            capacity,
            resources.read_ns,
        )
    }

    /// Returns the open batch of a partition for messages with keys or headers if the open ones have this shape and these
    /// times, otherwise a new one.
    fn open_shaped(
        &mut self,
        shape: Shape,
        times: Times,
        partition: Partition,
        resources: &mut Resources<'_>,
    ) -> &mut Building {
        if !self.open.takes_shaped(shape, times) {
            self.close_batches(resources);
        }
        self.open.shaped(self.subject.caller.author, partition, shape, times, resources.read_ns)
    }

    /// Drops what was copied of a request that must be stored in another form.
    pub fn roll_back(&mut self, copied: Option<Copied>) {
        if let Some(copied) = copied {
            self.open.roll_back(copied.savepoint);
        }
    }

    /// Refuses every message up to `through` that is not in a batch.
    fn refuse(&mut self, through: MsgNum, fault: Fault, resources: &mut Resources<'_>) {
        self.close_batches(resources);
        let fate = Err(fault);
        if self.fates.extend(through, &fate) {
            return;
        }
        let (read_ns, known_ns) = (resources.read_ns, resources.now.mono_ns);
        let (reserved, messages, waiting, place) = (0, 0, 0, None);
        let pending = Pending { through, reserved, messages, waiting, fate, place, read_ns, known_ns };
        self.fates.push(pending, &mut resources.budget);
    }

    /// Closes the open batches and sends them to the shard.
    pub fn close_batches(&mut self, resources: &mut Resources<'_>) {
        if self.open.is_empty() {
            return;
        }
        let (sequence, read_ns) = (self.fates.next_sequence(), self.open.read_ns);
        let place = self
            .open
            .only_partition()
            .map(|partition| StoredAt { partition, offsets: Offset::ZERO..Offset::ZERO });
        let (mut waiting, mut total, mut messages) = (0, 0, 0);
        for Building { partition, builder, reserved } in self.open.drain() {
            if builder.count() == 0 {
                resources.budget.release(reserved);
                self.outstanding_bytes -= reserved;
                continue;
            }
            waiting += 1;
            total += reserved;
            messages += builder.count();
            resources.budget.hand_over(reserved);
            resources.commands.push(Command::Append {
                operation: self.subject.operation,
                sequence,
                target: self.subject.target(partition),
                batch: builder.close(),
                reserved,
                read_ns,
            });
        }
        if waiting > 0 {
            let pending = Pending {
                through: self.open.through,
                reserved: total,
                messages,
                waiting,
                fate: Ok(()),
                place,
                read_ns,
                known_ns: 0,
            };
            self.fates.push(pending, &mut resources.budget);
        }
        self.count_outstanding();
    }

    /// Handles the store's answer for one batch. Returns a fault if no later message may be accepted.
    pub fn handle_appended(
        &mut self,
        sequence: Sequence,
        result: Result<Option<Range<Offset>>, StoreFault>,
        now: Now,
    ) -> Option<Fault> {
        let answered = self.fates.handle_appended(sequence, result, now.mono_ns)?;
        let Answered { released, messages, fault } = answered;
        self.outstanding_bytes -= released;
        self.outstanding_messages -= u64::from(messages);
        self.count_outstanding();
        fault
    }

    /// Acknowledges or refuses the next messages, all with one fate, and grants credit. Returns `None` if no
    /// fate is known. Calls `each` with the timing of stored messages.
    #[inline]
    pub fn speak(
        &mut self,
        resources: &mut Resources<'_>,
        mut each: impl FnMut(Acknowledged),
    ) -> Option<Word> {
        if self.collects_fates(resources) {
            return None;
        }
        let before = self.window.spoken_for();
        let first = self.fates.pop(|_| true, &mut resources.budget)?;
        first.acknowledge(before, &mut each);
        let Pending { mut through, fate, mut place, .. } = first;
        while let Some(next) = self.fates.pop(|next| *next == fate, &mut resources.budget) {
            next.acknowledge(through, &mut each);
            through = next.through;
            place = StoredAt::join(place, next.place);
        }
        if let Err(fault) = &fate {
            resources.counters.refused.add(fault.status(), through.since(before));
            place = None;
        }
        self.window.speak_for(through);
        self.grant(resources);
        Some(self.word(Some(fate), through, place))
    }

    /// Grants credit without a fate, if no pending fate could carry it. Returns `None` if the credit has not
    /// grown.
    pub fn speak_of_credit(&mut self, resources: &mut Resources<'_>) -> Option<Word> {
        // An allowance that has grown by a few messages is not worth an answer.
        if self.allowed < u64::MAX && !self.window.is_low(self.allowed) {
            return None;
        }
        self.grant(resources);
        let is_news = self.is_settled() && self.window.granted() > self.told;
        is_news.then(|| self.word(None, self.window.spoken_for(), None))
    }

    /// Ends the operation. Refunds the part of the quota that it did not use.
    pub fn finish(&mut self, resources: &mut Resources<'_>) {
        self.quota.refund();
        resources.regulator.close(&mut self.regulated);
    }

    /// Ends a failed operation. Returns the last answer to the client.
    pub fn finish_failed(&mut self, fault: &Fault, resources: &mut Resources<'_>) -> Word {
        self.finish(resources);
        let through = match fault {
            Fault::Peer(
                PeerFault::CreditExceeded { sent, .. }
                | PeerFault::OverRate { sent, .. }
                | PeerFault::StorageFull { sent, .. },
            ) => *sent,
            _ => self.window.spoken_for(),
        };
        self.word(Some(Err(fault.clone())), through, None)
    }

    fn word(&mut self, fate: Option<Fate>, through: MsgNum, place: Option<StoredAt>) -> Word {
        self.told = self.window.granted();
        Word { fate, through, granted: self.told, place }
    }

    /// Raises the credit as far as the regulator and the project's rates allow, unless memory is short.
    fn grant(&mut self, resources: &mut Resources<'_>) {
        self.is_withheld = resources.budget.is_tight();
        if !self.is_withheld && !self.is_full(resources) {
            let used = std::mem::replace(&mut self.peak_bytes, self.outstanding_bytes);
            self.allowed = resources.regulator.allowance(&mut self.regulated, used as u64);
            self.window.grant(self.quota.pay_for(self.window.grantable_within(self.allowed), resources.now));
        }
    }

    /// Returns whether the operation waits for credit that the budget did not allow. For credit that the
    /// project's rates did not allow, see [`Self::next_deadline`].
    pub fn is_starved(&self) -> bool {
        self.is_withheld && self.is_settled() && self.window.is_low(self.allowed)
    }

    /// Returns when the project's rates may allow more credit, or a known fate has waited long enough.
    pub fn next_deadline(&self) -> Option<Millis> {
        let credit = self.quota.due().filter(|_| self.is_settled() && self.window.is_low(self.allowed));
        [credit, self.collecting].into_iter().flatten().min()
    }

    /// Returns the last number that is spoken for, and the highest that the client may send, for an answer about
    /// something else.
    pub fn numbers(&mut self) -> (MsgNum, MsgNum) {
        self.told = self.window.granted();
        (self.window.spoken_for(), self.told)
    }

    /// Returns the number of messages that the client may still send.
    pub fn credit(&self) -> u64 {
        self.window.granted().since(self.window.received())
    }

    /// Handles the passing of time.
    pub fn handle_timeout(&mut self, now: Now) {
        self.quota.handle_timeout(now);
    }

    /// Returns whether every received message is answered.
    pub fn is_settled(&self) -> bool {
        self.fates.is_empty() && self.open.is_empty()
    }

    /// Releases everything that no answer of the store will release. For a connection that is lost.
    pub fn abandon(&mut self, resources: &mut Resources<'_>) {
        for building in self.open.drain() {
            resources.budget.release(building.reserved);
        }
        self.fates.clear(&mut resources.budget);
        (self.share, self.held) = (None, None);
        self.finish(resources);
    }
}

impl Pending {
    /// Reports the timing of the messages after `before`, if they are stored.
    #[inline]
    fn acknowledge(&self, before: MsgNum, each: &mut impl FnMut(Acknowledged)) {
        if self.fate.is_ok() {
            let messages = u32::try_from(self.through.since(before)).unwrap_or(u32::MAX);
            each(Acknowledged { messages, read_ns: self.read_ns, known_ns: self.known_ns });
        }
    }
}
