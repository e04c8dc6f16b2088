//! A whole server: its shards, acceptor, monitor and collector, started and stopped together.

use std::fmt::Display;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use glommio::ExecutorJoinHandle;

use super::acceptor::{Acceptor, Target};
use super::address::Addresses;
use super::backups::Backups;
use super::certificates::Certificates;
use super::collector::{Board, Collector};
use super::core::{self, Connections, Core};
use super::delivery::Delivery;
use super::driver::{Driver, ShardReport, Shared};
use super::executor::{ExecutorSettings, spawn};
use super::files::Files;
use super::inbox::{Inbox, Sender, inbox};
use super::monitor::{self, Watched};
use super::parker::{Heartbeat, Parker};
use super::preflight;
use super::probe::{Leaving, Probe};
use super::progress::Progress;
use super::refuser::Refuser;
use super::reload::Reload;
use super::settings::Settings;
use crate::access::Tenants;
use crate::auth::{Answer, Audience, Desk, Judge, Keyer, Waiting};
use crate::latency::Recorder;
use crate::process::AbortOnPanic;
use crate::store::kafka::{self, Cluster, Kafka, News};
use crate::store::log::{self, DataDir, DirectoryLock, Log, OsDirectory};
use crate::store::memory::{self, Memory};
use crate::store::{Ledgers, Store, StoreKind};
use crate::tls::files::Loaded;

/// How long to wait before a full inbox gets the request to drain again.
const FULL_WAIT: Duration = Duration::from_millis(1);
/// How long a drain waits at most for the acceptor to end.
const ACCEPTOR_WAIT: Duration = Duration::from_secs(1);
const ACCEPTOR_LOOK: Duration = Duration::from_micros(200);

/// A running server.
#[derive(Debug)]
pub struct Server {
    addresses: Addresses,
    secure_addresses: Addresses,
    handle: DrainHandle,
    stores: Stores,
    probe: Probe,
    judge: Option<Judge>,
    desk: Option<Desk>,
    tenants: Arc<Tenants>,
    heartbeats: Vec<Arc<Heartbeat>>,
    collector: Collector,
    shards: Vec<ExecutorJoinHandle<ShardReport>>,
    acceptor: JoinHandle<()>,
    monitor: JoinHandle<()>,
    stop_monitor: Arc<AtomicBool>,
}

/// A handle that asks a server to drain, from any thread.
#[derive(Clone, Debug)]
pub struct DrainHandle {
    acceptor: Acceptor,
    shards: Vec<Sender<Delivery>>,
    leaving: Arc<Leaving>,
}

impl DrainHandle {
    /// Announces the drain: the server is no longer ready for new clients, but serves as before.
    pub fn announce(&self) {
        self.leaving.is_announced.store(true, Ordering::Relaxed);
    }

    /// Starts to drain: no new connections, no new operations. Open operations end as section 3 of the
    /// protocol describes.
    pub fn drain(&self) {
        self.leaving.is_draining.store(true, Ordering::Relaxed);
        self.acceptor.close();
        // The acceptor may just hand over a connection, and a shard may have stalled. The caller must not wait for
        // either: it must still handle a second signal.
        let (acceptor, mut untold) = (self.acceptor.clone(), self.shards.clone());
        let telling = std::thread::Builder::new().name("drain".into()).spawn(move || {
            let until = Instant::now() + ACCEPTOR_WAIT;
            // A connection that arrived after the request to drain could meet a shard that has ended.
            while !acceptor.has_ended() && Instant::now() < until {
                std::thread::sleep(ACCEPTOR_LOOK);
            }
            loop {
                untold.retain(|shard| shard.send(Delivery::Drain).is_err());
                if untold.is_empty() {
                    return;
                }
                std::thread::sleep(FULL_WAIT);
            }
        });
        if let Err(error) = telling {
            tracing::error!(%error, "starting the drain thread failed: shards with a full inbox do not drain");
            self.shards.iter().for_each(|shard| drop(shard.send(Delivery::Drain)));
        }
    }
}

