//! A server on the simulated machine: its shards, which sleep like on glommio, and its start and stop.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use millstream::access::{ProjectLimits, Tenants};
use millstream::base::clock::Now;
use millstream::base::error::StoreFault;
use millstream::base::manage::{Manage, Managed};
use millstream::base::millis::Millis;
use millstream::base::names::{FullName, queue_hash};
use millstream::base::queue::{QueueInfo, home};
use millstream::base::units::Partition;
use millstream::base::wish::{Granted, Wish};
use millstream::shard::core::{Core, Deleted, Peer, Settings};
use millstream::shard::delivery::{Delivery, Reply};
use millstream::shard::turn::{Shard, Turn};
use millstream::store::log;
use millstream::store::memory::{Memory, WhenFull};
use millstream::store::{Asker, Ledgers};

use super::clock::Clock;
use super::disk::{DataDir, Log, Moment, Report, Simulated, open};
use super::host::{Inbox, Surroundings};
use super::pipe::{Kernel, Shared};
use super::settings::Plan;
use super::store::{Contents, Weather, WeatheredStore};
use super::tunnel;

/// How long a shard's store may take to prepare for the next start.
const STOP_MAX: Duration = Duration::from_secs(2);

/// The machine on which servers run, one after another.
#[derive(Clone)]
pub struct Machine {
    pub disk: Simulated,
    pub clock: Clock,
    pub kernel: Rc<Kernel>,
    pub weather: Rc<RefCell<Weather>>,
    /// The id of the machine's boot.
    pub boot: u128,
}

impl Machine {
    fn moment(&self) -> Moment {
        Moment { unix_ns: self.clock.unix().get() * 1_000_000, boot: self.boot }
    }
}

/// A shard with any store.
trait Running {
    fn turn(&mut self) -> Turn;
    fn stop(&mut self) -> bool;
    /// Returns whether an event wakes the driver.
    fn has_news(&self) -> bool;
    fn since_start(&self) -> Duration;
    /// Returns the latest time at which the shard must run.
    fn deadline(&self) -> Option<Duration>;
    fn drain_until(&self) -> Option<Duration>;
    fn is_drained(&self) -> bool;
    /// Returns the used bytes of the budget, the waiting fetches, and the connections.
    fn left(&self) -> (usize, usize, usize);
    /// Returns the producers that the regulator counts, and the batches that it counts in the store.
    fn regulated(&self) -> (u64, usize);
    /// Returns how many connections panicked. A shard survives such a panic.
    fn panics(&self) -> u64;
    fn contents(&self, now: Now) -> Option<Vec<Vec<u8>>>;
}

impl<S: Contents> Running for Shard<S, Surroundings> {
    fn turn(&mut self) -> Turn {
        Shard::turn(self)
    }

    fn stop(&mut self) -> bool {
        Shard::stop(self)
    }

    fn has_news(&self) -> bool {
        self.host().has_news()
    }

    fn since_start(&self) -> Duration {
        self.host().since_start()
    }

    fn deadline(&self) -> Option<Duration> {
        let deadline = self.core().next_deadline().map(Millis::as_duration);
        [deadline, Shard::drain_until(self)].into_iter().flatten().min()
    }

    fn drain_until(&self) -> Option<Duration> {
        Shard::drain_until(self)
    }

    fn is_drained(&self) -> bool {
        self.core().is_drained()
    }

    fn left(&self) -> (usize, usize, usize) {
        let budget = self.core().budget();
        (budget.reserved() + budget.held(), self.core().store().waiting(), self.core().connections())
    }

    fn regulated(&self) -> (u64, usize) {
        let regulator = self.core().pulse(millstream::tls::Counters::default()).regulator;
        (regulator.open, regulator.in_store)
    }

    fn panics(&self) -> u64 {
        self.core().counters().panics
    }

    fn contents(&self, now: Now) -> Option<Vec<Vec<u8>>> {
        self.core().store().contents(now)
    }
}

struct Driver {
    shard: Box<dyn Running>,
    /// The shard's view of the machine's disk.
    disk: Simulated,
    /// Whether the last turn left work, or something else has woken the driver.
    is_awake: bool,
    /// Open connections that the shard has received.
    connections: Rc<Cell<usize>>,
    is_counted: bool,
}

/// The header of a proxy for a client at 203.0.113.9.
const PROXY_HEADER: &[u8] = b"PROXY TCP4 203.0.113.9 10.0.0.1 4660 9000\r\n";

/// A server with its shards.
pub struct Server {
    machine: Machine,
    /// Whether a proxy begins each connection with a header.
    is_proxied: bool,
    drivers: Vec<Driver>,
    inboxes: Rc<[Inbox]>,
    tenants: Arc<Tenants>,
    dir: Option<Arc<DataDir>>,
    /// The shards that have not received the order to drain.
    undrained: Vec<usize>,
    drained: usize,
}

