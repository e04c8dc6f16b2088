//! A fetch, as the stores keep it while it waits.

use crate::base::claim::View;
use crate::base::millis::Millis;
use crate::base::names::ClientId;
use crate::base::units::Offset;

/// A fetch request of a shard.
#[derive(Clone, Debug)]
pub(super) struct Fetch<T> {
    pub token: T,
    pub from: Offset,
    pub bytes_max: usize,
    pub exclude: Option<ClientId>,
    pub view: View,
    pub wait: bool,
    /// When the fetch arrived, by the monotonic clock.
    pub since: Millis,
}
