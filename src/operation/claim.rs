//! One claim operation, server side (protocol section 17).
//!
//! The operation asks the partitions for leases, as far as its credit and `claim_window` allow, and keeps what it has
//! sent, so that a client can settle messages by their numbers. A lease is sent whole, or given back.
//!
//! A protocol passes in requests with [`Claim::handle_request`], takes claims with [`Claim::next_claim`] and news of
//! settled requests with [`Claim::take_news`], and then calls [`Claim::pump`]. At the end it calls [`Claim::leave`].
//!
//! | file | one concept |
//! | --- | --- |
//! | here | the credit, and the ends of an operation |
//! | `terms` | what a worker wishes for its leases |
//! | `request` | a request, and its check |
//! | `ranges` | message numbers as ranges |
//! | `id` | ids of claims |
//! | `asks` | which partitions are asked and watched |
//! | `ready` | the leases that wait until the output has room |
//! | `sent` | the claims that were sent, by message number |
//! | `bits` | which messages of a claim are not settled |
//! | `settling` | the requests that the store has not answered |

mod asks;
mod bits;
mod id;
mod ranges;
mod ready;
mod request;
mod sent;
mod settling;
mod terms;

pub use id::ClaimId;
pub use ranges::Ranges;
pub use request::{ByClaim, ClaimRequest};
pub use settling::{LostClaim, News};
pub use terms::{ClaimEnd, ClaimTerms};

use self::asks::{Allowance, Asks, CLAIM_BYTES_MAX, PRESSED_MESSAGES_MAX, Step};
use self::ready::{Ready, Size};
use self::sent::{Change, Sent, SentClaims};
use self::settling::{Plan, Requests};
use super::command::Command;
use super::credit::SendWindow;
use super::resources::Resources;
use super::subject::Subject;
use crate::base::claim::{Grant, Granted, Leases, Leaving, Lost, Settle, Settlement};
use crate::base::clock::Now;
use crate::base::error::PeerFault;
use crate::base::millis::Millis;
use crate::base::names::ClientId;
use crate::base::units::{Partition, Sequence};

/// The number of a settlement whose answer the operation does not need.
pub const UNAWAITED: Sequence = Sequence(0);

/// A lease that is about to be sent.
#[derive(Debug)]
pub struct Outgoing {
    /// The id of the claim.
    pub id: ClaimId,
    /// The client that holds it.
    pub client: ClientId,
    /// The partition of its messages.
    pub partition: Partition,
    /// How long the lease lasts.
    pub left: Millis,
    /// How long the messages live at least after it has ended.
    pub grace: Millis,
    /// The messages.
    pub runs: Vec<Granted>,
}

/// The state of one claim operation.
#[derive(Debug)]
pub struct Claim {
    subject: Subject,
    terms: ClaimTerms,
    window: SendWindow,
    asks: Asks,
    /// Whether it claims from every partition.
    takes_all: bool,
    ready: Ready,
    sent: SentClaims,
    requests: Requests,
    /// Whether nothing more is given out: the client has said `stop`, or the server drains.
    is_stopped: bool,
    /// Whether the client has said `stop`.
    is_stopping: bool,
    drain_until: Option<Millis>,
    /// Whether the owners of the partitions were told that the operation ends.
    has_left: bool,
    /// Whether nothing more may be asked for until a lease is over or settled.
    is_at_limit: bool,
    /// What is counted in the shard's budget.
    held: usize,
}

impl Claim {
    /// Starts an operation whose setup was accepted. Claims from partition `only`, or from every partition if `None`.
    pub fn start(subject: Subject, terms: ClaimTerms, only: Option<Partition>) -> Self {
        let partitions = subject.queue.all().filter(|partition| only.is_none_or(|only| only == *partition));
        Self {
            terms,
            window: SendWindow::without_credit(),
            asks: Asks::new(partitions),
            takes_all: only.is_none(),
            ready: Ready::default(),
            sent: SentClaims::default(),
            requests: Requests::default(),
            is_stopped: false,
            is_stopping: false,
            drain_until: None,
            has_left: false,
            is_at_limit: false,
            held: 0,
            subject,
        }
    }

