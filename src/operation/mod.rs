//! The server's side of produce and consume, without any protocol. No I/O.
//!
//! | file | one concept |
//! | --- | --- |
//! | `resources` | what an operation borrows from its shard for one call |
//! | `subject` | who asks for an operation, and which queue it is about |
//! | `command` | what an operation asks of its shard |
//! | `answer` | the shard's answers |
//! | `produce` | a produce operation: takes requests, speaks for messages, gives credit |
//! | `request` | a request of a producer, and its payloads while they are copied |
//! | `word` | what a producer is to hear |
//! | `routing` | the partition of each message |
//! | `building` | the open batches that payloads are copied into |
//! | `fates` | what became of each message |
//! | `credit` | how far the numbers of messages may go |
//! | `quota` | what a produce operation has paid for of its project's rates |
//! | `position` | where a consume operation begins |
//! | `consume` | a consume operation: whose turn it is, credit, markers that are owed |
//! | `cursor` | a consume operation in one partition |
//! | `marker` | positions as text |
//! | `settings` | sizes, lifetimes, windows and batches |

mod answer;
mod building;
mod command;
mod consume;
mod credit;
mod cursor;
mod fates;
mod marker;
mod position;
mod produce;
mod quota;
mod request;
mod resources;
mod routing;
mod settings;
mod subject;
mod word;

pub use answer::Answer;
pub use command::{Command, OperationId, Target};
pub use consume::{Beginning, Consume, Form, Gathered, Marked, Run};
pub use credit::{ReceiveWindow, SendWindow};
pub use fates::{Fate, StoredAt};
pub use marker::{Marker, Place, Start};
pub use position::Positioning;
pub use produce::Produce;
pub use request::{Copied, Copying, Request};
pub use resources::{OperationCounters, Resources};
pub use routing::Routing;
pub use settings::Settings;
pub use subject::{Author, Caller, Subject};
pub use word::{Acknowledged, Word};
