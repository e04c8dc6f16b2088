//! What shards know of a queue, and where its partitions live.

use crate::base::millis::UnixMillis;
use crate::base::units::{Offset, Partition};

/// A queue in this process; never shown outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct QueueId(pub u64);

/// What the home shard recorded when it created the queue, and the others cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QueueInfo {
    /// Its number.
    pub id: QueueId,
    /// The life of the queue that markers name.
    pub incarnation: u64,
    /// How many; 1 to 64.
    pub partitions: u16,
    /// The stable hash of project and name (`names::queue_hash`).
    pub hash: u64,
    /// How its markers are signed.
    pub signing: Signing,
}

/// How the markers of a queue are signed, and which stretch of its store's life they are of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Signing {
    /// The key of their check, known to the deployment alone.
    pub key: u128,
    /// A stretch of the store's life in which it has not gone back: no position of it lies beyond the end. 0 where the store has one
    /// alone.
    pub timeline: u64,
    /// The key is younger than the queue, as the one before was lost: markers that it has not signed are believed to be the
    /// queue's, and not what they say.
    pub is_key_new: bool,
}

/// One partition of a queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PartitionKey {
    /// Whose.
    pub queue: QueueId,
    /// From 0.
    pub partition: Partition,
}

impl QueueInfo {
    /// One of its partitions.
    pub fn key(&self, partition: Partition) -> PartitionKey {
        PartitionKey { queue: self.id, partition }
    }

    /// All of its partitions.
    pub fn all(&self) -> impl Iterator<Item = Partition> + use<> {
        Partition::all(self.partitions)
    }

    /// The shard that owns a partition, of `shards`: neighbours go to neighbouring shards.
    pub fn owner(&self, partition: Partition, shards: u16) -> u16 {
        owner(self.hash, partition, shards)
    }
}

/// The shard that owns a partition of the queue of that hash, of `shards`.
pub fn owner(hash: u64, partition: Partition, shards: u16) -> u16 {
    (hash.wrapping_add(u64::from(partition.0)) % u64::from(shards)) as u16
}

/// The shard that creates a queue, of `shards`.
pub fn home(hash: u64, shards: u16) -> u16 {
    ((hash >> 32) % u64::from(shards)) as u16
}

/// A message's id (protocol section 6): unique in the queue's incarnation.
pub fn message_id(partition: Partition, offset: Offset) -> String {
    format!("{:x}.{:x}", partition.0, offset.0)
}

/// Where a partition's position is looked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Position {
    /// Behind what is acknowledged now.
    Latest,
    /// The first message stored at or after it, Unix milliseconds; the end where there is none.
    Time(UnixMillis),
    /// The oldest message that a consumer may not have seen that stood at `offset` in another timeline ([`Signing::timeline`]).
    After {
        /// Which.
        timeline: u64,
        /// Where it stood.
        offset: Offset,
    },
}
