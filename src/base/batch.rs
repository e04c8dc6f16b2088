//! An append batch: messages of one client with one TTL, contiguous, in stored form, immutable once closed.
//!
//! An operation builds it on the shard that received the payloads, which are copied only then. The owner of a
//! partition stores it, and all readers share it. Shards never write to a shared batch except for its
//! reference count.
//!
//! Stored form of a message: the length of the payload (u32, little-endian), in a batch with keys also the
//! length of the key, then the key and the payload. Few queues use keys, and batches without keys do not pay
//! for them.

use std::sync::Arc;

use crate::base::hidden::Hidden;
use crate::base::lease::Claimed;
use crate::base::millis::{Millis, UnixMillis};
use crate::base::names::ClientId;
use crate::base::units::Offset;

/// The size of a length field, in bytes. A record has one, in a batch with keys two.
pub const RECORD_HEADER_BYTES: usize = 4;

/// A message in a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record<'a> {
    /// The key; empty if the message has none.
    pub key: &'a [u8],
    /// The payload; may be empty.
    pub payload: &'a [u8],
}

/// A closed batch. Clones share the messages. Invariant: `records` contains exactly `count` whole records.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Batch(Arc<Closed>);

#[derive(Debug, PartialEq, Eq)]
struct Closed {
    client: ClientId,
    is_anonymous: bool,
    ttl_secs: u32,
    delay_secs: u32,
    count: u32,
    has_keys: bool,
    records: Vec<u8>,
}

impl Batch {
    /// Sets whether the client is anonymous. Has no effect on a batch that is already shared.
    pub fn anonymous(mut self, is_anonymous: bool) -> Self {
        if let Some(closed) = Arc::get_mut(&mut self.0) {
            closed.is_anonymous = is_anonymous;
        }
        self
    }

    /// Sets how long after it was stored claims see the messages, in seconds. Has no effect on a batch that is
    /// already shared.
    pub fn delayed(mut self, delay_secs: u32) -> Self {
        if let Some(closed) = Arc::get_mut(&mut self.0) {
            closed.delay_secs = delay_secs;
        }
        self
    }

    /// Returns how long after they were stored claims see the messages, in seconds.
    pub fn delay_secs(&self) -> u32 {
        self.0.delay_secs
    }

    /// Returns the client that produced the messages: the `Client-ID` that echo filtering compares.
    pub fn client(&self) -> ClientId {
        self.0.client
    }

    /// Returns whether the client sent no id. Its generated id is valid only for one connection.
    pub fn is_anonymous(&self) -> bool {
        self.0.is_anonymous
    }

    /// Returns the time to live of the messages, in seconds.
    pub fn ttl_secs(&self) -> u32 {
        self.0.ttl_secs
    }

    /// Returns the number of messages, which is at least one.
    pub fn count(&self) -> u32 {
        self.0.count
    }

    /// Returns the size of the stored form, in bytes.
    pub fn stored_bytes(&self) -> usize {
        self.0.records.len()
    }

    /// Returns the records in stored form.
    pub fn as_stored(&self) -> &[u8] {
        &self.0.records
    }

    /// Creates a batch from untrusted records in stored form. Returns `None` unless they are exactly `count`
    /// whole records, and at least one.
    pub fn from_stored(
        client: ClientId,
        ttl_secs: u32,
        has_keys: bool,
        count: u32,
        records: &[u8],
    ) -> Option<Self> {
        let is_anonymous = false;
        let batch = Self(Arc::new(Closed {
            client,
            is_anonymous,
            ttl_secs,
            delay_secs: 0,
            count,
            has_keys,
            records: records.to_vec(),
        }));
        let (mut whole, mut end) = (0, 0);
        while let Some((next, _)) = batch.record_at(end) {
            (whole, end) = (whole + 1, next);
        }
        (count > 0 && whole == count && end == records.len()).then_some(batch)
    }

    /// Returns whether the messages may have keys.
    pub fn has_keys(&self) -> bool {
        self.0.has_keys
    }

    /// Returns the message at `position`, preceded by the position of the next one. Returns `None` at the
    /// end.
    #[inline]
    pub fn record_at(&self, position: usize) -> Option<(usize, Record<'_>)> {
        let rest = self.0.records.get(position..)?;
        let (length, rest) = rest.split_first_chunk::<RECORD_HEADER_BYTES>()?;
        let length = u32::from_le_bytes(*length) as usize;
        let (key, rest) = if self.0.has_keys {
            let (key_length, rest) = rest.split_first_chunk::<RECORD_HEADER_BYTES>()?;
            rest.split_at_checked(u32::from_le_bytes(*key_length) as usize)?
        } else {
            (&[][..], rest)
        };
        let (payload, rest) = rest.split_at_checked(length)?;
        Some((self.0.records.len() - rest.len(), Record { key, payload }))
    }

    /// Returns the position of record number `index`, or the end if the batch has fewer records.
    pub fn position_of(&self, index: u32) -> usize {
        let mut position = 0;
        for _ in 0..index {
            match self.record_at(position) {
                Some((next, _)) => position = next,
                None => break,
            }
        }
        position
    }

