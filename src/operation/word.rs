//! What a producer is to hear.

use super::fates::{Fate, StoredAt};
use crate::base::units::MsgNum;

/// Messages that are stored and about to be acknowledged.
#[derive(Clone, Copy, Debug)]
pub struct Acknowledged {
    /// How many.
    pub messages: u32,
    /// When the first of them was read, [`Now::mono_ns`](crate::base::clock::Now::mono_ns).
    pub read_ns: u64,
    /// When their fate was known, [`Now::mono_ns`](crate::base::clock::Now::mono_ns).
    pub known_ns: u64,
}

/// What the client is to hear.
#[derive(Clone, Debug)]
pub struct Word {
    /// The fate of every message behind the last one spoken for, up to `through`; `None` where this only gives credit.
    pub fate: Option<Fate>,
    /// The last number that is spoken for.
    pub through: MsgNum,
    /// The highest number that may be sent.
    pub granted: MsgNum,
    /// Where the messages are stored, where they stand one after the other.
    pub place: Option<StoredAt>,
}
