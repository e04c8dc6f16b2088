//! Clients, network, servers and disk, one step at a time.
//!
//! First comes the storm: each step is random, connections break, stores are slow, full or failing, and
//! servers end and start again. Then comes the calm: nothing fails any more, and all pending work is done. A
//! shard gets a turn only for a reason that also wakes the real driver: a socket, the inbox, the store's
//! doorbell, a deadline, or remaining work. No time passes except that of an owed marker, so that no timer
//! hides a lost wake-up.

use std::cell::{Cell, RefCell};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::rc::Rc;

use super::client::{Client, Role};
use super::clock::Clock;
use super::crew::Crew;
use super::disasters::Snapshot;
use super::disk::Simulated;
use super::doomed::Doomed;
use super::guests::Guests;
use super::model::{Asked, Model};
use super::pipe::{Kernel, Pipe};
use super::random::Random;
use super::server::{Machine, Server};
use super::settings::{PAYLOAD_BYTES_MAX, Plan};
use super::store::Weather;
use millstream::base::millis::Millis;

/// The most steps of a storm. A short storm leaves the work to the calm, where nothing else helps a sleeping
/// shard.
const STORM_STEPS_MAX: usize = 3_000;
/// The number of passes after which a calm counts as stalled.
const CALM_PASSES: usize = 20_000;
/// The time that the calm may take, in milliseconds: that of the owed markers of a few operations.
const CALM: Millis = Millis::new(700);
/// The time that the calm may take if a project must wait for its rates, in milliseconds.
const LIMITED_CALM: Millis = Millis::new(20_000);
/// The time in which a store notices that its disk works again, in milliseconds: a few of its ticks.
const RECOVERY: Millis = Millis::new(4_000);
/// How often, and how long each time, the audit of the workers lets time pass: longer than claims last.
const AUDIT_PASSES: usize = 40;
/// How often a shard whose inbox is full is asked again for what a queue holds: more often than there are partitions.
const COUNT_PASSES: usize = 40;
const AUDIT_STEP_MS: u64 = 8_000;
/// The time that draining may take, in milliseconds: the consumers' part, and the time for peers to close.
const DRAIN: Millis = Millis::new(8_000);

pub struct World {
    pub(super) random: Random,
    /// Decides about reloads, so that they leave the other decisions of a seed as they are.
    reloads: Random,
    pub(super) plan: Plan,
    pub(super) machine: Machine,
    pub(super) server: Option<Server>,
    pub(super) clients: Vec<Client>,
    pub(super) model: Model,
    pub(super) doomed: Option<Doomed>,
    pub(super) crew: Option<Crew>,
    pub(super) guests: Option<Guests>,
    /// The capacity of each direction of a connection, in bytes.
    pipe_bytes: usize,
    /// Whether consumers connect only after the producers have ended, so that no other client wakes their
    /// shards.
    late: bool,
    pub(super) is_storm: bool,
    pub(super) snapshots: Vec<Snapshot>,
    /// Whether the disk's contents differ from what was written.
    pub(super) is_spoiled: bool,
    /// When a jump of the wall clock ends, or 0 without such a jump.
    pub(super) right_again: Millis,
    /// The lasting error of the wall clock, from jumps back for good.
    pub(super) base_error_ms: i64,
}

