//! Projects as tenants: what each has open and stored, and how fast it produces, in the whole server.
//!
//! All shards share the tenants, because a project's connections are spread over the shards. A map is locked
//! during handshakes and when a queue is created or deleted; everything else is atomic counters. Connections,
//! operations and queues are counted even without a limit, so that a limit that a reload adds knows them.
//! Messages and bytes are counted only while their rate is limited.
//!
//! Rates use the generic cell rate algorithm (ITU-T I.371, virtual scheduling). It keeps one number for each
//! rate: the time at which everything taken so far is paid for.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::limits::{Limits, ProjectLimits, Rate};
use crate::base::error::PeerFault;
use crate::base::millis::Millis;
use crate::base::names::Project;
use crate::base::policies::Policies;
use crate::base::queue::QueueId;

/// The part of a rate that may be used at once, as time at that rate.
const BURST: Millis = Millis::new(1_000);

/// The number of tenants at which unused ones are removed for the first time.
const TENANTS_BEFORE_SWEEP: usize = 1_024;

/// The tenants of a server.
#[derive(Debug)]
pub struct Tenants {
    limits: Arc<Limits>,
    /// Whether stored bytes are counted: `project_storage_bytes` was set at the start.
    counts_storage: bool,
    known: Mutex<Known>,
    /// The counted queues, by their ids in this process.
    queues: Mutex<HashMap<QueueId, Permit>>,
    policies: Policies,
}

#[derive(Debug)]
struct Known {
    by_name: HashMap<Project, Arc<Tenant>>,
    sweep_at: usize,
}

/// The use and the limits of one project.
#[derive(Debug)]
pub struct Tenant {
    used: [AtomicU64; 3],
    /// The limits of every project.
    pub(super) limits: Arc<Limits>,
    pub(super) counts_storage: bool,
    /// The bytes of all [`StorageShare`](super::StorageShare)s.
    pub(super) storage: AtomicU64,
    messages: Bucket,
    bytes: Bucket,
}

/// A resource whose number is limited for each project.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Use {
    /// An open connection.
    Connection,
    /// An open operation.
    Operation,
    /// A queue that exists, open or not.
    Queue,
}

/// One counted use. Dropping it releases the use.
#[derive(Debug)]
pub struct Permit {
    tenant: Arc<Tenant>,
    what: Use,
}

impl Tenants {
    /// Creates an empty set of tenants, each with the limits `limits`.
    pub fn new(limits: ProjectLimits) -> Self {
        let known = Known { by_name: HashMap::new(), sweep_at: TENANTS_BEFORE_SWEEP };
        Self {
            limits: Arc::new(Limits::new(&limits)),
            counts_storage: limits.storage_bytes > 0,
            known: Mutex::new(known),
            queues: Mutex::default(),
            policies: Policies::default(),
        }
    }

    /// Returns the policies of the queues that exist.
    pub fn policies(&self) -> &Policies {
        &self.policies
    }

    /// Changes the limits of every project. What exceeds a lower limit stays, and nothing is added until the
    /// use is below the limit. Storage is limited only if it was limited at the start, because it is not
    /// counted otherwise.
    pub fn set_limits(&self, limits: &ProjectLimits) {
        self.limits.set(limits);
    }

