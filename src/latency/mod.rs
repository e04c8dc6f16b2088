//! Latency histograms (HdrHistogram). Shards record them, always; `shard::collector` collects them.
//!
//! | file | one concept |
//! | --- | --- |
//! | `stage` | what is measured |
//! | `recorder` | the histograms of one shard |
//! | `heat` | the rows of a heat map |
//! | `interval_log` | the `.hlog` file |
//! | `encoded`, `summary` | a histogram as text, and in a few numbers |
//! | `outstanding` | requests without an answer yet |

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
