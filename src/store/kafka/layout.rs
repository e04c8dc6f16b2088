//! How the records of a topic hold messages, and which offsets follow from that.
//!
//! Plain: each message is a record. Any Kafka client can read and write such queues, and offsets are Kafka's.
//! Packed: a record holds messages of one batch in stored form, so that librdkafka and the broker handle one
//! record instead of a hundred. Only Millstream can read these. An offset is then Kafka's, followed by the
//! message's number in its record, in [`INDEX_BITS`] bits; between records there are gaps.
//!
//! Only this file converts offsets: an `i64` is Kafka's offset of a record, an [`Offset`] is Millstream's
//! offset of a message.

use std::ops::Range;

use crate::base::batch::Batch;
use crate::base::limits::KAFKA_PACKED_RECORD_BYTES as RECORD_BYTES;
use crate::base::units::Offset;

/// The bits of an offset that number the messages of one record.
const INDEX_BITS: u32 = 16;

/// The most messages in one record.
pub(super) const MESSAGES_MAX: u32 = 1 << INDEX_BITS;

/// How the records of a topic hold messages. The layout of a topic never changes: packed topics have their
/// own names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Layout {
    /// Each message is a record.
    Plain,
    /// A record holds many messages.
    Packed,
}

impl Layout {
    fn bits(self) -> u32 {
        match self {
            Self::Plain => 0,
            Self::Packed => INDEX_BITS,
        }
    }

    /// Returns the offset of a record's first message. If `of_kafka` is Kafka's end, returns the end. A
    /// negative number, such as Kafka's mark for an unknown offset, becomes the first offset.
    pub(super) fn offset(self, of_kafka: i64) -> Offset {
        Offset(u64::try_from(of_kafka).unwrap_or(0) << self.bits())
    }

    /// Returns Kafka's offset of the record that holds a message, or of the next record. An offset beyond
    /// Kafka's range becomes its last one.
    pub(super) fn of_kafka(self, offset: Offset) -> i64 {
        i64::try_from(offset.0 >> self.bits()).unwrap_or(i64::MAX)
    }

    /// Returns the offset of the first message in the record that holds `offset`.
    pub(super) fn record_start(self, offset: Offset) -> Offset {
        Offset(offset.0 >> self.bits() << self.bits())
    }

    /// Returns the offsets of an append of `count` messages whose records have offsets from `least` to
    /// `most`. Returns `None` if the messages are not consecutive.
    pub(super) fn appended(self, count: u32, records: u32, least: i64, most: i64) -> Option<Range<Offset>> {
        let is_in_one = match self {
            Self::Plain => most - least + 1 == i64::from(count),
            Self::Packed => records == 1,
        };
        let first = self.offset(least);
        is_in_one.then(|| first..first + u64::from(count))
    }
}

/// Returns where the part of a batch ends that begins at `from` and goes into one record, and its number of
/// messages.
pub(super) fn pack(batch: &Batch, from: usize) -> (usize, u32) {
    let (mut end, mut count) = (from, 0);
    while count < MESSAGES_MAX
        && end - from < RECORD_BYTES
        && let Some((next, record)) = batch.record_at(end)
    {
        // A large message gets a record of its own.
        if count > 0 && next - from > RECORD_BYTES && record.payload.len() > RECORD_BYTES {
            break;
        }
        (end, count) = (next, count + 1);
    }
    (end, count)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::batch::BatchBuilder;
    use crate::base::names::ClientId;
    use proptest::prelude::*;

    #[test]
    fn offsets_lead_to_their_records_and_back() {
        assert_eq!(
            (
                Layout::Plain.offset(7),
                Layout::Plain.of_kafka(Offset(7)),
                Layout::Plain.record_start(Offset(7))
            ),
            (Offset(7), 7, Offset(7))
        );
        let packed = Layout::Packed;
        let first = Offset(7 << 16);
        assert_eq!(packed.offset(7), first);
        assert_eq!((packed.of_kafka(first + 99), packed.record_start(first + 99)), (7, first));
        assert_eq!(packed.appended(100, 1, 7, 7), Some(first..first + 100));
        assert_eq!(packed.appended(100, 2, 7, 8), None);
        assert_eq!(
            (Layout::Plain.appended(2, 2, 7, 8), Layout::Plain.appended(2, 2, 7, 9)),
            (Some(Offset(7)..Offset(9)), None)
        );
        // Kafka's marks (-1001: invalid, -1: end) count as 0. An offset beyond Kafka's range becomes its
        // last.
        assert_eq!((packed.offset(-1001), Layout::Plain.offset(-1)), (Offset::ZERO, Offset::ZERO));
        assert_eq!(Layout::Plain.of_kafka(Offset(u64::MAX)), i64::MAX);
    }

    proptest! {
        #[test]
        fn every_message_goes_into_one_record_and_no_record_is_too_large(
            sizes in proptest::collection::vec(prop_oneof![0usize..10, 60_000usize..400_000], 1..40),
            small in 0u32..140_000,
        ) {
            let mut builder = BatchBuilder::new(ClientId::from(1), 60, 0);
            sizes.iter().for_each(|size| builder.push(&vec![0; *size]));
            (0..small).for_each(|_| builder.push(b""));
            let batch = builder.close();
            let (mut at, mut messages) = (0, 0);
            while at < batch.stored_bytes() {
                let (end, count) = pack(&batch, at);
                prop_assert!(count > 0 && count <= MESSAGES_MAX);
                prop_assert!(end - at <= 2 * RECORD_BYTES + 8 || count == 1, "{} bytes, {count} messages", end - at);
                (at, messages) = (end, messages + count);
            }
            prop_assert_eq!(messages, batch.count());
        }
    }
}