    /// Returns the client and the queue of the operation.
    pub fn subject(&self) -> &Subject {
        &self.subject
    }

    /// Claims from further partitions, if the queue has some by now and the operation claims from all.
    pub fn follow_growth(&mut self) {
        let before = usize::from(self.subject.queue.partitions);
        let grown_to = self.subject.queue.policy.grown_to();
        if usize::from(grown_to) <= before {
            return;
        }
        self.subject.queue.partitions = grown_to;
        if self.takes_all {
            self.asks.add(self.subject.queue.all().skip(before));
        }
    }

    fn client(&self) -> ClientId {
        self.subject.caller.author.client
    }

    /// Returns whether no further request may be read, because the store owes too many answers.
    pub fn is_full(&self, resources: &Resources<'_>) -> bool {
        self.requests.is_full() || resources.budget.is_pressed() && !self.requests.is_settled()
    }

    /// Returns whether the store has answered all requests.
    pub fn is_settled(&self) -> bool {
        self.requests.is_settled()
    }

    /// Handles a request. An error ends the operation; then nothing of the request is done.
    pub fn handle_request(
        &mut self,
        request: &ClaimRequest<'_>,
        resources: &mut Resources<'_>,
    ) -> Result<(), PeerFault> {
        let (now, settings) = (resources.now.mono, resources.settings);
        self.expire(resources);
        let (ttl, queue) = (self.terms.ttl_secs(), &self.subject.queue);
        let (lists, named) = request.check(self.window.sent(), ttl, queue, settings)?;
        self.window.raise(request.credit);
        let client = self.client();
        let mut plan = Plan::new(client);
        plan.is_awaited = request.settles();
        for (list, what) in lists {
            let change = match what {
                Settle::Renew(secs) => Change::Renew(now + Millis::from_secs(secs)),
                _ => Change::Settle,
            };
            for numbers in list.iter() {
                self.sent.forgotten(&numbers, &mut plan.lost);
                self.sent.change(numbers, change, |part| plan.settle(part, what));
            }
        }
        for named in named {
            let offsets = named.offsets.map(|(first, last)| first..last.saturating_add(1));
            let settlement = Settlement {
                client,
                leases: named.leases,
                offsets: offsets.into_iter().collect(),
                what: named.what,
            };
            match named.partition {
                Some(partition) => plan.name(partition, settlement, named.id, named.kind),
                None => queue.all().for_each(|partition| {
                    plan.name(partition, settlement.clone(), named.id, named.kind);
                }),
            }
        }
        let subject = &self.subject;
        self.requests.push(plan, |sequence, partition, settlements| {
            resources.commands.push(Command::Settle {
                operation: subject.operation,
                sequence,
                target: subject.target(partition),
                settlements,
            });
        });
        if request.stop {
            self.is_stopping = true;
            self.stop(resources);
        }
        self.account(resources);
        Ok(())
    }

    /// Handles the answer to an ask.
    pub fn handle_claimed(
        &mut self,
        partition: Partition,
        grant: Option<Grant>,
        resources: &mut Resources<'_>,
    ) {
        let size = grant.as_ref().map_or(Size::default(), Size::of);
        self.asks.handle_claimed(partition, u32::try_from(size.messages).unwrap_or(u32::MAX));
        let Some(grant) = grant.filter(|_| size.messages > 0) else { return };
        if self.is_stopped || self.has_left {
            return self.give_back(partition, &grant, resources);
        }
        self.ready.push(partition, grant, size);
        self.account(resources);
    }

    /// Handles that a watched partition may have messages.
    pub fn handle_watched(&mut self, partition: Partition) {
        self.asks.handle_watched(partition);
    }

