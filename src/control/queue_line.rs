//! A queue in the list of all queues.

use serde::{Deserialize, Serialize};

use crate::base::millis::UnixMillis;
use crate::base::names::FullName;
use crate::store::{Listed, QueueSummary};

/// A queue, as JSON.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub struct QueueLine {
    /// The project that owns the queue.
    pub project: String,
    /// The queue's name in its project.
    pub queue: String,
    /// The number of partitions. Absent where the Zaqar API was asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub partitions: Option<u16>,
    /// What it holds. Absent on Kafka, which cannot count that, and where the Zaqar API was asked.
    #[serde(flatten)]
    pub held: Option<HeldLine>,
}

/// What a queue of the list holds, as JSON.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub struct HeldLine {
    /// The number of messages. An expired message counts until all messages of its partition in the same
    /// file have expired.
    pub messages: u64,
    /// The size of the messages on disk, in bytes.
    pub bytes: u64,
    /// When the oldest message was stored; null if there is none. Unix milliseconds.
    #[serde(rename = "oldest_ms")]
    pub oldest: Option<UnixMillis>,
    /// When the newest message was stored; null if there is none. Unix milliseconds.
    #[serde(rename = "newest_ms")]
    pub newest: Option<UnixMillis>,
}

impl QueueLine {
    /// Creates the entry of a queue from its totals over all shards.
    pub fn new((project, queue): &FullName, Listed { partitions, held }: Listed) -> Self {
        let held = held.map(|QueueSummary { messages, bytes, oldest, newest, .. }| HeldLine {
            messages,
            bytes,
            oldest,
            newest,
        });
        let (project, queue) = (project.to_string(), queue.to_string());
        Self { project, queue, partitions: Some(partitions), held }
    }
}
