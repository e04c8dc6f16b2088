//! Counters that the connections of a run share. They change once per read, never once per message.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::Instant;

use super::interrupt::Interrupt;
use super::leases::Leases;
use super::plan::{Mode, Plan};
use super::start::Start;
use crate::tls::client::Security;

/// The shared state of a run.
#[derive(Debug)]
pub(super) struct Progress {
    /// The number of messages that each producer has sent.
    pub sent: Vec<AtomicU64>,
    /// The number of acknowledged messages of each producer. Set when the producer ends.
    pub acknowledged: Vec<AtomicU64>,
    /// The number of messages that each consumer, or worker, has received.
    pub received: Vec<AtomicU64>,
    /// The number of messages whose acknowledgement each worker knows to be confirmed.
    pub settled: Vec<AtomicU64>,
    /// What the workers have.
    pub leases: Leases,
    /// How many producers and consumers have not ended.
    pub running: AtomicUsize,
    /// The common start of producers and consumers.
    pub start: Start,
    /// How many producers have not ended.
    pub producers: AtomicUsize,
    /// How many idle connections and stalled readers are open.
    pub held_ready: AtomicUsize,
    /// Whether a connection failed. Then every connection stops.
    pub failed: AtomicBool,
    /// The version and the cipher suite of TLS, once a connection knows them.
    tls: OnceLock<Security>,
    interrupt: Interrupt,
}

impl Progress {
    pub(super) fn new(plan: &Plan) -> Self {
        let (producers, consumers) = (plan.producers(), plan.consumers());
        let counters = |count| (0..count).map(|_| AtomicU64::new(0)).collect();
        Self {
            sent: counters(producers),
            acknowledged: counters(producers),
            received: counters(consumers),
            settled: counters(consumers),
            leases: Leases::new(if plan.mode == Mode::Claim { plan.streams() } else { 0 }),
            running: AtomicUsize::new((producers + consumers) as usize),
            start: Start::new(),
            producers: AtomicUsize::new(producers as usize),
            held_ready: AtomicUsize::new(0),
            failed: AtomicBool::new(false),
            tls: OnceLock::new(),
            interrupt: plan.interrupt.clone(),
        }
    }

    /// Records the version and the cipher suite of a connection. Those of the first one count.
    pub(super) fn learn(&self, security: Option<Security>) {
        if let Some(security) = security {
            // Fails if another connection was first.
            let _ = self.tls.set(security);
        }
    }

    /// Returns the version and the cipher suite of TLS, or `None` if the connections do not use it.
    pub(super) fn tls(&self) -> Option<String> {
        self.tls.get().map(ToString::to_string)
    }

    pub(super) fn has_failed(&self) -> bool {
        self.failed.load(Ordering::Relaxed)
    }

    /// Returns when the run was interrupted, if it was.
    pub(super) fn interrupted_at(&self) -> Option<Instant> {
        self.interrupt.at()
    }

    /// Returns whether nothing new may begin.
    pub(super) fn is_stopping(&self) -> bool {
        self.has_failed() || self.interrupt.is_raised()
    }
}

/// Returns the sum of the counters of some connections.
pub(super) fn sum(counters: &[AtomicU64], of: &[u32]) -> u64 {
    of.iter().map(|number| counters[*number as usize].load(Ordering::Acquire)).sum()
}
