//! The answers to a producer.

use super::fates::{Fate, StoredAt};
use crate::base::units::MsgNum;

/// Stored messages that are about to be acknowledged.
#[derive(Clone, Copy, Debug)]
pub struct Acknowledged {
    /// The number of messages.
    pub messages: u32,
    /// When the first message was read, [`Now::mono_ns`](crate::base::clock::Now::mono_ns).
    pub read_ns: u64,
    /// When their fate became known, [`Now::mono_ns`](crate::base::clock::Now::mono_ns).
    pub known_ns: u64,
}

/// One answer to the client.
#[derive(Clone, Debug)]
pub struct Word {
    /// The fate of every message after the last answered one, up to `through`. `None` if the answer only
    /// grants credit.
    pub fate: Option<Fate>,
    /// The last number that this answer covers.
    pub through: MsgNum,
    /// The highest number that the client may send.
    pub granted: MsgNum,
    /// Where the messages are stored, if they are in contiguous offsets of one partition.
    pub place: Option<StoredAt>,
}
