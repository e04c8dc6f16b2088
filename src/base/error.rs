//! Faults of the peer, the store and the server, and the only map from a fault to a status.
//!
//! Plain values without I/O. The `Display` text of a fault is the reason that the peer reads; it names the
//! field and the limit. WebSocket violations have their own map, `ws::CloseCode`.

use std::fmt;

use crate::base::limits::TOPIC_NAME_CHARS_MAX;
use crate::base::units::MsgNum;

/// Every status that a fault can have, in ascending order.
pub const FAILURES: [u32; 11] = [400, 401, 403, 404, 408, 410, 413, 429, 500, 501, 503];

/// A count for each of [`FAILURES`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FailureCounts([u64; FAILURES.len()]);

/// Writes the non-zero counts by status.
impl serde::Serialize for FailureCounts {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.iter().filter(|(_, count)| *count > 0))
    }
}

impl FailureCounts {
    /// Adds `count` failures with this status.
    pub fn add(&mut self, status: StatusCode, count: u64) {
        if let Some(index) = FAILURES.iter().position(|code| *code == status.0) {
            self.0[index] += count;
        }
    }

    /// Returns each status with its count.
    pub fn iter(&self) -> impl Iterator<Item = (u32, u64)> {
        FAILURES.into_iter().zip(self.0)
    }

    /// Returns how many failures were caused by peers (4xx) and how many by the server (5xx).
    pub fn by_fault(&self) -> (u64, u64) {
        let sum = |ours: bool| self.iter().filter(|(code, _)| (*code >= 500) == ours).map(|(_, n)| n).sum();
        (sum(false), sum(true))
    }

    /// Adds the counts of `other`.
    pub fn merge(&mut self, other: &Self) {
        self.0.iter_mut().zip(other.0).for_each(|(to, count)| *to += count);
    }
}

/// Why a store without claims refuses claims and delays.
pub const NO_CLAIMS: &str = "claims and delays need the embedded log or the memory store; Kafka has neither until servers share ownership";

/// A status code of the protocol (section 3), with the meaning that it has in HTTP.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct StatusCode(pub u32);

impl StatusCode {
    /// Setup succeeded.
    pub const CONTINUE: Self = Self(100);
    /// Stored as durably as the store promises.
    pub const CREATED: Self = Self(201);

    /// Returns whether the code is 1xx or 2xx.
    pub fn is_success(self) -> bool {
        (100..300).contains(&self.0)
    }

    /// Returns whether a retry may succeed, because the server has a problem or the project is at a limit. What the
    /// store cannot do (501) it cannot do later.
    pub fn is_transient(self) -> bool {
        self.0 >= 500 && self.0 != 501 || self.0 == 429
    }
}

