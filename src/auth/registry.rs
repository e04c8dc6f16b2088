//! The grants that shards use, and what each rests on.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::sync::{Arc, Weak};

use super::credential::Key;
use super::provider::Evidence;
use super::question::{Denial, Verdict};
use super::settings::ProviderKind;
use crate::access::Grant;
use crate::base::millis::{Millis, UnixMillis};
use crate::base::secret::Secret;

/// How many ended keys are remembered. 16,384 take 1 MiB.
const ENDED_MAX: usize = 16_384;

/// The grants in use, by the key of their credentials. It does not keep them: who drops the last use ends it.
#[derive(Debug, Default)]
pub(super) struct Registry {
    entries: HashMap<Key, Entry>,
    /// When which token is checked again.
    rechecks: BTreeSet<(Millis, Key)>,
    ended: Ended,
}

#[derive(Debug)]
struct Entry {
    grant: Weak<Grant>,
    kind: ProviderKind,
    evidence: Evidence,
    recheck: Option<Millis>,
    /// Since when there is no answer about it.
    unanswered: Option<Millis>,
}

impl Registry {
    /// Returns the grant of a key, if it is in use and has not expired.
    pub(super) fn live(&self, now: UnixMillis, key: &Key) -> Option<(ProviderKind, Arc<Grant>)> {
        let entry = self.entries.get(key)?;
        let grant = entry.grant.upgrade()?;
        grant.expires.is_none_or(|expires| now < expires).then_some((entry.kind, grant))
    }

    /// Keeps a grant in mind. Returns it, or the equal one that is in use; and whether it replaces another in use.
    pub(super) fn insert(
        &mut self,
        key: Key,
        kind: ProviderKind,
        grant: Grant,
        evidence: Evidence,
        recheck: Option<Millis>,
    ) -> (Arc<Grant>, bool) {
        let before = self.take(&key).and_then(|entry| entry.grant.upgrade());
        let is_changed = before.as_ref().is_some_and(|before| **before != grant);
        let grant = before.filter(|_| !is_changed).unwrap_or_else(|| Arc::new(grant));
        let entry = Entry { grant: Arc::downgrade(&grant), kind, evidence, recheck, unanswered: None };
        self.rechecks.extend(recheck.map(|at| (at, key)));
        self.entries.insert(key, entry);
        self.ended.forget(&key);
        (grant, is_changed)
    }

    /// Ends a grant. Returns it if it was in use.
    pub(super) fn end(&mut self, key: &Key) -> Option<Arc<Grant>> {
        let entry = self.take(key)?;
        self.ended.remember(*key);
        entry.grant.upgrade()
    }

    fn take(&mut self, key: &Key) -> Option<Entry> {
        let entry = self.entries.remove(key)?;
        if let Some(at) = entry.recheck {
            self.rechecks.remove(&(at, *key));
        }
        Some(entry)
    }

    /// Judges every grant in use again. Returns what has changed.
    pub(super) fn rejudge(
        &mut self,
        mut judge: impl FnMut(&Evidence) -> Result<Grant, Denial>,
    ) -> Vec<(Key, Verdict)> {
        let mut changes = Vec::new();
        let mut ended = Vec::new();
        for (key, entry) in &mut self.entries {
            let Some(before) = entry.grant.upgrade() else { continue };
            match judge(&entry.evidence) {
                Ok(grant) if grant == *before => {}
                Ok(grant) => {
                    let grant = Arc::new(grant);
                    entry.grant = Arc::downgrade(&grant);
                    changes.push((*key, Ok(grant)));
                }
                Err(denial) => {
                    ended.push(*key);
                    changes.push((*key, Err(denial)));
                }
            }
        }
        for key in &ended {
            self.end(key);
        }
        changes
    }

    /// Returns the token of Keystone of a grant that is kept in mind.
    pub(super) fn token(&self, key: &Key) -> Option<Secret> {
        match &self.entries.get(key)?.evidence {
            Evidence::Keystone(token, _) => Some(token.clone()),
            _ => None,
        }
    }

    /// Returns a token that must be checked again now, and takes it off the schedule.
    pub(super) fn due(&mut self, now: Millis) -> Option<(Key, Evidence)> {
        while let Some((at, key)) = self.rechecks.first().copied()
            && at <= now
        {
            self.rechecks.pop_first();
            let Some(entry) = self.entries.get_mut(&key) else { continue };
            entry.recheck = None;
            if entry.grant.strong_count() > 0 {
                return Some((key, entry.evidence.clone()));
            }
            self.end(&key);
        }
        None
    }

    /// Has a token that could not be checked again tried later, at most `grace` after the first attempt. Returns false
    /// if that is over.
    pub(super) fn postpone(&mut self, now: Millis, key: Key, pause: Millis, grace: Millis) -> bool {
        let Some(entry) = self.entries.get_mut(&key) else { return true };
        let ends = *entry.unanswered.get_or_insert(now) + grace;
        if ends <= now {
            return false;
        }
        self.schedule(key, (now + pause).min(ends));
        true
    }

    /// Has every token of Keystone checked again now, even if a check of it is under way.
    pub(super) fn recheck_all(&mut self, now: Millis) {
        let is_rechecked = |entry: &Entry| matches!(entry.evidence, Evidence::Keystone(..));
        let keys: Vec<Key> =
            self.entries.iter().filter(|(_, entry)| is_rechecked(entry)).map(|(key, _)| *key).collect();
        keys.into_iter().for_each(|key| self.schedule(key, now));
    }

    fn schedule(&mut self, key: Key, at: Millis) {
        let Some(entry) = self.entries.get_mut(&key) else { return };
        if let Some(before) = entry.recheck.replace(at) {
            self.rechecks.remove(&(before, key));
        }
        self.rechecks.insert((at, key));
    }

    /// Forgets grants that nobody uses. Returns how many there are, and how many end before `soon`.
    pub(super) fn sweep(&mut self, soon: UnixMillis) -> (usize, usize) {
        let dropped: Vec<Key> = self
            .entries
            .iter()
            .filter(|(_, entry)| entry.grant.strong_count() == 0)
            .map(|(key, _)| *key)
            .collect();
        for key in &dropped {
            self.end(key);
        }
        let ends_soon = |entry: &&Entry| {
            entry.grant.upgrade().is_some_and(|grant| grant.expires.is_some_and(|expires| expires < soon))
        };
        (self.entries.len(), self.entries.values().filter(ends_soon).count())
    }

    /// Returns whether a refused credential was good before, and was refused since.
    pub(super) fn was_refused_before(&mut self, key: &Key) -> bool {
        self.ended.refuse(key)
    }
}

/// Keys whose grants have ended, with whether they were refused since.
#[derive(Debug, Default)]
struct Ended {
    refused: HashMap<Key, bool>,
    /// From the oldest. A key that was forgotten meanwhile stays until its turn.
    order: VecDeque<Key>,
}

impl Ended {
    fn remember(&mut self, key: Key) {
        if self.refused.insert(key, false).is_none() {
            self.order.push_back(key);
        }
        while self.order.len() > ENDED_MAX
            && let Some(oldest) = self.order.pop_front()
        {
            self.refused.remove(&oldest);
        }
    }

    fn forget(&mut self, key: &Key) {
        self.refused.remove(key);
    }

    fn refuse(&mut self, key: &Key) -> bool {
        self.refused.get_mut(key).is_some_and(|refused| std::mem::replace(refused, true))
    }
}