impl World {
    pub fn new(seed: u64) -> Result<Self, String> {
        let mut random = Random(seed);
        let plan = Plan::draw(seed, &mut random);
        let weather = Weather {
            random: Random(seed ^ 0xdead_beef),
            slow: random.one_in(2),
            failing: if random.one_in(3) { random.between(5, 40) } else { 0 },
            full: if random.one_in(3) { random.between(2, 20) } else { 0 },
        };
        let kernel = Kernel {
            random: RefCell::new(Random(seed ^ 0x00c0_ffee)),
            failing: Cell::new(if random.one_in(3) { random.between(30, 300) } else { 0 }),
            piecemeal: Cell::new(random.one_in(2)),
        };
        let machine = Machine {
            disk: Simulated::new(seed ^ 0x0d15_c0d1),
            clock: Clock::new(random.between(100, 100_000) as u64),
            kernel: Rc::new(kernel),
            weather: Rc::new(RefCell::new(weather)),
            boot: 1,
        };
        let may_hide = plan.jumps || plan.jumps_for_good;
        let doomed = || Doomed::new(Random(seed ^ 0xde1e_7e00), machine.clock.clone(), may_hide);
        let mut world = Self {
            model: Model::new(PAYLOAD_BYTES_MAX, plan.knows_the_time()),
            doomed: plan.deletes.then(doomed),
            guests: plan
                .has_guests
                .then(|| Guests::new(Random(seed ^ 0x6e57_5000), machine.clock.clone(), may_hide)),
            crew: plan.works.then(|| Crew::new(seed ^ 0x00c4_e700, machine.clock.clone(), &plan)),
            server: None,
            clients: Vec::new(),
            pipe_bytes: random.between(300, 60_000),
            late: random.one_in(3),
            is_storm: true,
            snapshots: Vec::new(),
            is_spoiled: false,
            right_again: Millis::ZERO,
            base_error_ms: 0,
            random,
            reloads: Random(seed ^ 0x0e10_ad00),
            plan,
            machine,
        };
        world.invite();
        world.start()?;
        Ok(world)
    }

    fn invite(&mut self) {
        let Self { random, plan, machine: Machine { clock, .. }, clients, model, .. } = self;
        let producers = random.between(1, 4);
        for number in 0..producers {
            let messages = random.between(1, 500);
            let large = random.between(2, 60);
            let ttl = if plan.is_short_lived && random.one_in(2) { Model::SHORT_TTL } else { Model::TTL };
            let mut payload = |sequence| {
                let padding = if random.one_in(large) { random.between(560, 700) } else { random.below(80) };
                Model::payload(number, sequence, padding)
            };
            model.add(number as u128 + 1, ttl, (0..messages).map(&mut payload).collect());
            clients.push(Client::producer(model, number, Model::QUEUE, plan.batch, clock, random));
        }
        let stored: usize = (0..producers).map(|producer| model.storable(producer)).sum();
        for consumer in 0..random.between(1, 4) {
            // Some consumers share their Client-ID with a producer, to test the echo.
            let client = random.between(1, producers) as u128 + if random.one_in(2) { 0 } else { 100 };
            let echo = random.one_in(2);
            let is_counted = echo && consumer > 0 && plan.keeps_all() && random.one_in(2);
            let count = is_counted.then(|| random.below(stored + 1) as u64).filter(|count| *count > 0);
            clients.push(Client::consumer(Asked::new(client, echo, count), Model::QUEUE, clock, random));
        }
        if random.one_in(3) {
            clients.push(Client::vandal(999));
        }
    }

    /// Runs the seed to its end. Returns a digest of the history.
    pub fn run(mut self) -> Result<u64, String> {
        let steps = self.random.between(0, STORM_STEPS_MAX);
        let disasters: Vec<usize> = (0..self.plan.disasters).map(|_| self.random.below(steps + 1)).collect();
        for step in 0..steps {
            self.step()?;
            for _ in disasters.iter().filter(|at| **at == step) {
                self.strike()?;
            }
        }
        self.clear_up();
        if self.random.one_in(4) {
            self.drain()?;
            if self.plan.log.is_none() {
                return Ok(self.digest());
            }
            self.restart()?;
        }
        self.recover()?;
        self.crew.iter_mut().for_each(Crew::calm_down);
        self.calm()?;
        self.judge()?;
        self.audit_doomed()?;
        self.audit_guests()?;
        self.leave()?;
        if self.plan.log.is_some() {
            // What consumers have seen must still exist for a new consumer after the server's next end.
            self.end_and_start()?;
            let (asked, clock) = (Asked::new(5_000, true, None), &self.machine.clock);
            let auditor = Client::consumer(asked, Model::QUEUE, clock, &mut self.random);
            self.clients.push(auditor);
            self.recover()?;
            self.calm()?;
            self.judge()?;
            self.audit_doomed()?;
            self.audit_guests()?;
            self.leave()?;
        }
        self.audit_crew()?;
        Ok(self.digest())
    }