impl Server {
    /// Starts a server with `shards` shards. Also returns the log's report.
    pub fn start(machine: &Machine, plan: &Plan, shards: u16) -> Result<(Self, Report), String> {
        let inboxes: Rc<[Inbox]> = (0..shards).map(|_| Inbox::new(plan.settings.inbox_batches)).collect();
        let tenants = Arc::new(Tenants::new(plan.limits));
        let place = Place {
            machine,
            settings: &plan.settings,
            tenants: tenants.clone(),
            inboxes: inboxes.clone(),
            shards,
            is_secure: plan.is_secure,
        };
        let (mut dir, mut found) = (None, Report::default());
        let drivers = match &plan.log {
            None => (0..shards).map(|number| place.driver(number, Ledgers::new(memory(machine)))).collect(),
            Some(config) => {
                let opened = open(&machine.disk, shards, config.segment_bytes, &machine.moment());
                let (opened, report) =
                    opened.map_err(|error| format!("the log cannot be opened: {error}"))?;
                found = report;
                let opened = &*dir.insert(Arc::new(opened));
                (0..shards)
                    .map(|number| place.driver(number, Ledgers::new(place.log(opened, number, config))))
                    .collect()
            }
        };
        let machine = machine.clone();
        Ok((
            Self {
                machine,
                is_proxied: plan.settings.proxy_from.contains(&Peer::Unix),
                drivers,
                inboxes,
                tenants,
                dir,
                undrained: Vec::new(),
                drained: 0,
            },
            found,
        ))
    }

    pub fn shards(&self) -> usize {
        self.drivers.len()
    }

    /// Passes a connection to a shard, like the acceptor. Returns false if the shard's inbox is full.
    pub fn accept(&self, shard: usize, pipe: Shared) -> bool {
        if self.is_proxied {
            pipe.borrow_mut().announce(PROXY_HEADER);
        }
        let is_given = self.inboxes[shard].send(Delivery::Socket(pipe, Peer::Unix)).is_ok();
        let connections = &self.drivers[shard].connections;
        connections.set(connections.get() + usize::from(is_given));
        is_given
    }

    /// Asks a queue's home to delete it, as the control port does. Returns false if the home's inbox is full.
    pub fn delete(&self, name: FullName, reply: Reply<Result<Deleted, StoreFault>>) -> bool {
        let home = home(queue_hash(&name.0, &name.1), self.shards() as u16);
        self.inboxes[usize::from(home)].send(Delivery::Delete(name, reply)).is_ok()
    }

    /// Asks a queue's home to describe, create or alter it, as the control port does. Returns false if the home's inbox is
    /// full.
    pub fn wish(&self, name: FullName, wish: Wish, reply: Reply<Granted>) -> bool {
        let home = home(queue_hash(&name.0, &name.1), self.shards() as u16);
        self.inboxes[usize::from(home)].send(Delivery::Wish(name, wish, reply)).is_ok()
    }

    /// Asks the owner of a partition about its messages, as the control port does. Returns false if its inbox is full.
    pub fn manage(
        &self,
        queue: &QueueInfo,
        partition: Partition,
        what: Manage,
        reply: Reply<Result<Managed, StoreFault>>,
    ) -> bool {
        let owner = queue.owner(partition, self.shards() as u16);
        self.inboxes[usize::from(owner)].send(Delivery::Manage(queue.key(partition), what, reply)).is_ok()
    }

    /// Gives every project and shard the settings of a reload. A shard whose inbox is full keeps its own.
    pub fn reload(&self, settings: &Arc<Settings>, limits: &ProjectLimits) {
        self.tenants.set_limits(limits);
        for inbox in self.inboxes.iter() {
            // Fails if the inbox is full.
            let _ = inbox.send(Delivery::Reload(settings.clone(), Reply::new(|()| ())));
        }
    }

    /// Wakes every shard, as a doorbell may do without a reason.
    pub fn wake(&mut self) {
        self.drivers.iter_mut().for_each(|driver| driver.is_awake = true);
    }

    /// Runs a turn of a shard that has a reason to run. Returns false if the shard sleeps.
    pub fn turn(&mut self, shard: usize, rings_idly: bool) -> bool {
        self.tell_drain();
        let driver = &mut self.drivers[shard];
        let is_due = driver.shard.deadline().is_some_and(|due| due <= driver.shard.since_start());
        if !(driver.is_awake || is_due || driver.shard.has_news() || driver.disk.has_done()) {
            return false;
        }
        driver.is_awake = driver.shard.turn() == Turn::More || rings_idly;
        if driver.shard.drain_until().is_some() && driver.shard.is_drained() && !driver.is_counted {
            driver.is_counted = true;
            self.drained += 1;
            self.wake();
        }
        true
    }

