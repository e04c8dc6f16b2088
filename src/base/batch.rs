//! An append batch: messages of one client with one TTL, contiguous, in stored form, immutable once closed.
//!
//! An operation builds it on the shard that received the payloads, which are copied only then. The owner of a
//! partition stores it, and all readers share it. Shards never write to a shared batch except for its
//! reference count.
//!
//! Stored form of a message, all lengths as u32, little-endian:
//!
//! | shape of the batch | record |
//! | --- | --- |
//! | payloads | length of the payload; payload |
//! | keys | lengths of payload and key; key, payload |
//! | headers | lengths of payload, key and headers; key, headers, payload |
//!
//! Few queues use keys or headers, and batches without them do not pay for them.

use std::sync::Arc;

use crate::base::hidden::Hidden;
use crate::base::lease::Claimed;
use crate::base::millis::{Millis, UnixMillis};
use crate::base::names::ClientId;
use crate::base::units::Offset;

/// The size of a length field, in bytes. A record has one, two or three, see [`Shape`].
pub const RECORD_HEADER_BYTES: usize = 4;

/// A message in a batch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Record<'a> {
    /// The key; empty if the message has none.
    pub key: &'a [u8],
    /// The headers as an encoded pb `Headers`; empty if the message has none.
    pub headers: &'a [u8],
    /// The payload; may be empty.
    pub payload: &'a [u8],
}

impl<'a> Record<'a> {
    /// Returns a message without a key and headers.
    #[inline]
    pub fn plain(payload: &'a [u8]) -> Self {
        Self { payload, ..Self::default() }
    }

    /// Returns a message without headers.
    pub fn keyed(key: &'a [u8], payload: &'a [u8]) -> Self {
        Self { key, payload, ..Self::default() }
    }

    /// Returns the message without its headers.
    pub fn without_headers(self) -> Self {
        Self { headers: &[], ..self }
    }

    /// Returns the bytes of payload, key and headers: the size that limits count.
    pub fn bytes(&self) -> usize {
        self.key.len() + self.headers.len() + self.payload.len()
    }

    /// Returns the simplest shape that holds the message.
    pub fn shape(&self) -> Shape {
        match (self.headers, self.key) {
            ([], []) => Shape::Payloads,
            ([], _) => Shape::Keys,
            _ => Shape::Headers,
        }
    }
}

/// What the records of a batch may hold. Each shape holds what those before it hold.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Shape {
    /// Payloads.
    #[default]
    Payloads,
    /// Keys and payloads.
    Keys,
    /// Keys, headers and payloads.
    Headers,
}

