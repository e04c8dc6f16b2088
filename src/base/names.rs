//! Names from outside, validated once: projects, queues, clients (protocol sections 1 and 8).

use std::borrow::Borrow;
use std::fmt;
use std::hash::Hasher;
use std::sync::Arc;

use uuid::Uuid;

use crate::base::error::PeerFault;
use crate::base::limits::{PROJECT_NAME_CHARS_MAX, QUEUE_NAME_CHARS_MAX};
use crate::base::setting::{Kind, Value};
use crate::base::units::Partition;

/// The name of a project, which is a tenant. Projects do not share queues.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Project(Arc<str>);

/// The name of a queue, without a partition.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct QueueName(Arc<str>);

/// The full name of a queue.
pub type FullName = (Project, QueueName);

/// The value of `queue_name` in a request: a queue, or one partition of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QueueAddress {
    /// The queue.
    pub queue: QueueName,
    /// The number `n` of `queue/<n>`; `None` for the whole queue.
    pub partition: Option<Partition>,
}

/// The identity of a client across its connections: the 128 bits of a UUID.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ClientId(u128);

fn is_name(text: &str, chars_max: usize) -> bool {
    !text.is_empty()
        && text.len() <= chars_max
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.'))
}

/// Returns whether a path in a URL or a file system would not preserve the name.
fn is_dots(text: &str) -> bool {
    matches!(text, "." | "..")
}

impl Project {
    /// Parses a project name: 1 to 128 characters of `A-Z a-z 0-9 _ - .`, except `.` and `..`.
    pub fn parse(text: &str) -> Result<Self, PeerFault> {
        if is_dots(text) { Err(PeerFault::ProjectName) } else { Self::parse_stored(text) }
    }

    /// Parses a project name that a store has kept. Accepts `.` and `..`, as earlier versions did.
    pub fn parse_stored(text: &str) -> Result<Self, PeerFault> {
        if is_name(text, PROJECT_NAME_CHARS_MAX) {
            Ok(Self(text.into()))
        } else {
            Err(PeerFault::ProjectName)
        }
    }

    /// Returns the name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// The project `default`, for clients that name none unless a setting names another.
impl Default for Project {
    fn default() -> Self {
        Self("default".into())
    }
}

impl Value for Project {
    fn read(text: &str, _: &Kind) -> Result<Self, String> {
        Self::parse(text).map_err(|error| error.to_string())
    }

    fn show(&self, _: &Kind) -> String {
        self.to_string()
    }
}

impl QueueName {
    /// Parses a queue name: 1 to 64 characters of `A-Z a-z 0-9 _ - .`, except `.` and `..`.
    pub fn parse(text: &str) -> Result<Self, PeerFault> {
        if is_name(text, QUEUE_NAME_CHARS_MAX) && !is_dots(text) {
            Ok(Self(text.into()))
        } else {
            Err(PeerFault::QueueName)
        }
    }

    /// Returns the name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Names are compared as their text is.
impl Borrow<str> for QueueName {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl QueueAddress {
    /// Parses a queue name with an optional `/<partition>`: decimal, without sign or leading zeros.
    pub fn parse(text: &str) -> Result<Self, PeerFault> {
        let Some((queue, partition)) = text.split_once('/') else {
            return Ok(Self { queue: QueueName::parse(text)?, partition: None });
        };
        let canonical = partition.bytes().all(|b| b.is_ascii_digit())
            && (partition == "0" || !partition.starts_with('0'))
            && !partition.is_empty();
        if !canonical {
            return Err(PeerFault::QueueName);
        }
        // A well-formed number that is too large names a partition that does not exist: that gets 404 later,
        // not 400.
        let partition = partition.parse().unwrap_or(u16::MAX);
        Ok(Self { queue: QueueName::parse(queue)?, partition: Some(Partition(partition)) })
    }
}

impl ClientId {
    /// Parses the 36-character form of a UUID. Ignores case.
    pub fn parse(text: &str) -> Result<Self, PeerFault> {
        match Uuid::try_parse(text) {
            Ok(uuid)
                if text.len() == uuid::fmt::Hyphenated::LENGTH
                    && uuid.as_u128() != Self::of_claims_by_id().0 =>
            {
                Ok(Self(uuid.as_u128()))
            }
            _ => Err(PeerFault::ClientId),
        }
    }

    /// Creates a random id.
    pub fn random() -> Self {
        Self(Uuid::new_v4().as_u128())
    }

