//! The streaming protocol without I/O: pbs, credit, produce, consume; server and client side.
//!
//! A session gets the unmasked bytes of its connection and the shard's answers, and gives frames for the
//! connection and [`Command`]s for the shard. Never touches sockets, clocks or stores.
//!
//! | file | one concept |
//! | --- | --- |
//! | `delimiter` | where one pb ends and the next begins |
//! | `credit` | message numbers and how far they may go |
//! | `marker` | where a consumer is |
//! | `quota` | what a produce operation has paid for of its project's rates |
//! | `context` | what a session borrows for one call |
//! | `framed` | when what is framed began its way |
//! | `server` | one operation after the other; `produce` and `consume` are the two kinds |
//! | `command` | what a session asks of its shard |
//! | `pb_writer` | how a pb becomes a frame |
//! | `client` | the same from the other side |

pub mod client;
mod command;
mod consume;
mod context;
mod credit;
mod delimiter;
mod framed;
mod marker;
mod pb_writer;
mod produce;
mod quota;
mod server;

pub use command::{Command, OperationId};
pub use context::{Cx, SessionCounters};
pub use credit::{MsgNum, ReceiveWindow, SendWindow};
pub use delimiter::{Delimiter, PbLimits, Step};
pub use framed::{Framed, Origin};
pub use marker::{Marker, Place, Start};
pub use pb_writer::PbWriter;
pub use server::ServerSession;
