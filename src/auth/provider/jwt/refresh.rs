//! When the keys are fetched again, and how often at most.
//!
//! A schedule fetches them every [`EVERY`]. A token whose key is unknown has them fetched too, because issuers sign
//! with new keys at once; strangers can invent ids of keys, so that happens at most every [`ON_DEMAND`]. Both have
//! times of their own: nobody can keep the schedule from running.

use std::collections::VecDeque;

use super::keys::KeySet;
use crate::auth::breaker::Breaker;
use crate::auth::question::Denial;
use crate::base::millis::Millis;

/// The time between two fetches of the schedule.
const EVERY: Millis = Millis::from_secs(600);

/// The time after a fetch of the schedule that failed.
const AFTER_FAILURE: Millis = Millis::from_secs(30);

/// The time between two fetches because of unknown keys.
const ON_DEMAND: Millis = Millis::from_secs(30);

/// How long keys serve while they cannot be fetched again.
const STALE_AFTER: Millis = Millis::from_secs(24 * 3_600);

/// How many unknown ids are remembered, and for how long. They cause no further fetch meanwhile. An issuer may publish
/// a key after its first token.
const UNKNOWN_MAX: usize = 128;
const UNKNOWN_FOR: Millis = Millis::from_secs(30);

/// The keys of an issuer, and when to fetch them.
#[derive(Debug)]
pub(in crate::auth) struct Refresh {
    /// `None` until they were fetched. An issuer may publish none.
    keys: Option<KeySet>,
    /// When the keys were fetched.
    fetched: Millis,
    /// When the fetch that is under way began, and its number.
    flight: Option<u64>,
    fetches: u64,
    scheduled: Millis,
    on_demand: Millis,
    /// Each with the time until which it is remembered, in the order of these times.
    unknown: VecDeque<(Millis, Box<str>)>,
    breaker: Breaker,
}

/// What becomes of a token whose key is unknown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::auth) enum Want {
    /// It waits for the fetch that is under way.
    Wait,
    /// It waits for a fetch, which must begin.
    Fetch(u64),
    /// It is refused.
    Refused(Denial),
}

impl Refresh {
    /// Begins without keys. The first fetch is due at once.
    pub(in crate::auth) fn new(now: Millis) -> Self {
        Self {
            keys: None,
            fetched: Millis::ZERO,
            flight: None,
            fetches: 0,
            scheduled: now,
            on_demand: now,
            unknown: VecDeque::new(),
            breaker: Breaker::default(),
        }
    }

    /// Returns the keys, unless they are too old.
    pub(in crate::auth) fn keys(&self, now: Millis) -> Option<&KeySet> {
        self.keys.as_ref().filter(|_| now.since(self.fetched) < STALE_AFTER)
    }

    /// Returns the keys, even if they are too old for newcomers. `None` if they were not fetched yet.
    pub(in crate::auth) fn last_keys(&self) -> Option<&KeySet> {
        self.keys.as_ref()
    }

    /// Has the keys fetched again soon, in another way.
    pub(in crate::auth) fn move_to(&mut self, now: Millis) {
        (self.scheduled, self.on_demand, self.flight) = (now, now, None);
        self.unknown.clear();
        self.breaker = Breaker::default();
    }

    /// Forgets the keys, because they are another issuer's, or from another address.
    pub(in crate::auth) fn forget(&mut self) {
        (self.keys, self.fetched) = (None, Millis::ZERO);
    }

    /// Returns the number of the fetch that the schedule begins now, if it is due.
    pub(in crate::auth) fn due(&mut self, now: Millis) -> Option<u64> {
        if now < self.scheduled || self.flight.is_some() {
            return None;
        }
        self.scheduled = now + EVERY;
        Some(self.begin())
    }

    /// Decides what becomes of a token whose key is unknown.
    pub(in crate::auth) fn want(&mut self, now: Millis, kid: Option<&str>) -> Want {
        if let Some(kid) = kid
            && self.unknown.iter().any(|(until, known)| now < *until && **known == *kid)
        {
            return Want::Refused(Denial::Invalid);
        }
        if self.flight.is_some() {
            return Want::Wait;
        }
        if now < self.on_demand || self.breaker.refuses(now) {
            // The key may be new: who has a token of it may try again.
            return Want::Refused(Denial::Unavailable);
        }
        self.on_demand = now + ON_DEMAND;
        Want::Fetch(self.begin())
    }

