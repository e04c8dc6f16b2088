//! The workers that wait for messages of a partition, in the order in which they asked.
//!
//! A worker is told once there may be messages for it. It leaves the line then, and claims. Only as many are told
//! as the messages suffice for. One that does not claim within [`ANSWER_MAX`] has lost its turn, and the next
//! one is told.

use std::collections::VecDeque;

use crate::base::claim::Worker;
use crate::base::millis::Millis;

/// How long a worker that was told may take to claim. It is a turn of its shard and a hop, unless its connection
/// is broken.
const ANSWER_MAX: Millis = Millis::new(1_000);

/// A worker that waits.
#[derive(Debug)]
pub(super) struct Watcher<C> {
    pub token: C,
    pub worker: Worker,
    /// The most messages that it would claim.
    pub wanted: u64,
}

/// A worker that was told, and has not claimed yet.
#[derive(Debug)]
struct Told {
    worker: Worker,
    wanted: u64,
    until: Millis,
}

/// The line of a partition.
#[derive(Debug)]
pub(super) struct Line<C> {
    waiting: VecDeque<Watcher<C>>,
    told: VecDeque<Told>,
    /// The messages that those who were told would claim.
    promised: u64,
}

impl<C> Default for Line<C> {
    fn default() -> Self {
        Self { waiting: VecDeque::new(), told: VecDeque::new(), promised: 0 }
    }
}

impl<C> Line<C> {
    /// Returns the number of workers that wait or were told.
    pub(super) fn len(&self) -> usize {
        self.waiting.len() + self.told.len()
    }

    /// Adds a worker at the end of the line.
    pub(super) fn push(&mut self, watcher: Watcher<C>) {
        self.waiting.push_back(watcher);
    }

    /// Returns the next worker to tell, if `available` messages suffice for it besides those who were told.
    pub(super) fn tell(&mut self, now: Millis, available: u64) -> Option<Watcher<C>> {
        if self.promised >= available {
            return None;
        }
        let watcher = self.waiting.pop_front()?;
        self.promised += watcher.wanted;
        let (worker, wanted, until) = (watcher.worker, watcher.wanted, now + ANSWER_MAX);
        self.told.push_back(Told { worker, wanted, until });
        Some(watcher)
    }

    /// Notes that a worker has claimed after it was told.
    pub(super) fn handle_claim(&mut self, worker: Worker) {
        if let Some(index) = self.told.iter().position(|told| told.worker == worker)
            && let Some(told) = self.told.remove(index)
        {
            self.promised -= told.wanted;
        }
    }

    /// Removes a worker. Returns its place in the line.
    pub(super) fn remove(&mut self, worker: Worker) -> Option<Watcher<C>> {
        self.handle_claim(worker);
        let index = self.waiting.iter().position(|watcher| watcher.worker == worker)?;
        self.waiting.remove(index)
    }

    /// Forgets the workers that were told and took too long.
    pub(super) fn expire(&mut self, now: Millis) {
        while let Some(told) = self.told.pop_front_if(|told| told.until <= now) {
            self.promised -= told.wanted;
        }
    }

    /// Removes all that wait.
    pub(super) fn take(&mut self) -> impl Iterator<Item = Watcher<C>> + use<C> {
        self.told.clear();
        self.promised = 0;
        std::mem::take(&mut self.waiting).into_iter()
    }
}
