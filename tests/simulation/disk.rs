//! The simulated disk of the log's own tests.

use super::random;
pub use millstream::store::log::disk::{Directory, FileName, Step};
pub use millstream::store::log::header::SegmentHeader;
pub use millstream::store::log::scan::scan;
pub use millstream::store::log::{BLOCK, DataDir, Log, Moment, Report, Tag, disk, open};

#[path = "../common/simulated.rs"]
mod simulated;

pub use simulated::{Backup, Simulated};
