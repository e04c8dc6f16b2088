//! Kafka's records as batches of the stored form: neighbours that share client, TTL and time become one batch.

use super::header::{HEADER, Header};
use super::native::Message;
use crate::batch::{BatchBuilder, StoredBatch};
use crate::names::ClientId;

/// A batch is closed when it holds so many bytes.
const BATCH_BYTES: usize = 256 << 10;

/// Records of one partition, in order, on their way into batches.
#[derive(Debug)]
pub(super) struct Batches {
    /// Time to live of records that say nothing of it.
    default_ttl_secs: u32,
    /// Whose records are that say nothing of it.
    nobody: ClientId,
    open: Option<Open>,
    /// Times never run backwards.
    last_ms: u64,
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
    pub(super) fn new(default_ttl_secs: u32, nobody: ClientId) -> Self {
        Self { default_ttl_secs, nobody, open: None, last_ms: 0 }
    }

    /// The next record; the batch that it does not belong to, where that ends one.
    pub(super) fn push(&mut self, message: &Message<'_>) -> Option<StoredBatch> {
        let header = message.header(HEADER).map(Header::decode).unwrap_or_default();
        let ttl_secs = header.ttl_secs.unwrap_or(self.default_ttl_secs);
        let client = header.client.unwrap_or(self.nobody);
        let (offset, key) = (u64::try_from(message.offset()).unwrap_or(0), message.key());
        let timestamp_ms = message.timestamp_ms().max(self.last_ms);
        self.last_ms = timestamp_ms;
        let belongs = |open: &Open| {
            open.next_offset == offset
                && open.timestamp_ms == timestamp_ms
                && open.client == client
                && open.builder.ttl_secs() == ttl_secs
                && open.builder.has_keys() != key.is_empty()
                && open.builder.stored_bytes() < BATCH_BYTES
        };
        let ended = if self.open.as_ref().is_some_and(belongs) { None } else { self.close() };
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
        ended
    }

    /// The offset that the next record has at least; `end` where no batch is open.
    pub(super) fn next_offset(&self, end: u64) -> u64 {
        self.open.as_ref().map_or(end, |open| open.next_offset)
    }

    /// The batch that was begun.
    pub(super) fn close(&mut self) -> Option<StoredBatch> {
        let Open { base_offset, timestamp_ms, builder, .. } = self.open.take()?;
        Some(StoredBatch { base_offset, timestamp_ms, batch: builder.close() })
    }
}
