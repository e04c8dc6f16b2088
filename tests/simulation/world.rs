//! Clients, network, shards and stores, one step at a time.
//!
//! First the storm: every step is drawn by lot, connections break, stores are slow, full or failing. Then the calm:
//! nothing fails any more and everything that is due is done, but no shard is looked at without a reason that the real
//! driver would have had, too: a socket, the inbox, the store's doorbell, work left. And no time passes but that
//! of an owed marker, so that no timer hides a lost wake-up.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use millstream::access::{ProjectLimits, Tenants};
use millstream::base::clock::Now;
use millstream::client::{Next, Resume, Wire};
use millstream::shard::core::{Core, Message, Settings};
use millstream::store::Store;
use millstream::store::memory::{Memory, WhenFull};

use super::client::{Client, Link, Role};
use super::model::{Asked, Model};
use super::random::Random;
use super::store::{Weather, WeatheredStore};

/// Most steps of a storm: a short one leaves the work to the calm, where nothing comes to a sleeper's help. And passes of
/// the calm after which something hangs.
const STORM_STEPS_MAX: usize = 3_000;
const CALM_PASSES: usize = 20_000;
/// Time that the calm may take, milliseconds: owed markers of a few operations.
const CALM_MS: u64 = 700;
/// The same where a project must wait for its rates.
const LIMITED_CALM_MS: u64 = 20_000;
/// Time that draining may take, milliseconds: what consumers get of it, and the time in which a peer is to close.
const DRAIN_MS: u64 = 8_000;

struct Shard {
    core: Core<WeatheredStore>,
    inbox: VecDeque<Vec<Message>>,
    /// Something has happened that wakes the driver.
    woken: bool,
}

pub struct World {
    random: Random,
    now: Now,
    shards: Vec<Shard>,
    weather: Rc<RefCell<Weather>>,
    clients: Vec<Client>,
    asked: Vec<Option<Asked>>,
    model: Model,
    /// Bytes that a connection holds in each direction.
    pipe_bytes: usize,
    /// How often a turn looks at the store's answers and sends: the real driver's choice, of no concern to the core.
    rounds: usize,
    /// Consumers come when the producers have ended, so that nobody else wakes their shards.
    late: bool,
    /// The project's rates are limited.
    is_limited: bool,
    storm: bool,
}

impl World {
    pub fn new(seed: u64) -> Self {
        let mut random = Random(seed);
        let weather = Rc::new(RefCell::new(Weather {
            random: Random(seed ^ 0xdead_beef),
            slow: random.one_in(2),
            failing: if random.one_in(3) { random.between(5, 40) } else { 0 },
            full: if random.one_in(3) { random.between(2, 20) } else { 0 },
        }));
        let mut settings = Settings { partitions: random.between(1, 5) as u16, ..Settings::default() };
        let operation = &mut settings.operation;
        operation.max_payload_bytes = 600;
        // Some shards have hardly more memory than one pb takes.
        let batch = if random.one_in(3) { 6 } else { 30 };
        operation.max_pb_bytes = batch * 720;
        operation.produce_window = random.between(100, 400) as u32;
        operation.produce_window_bytes = random.between(1_000, 100_000);
        operation.consume_batch_messages = random.between(1, 120);
        operation.consume_batch_bytes = random.between(200, 20_000);
        settings.shard_budget_bytes = operation.max_pb_bytes * random.between(10, 40) / 10;
        operation.consume_linger = Duration::from_millis(if random.one_in(4) { 20 } else { 0 });
        let mut limits = ProjectLimits::default();
        if seed % 4 == 3 {
            limits.messages_per_sec = 200 + seed % 900;
            limits.bytes_per_sec = 20_000 + seed * 37 % 60_000;
        }
        let is_limited = limits.messages_per_sec > 0;
        let tenants = Arc::new(Tenants::new(limits));
        let settings = Arc::new(settings);
        let count = random.between(1, 3) as u16;
        let shards = (0..count)
            .map(|shard| {
                let memory = Memory::new(64 << 20, WhenFull::Refuse, 7);
                let store = WeatheredStore::new(memory, weather.clone());
                let core = Core::new(shard, count, settings.clone(), tenants.clone(), store);
                Shard { core, inbox: VecDeque::new(), woken: true }
            })
            .collect();
        let mut model = Model::new(600);
        let (mut clients, mut asked) = (Vec::new(), Vec::new());
        let producers = random.between(1, 4);
        for producer in 0..producers {
            let messages = random.between(1, 500);
            let large = random.between(2, 60);
            let payloads: Vec<Vec<u8>> = (0..messages)
                .map(|sequence| {
                    let padding =
                        if random.one_in(large) { random.between(560, 700) } else { random.below(80) };
                    Model::payload(producer, sequence, padding)
                })
                .collect();
            clients.push(Client::producer(producer as u128 + 1, "simulated", &payloads, batch, &mut random));
            asked.push(None);
            model.producers.push((producer as u128 + 1, payloads));
        }
        for consumer in 0..random.between(1, 4) {
            // Some share their Client-ID with a producer: the echo is told by it.
            let client = random.between(1, producers) as u128 + if random.one_in(2) { 0 } else { 100 };
            let echo = random.one_in(2);
            let stored: usize = model
                .producers
                .iter()
                .flat_map(|(_, sent)| sent)
                .filter(|payload| payload.len() <= 600)
                .count();
            let count = (echo && consumer > 0 && random.one_in(2)).then(|| random.below(stored + 1) as u64);
            let count = count.filter(|count| *count > 0);
            clients.push(Client::consumer(client, "simulated", echo, count, &mut random));
            asked.push(Some(Asked { client, echo, count }));
        }
        if random.one_in(3) {
            clients.push(Client::vandal(999));
            asked.push(None);
        }
        let now = Now::at_ms(1, 1_700_000_000_000);
        let pipe_bytes = random.between(300, 60_000);
        let rounds = if random.one_in(2) { 1 } else { random.between(2, 4) };
        let late = random.one_in(3);
        Self {
            random,
            now,
            shards,
            weather,
            clients,
            asked,
            model,
            pipe_bytes,
            rounds,
            late,
            is_limited,
            storm: true,
        }
    }

