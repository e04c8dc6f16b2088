//! Queues as the shards know them, and the placement of partitions.

use std::sync::Arc;

use crate::base::millis::UnixMillis;
use crate::base::policy::LivePolicy;
use crate::base::units::{Offset, Partition};

/// The id of a queue in this process. Never shown outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct QueueId(pub u64);

/// The number of bits of a [`QueueId`] below its home.
const NUMBER_BITS: u32 = 48;

impl QueueId {
    /// Creates the id of queue `number` of its home shard.
    pub fn new(home: u16, number: u64) -> Self {
        debug_assert!(number >> NUMBER_BITS == 0, "{number}");
        Self(u64::from(home) << NUMBER_BITS | number)
    }

    /// Returns the shard that created the queue.
    pub fn home(self) -> u16 {
        (self.0 >> NUMBER_BITS) as u16
    }
}

/// A queue as its home shard created it. The other shards cache this.
#[derive(Clone, Debug)]
pub struct QueueInfo {
    /// The id in this process.
    pub id: QueueId,
    /// The incarnation of the queue: one life from creation to deletion. Markers contain it.
    pub incarnation: u64,
    /// The number of partitions, 1 to 64.
    pub partitions: u16,
    /// The stable hash of project and name (`names::queue_hash`).
    pub hash: u64,
    /// The signing of its markers.
    pub signing: Signing,
    /// What its attributes ask of the server.
    pub policy: Arc<LivePolicy>,
}

/// The signing of a queue's markers, and the timeline that they belong to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Signing {
    /// The key that signs markers. Only the deployment knows it.
    pub key: u128,
    /// A period in which the store has not gone back, so that no position of this period lies beyond the end.
    /// 0 if the store has only one.
    pub timeline: u64,
    /// Whether the key is newer than the queue, because the previous key was lost. Markers with another
    /// signature are then accepted as the queue's, but their content is not trusted.
    pub is_key_new: bool,
}

/// One partition of a queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PartitionKey {
    /// The queue that contains the partition.
    pub queue: QueueId,
    /// The number of the partition, from 0.
    pub partition: Partition,
}

impl QueueInfo {
    /// Returns the key of one of the partitions.
    pub fn key(&self, partition: Partition) -> PartitionKey {
        PartitionKey { queue: self.id, partition }
    }

    /// Returns all of its partitions.
    pub fn all(&self) -> impl Iterator<Item = Partition> + use<> {
        Partition::all(self.partitions)
    }

    /// Returns which of `shards` owns a partition. Neighbouring partitions go to neighbouring shards.
    pub fn owner(&self, partition: Partition, shards: u16) -> u16 {
        owner(self.hash, partition, shards)
    }
}

/// Returns which of `shards` owns a partition of the queue with this hash.
pub fn owner(hash: u64, partition: Partition, shards: u16) -> u16 {
    (hash.wrapping_add(u64::from(partition.0)) % u64::from(shards)) as u16
}

/// Returns which of `shards` creates a queue.
pub fn home(hash: u64, shards: u16) -> u16 {
    ((hash >> 32) % u64::from(shards)) as u16
}

/// Returns the id of a message (protocol section 6), unique within the queue's incarnation.
pub fn message_id(partition: Partition, offset: Offset) -> String {
    format!("{:x}.{:x}", partition.0, offset.0)
}

/// No message has this offset or a later one.
const OFFSETS_END: u64 = 1 << 63;

/// Parses the id of a message.
pub fn parse_message_id(id: &str) -> Option<(Partition, Offset)> {
    let (partition, offset) = id.split_once('.')?;
    let partition = u16::try_from(parse_hex(partition)?).ok()?;
    Some((Partition(partition), Offset(parse_hex(offset).filter(|offset| *offset < OFFSETS_END)?)))
}

/// Parses a number in lower-case hexadecimal without leading zeros, as ids contain it.
pub fn parse_hex(digits: &str) -> Option<u64> {
    let is_canonical = digits.bytes().all(|digit| matches!(digit, b'0'..=b'9' | b'a'..=b'f'))
        && (digits == "0" || !digits.starts_with('0'));
    u64::from_str_radix(digits, 16).ok().filter(|_| is_canonical)
}

/// A place to look for in a partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Position {
    /// The end of what is acknowledged now.
    Latest,
    /// The first message stored at or after this Unix time in milliseconds, or the end if none exists.
    Time(UnixMillis),
    /// The oldest message that may be unseen by a consumer whose position was `offset` in another timeline
    /// ([`Signing::timeline`]).
    After {
        /// The timeline in which the consumer read.
        timeline: u64,
        /// The consumer's position in that timeline.
        offset: Offset,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_of_messages_are_read_as_they_are_written() {
        for (partition, offset) in [(0, 0), (63, 1), (u16::MAX, OFFSETS_END - 1)] {
            let (partition, offset) = (Partition(partition), Offset(offset));
            assert_eq!(parse_message_id(&message_id(partition, offset)), Some((partition, offset)));
        }
        for bad in [
            "",
            ".",
            "0",
            "0.",
            ".0",
            "00.1",
            "0.01",
            "10000.0",
            "0.10000000000000000",
            "+1.0",
            "A.0",
            "0.1.2",
            "0.8000000000000000",
            "0.ffffffffffffffff",
        ] {
            assert_eq!(parse_message_id(bad), None, "{bad}");
        }
    }
}
