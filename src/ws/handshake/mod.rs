//! The opening handshake (RFC 6455 section 4) on bytes in memory. Uses tungstenite's parser.
//!
//! | file | one concept |
//! | --- | --- |
//! | `request` | the server's side: parses and checks a request, and writes the response that accepts it |
//! | `refusal` | the response that refuses it |
//! | `client` | the client's side |
//!
//! The caller buffers the request's bytes and limits them. Between request and response it decides whether to
//! admit the client.

mod client;
mod refusal;
mod request;

pub use client::{ClientHandshake, ClientRequest};
pub use refusal::Refusal;
pub use request::{UpgradeRequest, UpgradeResponse};
