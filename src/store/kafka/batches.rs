//! Turns Kafka's records into batches in stored form: neighbours with the same client, TTL and time become
//! one batch.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::header::{HEADER, Header};
use super::layout::Layout;
use super::native::Message;
use super::topics::TopicInfo;
use crate::base::batch::{BatchBuilder, Record, StoredBatch};
use crate::base::clock::Now;
use crate::base::millis::{Millis, UnixMillis};
use crate::base::names::ClientId;
use crate::base::units::{Offset, Partition};
use crate::pb::headers::{HeaderRef, put_header};
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
    /// How far the clock may be behind timestamps before they follow it.
    pub clock_step_max: Millis,
}

/// The times of one partition's records. They run backwards only if the clock does.
#[derive(Debug)]
struct Times {
    last: UnixMillis,
    clock_step_max: Millis,
}

impl Times {
    /// Follows the clock if it has stepped back far. Returns true if so: everything that was read before then
    /// counts as stored now or earlier.
    fn follow(&mut self, now: UnixMillis) -> bool {
        let is_behind = now + self.clock_step_max < self.last;
        if is_behind {
            self.last = now;
        }
        is_behind
    }

    /// Returns the time of a record for which its producer or broker states `said`.
    fn of(&mut self, now: UnixMillis, said: UnixMillis) -> UnixMillis {
        // Some topics let producers set any time. A time in the future would apply to all later records.
        self.last = said.min(now).max(self.last);
        self.last
    }
}

/// The records of one partition, in order, while they become batches. Invariant: `open` begins at the
/// window's end or later.
#[derive(Debug)]
pub(super) struct Batches {
    topic: Arc<TopicInfo>,
    partition: Partition,
    reads: Reads,
    open: Option<Open>,
    times: Times,
}

#[derive(Debug)]
struct Open {
    client: ClientId,
    base_offset: Offset,
    next_offset: Offset,
    timestamp: UnixMillis,
    builder: BatchBuilder,
}

impl Batches {
    pub(super) fn new(topic: Arc<TopicInfo>, partition: Partition, reads: Reads) -> Self {
        let times = Times { last: UnixMillis::ZERO, clock_step_max: reads.clock_step_max };
        Self { topic, partition, reads, open: None, times }
    }

    /// Adds the next record to `window`, now or together with later ones. Returns false if its offset is
    /// before earlier ones, because the partition has gone back.
    pub(super) fn push(&mut self, now: Now, message: &Message<'_>, window: &mut Window) -> bool {
        let offset = self.topic.layout.offset(message.offset());
        if offset < self.open.as_ref().map_or(window.end(), |open| open.next_offset) {
            return false;
        }
        let mut header = Header::default();
        let mut headers = Vec::new();
        message.each_header(|name, value| {
            if name == HEADER {
                header = value.map_or(header, Header::decode);
            } else {
                put_header(HeaderRef { name: &name.to_string_lossy(), value }, &mut headers);
            }
        });
        let record = Record { key: message.key(), headers: &headers, payload: message.payload() };
        if record.bytes() > self.topic.served_bytes {
            self.pass_over(message, record.bytes(), window);
            return true;
        }
        let ttl_secs = header.ttl_secs.unwrap_or(self.topic.default_ttl_secs);
        let client = header.client.unwrap_or(self.reads.nobody);
        if self.times.follow(now.unix) {
            self.close(window);
            window.cap(now.unix);
        }
        let timestamp = self.times.of(now.unix, message.timestamp());
        if let Some(packed) = header.packed.filter(|_| self.topic.layout == Layout::Packed) {
            self.close(window);
            match packed.batch(client, ttl_secs, message.payload()) {
                Some(batch) => {
                    window.push(StoredBatch { base_offset: offset, timestamp, stored_ns: 0, batch })
                }
                None => {
                    let topic = self.topic.name.to_string_lossy();
                    tracing::error!(%topic, offset = message.offset(), "skipping a packed record that cannot be parsed");
                }
            }
            return true;
        }
        let belongs = |open: &Open| {
            open.next_offset == offset
                && open.timestamp == timestamp
                && open.client == client
                && open.builder.ttl_secs() == ttl_secs
                && open.builder.shape() == record.shape()
                && open.builder.stored_bytes() < BATCH_BYTES
        };
        if !self.open.as_ref().is_some_and(belongs) {
            self.close(window);
        }
        let open = self.open.get_or_insert_with(|| {
            let builder = BatchBuilder::new(client, ttl_secs, 0).with_shape(record.shape());
            Open { client, base_offset: offset, next_offset: offset, timestamp, builder }
        });
        open.builder.push_record(record);
        open.next_offset = offset + 1;
        true
    }

    /// Skips a record that is too large to serve: counts it, and logs the first in each partition.
    fn pass_over(&mut self, message: &Message<'_>, bytes: usize, window: &mut Window) {
        self.close(window);
        window.advance(self.topic.layout.offset(message.offset() + 1));
        self.reads.passed_over.fetch_add(1, Ordering::Relaxed);
        if self.topic.is_first_passed_over(self.partition) {
            tracing::error!(
                topic = %self.topic.name.to_string_lossy(),
                partition = self.partition.0,
                offset = message.offset(),
                bytes,
                largest = self.topic.served_bytes,
                "skipping a record larger than max_pb_bytes; further ones in this partition are only counted \
                 (millstream_store_records_passed_over_total)"
            );
        }
    }

    /// Closes the open batch.
    pub(super) fn close(&mut self, window: &mut Window) {
        if let Some(Open { base_offset, timestamp, builder, .. }) = self.open.take() {
            debug_assert!(base_offset >= window.end(), "{base_offset} is before {}", window.end());
            window.push(StoredBatch { base_offset, timestamp, stored_ns: 0, batch: builder.close() });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_follow_a_clock_that_has_stepped_back_far() {
        let at = UnixMillis::new;
        let mut times = Times { last: at(0), clock_step_max: Millis::new(1_000) };
        assert_eq!((times.follow(at(50_000)), times.of(at(50_000), at(49_000))), (false, at(49_000)));
        assert_eq!(times.of(at(50_000), at(48_000)), at(49_000), "times never run backwards");
        assert_eq!(times.of(at(50_000), at(90_000)), at(50_000), "times never lie in the future");
        // A small step back keeps them at the last time.
        assert_eq!((times.follow(at(49_000)), times.of(at(49_000), at(49_000))), (false, at(50_000)));
        // They follow a large step.
        assert_eq!((times.follow(at(48_999)), times.of(at(48_999), at(48_999))), (true, at(48_999)));
        assert_eq!((times.follow(at(49_500)), times.of(at(49_500), at(49_200))), (false, at(49_200)));
    }
}