/// A fault of the peer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PeerFault {
    /// The project name is invalid.
    ProjectName,
    /// The queue name, or its `/<partition>`, is invalid.
    QueueName,
    /// The Client-ID is not a UUID of 36 characters.
    ClientId,
    /// The starting marker is invalid, or belongs to another queue.
    Marker(&'static str),
    /// The length prefix of a pb is longer than five bytes.
    PbLength,
    /// A pb is larger than allowed.
    PbTooLarge {
        /// The announced length in bytes.
        bytes: u64,
        /// The limit, `max_pb_bytes`.
        max: usize,
    },
    /// A pb was started and not completed in time.
    PbTimeout,
    /// The half ended inside a pb or its length.
    PbCut,
    /// A pb cannot be parsed, or violates a rule of its type.
    PbInvalid(String),
    /// The TTL is absent or out of range.
    Ttl {
        /// The TTL as sent, in seconds.
        ttl: Option<u32>,
        /// `ttl_min` and `ttl_max`, in seconds.
        range: (u32, u32),
    },
    /// The delay is longer than allowed.
    Delay {
        /// The delay as sent, in seconds.
        delay: u32,
        /// The limit, `delay_max`, in seconds.
        max: u32,
    },
    /// The delay is not shorter than the TTL.
    DelayBeyondTtl {
        /// The delay as sent, in seconds.
        delay: u32,
        /// The TTL as sent, in seconds.
        ttl: u32,
    },
    /// A number of seconds of a claim is out of range.
    ClaimSeconds {
        /// The field.
        field: &'static str,
        /// The value as sent.
        value: u32,
        /// The least and the largest value.
        range: (u32, u32),
    },
    /// A payload is larger than allowed.
    PayloadTooLarge {
        /// The length in bytes.
        bytes: usize,
        /// The limit, `max_payload_bytes`.
        max: usize,
    },
    /// A key is larger than allowed.
    KeyTooLarge {
        /// The length in bytes.
        bytes: usize,
        /// The limit, `max_key_bytes`.
        max: usize,
    },
    /// The headers of a message are larger than allowed.
    HeadersTooLarge {
        /// The length in bytes.
        bytes: usize,
        /// The limit, `max_headers_bytes`.
        max: usize,
    },
    /// The headers of a message are not valid. The text says why.
    Headers(&'static str),
    /// The request has headers, but not one for each payload.
    HeaderCount {
        /// The number of headers.
        headers: u32,
        /// The number of payloads.
        payloads: u32,
    },
    /// The request has keys, but not one for each payload.
    KeyCount {
        /// The number of keys.
        keys: u32,
        /// The number of payloads.
        payloads: u32,
    },
    /// The project is at the limit for a kind of object.
    TooMany {
        /// The kind, in the plural.
        what: &'static str,
        /// The setting that limits it.
        key: &'static str,
        /// The value of the setting.
        limit: u64,
    },
    /// The project is at its storage limit.
    StorageFull {
        /// The number of the last message sent.
        sent: MsgNum,
        /// The limit, `project_storage_bytes`.
        limit: u64,
    },
    /// The project produces faster than allowed.
    OverRate {
        /// The number of the last message sent; 0 at setup.
        sent: MsgNum,
        /// The limits in messages and bytes per second; 0 means no limit.
        rates: (u64, u64),
    },
    /// The client sent more messages than it had credit for.
    CreditExceeded {
        /// The number of the last message sent.
        sent: MsgNum,
        /// The highest number granted.
        granted: MsgNum,
    },
    /// The client's grant has ended, or its credential is refused. The text says why.
    Unauthenticated(&'static str),
    /// A payload is longer than the queue allows.
    PayloadBeyondQueue {
        /// The attribute with the limit.
        attribute: &'static str,
        /// The length of the payload.
        bytes: usize,
        /// The limit of the queue.
        max: usize,
    },
    /// The queue holds as much as it may.
    QueueFull {
        /// The attribute with the limit.
        attribute: &'static str,
        /// The limit.
        limit: u64,
    },
    /// Too many attempts. The text says of what.
    TooOften(&'static str),
    /// No rule of the client allows what it asks for. The text names it.
    Forbidden(&'static str),
    /// The queue has no such partition.
    NoPartition {
        /// The number of partitions of the queue.
        partitions: u16,
    },
}

/// A fault of the store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StoreFault {
    /// The store has no room, and is configured to refuse messages instead of dropping old ones.
    Full,
    /// The store refused or lost an earlier append of the same operation.
    Fenced,
    /// The store is at the limit for queues.
    TooManyQueues,
    /// The queue does not exist, and must not be created.
    NoQueue,
    /// The queue was deleted during the operation.
    Deleted,
    /// The queue name together with the project name is longer than the store allows.
    NameTooLong,
    /// The store cannot do this. The client reads this text, which says what can.
    Unsupported(&'static str),
    /// The store keeps no catalogue of its queues, so it neither lists nor deletes them.
    NoCatalogue,
    /// The store is unreachable or failed. The client reads this text. It is fixed, so that it cannot leak
    /// details of the machine (a path, an address, a system error). The log has the same text with the
    /// details.
    Unavailable(&'static str),
}

/// The reason why an operation, or some of its messages, failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// A fault of the peer.
    Peer(PeerFault),
    /// A fault of the store.
    Store(StoreFault),
    /// The server is shutting down.
    Draining,
    /// No provider can say whether the client's credential is valid.
    Unverified,
    /// A fault of the server. The client reads this text; the log has the details.
    Internal(&'static str),
}

impl Fault {
    /// Returns the status of the fault. This is the only map from faults to statuses.
    pub fn status(&self) -> StatusCode {
        StatusCode(match self {
            Self::Peer(peer) => match peer {
                PeerFault::ProjectName
                | PeerFault::QueueName
                | PeerFault::ClientId
                | PeerFault::Marker(_)
                | PeerFault::PbLength
                | PeerFault::PbCut
                | PeerFault::PbInvalid(_)
                | PeerFault::Ttl { .. }
                | PeerFault::Delay { .. }
                | PeerFault::DelayBeyondTtl { .. }
                | PeerFault::ClaimSeconds { .. }
                | PeerFault::Headers(_)
                | PeerFault::HeaderCount { .. }
                | PeerFault::KeyCount { .. } => 400,
                PeerFault::Unauthenticated(_) => 401,
                PeerFault::Forbidden(_) => 403,
                PeerFault::NoPartition { .. } => 404,
                PeerFault::PbTimeout => 408,
                PeerFault::PbTooLarge { .. }
                | PeerFault::PayloadTooLarge { .. }
                | PeerFault::PayloadBeyondQueue { .. }
                | PeerFault::KeyTooLarge { .. }
                | PeerFault::HeadersTooLarge { .. } => 413,
                PeerFault::CreditExceeded { .. }
                | PeerFault::OverRate { .. }
                | PeerFault::StorageFull { .. }
                | PeerFault::QueueFull { .. }
                | PeerFault::TooOften(_)
                | PeerFault::TooMany { .. } => 429,
            },
            Self::Store(StoreFault::NoQueue | StoreFault::NoCatalogue) => 404,
            Self::Store(StoreFault::Deleted) => 410,
            Self::Store(StoreFault::Unsupported(_)) => 501,
            Self::Store(StoreFault::NameTooLong) => 400,
            Self::Store(
                StoreFault::Full
                | StoreFault::Fenced
                | StoreFault::TooManyQueues
                | StoreFault::Unavailable(_),
            ) => 503,
            Self::Draining | Self::Unverified => 503,
            Self::Internal(_) => 500,
        })
    }
}

impl From<PeerFault> for Fault {
    fn from(fault: PeerFault) -> Self {
        Self::Peer(fault)
    }
}

impl From<StoreFault> for Fault {
    fn from(fault: StoreFault) -> Self {
        Self::Store(fault)
    }
}

impl fmt::Display for PeerFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ProjectName => {
                f.write_str("project: 1 to 128 characters of A-Z a-z 0-9 _ - . (not . or ..)")
            }
            Self::QueueName => f.write_str(
                "queue_name: 1 to 64 characters of A-Z a-z 0-9 _ - . (not . or ..), optionally /<partition>",
            ),
            Self::ClientId => f.write_str("client id: a UUID of 36 characters"),
            Self::Marker(why) => write!(f, "starting_marker: {why}"),
            Self::PbLength => f.write_str("pb length: longer than 5 bytes"),
            Self::PbTooLarge { bytes, max } => {
                write!(f, "pb: {bytes} bytes are more than max_pb_bytes = {max}")
            }
            Self::PbTimeout => f.write_str("pb: not completed within pb_timeout"),
            Self::PbCut => f.write_str("pb: the WebSocket message ended inside it"),
            Self::PbInvalid(why) => write!(f, "pb: {why}"),
            Self::Ttl { ttl: None, range } => write!(f, "ttl: absent; {} to {} seconds", range.0, range.1),
            Self::Ttl { ttl: Some(ttl), range } => {
                write!(f, "ttl: {ttl} is not within {} to {} seconds", range.0, range.1)
            }
            Self::Delay { delay, max } => write!(f, "delay: {delay} is not within 0 to {max} seconds"),
            Self::DelayBeyondTtl { delay, ttl } => {
                write!(f, "delay: {delay} seconds are not below ttl = {ttl}")
            }
            Self::ClaimSeconds { field, value, range } => {
                write!(f, "{field}: {value} is not within {} to {} seconds", range.0, range.1)
            }
            Self::PayloadTooLarge { bytes, max } => {
                write!(f, "payload: {bytes} bytes are more than max_payload_bytes = {max}")
            }
            Self::PayloadBeyondQueue { attribute, bytes, max } => {
                write!(f, "payload: {bytes} bytes are more than the queue's {attribute} = {max}")
            }
            Self::QueueFull { attribute, limit } => write!(
                f,
                "queue: storing these messages would exceed its {attribute} = {limit}; try again when others are gone"
            ),
            Self::TooMany { what, key, limit } => {
                write!(f, "project: has as many {what} as {key} = {limit} allows")
            }
            Self::StorageFull { limit, .. } => write!(
                f,
                "project: storing these messages would exceed project_storage_bytes = {limit}; try again when older \
                 messages have expired"
            ),
            Self::OverRate { rates: (messages, bytes), .. } => write!(
                f,
                "project: produces faster than project_messages_per_sec = {messages}, project_bytes_per_sec = {bytes} \
                 allow (0: no limit); try again later"
            ),
            Self::KeyTooLarge { bytes, max } => {
                write!(f, "key: {bytes} bytes are more than max_key_bytes = {max}")
            }
            Self::HeadersTooLarge { bytes, max } => {
                write!(f, "headers: {bytes} bytes are more than max_headers_bytes = {max}")
            }
            Self::Headers(why) => write!(f, "headers: {why}"),
            Self::HeaderCount { headers, payloads } => {
                write!(f, "headers: {headers} for {payloads} payloads; none, or one for each")
            }
            Self::KeyCount { keys, payloads } => {
                write!(f, "keys: {keys} for {payloads} payloads; none, or one for each")
            }
            Self::CreditExceeded { sent, granted } => {
                write!(f, "credit: message {sent} was sent, {granted} was granted")
            }
            Self::Unauthenticated(why) | Self::TooOften(why) => f.write_str(why),
            Self::Forbidden(what) => write!(f, "not allowed: {what}"),
            Self::NoPartition { partitions } => {
                write!(f, "queue_name: no such partition; the queue has {partitions}")
            }
        }
    }
}

impl fmt::Display for StoreFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Full => f.write_str("store: full"),
            Self::Fenced => f.write_str("store: messages before these were not stored"),
            Self::TooManyQueues => {
                f.write_str("store: there are as many queues as max_queues allows; no more are created")
            }
            Self::NoQueue => f.write_str("queue_name: no such queue"),
            Self::Deleted => f.write_str("the queue was deleted"),
            Self::Unsupported(why) => write!(f, "store: {why}"),
            Self::NameTooLong => write!(
                f,
                "queue_name: the topic name made of project and queue is longer than Kafka's {TOPIC_NAME_CHARS_MAX} characters"
            ),
            Self::NoCatalogue => {
                f.write_str("Kafka keeps no catalogue of queues: delete their topics with its own tools")
            }
            Self::Unavailable(why) => write!(f, "store: {why}"),
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Peer(fault) => fault.fmt(f),
            Self::Store(fault) => fault.fmt(f),
            Self::Draining => f.write_str("the server is draining"),
            Self::Unverified => f.write_str("credentials: cannot be checked now; try again later"),
            Self::Internal(why) => write!(f, "internal: {why}"),
        }
    }
}

