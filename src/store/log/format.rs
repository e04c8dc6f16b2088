//! The content of the log's files, byte by byte. All numbers are little-endian; checksums are CRC-32C
//! (RFC 3720).
//!
//! A **segment** has a fixed size. Its header is in its first block, with a copy in the second. Rounds
//! follow, one after the other, each at a multiple of 8:
//!
//! ```text
//! header   magic "MSTRMLOG", version u32, checksum u32 of the version and the 24 bytes that follow,
//!          stamp u64, number u64, bytes u64;
//!          in version 2 also: features u64, checksum u32 of all that precedes it;
//!          if it is grouped also: end u64 (position after the last round), order u64, count u32 of the
//!          segments that it replaces, the stamp u64 of each, checksum u32 of all that precedes it
//! round    magic u32, checksum u32 of the rest of its header, stamp u64, position u64, body u32 (bytes),
//!          batches u32
//!   batch  magic u32, checksum u32 of the stamp and the rest of its header, checksum u32 of its records,
//!          records u32 (bytes), incarnation u64, base offset u64, timestamp u64 (Unix ms), client (16),
//!          TTL u32 (s), messages u32, partition u16, flags u16, delay u32 (s); then its records in stored
//!          form, then zeros up to a multiple of 8
//! ```
//!
//! A segment has version 1 unless it has features, a bit for each: `state` (bit 0), batches of hidden
//! partitions, whose numbers have bit 15; `delay` (bit 1), batches with a delay, which is 0 otherwise; `headers` (bit
//! 4), batches whose messages have headers; `grouped` (bit 5), a segment that replaces others (`grouped`). Bits 2 and 3
//! are reserved for `produce sessions` and `body formats`. A server refuses a segment with a feature that it does not
//! support. The other files have version 1.
//!
//! The flags of a batch: 1, its messages have keys; 2, its client is anonymous; 4, its messages have keys and headers.
//!
//! A round is what one write and one sync made durable. It ends where its last batch ends. After it come
//! zeros, the next round, or remains of an earlier use of the file, which have another stamp. A stamp is
//! random and secret. So no payload is ever mistaken for a batch, even where reading resumes after damage.
//! The first 16 bytes of a file, and the first 40 of a segment, mean the same in every version, so that an
//! unknown version is not taken for damage.

use std::fmt;

use super::features::Features;
use crate::base::batch::{Batch, Shape, StoredBatch};
use crate::base::millis::{Millis, UnixMillis};
use crate::base::names::ClientId;
use crate::base::units::{Offset, Partition};

/// The version of all files but segments.
pub const VERSION: u32 = 1;

/// Writes begin and end at multiples of this many bytes, because a disk that tears a write does not harm the
/// bytes around such blocks.
pub const BLOCK: usize = 4096;

/// The position of a segment's first round.
pub const ROUNDS_AT: u64 = 2 * BLOCK as u64;

/// The alignment of rounds and batches, in bytes.
pub const ALIGN: usize = 8;

/// The size of a round's header, in bytes.
pub const ROUND_HEADER: usize = 32;

/// The size of a batch's header, in bytes.
pub const BATCH_HEADER: usize = 72;

/// No message has this offset or a later one, so adding to an offset never overflows.
pub const OFFSET_MAX: Offset = Offset(1 << 63);

/// No message is stored at this time or later.
pub const TIME_MAX: UnixMillis = UnixMillis::new(1 << 62);

const ROUND_MAGIC: u32 = u32::from_le_bytes(*b"rnd\xd1");
const BATCH_MAGIC: u32 = u32::from_le_bytes(*b"bat\xd1");

const _: () = assert!(
    ROUND_HEADER.is_multiple_of(ALIGN) && BATCH_HEADER.is_multiple_of(ALIGN) && BLOCK.is_multiple_of(ALIGN),
    "what follows a header is aligned"
);

const HAS_KEYS: u16 = 1;
const IS_ANONYMOUS: u16 = 1 << 1;
const HAS_HEADERS: u16 = 1 << 2;

/// Returns the CRC-32C of `parts`, one after the other.
pub fn checksum(parts: &[&[u8]]) -> u32 {
    parts.iter().fold(0, |sum, part| crc32c::crc32c_append(sum, part))
}

/// Reads numbers one after the other.
#[derive(Clone, Copy, Debug)]
pub struct Reader<'a>(pub &'a [u8]);