    /// Checks that the second queue holds exactly the messages that it must.
    fn audit_doomed(&mut self) -> Result<(), String> {
        let (Some(doomed), Some(server)) = (&mut self.doomed, &self.server) else { return Ok(()) };
        doomed.judge_rest()?;
        doomed.begin_audit(server)?;
        self.calm()?;
        self.doomed.as_mut().map_or(Ok(()), Doomed::end_audit)
    }

    /// Checks that the guests' queue holds exactly the messages that it must.
    fn audit_guests(&mut self) -> Result<(), String> {
        let (Some(guests), Some(server)) = (&mut self.guests, &self.server) else { return Ok(()) };
        guests.begin_audit(server)?;
        self.calm()?;
        self.guests.as_mut().map_or(Ok(()), Guests::audit)?;
        self.calm()?;
        self.guests.as_mut().map_or(Ok(()), Guests::end_audit)
    }

    /// Lets so much time pass that every claim of which no worker knows ends, and checks that every message was settled.
    fn audit_crew(&mut self) -> Result<(), String> {
        let Some(crew) = &mut self.crew else { return Ok(()) };
        crew.begin_audit()?;
        for _ in 0..AUDIT_PASSES {
            self.calm()?;
            self.count_crew()?;
            if self.crew.as_mut().map_or(Ok(true), Crew::is_done)? {
                break;
            }
            self.pass_time(AUDIT_STEP_MS);
        }
        if let (Some(crew), Some(server)) = (&mut self.crew, &self.server) {
            crew.begin_reading(server)?;
        }
        self.calm()?;
        let Some(crew) = &mut self.crew else { return Ok(()) };
        crew.end_audit()?;
        crew.stop();
        self.calm()?;
        self.crew.iter_mut().for_each(Crew::leave_all);
        self.calm()?;
        self.is_given_back()
    }

    /// Counts what the workers' queues hold.
    fn count_crew(&mut self) -> Result<(), String> {
        for _ in 0..COUNT_PASSES {
            let (Some(crew), Some(server)) = (&mut self.crew, &self.server) else { return Ok(()) };
            let is_counted = crew.count(server)?;
            self.calm()?;
            if is_counted {
                return Ok(());
            }
        }
        Err("the workers' queues cannot be counted".into())
    }

    fn digest(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        self.machine.clock.mono().hash(&mut hasher);
        for client in &self.clients {
            let Role::Consumer(consume, _) = &client.role else { continue };
            consume.sink.seen.iter().for_each(|seen| (&seen.id, seen.came).hash(&mut hasher));
        }
        hasher.finish()
    }

    /// Ends the storm: nothing fails any more.
    fn clear_up(&mut self) {
        self.is_storm = false;
        self.set_right();
        let Machine { disk, kernel, weather, .. } = &self.machine;
        disk.heal();
        disk.limit(u64::MAX);
        kernel.failing.set(0);
        kernel.piecemeal.set(false);
        let mut weather = weather.borrow_mut();
        (weather.slow, weather.failing, weather.full) = (false, 0, 0);
        drop(weather);
        // The stores ring without a reason for the last time.
        self.server.iter_mut().for_each(Server::wake);
    }

    /// Lets time pass so that stores whose disk failed or was full try again.
    fn recover(&mut self) -> Result<(), String> {
        if !self.plan.fails {
            return Ok(());
        }
        let until = self.machine.clock.millis() + RECOVERY;
        for _ in 0..CALM_PASSES {
            if self.machine.clock.millis() > until {
                return Ok(());
            }
            if !self.pass() {
                self.pass_time(500);
            }
        }
        Err("a store never recovers".into())
    }

