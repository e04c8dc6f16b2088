//! What shards ask the judge, and what they hear.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use super::credential::{Credential, Key};
use crate::access::Grant;

/// A shard's question: who is this client?
#[derive(Clone, Debug)]
pub struct Question {
    /// The shard that asks.
    pub shard: u16,
    /// Comes back with the answer. The shard recognizes by it what asked.
    pub tag: u64,
    /// The key of the credential.
    pub key: Key,
    /// The credential.
    pub credential: Credential,
    /// The address of the client, for the throttle. `None` on a Unix socket.
    pub address: Option<IpAddr>,
    /// Whether a client that was admitted renews its credential. The throttle refuses no such question, but counts its
    /// failures.
    pub is_renewal: bool,
}

/// What the judge tells a shard.
#[derive(Clone, Debug)]
pub enum Answer {
    /// The verdict on one question.
    Judged {
        /// The tag of the question.
        tag: u64,
        /// The key of the credential.
        key: Key,
        /// The verdict.
        verdict: Verdict,
    },
    /// New verdicts on credentials that were granted before. A shard gets them in the order in which they were
    /// made, and never an older one behind.
    Changed(Arc<[(Key, Verdict)]>),
    /// Files, settings or keys have changed. Refusals of before may no longer hold.
    Reloaded,
}

/// The verdict on a credential.
pub type Verdict = Result<Arc<Grant>, Denial>;

/// Why a client is not admitted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Denial {
    /// It shows no credential.
    Missing,
    /// No provider knows the credential.
    Unknown,
    /// The credential has expired.
    Expired,
    /// The credential was valid, and has been revoked or removed.
    Revoked,
    /// A signature, an issuer, an audience or another part of a token is wrong.
    Invalid,
    /// Too many attempts from the client's address have failed.
    Throttled,
    /// A provider does not answer, or too many clients wait.
    Unavailable,
}

impl Denial {
    /// All of them.
    pub const ALL: [Self; 7] = [
        Self::Missing,
        Self::Unknown,
        Self::Expired,
        Self::Revoked,
        Self::Invalid,
        Self::Throttled,
        Self::Unavailable,
    ];

    /// Returns the status of the refusal.
    pub fn status(self) -> u16 {
        match self {
            Self::Missing | Self::Unknown | Self::Expired | Self::Revoked | Self::Invalid => 401,
            Self::Throttled => 429,
            Self::Unavailable => 503,
        }
    }

    /// Returns the name, for metrics and the audit log.
    pub fn name(self) -> &'static str {
        match self {
            Self::Missing => "missing",
            Self::Unknown => "unknown",
            Self::Expired => "expired",
            Self::Revoked => "revoked",
            Self::Invalid => "invalid",
            Self::Throttled => "throttled",
            Self::Unavailable => "unavailable",
        }
    }
}

/// Writes the reason that the client reads. It does not tell a guesser how close a guess was.
impl fmt::Display for Denial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Missing => "credentials: absent; send Authorization: Bearer and a token, or X-Auth-Token",
            Self::Unknown | Self::Invalid => "credentials: not accepted",
            Self::Expired => "credentials: expired",
            Self::Revoked => "credentials: revoked",
            Self::Throttled => "credentials: too many failed attempts from this address; try again later",
            Self::Unavailable => "credentials: cannot be checked now; try again later",
        })
    }
}

/// The shards and the [`Desk`](super::Desk), as listeners of the judge.
pub trait Audience: Send + Sync + fmt::Debug {
    /// Returns the number of listeners: the shards, and behind them the desk if there is one.
    fn listeners(&self) -> u16;

    /// Gives an answer to a listener, or returns it if the shard's inbox is full.
    fn tell(&self, shard: u16, answer: Answer) -> Result<(), Answer>;
}