/// The parts from which the shards' stores are created.
#[derive(Clone, Debug)]
enum Stores {
    Log { dir: Arc<DataDir>, directory: Arc<OsDirectory>, config: log::Settings, _lock: Arc<DirectoryLock> },
    Memory(memory::Settings, u64),
    Kafka(Cluster, Box<kafka::Settings>, kafka::Bounds),
}

impl Stores {
    fn of(settings: &Settings, shards: usize) -> io::Result<Self> {
        // Two queues of the same name must never share an incarnation. The clock's nanoseconds make
        // incarnations unique.
        let now = log::moment();
        let store = &settings.store;
        match store.kind {
            StoreKind::Log => {
                let log::Settings { data_dir, min_free_bytes, segment_bytes, .. } = &store.log;
                let failed = |error: &dyn Display| {
                    io::Error::other(format!("data_dir = {}: {error}", data_dir.display()))
                };
                let lock = OsDirectory::lock(data_dir).map_err(|error| failed(&error))?;
                let directory = OsDirectory::new(data_dir, *min_free_bytes);
                let (dir, report) = log::open(&directory, shards as u16, *segment_bytes, &now)
                    .map_err(|error| failed(&error))?;
                report.say(data_dir);
                warn_of_little_room(&store.log);
                Ok(Self::Log {
                    dir: Arc::new(dir),
                    directory: Arc::new(directory),
                    config: store.log.clone(),
                    _lock: Arc::new(lock),
                })
            }
            StoreKind::Memory => Ok(Self::Memory(store.memory, now.unix_ns)),
            StoreKind::Kafka => {
                let bounds = settings.kafka_bounds();
                let cluster = Cluster::start(&store.kafka, &bounds)?;
                Ok(Self::Kafka(cluster, Box::new(store.kafka.clone()), bounds))
            }
        }
    }
}

impl Stores {
    /// Records a clean stop, after every shard has stopped. Waits for the disk.
    fn mark_stopped(&self) {
        if let Self::Log { dir, directory, .. } = self
            && let Err(error) = dir.mark_stopped(&**directory, &log::moment())
        {
            tracing::warn!(%error, "record of the clean stop failed: the next start will take damage to the newest messages for a torn write");
        }
    }
}

/// The parts of a shard, apart from its store.
struct ShardPart {
    number: u16,
    shards: u16,
    settings: Arc<core::Settings>,
    tenants: Arc<Tenants>,
    parker: Parker,
    inbox: Inbox<Delivery>,
    peers: Vec<Sender<Delivery>>,
    shared: Arc<Shared>,
    spin: Duration,
    /// Set if clients must authenticate.
    keyer: Option<Keyer>,
}

impl ShardPart {
    async fn run<S: Store<Connections>>(self, store: S) -> ShardReport {
        let Self { number, shards, settings, tenants, parker, inbox, peers, shared, spin, keyer } = self;
        let mut core = Core::new(number, shards, settings, tenants, store);
        if let Some(keyer) = keyer {
            core.authenticate(keyer);
        }
        Driver::new(number, core, parker, inbox, peers, shared, spin).run().await
    }
}

/// The listeners of the judge: the inboxes of the shards, and the questions of other threads.
#[derive(Debug)]
struct Listeners {
    inboxes: Vec<Sender<Delivery>>,
    desk: Waiting,
}

impl Audience for Listeners {
    fn listeners(&self) -> u16 {
        self.inboxes.len() as u16 + 1
    }

    fn tell(&self, shard: u16, answer: Answer) -> Result<(), Answer> {
        let Some(sender) = self.inboxes.get(usize::from(shard)) else {
            self.desk.handle(answer);
            return Ok(());
        };
        match sender.send(Delivery::Auth(answer)) {
            Err(Delivery::Auth(answer)) => Err(answer),
            _ => Ok(()),
        }
    }
}

