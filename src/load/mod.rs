//! The load generator: clients that stamp, verify and measure every message.
//!
//! It is thread-per-core and uses the `client` module. Latency counts from the **intended** send time, with
//! one sample for each message, so that a server that stalls cannot hide it by holding its clients back. Gil
//! Tene named that error coordinated omission.
//!
//! | file | one concept |
//! | --- | --- |
//! | `plan` | the parameters of a run |
//! | `start`, `setup` | the common start: all connections are set up before any begins |
//! | `observed` | a run from its start to its end, for all kinds of clients |
//! | `window` | the measured part of a run, and its send schedule |
//! | `part` | the part of one connection in a run |
//! | `stamp` | the content of a payload, and detection of loss, repeats and disorder |
//! | `pacer` | when a producer sends |
//! | `producer`, `consumer`, `worker`, `held` | one connection: under load, or only held open |
//! | `reading` | verifies and counts the messages of a consumer |
//! | `claiming`, `leases` | verify and count the messages of a worker, and of all workers |
//! | `progress` | counters that the connections share |
//! | `interrupt` | the early end of a run |
//! | `meter`, `gather` | samples of a thread, and of all threads |
//! | `server_side`, `server_watch` | the server's own figures, read during a run |
//! | `run` | runs all connections on their cores, from start to end |
//! | `peers` | the same load against other servers |
//! | `zaqar` | loads on servers of the Zaqar API |
//! | `sweep` | runs at increasing rates, to find the knee, or with more and more connections |
//! | `figures`, `result`, `environment` | the measurements and the machine: the result file |
//! | `table` | the result as a table for people |

mod claiming;
mod consumer;
mod environment;
mod figures;
mod gather;
mod held;
mod interrupt;
mod leases;
mod meter;
mod observed;
mod pacer;
mod part;
#[cfg(feature = "peers")]
pub(crate) mod peers;
mod plan;
mod producer;
mod progress;
mod reading;
mod result;
mod run;
mod server_side;
mod server_watch;
mod setup;
mod stamp;
mod start;
mod sweep;
mod table;
mod window;
mod worker;
pub mod zaqar;

pub use environment::Environment;
pub use interrupt::Interrupt;
pub use plan::{About, Mode, Peer, Plan};
pub use result::{
    ClaimFigures, FORMAT, Fairness, Figures, IntervalResult, Knee, ResultFile, RunResult, Sweep,
};
pub use run::run;
pub use stamp::{STAMP_BYTES, Stamp, Verdict, Verifier};
pub use sweep::{find_knee, sweep_connections};
