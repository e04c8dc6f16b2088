//! A server on the machine: its shards, each of which sleeps as on glommio, and how it starts and stops.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use millstream::access::Tenants;
use millstream::base::clock::Now;
use millstream::base::millis::Millis;
use millstream::shard::core::{Core, Settings};
use millstream::shard::delivery::Delivery;
use millstream::shard::turn::{Shard, Turn};
use millstream::store::Asker;
use millstream::store::log;
use millstream::store::memory::{Memory, WhenFull};

use super::clock::Clock;
use super::disk::{DataDir, Log, Moment, Report, Simulated, open};
use super::host::{Inbox, Surroundings};
use super::pipe::{Kernel, Shared};
use super::settings::Plan;
use super::store::{Contents, Weather, WeatheredStore};

/// How long a shard's store may take to prepare for the next start.
const STOP_MAX: Duration = Duration::from_secs(2);

/// What servers run on, one after the other.
#[derive(Clone)]
pub struct Machine {
    pub disk: Simulated,
    pub clock: Clock,
    pub kernel: Rc<Kernel>,
    pub weather: Rc<RefCell<Weather>>,
    /// The boot of the machine.
    pub boot: u128,
}

impl Machine {
    fn moment(&self) -> Moment {
        Moment { unix_ns: self.clock.unix().get() * 1_000_000, boot: self.boot }
    }
}

/// A shard, whatever its store is.
trait Running {
    fn turn(&mut self) -> Turn;
    fn stop(&mut self) -> bool;
    /// Whether something has come that wakes the driver.
    fn has_news(&self) -> bool;
    fn since_start(&self) -> Duration;
    /// When it wants to be woken at the latest.
    fn deadline(&self) -> Option<Duration>;
    fn drain_until(&self) -> Option<Duration>;
    fn is_drained(&self) -> bool;
    /// Bytes of the budget in use, fetches that wait, connections.
    fn left(&self) -> (usize, usize, usize);
    /// Connections whose handling panicked. The shard survives that.
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

    fn panics(&self) -> u64 {
        self.core().counters().panics
    }

    fn contents(&self, now: Now) -> Option<Vec<Vec<u8>>> {
        self.core().store().contents(now)
    }
}

struct Driver {
    shard: Box<dyn Running>,
    /// The same disk, as this shard uses it.
    disk: Simulated,
    /// The last turn left something to do, or something else has woken the driver.
    is_awake: bool,
    /// Connections that were given to it and are not gone.
    connections: Rc<Cell<usize>>,
    is_counted: bool,
}

/// See the module's page.
pub struct Server {
    machine: Machine,
    drivers: Vec<Driver>,
    inboxes: Rc<[Inbox]>,
    dir: Option<Arc<DataDir>>,
    /// Shards that are still to be told to drain.
    undrained: Vec<usize>,
    drained: usize,
}

impl Server {
    /// Starts so many shards. What the log found comes with it.
    pub fn start(machine: &Machine, plan: &Plan, shards: u16) -> Result<(Self, Report), String> {
        let inboxes: Rc<[Inbox]> = (0..shards).map(|_| Inbox::new(plan.settings.inbox_batches)).collect();
        let tenants = Arc::new(Tenants::new(plan.limits));
        let place = Place { machine, settings: &plan.settings, tenants, inboxes: inboxes.clone(), shards };
        let (mut dir, mut found) = (None, Report::default());
        let drivers = match &plan.log {
            None => (0..shards).map(|number| place.driver(number, memory(machine))).collect(),
            Some(config) => {
                let opened = open(&machine.disk, shards, config.segment_bytes, &machine.moment());
                let (opened, report) = opened.map_err(|error| format!("the log does not open: {error}"))?;
                found = report;
                let opened = &*dir.insert(Arc::new(opened));
                (0..shards).map(|number| place.driver(number, place.log(opened, number, config))).collect()
            }
        };
        let machine = machine.clone();
        Ok((Self { machine, drivers, inboxes, dir, undrained: Vec::new(), drained: 0 }, found))
    }

    pub fn shards(&self) -> usize {
        self.drivers.len()
    }

    /// The acceptor gives a connection to a shard; false where its inbox is full.
    pub fn accept(&self, shard: usize, pipe: Shared) -> bool {
        let is_given = self.inboxes[shard].send(Delivery::Socket(pipe, None)).is_ok();
        let connections = &self.drivers[shard].connections;
        connections.set(connections.get() + usize::from(is_given));
        is_given
    }

    /// Wakes every shard, as a doorbell may without a reason.
    pub fn wake(&mut self) {
        self.drivers.iter_mut().for_each(|driver| driver.is_awake = true);
    }

    /// One turn of a shard that has a reason for it; false where it sleeps.
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

    /// Draining begins.
    pub fn drain(&mut self) {
        self.undrained = (0..self.shards()).collect();
        self.tell_drain();
    }

    /// A full inbox is tried again.
    fn tell_drain(&mut self) {
        let inboxes = &self.inboxes;
        self.undrained.retain(|shard| inboxes[*shard].send(Delivery::Drain).is_err());
    }

    /// Whether every shard has drained, or its time is up.
    pub fn is_over(&self) -> bool {
        let is_late = |driver: &Driver| {
            driver.shard.drain_until().is_some_and(|until| driver.shard.since_start() >= until)
        };
        self.drained == self.shards() || self.drivers.iter().all(is_late)
    }

    /// Every shard's store prepares for the next start. Whether all of them have.
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

    /// What is not given back although there is no connection.
    pub fn leak(&self) -> Option<String> {
        self.drivers.iter().enumerate().find_map(|(number, driver)| {
            let (bytes, waiting, connections) = driver.shard.left();
            let given = driver.connections.get();
            ((bytes, waiting, connections, given) != (0, 0, 0, 0)).then(|| {
                format!(
                    "shard {number} is left with {bytes} bytes, {waiting} fetches, {connections} connections, \
                     {given} by the acceptor's count"
                )
            })
        })
    }

    /// Whether the handling of a connection has panicked.
    pub fn has_panicked(&self) -> bool {
        self.drivers.iter().any(|driver| driver.shard.panics() > 0)
    }

    /// Every payload in the stores, where those can tell.
    pub fn contents(&self) -> Option<Vec<Vec<u8>>> {
        let now = Now::new(self.machine.clock.mono(), self.machine.clock.unix());
        let of_shards: Option<Vec<_>> =
            self.drivers.iter().map(|driver| driver.shard.contents(now)).collect();
        of_shards.map(|of_shards| of_shards.concat())
    }
}

/// Where a shard is put.
struct Place<'a> {
    machine: &'a Machine,
    settings: &'a Arc<Settings>,
    tenants: Arc<Tenants>,
    inboxes: Rc<[Inbox]>,
    shards: u16,
}

impl Place<'_> {
    fn driver<S: Contents + 'static>(&self, number: u16, store: S) -> Driver {
        let Self { machine, settings, tenants, inboxes, shards } = self;
        let connections = Rc::new(Cell::new(0));
        let host = Surroundings::new(
            number,
            inboxes.clone(),
            machine.kernel.clone(),
            machine.clock.clone(),
            settings.clock_step_max,
            connections.clone(),
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