impl<'a> Reader<'a> {
    /// Reads `count` bytes. Returns `None` if fewer are left.
    pub fn bytes(&mut self, count: usize) -> Option<&'a [u8]> {
        let (bytes, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(bytes)
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (bytes, rest) = self.0.split_first_chunk::<N>()?;
        self.0 = rest;
        Some(*bytes)
    }

    /// Reads a number of two bytes.
    pub fn u16(&mut self) -> Option<u16> {
        self.array().map(u16::from_le_bytes)
    }

    /// Reads a number of four bytes.
    pub fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_le_bytes)
    }

    /// Reads a number of eight bytes.
    pub fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_le_bytes)
    }

    /// Reads a number of sixteen bytes.
    pub fn u128(&mut self) -> Option<u128> {
        self.array().map(u128::from_le_bytes)
    }
}

/// Why a file cannot be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Unreadable {
    /// Its version is another one. The file is refused instead of guessed at.
    Version {
        /// The version of the file.
        found: u32,
        /// The newest version that is read.
        newest: u32,
    },
    /// It has these features, which are not supported.
    Features(Features),
    /// Its first bytes are not those that were written.
    Damaged,
}

impl fmt::Display for Unreadable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Version { found, newest: 1 } => {
                write!(f, "format version {found} is not supported: this server reads version 1")
            }
            Self::Version { found, newest } => {
                write!(f, "format version {found} is not supported: this server reads versions 1 to {newest}")
            }
            Self::Features(features) => write!(
                f,
                "it uses features that this server does not support ({features}): use a newer server"
            ),
            Self::Damaged => f.write_str("its first bytes are damaged"),
        }
    }
}

/// Returns the beginning of a file: magic, version, the checksum of the version and of `bytes`, then `bytes`.
pub fn with_prefix(magic: [u8; 8], version: u32, bytes: &[u8]) -> Vec<u8> {
    let mut file = magic.to_vec();
    file.extend(version.to_le_bytes());
    file.extend(checksum(&[&version.to_le_bytes(), bytes]).to_le_bytes());
    file.extend(bytes);
    file
}

/// Returns the version of a file, and the `length` bytes after its first 16, if their checksum matches.
/// Versions 1 to `newest` are read.
pub fn behind_prefix(
    magic: [u8; 8],
    newest: u32,
    file: &[u8],
    length: usize,
) -> Result<(u32, &[u8]), Unreadable> {
    let mut reader = Reader(file);
    let magic_found = reader.bytes(magic.len()).ok_or(Unreadable::Damaged)?;
    let found = reader.u32().ok_or(Unreadable::Damaged)?;
    let sum = reader.u32().ok_or(Unreadable::Damaged)?;
    let bytes = reader.bytes(length).ok_or(Unreadable::Damaged)?;
    if magic_found != magic || checksum(&[&found.to_le_bytes(), bytes]) != sum {
        return Err(Unreadable::Damaged);
    }
    if !(1..=newest).contains(&found) {
        return Err(Unreadable::Version { found, newest });
    }
    Ok((found, bytes))
}

/// A partition of one incarnation of a queue: the incarnation, and the partition's number.
pub type PartitionId = (u64, Partition);

/// The header of a batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BatchHeader {
    /// The incarnation of its queue.
    pub incarnation: u64,
    /// The partition in its queue.
    pub partition: Partition,
    /// The offset of its first message.
    pub base_offset: Offset,
    /// When it was stored.
    pub timestamp: UnixMillis,
    client: ClientId,
    ttl_secs: u32,
    /// The number of its messages. A batch without messages is a mark: it keeps the end of a partition whose
    /// messages have all expired, so that its offsets continue there.
    pub count: u32,
    /// The size of its records, in bytes.
    pub records: u32,
    flags: u16,
    delay_secs: u32,
    records_checksum: u32,
}

impl BatchHeader {
    /// Returns the offset after its last message.
    pub fn end_offset(&self) -> Offset {
        self.base_offset.saturating_add(u64::from(self.count))
    }

    /// Returns when its messages expire.
    pub fn expiry(&self) -> UnixMillis {
        self.timestamp + Millis::from_secs(self.ttl_secs)
    }

    /// Returns when claims see its messages.
    pub fn visible(&self) -> UnixMillis {
        self.timestamp + Millis::from_secs(self.delay_secs)
    }

