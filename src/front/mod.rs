//! How a client speaks: the protocols, each on top of the same operations. No I/O.
//!
//! | file | one concept |
//! | --- | --- |
//! | `streaming/` | the streaming protocol: one operation after the other on a connection |
//! | `echo` | the echo of WebSocket conformance suites |
//! | `context` | what a protocol borrows for one call |
//! | `framed` | when what is framed began its way |
//! | `pb_writer` | how a pb becomes a frame |

mod context;
pub mod echo;
mod framed;
mod pb_writer;
mod streaming;

pub use context::Cx;
pub use framed::Framed;
pub use pb_writer::PbWriter;
pub use streaming::ServerSession;
