//! Cuts of the log of a running server, for backups.

use std::sync::Arc;

use super::probe::Probe;
use crate::store::log::{Cut, DataDir, NoCut, NotHeld};

/// A handle on the cuts of the log. Any thread may use it.
#[derive(Clone, Debug)]
pub struct Backups {
    dir: Arc<DataDir>,
    probe: Probe,
}

impl Backups {
    pub(super) fn new(dir: Arc<DataDir>, probe: Probe) -> Self {
        Self { dir, probe }
    }

    /// Asks all shards for a cut, whose files are then held under `id`, which must not be 0. Passes it to
    /// `take`, on any thread.
    pub fn begin(&self, id: u64, take: impl FnOnce(Result<Cut, NoCut>) + Send + 'static) {
        let shards = u16::try_from(self.probe.shards()).unwrap_or(u16::MAX);
        self.dir.begin_cut(id, shards, take);
        self.probe.wake();
    }

    /// Returns whether the files of a cut are held.
    pub fn check(&self, id: u64) -> Result<(), NotHeld> {
        self.dir.check_hold(id)
    }

    /// Releases the files of a cut, or ends the attempt to make it.
    pub fn end(&self, id: u64) -> Result<(), NotHeld> {
        self.dir.end_hold(id)
    }
}