    /// Returns the tenant of a project, which is created if missing.
    pub fn get(&self, project: &Project, now: Millis) -> Arc<Tenant> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(tenant) = known.by_name.get(project) {
            return tenant.clone();
        }
        if known.by_name.len() >= known.sweep_at {
            known.by_name.retain(|_, tenant| Arc::strong_count(tenant) > 1 || !tenant.is_unused(now));
            known.sweep_at = TENANTS_BEFORE_SWEEP.max(2 * known.by_name.len());
        }
        let tenant = Arc::new(Tenant::new(self.limits.clone(), self.counts_storage));
        known.by_name.insert(project.clone(), tenant.clone());
        tenant
    }

    /// Counts one more connection of a project.
    pub fn admit(&self, project: &Project, now: Millis) -> Result<Permit, PeerFault> {
        let key = "project_max_connections";
        let permit = self.get(project, now).take(Use::Connection);
        permit.map_err(|limit| PeerFault::TooMany { what: "connections", key, limit })
    }

    /// Returns whether the storage of projects is counted.
    pub fn counts_storage(&self) -> bool {
        self.counts_storage
    }

    fn queues(&self) -> MutexGuard<'_, HashMap<QueueId, Permit>> {
        self.queues.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts a queue until [`Self::release_queue`].
    pub fn hold_queue(&self, queue: QueueId, permit: Permit) {
        self.queues().insert(queue, permit);
    }

    /// Stops counting a queue that was deleted.
    pub fn release_queue(&self, queue: QueueId) {
        self.queues().remove(&queue);
    }

    /// Returns the project of a counted queue.
    pub fn of_queue(&self, queue: QueueId) -> Option<Arc<Tenant>> {
        self.queues().get(&queue).map(|permit| permit.tenant.clone())
    }
}

impl Tenant {
    fn new(limits: Arc<Limits>, counts_storage: bool) -> Self {
        Self {
            used: Default::default(),
            limits,
            counts_storage,
            storage: AtomicU64::new(0),
            messages: Bucket::default(),
            bytes: Bucket::default(),
        }
    }

    /// Takes one use. Returns the limit if it is reached.
    pub fn take(self: &Arc<Self>, what: Use) -> Result<Permit, u64> {
        let limit = match what {
            Use::Connection => &self.limits.connections,
            Use::Operation => &self.limits.operations,
            Use::Queue => &self.limits.queues,
        };
        let (used, limit) = (&self.used[what as usize], limit.load(Ordering::Relaxed));
        let taken = used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |used| {
            (limit == 0 || used < limit).then_some(used + 1)
        });
        match taken {
            Ok(_) => Ok(Permit { tenant: self.clone(), what }),
            Err(_) => Err(limit),
        }
    }

    /// Takes one use regardless of the limit, for something that already exists.
    pub fn hold(self: &Arc<Self>, what: Use) -> Permit {
        self.used[what as usize].fetch_add(1, Ordering::Relaxed);
        Permit { tenant: self.clone(), what }
    }

    /// Returns whether a rate of the project is limited.
    pub fn has_rates(&self) -> bool {
        self.limits.has_rates()
    }

    /// Returns how many messages may be sent now, ignoring their size.
    fn messages_left(&self, now: Millis) -> u64 {
        self.limits.messages().map_or(u64::MAX, |rate| self.messages.balance(rate, now))
    }

    /// Returns how many messages of about `bytes` each may be promised now.
    pub fn available(&self, now: Millis, bytes: u64) -> u64 {
        let of_bytes = self.limits.bytes().map_or(u64::MAX, |rate| {
            // A message larger than the burst is allowed when the whole burst is available.
            let is_full = self.bytes.is_full(now);
            (self.bytes.balance(rate, now) / bytes.max(1)).max(u64::from(is_full))
        });
        self.messages_left(now).min(of_bytes)
    }

    /// Returns whether the project owes more than a whole burst of bytes. A smaller debt is normal, because
    /// messages may be larger than the ones before.
    pub fn owes_bytes(&self, now: Millis) -> bool {
        self.limits.bytes().is_some_and(|rate| self.bytes.owes_burst(rate, now))
    }

    /// Returns whether the project has exhausted one of its rates.
    pub fn is_over(&self, now: Millis) -> bool {
        let is_empty =
            |bucket: &Bucket, rate: Option<Rate>| rate.is_some_and(|rate| bucket.balance(rate, now) == 0);
        is_empty(&self.messages, self.limits.messages()) || is_empty(&self.bytes, self.limits.bytes())
    }

    /// Pays for messages and bytes, even if the balance becomes negative.
    pub fn pay(&self, now: Millis, messages: u64, bytes: u64) {
        if let Some(rate) = self.limits.messages() {
            self.messages.pay(rate, now, messages);
        }
        if let Some(rate) = self.limits.bytes() {
            self.bytes.pay(rate, now, bytes);
        }
    }

    /// Refunds messages and bytes that were paid for and not used.
    pub fn refund(&self, messages: u64, bytes: u64) {
        if let Some(rate) = self.limits.messages() {
            self.messages.refund(rate, messages);
        }
        if let Some(rate) = self.limits.bytes() {
            self.bytes.refund(rate, bytes);
        }
    }

    /// Returns the number of open operations.
    pub fn operations(&self) -> u64 {
        self.used[Use::Operation as usize].load(Ordering::Relaxed)
    }

    /// Returns the rates in messages and bytes per second; 0 means no limit.
    pub fn rates(&self) -> (u64, u64) {
        let rate = |rate: Option<Rate>| rate.map_or(0, |rate| rate.per_sec);
        (rate(self.limits.messages()), rate(self.limits.bytes()))
    }

    fn is_unused(&self, now: Millis) -> bool {
        self.used.iter().all(|used| used.load(Ordering::Relaxed) == 0)
            && self.storage() == 0
            && [&self.messages, &self.bytes].into_iter().all(|bucket| bucket.is_full(now))
    }
}

