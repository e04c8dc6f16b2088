//! Parses and checks a SetupRequest.

use prost::Message;

use crate::access::Right;
use crate::base::error::{Fault, PeerFault};
use crate::base::names::QueueAddress;
use crate::operation::{ClaimTerms, Settings, Start};
use crate::pb::{ClaimSetupRequest, ConsumeSetupRequest, ProduceSetupRequest, SetupRequest};

/// The kind of an operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Produce,
    Consume,
    Claim,
}

/// A decoded SetupRequest. Its operation is known, the rest is not checked.
#[derive(Debug)]
pub(super) enum Asked {
    Produce(ProduceSetupRequest),
    Consume(ConsumeSetupRequest),
    Claim(ClaimSetupRequest),
}

/// A valid SetupRequest.
#[derive(Debug)]
pub(super) struct Setup {
    pub(super) address: QueueAddress,
    pub(super) wishes: Wishes,
}

/// What a valid SetupRequest asks for.
#[derive(Debug)]
pub(super) enum Wishes {
    Produce,
    Consume(ConsumeSetup),
    Claim(ClaimTerms),
}

/// The request of a consumer.
#[derive(Debug)]
pub(super) struct ConsumeSetup {
    pub(super) start: Start,
    pub(super) shown: Shown,
}

/// What a consumer wants to see.
#[derive(Clone, Copy, Debug)]
pub(super) struct Shown {
    /// Whether the client also wants its own messages.
    pub(super) echo: bool,
    /// Whether it also wants claimed messages.
    pub(super) claimed: bool,
    /// Whether the client uses the protocol's extensions.
    pub(super) has_extensions: bool,
    /// Whether it wants messages without their headers.
    pub(super) is_bare: bool,
}

impl Kind {
    /// Returns the right that an operation of this kind needs.
    pub(super) fn right(self) -> Right {
        match self {
            Self::Produce => Right::Produce,
            Self::Consume => Right::Consume,
            Self::Claim => Right::Claim,
        }
    }
}

impl Asked {
    pub(super) fn decode(pb: &[u8]) -> Result<Self, PeerFault> {
        let request = SetupRequest::decode(pb)
            .map_err(|error| PeerFault::PbInvalid(format!("SetupRequest: {error}")))?;
        match (request.get, request.append, request.claim) {
            (None, Some(append), None) => Ok(Self::Produce(append)),
            (Some(get), None, None) => Ok(Self::Consume(get)),
            (None, None, Some(claim)) => Ok(Self::Claim(claim)),
            _ => Err(PeerFault::PbInvalid("SetupRequest: exactly one of get, append and claim".into())),
        }
    }

    pub(super) fn kind(&self) -> Kind {
        match self {
            Self::Produce(_) => Kind::Produce,
            Self::Consume(_) => Kind::Consume,
            Self::Claim(_) => Kind::Claim,
        }
    }

    pub(super) fn check(&self, settings: &Settings) -> Result<Setup, Fault> {
        match self {
            Self::Produce(append) => {
                Ok(Setup { address: QueueAddress::parse(append.queue_name())?, wishes: Wishes::Produce })
            }
            Self::Consume(get) => {
                if get.group.is_some() {
                    return Err(PeerFault::PbInvalid("group: not supported yet".into()).into());
                }
                let address = QueueAddress::parse(get.queue_name())?;
                let start = Start::parse(get.starting_marker())?;
                let (echo, claimed) = (get.echo_requested(), get.include_claimed());
                let (has_extensions, is_bare) = (get.without_headers.is_some(), get.without_headers());
                let shown = Shown { echo, claimed, has_extensions, is_bare };
                Ok(Setup { address, wishes: Wishes::Consume(ConsumeSetup { start, shown }) })
            }
            Self::Claim(claim) => {
                let address = QueueAddress::parse(claim.queue_name())?;
                let releases = claim.release_on_disconnect();
                let terms = ClaimTerms::check(claim.ttl, claim.grace, releases, settings)?;
                Ok(Setup { address, wishes: Wishes::Claim(terms) })
            }
        }
    }
}
