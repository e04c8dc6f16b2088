//! The load generator: clients that stamp, verify and measure every message.
//!
//! Thread-per-core on the `client/` room. Latency counts from the **intended** send time, one sample for each message, so that a server
//! that stands still cannot hide it by holding its clients back (what Gil Tene named coordinated omission).
//!
//! | file | one concept |
//! | --- | --- |
//! | `plan` | what a run is to do |
//! | `window` | what of it is measured, and when what is due |
//! | `stamp` | what a payload carries, and how loss, repeats and order are seen |
//! | `pacer` | when a producer sends |
//! | `producer`, `consumer`, `held` | one connection: under load, or only there |
//! | `reading` | what a consumer makes of its messages |
//! | `progress` | what connections tell each other |
//! | `interrupt` | a run that ends early |
//! | `meter`, `gather` | samples: of a thread, and of all |
//! | `server_side`, `server_watch` | what the server says, and looking at it while a load runs |
//! | `run` | all of them, on their cores, from start to end |
//! | `peers` | the same against other servers |
//! | `sweep` | runs at one rate after the other, to find the knee |
//! | `figures`, `result`, `environment` | what was measured, and where: the result file |
//! | `table` | the same for people |

mod consumer;
mod environment;
mod figures;
mod gather;
mod held;
mod interrupt;
mod meter;
mod pacer;
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
mod stamp;
mod sweep;
mod table;
mod window;

pub use environment::Environment;
pub use interrupt::Interrupt;
pub use plan::{About, Mode, Peer, Plan};
pub use result::{FORMAT, Figures, IntervalResult, Knee, ResultFile, RunResult};
pub use run::run;
pub use server_side::ControlPort;
pub use stamp::{STAMP_BYTES, Stamp, Verdict, Verifier};
pub use sweep::find_knee;
