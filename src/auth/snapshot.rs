//! What the judge has done so far, for metrics.

use std::collections::BTreeMap;
use std::time::Duration;

use super::question::Denial;
use super::settings::ProviderKind;

/// What the judge has done since the start, and what it knows now.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Snapshot {
    /// Verdicts on questions, by the provider that gave them, if one did, and by the reason of a refusal. `None` as
    /// the reason: granted.
    pub verdicts: BTreeMap<(Option<ProviderKind>, Option<Denial>), u64>,
    /// Questions that a grant in use answered, without asking a provider.
    pub known: u64,
    /// Requests over the network, by provider: lookups of Keystone, fetches of keys.
    pub requests: BTreeMap<ProviderKind, Requests>,
    /// Grants that changed or ended because of a reload, other keys, or a recheck.
    pub changed: u64,
    /// Questions that wait for an answer over the network.
    pub waiting: usize,
    /// Grants in use.
    pub grants: usize,
    /// Grants in use that end within five minutes.
    pub expiring: usize,
    /// Addresses that must wait because too many of their attempts failed.
    pub throttled: usize,
    /// Reloads that succeeded.
    pub reloads: u64,
    /// Reloads that failed, so that the server kept what it had.
    pub reload_failures: u64,
}

/// Requests to one provider.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Requests {
    /// Requests that were answered, even if the answer was a refusal.
    pub answered: u64,
    /// Requests without an answer.
    pub failed: u64,
    /// How long all of them took together.
    pub took: Duration,
}

impl Requests {
    pub(super) fn count(&mut self, is_answer: bool, took: Duration) {
        if is_answer {
            self.answered += 1;
        } else {
            self.failed += 1;
        }
        self.took += took;
    }
}