    /// Returns the messages in order.
    pub fn records(&self) -> impl Iterator<Item = Record<'_>> {
        let mut position = 0;
        std::iter::from_fn(move || {
            let (next, record) = self.record_at(position)?;
            position = next;
            Some(record)
        })
    }

    /// Returns the payloads in order.
    pub fn payloads(&self) -> impl Iterator<Item = &[u8]> {
        self.records().map(|record| record.payload)
    }
}

/// A batch with its place in a partition.
#[derive(Clone, Debug)]
pub struct StoredBatch {
    /// The offset of the first message. The others follow without gaps.
    pub base_offset: Offset,
    /// When the batch was stored, in Unix milliseconds. Never less than for the batch before it.
    pub timestamp: UnixMillis,
    /// When it was stored, by this server's monotonic clock
    /// ([`Now::mono_ns`](crate::base::clock::Now::mono_ns)), for measurements; 0 if unknown.
    pub stored_ns: u64,
    /// The messages, in stored form.
    pub batch: Batch,
}

impl StoredBatch {
    /// Returns the offset after the last message.
    pub fn end_offset(&self) -> Offset {
        self.base_offset + u64::from(self.batch.count())
    }

    /// Returns the age of the batch, in whole seconds.
    pub fn age_secs(&self, unix: UnixMillis) -> u32 {
        unix.since(self.timestamp).as_secs()
    }

    /// Returns when the messages expire, in Unix milliseconds.
    pub fn expiry(&self) -> UnixMillis {
        self.timestamp + Millis::from_secs(self.batch.ttl_secs())
    }

    /// Returns when claims see the messages, in Unix milliseconds.
    pub fn visible(&self) -> UnixMillis {
        self.timestamp + Millis::from_secs(self.batch.delay_secs())
    }

    /// Returns how long claims will not see the messages yet, in seconds, rounded up. `None` if they see them.
    #[inline]
    pub fn delay_left_secs(&self, unix: UnixMillis) -> Option<u32> {
        if self.batch.delay_secs() == 0 {
            return None;
        }
        let left = self.visible().since(unix).as_secs_up();
        (left > 0).then_some(left)
    }

    /// Returns whether the messages have expired.
    pub fn is_expired(&self, unix: UnixMillis) -> bool {
        self.expiry() <= unix
    }
}

/// The result of a fetch.
#[derive(Clone, Debug, Default)]
pub struct Fetched {
    /// The batches, ordered by offset.
    pub batches: Vec<StoredBatch>,
    /// The messages of these batches that the reader must skip. A store leaves a batch out if it has expired
    /// or if the reader has sent it.
    pub hidden: Hidden,
    /// The offset to continue at, after the last batch and after everything that was left out.
    pub next: Offset,
    /// Whether nothing is stored from `next` on.
    pub at_end: bool,
    /// The claimed messages of these batches, ascending. Only for a reader that sees them.
    pub claims: Vec<Claimed>,
    /// Whether the requested offset lies beyond the partition's end. The partition has gone back, which
    /// happens only if its store was restored or lost its tail. Messages of this result start before that
    /// offset and may have been read before.
    pub is_rewound: bool,
}

impl Fetched {
    /// Returns the answer to a fetch from beyond the end: continue at the oldest message, because nobody
    /// knows which of the present messages the consumer has seen.
    pub fn rewound() -> Self {
        Self { is_rewound: true, ..Self::default() }
    }
}

/// A batch under construction.
#[derive(Debug)]
pub struct BatchBuilder {
    client: ClientId,
    is_anonymous: bool,
    ttl_secs: u32,
    delay_secs: u32,
    count: u32,
    has_keys: bool,
    records: Vec<u8>,
}

/// A state of a builder to roll back to.
#[derive(Clone, Copy, Debug)]
pub struct Savepoint {
    count: u32,
    bytes: usize,
}

impl BatchBuilder {
    /// Creates an empty batch with room for `capacity` bytes in stored form.
    pub fn new(client: ClientId, ttl_secs: u32, capacity: usize) -> Self {
        Self {
            client,
            is_anonymous: false,
            ttl_secs,
            delay_secs: 0,
            count: 0,
            has_keys: false,
            records: Vec::with_capacity(capacity),
        }
    }

    /// Sets whether the client is anonymous.
    pub fn anonymous(self, is_anonymous: bool) -> Self {
        Self { is_anonymous, ..self }
    }

    /// Sets how long after they were stored claims see the messages, in seconds.
    pub fn delayed(self, delay_secs: u32) -> Self {
        Self { delay_secs, ..self }
    }

    /// Creates an empty batch with keys. Use only [`Self::push_keyed`] on it.
    pub fn with_keys(client: ClientId, ttl_secs: u32, capacity: usize) -> Self {
        Self { has_keys: true, ..Self::new(client, ttl_secs, capacity) }
    }

