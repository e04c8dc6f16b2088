//! A reader's stay at one position of a partition, while it reads what follows.

use std::sync::Arc;

use rdkafka::error::RDKafkaErrorCode;

use super::batches::{Batches, Reads};
use super::native::{Queue, Topic};
use super::topics::TopicInfo;
use crate::base::clock::Now;
use crate::base::millis::Millis;
use crate::base::queue::PartitionKey;
use crate::base::units::Offset;
use crate::store::window::Window;

/// How much a reader brings at one position before it may move to another, in bytes.
pub(super) const STAY_BYTES: usize = 4 << 20;

/// How long a reader without a fetch stays while others wait.
pub(super) const IDLE: Millis = Millis::new(200);

/// A reader's stay at one position.
#[derive(Debug)]
pub(super) struct Stay {
    pub key: PartitionKey,
    pub topic: Arc<Topic>,
    pub info: Arc<TopicInfo>,
    /// The offset at which it began.
    from: Offset,
    pub window: Window,
    batches: Batches,
    /// Whether the partition has gone back since it began. Then it serves nothing more.
    pub is_stale: bool,
    /// The bytes that it has brought.
    pub brought: usize,
    /// When it last had a fetch, by the monotonic clock.
    pub used: Millis,
}

impl Stay {
    /// Begins the stay of a reader that was started at `from`.
    pub(super) fn new(
        now: Now,
        key: PartitionKey,
        topic: Arc<Topic>,
        info: Arc<TopicInfo>,
        from: Offset,
        reads: Reads,
    ) -> Self {
        Self {
            key,
            topic,
            from,
            window: Window::new(info.layout.record_start(from)),
            batches: Batches::new(info.clone(), key.partition, reads),
            info,
            is_stale: false,
            brought: 0,
            used: now.mono,
        }
    }

    /// Returns whether it serves a fetch from this offset on.
    pub(super) fn serves(&self, key: PartitionKey, from: Offset) -> bool {
        self.key == key && !self.is_stale && self.window.covers(from)
    }

    /// Returns whether a reader without waiting fetches may leave it.
    pub(super) fn is_over(&self, now: Now) -> bool {
        self.is_stale || self.brought >= STAY_BYTES || self.used + IDLE <= now.mono
    }

    /// Handles what librdkafka has read ahead. Returns false if that is nothing.
    pub(super) fn advance(&mut self, now: Now, messages: &Queue) -> bool {
        let Self { key, topic, info, from, window, batches, is_stale, .. } = self;
        let of = (topic.number(), key.partition);
        let count = messages.consume(|message| {
            if message.from() != of || *is_stale {
                return;
            }
            match message.trouble() {
                // librdkafka goes back to the oldest record if its position is out of range
                // (`auto.offset.reset`). From a position that has expired, this leads forward.
                None => *is_stale = !batches.push(now, &message, window),
                Some(trouble) if trouble.code == RDKafkaErrorCode::PartitionEOF => {
                    batches.close(window);
                    let end = info.layout.offset(message.offset());
                    *is_stale = end < window.end() || end < *from;
                    window.advance(end);
                }
                Some(trouble) => tracing::debug!(?key, %trouble, "a reader"),
            }
        });
        batches.close(window);
        count > 0
    }
}
