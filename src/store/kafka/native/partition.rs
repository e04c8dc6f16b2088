//! `int32_t`: a partition's number.

use crate::base::limits::PARTITIONS_MAX;
use crate::base::units::Partition;

/// A number that no partition of a queue has.
const NONE: Partition = Partition(u16::MAX);

const _: () = assert!(PARTITIONS_MAX < NONE.0, "every partition of a queue has a lower number");

/// Returns the number for librdkafka.
pub(super) fn to_c(partition: Partition) -> i32 {
    i32::from(partition.0)
}

/// Returns the partition with this number from librdkafka. A negative number (`RD_KAFKA_PARTITION_UA`: no
/// partition) and a number above 65,535 become [`NONE`].
#[inline]
pub(super) fn from_c(number: i32) -> Partition {
    u16::try_from(number).map_or(NONE, Partition)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_of_no_partition_become_none() {
        assert_eq!(from_c(to_c(Partition(63))), Partition(63));
        assert_eq!([-1, i32::MIN, 65_536, i32::MAX].map(from_c), [NONE; 4]);
    }
}