impl Server {
    /// Starts a shard on each core, and serves the connections of `acceptor`. `tls` is for those of its sockets
    /// that speak TLS.
    pub fn start(settings: &Settings, acceptor: Acceptor, tls: Option<Loaded>) -> io::Result<Self> {
        let (addresses, secure_addresses) = (acceptor.addresses()?, acceptor.secure_addresses()?);
        let latency_log = Collector::open_log(&settings.latency)?;
        let cores = settings.shard_cores();
        let count = cores.len();
        let inbox_batches = settings.core.inbox_batches;
        let (senders, inboxes): (Vec<_>, Vec<_>) = (0..count).map(|_| inbox(inbox_batches)).unzip();
        let waiting = Waiting::default();
        let listeners = Listeners { inboxes: senders.clone(), desk: waiting.clone() };
        let judge = settings.auth.is_on().then(|| Judge::start(&settings.auth, Arc::new(listeners)));
        let judge = judge.transpose()?;
        let keyer = judge.is_some().then(Keyer::random).transpose();
        let keyer = keyer.map_err(|_| io::Error::other("the system has no random numbers"))?;
        let desk = judge.clone().zip(keyer.clone());
        let desk = desk.map(|(judge, keyer)| Desk::new(judge, keyer, count as u16, waiting));
        let shared = Arc::new(Shared {
            connections: (0..count).map(|_| AtomicUsize::new(0)).collect(),
            drained: AtomicUsize::new(0),
            refused_by_acceptor: Arc::default(),
            tls: tls.as_ref().map(|loaded| Arc::clone(&loaded.config)),
            refuser: Refuser::start()?,
            judge: judge.clone(),
            epoch: Instant::now(),
        });
        let core_settings = Arc::new(settings.of_shards());
        let all_tenants = Arc::new(Tenants::new(settings.projects));
        let stores = Stores::of(settings, count)?;
        let (ready, started) = mpsc::channel();
        let mut shards = Vec::new();
        let stalls: Vec<Arc<AtomicU64>> = (0..count).map(|_| Arc::default()).collect();
        let (mut watched, mut targets) = (Vec::new(), Vec::new());
        for ((shard, core), inbox) in cores.into_iter().enumerate().zip(inboxes) {
            let executor = ExecutorSettings { name: format!("shard-{shard}"), core: Some(core) };
            let (core_settings, tenants) = (core_settings.clone(), all_tenants.clone());
            let (shared, peers, keyer) = (shared.clone(), senders.clone(), keyer.clone());
            let spin = settings.spin_before_park;
            let stores = stores.clone();
            let bell = senders[shard].clone();
            let heartbeat: Arc<Heartbeat> = Arc::default();
            targets.push(Target { sender: senders[shard].clone(), heartbeat: Arc::clone(&heartbeat) });
            watched.push(Watched {
                heartbeat: Arc::clone(&heartbeat),
                sender: senders[shard].clone(),
                stalls: stalls[shard].clone(),
            });
            let ready = ready.clone();
            let handle = spawn(executor, move || async move {
                let _guard = AbortOnPanic;
                // Fails if another shard could not start. Then nothing waits for this one.
                let _ = ready.send(shard);
                drop(ready);
                let part = ShardPart {
                    number: shard as u16,
                    shards: count as u16,
                    settings: core_settings,
                    tenants,
                    parker: Parker::new(heartbeat),
                    inbox,
                    peers,
                    shared,
                    spin,
                    keyer,
                };
                // If the inbox is full, the shard is awake and polls its store in every turn.
                let wake = move || drop(bell.send(Delivery::StoreNews));
                match stores {
                    Stores::Log { dir, directory, config, _lock } => {
                        let files = Files::new(directory, wake);
                        let store = Log::new(dir, files, part.number, part.shards, &config);
                        part.run(Ledgers::new(store)).await
                    }
                    Stores::Memory(memory::Settings { bytes, when_full }, incarnation) => {
                        part.run(Ledgers::new(Memory::new(bytes / count, when_full, incarnation))).await
                    }
                    Stores::Kafka(cluster, kafka, bounds) => {
                        let news = Arc::new(News::new(wake));
                        let store = Kafka::new(cluster, &kafka, &bounds, count, news);
                        part.run(store).await
                    }
                }
            })
            .map_err(|error| io::Error::other(format!("core {core}: {error}")))?;
            shards.push(handle);
        }
        drop(ready);
        await_shards(&mut shards, &started)?;
        let stop_monitor = Arc::new(AtomicBool::new(false));
        let stop = stop_monitor.clone();
        let heartbeats = watched.iter().map(|shard| Arc::clone(&shard.heartbeat)).collect();
        let monitor = std::thread::Builder::new().name("monitor".into()).spawn(move || {
            let _guard = AbortOnPanic;
            monitor::watch(&watched, &stop);
        })?;
        let accepting = acceptor.clone();
        let refused = shared.refused_by_acceptor.clone();
        let accepts = std::thread::Builder::new().name("acceptor".into()).spawn(move || {
            let _guard = AbortOnPanic;
            accepting.run(&targets, &shared);
        })?;
        let certificates = tls.map(|loaded| Certificates::start(&settings.tls, &loaded, senders.clone()));
        let certificates = certificates.transpose()?;
        let leaving: Arc<Leaving> = Arc::default();
        let probe = Probe::new(senders.clone(), stalls, refused, leaving.clone(), certificates);
        Ok(Self {
            addresses,
            secure_addresses,
            collector: Collector::start(settings.latency.interval, latency_log, probe.clone())?,
            probe,
            judge,
            desk,
            stores,
            handle: DrainHandle { acceptor, shards: senders, leaving },
            tenants: all_tenants,
            heartbeats,
            shards,
            acceptor: accepts,
            monitor,
            stop_monitor,
        })
    }

