//! The part of one connection in a run.

use std::sync::Arc;

use super::plan::Plan;
use super::progress::Progress;

/// The part of one producer or consumer in a run.
#[derive(Clone, Debug)]
pub(super) struct Part {
    pub plan: Arc<Plan>,
    /// The number of the connection, from 0. Producers and consumers are counted separately.
    pub number: u32,
    pub progress: Arc<Progress>,
}

impl Part {
    /// Returns the queue of the connection.
    pub(super) fn queue(&self) -> String {
        self.plan.queue_of(self.number)
    }
}
