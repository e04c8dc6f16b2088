//! The control port: health, metrics, queues and connections over HTTP, on its own thread.
//!
//! It asks the shards by deliveries, which they answer between two turns, and touches nothing that they own. So
//! it is never on the data path.
//!
//! | path | response |
//! | --- | --- |
//! | `/` | the live page for a browser; `/live` is its event stream |
//! | `/healthz` | 200 while every shard answers within a second, otherwise 503 |
//! | `/readyz` | the same, and 503 once the server drains or is about to, and must get no new clients |
//! | `/queues` | the queues of the embedded log or of Kafka, as JSON; 404 with the memory store. `?project=`, `?prefix=`, `?after=PROJECT/QUEUE` and `?limit=` choose some |
//! | `/queues/PROJECT/QUEUE` | one queue with its attributes and what it holds, as JSON |
//! | `PUT /queues/PROJECT/QUEUE` | creates a queue: 201, or 200 if it exists. The body is `{"attributes": {…}, "partitions": N}`; both may be absent |
//! | `PATCH /queues/PROJECT/QUEUE` | changes attributes (null removes one), or adds partitions: 200. The same body |
//! | `POST /queues/PROJECT/QUEUE/purge` | deletes all messages of a queue: 200 with their number |
//! | `POST /queues/PROJECT/QUEUE/redrive` | moves dead letters back to their queues, or to `?to=QUEUE`: 200 with their number |
//! | `/queues/PROJECT/QUEUE/messages?id=ID` | messages by their ids, as JSON; needs the right to change, because it shows payloads |
//! | `DELETE /queues/PROJECT/QUEUE/messages?id=ID` | deletes messages: 200 with what became of each |
//! | `POST /queues/PROJECT/QUEUE/pop?count=N` | deletes the oldest messages and returns them |
//! | `DELETE /queues/PROJECT/QUEUE` | deletes a queue: 204, 202 while a shard may still serve it, or 404 if it does not exist |
//! | `/connections` | who is connected, as JSON, in pages |
//! | `DELETE /connections/ID` | closes a connection: 204, or 404 if it has ended |
//! | `POST /reload` | reads the settings again: 200 with what changed, 422 if they are wrong, or 503 |
//! | `POST /backups` | holds the files of the log as they are now, and lists them; 409 while another backup holds them |
//! | `POST /backups/ID` | continues to hold them; 404 or 410 if they are no longer held |
//! | `DELETE /backups/ID` | releases them: 204, or 404 or 410 if they are no longer held |
//! | `/metrics` | counters, gauges and the stages' histograms in Prometheus' text format |
//! | `/info` | version, store and settings, as JSON |
//! | `/latency` | the stages' percentiles as JSON; with `?histograms=true` also the whole histograms |
//!
//! | file | one concept |
//! | --- | --- |
//! | `sockets` | the TCP and Unix sockets that it listens on |
//! | `serving` | accepts connections and serves HTTP on them |
//! | `connections` | limits how long each may take, and evicts one when there are too many |
//! | `guard` | refuses requests that a web page from another site may have caused |
//! | `right`, `gate`, `tokens` | who may read and who may change; the tokens of requests over TCP |
//! | `way` | who is at the other end of a connection |
//! | `audit` | the lines that say who changed what, and who was refused |
//! | `pages`, `paced` | the shards' answers, each made once for all waiting requests |
//! | `settings` | the addresses, and the host names that it accepts |
//! | `home` | changes of a queue, which its home makes |
//! | `refused` | a response that ends a request early |
//! | `routes` | the list of all pages, and the right that each needs |
//! | here | health and readiness |
//! | the others | one page each |

mod audit;
mod backups;
mod clients;
mod connections;
mod gate;
mod guard;
mod home;
mod info;
mod latency;
mod live;
mod messages;
mod metrics;
mod paced;
mod pages;
mod queue;
mod queue_line;
mod queues;
mod refused;
mod reload;
mod right;
mod routes;
mod serving;
mod settings;
mod sockets;
mod tokens;
mod way;

pub use backups::{BackupPage, HOLD, HoldPage};
pub use clients::{CONNECTIONS_PAGE_MAX, ConnectionLine, ConnectionsPage};
pub use home::CHANGE_TIMEOUT;
pub use info::{Info, InfoPage};
pub use latency::{LatencyPage, StagePage};
pub use messages::{
    HeaderLine, IDS_MAX, MessageLine, POP_BYTES_MAX, POP_MAX, RemovedLine, by_partition, oldest_first,
};
pub use queue::{Affected, CountsPage, MANAGED_TIMEOUT, QueueChange, QueuePage, StatsPage, StoredLine};
pub use queue_line::{HeldLine, QueueLine};
pub use reload::{AppliedChange, NotReloaded, ReloadPage, ReloadRequest, Reloaded, Reloads};
pub use right::Right;
pub use routes::routes;
pub use settings::{ControlListen, Hosts, Settings};
pub use tokens::{ReadTokens, Tokens};

use std::io;
use std::net::TcpListener;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use tokio::sync::{Mutex, Semaphore, oneshot};
use tokio::time::Instant;

