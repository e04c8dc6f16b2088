//! The opening handshake (RFC 6455 section 4) on bytes in memory, by tungstenite's parser.
//!
//! | file | one concept |
//! | --- | --- |
//! | `request` | the server's side: a request, what RFC 6455 asks of it, and the response that accepts it |
//! | `refusal` | the response that refuses it |
//! | `client` | the client's side |
//!
//! The caller gathers the request's bytes and bounds them, and decides whom it lets in between request and response.

mod client;
mod refusal;
mod request;

pub use client::{ClientHandshake, ClientRequest};
pub use refusal::Refusal;
pub use request::{UpgradeRequest, UpgradeResponse};
