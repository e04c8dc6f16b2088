//! The protobuf messages of the wire: what prost generates from `proto/`, and hand-written coders of the two
//! that carry payloads (a payload costs prost 23 to 41 ns, these 3 to 8).
//!
//! Bytes in, values out, and back. Knows nothing of frames and operations.
//!
//! | file | one concept |
//! | --- | --- |
//! | `delimiter` | where one pb ends and the next begins |
//! | `produce_request`, `consume_response` | the coders of the two hot messages |
//! | `wire` | varints and tags |

mod consume_response;
mod delimiter;
mod produce_request;
pub mod wire;

pub use consume_response::{ConsumeResponseReader, MessageTemplate, ReceivedMessage, encode_marked};
pub use delimiter::{Delimiter, PbLimits, Step};
pub use produce_request::{
    ProduceField, ProduceRequestHead, decode_produce_request, encode_produce_request, first_ttl,
};

#[allow(missing_docs, clippy::all)]
mod generated {
    include!(concat!(env!("OUT_DIR"), "/org.openstack.marconi.streaming.rs"));
}
pub use generated::*;