use self::backups::Leases;
use self::connections::Connections;
use self::gate::Gate;
use self::guard::Guard;
use self::live::Looked;
use self::pages::{Page, Pages, Unmade};
use self::serving::Shared;
use self::sockets::{Listening, Sockets};
use crate::auth::{Desk, Judge};
use crate::base::attributes::ATTRIBUTES_BYTES_MAX;
use crate::process::{AbortOnPanic, unix_now};
use crate::shard::Board;
use crate::shard::address::{Address, Addresses, FileMode};
use crate::shard::backups::Backups;
use crate::shard::probe::Probe;

/// The time that a shard has to answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(1);

/// How long a shard may take to say which queues there are, or to find one: with Kafka as the store, it asks Kafka.
pub const LOOK_TIMEOUT: Duration = Duration::from_secs(8);

/// The pause before asking a shard again whose inbox is full.
const ASK_AGAIN_AFTER: Duration = Duration::from_millis(10);

/// The most queues that are changed at the same time. Each one is an entry in the tables of its home.
const CHANGES_MAX: usize = 2;

/// The most requests about messages at the same time. Each holds at most [`POP_BYTES_MAX`] of them, and asks every
/// partition of a queue at once.
const LOOKS_MAX: usize = 4;

/// The longest body of a request, in bytes: the attributes of a queue, with room for spaces and escapes.
const BODY_BYTES_MAX: usize = 4 * ATTRIBUTES_BYTES_MAX;

/// The most requests that list connections at the same time. Each asks every shard several times.
const LISTINGS_MAX: usize = 2;

/// The state that the request handlers share.
#[derive(Clone, Debug)]
struct Control {
    probe: Probe,
    board: Board,
    info: Info,
    reloads: Reloads,
    gate: Gate,
    judge: Option<Judge>,
    pages: Arc<Pages>,
    looked: Arc<Mutex<Looked>>,
    connections: Connections,
    /// A change of a queue holds one of the [`CHANGES_MAX`] permits.
    changes: Arc<Semaphore>,
    /// A request about messages holds one of the [`LOOKS_MAX`] permits.
    looks: Arc<Semaphore>,
    backups: Option<Backups>,
    leases: Leases,
    /// A listing of connections holds one of the [`LISTINGS_MAX`] permits.
    listings: Arc<Semaphore>,
}

/// A control port that is bound but does not serve yet.
#[derive(Debug)]
pub struct ControlPort(Vec<Listening>);

/// What a control port shows and changes.
#[derive(Debug)]
pub struct Subject {
    /// The shards.
    pub probe: Probe,
    /// Their histograms.
    pub board: Board,
    /// The server and its settings.
    pub info: Info,
    /// Reads the settings again.
    pub reloads: Reloads,
    /// The tokens that requests over TCP need, if any.
    pub tokens: Tokens,
    /// Decides who clients are, if they must authenticate.
    pub judge: Option<Judge>,
    /// Asks it.
    pub desk: Option<Desk>,
    /// Makes cuts for backups, if the store is the embedded log.
    pub backups: Option<Backups>,
}

/// The files of a control port's Unix sockets. Dropping this removes them.
#[derive(Debug)]
pub struct SocketFiles(Sockets);

impl Drop for SocketFiles {
    fn drop(&mut self) {
        self.0.remove_files();
    }
}

impl ControlPort {
    /// Binds to all addresses. `passed` is a socket that listens already, in place of the TCP addresses. Called before
    /// anything else starts, so that an occupied port fails the start early. The error names the address.
    pub fn bind(addresses: &Addresses, mode: FileMode, passed: Option<TcpListener>) -> io::Result<Self> {
        let Some(passed) = passed else { return Ok(Self(Listening::bind(addresses, mode)?)) };
        let unix: Addresses = addresses.iter().filter(|one| one.tcp().is_none()).cloned().collect();
        let mut all = vec![Listening::inherited(passed)?];
        all.extend(Listening::bind(&unix, mode)?);
        Ok(Self(all))
    }

    /// Binds to a Unix socket, too. Its directory must be locked by this process.
    pub fn add_unix(&mut self, path: &Path, mode: FileMode) -> io::Result<()> {
        self.0.push(Listening::bind_in_own_directory(path, mode)?);
        Ok(())
    }

    /// Returns the bound addresses, which tell the ports that the system chose.
    pub fn addresses(&self) -> Addresses {
        self.0.iter().map(|one| one.address().clone()).collect()
    }

    /// Returns whether it has a Unix socket.
    pub fn has_unix(&self) -> bool {
        self.0.iter().any(|one| matches!(one.address(), Address::Unix(_)))
    }

