//! The driver of a shard on glommio: runs turns, passes of the reactor and parks, until the shard is drained.

use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use super::core::{Connections, Core, CoreCounters, Letter};
use super::delivery::Delivery;
use super::inbox::{Inbox, Sender};
use super::listener::Accepted;
use super::parker::Parker;
use super::refuser::Refuser;
use super::transport::{Plain, Secure, Socket, Tls};
use super::turn::{Host, Shard, Turn};
use crate::auth::{Judge, Question};
use crate::base::clock::{Now, Step, WallClock};
use crate::base::millis::{Millis, UnixMillis};
use crate::latency::Recorder;
use crate::store::{Store, StoreCounters};
use crate::tls::{Config, Counters};

/// How long a shard's store may take to prepare for the next start, after everything has drained.
const STOP_MAX: Duration = Duration::from_secs(2);

/// The state that the shards of a server share. Not used on the data path.
#[derive(Debug)]
pub struct Shared {
    /// The number of connections of each shard, for the acceptor's choice.
    pub connections: Vec<AtomicUsize>,
    /// The number of shards that have drained.
    pub drained: AtomicUsize,
    /// The number of connections that the acceptor has refused with 503.
    pub refused_by_acceptor: Arc<AtomicU64>,
    /// The TLS configuration at the start, if the server has a port for TLS.
    pub tls: Option<Arc<Config>>,
    /// The thread that answers refused connections.
    pub refuser: Refuser,
    /// Decides who clients are, if they must authenticate.
    pub judge: Option<Judge>,
    /// The zero of the shards' monotonic time.
    pub epoch: Instant,
}

/// The report of a shard that has ended.
#[derive(Clone, Debug)]
pub struct ShardReport {
    /// The number of the shard.
    pub shard: u16,
    /// The counters of its store.
    pub store: StoreCounters,
    /// The counters of its core.
    pub counters: CoreCounters,
    /// The latencies recorded since the last collection.
    pub latency: Recorder,
    /// Whether its store is prepared for the next start.
    pub is_stopped: bool,
}

/// The environment of a shard in a server: the reactor of its executor, and the other threads.
#[derive(Debug)]
pub struct Reactor {
    shard: u16,
    parker: Parker,
    inbox: Inbox<Delivery>,
    peers: Vec<Sender<Delivery>>,
    shared: Arc<Shared>,
    clock: WallClock,
    /// What TLS connections share, if the server has a port for them.
    tls: Option<Rc<Tls>>,
}

impl Host for Reactor {
    type Accepted = Accepted;
    type Transport = Socket;

    fn elapsed(&self) -> Duration {
        self.shared.epoch.elapsed()
    }

    fn now(&self) -> Now {
        let unix = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        self.clock.look(self.elapsed(), UnixMillis::from_epoch(unix))
    }

    fn take_step(&mut self) -> Option<Step> {
        self.clock.take_step()
    }

    fn inbox_depth(&self) -> usize {
        self.inbox.depth()
    }

    fn poll_inbox(&mut self) -> Option<Delivery> {
        self.inbox.poll()
    }

    fn send(&mut self, shard: u16, letters: Vec<Letter>) -> Result<(), Vec<Letter>> {
        match self.peers[usize::from(shard)].send(Delivery::Letters(letters)) {
            Err(Delivery::Letters(letters)) => Err(letters),
            _ => Ok(()),
        }
    }

    fn take_ready(&mut self, slots: &mut Vec<u32>) {
        self.parker.take_ready(slots);
    }

    fn has_ready(&self) -> bool {
        self.parker.has_ready()
    }

    fn accept(&mut self, accepted: Accepted, slot: u32) -> io::Result<Socket> {
        let is_secure = accepted.is_secure;
        let plain = Plain::new(accepted, slot)?;
        match &self.tls {
            Some(tls) if is_secure => Ok(Socket::Secure(Box::new(Secure::new(plain, tls)?))),
            None if is_secure => Err(io::ErrorKind::Unsupported.into()),
            _ => Ok(Socket::Plain(plain)),
        }
    }

    fn refuse(&mut self, accepted: Accepted, why: &str) {
        self.shared.refuser.refuse_accepted(accepted, why);
    }

    fn set_tls(&mut self, config: Arc<Config>) {
        if let Some(tls) = &self.tls {
            tls.set_config(config);
        }
    }

    fn tls(&self) -> Counters {
        self.tls.as_ref().map(|tls| tls.counters()).unwrap_or_default()
    }

    fn count_revoked(&mut self, connections: u64) {
        if let Some(tls) = &self.tls {
            tls.count_revoked(connections);
        }
    }