    pub fn run(mut self) -> Result<(), String> {
        for _ in 0..self.random.between(0, STORM_STEPS_MAX) {
            self.step();
        }
        self.storm = false;
        {
            let mut weather = self.weather.borrow_mut();
            (weather.slow, weather.failing, weather.full) = (false, 0, 0);
        }
        // The last time that the stores ring without a reason.
        self.shards.iter_mut().for_each(|shard| shard.woken = true);
        if self.random.one_in(4) {
            return self.drain();
        }
        self.calm()?;
        self.judge()?;
        for client in &self.clients {
            if let Role::Consumer(consume) = &client.role {
                consume.sink.stop.store(true, Ordering::Relaxed);
            }
        }
        (0..self.clients.len()).for_each(|client| self.poll_client(client));
        self.calm()?;
        if let Some(client) = self.clients.iter().position(|client| !client.is_complete()) {
            return Err(format!("client {client} has not ended"));
        }
        (0..self.clients.len()).for_each(|client| self.cut(client));
        self.calm()?;
        self.all_is_given_back()
    }

    /// The servers are told to stop, in the middle of everything: all of it ends, and what was acknowledged is stored.
    fn drain(mut self) -> Result<(), String> {
        self.shards.iter_mut().for_each(|shard| shard.core.handle_drain(self.now));
        let until = self.now.mono_ms + DRAIN_MS;
        while !self.shards.iter().all(|shard| shard.core.is_drained() && shard.inbox.is_empty()) {
            if self.now.mono_ms > until {
                return Err("draining does not end".into());
            }
            if !self.pass() {
                self.pass_time(50);
            }
        }
        self.all_is_given_back()?;
        let stored: Vec<Vec<u8>> =
            self.shards.iter().flat_map(|shard| shard.core.store().contents(self.now)).collect();
        for (number, client) in self.clients.iter().enumerate() {
            match (&client.role, &self.asked[number]) {
                (Role::Producer(produce), _) => {
                    let sent = &self.model.producers[number].1;
                    let there = sent.iter().filter(|payload| stored.contains(payload)).count() as u64;
                    if there < produce.stats.acknowledged {
                        let acknowledged = produce.stats.acknowledged;
                        return Err(format!(
                            "producer {number}: {there} of {acknowledged} acknowledged are there"
                        ));
                    }
                }
                (Role::Consumer(consume), Some(asked)) => {
                    let resent = self.resent();
                    self.model
                        .judge(asked, &consume.sink.seen, &resent, false)
                        .map_err(|why| format!("client {number}: {why}"))?;
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn all_is_given_back(&self) -> Result<(), String> {
        for (number, shard) in self.shards.iter().enumerate() {
            let (bytes, parked) =
                (shard.core.budget().reserved() + shard.core.budget().held(), shard.core.store().waiting());
            if (bytes, parked, shard.core.connections()) != (0, 0, 0) {
                return Err(format!("shard {number} is left with {bytes} bytes and {parked} fetches"));
            }
        }
        Ok(())
    }

    /// One thing, drawn by lot.
    fn step(&mut self) {
        let client = self.random.below(self.clients.len());
        let shard = self.random.below(self.shards.len());
        match self.random.below(20) {
            0..=5 => drop(self.deliver_up(client)),
            6..=10 => drop(self.deliver_down(client)),
            11..=14 => self.turn(shard),
            15 => self.deliver_inbox(shard),
            16 => self.connect(client),
            17 => self.pass_time(self.random.0 % 30),
            18 => self.shards[shard].woken = true,
            _ if self.random.one_in(12) => self.cut(client),
            _ => self.poll_client(client),
        }
    }

    /// Everything that is due, until nothing is.
    fn calm(&mut self) -> Result<(), String> {
        let until = self.now.mono_ms + if self.is_limited { LIMITED_CALM_MS } else { CALM_MS };
        for _ in 0..CALM_PASSES {
            let mut progress = false;
            for client in 0..self.clients.len() {
                if self.clients[client].link.is_none() && !self.clients[client].is_complete() {
                    self.connect(client);
                    // Clients wait a little before they come again.
                    self.pass_time(if self.is_limited { 10 } else { 0 });
                    progress = true;
                }
            }
            progress |= self.pass();
            if !progress {
                if self.now.mono_ms >= until {
                    return Ok(());
                }
                self.pass_time(50);
            }
        }
        Err("it never comes to rest".into())
    }

    /// Everything once. False where there was nothing to do.
    fn pass(&mut self) -> bool {
        let mut progress = false;
        for client in 0..self.clients.len() {
            progress |= self.deliver_up(client);
            progress |= self.deliver_down(client);
        }
        for shard in 0..self.shards.len() {
            if !self.shards[shard].inbox.is_empty() {
                self.deliver_inbox(shard);
                progress = true;
            }
            if self.shards[shard].woken {
                self.turn(shard);
                progress = true;
            }
        }
        progress
    }

    fn pass_time(&mut self, ms: u64) {
        self.now.mono_ms += ms;
        self.now.unix_ms += ms;
        for shard in &mut self.shards {
            shard.woken |= shard.core.next_deadline_ms().is_some_and(|due| due <= self.now.mono_ms);
        }
    }

    fn connect(&mut self, client: usize) {
        if self.clients[client].link.is_some() || self.clients[client].is_complete() && !self.storm {
            return;
        }
        let is_consumer = matches!(self.clients[client].role, Role::Consumer(_));
        if self.late && is_consumer && self.clients.iter().any(|client| client.is_producing()) {
            return;
        }
        let shard = self.random.below(self.shards.len());
        let Some(id) = self.shards[shard].core.handle_accepted(self.now, None) else { return };
        let wire = Wire::start(&self.clients[client].target);
        let (up, down) = (VecDeque::new(), VecDeque::new());
        self.clients[client].link = Some(Link { shard, id, wire, up, down, ended: false, full: false });
        self.poll_client(client);
    }

    /// The connection breaks: what is under way is lost.
    fn cut(&mut self, client: usize) {
        let Some(link) = &self.clients[client].link else { return };
        let shard = &mut self.shards[link.shard];
        shard.core.handle_gone(self.now, link.id);
        shard.woken = true;
        self.clients[client].reset();
    }

    fn poll_client(&mut self, client: usize) {
        match self.clients[client].poll() {
            Ok(Next::Done) | Err(_) => self.cut(client),
            Ok(Next::Again) => self.poll_client(client),
            Ok(_) => {}
        }
        let Self { clients, random, storm: true, .. } = self else { return };
        if let Client { role: Role::Vandal, link: Some(link), .. } = &mut clients[client]
            && link.wire.is_open()
            && link.up.is_empty()
        {
            let bytes = random.below(200);
            link.up.extend((0..bytes).map(|_| random.next() as u8));
        }
    }

    /// Some bytes reach the server.
    fn deliver_up(&mut self, client: usize) -> bool {
        let Some(link) = &mut self.clients[client].link else { return false };
        let shard = &mut self.shards[link.shard];
        let most = self.random.between(1, 5_000).min(link.up.len());
        let wanted = shard.core.wanted_read(self.now, link.id, most);
        if wanted == 0 {
            return false;
        }
        let mut bytes: Vec<u8> = link.up.drain(..wanted).collect();
        let now = self.now;
        shard.core.handle_received(now, link.id, &mut bytes, || now);
        if !self.storm || self.random.one_in(2) {
            shard.core.flush(self.now, link.id);
        }
        shard.woken = true;
        true
    }

    /// Some bytes reach the client.
    fn deliver_down(&mut self, client: usize) -> bool {
        let Some(link) = &mut self.clients[client].link else { return false };
        if link.down.is_empty() {
            if link.ended {
                self.cut(client);
            }
            return self.clients[client].link.is_none();
        }
        let most = self.random.between(1, 8_000).min(link.down.len());
        let mut bytes: Vec<u8> = link.down.drain(..most).collect();
        if link.full && link.down.len() < self.pipe_bytes / 2 {
            link.full = false;
            let shard = &mut self.shards[link.shard];
            shard.core.handle_writable(link.id);
            shard.woken = true;
        }
        match self.clients[client].handle_received(&mut bytes) {
            Ok(Next::Done) | Err(_) => self.cut(client),
            Ok(_) => self.poll_client(client),
        }
        true
    }

    fn deliver_inbox(&mut self, shard: usize) {
        let shard = &mut self.shards[shard];
        for message in shard.inbox.pop_front().into_iter().flatten() {
            shard.core.handle_message(self.now, message);
        }
        shard.woken = true;
    }

    /// One turn, as `shard::driver` does it.
    fn turn(&mut self, shard: usize) {
        if !std::mem::take(&mut self.shards[shard].woken) {
            return;
        }
        for client in 0..self.clients.len() {
            if let Some(link) = &self.clients[client].link
                && link.shard == shard
            {
                self.shards[shard].core.flush(self.now, link.id);
            }
        }
        for _ in 0..self.rounds {
            let core = &mut self.shards[shard].core;
            core.handle_completions(self.now);
            if core.next_deadline_ms().is_some_and(|due| due <= self.now.mono_ms) {
                core.handle_timeouts(self.now);
            }
            if !core.has_work() {
                break;
            }
            self.transmit(shard);
        }
        for to in 0..self.shards.len() {
            if let Some(messages) = self.shards[shard].core.poll_outbox(to as u16) {
                self.shards[to].inbox.push_back(messages);
            }
        }
        let has_work = self.shards[shard].core.has_work();
        // A store that keeps something back rings its doorbell when that is done.
        let rings = self.storm && self.random.one_in(2);
        self.shards[shard].woken |= has_work || rings;
    }

    fn transmit(&mut self, shard: usize) {
        for _ in 0..self.shards[shard].core.dirty() {
            let core = &mut self.shards[shard].core;
            let Some(id) = core.poll_dirty() else { return };
            let link = self.clients.iter_mut().filter_map(|client| client.link.as_mut());
            let Some(link) = link.into_iter().find(|link| (link.shard, link.id) == (shard, id)) else {
                continue;
            };
            let bytes = core.poll_transmit(self.now, id);
            if !bytes.is_empty() {
                let room = self.pipe_bytes.saturating_sub(link.down.len());
                let (length, sent) = (bytes.len(), bytes.len().min(room));
                link.down.extend(&bytes[..sent]);
                link.full = sent < length;
                core.handle_sent(self.now, id, sent, sent == length);
            }
            let (sent_all, over) = core.closing(self.now, id);
            link.ended |= sent_all || over;
        }
    }

    /// Messages that each producer's client has sent again.
    fn resent(&self) -> Vec<u64> {
        let resent = self.clients.iter().filter_map(|client| match &client.role {
            Role::Producer(produce) => Some(produce.stats.resent),
            _ => None,
        });
        resent.collect()
    }

    fn judge(&mut self) -> Result<(), String> {
        let resent = self.resent();
        for (number, client) in self.clients.iter().enumerate() {
            match (&client.role, &self.asked[number]) {
                (Role::Producer(produce), _) => {
                    let sent = &self.model.producers[number].1;
                    let storable = sent.iter().filter(|payload| payload.len() <= 600).count() as u64;
                    let (stored, refused) = (produce.stats.acknowledged, produce.stats.refused);
                    if (stored, refused) != (storable, sent.len() as u64 - storable) {
                        return Err(format!(
                            "producer {number}: {stored} acknowledged and {refused} refused of {}, {storable} of \
                             them storable; failure {:?}",
                            sent.len(),
                            produce.failure()
                        ));
                    }
                }
                (Role::Consumer(consume), Some(asked)) => {
                    let seen = &consume.sink.seen;
                    self.model
                        .judge(asked, seen, &resent, true)
                        .map_err(|why| format!("client {number}: {why}"))?;
                    let now = self.now.unix_ms as i64;
                    if let Some(late) =
                        seen.iter().find(|message| i64::from(message.age) * 1000 > now - message.timestamp_ms)
                    {
                        return Err(format!("client {number}: {} is older than it can be", late.id));
                    }
                }
                _ => {}
            }
        }
        Ok(())
    }
}
