//! Shards on glommio: executors, drivers, sockets, inboxes, and their helper threads.
//!
//! | file | content | runs on |
//! | --- | --- | --- |
//! | `core/` | the logic of a shard, without I/O | the shard |
//! | `turn` | one round of work, on glommio and in the simulation | the shard |
//! | `transport/` | the socket of a connection: TCP or a Unix socket | the shard |
//! | `driver` | the loop of a shard: turns, passes of the reactor, parking | the shard |
//! | `parker` | ready sockets, parking, passes of the reactor | the shard |
//! | `files` | the embedded log's disk | the shard |
//! | `inbox`, `doorbell`, `delivery` | deliveries from other threads | the shard and its senders |
//! | `preflight`, `descriptors`, `unfit` | checks of the machine; the limit of connections | the starting thread |
//! | `settings`, `cores` | settings of a server; lists of cores | |
//! | `executor`, `uring` | the setup of glommio | the starting thread |
//! | `address`, `listener` | the addresses to listen on; a listening socket, and the file of a Unix socket | the starting thread |
//! | `certificates` | reloads the files of TLS when they change | its own thread |
//! | `acceptor`, `refuser`, `monitor` | new connections; refused connections; stalls and lost wake-ups | their own threads |
//! | `collector`, `interval` | collects the histograms of all shards for display | its own thread |
//! | `reload` | gives the shards changed settings | the asking thread |
//! | `progress` | whether all shards make progress | the asking thread |
//! | `probe` | requests for the state of shards | the asking thread |
//! | `backups` | cuts of the log for backups | the asking thread |
//! | `server` | starts and stops all of it | the starting thread |

pub mod acceptor;
pub mod address;
pub(crate) mod backups;
pub(crate) mod certificates;
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
pub mod listener;
pub(crate) mod monitor;
pub mod parker;
pub(crate) mod preflight;
pub(crate) mod probe;
mod progress;
pub(crate) mod refuser;
mod reload;
pub mod server;
mod settings;
pub mod transport;
pub mod turn;
mod unfit;
pub(crate) mod uring;

pub use collector::{Board, Collector, HISTORY, LatencySettings};
pub use interval::Interval;
pub use progress::Progress;
pub use reload::{ANSWER_TIMEOUT, Reload};
pub use settings::Settings;

/// The atomics of the doorbell. Its model check replaces them with loom's.
mod sync {
    pub use std::sync::atomic::{AtomicBool, Ordering, fence};
}
