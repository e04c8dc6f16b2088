//! An append batch: messages of one client with one TTL, contiguous, immutable once closed, in stored form.
//!
//! Built by an operation on the shard that received the payloads (the one copy that they undergo), stored by a
//! partition's owner, shared by all its readers. What two shards write is its reference count alone.
//!
//! Stored form: for each message the length of its payload (u32, little-endian), in a batch with keys that of its key, too,
//! then the key and the payload. Few queues have keys, and those without pay nothing for them.

use std::sync::Arc;

use crate::base::millis::{Millis, UnixMillis};
use crate::base::names::ClientId;
use crate::base::units::Offset;

/// Bytes before each payload in stored form, and as many before that in a batch with keys.
pub const RECORD_HEADER_BYTES: usize = 4;

/// One message of a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record<'a> {
    /// Empty where it has none.
    pub key: &'a [u8],
    /// May be empty.
    pub payload: &'a [u8],
}

/// A closed batch. Invariant: `records` holds exactly `count` whole records.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Batch(Arc<Closed>);

#[derive(Debug, PartialEq, Eq)]
struct Closed {
    client: ClientId,
    is_anonymous: bool,
    ttl_secs: u32,
    count: u32,
    has_keys: bool,
    records: Vec<u8>,
}

impl Batch {
    /// The same of a client that did not name itself.
    pub fn anonymous(mut self, is_anonymous: bool) -> Self {
        if let Some(closed) = Arc::get_mut(&mut self.0) {
            closed.is_anonymous = is_anonymous;
        }
        self
    }

    /// Who stored it: the `Client-ID` that echo filtering compares.
    pub fn client(&self) -> ClientId {
        self.0.client
    }

    /// Whether that client did not name itself: its id was made for one connection and means nothing behind that.
    pub fn is_anonymous(&self) -> bool {
        self.0.is_anonymous
    }

    /// Time to live of its messages, seconds.
    pub fn ttl_secs(&self) -> u32 {
        self.0.ttl_secs
    }

    /// Messages in it; at least one.
    pub fn count(&self) -> u32 {
        self.0.count
    }

    /// Bytes in stored form.
    pub fn stored_bytes(&self) -> usize {
        self.0.records.len()
    }

    /// The records in stored form.
    pub fn as_stored(&self) -> &[u8] {
        &self.0.records
    }

    /// A batch of records in stored form, of whatever wrote them; `None` where they are not `count` whole records, at least one.
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

    /// Whether its messages may have keys.
    pub fn has_keys(&self) -> bool {
        self.0.has_keys
    }

    /// Where the record after the one at `position` begins, and the message at `position`.
    /// `None` at the end.
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

    /// Where the record number `index` begins; the end where there are fewer.
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

    /// The messages, in order.
    pub fn records(&self) -> impl Iterator<Item = Record<'_>> {
        let mut position = 0;
        std::iter::from_fn(move || {
            let (next, record) = self.record_at(position)?;
            position = next;
            Some(record)
        })
    }

    /// The payloads, in order.
    pub fn payloads(&self) -> impl Iterator<Item = &[u8]> {
        self.records().map(|record| record.payload)
    }
}

/// A batch where it is stored.
#[derive(Clone, Debug)]
pub struct StoredBatch {
    /// The offset of its first message; the others follow.
    pub base_offset: Offset,
    /// When it was stored, Unix milliseconds. Never less than that of the batch before.
    pub timestamp: UnixMillis,
    /// The same by this server's own clock ([`Now::mono_ns`](crate::base::clock::Now::mono_ns)), to measure with; 0 where it does not know.
    pub stored_ns: u64,
    /// The messages.
    pub batch: Batch,
}

impl StoredBatch {
    /// The offset behind its last message.
    pub fn end_offset(&self) -> Offset {
        self.base_offset + u64::from(self.batch.count())
    }

    /// Whole seconds since it was stored.
    pub fn age_secs(&self, unix: UnixMillis) -> u32 {
        unix.since(self.timestamp).as_secs()
    }

    /// When its messages' age reaches their TTL, Unix milliseconds.
    pub fn expiry(&self) -> UnixMillis {
        self.timestamp + Millis::from_secs(self.batch.ttl_secs())
    }

    /// Whether its messages' age has reached their TTL.
    pub fn is_expired(&self, unix: UnixMillis) -> bool {
        self.expiry() <= unix
    }
}

