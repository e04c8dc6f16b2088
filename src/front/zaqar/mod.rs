//! The WebSocket API of OpenStack Zaqar, version 2: requests and answers, in JSON and in MessagePack.
//! `session` handles the requests of a connection. All other files are about documents.
//!
//! Everything works on the bytes of a request in place: a document is checked once, and then walked over. No
//! tree of values is built. Each pass takes time linear in the length of the document, and memory that does
//! not depend on it, except where a message body changes its format.
//!
//! | file | one concept |
//! | --- | --- |
//! | `kind` | the formats, and the kinds of values |
//! | `document` | a checked document, and its values |
//! | `json`, `msgpack` | the two formats: the check, and walking over checked bytes |
//! | `tokens` | a document as a flat sequence |
//! | `writer` | writes documents, and converts values to the other format |
//! | `request` | the envelope and the headers of a request |
//! | `action` | the actions with their fields |
//! | `answer` | answers, refusals and notifications |
//! | `texts` | the fixed texts of the API |
//! | `body` | how bodies of messages are stored and read |
//! | `session` | the requests of a connection, in order |
//! | `binary` | how stored bodies represent bytes |
//! | `repr` | the size of a value as the API counts it |

pub mod action;
pub mod answer;
mod binary;
pub mod body;
pub mod document;
mod json;
mod kind;
mod msgpack;
pub mod repr;
pub mod request;
mod session;
#[cfg(test)]
mod tests;
pub mod texts;
mod tokens;
pub mod writer;

pub use action::Action;
pub use answer::Echo;
pub use document::{Document, Format, Kind, Node};
pub use request::{Refused, Request};
pub use session::{Session, Standing};
pub use writer::Writer;