impl Permit {
    /// Returns the project that it counts for.
    pub fn tenant(&self) -> &Arc<Tenant> {
        &self.tenant
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.tenant.used[self.what as usize].fetch_sub(1, Ordering::Relaxed);
    }
}

/// What a project has used of one rate. `paid_until_ns` is the algorithm's theoretical arrival time. It is a
/// time, not a number of units, so a reload that changes the rate leaves a debt as long as it was.
#[derive(Debug, Default)]
struct Bucket {
    paid_until_ns: AtomicU64,
}

impl Bucket {
    /// Returns the units that may be used now.
    fn balance(&self, rate: Rate, now: Millis) -> u64 {
        let now = now.as_nanos();
        let paid = self.paid_until_ns.load(Ordering::Relaxed).max(now);
        let left_ns = (now + burst_ns(rate)).saturating_sub(paid);
        u64::try_from(u128::from(left_ns) * u128::from(rate.per_sec) / 1_000_000_000).unwrap_or(u64::MAX)
    }

    /// Returns whether the whole burst is available.
    fn is_full(&self, now: Millis) -> bool {
        self.paid_until_ns.load(Ordering::Relaxed) <= now.as_nanos()
    }

    /// Returns whether the debt is larger than a burst.
    fn owes_burst(&self, rate: Rate, now: Millis) -> bool {
        self.paid_until_ns.load(Ordering::Relaxed) > now.as_nanos() + 2 * burst_ns(rate)
    }

    fn pay(&self, rate: Rate, now: Millis, units: u64) {
        let (now, ns) = (now.as_nanos(), ns(rate, units));
        // Cannot fail: the closure always returns a value.
        let _ = self.paid_until_ns.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |paid| {
            Some(paid.max(now).saturating_add(ns))
        });
    }

    fn refund(&self, rate: Rate, units: u64) {
        let ns = ns(rate, units);
        // Cannot fail: the closure always returns a value.
        let _ = self
            .paid_until_ns
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |paid| Some(paid.saturating_sub(ns)));
    }
}

/// Returns units as time at this rate.
fn ns(rate: Rate, units: u64) -> u64 {
    u64::try_from(u128::from(units) * 1_000_000_000 / u128::from(rate.per_sec)).unwrap_or(u64::MAX / 4)
}