impl std::error::Error for PeerFault {}
impl std::error::Error for StoreFault {}
impl std::error::Error for Fault {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_fault_has_the_status_of_the_protocol() {
        let table: [(Fault, u32); 36] = [
            (PeerFault::ProjectName.into(), 400),
            (PeerFault::QueueName.into(), 400),
            (PeerFault::Marker("x").into(), 400),
            (PeerFault::PbLength.into(), 400),
            (PeerFault::PbCut.into(), 400),
            (PeerFault::Ttl { ttl: None, range: (1, 2) }.into(), 400),
            (PeerFault::Delay { delay: 2, max: 1 }.into(), 400),
            (PeerFault::DelayBeyondTtl { delay: 60, ttl: 60 }.into(), 400),
            (PeerFault::ClaimSeconds { field: "ttl", value: 0, range: (1, 2) }.into(), 400),
            (StoreFault::Unsupported(NO_CLAIMS).into(), 501),
            (PeerFault::KeyCount { keys: 1, payloads: 2 }.into(), 400),
            (PeerFault::HeaderCount { headers: 1, payloads: 2 }.into(), 400),
            (PeerFault::Headers("x").into(), 400),
            (PeerFault::HeadersTooLarge { bytes: 9, max: 8 }.into(), 413),
            (PeerFault::KeyTooLarge { bytes: 9, max: 8 }.into(), 413),
            (PeerFault::Unauthenticated("token expired").into(), 401),
            (PeerFault::Forbidden("consume").into(), 403),
            (StoreFault::NoQueue.into(), 404),
            (StoreFault::Deleted.into(), 410),
            (PeerFault::NoPartition { partitions: 8 }.into(), 404),
            (PeerFault::PbTimeout.into(), 408),
            (PeerFault::PbTooLarge { bytes: 9, max: 8 }.into(), 413),
            (PeerFault::PayloadTooLarge { bytes: 9, max: 8 }.into(), 413),
            (PeerFault::CreditExceeded { sent: MsgNum::new(101), granted: MsgNum::new(100) }.into(), 429),
            (PeerFault::OverRate { sent: MsgNum::new(1), rates: (1, 0) }.into(), 429),
            (PeerFault::TooMany { what: "queues", key: "project_max_queues", limit: 1 }.into(), 429),
            (PeerFault::StorageFull { sent: MsgNum::new(1), limit: 1 }.into(), 429),
            (PeerFault::QueueFull { attribute: "_max_messages", limit: 1 }.into(), 429),
            (PeerFault::PayloadBeyondQueue { attribute: "_max", bytes: 9, max: 8 }.into(), 413),
            (StoreFault::NameTooLong.into(), 400),
            (StoreFault::TooManyQueues.into(), 503),
            (StoreFault::Full.into(), 503),
            (StoreFault::Fenced.into(), 503),
            (Fault::Draining, 503),
            (Fault::Unverified, 503),
            (PeerFault::TooOften("x").into(), 429),
        ];
        for (fault, status) in table {
            assert_eq!(fault.status(), StatusCode(status), "{fault}");
            assert!(FAILURES.contains(&status));
        }
        assert_eq!(Fault::Internal("x").status(), StatusCode(500));
    }
}