    /// Returns the addresses that it listens on, with the port that the system selected for port 0.
    pub fn addresses(&self) -> &Addresses {
        &self.addresses
    }

    /// Returns the addresses that it listens on with TLS.
    pub fn secure_addresses(&self) -> &Addresses {
        &self.secure_addresses
    }

    /// Returns a handle to drain the server.
    pub fn drain_handle(&self) -> DrainHandle {
        self.handle.clone()
    }

    /// Returns a handle to ask for the state of the shards.
    pub fn probe(&self) -> Probe {
        self.probe.clone()
    }

    /// Returns a handle for backups, if the store is the embedded log.
    pub fn backups(&self) -> Option<Backups> {
        match &self.stores {
            Stores::Log { dir, .. } => Some(Backups::new(dir.clone(), self.probe())),
            _ => None,
        }
    }

    /// Returns a handle to change the settings of the shards.
    pub fn reload(&self) -> Reload {
        Reload::new(self.probe.clone(), self.tenants.clone())
    }

    /// Returns the desk at which other threads ask who clients are, if they must authenticate.
    pub fn desk(&self) -> Option<Desk> {
        self.desk.clone()
    }

    /// Returns the judge of clients, if they must authenticate.
    pub fn judge(&self) -> Option<Judge> {
        self.judge.clone()
    }

    /// Returns a view of the shards' progress.
    pub fn progress(&self) -> Progress {
        Progress::new(self.heartbeats.clone())
    }

    /// Returns access to the latencies.
    pub fn board(&self) -> Board {
        self.collector.board()
    }

    /// Waits until the server has drained. Returns the report of each shard, and the latencies of all shards.
    pub fn join(self) -> io::Result<(Vec<ShardReport>, Recorder)> {
        let mut reports = Vec::new();
        for shard in self.shards {
            reports.push(shard.join().map_err(|error| io::Error::other(error.to_string()))?);
        }
        if reports.iter().all(|report| report.is_stopped) {
            self.stores.mark_stopped();
        }
        self.stop_monitor.store(true, Ordering::Relaxed);
        if let Some(judge) = &self.judge {
            judge.stop();
        }
        if let Some(certificates) = self.probe.certificates() {
            certificates.stop();
        }
        let ended = self.acceptor.join().and_then(|()| self.monitor.join());
        ended.map_err(|_| io::Error::other("a helper thread panicked"))?;
        let left = reports.iter_mut().map(|report| std::mem::take(&mut report.latency)).collect();
        Ok((reports, self.collector.finish(left)))
    }
}

