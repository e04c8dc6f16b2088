//! The wall clock of the system.

use std::time::{SystemTime, UNIX_EPOCH};

use crate::base::millis::UnixMillis;

/// Returns the time by the system's clock; the epoch, if the clock stands before it.
pub fn unix_now() -> UnixMillis {
    UnixMillis::from_epoch(SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default())
}
