//! Shards on glommio: executors, drivers, sockets, inboxes, and the threads beside them.
//!
//! | file | one concept | runs on |
//! | --- | --- | --- |
//! | `core/` | what a shard decides, without I/O | the shard |
//! | `turn` | one round of work, on glommio and in the simulation | the shard |
//! | `transport/` | the bytes of a connection: TCP | the shard |
//! | `driver` | turn after turn, passes of the reactor, parking | the shard |
//! | `parker` | ready sockets, parking, passes of the reactor | the shard |
//! | `files` | the embedded log's disk | the shard |
//! | `inbox`, `doorbell`, `delivery` | what other threads send | the shard and its senders |
//! | `preflight`, `descriptors`, `unfit` | what the machine must allow; how many connections it leaves room for | the starting thread |
//! | `settings`, `cores` | what a server obeys; lists of cores | |
//! | `executor`, `uring` | how glommio is set up | the starting thread |
//! | `acceptor`, `refuser`, `monitor` | new connections; those that are refused; stalls and lost wake-ups | their own threads |
//! | `collector`, `interval` | histograms of all shards, collected and kept for those who look | a thread of its own |
//! | `probe` | asking shards how they are | whoever asks |
//! | `server` | all of it, started and stopped | the starting thread |

pub mod acceptor;
mod collector;
pub mod core;
pub mod cores;
pub mod delivery;
mod descriptors;
pub(crate) mod doorbell;
pub(crate) mod driver;
pub mod executor;
pub(crate) mod files;
pub mod inbox;
mod interval;
pub(crate) mod monitor;
pub mod parker;
pub(crate) mod preflight;
pub(crate) mod probe;
pub(crate) mod refuser;
pub mod server;
mod settings;
pub mod transport;
pub mod turn;
mod unfit;
pub(crate) mod uring;

pub use collector::{Board, Collector, HISTORY, LatencySettings};
pub use interval::Interval;
pub use settings::Settings;

/// The atomics under the doorbell; loom's in its model check.
mod sync {
    pub use std::sync::atomic::{AtomicBool, Ordering, fence};
}