    fn ask(&mut self, question: Question) -> Result<(), Question> {
        match &self.shared.judge {
            Some(judge) => judge.ask(question),
            None => Err(question),
        }
    }

    fn count_gone(&mut self) {
        if let Some(connections) = self.shared.connections.get(usize::from(self.shard)) {
            connections.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

/// The loop that drives one shard.
#[derive(Debug)]
pub struct Driver<S> {
    shard: Shard<S, Reactor>,
    spin: Duration,
    reactor_pass: Duration,
    /// Whether this shard is counted in `drained`.
    is_counted: bool,
}

impl<S: Store<Connections>> Driver<S> {
    /// Creates the driver of `core`, shard number `shard`. `peers` are the inboxes of all shards. An idle
    /// shard polls for `spin` with passes of the reactor before it parks. glommio's own spin setting only
    /// checks the memory of the rings, but our rings show completions there only after a system call
    /// (`uring`).
    pub fn new(
        shard: u16,
        core: Core<S>,
        parker: Parker,
        inbox: Inbox<Delivery>,
        peers: Vec<Sender<Delivery>>,
        shared: Arc<Shared>,
        spin: Duration,
    ) -> Self {
        let window = core.settings().receive_window_bytes;
        let tls = shared.tls.clone().map(|config| Rc::new(Tls::new(config, window)));
        let clock = WallClock::new(core.settings().clock_step_max);
        let (shards, reactor_pass) = (peers.len() as u16, core.settings().reactor_pass);
        let reactor = Reactor { shard, parker, inbox, peers, shared, clock, tls };
        Self { shard: Shard::new(shard, shards, core, reactor), spin, reactor_pass, is_counted: false }
    }

    /// Runs turns until all shards have drained or the time is up.
    pub async fn run(mut self) -> ShardReport {
        let mut passed = Instant::now();
        let mut worked = passed;
        loop {
            self.shard.host().parker.beat();
            let began = Instant::now();
            let turn = self.shard.turn();
            if self.is_over() {
                return self.finish().await;
            }
            let mut ended = Instant::now();
            // Even a busy shard needs passes, because only a pass polls the sockets.
            if ended - passed >= self.reactor_pass {
                self.shard.host().parker.reactor_pass().await;
                ended = Instant::now();
                passed = ended;
            }
            if turn != Turn::Idle {
                self.shard.core_mut().handle_turn(ended - began);
            }
            if turn == Turn::More {
                continue;
            }
            if turn == Turn::Worked {
                worked = ended;
            }
            if worked.elapsed() < self.spin {
                self.shard.host().parker.reactor_pass().await;
                passed = Instant::now();
            } else {
                let deadline = self.shard.core().next_deadline().map(Millis::as_duration);
                let deadline = [deadline, self.shard.drain_until()].into_iter().flatten().min();
                if self.park(deadline).await {
                    passed = Instant::now();
                }
            }
        }
    }

    /// Waits for something to do, at most until `deadline` by [`Host::elapsed`]. Returns false if there was
    /// something to do already, so that the reactor made no pass.
    async fn park(&mut self, deadline: Option<Duration>) -> bool {
        let Reactor { parker, inbox, shared, .. } = self.shard.host_mut();
        parker.park(inbox, deadline.map(|after| shared.epoch + after)).await
    }

    /// Stops the store and creates the report.
    async fn finish(mut self) -> ShardReport {
        let is_stopped = self.stop().await;
        ShardReport {
            is_stopped,
            shard: self.shard.host().shard,
            store: self.shard.core().store().counters(),
            counters: self.shard.core().counters().clone(),
            latency: std::mem::take(self.shard.core_mut().latency()),
        }
    }

    /// Prepares the store for the next start, for at most [`STOP_MAX`]. Returns whether it finished.
    async fn stop(&mut self) -> bool {
        let until = self.shard.host().elapsed() + STOP_MAX;
        loop {
            if self.shard.stop() {
                return true;
            }
            if self.shard.host().elapsed() >= until {
                return false;
            }
            self.shard.host().parker.beat();
            if !self.park(Some(until)).await {
                self.shard.host().parker.reactor_pass().await;
            }
        }
    }

    /// Returns whether all shards have drained, or the time is up.
    fn is_over(&mut self) -> bool {
        let Some(until) = self.shard.drain_until() else { return false };
        let Reactor { shared, peers, .. } = self.shard.host();
        if self.shard.core().is_drained() && !self.is_counted {
            self.is_counted = true;
            shared.drained.fetch_add(1, Ordering::SeqCst);
            // The other shards may be parked, waiting for this.
            peers.iter().for_each(Sender::ring);
        }
        shared.drained.load(Ordering::SeqCst) == peers.len() || self.shard.host().elapsed() >= until
    }
}