/// What a fetch brought.
#[derive(Clone, Debug, Default)]
pub struct Fetched {
    /// In order of their offsets. The first may begin before what was asked for.
    pub batches: Vec<StoredBatch>,
    /// Where to go on: behind the last batch and behind what was left out.
    pub next: Offset,
    /// Nothing is stored from `next` on.
    pub at_end: bool,
    /// The offset that was asked for lies beyond the partition's end: the partition has gone back, as it never does but where
    /// its store was restored or has lost its tail. What is here begins before that offset, and may have been read before.
    pub is_rewound: bool,
}

impl Fetched {
    /// The answer to a fetch from beyond the end: to go on at the oldest message, as nobody knows which of what is here the asker has seen.
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
    count: u32,
    has_keys: bool,
    records: Vec<u8>,
}

/// A place in a builder to return to.
#[derive(Clone, Copy, Debug)]
pub struct Savepoint {
    count: u32,
    bytes: usize,
}

impl BatchBuilder {
    /// An empty batch with room for `capacity` bytes in stored form.
    pub fn new(client: ClientId, ttl_secs: u32, capacity: usize) -> Self {
        Self {
            client,
            is_anonymous: false,
            ttl_secs,
            count: 0,
            has_keys: false,
            records: Vec::with_capacity(capacity),
        }
    }

    /// The same of a client that did not name itself.
    pub fn anonymous(self, is_anonymous: bool) -> Self {
        Self { is_anonymous, ..self }
    }

    /// The same for messages with keys: for [`Self::push_keyed`] alone.
    pub fn with_keys(client: ClientId, ttl_secs: u32, capacity: usize) -> Self {
        Self { has_keys: true, ..Self::new(client, ttl_secs, capacity) }
    }

    /// Copies one message in, with its key; an empty one is none.
    pub fn push_keyed(&mut self, key: &[u8], payload: &[u8]) {
        debug_assert!(self.has_keys, "a batch has keys from its first message on");
        self.records.reserve(2 * RECORD_HEADER_BYTES + key.len() + payload.len());
        self.records.extend_from_slice(&(payload.len() as u32).to_le_bytes());
        self.records.extend_from_slice(&(key.len() as u32).to_le_bytes());
        self.records.extend_from_slice(key);
        self.records.extend_from_slice(payload);
        self.count += 1;
    }

    /// Copies one payload in.
    #[inline]
    pub fn push(&mut self, payload: &[u8]) {
        debug_assert!(!self.has_keys, "a batch has keys from its first message on");
        self.records.reserve(RECORD_HEADER_BYTES + payload.len());
        self.records.extend_from_slice(&(payload.len() as u32).to_le_bytes());
        self.records.extend_from_slice(payload);
        self.count += 1;
    }

    /// The present end.
    pub fn savepoint(&self) -> Savepoint {
        Savepoint { count: self.count, bytes: self.records.len() }
    }

    /// Forgets what was pushed since.
    pub fn roll_back(&mut self, to: Savepoint) {
        self.count = to.count;
        self.records.truncate(to.bytes);
    }

    /// Time to live of its messages, seconds.
    pub fn ttl_secs(&self) -> u32 {
        self.ttl_secs
    }

    /// Changes the TTL of a batch that is still empty.
    pub fn set_ttl_secs(&mut self, ttl_secs: u32) {
        debug_assert_eq!(self.count, 0);
        self.ttl_secs = ttl_secs;
    }

    /// Whether its messages may have keys.
    pub fn has_keys(&self) -> bool {
        self.has_keys
    }

    /// Messages so far.
    pub fn count(&self) -> u32 {
        self.count
    }

    /// Bytes so far, in stored form.
    pub fn stored_bytes(&self) -> usize {
        self.records.len()
    }

    /// Closes it. What it holds is what it will cost: spare room is given back.
    pub fn close(mut self) -> Batch {
        if self.records.capacity() > self.records.len() + self.records.len() / 8 + 64 {
            self.records.shrink_to_fit();
        }
        Batch(Arc::new(Closed {
            client: self.client,
            is_anonymous: self.is_anonymous,
            ttl_secs: self.ttl_secs,
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
    fn payloads_come_back_in_order_and_a_roll_back_forgets_the_later_ones() {
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
    fn stored_bytes_are_a_batch_only_where_they_are_whole_records() {
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