    /// Serves until the process ends. Returns the files to remove then.
    pub fn serve(self, subject: Subject, settings: &Settings) -> io::Result<SocketFiles> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_io().enable_time().build()?;
        let Subject { probe, board, info, reloads, tokens, judge, desk, backups } = subject;
        let certificates = settings.tls.then(|| probe.certificates().cloned()).flatten();
        let connections = Connections::default();
        let control = Control {
            probe,
            board,
            info,
            reloads,
            gate: Gate::new(tokens.clone(), judge.is_some(), desk),
            judge,
            pages: Arc::new(Pages::new()),
            looked: Arc::default(),
            connections: connections.clone(),
            changes: Arc::new(Semaphore::new(CHANGES_MAX)),
            looks: Arc::new(Semaphore::new(LOOKS_MAX)),
            backups,
            leases: Leases::default(),
            listings: Arc::new(Semaphore::new(LISTINGS_MAX)),
        };
        let guard = Arc::new(Guard::new(settings.hosts.0.clone()));
        let shared = Shared { router: routes::router(control), guard, connections, certificates };
        let sockets = Sockets::new(self.0);
        let files = SocketFiles(sockets.clone());
        std::thread::Builder::new().name("control".into()).spawn(move || {
            let _guard = AbortOnPanic;
            let served = runtime.block_on(async {
                tokio::spawn(tokens.watch());
                serving::serve(sockets, shared).await
            });
            if let Err(error) = served {
                tracing::error!(%error, "control port stopped serving");
            }
        })?;
        Ok(files)
    }
}

/// Asks every shard and returns all answers, or the index of the first shard that does not answer in time. A
/// shard with a full inbox is asked again until the time is up.
async fn ask_all<T>(probe: &Probe, ask: impl Fn(usize, oneshot::Sender<T>) -> bool) -> Result<Vec<T>, usize> {
    ask_all_within(ANSWER_TIMEOUT, probe, ask).await
}

/// As [`ask_all`], with another time.
async fn ask_all_within<T>(
    time: Duration,
    probe: &Probe,
    ask: impl Fn(usize, oneshot::Sender<T>) -> bool,
) -> Result<Vec<T>, usize> {
    let until = Instant::now() + time;
    let mut answers = Vec::new();
    for shard in 0..probe.shards() {
        answers.push(ask_one(until, |reply| ask(shard, reply)).await.ok_or(shard)?);
    }
    let mut given = Vec::new();
    for (shard, answer) in answers.into_iter().enumerate() {
        match tokio::time::timeout_at(until, answer).await {
            Ok(Ok(one)) => given.push(one),
            _ => return Err(shard),
        }
    }
    Ok(given)
}

/// Sends a question to a shard, and returns the receiver of the answer; `None` if the shard's inbox stays
/// full until then.
async fn ask_one<T>(
    until: Instant,
    ask: impl Fn(oneshot::Sender<T>) -> bool,
) -> Option<oneshot::Receiver<T>> {
    loop {
        let (reply, answer) = oneshot::channel();
        if ask(reply) {
            return Some(answer);
        }
        if Instant::now() >= until {
            return None;
        }
        tokio::time::sleep(ASK_AGAIN_AFTER).await;
    }
}

/// Checks that every shard answers.
async fn ping(probe: &Probe) -> Result<(), Unmade> {
    let asked = ask_all(probe, |shard, reply| {
        probe.ping(shard, move |there| {
            // Fails if the request was dropped.
            let _ = reply.send(there);
        })
    });
    asked.await.map(drop).map_err(Unmade::Silent)
}

async fn healthz(State(control): State<Control>) -> Response {
    match control.pages.health.get(ping(&control.probe)).await {
        Ok(()) => "ok\n".into_response(),
        Err(unmade) => unmade.into_response(),
    }
}

async fn readyz(State(control): State<Control>) -> Response {
    if control.probe.is_draining() {
        return (StatusCode::SERVICE_UNAVAILABLE, "draining\n").into_response();
    }
    if control.probe.is_announced() {
        return (StatusCode::SERVICE_UNAVAILABLE, "drains soon\n").into_response();
    }
    healthz(State(control)).await
}

async fn make_metrics(control: &Control) -> Page {
    let probe = &control.probe;
    let asked = ask_all(probe, |shard, reply| probe.ask(shard, move |answer| drop(reply.send(answer))));
    let snapshots = asked.await.map_err(Unmade::Silent)?;
    latency::refresh(&control.board).await;
    let total = control.board.total();
    let stalls_of = |shard| probe.stalls(shard);
    let refused = probe.refused_by_acceptor();
    let reloads = control.reloads.counts();
    let certificates = probe.certificates().map(|certificates| certificates.status());
    let draining = probe.is_draining();
    let own = metrics::Own {
        reloads,
        tokens: control.gate.tokens().counts(),
        refused: control.gate.refused(),
        dropped_lines: control.gate.dropped_lines(),
        unix: unix_now(),
        judge: control.judge.as_ref().map(Judge::snapshot),
    };
    let text = metrics::encode(&snapshots, stalls_of, refused, draining, &own, certificates, &total);
    text.map(Into::into).map_err(|error| Unmade::Failed(error.to_string()))
}

async fn metrics(State(control): State<Control>) -> Response {
    let page = control.pages.metrics.get(make_metrics(&control)).await;
    pages::response(page, prometheus::TEXT_FORMAT)
}
