//! Latency histograms (HdrHistogram). Every shard always records; `shard::collector` collects.
//!
//! | file | one concept |
//! | --- | --- |
//! | `stage` | the measured stages |
//! | `recorder` | the histograms of one shard |
//! | `heat` | the rows of a heat map |
//! | `interval_log` | the `.hlog` file |
//! | `encoded`, `summary` | a histogram as text and as a few numbers |
//! | `outstanding` | requests without a response yet |

mod encoded;
mod heat;
mod interval_log;
mod outstanding;
mod recorder;
mod stage;
mod summary;

pub use encoded::{decode, encode};
pub use heat::{HEAT_FROM_NS, HEAT_ROWS, HEAT_ROWS_A_DECADE, heat_of};
pub use interval_log::{Lines, LogFile};
pub use outstanding::Outstanding;
pub use recorder::{LATENCY_NS_MAX, Recorder, histogram};
pub use stage::{Stage, Unit};
pub use summary::{Summary, time};
