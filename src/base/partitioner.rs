//! Which partition a message goes to, where its producer does not say so.
//!
//! Keyed messages go where Kafka's default partitioner puts them, so that other Kafka producers of the same queue agree
//! (protocol section 7). Keyless ones follow their client.

use std::hash::Hasher;

use crate::base::limits::PARTITIONS_MAX;
use crate::base::names::{ClientId, StableHasher};
use crate::base::units::Partition;

/// The partition of a key, as Kafka's `BuiltInPartitioner` computes it: murmur2, its sign bit cleared, modulo the number of
/// partitions.
pub fn key_partition(key: &[u8], partitions: u16) -> Partition {
    debug_assert!((1..=PARTITIONS_MAX).contains(&partitions));
    Partition(((murmur2(key) & 0x7fff_ffff) % u32::from(partitions)) as u16)
}

/// The partition that a client's keyless messages go to, so that their order survives a reconnect.
pub fn client_partition(client: ClientId, partitions: u16) -> Partition {
    debug_assert!((1..=PARTITIONS_MAX).contains(&partitions));
    let mut hasher = StableHasher::default();
    hasher.write(&client.as_u128().to_be_bytes());
    Partition((hasher.finish() % u64::from(partitions)) as u16)
}

/// MurmurHash2 of 32 bits (Austin Appleby) with the seed that Kafka uses (`org.apache.kafka.common.utils.Utils.murmur2`).
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
    fn murmur2_is_kafkas() {
        // The vectors of Kafka's own UtilsTest.testMurmur2.
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
    fn a_client_has_one_of_the_partitions() {
        assert_eq!(client_partition(ClientId::from(1), 1), Partition(0));
        let partitions: std::collections::HashSet<Partition> =
            (0..1000).map(|client| client_partition(ClientId::from(client), 8)).collect();
        assert_eq!(partitions.len(), 8);
    }
}
