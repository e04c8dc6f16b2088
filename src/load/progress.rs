//! What the connections of a run tell each other: once for each read, never for each message.

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::Instant;

use super::interrupt::Interrupt;
use super::plan::{Mode, Plan};

/// See the module's page.
#[derive(Debug)]
pub(super) struct Progress {
    /// Messages that each producer has sent.
    pub sent: Vec<AtomicU64>,
    /// Messages of each producer that were acknowledged; final once it has ended.
    pub acknowledged: Vec<AtomicU64>,
    /// Messages that each consumer has received.
    pub received: Vec<AtomicU64>,
    /// Producers and consumers that have not ended.
    pub running: AtomicUsize,
    /// Of these the producers.
    pub producers: AtomicUsize,
    /// Consumers that have their setup answered.
    pub consumers_ready: AtomicUsize,
    /// Idle connections and stalled readers that are there.
    pub held_ready: AtomicUsize,
    /// A connection failed: everyone stops.
    pub failed: AtomicBool,
    interrupt: Interrupt,
}

impl Progress {
    pub(super) fn new(producers: u32, consumers: u32, interrupt: Interrupt) -> Self {
        let counters = |count| (0..count).map(|_| AtomicU64::new(0)).collect();
        Self {
            sent: counters(producers),
            acknowledged: counters(producers),
            received: counters(consumers),
            running: AtomicUsize::new((producers + consumers) as usize),
            producers: AtomicUsize::new(producers as usize),
            consumers_ready: AtomicUsize::new(0),
            held_ready: AtomicUsize::new(0),
            failed: AtomicBool::new(false),
            interrupt,
        }
    }

    /// Whether a producer may begin: consumers of the same run are there before it, so that none of them begins behind what it sends.
    pub(super) fn may_produce(&self, plan: &Plan) -> bool {
        let awaited = if plan.mode == Mode::Both { plan.consumers as usize } else { 0 };
        self.consumers_ready.load(Ordering::Acquire) >= awaited || self.is_stopping()
    }

    pub(super) fn has_failed(&self) -> bool {
        self.failed.load(Ordering::Relaxed)
    }

    /// When the run was interrupted, if it was.
    pub(super) fn interrupted_at(&self) -> Option<Instant> {
        self.interrupt.at()
    }

    /// Whether nothing new is to be begun.
    pub(super) fn is_stopping(&self) -> bool {
        self.has_failed() || self.interrupt.is_raised()
    }
}

/// The sum over those of `counters` that stand for connections of one queue.
pub(super) fn sum(counters: &[AtomicU64], of: &[u32]) -> u64 {
    of.iter().map(|number| counters[*number as usize].load(Ordering::Acquire)).sum()
}
