//! The control port: health, metrics and queues over HTTP, on its own thread.
//!
//! It asks the shards by deliveries, which they answer between two turns, and touches nothing that they own. So
//! it is never on the data path.
//!
//! | path | response |
//! | --- | --- |
//! | `/` | the live page for a browser; `/live` is its event stream |
//! | `/healthz` | 200 while every shard answers within a second, otherwise 503 |
//! | `/readyz` | the same, and 503 once the server drains and must get no new clients |
//! | `/queues` | the queues of the embedded log, as JSON; 404 with another store |
//! | `DELETE /queues/PROJECT/QUEUE` | deletes a queue: 204, 202 while a shard may still serve it, or 404 if it does not exist |
//! | `/metrics` | counters, gauges and the stages' histograms in Prometheus' text format |
//! | `/info` | version, store and settings, as JSON |
//! | `/latency` | the stages' percentiles as JSON; with `?histograms=true` also the whole histograms |
//!
//! | file | one concept |
//! | --- | --- |
//! | `serving` | accepts connections and serves HTTP on them |
//! | `connections` | limits how long each may take, and evicts one when there are too many |
//! | `guard` | refuses requests that a web page from another site may have caused |
//! | `pages`, `paced` | the shards' answers, each made once for all waiting requests |
//! | `settings` | the address, and the host names that it accepts |
//! | here | health and readiness, and the list of all pages |
//! | the others | one page each |

mod connections;
mod guard;
mod info;
mod latency;
mod live;
mod metrics;
mod paced;
mod pages;
mod queues;
mod serving;
mod settings;

pub use info::InfoPage;
pub use latency::{LatencyPage, StagePage};
pub use queues::{DELETION_TIMEOUT, QueueLine};
pub use settings::{ControlListen, Hosts, Settings};

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{delete, get};
use socket2::SockRef;
use tokio::sync::{Mutex, Semaphore, oneshot};
use tokio::time::Instant;

use self::connections::Connections;
use self::guard::Guard;
use self::live::Looked;
use self::pages::{Page, Pages, Unmade};
use crate::process::AbortOnPanic;
use crate::shard::Board;
use crate::shard::probe::Probe;

/// The time that a shard has to answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(1);

/// The pause before asking a shard again whose inbox is full.
const ASK_AGAIN_AFTER: Duration = Duration::from_millis(10);

/// The size of the socket's send buffer, in bytes (the kernel doubles it). With a larger buffer, a
/// client that reads nothing would seem to read.
const SEND_BUFFER_BYTES: usize = 256 << 10;

/// The most queues that are deleted at the same time. Each one is an entry in the tables of its home.
const DELETIONS_MAX: usize = 2;

/// The state that the request handlers share.
#[derive(Clone, Debug)]
struct Control {
    probe: Probe,
    board: Board,
    info: Arc<InfoPage>,
    pages: Arc<Pages>,
    looked: Arc<Mutex<Looked>>,
    connections: Connections,
    /// A deletion holds one of the [`DELETIONS_MAX`] permits.
    deletions: Arc<Semaphore>,
}

/// A control port that is bound but does not serve yet.
#[derive(Debug)]
pub struct ControlPort {
    listener: TcpListener,
    address: SocketAddr,
}

impl ControlPort {
    /// Binds the port. Called before anything else starts, so that an occupied port fails the start early.
    pub fn bind(address: SocketAddr) -> io::Result<Self> {
        let listener = TcpListener::bind(address)?;
        listener.set_nonblocking(true)?;
        // Accepted connections inherit it.
        SockRef::from(&listener).set_send_buffer_size(SEND_BUFFER_BYTES)?;
        let address = listener.local_addr()?;
        Ok(Self { listener, address })
    }

    /// Returns the bound address, which tells the port if the system chose it.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Serves until the process ends. `hosts` are the names, in lower case, that it accepts in addition to IP
    /// addresses and `localhost`.
    pub fn serve(self, probe: Probe, board: Board, info: InfoPage, hosts: Vec<String>) -> io::Result<()> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_io().enable_time().build()?;
        let connections = Connections::default();
        let control = Control {
            probe,
            board,
            info: Arc::new(info),
            pages: Arc::new(Pages::new()),
            looked: Arc::default(),
            connections: connections.clone(),
            deletions: Arc::new(Semaphore::new(DELETIONS_MAX)),
        };
        let router = Router::new()
            .route("/", get(live::page))
            .route("/live", get(live::events))
            .route("/healthz", get(healthz))
            .route("/readyz", get(readyz))
            .route("/metrics", get(metrics))
            .route("/latency", get(latency::page))
            .route("/info", get(info::page))
            .route("/queues", get(queues::list))
            .route("/queues/{project}/{queue}", delete(queues::delete))
            .with_state(control);
        let listener = self.listener;
        std::thread::Builder::new().name("control".into()).spawn(move || {
            let _guard = AbortOnPanic;
            let served = runtime.block_on(async {
                let listener = tokio::net::TcpListener::from_std(listener)?;
                serving::serve(listener, router, Guard::new(hosts), connections).await;
                io::Result::Ok(())
            });
            if let Err(error) = served {
                tracing::error!(%error, "control port stopped serving");
            }
        })?;
        Ok(())
    }
}

/// Asks every shard and returns all answers, or the index of the first shard that does not answer in time. A
/// shard with a full inbox is asked again until the time is up.
async fn ask_all<T>(probe: &Probe, ask: impl Fn(usize, oneshot::Sender<T>) -> bool) -> Result<Vec<T>, usize> {
    let until = Instant::now() + ANSWER_TIMEOUT;
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
    let certificates = probe.certificates().map(|certificates| certificates.status());
    let text = metrics::encode(&snapshots, stalls_of, refused, probe.is_draining(), certificates, &total);
    text.map(Into::into).map_err(|error| Unmade::Failed(error.to_string()))
}

async fn metrics(State(control): State<Control>) -> Response {
    let page = control.pages.metrics.get(make_metrics(&control)).await;
    pages::response(page, prometheus::TEXT_FORMAT)
}