    fn begin(&mut self) -> u64 {
        self.fetches += 1;
        self.flight = Some(self.fetches);
        self.fetches
    }

    /// Handles the end of a fetch. Returns whether the keys have changed. `None` if it is not the one under way.
    pub(in crate::auth) fn handle(&mut self, now: Millis, number: u64, keys: Option<KeySet>) -> Option<bool> {
        if self.flight != Some(number) {
            return None;
        }
        self.flight = None;
        self.breaker.count(now, keys.is_some());
        let Some(keys) = keys else {
            self.scheduled = self.scheduled.min(now + AFTER_FAILURE);
            return Some(false);
        };
        self.fetched = now;
        self.unknown.retain(|(_, kid)| !keys.knows(kid));
        let is_changed = self.keys.as_ref() != Some(&keys);
        self.keys = Some(keys);
        Some(is_changed)
    }

    /// Remembers that a fetch did not find a key.
    pub(in crate::auth) fn remember_unknown(&mut self, now: Millis, kid: Box<str>) {
        self.unknown.retain(|(_, known)| *known != kid);
        if self.unknown.len() == UNKNOWN_MAX {
            self.unknown.pop_front();
        }
        self.unknown.push_back((now + UNKNOWN_FOR, kid));
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::Issuer;
    use super::*;

    fn at(secs: u32) -> Millis {
        Millis::from_secs(100_000 + secs)
    }

    #[test]
    fn unknown_keys_cause_one_fetch_in_thirty_seconds_and_the_schedule_runs_beside() {
        let mut refresh = Refresh::new(at(0));
        let keys = Issuer::es256("a").keys();
        let first = refresh.due(at(0)).unwrap();
        assert_eq!(refresh.want(at(0), Some("b")), Want::Wait);
        assert_eq!(refresh.handle(at(0), first, Some(keys.clone())), Some(true));
        let Want::Fetch(second) = refresh.want(at(1), Some("b")) else { panic!() };
        assert_eq!(refresh.handle(at(1), second, Some(keys.clone())), Some(false));
        refresh.remember_unknown(at(1), "b".into());
        assert_eq!(refresh.want(at(2), Some("b")), Want::Refused(Denial::Invalid));
        for second in 2..31 {
            assert_eq!(refresh.want(at(second), Some("c")), Want::Refused(Denial::Unavailable));
        }
        assert!(matches!(refresh.want(at(31), Some("c")), Want::Fetch(3)));
        assert_eq!(refresh.due(at(600)), None, "one is under way");
        refresh.handle(at(600), 3, None);
        assert_eq!(refresh.due(at(600)), Some(4));
    }

    #[test]
    fn a_key_that_is_published_after_its_first_token_is_found_after_thirty_seconds() {
        let mut refresh = Refresh::new(at(0));
        let first = refresh.due(at(0)).unwrap();
        refresh.handle(at(0), first, Some(Issuer::es256("a").keys()));
        let Want::Fetch(second) = refresh.want(at(1), Some("b")) else { panic!() };
        refresh.handle(at(2), second, Some(Issuer::es256("a").keys()));
        refresh.remember_unknown(at(2), "b".into());
        assert_eq!(refresh.want(at(31), Some("b")), Want::Refused(Denial::Invalid));
        assert!(matches!(refresh.want(at(32), Some("b")), Want::Fetch(_)));
    }

    #[test]
    fn keys_serve_for_a_day_without_a_fetch() {
        let mut refresh = Refresh::new(at(0));
        let number = refresh.due(at(0)).unwrap();
        refresh.handle(at(0), number, Some(Issuer::es256("a").keys()));
        let number = refresh.due(at(600)).unwrap();
        assert_eq!(refresh.handle(at(600), number, None), Some(false));
        assert_eq!(refresh.due(at(629)), None);
        assert!(refresh.due(at(630)).is_some(), "sooner after a failure");
        assert!(!refresh.keys(at(24 * 3_600 - 1)).unwrap().is_empty());
        assert!(refresh.keys(at(24 * 3_600)).is_none());
    }

    #[test]
    fn at_most_so_many_unknown_keys_are_remembered() {
        let mut refresh = Refresh::new(at(0));
        (0..1_000).for_each(|kid| refresh.remember_unknown(at(0), kid.to_string().into()));
        assert_eq!(refresh.unknown.len(), UNKNOWN_MAX);
    }
}
