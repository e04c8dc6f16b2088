//! The limits of the API, as the official server has them (zaqar 23.0.1, `zaqar/conf/transport.py`). The limits of a message's
//! TTL are those of the server's own settings, which have the same defaults.

use std::ops::RangeInclusive;

use super::outcome::Outcome;

/// The size of a page that names none.
pub(super) const PAGE: usize = 10;
/// The largest page, and the most messages of one request that names them by id.
pub(super) const PAGE_MAX: usize = 20;
/// The most characters of the messages of a post, as [`is_longer_than`](super::super::repr::is_longer_than) counts them.
pub(super) const POST_CHARACTERS_MAX: usize = 262_144;
/// The TTL of a message in a queue without a default, in seconds.
pub(super) const MESSAGE_TTL_SECS: u32 = 3_600;
/// The TTL of a claim that names none, in seconds.
pub(super) const CLAIM_TTL_SECS: i64 = 300;
/// The grace of a claim that names none, in seconds.
pub(super) const CLAIM_GRACE_SECS: i64 = 60;
/// The TTLs and graces of claims, in seconds.
pub(super) const CLAIM_SECS: RangeInclusive<i64> = 60..=43_200;
/// The TTL of a subscription that names none, in seconds.
pub(super) const SUBSCRIPTION_TTL_SECS: u32 = 3_600;
/// The TTLs of subscriptions, in seconds.
pub(super) const SUBSCRIPTION_SECS: RangeInclusive<i64> = 60..=u32::MAX as i64;
/// The most subscriptions of a connection, and the most partitions of their queues together. The fetches of all of them read
/// `fetch_bytes`, rounded up to a batch of each partition. The bytes are shared with other readers of the same messages.
pub(super) const SUBSCRIPTIONS_MAX: usize = 64;
pub(super) const SUBSCRIBED_PARTITIONS_MAX: usize = 256;
/// The most bytes of the options of a subscription.
pub(super) const OPTIONS_BYTES_MAX: usize = 4 << 10;
/// The partitions of a queue that a request creates without naming a number: one, so that its order is strict.
pub(super) const PARTITIONS: u16 = 1;
/// The most bytes of messages that one request claims or pops in a partition. What is over comes with the next request.
pub(super) const CLAIM_BYTES: usize = 4 << 20;

/// Returns the size of a page.
pub(super) fn page(limit: Option<i64>) -> Result<usize, Outcome> {
    match limit {
        None => Ok(PAGE),
        Some(limit) => number("limit", limit, 1..=PAGE_MAX as i64).map(|limit| limit as usize),
    }
}

/// Checks a number of a request.
pub(super) fn number(field: &str, value: i64, range: RangeInclusive<i64>) -> Result<u32, Outcome> {
    match u32::try_from(value) {
        Ok(number) if range.contains(&value) => Ok(number),
        _ => {
            let (min, max) = (range.start(), range.end());
            Err(Outcome::bad(format!("{field}: {value} is not from {min} to {max}")))
        }
    }
}