    /// Handles the answer for one partition of a request.
    pub fn handle_settled(
        &mut self,
        sequence: Sequence,
        partition: Partition,
        lost: &[Lost],
        resources: &mut Resources<'_>,
    ) {
        let sent = &mut self.sent;
        self.requests.handle_settled(sequence, partition, lost, |numbers| {
            // A renewed message that is lost is no longer leased.
            sent.change(numbers, Change::Settle, drop);
        });
        self.account(resources);
    }

    /// Handles that the store has failed to settle a request. The operation must end.
    pub fn handle_failed(&mut self, sequence: Sequence, resources: &mut Resources<'_>) {
        self.requests.handle_failed(sequence);
        self.account(resources);
    }

    /// Takes what there is to tell the client about its requests.
    pub fn take_news(&mut self) -> Option<News> {
        self.requests.take_news()
    }

    /// Takes the next lease to send, and counts it as sent. Gives back leases that are over.
    pub fn next_claim(&mut self, resources: &mut Resources<'_>) -> Option<Outgoing> {
        let now = resources.now.mono;
        loop {
            let (partition, grant, messages) = self.ready.pop()?;
            if grant.ends <= now {
                self.give_back(partition, &grant, resources);
                continue;
            }
            let Grant { lease, ends, runs } = grant;
            let last = self.window.send(messages);
            // Never negative, and at least the number of messages.
            let number = last.to_wire() as u64 - messages + 1;
            let offsets = runs.iter().map(|run| run.offsets.clone());
            self.sent.insert(number, Sent::new(partition, lease, ends, offsets));
            self.account(resources);
            return Some(Outgoing {
                id: ClaimId::of(&self.subject.queue, partition, lease),
                client: self.client(),
                partition,
                left: ends.since(now),
                grace: self.terms.grace(),
                runs,
            });
        }
    }

    /// Asks for leases, and watches partitions that have none. `has_room` says whether the output has room.
    pub fn pump(&mut self, has_room: bool, resources: &mut Resources<'_>) {
        self.expire(resources);
        if self.has_left || self.is_stopped {
            return;
        }
        let messages = if has_room && self.ready.is_empty() { self.askable(resources) } else { 0 };
        let is_pressed = resources.budget.is_pressed();
        let pressed = resources.settings.send_buffer_bytes_pressed;
        let bytes_max = if is_pressed { CLAIM_BYTES_MAX.min(pressed) } else { CLAIM_BYTES_MAX };
        let Self { subject, asks, terms, .. } = self;
        let operation = subject.operation;
        let terms = terms.of(subject.caller.author.client);
        asks.pump(Allowance { messages, is_pressed }, |step| {
            let target = |partition| subject.target(partition);
            resources.commands.push(match step {
                Step::Ask(partition, messages_max) => {
                    Command::Claim { operation, target: target(partition), terms, messages_max, bytes_max }
                }
                Step::Watch(partition, wanted) => {
                    Command::Watch { operation, target: target(partition), wanted }
                }
                Step::Pass(partition) => {
                    Command::Leave { operation, target: target(partition), leaving: Leaving::Pause }
                }
            });
        });
    }

    /// Handles the passing of time. While the budget is exhausted, forgets all claims whose lease is over.
    fn expire(&mut self, resources: &mut Resources<'_>) {
        let is_pressed = resources.budget.is_pressed();
        let lapsed_max = if is_pressed { 0 } else { u64::from(resources.settings.claim_window) };
        self.sent.expire(resources.now.mono, lapsed_max);
        self.account(resources);
    }

    /// Returns how many messages may be asked for in addition. While the budget is exhausted, an operation has only one
    /// small claim.
    fn askable(&mut self, resources: &Resources<'_>) -> u64 {
        let coming = self.asks.reserved() + self.ready.total().messages;
        let held = self.sent.leased() + coming;
        let window = u64::from(resources.settings.claim_window).saturating_sub(held);
        let is_pressed = resources.budget.is_pressed();
        self.is_at_limit = window == 0 || is_pressed && held > 0;
        let messages = self.window.available().saturating_sub(coming).min(window);
        match is_pressed {
            true if held > 0 => 0,
            true => messages.min(PRESSED_MESSAGES_MAX),
            false => messages,
        }
    }

