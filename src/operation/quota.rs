//! A produce operation's share of its project's rates.
//!
//! Credit is a promise, so it is paid for when it is granted: messages by number, bytes by the average size
//! of this operation's messages. When messages arrive, the difference to their real size is charged or
//! refunded. Credit that was never used is refunded at the end. The messages of the protocol's initial credit
//! are paid for at setup, their bytes as they arrive. A client that keeps to its credit is therefore refused
//! only if its messages are far larger than the rate allows.
//!
//! A reload may add, change and remove the rates during the operation. Credit that was granted without a rate
//! stays free. A rate applies to the credit that is granted from then on.

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

/// What an operation has paid for. Invariants: `messages` and `bytes` are paid for but not used yet; `messages`
/// and `free` together are the credit that was granted and not used.
#[derive(Debug, Default)]
pub struct Quota {
    /// The project. `None` if nothing is counted.
    tenant: Option<Arc<Tenant>>,
    messages: u64,
    bytes: u64,
    /// Messages that were granted while no rate was set. Nothing is paid for them.
    free: u64,
    /// The number and the bytes of all messages received.
    came: u64,
    came_bytes: u64,
    /// When to ask again. Set if less was granted than asked for.
    due: Option<Millis>,
}

impl Quota {
    /// Creates a quota, and pays for the messages of the initial credit.
    pub fn new(tenant: Option<&Arc<Tenant>>, now: Now) -> Self {
        let Some(tenant) = tenant.cloned() else { return Self::default() };
        let initial = INITIAL_CREDIT as u64;
        if !tenant.has_rates() {
            return Self { tenant: Some(tenant), free: initial, ..Self::default() };
        }
        tenant.pay(now.mono, initial, 0);
        Self { tenant: Some(tenant), messages: initial, ..Self::default() }
    }

    /// Returns whether the project's rates are limited. If not, makes the credit free that was paid for while
    /// they were.
    #[inline]
    fn is_limited(&mut self) -> bool {
        if self.tenant.as_ref().is_some_and(|tenant| tenant.has_rates()) {
            return true;
        }
        self.free += std::mem::take(&mut self.messages);
        self.bytes = 0;
        self.due = None;
        false
    }

    /// Returns the average size of the messages so far, in bytes.
    fn average_bytes(&self) -> Option<u64> {
        (self.came > 0).then(|| self.came_bytes.div_ceil(self.came))
    }

    /// Pays for up to `wanted` messages and returns how many can be promised. One operation gets only a
    /// fraction of the rate at once, because unused credit is lost to the other operations until it ends.
    pub fn pay_for(&mut self, wanted: u64, now: Now) -> u64 {
        let is_limited = self.is_limited();
        let Some(tenant) = self.tenant.as_ref().filter(|_| is_limited) else {
            self.free += wanted;
            return wanted;
        };
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
        let wanted = wanted.min(ahead.saturating_sub(self.messages + self.free));
        let count = wanted.min(tenant.available(now.mono, bytes));
        if count > 0 {
            tenant.pay(now.mono, count, count * bytes);
            self.messages += count;
            self.bytes += count * bytes;
        }
        // An operation with credit left can wait longer.
        let every = if self.messages + self.free == 0 { LOOK_EVERY.get() } else { 10 * LOOK_EVERY.get() };
        let every = Millis::new(every.max(tenant.operations() / LOOKS_PER_MS));
        self.due = (count < wanted).then_some(now.mono + every);
        count
    }

    /// Charges messages that arrived within the credit. Fails with the project's rates if it has used far
    /// more bytes than allowed.
    pub fn charge(&mut self, messages: u64, bytes: u64, now: Now) -> Result<(), (u64, u64)> {
        let is_limited = self.is_limited();
        let free = self.free.min(messages);
        self.free -= free;
        let Some(tenant) = self.tenant.as_ref().filter(|_| is_limited) else { return Ok(()) };
        self.came += messages;
        self.came_bytes += bytes;
        let free_bytes = u128::from(bytes) * u128::from(free) / u128::from(messages.max(1));
        let (messages, bytes) = (messages - free, bytes - free_bytes as u64);
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::access::{ProjectLimits, Tenants};
    use crate::base::names::Project;

    fn now() -> Now {
        Now::at_ms(10_000, 1_700_000_000_000)
    }

    fn rate(messages_per_sec: u64, bytes_per_sec: u64) -> ProjectLimits {
        ProjectLimits { messages_per_sec, bytes_per_sec, ..ProjectLimits::default() }
    }

    fn quota(tenants: &Tenants) -> (Arc<Tenant>, Quota) {
        let tenant = tenants.get(&Project::default(), now().mono);
        let quota = Quota::new(Some(&tenant), now());
        (tenant, quota)
    }

    #[test]
    fn credit_granted_before_a_rate_is_free_and_later_credit_is_paid_for() {
        let tenants = Tenants::new(ProjectLimits::default());
        let (tenant, mut quota) = quota(&tenants);
        assert_eq!(quota.pay_for(900, now()), 900);
        tenants.set_limits(&rate(500, 10_000));
        // Far more bytes than the rate allows, but within the credit of the time before it.
        assert_eq!(quota.charge(1_000, 1 << 20, now()), Ok(()));
        assert_eq!(tenant.available(now().mono, 1), 500, "nothing was paid for them");
        let granted = quota.pay_for(1_000, now());
        assert!((1..=500).contains(&granted), "{granted}");
        assert!(quota.due().is_some(), "it asks again");
        assert!(tenant.available(now().mono, 1) < 500);
    }

    #[test]
    fn credit_paid_for_before_a_rate_is_removed_does_not_count_when_it_returns() {
        let tenants = Tenants::new(rate(1_000, 0));
        let (tenant, mut quota) = quota(&tenants);
        assert_eq!(quota.charge(INITIAL_CREDIT as u64 / 2, 100, now()), Ok(()));
        tenant.pay(now().mono, 5_000, 0);
        assert_eq!(quota.pay_for(50_000, now()), 0);
        assert!(quota.due().is_some(), "it is held back, and half of the initial credit is paid for");
        tenants.set_limits(&rate(0, 0));
        assert_eq!((quota.pay_for(50_000, now()), quota.due()), (50_000, None), "nothing holds it back");
        assert_eq!(quota.charge(50_000, 50_000, now()), Ok(()));
        tenants.set_limits(&rate(1_000, 0));
        assert_eq!(quota.charge(INITIAL_CREDIT as u64 / 2, 100, now()), Ok(()), "the rest of the credit");
        quota.refund();
        assert!(tenant.available(now().mono, 1) <= 1_000);
        let later = Now::at_ms(20_000, 1_700_000_010_000);
        assert!(quota.pay_for(50, later) > 0, "an operation is not held back for ever");
    }
}