    /// Lets the server begin to drain.
    pub fn drain(&mut self) {
        self.undrained = (0..self.shards()).collect();
        self.tell_drain();
    }

    /// Returns whether every shard has the order to drain in its inbox.
    pub fn is_told_to_drain(&self) -> bool {
        self.undrained.is_empty()
    }

    /// Sends the order to drain. Retries full inboxes.
    fn tell_drain(&mut self) {
        let inboxes = &self.inboxes;
        self.undrained.retain(|shard| inboxes[*shard].send(Delivery::Drain).is_err());
    }

    /// Returns whether every shard has drained or reached its deadline.
    pub fn is_over(&self) -> bool {
        let is_late = |driver: &Driver| {
            driver.shard.drain_until().is_some_and(|until| driver.shard.since_start() >= until)
        };
        self.drained == self.shards() || self.drivers.iter().all(is_late)
    }

    /// Lets every shard's store prepare for the next start. Returns whether all are ready.
    pub fn stop(&mut self) -> bool {
        let until = self.machine.clock.mono() + STOP_MAX;
        let mut left: Vec<usize> = (0..self.shards()).collect();
        while self.machine.clock.mono() < until {
            left.retain(|shard| !self.drivers[*shard].shard.stop());
            if left.is_empty() {
                let moment = self.machine.moment();
                let marked = self.dir.as_ref().map(|dir| dir.mark_stopped(&self.machine.disk, &moment));
                return marked.is_none_or(|marked| marked.is_ok());
            }
            if !self.machine.disk.advance() {
                self.machine.clock.pass(Millis::new(100));
            }
        }
        false
    }

    /// Returns the resources that are still in use without a connection.
    pub fn leak(&self) -> Option<String> {
        self.drivers.iter().enumerate().find_map(|(number, driver)| {
            let (bytes, waiting, connections) = driver.shard.left();
            let (producers, batches) = driver.shard.regulated();
            let given = driver.connections.get();
            let is_clean = (bytes, waiting, connections, given) == (0, 0, 0, 0) && (producers, batches) == (0, 0);
            (!is_clean).then(|| {
                format!(
                    "shard {number} is left with {bytes} bytes, {waiting} fetches, {connections} connections, \
                     {given} by the acceptor's count, {producers} regulated producers with {batches} batches"
                )
            })
        })
    }

    /// Returns whether the handling of a connection has panicked.
    pub fn has_panicked(&self) -> bool {
        self.drivers.iter().any(|driver| driver.shard.panics() > 0)
    }

    /// Returns every payload in the stores, if they can list them.
    pub fn contents(&self) -> Option<Vec<Vec<u8>>> {
        let now = Now::new(self.machine.clock.mono(), self.machine.clock.unix());
        let of_shards: Option<Vec<_>> =
            self.drivers.iter().map(|driver| driver.shard.contents(now)).collect();
        of_shards.map(|of_shards| of_shards.concat())
    }
}

/// What a server's shards share, to create them.
struct Place<'a> {
    machine: &'a Machine,
    settings: &'a Arc<Settings>,
    tenants: Arc<Tenants>,
    inboxes: Rc<[Inbox]>,
    shards: u16,
    is_secure: bool,
}

impl Place<'_> {
    fn driver<S: Contents + 'static>(&self, number: u16, store: S) -> Driver {
        let Self { machine, settings, tenants, inboxes, shards, is_secure } = self;
        let connections = Rc::new(Cell::new(0));
        let host = Surroundings::new(
            number,
            inboxes.clone(),
            machine.kernel.clone(),
            machine.clock.clone(),
            settings.clock_step_max,
            connections.clone(),
            is_secure.then(|| tunnel::of_shard(settings.receive_window_bytes)),
        );
        let core = Core::new(number, *shards, Arc::clone(settings), tenants.clone(), store);
        let shard = Box::new(Shard::new(number, *shards, core, host));
        Driver { shard, disk: machine.disk.of(number), is_awake: true, connections, is_counted: false }
    }

    fn log<T: Asker>(&self, dir: &Arc<DataDir>, number: u16, config: &log::Settings) -> Log<T, Simulated> {
        Log::new(dir.clone(), self.machine.disk.of(number), number, self.shards, config)
    }
}

fn memory(machine: &Machine) -> WeatheredStore {
    WeatheredStore::new(Memory::new(64 << 20, WhenFull::Refuse, 7), machine.weather.clone())
}
