//! The reason why shards cannot start on this machine.

use std::fmt;

/// The reason why no shard can start, and what to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unfit(pub(super) String);

impl fmt::Display for Unfit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Unfit {}
