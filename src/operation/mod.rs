//! The server side of produce and consume, independent of the wire protocol. Does no I/O.
//!
//! | file | content |
//! | --- | --- |
//! | `resources` | what an operation borrows from its shard for one call |
//! | `subject` | the client and the queue of an operation |
//! | `command` | the commands of an operation to its shard |
//! | `answer` | the shard's answers |
//! | `produce` | a produce operation: accepts requests, answers for messages, grants credit |
//! | `request` | a producer's request, and its payloads during the copy |
//! | `word` | the answers to a producer |
//! | `routing` | the partition of each message |
//! | `building` | the open batches, which collect payloads |
//! | `fates` | the outcome of each message: pending, stored or refused |
//! | `credit` | credit windows |
//! | `regulator` | the credit of all producers, by the delay that it causes |
//! | `quota` | a produce operation's share of its project's rates |
//! | `position` | the starting positions of a consume operation |
//! | `consume` | a consume operation: fairness between partitions, credit, markers |
//! | `claim` | a claim operation: asks for leases, credit, settlements |
//! | `cursor` | the progress of a consume operation in one partition |
//! | `shown` | what readers see of claims |
//! | `marker` | positions encoded as text |
//! | `settings` | limits on sizes, lifetimes, windows and batches |

mod answer;
mod building;
mod claim;
mod command;
mod consume;
mod credit;
mod cursor;
mod fates;
mod marker;
mod position;
mod produce;
mod quota;
mod regulator;
mod request;
mod resources;
mod routing;
mod settings;
mod shown;
mod subject;
mod word;

pub use answer::{Answer, ListedQueue, Login, SubscriptionInfo};
pub use claim::{
    ByClaim, Claim, ClaimEnd, ClaimId, ClaimRequest, ClaimTerms, LostClaim, News, Outgoing, Ranges, UNAWAITED,
};
pub use command::{Command, OperationId, Order, QueuesWanted, SubscriptionOrder, Target};
pub use consume::{Beginning, Consume, Form, Gathered, Marked, Run};
pub use credit::{ReceiveWindow, SendWindow};
pub use fates::{Fate, StoredAt};
pub use marker::{Marker, MarkerPlace, Start};
pub use position::Positioning;
pub use produce::Produce;
pub use regulator::{Regulator, RegulatorSnapshot};
pub use request::{Copied, Copying, Request};
pub use resources::{OperationCounters, Resources};
pub use routing::Routing;
pub use settings::Settings;
pub use shown::ShownClaim;
pub use subject::{Author, Caller, Granted, Subject};
pub use word::{Acknowledged, Word};
