//! Chooses the partition of a message if its producer does not.
//!
//! Messages with a key go to the partition that Kafka's default partitioner chooses, so that other Kafka
//! producers of the same queue agree (protocol section 7). Messages without a key go to the partition of
//! their client.

use std::hash::Hasher;

use crate::base::limits::PARTITIONS_MAX;
use crate::base::names::{ClientId, StableHasher};
use crate::base::units::Partition;

/// Returns the partition of a key as Kafka's `BuiltInPartitioner` does: murmur2 without the sign bit, modulo
/// the number of partitions.
pub fn key_partition(key: &[u8], partitions: u16) -> Partition {
    debug_assert!((1..=PARTITIONS_MAX).contains(&partitions));
    Partition(((murmur2(key) & 0x7fff_ffff) % u32::from(partitions)) as u16)
}

/// Returns the partition for a client's messages without a key. It is always the same, so that their order
/// survives a reconnect.
pub fn client_partition(client: ClientId, partitions: u16) -> Partition {
    debug_assert!((1..=PARTITIONS_MAX).contains(&partitions));
    let mut hasher = StableHasher::default();
    hasher.write(&client.as_u128().to_be_bytes());
    Partition((hasher.finish() % u64::from(partitions)) as u16)
}

/// 32-bit MurmurHash2 (Austin Appleby) with Kafka's seed (`org.apache.kafka.common.utils.Utils.murmur2`).
fn murmur2(bytes: &[u8]) -> u32 {
    const SEED: u32 = 0x9747_b28c;
    const M: u32 = 0x5bd1_e995;
    let mix = |k: u32| {
        let k = k.wrapping_mul(M);
        (k ^ (k >> 24)).wrapping_mul(M)
    };
    let mut hash = SEED ^ bytes.len() as u32;
    let (words, rest) = bytes.as_chunks::<4>();
    for word in words {
        hash = hash.wrapping_mul(M) ^ mix(u32::from_le_bytes(*word));
    }
    if !rest.is_empty() {
        let tail = rest.iter().rev().fold(0, |tail, byte| tail << 8 | u32::from(*byte));
        hash = (hash ^ tail).wrapping_mul(M);
    }
    hash = (hash ^ (hash >> 13)).wrapping_mul(M);
    hash ^ (hash >> 15)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn murmur2_matches_kafka() {
        // The vectors of Kafka's UtilsTest.testMurmur2.
        let vectors: [(&str, i32); 6] = [
            ("21", -973_932_308),
            ("foobar", -790_332_482),
            ("a-little-bit-long-string", -985_981_536),
            ("a-little-bit-longer-string", -1_486_304_829),
            ("lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8", -58_897_971),
            ("abc", 479_470_107),
        ];
        for (key, hash) in vectors {
            assert_eq!(murmur2(key.as_bytes()) as i32, hash, "{key}");
            assert_eq!(
                key_partition(key.as_bytes(), 7),
                Partition(((hash & 0x7fff_ffff) % 7) as u16),
                "{key}"
            );
        }
    }

    #[test]
    fn clients_spread_over_all_partitions() {
        assert_eq!(client_partition(ClientId::from(1), 1), Partition(0));
        let partitions: std::collections::HashSet<Partition> =
            (0..1000).map(|client| client_partition(ClientId::from(client), 8)).collect();
        assert_eq!(partitions.len(), 8);
    }
}
