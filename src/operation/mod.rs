//! The server's side of produce and consume, without any protocol. No I/O.
//!
//! | file | one concept |
//! | --- | --- |
//! | `produce` | a produce operation: batches under way and what became of each message |
//! | `consume` | a consume operation: a cursor for each partition |
//! | `credit` | message numbers and how far they may go |
//! | `quota` | what a produce operation has paid for of its project's rates |
//! | `marker` | where a consumer is, as text |
//! | `settings` | sizes, lifetimes, windows and batches |
//! | `command` | what an operation asks of its shard |
//! | `context` | what an operation borrows for one call |
//! | `origin` | where the messages of a response come from, and when |

mod command;
mod consume;
mod context;
mod credit;
mod marker;
mod origin;
mod produce;
mod quota;
mod settings;

pub use command::{Command, OperationId};
pub use consume::{Beginning, Consume, Framing, Marked, Run};
pub use context::{Context, Counters};
pub use credit::{MsgNum, ReceiveWindow, SendWindow};
pub use marker::{Marker, Place, Start};
pub use origin::Origin;
pub use produce::{Author, Messages, Produce, Request, Routing, Said, StoredAt};
pub use settings::Settings;
