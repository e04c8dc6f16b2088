//! What a produce operation has paid for of its project's rates.
//!
//! Credit is a promise, so it is paid for when it is given: messages by number, bytes by what this operation's messages had on
//! average. What came differs; the difference is paid or given back when it comes, and what was promised and never used is given
//! back at the end. The initial credit of the protocol is given by nobody: it is paid for as it comes, or refused.

use super::context::Cx;
use crate::clock::Now;
use crate::tenant::Tenant;

/// What a message is taken to have before the first has come, bytes.
const FIRST_GUESS_BYTES: u64 = 256;

/// How often an operation that the rates hold back looks for more, milliseconds.
const LOOK_EVERY_MS: u64 = 20;

/// See the module's page. Invariant: `messages` and `bytes` are paid for and not used.
#[derive(Debug, Default)]
pub(super) struct Quota {
    /// Whether the project has rates at all.
    is_limited: bool,
    messages: u64,
    bytes: u64,
    /// Of all that came.
    came: u64,
    came_bytes: u64,
    /// Less was given than was asked for; when to ask again.
    due_ms: Option<u64>,
}

impl Quota {
    /// Nothing paid for.
    pub(super) fn new(cx: &Cx<'_>) -> Self {
        Self { is_limited: cx.tenant.is_some_and(|tenant| tenant.has_rates()), ..Self::default() }
    }

    fn average_bytes(&self) -> u64 {
        if self.came == 0 { FIRST_GUESS_BYTES } else { self.came_bytes.div_ceil(self.came) }
    }

    /// How many of `wanted` messages can be promised; pays for them.
    pub(super) fn pay_for(&mut self, wanted: u64, cx: &Cx<'_>) -> u64 {
        let Some(tenant) = cx.tenant.filter(|_| self.is_limited) else { return wanted };
        let bytes = self.average_bytes();
        let count = wanted.min(tenant.available(cx.now.mono_ms, bytes));
        if count > 0 {
            tenant.pay(cx.now.mono_ms, count, count * bytes);
            self.messages += count;
            self.bytes += count * bytes;
        }
        self.due_ms = (count < wanted).then_some(cx.now.mono_ms + LOOK_EVERY_MS);
        count
    }

    /// Messages came. False where the project has nothing left for them.
    pub(super) fn charge(&mut self, tenant: &Tenant, messages: u64, bytes: u64, now: Now) -> bool {
        self.came += messages;
        self.came_bytes += bytes;
        let paid = messages.min(self.messages);
        // Their share of what was paid; rounded down, so that the last takes the rest.
        let paid_bytes = if self.messages == 0 {
            0
        } else {
            (u128::from(self.bytes) * u128::from(paid) / u128::from(self.messages)) as u64
        };
        self.messages -= paid;
        self.bytes -= paid_bytes;
        let (unpaid, unpaid_bytes) = (messages - paid, bytes.saturating_sub(paid_bytes));
        tenant.refund(0, paid_bytes.saturating_sub(bytes));
        if unpaid > tenant.messages_left(now.mono_ms) || (unpaid_bytes > 0 && tenant.owes_bytes(now.mono_ms))
        {
            tenant.refund(paid, paid_bytes.min(bytes));
            return false;
        }
        tenant.pay(now.mono_ms, unpaid, unpaid_bytes);
        true
    }

    /// Gives back what was not used.
    pub(super) fn refund(&mut self, cx: &Cx<'_>) {
        if let Some(tenant) = cx.tenant.filter(|_| self.is_limited) {
            tenant.refund(std::mem::take(&mut self.messages), std::mem::take(&mut self.bytes));
        }
    }

    /// It is time to look, or was.
    pub(super) fn handle_timeout(&mut self, now: Now) {
        self.due_ms = self.due_ms.map(|due| due.max(now.mono_ms + LOOK_EVERY_MS));
    }

    /// When more may be given.
    pub(super) fn due_ms(&self) -> Option<u64> {
        self.due_ms
    }
}
