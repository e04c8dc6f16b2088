//! How the records of a topic hold messages, and the offsets that follow from it.
//!
//! Plain: a message is a record. Any Kafka client reads and writes such queues, and offsets are Kafka's. Packed: a record holds
//! messages of one batch in stored form, so that librdkafka and the broker handle one thing in place of a hundred. Only Millstream
//! reads these. An offset is then Kafka's, followed by the message's number in its record, in [`INDEX_BITS`] bits; between records
//! there are gaps. Only this file converts them: an `i64` is Kafka's offset of a record, an [`Offset`] is ours of a message.

use std::ops::Range;

use crate::base::batch::Batch;
use crate::base::limits::KAFKA_PACKED_RECORD_BYTES as RECORD_BYTES;
use crate::base::units::Offset;

/// Bits of an offset that number the messages of one record.
const INDEX_BITS: u32 = 16;

/// The most messages in one record.
pub(super) const MESSAGES_MAX: u32 = 1 << INDEX_BITS;

/// See the module's page. The layout of a topic never changes: packed topics have names of their own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Layout {
    /// A message is a record.
    Plain,
    /// A record holds many.
    Packed,
}

impl Layout {
    fn bits(self) -> u32 {
        match self {
            Self::Plain => 0,
            Self::Packed => INDEX_BITS,
        }
    }

    /// The offset of a record's first message; or the end, if `of_kafka` is Kafka's end. A negative number, such as Kafka's mark for an
    /// unknown offset, becomes the first offset.
    pub(super) fn offset(self, of_kafka: i64) -> Offset {
        Offset(u64::try_from(of_kafka).unwrap_or(0) << self.bits())
    }

    /// Kafka's offset of the record that holds a message, or of the next record. An offset beyond Kafka's range becomes its last one.
    pub(super) fn of_kafka(self, offset: Offset) -> i64 {
        i64::try_from(offset.0 >> self.bits()).unwrap_or(i64::MAX)
    }

    /// The offset at which that record begins.
    pub(super) fn record_start(self, offset: Offset) -> Offset {
        Offset(offset.0 >> self.bits() << self.bits())
    }

    /// The offsets of an append of `count` messages whose records have offsets from `least` to `most`, where the messages stand
    /// one after the other.
    pub(super) fn appended(self, count: u32, records: u32, least: i64, most: i64) -> Option<Range<Offset>> {
        let is_in_one = match self {
            Self::Plain => most - least + 1 == i64::from(count),
            Self::Packed => records == 1,
        };
        let first = self.offset(least);
        is_in_one.then(|| first..first + u64::from(count))
    }
}

/// The part of a batch from a position on that goes into one record: where it ends, and how many messages it holds.
pub(super) fn pack(batch: &Batch, from: usize) -> (usize, u32) {
    let (mut end, mut count) = (from, 0);
    while count < MESSAGES_MAX
        && end - from < RECORD_BYTES
        && let Some((next, record)) = batch.record_at(end)
    {
        // A large message is alone.
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
        // Kafka's marks (-1001: invalid, -1: end) are no offsets, and an offset beyond its range is its last.
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
