//! What a produce operation has paid for of its project's rates.
//!
//! Credit is a promise, so it is paid for when it is given: messages by number, bytes by what this operation's messages had on
//! average. What came differs; the difference is paid or given back when it comes, and what was promised and never used is given
//! back at the end. The initial credit of the protocol is paid for at setup, its bytes as they come: whoever keeps to its credit
//! is refused only where those are far more than the rate.

use std::sync::Arc;

use crate::access::Tenant;
use crate::base::clock::Now;
use crate::base::limits::INITIAL_CREDIT;
use crate::base::millis::Millis;

/// How often an operation that the rates hold back looks for more; and how many of a project's operations look
/// in a millisecond at most, however many there are.
const LOOK_EVERY: Millis = Millis::new(20);
const LOOKS_PER_MS: u64 = 50;

/// One operation may be promised this part of a second's messages or bytes, or the initial credit, where that is more.
const AHEAD_PART: u64 = 10;

/// See the module's page. Invariant: `messages` and `bytes` are paid for and not used.
#[derive(Debug, Default)]
pub struct Quota {
    /// The project, where it has rates.
    tenant: Option<Arc<Tenant>>,
    messages: u64,
    bytes: u64,
    /// Of all that came.
    came: u64,
    came_bytes: u64,
    /// Less was given than was asked for; when to ask again.
    due: Option<Millis>,
}

impl Quota {
    /// The initial credit's messages are paid for.
    pub fn new(tenant: Option<&Arc<Tenant>>, now: Now) -> Self {
        let Some(tenant) = tenant.filter(|tenant| tenant.has_rates()) else { return Self::default() };
        let messages = INITIAL_CREDIT as u64;
        tenant.pay(now.mono, messages, 0);
        Self { tenant: Some(tenant.clone()), messages, ..Self::default() }
    }

    /// What the messages so far had on average, bytes.
    fn average_bytes(&self) -> Option<u64> {
        (self.came > 0).then(|| self.came_bytes.div_ceil(self.came))
    }

    /// How many of `wanted` messages can be promised; pays for them. No more than a part of the rate is promised to one
    /// operation at once: what it does not use would be kept from the others.
    pub fn pay_for(&mut self, wanted: u64, now: Now) -> u64 {
        let Some(tenant) = &self.tenant else { return wanted };
        let (messages_per_sec, bytes_per_sec) = tenant.rates();
        // Before the first has come nobody knows what they have: the initial credit is enough for that.
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
        // Whoever has credit left can use that first.
        let every = if self.messages == 0 { LOOK_EVERY.get() } else { 10 * LOOK_EVERY.get() };
        let every = Millis::new(every.max(tenant.operations() / LOOKS_PER_MS));
        self.due = (count < wanted).then_some(now.mono + every);
        count
    }

    /// Messages came, within the credit. The rates, where the project has used far more bytes than it may.
    pub fn charge(&mut self, messages: u64, bytes: u64, now: Now) -> Result<(), (u64, u64)> {
        let Some(tenant) = &self.tenant else { return Ok(()) };
        self.came += messages;
        self.came_bytes += bytes;
        // Their share of what was paid for.
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

    /// Gives back what was not used.
    pub fn refund(&mut self) {
        if let Some(tenant) = &self.tenant {
            tenant.refund(std::mem::take(&mut self.messages), std::mem::take(&mut self.bytes));
        }
    }

    /// It is time to look, or was.
    pub fn handle_timeout(&mut self, now: Now) {
        self.due = self.due.map(|due| due.max(now.mono + LOOK_EVERY));
    }

    /// When more may be given.
    pub fn due(&self) -> Option<Millis> {
        self.due
    }
}