    /// Returns its size with its records, in bytes.
    pub fn bytes(&self) -> usize {
        BATCH_HEADER + (self.records as usize).next_multiple_of(ALIGN)
    }

    /// Returns its bytes in the segment with this stamp.
    pub fn encode(&self, stamp: u64) -> [u8; BATCH_HEADER] {
        let mut bytes = [0; BATCH_HEADER];
        let mut at = 8;
        let mut put = |field: &[u8]| {
            bytes[at..at + field.len()].copy_from_slice(field);
            at += field.len();
        };
        put(&self.records_checksum.to_le_bytes());
        put(&self.records.to_le_bytes());
        put(&self.incarnation.to_le_bytes());
        put(&self.base_offset.0.to_le_bytes());
        put(&self.timestamp.get().to_le_bytes());
        put(&self.client.as_u128().to_le_bytes());
        put(&self.ttl_secs.to_le_bytes());
        put(&self.count.to_le_bytes());
        put(&self.partition.0.to_le_bytes());
        put(&self.flags.to_le_bytes());
        put(&self.delay_secs.to_le_bytes());
        bytes[..4].copy_from_slice(&BATCH_MAGIC.to_le_bytes());
        let sum = checksum(&[&stamp.to_le_bytes(), &bytes[8..]]);
        bytes[4..8].copy_from_slice(&sum.to_le_bytes());
        bytes
    }

    /// Reads the header of a batch in a segment with this stamp. Returns `None` if there is none or it is
    /// damaged.
    pub fn parse(stamp: u64, bytes: &[u8]) -> Option<Self> {
        let mut fields = Reader(bytes.get(..BATCH_HEADER)?);
        let magic = fields.u32()?;
        let sum = fields.u32()?;
        if magic != BATCH_MAGIC || checksum(&[&stamp.to_le_bytes(), fields.0]) != sum {
            return None;
        }
        let header = Self {
            records_checksum: fields.u32()?,
            records: fields.u32()?,
            incarnation: fields.u64()?,
            base_offset: Offset(fields.u64()?),
            timestamp: UnixMillis::new(fields.u64()?),
            client: ClientId::from(fields.u128()?),
            ttl_secs: fields.u32()?,
            count: fields.u32()?,
            partition: Partition(fields.u16()?),
            flags: fields.u16()?,
            delay_secs: fields.u32()?,
        };
        let is_sound = header.end_offset() <= OFFSET_MAX && header.timestamp <= TIME_MAX;
        is_sound.then_some(header)
    }

    /// Returns its records if their checksum matches. `bytes` begins with the header.
    pub fn records<'a>(&self, bytes: &'a [u8]) -> Option<&'a [u8]> {
        let records = bytes.get(BATCH_HEADER..)?.get(..self.records as usize)?;
        (checksum(&[records]) == self.records_checksum).then_some(records)
    }

    /// Returns the batch with these records, as it was stored, or `None` for a mark.
    pub fn batch(&self, records: &[u8]) -> Option<StoredBatch> {
        let shape = match self.flags & (HAS_KEYS | HAS_HEADERS) {
            0 => Shape::Payloads,
            HAS_KEYS => Shape::Keys,
            _ => Shape::Headers,
        };
        let batch = Batch::from_stored(self.client, self.ttl_secs, shape, self.count, records)?;
        let batch = batch.anonymous(self.flags & IS_ANONYMOUS != 0).delayed(self.delay_secs);
        Some(StoredBatch { base_offset: self.base_offset, timestamp: self.timestamp, stored_ns: 0, batch })
    }
}

/// Returns the size of a batch in a round, in bytes.
pub fn batch_bytes(batch: &Batch) -> usize {
    BATCH_HEADER + batch.stored_bytes().next_multiple_of(ALIGN)
}

/// Writes a round to the end of a buffer.
#[derive(Debug)]
pub struct RoundWriter {
    stamp: u64,
    begins: usize,
    batches: u32,
}

impl RoundWriter {
    /// Begins a round of the segment with this stamp.
    pub fn begin(buffer: &mut Vec<u8>, stamp: u64) -> Self {
        let begins = buffer.len();
        buffer.extend([0; ROUND_HEADER]);
        Self { stamp, begins, batches: 0 }
    }

