//! The protobuf messages of the wire: the code that prost generates from `proto/`, and hand-written coders
//! for the two messages that carry payloads, for workers' messages, and for long lists. (prost takes 23 to 41 ns for a payload, the hand-written coders
//! 3 to 8 ns.)
//!
//! Converts between bytes and values. Does not depend on frames or operations.
//!
//! | file | one concept |
//! | --- | --- |
//! | `delimiter` | splits bytes into pbs |
//! | `produce_request`, `consume_response` | the coders of the two frequent messages |
//! | `headers` | the coder of the headers of messages |
//! | `claim_request` | the decoder of settlements |
//! | `claim_response` | the decoder of a worker's messages |
//! | `wire` | varints and tags |

mod claim_request;
mod claim_response;
mod consume_response;
mod delimiter;
pub mod headers;
mod produce_request;
pub mod wire;

pub use claim_request::{BY_CLAIM_MAX, ClaimRequestFields, decode_claim_request};
pub use claim_response::{ClaimResponseReader, ReceivedClaim};
pub use consume_response::{ConsumeResponseReader, MessageTemplate, ReceivedMessage, encode_marked};
pub use delimiter::{Delimiter, PbLimits, Step};
pub use produce_request::{
    ProduceExtras, ProduceField, ProduceRequestHead, WITH_EXTRAS, WITH_TOKEN, decode_full_request,
    decode_produce_request, encode_produce_request, first_ttl, lone_token,
};

#[allow(missing_docs, clippy::all)]
mod generated {
    include!(concat!(env!("OUT_DIR"), "/org.openstack.marconi.streaming.rs"));
}
pub use generated::*;
