//! A produce operation's share of its project's rates.
//!
//! Credit is a promise, so it is paid for when it is granted: messages by number, bytes by the average size
//! of this operation's messages. When messages arrive, the difference to their real size is charged or
//! refunded. Credit that was never used is refunded at the end. The messages of the protocol's initial credit
//! are paid for at setup, their bytes as they arrive. A client that keeps to its credit is therefore refused
//! only if its messages are far larger than the rate allows.

use std::sync::Arc;

use crate::access::Tenant;
use crate::base::clock::Now;
use crate::base::limits::INITIAL_CREDIT;
use crate::base::millis::Millis;

/// How often an operation that the rates hold back asks again; and the most operations of a project that ask
/// in one millisecond.
const LOOK_EVERY: Millis = Millis::new(20);
const LOOKS_PER_MS: u64 = 50;

/// One operation is promised at most this fraction (one tenth) of a second's messages or bytes, but at least
/// the initial credit.
const AHEAD_PART: u64 = 10;

/// What an operation has paid for. Invariant: `messages` and `bytes` are paid for but not used yet.
#[derive(Debug, Default)]
pub struct Quota {
    /// The project, if its rates are limited.
    tenant: Option<Arc<Tenant>>,
    messages: u64,
    bytes: u64,
    /// The number and the bytes of all messages received.
    came: u64,
    came_bytes: u64,
    /// When to ask again. Set if less was granted than asked for.
    due: Option<Millis>,
}

impl Quota {
    /// Creates a quota, and pays for the messages of the initial credit.
    pub fn new(tenant: Option<&Arc<Tenant>>, now: Now) -> Self {
        let Some(tenant) = tenant.filter(|tenant| tenant.has_rates()) else { return Self::default() };
        let messages = INITIAL_CREDIT as u64;
        tenant.pay(now.mono, messages, 0);
        Self { tenant: Some(tenant.clone()), messages, ..Self::default() }
    }

    /// Returns the average size of the messages so far, in bytes.
    fn average_bytes(&self) -> Option<u64> {
        (self.came > 0).then(|| self.came_bytes.div_ceil(self.came))
    }

    /// Pays for up to `wanted` messages and returns how many can be promised. One operation gets only a
    /// fraction of the rate at once, because unused credit is lost to the other operations until it ends.
    pub fn pay_for(&mut self, wanted: u64, now: Now) -> u64 {
        let Some(tenant) = &self.tenant else { return wanted };
        let (messages_per_sec, bytes_per_sec) = tenant.rates();
        // The size of messages is unknown before the first arrives. The initial credit is enough to learn it.
        let bytes = match self.average_bytes() {
            Some(bytes) => bytes.max(1),
            None if bytes_per_sec > 0 => return 0,
            None => 0,
        };
        let ahead = |per_sec: u64, of_one: u64| match per_sec {
            0 => u64::MAX,
            _ => (per_sec / AHEAD_PART / of_one.max(1)).max(INITIAL_CREDIT as u64),
        };
        let ahead = ahead(messages_per_sec, 1).min(ahead(bytes_per_sec, bytes));
        let wanted = wanted.min(ahead.saturating_sub(self.messages));
        let count = wanted.min(tenant.available(now.mono, bytes));
        if count > 0 {
            tenant.pay(now.mono, count, count * bytes);
            self.messages += count;
            self.bytes += count * bytes;
        }
        // An operation with credit left can wait longer.
        let every = if self.messages == 0 { LOOK_EVERY.get() } else { 10 * LOOK_EVERY.get() };
        let every = Millis::new(every.max(tenant.operations() / LOOKS_PER_MS));
        self.due = (count < wanted).then_some(now.mono + every);
        count
    }

    /// Charges messages that arrived within the credit. Fails with the project's rates if it has used far
    /// more bytes than allowed.
    pub fn charge(&mut self, messages: u64, bytes: u64, now: Now) -> Result<(), (u64, u64)> {
        let Some(tenant) = &self.tenant else { return Ok(()) };
        self.came += messages;
        self.came_bytes += bytes;
        // The bytes that were paid for these messages.
        let paid_bytes = match self.messages {
            0 => 0,
            paid => (u128::from(self.bytes) * u128::from(messages.min(paid)) / u128::from(paid)) as u64,
        };
        self.messages = self.messages.saturating_sub(messages);
        self.bytes -= paid_bytes;
        if bytes > paid_bytes && tenant.owes_bytes(now.mono) {
            tenant.refund(messages, paid_bytes);
            return Err(tenant.rates());
        }
        tenant.pay(now.mono, 0, bytes.saturating_sub(paid_bytes));
        tenant.refund(0, paid_bytes.saturating_sub(bytes));
        Ok(())
    }

    /// Refunds what was not used.
    pub fn refund(&mut self) {
        if let Some(tenant) = &self.tenant {
            tenant.refund(std::mem::take(&mut self.messages), std::mem::take(&mut self.bytes));
        }
    }

    /// Schedules the next attempt, if there is one, no sooner than `LOOK_EVERY` from now.
    pub fn handle_timeout(&mut self, now: Now) {
        self.due = self.due.map(|due| due.max(now.mono + LOOK_EVERY));
    }

    /// Returns when more credit may be available.
    pub fn due(&self) -> Option<Millis> {
        self.due
    }
}