    /// Adds a batch of the partition. Returns its header and its position in `buffer`.
    pub fn push(
        &mut self,
        buffer: &mut Vec<u8>,
        id: PartitionId,
        stored: &StoredBatch,
    ) -> (BatchHeader, usize) {
        let batch = &stored.batch;
        let shape = match batch.shape() {
            Shape::Payloads => 0,
            Shape::Keys => HAS_KEYS,
            Shape::Headers => HAS_HEADERS,
        };
        let flags = shape | if batch.is_anonymous() { IS_ANONYMOUS } else { 0 };
        let header = BatchHeader {
            incarnation: id.0,
            partition: id.1,
            base_offset: stored.base_offset,
            timestamp: stored.timestamp,
            client: batch.client(),
            ttl_secs: batch.ttl_secs(),
            count: batch.count(),
            records: batch.stored_bytes() as u32,
            flags,
            delay_secs: batch.delay_secs(),
            records_checksum: checksum(&[batch.as_stored()]),
        };
        let at = self.put(buffer, &header, batch.as_stored());
        (header, at)
    }

    /// Adds a mark that the partition ends at offset `end`.
    pub fn push_mark(
        &mut self,
        buffer: &mut Vec<u8>,
        id: PartitionId,
        end: Offset,
        timestamp: UnixMillis,
    ) -> (BatchHeader, usize) {
        let header = BatchHeader {
            incarnation: id.0,
            partition: id.1,
            base_offset: end,
            timestamp,
            client: ClientId::from(0),
            ttl_secs: 0,
            count: 0,
            records: 0,
            flags: 0,
            delay_secs: 0,
            records_checksum: checksum(&[]),
        };
        let at = self.put(buffer, &header, &[]);
        (header, at)
    }

    fn put(&mut self, buffer: &mut Vec<u8>, header: &BatchHeader, records: &[u8]) -> usize {
        let begins = buffer.len();
        buffer.extend_from_slice(&header.encode(self.stamp));
        buffer.extend_from_slice(records);
        buffer.resize(buffer.len().next_multiple_of(ALIGN), 0);
        self.batches += 1;
        begins
    }

    /// Adds a batch as it is in a segment with the same stamp. `bytes` are its header, its records, and the
    /// zeros after them.
    pub fn copy(&mut self, buffer: &mut Vec<u8>, bytes: &[u8]) {
        debug_assert!(
            BatchHeader::parse(self.stamp, bytes).is_some_and(|header| header.bytes() == bytes.len())
        );
        buffer.extend_from_slice(bytes);
        self.batches += 1;
    }

    /// Ends the round, which is written at `position` of the segment.
    pub fn end(self, buffer: &mut [u8], position: u64) {
        let body = (buffer.len() - self.begins - ROUND_HEADER) as u32;
        let header = &mut buffer[self.begins..self.begins + ROUND_HEADER];
        header[8..16].copy_from_slice(&self.stamp.to_le_bytes());
        header[16..24].copy_from_slice(&position.to_le_bytes());
        header[24..28].copy_from_slice(&body.to_le_bytes());
        header[28..32].copy_from_slice(&self.batches.to_le_bytes());
        header[..4].copy_from_slice(&ROUND_MAGIC.to_le_bytes());
        let sum = checksum(&[&header[8..]]);
        header[4..8].copy_from_slice(&sum.to_le_bytes());
    }
}

/// Returns the size of the body of the round that begins with `bytes`, or `None` if no round with this stamp
/// and position does. The body may end after the end of the file.
pub fn round_at(bytes: &[u8], stamp: u64, position: u64) -> Option<usize> {
    let mut fields = Reader(bytes.get(..ROUND_HEADER)?);
    if fields.u32()? != ROUND_MAGIC {
        return None;
    }
    let sum = fields.u32()?;
    let is_whole = checksum(&[fields.0]) == sum;
    let is_ours = fields.u64()? == stamp && fields.u64()? == position;
    (is_whole && is_ours).then_some(fields.u32()? as usize)
}

/// Returns whether a batch's header may begin here: a cheap check before [`BatchHeader::parse`].
pub fn may_be_batch(bytes: &[u8]) -> bool {
    bytes.starts_with(&BATCH_MAGIC.to_le_bytes())
}

/// Returns whether a round's header may begin here: a cheap check before [`round_at`].
pub fn may_be_round(bytes: &[u8]) -> bool {
    bytes.starts_with(&ROUND_MAGIC.to_le_bytes())
}
