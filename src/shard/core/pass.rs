//! The pass of a connection: its grant, when that ends, and its renewal.
//!
//! A grant ends when the time that it had left at admission has passed by the monotonic clock. So a jump of the
//! system's clock neither prolongs nor shortens it.

use std::sync::Arc;

use crate::access::Grant;
use crate::auth::Key;
use crate::base::clock::Now;
use crate::base::error::PeerFault;
use crate::base::millis::Millis;
use crate::operation::{Granted, OperationId};

/// How long before its end a client is told, at most. A grant of a shorter life: a fifth of that.
const NOTICE_MAX: Millis = Millis::new(60_000);
/// The part of its life that a grant has left when the client is told.
const NOTICE_PART: u64 = 5;
/// How long a renewal may take, also beyond the end of the grant.
const RENEWAL_MAX: Millis = Millis::new(10_000);

/// Why a grant has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ended {
    /// Its time is over.
    Expired,
    /// The credential was revoked or removed.
    Revoked,
    /// The provider could not be asked again for too long.
    Unverified,
}

impl Ended {
    /// Returns the reason with which operations and the connection end.
    pub(super) fn reason(self) -> &'static str {
        match self {
            Self::Expired => "token expired",
            Self::Revoked => "token revoked",
            Self::Unverified => "token not verified",
        }
    }
}

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
    /// Whether the end was told.
    is_over: bool,
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
        Self { grant, key, ends, notice, renewal: None, is_over: false }
    }

    /// Returns whether the grant has an end, or had one.
    pub(super) fn has_end(&self) -> bool {
        self.grant.expires.is_some()
    }

    /// Returns whether the grant has ended.
    pub(super) fn has_ended(&self, now: Millis) -> bool {
        self.ends.is_some_and(|ends| ends <= now)
    }

    /// Returns the grant, and when it ends, for the front.
    pub(super) fn granted(&self) -> Granted {
        Granted { grant: Arc::clone(&self.grant), ends: self.ends }
    }

    /// Continues with another grant of the same credential. A renewal in progress goes on.
    pub(super) fn change(&mut self, grant: Arc<Grant>, now: Now) {
        if grant.expires == self.grant.expires {
            self.grant = grant;
        } else {
            *self = Self { renewal: self.renewal, ..Self::new(grant, self.key, now) };
        }
    }

    /// Begins a renewal. Only one is in progress at a time, and none begins after the end of the grant: otherwise
    /// one after another would put the end off.
    pub(super) fn begin_renewal(
        &mut self,
        operation: OperationId,
        key: Key,
        now: Millis,
    ) -> Result<(), PeerFault> {
        if self.has_ended(now) {
            return Err(PeerFault::Unauthenticated(Ended::Expired.reason()));
        }
        if self.renewal.is_some() {
            return Err(PeerFault::TooOften("token: a renewal is in progress"));
        }
        self.renewal = Some(Renewal { operation, key, until: now + RENEWAL_MAX });
        Ok(())
    }

    /// Ends a renewal that has no verdict in time. Returns the operation that asked for it, and its key.
    pub(super) fn take_late(&mut self, now: Millis) -> Option<(OperationId, Key)> {
        let late = self.renewal.take_if(|renewal| renewal.until <= now)?;
        Some((late.operation, late.key))
    }

    /// Ends the renewal that waits for the verdict on a key. Returns the operation that asked for it.
    pub(super) fn take_renewal(&mut self, key: &Key) -> Option<OperationId> {
        self.renewal.take_if(|renewal| renewal.key == *key).map(|renewal| renewal.operation)
    }

    /// Returns what is due, once.
    pub(super) fn take_due(&mut self, now: Millis) -> Due {
        // A renewal that was read before the end of the grant is waited for, and its answer is the news.
        if self.renewal.is_some() || self.is_over {
            return Due::Nothing;
        }
        if self.has_ended(now) {
            self.is_over = true;
            return Due::Over;
        }
        if self.notice.take_if(|notice| *notice <= now).is_some() {
            return Due::Notice;
        }
        Due::Nothing
    }

    /// Returns when [`Self::take_due`] has something to return.
    pub(super) fn next_due(&self) -> Option<Millis> {
        if self.is_over {
            return None;
        }
        match self.renewal {
            Some(renewal) => Some(renewal.until),
            None => [self.notice, self.ends].into_iter().flatten().min(),
        }
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
        assert!(pass.begin_renewal(OperationId(3), key("b"), at(99)).is_ok());
        assert!(pass.begin_renewal(OperationId(3), key("c"), at(99)).is_err(), "one at a time");
        assert_eq!((pass.take_due(at(101)), pass.next_due()), (Due::Nothing, Some(at(109))));
        assert_eq!(pass.take_renewal(&key("c")), None, "another verdict");
        assert_eq!(pass.take_renewal(&key("b")), Some(OperationId(3)));
        assert_eq!(pass.take_due(at(101)), Due::Over, "a refused renewal does not prolong the grant");
    }

    #[test]
    fn a_renewal_without_a_verdict_ends() {
        let mut pass = pass(Some(100));
        pass.take_due(at(80));
        pass.begin_renewal(OperationId(3), key("b"), at(99)).unwrap();
        assert_eq!(pass.take_late(at(108)), None);
        assert_eq!(pass.take_late(at(109)), Some((OperationId(3), key("b"))));
        assert_eq!(pass.take_due(at(109)), Due::Over);
    }

    #[test]
    fn no_renewal_begins_after_the_end() {
        let mut pass = pass(Some(100));
        assert!(pass.begin_renewal(OperationId(3), key("b"), at(99)).is_ok());
        assert_eq!(pass.take_renewal(&key("b")), Some(OperationId(3)));
        assert!(pass.begin_renewal(OperationId(3), key("c"), at(100)).is_err());
        assert_eq!(pass.take_due(at(100)), Due::Over);
    }

    #[test]
    fn other_rules_leave_a_renewal_and_the_end_as_they_are() {
        let mut pass = pass(Some(100));
        pass.begin_renewal(OperationId(3), key("b"), at(50)).unwrap();
        pass.change(
            Arc::new(Grant { rules: [].into(), ..(*pass.grant).clone() }),
            Now::at_ms(60_000, 1_700_000_059_000),
        );
        assert_eq!(pass.take_renewal(&key("b")), Some(OperationId(3)));
        assert_eq!(pass.next_due(), Some(at(80)));
    }

    #[test]
    fn a_grant_that_has_ended_already_is_over_at_once() {
        let mut pass = pass(Some(0));
        assert_eq!(pass.take_due(at(0)), Due::Over);
    }
}