    /// Stops the consumers and checks that the server releases everything.
    fn leave(&mut self) -> Result<(), String> {
        for client in &self.clients {
            if let Role::Consumer(consume, _) = &client.role {
                consume.sink.stop.set(true);
            }
        }
        self.clients.iter_mut().for_each(Client::poll);
        self.calm()?;
        if let Some(client) = self.clients.iter().position(|client| !client.is_complete()) {
            return Err(format!("client {client} has not ended"));
        }
        self.clients.iter_mut().for_each(Client::cut);
        self.doomed.iter_mut().for_each(Doomed::leave_all);
        self.guests.iter_mut().for_each(Guests::leave_all);
        self.calm()?;
        // The workers stay.
        if self.crew.is_some() { Ok(()) } else { self.is_given_back() }
    }

    fn is_given_back(&self) -> Result<(), String> {
        self.server.as_ref().and_then(Server::leak).map_or(Ok(()), Err)
    }

    /// Drains the server in the middle of everything. All operations must end, and acknowledged messages must
    /// be stored.
    pub(super) fn drain(&mut self) -> Result<(), String> {
        let was_storm = std::mem::replace(&mut self.is_storm, false);
        self.server.iter_mut().for_each(Server::drain);
        if let (Some(doomed), Some(server)) = (&mut self.doomed, &self.server) {
            doomed.delete_late(server);
        }
        let until = self.machine.clock.millis() + DRAIN;
        let mut passes = 0..CALM_PASSES;
        while !self.server.as_ref().is_none_or(Server::is_over) {
            if self.machine.clock.millis() > until || passes.next().is_none() {
                return Err("draining did not end".into());
            }
            if !self.pass() {
                self.pass_time(50);
            }
        }
        // Operations of broken connections may still run in the store.
        while self.pass() {
            passes.next().ok_or("the shards never run out of work")?;
        }
        self.is_storm = was_storm;
        self.is_given_back()?;
        self.judge_some()?;
        self.doomed.as_mut().map_or(Ok(()), Doomed::look)?;
        let Some(stored) = self.server.as_ref().and_then(Server::contents) else { return Ok(()) };
        for (number, client) in self.clients.iter().enumerate() {
            let Role::Producer(produce) = &client.role else { continue };
            let sent = &self.model.producers[number].payloads;
            let there = sent.iter().filter(|payload| stored.contains(payload)).count() as u64;
            let acknowledged = produce.stats.acknowledged;
            let may_end = self.model.producers[number].ttl == Model::SHORT_TTL;
            if there < acknowledged && !may_end {
                return Err(format!(
                    "producer {number}: {there} of {acknowledged} acknowledged messages are stored"
                ));
            }
        }
        Ok(())
    }

    /// Runs a random step.
    fn step(&mut self) -> Result<(), String> {
        let client = self.random.below(self.clients.len());
        let shards = self.server.as_ref().map_or(1, Server::shards);
        let shard = self.random.below(shards);
        if self.plan.reloads
            && self.reloads.one_in(60)
            && let Some(server) = &self.server
        {
            let (settings, limits) = self.plan.reloaded(&mut self.reloads);
            server.reload(&settings, &limits);
        }
        match self.random.below(22) {
            0..=4 => drop(self.send(client)),
            5..=9 => drop(self.receive(client)),
            10..=14 => drop(self.turn(shard)),
            15..=16 => {
                for _ in 0..self.random.below(6) {
                    self.machine.disk.advance();
                }
            }
            17 => self.connect(client),
            18 => {
                let ms = self.random.next() % 30;
                self.pass_time(ms);
                if self.plan.is_short_lived && self.random.one_in(20) {
                    let ms = self.random.between(1_000, 15_000) as u64;
                    self.pass_time(ms);
                }
            }
            19 => match &self.clients[client].link {
                Some(link) if self.random.one_in(2) => link.pipe.borrow().mark_idly(),
                _ => self.server.iter_mut().for_each(Server::wake),
            },
            20 if self.plan.rolls_back && self.random.one_in(12) => self.take_snapshot(),
            _ if self.random.one_in(12) => self.cut(client),
            _ => self.poll(client),
        }
        let Some(server) = &self.server else { return Ok(()) };
        if let Some(crew) = &mut self.crew {
            crew.step(server)?;
        }
        if let Some(guests) = &mut self.guests {
            guests.step(server)?;
        }
        self.doomed.as_mut().map_or(Ok(()), |doomed| doomed.step(server))
    }

