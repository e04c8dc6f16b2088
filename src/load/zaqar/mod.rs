//! A load on any server of OpenStack's Zaqar API v2 over WebSocket.
//!
//! The status of every answer is checked. Each connection checks one answer of each kind completely before the
//! run begins, and every notification is verified.
//!
//! | file | one concept |
//! | --- | --- |
//! | `load` | the parameters of a load, and its workloads |
//! | `format` | JSON or MessagePack |
//! | `requests` | the requests of a connection |
//! | `template` | a request that is encoded once and used many times |
//! | `answer` | the few parts of an answer that a load needs, without building a document |
//! | `opening` | what a connection asks before the run begins, and the complete check of those answers |
//! | `work` | which request is next, and what its answer means |
//! | `caller`, `subscriber` | one connection under load |
//! | `run` | runs all connections on their cores |
//! | `report` | the result |

mod answer;
mod caller;
mod format;
mod load;
mod opening;
mod report;
mod requests;
mod run;
mod subscriber;
mod template;
mod work;

pub use format::Format;
pub use load::{CLAIMED, Load, STAMP_CHARS, Workload};
pub use report::Report;
pub use run::run;