    /// Appends a copy of a message and its key. An empty key means none.
    pub fn push_keyed(&mut self, key: &[u8], payload: &[u8]) {
        debug_assert!(self.has_keys, "use push for a batch without keys");
        self.records.reserve(2 * RECORD_HEADER_BYTES + key.len() + payload.len());
        self.records.extend_from_slice(&(payload.len() as u32).to_le_bytes());
        self.records.extend_from_slice(&(key.len() as u32).to_le_bytes());
        self.records.extend_from_slice(key);
        self.records.extend_from_slice(payload);
        self.count += 1;
    }

    /// Appends a copy of a payload.
    #[inline]
    pub fn push(&mut self, payload: &[u8]) {
        debug_assert!(!self.has_keys, "use push_keyed for a batch with keys");
        self.records.reserve(RECORD_HEADER_BYTES + payload.len());
        self.records.extend_from_slice(&(payload.len() as u32).to_le_bytes());
        self.records.extend_from_slice(payload);
        self.count += 1;
    }

    /// Returns the current state.
    pub fn savepoint(&self) -> Savepoint {
        Savepoint { count: self.count, bytes: self.records.len() }
    }

    /// Removes everything that was pushed after `to`.
    pub fn roll_back(&mut self, to: Savepoint) {
        self.count = to.count;
        self.records.truncate(to.bytes);
    }

    /// Returns the time to live of the messages, in seconds.
    pub fn ttl_secs(&self) -> u32 {
        self.ttl_secs
    }

    /// Returns the delay of the messages, in seconds.
    pub fn delay_secs(&self) -> u32 {
        self.delay_secs
    }

    /// Changes the delay. The batch must be empty.
    pub fn set_delay_secs(&mut self, delay_secs: u32) {
        debug_assert_eq!(self.count, 0);
        self.delay_secs = delay_secs;
    }

    /// Changes the TTL. The batch must be empty.
    pub fn set_ttl_secs(&mut self, ttl_secs: u32) {
        debug_assert_eq!(self.count, 0);
        self.ttl_secs = ttl_secs;
    }

    /// Returns whether the messages may have keys.
    pub fn has_keys(&self) -> bool {
        self.has_keys
    }

    /// Returns the number of messages so far.
    pub fn count(&self) -> u32 {
        self.count
    }

    /// Returns the size so far in stored form, in bytes.
    pub fn stored_bytes(&self) -> usize {
        self.records.len()
    }

    /// Closes the batch. Frees unused capacity, so that its memory matches its size.
    pub fn close(mut self) -> Batch {
        if self.records.capacity() > self.records.len() + self.records.len() / 8 + 64 {
            self.records.shrink_to_fit();
        }
        Batch(Arc::new(Closed {
            client: self.client,
            is_anonymous: self.is_anonymous,
            ttl_secs: self.ttl_secs,
            delay_secs: self.delay_secs,
            count: self.count,
            has_keys: self.has_keys,
            records: self.records,
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn payloads_come_back_in_order_and_a_roll_back_removes_later_ones() {
        let mut builder = BatchBuilder::new(ClientId::from(7), 60, 0);
        builder.push(b"one");
        builder.push(b"");
        let savepoint = builder.savepoint();
        builder.push(b"gone");
        builder.roll_back(savepoint);
        builder.push(&[3; 1000]);
        let batch = builder.close();
        assert_eq!(batch.count(), 3);
        let payloads: Vec<&[u8]> = batch.payloads().collect();
        assert_eq!(payloads, [&b"one"[..], b"", &[3; 1000]]);
        assert_eq!(batch.record_at(batch.position_of(1)).map(|(_, record)| record.payload), Some(&b""[..]));
        assert_eq!(batch.record_at(batch.position_of(3)), None);
    }

    #[test]
    fn stored_bytes_must_be_whole_records() {
        let mut builder = BatchBuilder::with_keys(ClientId::from(7), 60, 0);
        builder.push_keyed(b"k", b"one");
        builder.push_keyed(b"", b"two");
        let batch = builder.close();
        let bytes = batch.as_stored();
        let read =
            |has_keys, count, bytes: &[u8]| Batch::from_stored(ClientId::from(7), 60, has_keys, count, bytes);
        assert_eq!(read(true, 2, bytes), Some(batch.clone()));
        for (has_keys, count, bytes) in [
            (true, 1, bytes),
            (true, 3, bytes),
            (false, 2, bytes),
            (true, 2, &bytes[..bytes.len() - 1]),
            (true, 0, &[]),
            (false, 1, &[0xff; 4]),
        ] {
            assert_eq!(read(has_keys, count, bytes), None, "{has_keys} {count} {bytes:?}");
        }
    }

    #[test]
    fn keys_come_back_with_their_payloads() {
        let mut builder = BatchBuilder::with_keys(ClientId::from(7), 60, 0);
        let messages = [(&b"k"[..], &b"one"[..]), (b"", b"two"), (b"key", b"")];
        messages.iter().for_each(|(key, payload)| builder.push_keyed(key, payload));
        let batch = builder.close();
        let records: Vec<_> = batch.records().map(|record| (record.key, record.payload)).collect();
        assert_eq!(records, messages);
        assert_eq!(batch.record_at(batch.position_of(2)).map(|(_, record)| record.key), Some(&b"key"[..]));
        assert_eq!(batch.record_at(batch.position_of(3)), None);
    }
}