    /// Returns the number of messages that the credit still allows.
    pub fn credit(&self) -> u64 {
        self.window.available()
    }

    /// Gives out nothing more.
    fn stop(&mut self, resources: &mut Resources<'_>) {
        if !std::mem::replace(&mut self.is_stopped, true) {
            self.tell(Leaving::Pause, resources);
            self.asks.pause();
            self.give_back_ready(resources);
        }
    }

    /// Starts draining: gives out nothing more, and takes settlements until `until`.
    pub fn drain(&mut self, until: Millis, resources: &mut Resources<'_>) {
        self.drain_until = Some(until);
        self.stop(resources);
    }

    /// Returns whether draining is complete: the time is over, or nothing is left to settle.
    pub fn is_drained(&self, now: Now) -> bool {
        self.drain_until.is_some_and(|until| until <= now.mono || self.is_done())
    }

    /// Returns whether the client has stopped the operation, and everything is settled or its lease is over.
    pub fn is_stopped(&self) -> bool {
        self.is_stopping && self.is_done()
    }

    fn is_done(&self) -> bool {
        self.asks.is_idle() && self.sent.leased() == 0 && self.requests.is_settled()
    }

    /// Ends the operation at the owners of the partitions. Later calls change nothing. Answers to requests may still
    /// come.
    pub fn leave(&mut self, end: ClaimEnd, resources: &mut Resources<'_>) {
        if std::mem::replace(&mut self.has_left, true) {
            return;
        }
        // Nobody has seen these messages.
        self.give_back_ready(resources);
        self.tell(self.terms.leaving(end), resources);
    }

    /// Drops everything that is counted in the shard's budget.
    pub fn forget(&mut self, resources: &mut Resources<'_>) {
        resources.budget.drop_held(std::mem::take(&mut self.held));
    }

    /// Tells every partition's owner that knows the operation.
    fn tell(&self, leaving: Leaving, resources: &mut Resources<'_>) {
        for partition in self.asks.known() {
            let (operation, target) = (self.subject.operation, self.subject.target(partition));
            resources.commands.push(Command::Leave { operation, target, leaving });
        }
    }

    fn give_back_ready(&mut self, resources: &mut Resources<'_>) {
        while let Some((partition, grant, _)) = self.ready.pop() {
            self.give_back(partition, &grant, resources);
        }
        self.account(resources);
    }

    /// Gives back a lease that was not sent.
    fn give_back(&self, partition: Partition, grant: &Grant, resources: &mut Resources<'_>) {
        let leases = Leases::One(grant.lease);
        let settlement =
            Settlement { client: self.client(), leases, offsets: Vec::new(), what: Settle::Return };
        resources.commands.push(Command::Settle {
            operation: self.subject.operation,
            sequence: UNAWAITED,
            target: self.subject.target(partition),
            settlements: vec![settlement],
        });
    }

    /// Counts the memory of the operation in the shard's budget.
    fn account(&mut self, resources: &mut Resources<'_>) {
        let bytes = self.sent.bytes() + self.requests.bytes() + self.ready.total().bytes;
        if bytes > self.held {
            resources.budget.hold(bytes - self.held);
        } else {
            resources.budget.drop_held(self.held - bytes);
        }
        self.held = bytes;
    }

    /// Returns when the operation must be called again, even without an event: when the next lease ends, if that allows
    /// more or ends the operation.
    pub fn next_deadline(&self) -> Option<Millis> {
        let lease = self.sent.next_end().filter(|_| self.is_stopped || self.is_at_limit);
        [lease, self.drain_until].into_iter().flatten().min()
    }
}