/// Warns at the start that no message file can be created, instead of when the first message arrives.
fn warn_of_little_room(log::Settings { data_dir, min_free_bytes, segment_bytes, .. }: &log::Settings) {
    let Ok(stat) = rustix::fs::statvfs(data_dir) else { return };
    let free = stat.f_bavail.saturating_mul(stat.f_frsize);
    if free < min_free_bytes.saturating_add(*segment_bytes) {
        tracing::warn!(
            data_dir = %data_dir.display(),
            free_bytes = free,
            log_min_free_bytes = min_free_bytes,
            log_segment_bytes = segment_bytes,
            "too little free disk space for another message file: free some, or lower log_min_free_bytes"
        );
    }
}

/// Waits until every shard runs. An executor can fail on its own thread, because it may not lock memory or
/// use io_uring.
fn await_shards(
    shards: &mut Vec<ExecutorJoinHandle<ShardReport>>,
    started: &mpsc::Receiver<usize>,
) -> io::Result<()> {
    let mut waiting: Vec<usize> = (0..shards.len()).collect();
    while !waiting.is_empty() {
        let Ok(shard) = started.recv() else {
            let failed = shards.swap_remove(waiting[0]);
            let why = failed.join().map_or_else(
                |error| {
                    let error = io::Error::from(error);
                    format!("{error}{}", preflight::about_memlock(&error))
                },
                |_| "it ended at once".into(),
            );
            return Err(io::Error::other(format!("shard {} could not start: {why}", waiting[0])));
        };
        waiting.retain(|one| *one != shard);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Waits for the next delivery.
    fn next(inbox: &Inbox<Delivery>) -> Delivery {
        let until = Instant::now() + Duration::from_secs(20);
        loop {
            if let Some(delivery) = inbox.poll() {
                return delivery;
            }
            assert!(Instant::now() < until);
            std::thread::yield_now();
        }
    }

    #[test]
    fn the_request_to_drain_follows_the_last_connection() {
        let (shard, inbox) = inbox(8);
        let acceptor = Acceptor::new(Vec::new()).unwrap();
        let handle =
            DrainHandle { acceptor: acceptor.clone(), shards: vec![shard.clone()], leaving: Arc::default() };
        handle.drain();
        let until = Instant::now() + ACCEPTOR_WAIT / 5;
        while Instant::now() < until {
            assert!(inbox.poll().is_none());
            std::thread::yield_now();
        }
        // The acceptor has not ended, so this stands for a connection that it hands over.
        shard.send(Delivery::StoreNews).unwrap();
        assert!(matches!(next(&inbox), Delivery::StoreNews));
        let shared = Shared {
            connections: vec![AtomicUsize::new(0)],
            drained: AtomicUsize::new(0),
            refused_by_acceptor: Arc::default(),
            tls: None,
            judge: None,
            refuser: Refuser::start().unwrap(),
            epoch: Instant::now(),
        };
        acceptor.run(&[], &shared);
        assert!(acceptor.has_ended());
        assert!(matches!(next(&inbox), Delivery::Drain));
    }

    #[test]
    fn a_full_inbox_does_not_block_the_drain_of_other_shards() {
        let ((stuck, stuck_inbox), (other, other_inbox)) = (inbox(1), inbox(1));
        stuck.send(Delivery::StoreNews).unwrap();
        let acceptor = Acceptor::new(Vec::new()).unwrap();
        let handle = DrainHandle { acceptor, shards: vec![stuck, other], leaving: Arc::default() };
        handle.drain();
        assert!(matches!(next(&other_inbox), Delivery::Drain));
        assert!(matches!(next(&stuck_inbox), Delivery::StoreNews));
        // Sent as soon as there is room.
        assert!(matches!(next(&stuck_inbox), Delivery::Drain));
    }
}
