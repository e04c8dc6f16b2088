//! The grants that shards use, and what each rests on.

use std::collections::{BTreeSet, HashMap, VecDeque, hash_map};
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
    /// Grants before it that a shard may still use.
    earlier: Vec<Weak<Grant>>,
    kind: ProviderKind,
    evidence: Evidence,
    recheck: Option<Millis>,
    /// Since when there is no answer about it.
    unanswered: Option<Millis>,
    /// Whether the shards were told that it has expired. They end it by their own clocks, so it stays in mind.
    has_expired: bool,
}

impl Entry {
    /// Replaces the grant. An equal one that a shard still uses is taken again: the shard keeps that, and not one which
    /// equals it.
    fn replace(&mut self, grant: Grant) -> Arc<Grant> {
        self.earlier.push(std::mem::take(&mut self.grant));
        self.earlier.retain(|one| one.strong_count() > 0);
        let equal = self.earlier.iter().filter_map(Weak::upgrade).find(|one| **one == grant);
        let grant = equal.unwrap_or_else(|| Arc::new(grant));
        self.grant = Arc::downgrade(&grant);
        grant
    }

    fn is_used(&self) -> bool {
        self.grant.strong_count() > 0 || self.earlier.iter().any(|one| one.strong_count() > 0)
    }
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
        let (before, earlier) = self.take(&key).map(|entry| (entry.grant, entry.earlier)).unwrap_or_default();
        let is_changed = before.upgrade().is_some_and(|before| *before != grant);
        let mut entry =
            Entry { grant: before, earlier, kind, evidence, recheck, unanswered: None, has_expired: false };
        let grant = entry.replace(grant);
        self.rechecks.extend(recheck.map(|at| (at, key)));
        self.entries.insert(key, entry);
        self.ended.forget(&key);
        (grant, is_changed)
    }

    /// Ends a grant. Returns whether it was in use.
    pub(super) fn end(&mut self, key: &Key) -> bool {
        let Some(entry) = self.take(key) else { return false };
        self.ended.remember(*key);
        entry.is_used()
    }

    /// Notes that a grant has expired, and keeps it in mind. Returns whether it is in use and the shards do not know.
    pub(super) fn expire(&mut self, key: &Key) -> bool {
        let Some(entry) = self.entries.get_mut(key) else { return false };
        self.ended.remember(*key);
        entry.is_used() && !std::mem::replace(&mut entry.has_expired, true)
    }

    /// Returns whether a grant ends at this time or before.
    pub(super) fn ends_by(&self, now: UnixMillis, key: &Key) -> bool {
        let grant = self.entries.get(key).and_then(|entry| entry.grant.upgrade());
        grant.is_some_and(|grant| grant.expires.is_some_and(|expires| expires <= now))
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
                Ok(grant) if grant == *before => entry.has_expired = false,
                // The credential is another client's now. The operations of the one before are not its.
                Ok(grant) if grant.principal != before.principal => {
                    ended.push(*key);
                    changes.push((*key, Err(Denial::Revoked)));
                }
                Ok(grant) => {
                    entry.has_expired = false;
                    changes.push((*key, Ok(entry.replace(grant))));
                }
                Err(Denial::Expired) => {
                    if !std::mem::replace(&mut entry.has_expired, true) {
                        changes.push((*key, Err(Denial::Expired)));
                    }
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
            if entry.is_used() {
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

    /// Forgets grants that nobody uses. Returns how many there are, and how many end from now on until `soon`.
    pub(super) fn sweep(&mut self, now: UnixMillis, soon: UnixMillis) -> (usize, usize) {
        let dropped: Vec<Key> =
            self.entries.iter().filter(|(_, entry)| !entry.is_used()).map(|(key, _)| *key).collect();
        for key in &dropped {
            self.end(key);
        }
        let ends_soon = |entry: &&Entry| {
            let expires = entry.grant.upgrade().and_then(|grant| grant.expires);
            expires.is_some_and(|expires| now <= expires && expires < soon)
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
        if let hash_map::Entry::Vacant(vacant) = self.refused.entry(key) {
            vacant.insert(false);
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