    /// Does all pending work until none is left.
    fn calm(&mut self) -> Result<(), String> {
        let is_limited = self.plan.is_limited;
        let until = self.machine.clock.millis() + if is_limited { LIMITED_CALM } else { CALM };
        for _ in 0..CALM_PASSES {
            let mut progress = false;
            for client in 0..self.clients.len() {
                if self.clients[client].link.is_none() && !self.clients[client].is_complete() {
                    self.connect(client);
                    // Clients wait a little before they reconnect.
                    self.pass_time(if is_limited { 10 } else { 0 });
                    progress = true;
                }
            }
            if let (Some(crew), Some(server)) = (&mut self.crew, &self.server) {
                progress |= crew.reconnect(server);
            }
            progress |= self.pass();
            if !progress {
                if self.machine.clock.millis() >= until {
                    return Ok(());
                }
                self.pass_time(50);
            }
        }
        Err("the world never comes to rest".into())
    }

    /// Does everything once. Returns false if there was nothing to do.
    pub(super) fn pass(&mut self) -> bool {
        let mut progress = false;
        for client in 0..self.clients.len() {
            progress |= self.send(client);
            progress |= self.receive(client);
        }
        progress |= self.doomed.as_mut().is_some_and(Doomed::pass);
        progress |= self.crew.as_mut().is_some_and(Crew::pass);
        progress |= self.guests.as_mut().is_some_and(Guests::pass);
        while self.machine.disk.advance() {
            progress = true;
        }
        for shard in 0..self.server.as_ref().map_or(0, Server::shards) {
            progress |= self.turn(shard);
        }
        progress
    }

    pub(super) fn pass_time(&mut self, ms: u64) {
        self.machine.clock.pass(Millis::new(ms));
        if self.machine.clock.millis() >= self.right_again && self.right_again > Millis::ZERO {
            self.set_right();
        }
    }

    fn connect(&mut self, client: usize) {
        let Some(server) = &self.server else { return };
        if self.clients[client].link.is_some() || self.clients[client].is_complete() && !self.is_storm {
            return;
        }
        let is_consumer = matches!(self.clients[client].role, Role::Consumer(..));
        if self.late && is_consumer && self.clients.iter().any(Client::is_producing) {
            return;
        }
        let pipe = Pipe::new(self.pipe_bytes);
        if server.accept(self.random.below(server.shards()), pipe.clone()) {
            self.clients[client].connect(pipe, self.plan.is_secure);
            self.poll(client);
        }
    }

    /// Breaks a connection. Bytes in flight may be lost.
    fn cut(&mut self, client: usize) {
        if let Some(link) = &self.clients[client].link
            && self.random.one_in(2)
        {
            link.pipe.borrow_mut().lose();
        }
        self.clients[client].cut();
    }

    fn poll(&mut self, client: usize) {
        self.clients[client].poll();
        if self.is_storm {
            self.clients[client].vandalize(&mut self.random);
        }
    }

    fn send(&mut self, client: usize) -> bool {
        let most = self.random.between(1, 5_000);
        self.clients[client].send(most)
    }

    fn receive(&mut self, client: usize) -> bool {
        let most = self.random.between(1, 8_000);
        self.clients[client].receive(most)
    }

    fn turn(&mut self, shard: usize) -> bool {
        // A store that holds requests back rings its doorbell when it releases them.
        let rings_idly = self.is_storm && self.plan.log.is_none() && self.random.one_in(2);
        self.server.as_mut().is_some_and(|server| server.turn(shard, rings_idly))
    }
}
