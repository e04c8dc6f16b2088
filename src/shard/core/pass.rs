//! The pass of a connection: its grant, when that ends, and its renewal.
//!
//! A grant ends when the time that it had left at admission has passed by the monotonic clock. So a jump of the
//! system's clock neither prolongs nor shortens it.

use std::sync::Arc;

use crate::access::Grant;
use crate::auth::Key;
use crate::base::clock::Now;
use crate::base::millis::Millis;
use crate::operation::OperationId;

/// How long before its end a client is told, at most. A grant of a shorter life: a fifth of that.
const NOTICE_MAX: Millis = Millis::new(60_000);
/// The part of its life that a grant has left when the client is told.
const NOTICE_PART: u64 = 5;
/// How long a renewal may take, also beyond the end of the grant.
const RENEWAL_MAX: Millis = Millis::new(10_000);

/// The pass of a connection.
#[derive(Debug)]
pub(super) struct Pass {
    pub(super) grant: Arc<Grant>,
    /// The key of the credential.
    pub(super) key: Key,
    /// When the grant ends.
    ends: Option<Millis>,
    /// When to tell the client that the grant ends soon. `None` once it is told.
    notice: Option<Millis>,
    /// The renewal in progress.
    renewal: Option<Renewal>,
}

/// A renewal that waits for its verdict.
#[derive(Clone, Copy, Debug)]
struct Renewal {
    operation: OperationId,
    key: Key,
    until: Millis,
}

/// What to do about a pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Due {
    Nothing,
    /// Tell the client that its grant ends soon.
    Notice,
    /// The renewal has no verdict in time.
    Renewal(OperationId),
    /// The grant has ended.
    Over,
}

/// Returns when a grant ends by the monotonic clock.
pub(super) fn ends(grant: &Grant, now: Now) -> Option<Millis> {
    grant.expires.map(|expires| now.mono + Millis::new(expires.get().saturating_sub(now.unix.get())))
}

impl Pass {
    pub(super) fn new(grant: Arc<Grant>, key: Key, now: Now) -> Self {
        let ends = ends(&grant, now);
        let notice = ends.map(|ends| {
            let left = ends.since(now.mono);
            now.mono + left.since(NOTICE_MAX.min(Millis::new(left.get() / NOTICE_PART)))
        });
        Self { grant, key, ends, notice, renewal: None }
    }

    /// Returns whether the grant has an end, or had one.
    pub(super) fn has_end(&self) -> bool {
        self.grant.expires.is_some()
    }

    /// Begins a renewal. Returns false if there is one already.
    pub(super) fn begin_renewal(&mut self, operation: OperationId, key: Key, now: Millis) -> bool {
        if self.renewal.is_some() {
            return false;
        }
        self.renewal = Some(Renewal { operation, key, until: now + RENEWAL_MAX });
        true
    }

    /// Ends the renewal that waits for the verdict on a key. Returns the operation that asked for it.
    pub(super) fn take_renewal(&mut self, key: &Key) -> Option<OperationId> {
        self.renewal.take_if(|renewal| renewal.key == *key).map(|renewal| renewal.operation)
    }

    /// Returns what is due, once.
    pub(super) fn take_due(&mut self, now: Millis) -> Due {
        if let Some(renewal) = self.renewal.take_if(|renewal| renewal.until <= now) {
            return Due::Renewal(renewal.operation);
        }
        if self.renewal.is_none() && self.ends.is_some_and(|ends| ends <= now) {
            self.ends = None;
            return Due::Over;
        }
        if self.notice.take_if(|notice| *notice <= now).is_some() {
            return Due::Notice;
        }
        Due::Nothing
    }

    /// Returns when [`Self::take_due`] has something to return.
    pub(super) fn next_due(&self) -> Option<Millis> {
        // A renewal that was read before the end of the grant is waited for.
        let end = self.renewal.map(|renewal| renewal.until).or(self.ends);
        [self.notice, end].into_iter().flatten().min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::access::Projects;
    use crate::auth::{Credential, Keyer};
    use crate::base::millis::UnixMillis;
    use crate::base::secret::Secret;

    fn key(name: &str) -> Key {
        Keyer::fixed().key(&Credential::Token(Secret::new(name)))
    }

    fn pass(seconds: Option<u64>) -> Pass {
        let now = Now::at_ms(1_000, 1_700_000_000_000);
        let expires = seconds.map(|seconds| UnixMillis::new(now.unix.get() + seconds * 1_000));
        let grant = Grant { principal: "p".into(), projects: Projects::Any, rules: [].into(), expires };
        Pass::new(Arc::new(grant), key("a"), now)
    }

    fn at(seconds: u64) -> Millis {
        Millis::new((seconds + 1) * 1_000)
    }

    #[test]
    fn a_client_is_told_once_before_its_grant_ends() {
        for (life, notice) in [(100, 80), (3_600, 3_540), (5, 4)] {
            let mut pass = pass(Some(life));
            assert_eq!(pass.next_due(), Some(at(notice)), "a life of {life} s");
            assert_eq!(pass.take_due(at(notice - 1)), Due::Nothing);
            assert_eq!(pass.take_due(at(notice)), Due::Notice);
            assert_eq!((pass.take_due(at(notice)), pass.next_due()), (Due::Nothing, Some(at(life))));
            assert_eq!(pass.take_due(at(life)), Due::Over);
            assert_eq!((pass.take_due(at(life)), pass.next_due()), (Due::Nothing, None));
        }
    }

    #[test]
    fn a_grant_without_an_end_is_never_over() {
        let mut pass = pass(None);
        assert_eq!((pass.next_due(), pass.take_due(at(1 << 30))), (None, Due::Nothing));
    }

    #[test]
    fn a_renewal_is_waited_for_beyond_the_end() {
        let mut pass = pass(Some(100));
        pass.take_due(at(80));
        assert!(pass.begin_renewal(OperationId(3), key("b"), at(99)));
        assert!(!pass.begin_renewal(OperationId(3), key("c"), at(99)), "one at a time");
        assert_eq!((pass.take_due(at(101)), pass.next_due()), (Due::Nothing, Some(at(109))));
        assert_eq!(pass.take_renewal(&key("c")), None, "another verdict");
        assert_eq!(pass.take_renewal(&key("b")), Some(OperationId(3)));
        assert_eq!(pass.take_due(at(101)), Due::Over, "a refused renewal does not prolong the grant");
    }

    #[test]
    fn a_renewal_without_a_verdict_ends() {
        let mut pass = pass(Some(100));
        pass.take_due(at(80));
        pass.begin_renewal(OperationId(3), key("b"), at(99));
        assert_eq!(pass.take_due(at(109)), Due::Renewal(OperationId(3)));
        assert_eq!(pass.take_due(at(109)), Due::Over);
    }

    #[test]
    fn a_grant_that_has_ended_already_is_over_at_once() {
        let mut pass = pass(Some(0));
        assert_eq!(pass.take_due(at(0)), Due::Over);
    }
}