impl Shape {
    /// Returns the bytes of the length fields of a record.
    pub fn lengths_bytes(self) -> usize {
        RECORD_HEADER_BYTES
            * match self {
                Self::Payloads => 1,
                Self::Keys => 2,
                Self::Headers => 3,
            }
    }
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
    shape: Shape,
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
        shape: Shape,
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
            shape,
            records: records.to_vec(),
        }));
        let (mut whole, mut end) = (0, 0);
        while let Some((next, _)) = batch.record_at(end) {
            (whole, end) = (whole + 1, next);
        }
        (count > 0 && whole == count && end == records.len()).then_some(batch)
    }

    /// Returns what the records may hold.
    #[inline]
    pub fn shape(&self) -> Shape {
        self.0.shape
    }

    /// Returns the message at `position`, preceded by the position of the next one. Returns `None` at the
    /// end.
    #[inline]
    pub fn record_at(&self, position: usize) -> Option<(usize, Record<'_>)> {
        if self.0.shape == Shape::Payloads { self.payload_at(position) } else { self.shaped_at(position) }
    }

    /// As [`Self::record_at`], for a batch of payloads. The compiler knows that these records have neither key nor
    /// headers.
    #[inline]
    pub fn payload_at(&self, position: usize) -> Option<(usize, Record<'_>)> {
        debug_assert_eq!(self.0.shape, Shape::Payloads);
        let rest = self.0.records.get(position..)?;
        let (length, rest) = rest.split_first_chunk::<RECORD_HEADER_BYTES>()?;
        let (payload, rest) = rest.split_at_checked(u32::from_le_bytes(*length) as usize)?;
        Some((self.0.records.len() - rest.len(), Record::plain(payload)))
    }

    #[inline(never)]
    fn shaped_at(&self, position: usize) -> Option<(usize, Record<'_>)> {
        let mut rest = self.0.records.get(position..)?;
        let mut length = || {
            let (length, behind) = rest.split_first_chunk::<RECORD_HEADER_BYTES>()?;
            rest = behind;
            Some(u32::from_le_bytes(*length) as usize)
        };
        let (payload, key) = (length()?, length()?);
        let headers = if self.0.shape == Shape::Headers { length()? } else { 0 };
        let (key, rest) = rest.split_at_checked(key)?;
        let (headers, rest) = rest.split_at_checked(headers)?;
        let (payload, rest) = rest.split_at_checked(payload)?;
        Some((self.0.records.len() - rest.len(), Record { key, headers, payload }))
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
    shape: Shape,
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
            shape: Shape::Payloads,
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

    /// Sets what the records may hold. The batch must be empty.
    #[must_use]
    pub fn with_shape(self, shape: Shape) -> Self {
        debug_assert_eq!(self.count, 0);
        Self { shape, ..self }
    }

    /// Appends a copy of a message, whose shape must not be beyond the batch's.
    pub fn push_record(&mut self, record: Record<'_>) {
        debug_assert!(record.shape() <= self.shape, "{:?} holds no {record:?}", self.shape);
        let Record { key, headers, payload } = record;
        let lengths = [payload.len(), key.len(), headers.len()];
        let fields = self.shape.lengths_bytes() / RECORD_HEADER_BYTES;
        self.records.reserve(self.shape.lengths_bytes() + record.bytes());
        for length in &lengths[..fields] {
            self.records.extend_from_slice(&(*length as u32).to_le_bytes());
        }
        for part in [key, headers, payload] {
            self.records.extend_from_slice(part);
        }
        self.count += 1;
    }

    /// Appends a copy of a payload.
    #[inline]
    pub fn push(&mut self, payload: &[u8]) {
        debug_assert_eq!(self.shape, Shape::Payloads, "use push_record for other shapes");
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

    /// Returns what the records may hold.
    #[inline]
    pub fn shape(&self) -> Shape {
        self.shape
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
            shape: self.shape,
            records: self.records,
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

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

    fn built(shape: Shape, records: &[Record<'_>]) -> Batch {
        let mut builder = BatchBuilder::new(ClientId::from(7), 60, 0).with_shape(shape);
        records.iter().for_each(|record| builder.push_record(*record));
        builder.close()
    }

    #[test]
    fn stored_bytes_must_be_whole_records() {
        let batch = built(Shape::Keys, &[Record::keyed(b"k", b"one"), Record::plain(b"two")]);
        let bytes = batch.as_stored();
        let read =
            |shape, count, bytes: &[u8]| Batch::from_stored(ClientId::from(7), 60, shape, count, bytes);
        assert_eq!(read(Shape::Keys, 2, bytes), Some(batch.clone()));
        for (shape, count, bytes) in [
            (Shape::Keys, 1, bytes),
            (Shape::Keys, 3, bytes),
            (Shape::Payloads, 2, bytes),
            (Shape::Headers, 2, bytes),
            (Shape::Keys, 2, &bytes[..bytes.len() - 1]),
            (Shape::Keys, 0, &[]),
            (Shape::Payloads, 1, &[0xff; 4]),
            (Shape::Headers, 1, &[0; 11]),
        ] {
            assert_eq!(read(shape, count, bytes), None, "{shape:?} {count} {bytes:?}");
        }
    }

    proptest! {
        #[test]
        fn records_come_back_as_they_were_pushed(
            messages in proptest::collection::vec(
                (proptest::collection::vec(any::<u8>(), 0..9), proptest::collection::vec(any::<u8>(), 0..9),
                 proptest::collection::vec(any::<u8>(), 0..99)), 1..9),
            larger in 0usize..3,
        ) {
            let records: Vec<_> =
                messages.iter().map(|(key, headers, payload)| Record { key, headers, payload }).collect();
            let least = records.iter().map(Record::shape).max().unwrap();
            let shape = [least, Shape::Keys, Shape::Headers][larger].max(least);
            let batch = built(shape, &records);
            prop_assert_eq!(batch.shape(), shape);
            let bytes: usize = records.iter().map(|record| record.bytes() + shape.lengths_bytes()).sum();
            prop_assert_eq!(batch.stored_bytes(), bytes);
            prop_assert_eq!(batch.records().collect::<Vec<_>>(), records.clone());
            let last = batch.position_of(records.len() as u32 - 1);
            prop_assert_eq!(batch.record_at(last).map(|(_, record)| record), records.last().copied());
            prop_assert_eq!(batch.record_at(batch.position_of(records.len() as u32)), None);
            let again = Batch::from_stored(ClientId::from(7), 60, shape, batch.count(), batch.as_stored());
            prop_assert_eq!(again, Some(batch));
        }
    }
}
