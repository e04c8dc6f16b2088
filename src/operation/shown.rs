//! What readers see of claims.

use super::claim::ClaimId;
use super::subject::Subject;
use crate::base::claim::Claimed;
use crate::base::clock::Now;
use crate::base::millis::Millis;
use crate::base::names::ClientId;
use crate::base::units::Partition;

/// A claim as a reader sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShownClaim {
    /// The id of the claim.
    pub id: ClaimId,
    /// The client that holds it, if that is the reader itself.
    pub client: Option<ClientId>,
    /// How long it lasts.
    pub left: Millis,
}

impl ShownClaim {
    /// Returns how the reader `by` sees the claim of messages of `partition`.
    pub(super) fn of(claimed: &Claimed, partition: Partition, by: &Subject, now: Now) -> Self {
        let id = ClaimId::of(&by.queue, partition, claimed.lease);
        let client = Some(claimed.client).filter(|client| *client == by.caller.author.client);
        Self { id, client, left: claimed.ends.since(now.mono) }
    }
}
