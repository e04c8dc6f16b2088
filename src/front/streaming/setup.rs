//! Parses and checks a SetupRequest.

use prost::Message;

use crate::base::error::{Fault, PeerFault};
use crate::base::names::QueueAddress;
use crate::operation::Start;
use crate::pb::{ConsumeSetupRequest, ProduceSetupRequest, SetupRequest};

/// A decoded SetupRequest. Its operation is known, the rest is not checked.
#[derive(Debug)]
pub(super) enum Asked {
    Produce(ProduceSetupRequest),
    Consume(ConsumeSetupRequest),
}

/// A valid SetupRequest.
#[derive(Debug)]
pub(super) struct Setup {
    pub(super) address: QueueAddress,
    /// The request of a consumer; `None` for a producer.
    pub(super) consume: Option<ConsumeSetup>,
}

/// The request of a consumer.
#[derive(Debug)]
pub(super) struct ConsumeSetup {
    pub(super) start: Start,
    /// Whether the client also wants its own messages.
    pub(super) echo: bool,
    /// Whether the client uses the protocol's extensions.
    pub(super) has_extensions: bool,
}

impl Asked {
    pub(super) fn decode(pb: &[u8]) -> Result<Self, PeerFault> {
        let request = SetupRequest::decode(pb)
            .map_err(|error| PeerFault::PbInvalid(format!("SetupRequest: {error}")))?;
        match (request.get, request.append) {
            (None, Some(append)) => Ok(Self::Produce(append)),
            (Some(get), None) => Ok(Self::Consume(get)),
            _ => Err(PeerFault::PbInvalid("SetupRequest: exactly one of get and append".into())),
        }
    }

    pub(super) fn produces(&self) -> bool {
        matches!(self, Self::Produce(_))
    }

    pub(super) fn check(&self) -> Result<Setup, Fault> {
        match self {
            Self::Produce(append) => {
                Ok(Setup { address: QueueAddress::parse(append.queue_name())?, consume: None })
            }
            Self::Consume(get) => {
                if get.group.is_some() {
                    return Err(PeerFault::PbInvalid("group: not supported yet".into()).into());
                }
                let address = QueueAddress::parse(get.queue_name())?;
                let start = Start::parse(get.starting_marker())?;
                let (echo, has_extensions) = (get.echo_requested(), get.without_headers.is_some());
                Ok(Setup { address, consume: Some(ConsumeSetup { start, echo, has_extensions }) })
            }
        }
    }
}
