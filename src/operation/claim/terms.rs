//! What a worker wishes for its leases.

use super::request::within;
use crate::base::claim::{Leaving, Settle, Terms};
use crate::base::error::PeerFault;
use crate::base::millis::Millis;
use crate::base::names::ClientId;
use crate::operation::Settings;

/// The ttl and the grace of leases, in seconds, if the client names none.
const TTL_SECS: u32 = 300;
const GRACE_SECS: u32 = 60;

/// The wishes of a client at setup, checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClaimTerms {
    ttl_secs: u32,
    grace_secs: u32,
    releases_on_disconnect: bool,
}

/// How an operation ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClaimEnd {
    /// The client has ended its half: what it has not settled is given back.
    Finished,
    /// In any other way: leases last until they end, or are released if the client wants that.
    Broken,
}

impl ClaimTerms {
    /// Checks the wishes of a client: the ttl and the grace in seconds, and whether its claims are released if its
    /// operation ends in another way than by its FIN.
    pub fn check(
        ttl: Option<u32>,
        grace: Option<u32>,
        releases_on_disconnect: bool,
        settings: &Settings,
    ) -> Result<Self, PeerFault> {
        let range = settings.claim_ttl_secs();
        let ttl_secs = within("ttl", ttl.unwrap_or(TTL_SECS.clamp(range.0, range.1)), range)?;
        let grace_secs = within("grace", grace.unwrap_or(GRACE_SECS.min(range.1)), (0, range.1))?;
        Ok(Self { ttl_secs, grace_secs, releases_on_disconnect })
    }

    /// Returns how long a lease lasts if it is renewed without a ttl, in seconds.
    pub(super) fn ttl_secs(&self) -> u32 {
        self.ttl_secs
    }

    /// Returns how long messages live at least after their lease has ended.
    pub(super) fn grace(&self) -> Millis {
        Millis::from_secs(self.grace_secs)
    }

    /// Returns the terms of the leases of `client`.
    pub(super) fn of(&self, client: ClientId) -> Terms {
        Terms { client, ttl_secs: self.ttl_secs, grace_secs: self.grace_secs }
    }

    /// Returns what happens to the leases at the end of the operation.
    pub(super) fn leaving(&self, end: ClaimEnd) -> Leaving {
        match end {
            ClaimEnd::Finished => Leaving::Settle(Settle::Return),
            ClaimEnd::Broken if self.releases_on_disconnect => Leaving::Settle(Settle::Release(None)),
            ClaimEnd::Broken => Leaving::Keep,
        }
    }
}
