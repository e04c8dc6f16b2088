//! The client side of one operation: produce, consume or claim, without I/O.
//!
//! All write frames into a buffer of the caller, and read the server's half piece by piece. `renewal` decides
//! when the grant of their connection is renewed.

mod claim;
mod consume;
mod produce;
mod ranges;
mod renewal;

pub use claim::{ClaimEvent, ClaimOptions, Claimer, Settle};
pub use consume::{ConsumeOptions, Consumer};
pub use produce::{ProduceEvent, Producer};
pub use renewal::{Renewable, Renewal, Want};

use std::fmt;

use crate::base::budget::{Account, Budget};
use crate::base::error::StatusCode;
use crate::pb::Status;
use crate::pb::wire::Malformed;
use crate::process::terminal::escaped;

use crate::pb::{Delimiter, PbLimits, Step};

/// The longest pb that a client accepts, in bytes.
const PB_BYTES_MAX: usize = 64 << 20;

/// A client trusts the lengths that the server sends, so it needs no smaller limits.
const PB_LIMITS: PbLimits =
    PbLimits { max_bytes: PB_BYTES_MAX, foothold_bytes: PB_BYTES_MAX, large_bytes: PB_BYTES_MAX };

/// The status of a client without a valid token.
pub(super) const UNAUTHORIZED: StatusCode = StatusCode(401);

/// The status of what a limit has no room for.
const TOO_MANY: StatusCode = StatusCode(429);

/// The status of an operation that the server's store cannot do.
const NOT_IMPLEMENTED: StatusCode = StatusCode(501);

/// A status from the server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// The status code (protocol section 5).
    pub code: StatusCode,
    /// The reason that the server gives.
    pub reason: String,
}

impl Outcome {
    /// Returns whether a retry can help.
    pub fn is_transient(&self) -> bool {
        self.code.is_transient() && self.code != NOT_IMPLEMENTED
    }

    /// Returns whether a limit is reached.
    pub fn is_limited(&self) -> bool {
        self.code == TOO_MANY
    }

    /// Returns whether the server no longer knows who the client is: a retry with another token can help.
    pub fn is_unauthorized(&self) -> bool {
        self.code == UNAUTHORIZED
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.code.0, escaped(&self.reason))
    }
}

impl From<&Status> for Outcome {
    fn from(status: &Status) -> Self {
        Self { code: StatusCode(status.status_code()), reason: status.reason_phrase().to_owned() }
    }
}

/// A protocol violation by the server. The text describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerFault(pub String);

impl fmt::Display for ServerFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the server violated the protocol: {}", self.0)
    }
}

impl std::error::Error for ServerFault {}

impl From<Malformed> for ServerFault {
    fn from(malformed: Malformed) -> Self {
        Self(malformed.0.into())
    }
}

impl From<prost::DecodeError> for ServerFault {
    fn from(error: prost::DecodeError) -> Self {
        Self(error.to_string())
    }
}

/// Splits the server's half of an operation into pbs.
#[derive(Debug)]
struct Half {
    delimiter: Delimiter,
    budget: Budget,
    account: Account,
}

impl Half {
    fn new() -> Self {
        Self {
            delimiter: Delimiter::default(),
            budget: Budget::new(PB_BYTES_MAX),
            account: Account::default(),
        }
    }

    fn each_pb(
        &mut self,
        mut piece: &[u8],
        mut handle: impl FnMut(&[u8]) -> Result<(), ServerFault>,
    ) -> Result<(), ServerFault> {
        loop {
            let mut purse = self.budget.purse(&mut self.account);
            match self.delimiter.next(piece, PB_LIMITS, &mut purse) {
                Ok((used, Step::Pb(pb))) => {
                    purse.release(pb.len());
                    handle(pb)?;
                    piece = &piece[used..];
                }
                Ok((_, Step::More)) => return Ok(()),
                Ok((_, Step::Wait(wanted))) => {
                    return Err(ServerFault(format!("a pb of {} bytes is too large", wanted.bytes)));
                }
                Err(fault) => return Err(ServerFault(fault.to_string())),
            }
        }
    }
}