    /// Returns the 128 bits.
    pub fn as_u128(self) -> u128 {
        self.0
    }
}

impl ClientId {
    /// Returns the client that claims belong to which any client may use that knows their ids. No client can be it:
    /// [`Self::parse`] refuses it.
    pub const fn of_claims_by_id() -> Self {
        Self(0x636c_6169_6d73_f062_8079_2d69_6400_0000)
    }
}

impl From<u128> for ClientId {
    fn from(bits: u128) -> Self {
        Self(bits)
    }
}

impl fmt::Display for ClientId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Uuid::from_u128(self.0).hyphenated().fmt(f)
    }
}

impl fmt::Debug for ClientId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for Project {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Display for QueueName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A hash that is the same in every process, on every machine and in every release: 64-bit FNV-1a with
/// SplitMix64's final mix, because placement takes it modulo small numbers.
#[derive(Clone, Copy, Debug)]
pub struct StableHasher(u64);

impl Default for StableHasher {
    fn default() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }
}

impl Hasher for StableHasher {
    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
    }

    fn finish(&self) -> u64 {
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }
}

/// Returns the stable hash of a project's queue. It decides the queue's home and owners, and is part of its
/// markers.
pub fn queue_hash(project: &Project, queue: &QueueName) -> u64 {
    let mut hasher = StableHasher::default();
    hasher.write(project.as_str().as_bytes());
    hasher.write(&[0]);
    hasher.write(queue.as_str().as_bytes());
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_queue_address_names_a_queue_or_one_partition_of_it() {
        let address =
            |text: &str| QueueAddress::parse(text).map(|a| (a.queue.as_str().to_owned(), a.partition));
        assert_eq!(address("orders"), Ok(("orders".into(), None)));
        assert_eq!(address("or.de-r_s/0"), Ok(("or.de-r_s".into(), Some(Partition(0)))));
        assert_eq!(address("orders/63"), Ok(("orders".into(), Some(Partition(63)))));
        assert_eq!(address("orders/42949672950"), Ok(("orders".into(), Some(Partition(u16::MAX)))));
        for bad in
            ["", ".", "..", "/1", "a/", "a/00", "a/01", "a/+1", "a/-1", "a/1/2", "a/1x", "ä", "a b", "../1"]
        {
            assert_eq!(address(bad), Err(PeerFault::QueueName), "{bad}");
        }
        assert!(address(&"q".repeat(64)).is_ok());
        assert!(address(&"q".repeat(65)).is_err());
    }

    #[test]
    fn a_project_name_is_not_a_path() {
        let project = |text: &str| Project::parse(text).map(|project| project.as_str().to_owned());
        for good in ["a", "...", ".a", "a..b", "..a", "-", &"p".repeat(128)] {
            assert_eq!(project(good), Ok(good.to_owned()));
        }
        for bad in ["", ".", "..", "a/b", "../a", "./", "a b", "ä", &"p".repeat(129)] {
            assert_eq!(project(bad), Err(PeerFault::ProjectName), "{bad}");
        }
        // Stored names stay readable.
        for stored in [".", ".."] {
            assert_eq!(Project::parse_stored(stored).map(|project| project.to_string()), Ok(stored.into()));
        }
        assert_eq!(Project::parse_stored("a/b"), Err(PeerFault::ProjectName));
    }

    #[test]
    fn a_client_id_is_a_hyphenated_uuid_without_case() {
        let lower = ClientId::parse("67e55044-10b1-426f-9247-bb680e5fe0c8").unwrap();
        assert_eq!(ClientId::parse("67E55044-10B1-426F-9247-BB680E5FE0C8"), Ok(lower));
        assert_eq!(lower.to_string(), "67e55044-10b1-426f-9247-bb680e5fe0c8");
        for bad in ["", "67e5504410b1426f9247bb680e5fe0c8", "{67e55044-10b1-426f-9247-bb680e5fe0c8}", "x"] {
            assert_eq!(ClientId::parse(bad), Err(PeerFault::ClientId), "{bad}");
        }
    }

    #[test]
    fn the_stable_hash_never_changes() {
        let hash = |p: &str, q: &str| queue_hash(&Project::parse(p).unwrap(), &QueueName::parse(q).unwrap());
        assert_eq!(hash("default", "orders"), hash("default", "orders"));
        assert_ne!(hash("a", "bc"), hash("ab", "c"));
    }
}
