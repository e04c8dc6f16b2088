//! Ids of claims: `<partition>.<lease>.<check>` in hexadecimal. Opaque to clients.
//!
//! The check is SipHash-2-4 of the queue, its incarnation, the partition and the lease, with the key that signs
//! [markers](crate::operation::Marker). So a client can neither guess claims nor use one in another queue.

use std::fmt;
use std::hash::Hasher;

use siphasher::sip::SipHasher24;

use crate::base::claim::LeaseId;
use crate::base::queue::{QueueInfo, parse_hex};
use crate::base::units::Partition;

/// The length of the check, in hexadecimal digits.
const CHECK_DIGITS: usize = 16;

/// The id of a claim.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClaimId {
    partition: Partition,
    lease: LeaseId,
    check: u64,
}

impl ClaimId {
    /// Returns the id of a lease in a partition of `queue`.
    pub fn of(queue: &QueueInfo, partition: Partition, lease: LeaseId) -> Self {
        Self { partition, lease, check: check(queue, partition, lease) }
    }

    /// Parses an id. `None` if the text has another form.
    pub fn parse(text: &str) -> Option<Self> {
        let mut parts = text.split('.');
        let partition = u16::try_from(parse_hex(parts.next()?)?).ok()?;
        let lease = parse_hex(parts.next()?)?;
        let check = parts.next().filter(|digits| digits.len() == CHECK_DIGITS)?;
        if parts.next().is_some() || !check.bytes().all(|digit| digit.is_ascii_hexdigit()) {
            return None;
        }
        let check = u64::from_str_radix(check, 16).ok()?;
        Some(Self { partition: Partition(partition), lease: LeaseId(lease), check })
    }

    /// Returns the partition and the lease that the id names in `queue`. `None` if it was not given out in this
    /// life of the queue.
    pub fn place(&self, queue: &QueueInfo) -> Option<(Partition, LeaseId)> {
        (*self == Self::of(queue, self.partition, self.lease)).then_some((self.partition, self.lease))
    }
}

fn check(queue: &QueueInfo, partition: Partition, lease: LeaseId) -> u64 {
    let mut hasher = SipHasher24::new_with_key(&queue.signing.key.to_le_bytes());
    hasher.write(b"claim");
    for field in [queue.hash, queue.incarnation, u64::from(partition.0), lease.0] {
        hasher.write(&field.to_be_bytes());
    }
    hasher.finish()
}

impl fmt::Display for ClaimId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:x}.{:x}.{:016x}", self.partition.0, self.lease.0, self.check)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::queue::{QueueId, Signing};
    use proptest::prelude::*;

    /// The longest claim id (protocol section 17).
    const CHARS_MAX: usize = 64;

    fn queue(hash: u64, incarnation: u64, key: u128) -> QueueInfo {
        let signing = Signing { key, ..Signing::default() };
        QueueInfo { id: QueueId(1), incarnation, partitions: 8, hash, signing, policy: Default::default() }
    }

    proptest! {
        #[test]
        fn an_id_names_its_lease_in_its_own_queue_alone(
            (partition, lease) in (any::<u16>(), any::<u64>()),
            (hash, incarnation, key) in (any::<u64>(), any::<u64>(), any::<u128>()),
        ) {
            let (partition, lease) = (Partition(partition), LeaseId(lease));
            let here = queue(hash, incarnation, key);
            let text = ClaimId::of(&here, partition, lease).to_string();
            prop_assert!(text.len() <= CHARS_MAX);
            prop_assert!(text.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._~".contains(&b)));
            let id = ClaimId::parse(&text).unwrap();
            prop_assert_eq!(id.place(&here), Some((partition, lease)));
            for there in [queue(!hash, incarnation, key), queue(hash, !incarnation, key), queue(hash, incarnation, !key)] {
                prop_assert_eq!(id.place(&there), None);
            }
            let guessed = ClaimId { lease: LeaseId(lease.0 ^ 1), ..id };
            prop_assert_eq!(guessed.place(&here), None);
        }

        #[test]
        fn parsing_never_panics(text in "[0-9a-f.+ä]{0,50}") {
            let _ = ClaimId::parse(&text);
        }
    }

    #[test]
    fn other_forms_are_refused() {
        for bad in
            ["", "0.1", "0.1.2", "0.1.000000000000000g", "0.1.+00000000000000f", "0.01.0123456789abcdef"]
        {
            assert_eq!(ClaimId::parse(bad), None, "{bad}");
        }
        assert!(ClaimId::parse("0.1.0123456789abcdef").is_some());
        assert_eq!(ClaimId::parse("0.1.0123456789abcdef.0"), None);
    }
}
