//! The ids of messages and claims: opaque text that clients cannot forge.
//!
//! An id is 32 hexadecimal digits of 16 bytes: the partition (2, big-endian), the offset of the message or the number of the
//! claim (8), and a check (6). The check is the beginning of SipHash-2-4 (Aumasson and Bernstein, 2012) of what it is, the
//! life of the queue, and the bytes before it, with the queue's key, which only the deployment knows. So the ids of a queue
//! mean nothing in another one, nor once the queue was made again.

use std::fmt;
use std::hash::Hasher;

use siphasher::sip::SipHasher24;

use crate::base::claim::LeaseId;
use crate::base::queue::QueueInfo;
use crate::base::units::{Offset, Partition};

/// The bytes of an id, and those of them before the check.
const BYTES: usize = 16;
const NAMED: usize = 10;

/// What an id names. Its value is part of the check.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Message = 1,
    Claim = 2,
}

/// The life of a queue, which makes and checks ids.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Life {
    key: u128,
    hash: u64,
    incarnation: u64,
}

/// An id as text.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Id([u8; 2 * BYTES]);

impl Id {
    /// Returns its text.
    pub(super) fn as_str(&self) -> &str {
        str::from_utf8(&self.0).unwrap_or_default()
    }
}

impl fmt::Debug for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl Life {
    /// Returns the present life of a queue.
    pub(super) fn of(queue: &QueueInfo) -> Self {
        Self { key: queue.signing.key, hash: queue.hash, incarnation: queue.incarnation }
    }

    /// Returns the id of a message.
    pub(super) fn message(&self, partition: Partition, offset: Offset) -> Id {
        self.id(Kind::Message, partition, offset.0)
    }

    /// Returns the id of a claim.
    pub(super) fn claim(&self, partition: Partition, lease: LeaseId) -> Id {
        self.id(Kind::Claim, partition, lease.0)
    }

    /// Reads the id of a message of this life.
    pub(super) fn read_message(&self, text: &str) -> Option<(Partition, Offset)> {
        self.read(Kind::Message, text).map(|(partition, number)| (partition, Offset(number)))
    }

    /// Reads the id of a claim of this life.
    pub(super) fn read_claim(&self, text: &str) -> Option<(Partition, LeaseId)> {
        self.read(Kind::Claim, text).map(|(partition, number)| (partition, LeaseId(number)))
    }

    fn id(&self, kind: Kind, partition: Partition, number: u64) -> Id {
        let mut bytes = [0; BYTES];
        bytes[..2].copy_from_slice(&partition.0.to_be_bytes());
        bytes[2..NAMED].copy_from_slice(&number.to_be_bytes());
        let check = self.check(kind, &bytes[..NAMED]);
        bytes[NAMED..].copy_from_slice(&check);
        let mut text = [0; 2 * BYTES];
        for (digits, byte) in text.chunks_exact_mut(2).zip(bytes) {
            let digit = |value: u8| b"0123456789abcdef"[usize::from(value & 15)];
            digits.copy_from_slice(&[digit(byte >> 4), digit(byte)]);
        }
        Id(text)
    }

    fn read(&self, kind: Kind, text: &str) -> Option<(Partition, u64)> {
        let digits: &[u8; 2 * BYTES] = text.as_bytes().try_into().ok()?;
        let mut bytes = [0; BYTES];
        for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
            let value = |digit: u8| (digit as char).to_digit(16).and_then(|value| u8::try_from(value).ok());
            *byte = value(pair[0])? << 4 | value(pair[1])?;
        }
        let (named, check) = bytes.split_at(NAMED);
        let differs =
            self.check(kind, named).iter().zip(check).fold(0, |all, (one, other)| all | (one ^ other));
        if differs != 0 {
            return None;
        }
        let (partition, number) = named.split_first_chunk::<2>()?;
        let number = number.first_chunk::<8>()?;
        Some((Partition(u16::from_be_bytes(*partition)), u64::from_be_bytes(*number)))
    }

    fn check(&self, kind: Kind, named: &[u8]) -> [u8; BYTES - NAMED] {
        let mut hasher = SipHasher24::new_with_keys(self.key as u64, (self.key >> 64) as u64);
        hasher.write(b"zaqar id");
        hasher.write(&[kind as u8]);
        hasher.write(&self.hash.to_be_bytes());
        hasher.write(&self.incarnation.to_be_bytes());
        hasher.write(named);
        let mut check = [0; BYTES - NAMED];
        check.copy_from_slice(&hasher.finish().to_be_bytes()[..BYTES - NAMED]);
        check
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_read_only_by_the_life_and_as_the_kind_that_made_it() {
        let life = Life { key: 7, hash: 5, incarnation: 3 };
        let message = life.message(Partition(5), Offset(1 << 40));
        assert_eq!(life.read_message(message.as_str()), Some((Partition(5), Offset(1 << 40))));
        assert_eq!(life.read_claim(message.as_str()), None);
        let claim = life.claim(Partition(0), LeaseId(9));
        assert_eq!(life.read_claim(claim.as_str()), Some((Partition(0), LeaseId(9))));
        for other in [Life { key: 8, ..life }, Life { hash: 4, ..life }, Life { incarnation: 4, ..life }] {
            assert_eq!(other.read_message(message.as_str()), None);
        }
        for at in 0..2 * BYTES {
            let mut changed = message.0;
            changed[at] = if changed[at] == b'0' { b'1' } else { b'0' };
            assert_eq!(life.read_message(Id(changed).as_str()), None, "digit {at}");
        }
        for text in ["", "0", "g", &"0".repeat(32), &"é".repeat(16), &format!("{}0", message.as_str())] {
            assert_eq!(life.read_message(text), None, "{text}");
        }
    }
}
