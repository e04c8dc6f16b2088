//! Turns Kafka's records into batches in stored form: neighbours with the same client, TTL and time become
//! one batch.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::header::{HEADER, Header};
use super::layout::Layout;
use super::native::Message;
use super::topics::TopicInfo;
use crate::base::batch::{BatchBuilder, StoredBatch};
use crate::base::clock::Now;
use crate::base::names::ClientId;
use crate::store::window::Window;

/// The size at which a batch is closed, in bytes.
const BATCH_BYTES: usize = 256 << 10;

/// What the tails and readers of a shard share.
#[derive(Clone, Debug)]
pub(super) struct Reads {
    /// The client id for records that name no client.
    pub nobody: ClientId,
    /// The number of records that were too large to serve.
    pub passed_over: Arc<AtomicU64>,
    /// How far the clock may be behind timestamps before they follow it, in milliseconds.
    pub clock_step_max_ms: u64,
}

/// The times of one partition's records. They run backwards only if the clock does.
#[derive(Debug)]
struct Times {
    last_ms: u64,
    clock_step_max_ms: u64,
}

impl Times {
    /// Follows the clock if it has stepped back far. Returns true if so: everything that was read before then
    /// counts as stored now or earlier.
    fn follow(&mut self, now_ms: u64) -> bool {
        let is_behind = now_ms.saturating_add(self.clock_step_max_ms) < self.last_ms;
        if is_behind {
            self.last_ms = now_ms;
        }
        is_behind
    }

    /// Returns the time of a record for which its producer or broker states `said_ms`.
    fn of(&mut self, now_ms: u64, said_ms: u64) -> u64 {
        // Some topics let producers set any time. A time in the future would apply to all later records.
        self.last_ms = said_ms.min(now_ms).max(self.last_ms);
        self.last_ms
    }
}

/// The records of one partition, in order, while they become batches. Invariant: `open` begins at the
/// window's end or later.
#[derive(Debug)]
pub(super) struct Batches {
    topic: Arc<TopicInfo>,
    partition: u16,
    reads: Reads,
    open: Option<Open>,
    times: Times,
}

#[derive(Debug)]
struct Open {
    client: ClientId,
    base_offset: u64,
    next_offset: u64,
    timestamp_ms: u64,
    builder: BatchBuilder,
}

impl Batches {
    pub(super) fn new(topic: Arc<TopicInfo>, partition: u16, reads: Reads) -> Self {
        let times = Times { last_ms: 0, clock_step_max_ms: reads.clock_step_max_ms };
        Self { topic, partition, reads, open: None, times }
    }

    /// Adds the next record to `window`, now or together with later ones. Returns false if its offset is
    /// before earlier ones, because the partition has gone back.
    pub(super) fn push(&mut self, now: Now, message: &Message<'_>, window: &mut Window) -> bool {
        let offset = self.topic.layout.offset(message.offset());
        if offset < self.open.as_ref().map_or(window.end(), |open| open.next_offset) {
            return false;
        }
        if message.key().len() + message.payload().len() > self.topic.served_bytes {
            self.pass_over(message, window);
            return true;
        }
        let header = message.header(HEADER).map(Header::decode).unwrap_or_default();
        let ttl_secs = header.ttl_secs.unwrap_or(self.topic.default_ttl_secs);
        let client = header.client.unwrap_or(self.reads.nobody);
        if self.times.follow(now.unix_ms) {
            self.close(window);
            window.cap(now.unix_ms);
        }
        let timestamp_ms = self.times.of(now.unix_ms, message.timestamp_ms());
        if let Some(packed) = header.packed.filter(|_| self.topic.layout == Layout::Packed) {
            self.close(window);
            match packed.batch(client, ttl_secs, message.payload()) {
                Some(batch) => {
                    window.push(StoredBatch { base_offset: offset, timestamp_ms, stored_ns: 0, batch })
                }
                None => {
                    let topic = self.topic.name.to_string_lossy();
                    tracing::error!(%topic, offset = message.offset(), "skipping a packed record that cannot be parsed");
                }
            }
            return true;
        }
        let key = message.key();
        let belongs = |open: &Open| {
            open.next_offset == offset
                && open.timestamp_ms == timestamp_ms
                && open.client == client
                && open.builder.ttl_secs() == ttl_secs
                && open.builder.has_keys() != key.is_empty()
                && open.builder.stored_bytes() < BATCH_BYTES
        };
        if !self.open.as_ref().is_some_and(belongs) {
            self.close(window);
        }
        let open = self.open.get_or_insert_with(|| {
            let builder = if key.is_empty() {
                BatchBuilder::new(client, ttl_secs, 0)
            } else {
                BatchBuilder::with_keys(client, ttl_secs, 0)
            };
            Open { client, base_offset: offset, next_offset: offset, timestamp_ms, builder }
        });
        if key.is_empty() {
            open.builder.push(message.payload());
        } else {
            open.builder.push_keyed(key, message.payload());
        }
        open.next_offset = offset + 1;
        true
    }

    /// Skips a record that is too large to serve: counts it, and logs the first in each partition.
    fn pass_over(&mut self, message: &Message<'_>, window: &mut Window) {
        self.close(window);
        window.advance(self.topic.layout.offset(message.offset() + 1));
        self.reads.passed_over.fetch_add(1, Ordering::Relaxed);
        if self.topic.is_first_passed_over(self.partition) {
            tracing::error!(
                topic = %self.topic.name.to_string_lossy(),
                partition = self.partition,
                offset = message.offset(),
                bytes = message.key().len() + message.payload().len(),
                largest = self.topic.served_bytes,
                "skipping a record larger than max_pb_bytes; further ones in this partition are only counted \
                 (millstream_store_records_passed_over_total)"
            );
        }
    }

    /// Closes the open batch.
    pub(super) fn close(&mut self, window: &mut Window) {
        if let Some(Open { base_offset, timestamp_ms, builder, .. }) = self.open.take() {
            debug_assert!(base_offset >= window.end(), "{base_offset} is before {}", window.end());
            window.push(StoredBatch { base_offset, timestamp_ms, stored_ns: 0, batch: builder.close() });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_follow_a_clock_that_has_stepped_back_far() {
        let mut times = Times { last_ms: 0, clock_step_max_ms: 1_000 };
        assert_eq!((times.follow(50_000), times.of(50_000, 49_000)), (false, 49_000));
        assert_eq!(times.of(50_000, 48_000), 49_000, "times never run backwards");
        assert_eq!(times.of(50_000, 90_000), 50_000, "times never lie in the future");
        // A small step back keeps them at the last time.
        assert_eq!((times.follow(49_000), times.of(49_000, 49_000)), (false, 50_000));
        // They follow a large step.
        assert_eq!((times.follow(48_999), times.of(48_999, 48_999)), (true, 48_999));
        assert_eq!((times.follow(49_500), times.of(49_500, 49_200)), (false, 49_200));
    }
}
