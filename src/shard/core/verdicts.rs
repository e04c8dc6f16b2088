//! The verdicts that a shard remembers.

use std::sync::Arc;

use super::pass;
use super::remembered::Remembered;
use crate::access::Grant;
use crate::auth::{Credential, Denial, Key, Keyer, Verdict};
use crate::base::clock::Now;
use crate::base::millis::Millis;

/// The most grants that a shard remembers, and for how long. About 400 bytes each.
const GRANTS_MAX: usize = 4_096;
const GRANT_LIFE: Millis = Millis::new(300_000);
/// The most refused credentials that a shard remembers, and for how long. About 100 bytes each.
const DENIALS_MAX: usize = 1_024;
const DENIAL_LIFE: Millis = Millis::new(10_000);
/// How long after its end a verdict is let go at the latest. Until then, the judge counts its grant as in use.
const PURGE_EVERY: Millis = Millis::new(10_000);

/// The verdicts that a shard remembers, by the key of the credential.
#[derive(Debug)]
pub(super) struct Verdicts {
    keyer: Keyer,
    grants: Remembered<Arc<Grant>>,
    denials: Remembered<Denial>,
    /// When to let go of those that have ended. `None` if there are none.
    purge_due: Option<Millis>,
}

impl Verdicts {
    pub(super) fn new(keyer: Keyer) -> Self {
        Self {
            keyer,
            grants: Remembered::new(GRANTS_MAX),
            denials: Remembered::new(DENIALS_MAX),
            purge_due: None,
        }
    }

    /// Returns the key of a credential.
    pub(super) fn key(&self, credential: &Credential) -> Key {
        self.keyer.key(credential)
    }

    /// Returns the remembered verdict on a credential.
    pub(super) fn get(&self, key: &Key, now: Millis) -> Option<Verdict> {
        let granted = self.grants.get(key, now).cloned().map(Ok);
        granted.or_else(|| self.denials.get(key, now).copied().map(Err))
    }

    /// Remembers a verdict. Trouble of a provider or of an address is not the credential's.
    pub(super) fn remember(&mut self, now: Now, key: Key, verdict: &Verdict) {
        match verdict {
            Ok(grant) => {
                let until = now.mono + GRANT_LIFE;
                let until = pass::ends(grant, now).map_or(until, |ends| ends.min(until));
                self.denials.remove(&key);
                self.grants.insert(key, Arc::clone(grant), until);
            }
            Err(Denial::Unavailable | Denial::Throttled) => return,
            Err(denial) => {
                self.grants.remove(&key);
                self.denials.insert(key, *denial, now.mono + DENIAL_LIFE);
            }
        }
        self.purge_due.get_or_insert(now.mono + PURGE_EVERY);
    }

    /// Replaces what is remembered by a new verdict. A grant lasts no longer than the one before.
    pub(super) fn change(&mut self, now: Now, key: Key, verdict: &Verdict) {
        match verdict {
            Ok(grant) => self.grants.replace(&key, Arc::clone(grant), pass::ends(grant, now)),
            Err(_) => {
                self.grants.remove(&key);
                self.remember(now, key, verdict);
            }
        }
    }

    /// Forgets all denials: what was refused may be granted by now.
    pub(super) fn forget_denials(&mut self) {
        self.denials = Remembered::new(DENIALS_MAX);
    }

    /// Lets go of what has ended, if it is time.
    pub(super) fn purge(&mut self, now: Millis) {
        if self.purge_due.is_none_or(|due| now < due) {
            return;
        }
        self.grants.purge(now);
        self.denials.purge(now);
        let is_empty = self.grants.is_empty() && self.denials.is_empty();
        self.purge_due = (!is_empty).then(|| now + PURGE_EVERY);
    }

    /// Returns when to call [`Self::purge`].
    pub(super) fn purge_due(&self) -> Option<Millis> {
        self.purge_due
    }
}