/// Returns the burst as time at this rate.
fn burst_ns(rate: Rate) -> u64 {
    ns(rate, rate.burst).max(BURST.as_nanos())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn project(name: &str) -> Project {
        Project::parse(name).unwrap()
    }

    #[test]
    fn uses_are_counted_for_each_project_and_released() {
        let limits = ProjectLimits { connections: 2, ..ProjectLimits::default() };
        let tenants = Tenants::new(limits);
        let tenant = tenants.get(&project("a"), Millis::ZERO);
        let first = tenant.take(Use::Connection).unwrap();
        let _second = tenants.get(&project("a"), Millis::ZERO).take(Use::Connection).unwrap();
        assert_eq!(tenant.take(Use::Connection).map(drop), Err(2));
        assert!(tenants.get(&project("b"), Millis::ZERO).take(Use::Connection).is_ok());
        drop(first);
        assert!(tenant.take(Use::Connection).is_ok());
        assert!(tenant.take(Use::Queue).is_ok(), "an unlimited use is only counted");
    }

    #[test]
    fn existing_queues_count_even_beyond_the_limit() {
        let tenants = Tenants::new(ProjectLimits { queues: 2, ..ProjectLimits::default() });
        let tenant = tenants.get(&project("a"), Millis::ZERO);
        for id in 0..3 {
            tenants.hold_queue(QueueId(id), tenant.hold(Use::Queue));
        }
        assert!(tenants.of_queue(QueueId(1)).is_some_and(|of| Arc::ptr_eq(&of, &tenant)));
        tenants.release_queue(QueueId(1));
        assert_eq!(tenant.take(Use::Queue).map(drop), Err(2), "two are left");
        tenants.release_queue(QueueId(1));
        assert_eq!(tenant.take(Use::Queue).map(drop), Err(2), "releasing a queue twice has no effect");
        tenants.release_queue(QueueId(0));
        assert!(tenant.take(Use::Queue).is_ok());
        assert!(tenants.of_queue(QueueId(0)).is_none());
    }

    #[test]
    fn a_rate_allows_its_burst_then_its_pace_and_refunds_count() {
        let limits = ProjectLimits { messages_per_sec: 1_000, bytes_per_sec: 50_000, ..Default::default() };
        let tenant = Tenants::new(limits).get(&project("a"), Millis::ZERO);
        let at = |ms: u64| Millis::new(5_000 + ms);
        let start = at(0);
        assert_eq!(tenant.available(start, 10), 1_000);
        assert_eq!(tenant.available(start, 100), 500);
        tenant.pay(start, 1_000, 10_000);
        assert!(tenant.is_over(start));
        assert_eq!(tenant.available(at(250), 10), 250);
        tenant.pay(at(250), 1_250, 0);
        assert_eq!(tenant.available(at(1_000), 10), 0, "a debt is paid off first");
        tenant.pay(start, 0, 85_000);
        assert!(!tenant.owes_bytes(start));
        tenant.pay(start, 0, 10_000);
        assert!(tenant.owes_bytes(start));
        tenant.refund(0, 95_000);
        assert_eq!(tenant.available(at(1_500), 10), 250);
        tenant.refund(100, 0);
        assert_eq!(tenant.available(at(1_500), 10), 350);
        assert_eq!(tenant.available(at(60_000), 10), 1_000, "at most the burst is saved up");
    }

    #[test]
    fn a_message_larger_than_the_burst_is_allowed_alone() {
        let limits = ProjectLimits { bytes_per_sec: 1_000, ..Default::default() };
        let tenant = Tenants::new(limits).get(&project("a"), Millis::ZERO);
        assert_eq!(tenant.available(Millis::new(5_000), 3_000), 1);
        tenant.pay(Millis::new(5_000), 1, 3_000);
        assert_eq!(tenant.available(Millis::new(7_000), 3_000), 0);
        assert_eq!(tenant.available(Millis::new(8_000), 3_000), 1);
    }

    #[test]
    fn projects_without_use_are_removed() {
        let limits = ProjectLimits { connections: 1, messages_per_sec: 7, ..Default::default() };
        let tenants = Tenants::new(limits);
        let held = tenants.get(&project("held"), Millis::ZERO).take(Use::Connection).unwrap();
        let queue = tenants.get(&project("queue"), Millis::ZERO).take(Use::Queue).unwrap();
        tenants.get(&project("busy"), Millis::ZERO).pay(Millis::ZERO, 1_000, 0);
        for number in 0..10 * TENANTS_BEFORE_SWEEP {
            tenants.get(&project(&format!("p{number}")), Millis::new(10));
        }
        let known = tenants.known.lock().unwrap();
        assert!(known.by_name.len() <= 2 * TENANTS_BEFORE_SWEEP);
        for kept in ["held", "queue", "busy"] {
            assert!(known.by_name.contains_key(&project(kept)), "{kept}");
        }
        drop(known);
        drop((held, queue));
    }
}
