//! Latency histograms (HdrHistogram): recorded on the shards, always on; merged, kept and exported beside them.
//!
//! | file | one concept | runs on |
//! | --- | --- | --- |
//! | `stage` | what is measured | |
//! | `recorder` | a shard's histograms | the shard |
//! | `collector` | asking the shards, by messages; what is kept of it | a thread of its own |
//! | `interval` | an interval as it is shown | |
//! | `interval_log` | the `.hlog` file | the collector's thread |
//! | `encoded`, `summary` | a histogram as text, and in a few numbers | |
//! | `outstanding` | requests whose answer is still to come | clients |

mod collector;
mod encoded;
mod interval;
mod interval_log;
mod outstanding;
mod recorder;
mod stage;
mod summary;

pub use collector::{Board, Collector, HISTORY};
pub use encoded::{decode, encode};
pub use interval::{
    HEAT_FROM_NS, HEAT_ROWS, HEAT_ROWS_A_DECADE, Heat, Interval, ShardLine, StageLine, heat_of,
};
pub use outstanding::Outstanding;
pub use recorder::{LATENCY_NS_MAX, Recorder, histogram};
pub use stage::{Stage, Unit};
pub use summary::{Summary, time};
