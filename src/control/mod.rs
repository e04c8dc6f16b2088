//! The control port: health and metrics over HTTP, on a thread of its own.
//!
//! Asks the shards by messages and touches nothing that they own. Never on the data path: a shard answers between two turns.
//!
//! | path | says |
//! | --- | --- |
//! | `/` | the live page, for a browser; `/live` its events |
//! | `/healthz` | 200 while every shard answers within a second, else 503 |
//! | `/readyz` | the same, and 503 once the server drains: send it nobody new |
//! | `/queues` | the queues of the embedded log, as JSON; 404 with another store |
//! | `DELETE /queues/PROJECT/QUEUE` | deletes one: 204, 202 while a shard may still serve it, or 404 where there is none |
//! | `/metrics` | counters, gauges and the stages' histograms in Prometheus' text format |
//! | `/info` | version, store, settings, as JSON |
//! | `/latency` | the stages' percentiles as JSON; with `?histograms=true` all of each histogram |
//!
//! | file | one concept |
//! | --- | --- |
//! | `serving` | accepting connections and talking HTTP on them |
//! | `connections` | how long each may take, and which gives way when there are too many |
//! | `guard` | which requests are refused: those that a web page from elsewhere may be behind |
//! | `pages`, `paced` | answers of the shards, each made once for all who wait for it |
//! | `settings` | where it listens, and by which names |
//! | here | health and readiness, and all pages together |
//! | the others | a page each |

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

/// How long a shard may take to answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(1);

/// How long a full inbox is given before it is asked again.
const ASK_AGAIN_AFTER: Duration = Duration::from_millis(10);

/// What the system keeps of an answer that its client does not read, bytes (it takes twice as much). More, and a client that reads
/// nothing would pass for one that does.
const SEND_BUFFER_BYTES: usize = 256 << 10;

/// Deletions under way at once. Each one is an entry in the tables of the queue's home.
const DELETIONS_MAX: usize = 2;

/// What the pages are made of.
#[derive(Clone, Debug)]
struct Control {
    probe: Probe,
    board: Board,
    info: Arc<InfoPage>,
    pages: Arc<Pages>,
    looked: Arc<Mutex<Looked>>,
    connections: Connections,
    /// Places for [`DELETIONS_MAX`] deletions.
    deletions: Arc<Semaphore>,
}

/// A control port that listens and does not yet serve.
#[derive(Debug)]
pub struct ControlPort {
    listener: TcpListener,
    address: SocketAddr,
}

impl ControlPort {
    /// Binds the port: that fails where another process has it, before anything else is begun.
    pub fn bind(address: SocketAddr) -> io::Result<Self> {
        let listener = TcpListener::bind(address)?;
        listener.set_nonblocking(true)?;
        // Connections that are accepted inherit it.
        SockRef::from(&listener).set_send_buffer_size(SEND_BUFFER_BYTES)?;
        let address = listener.local_addr()?;
        Ok(Self { listener, address })
    }

    /// Where it listens: of use where the port was left to the system.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Serves until the process ends; `hosts` are names, in lower case, that it is asked by beside IP addresses and `localhost`.
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
                tracing::error!(%error, "the control port serves no longer");
            }
        })?;
        Ok(())
    }
}

/// What every shard answers; the first that does not, where there is one. A full inbox is asked again until the time is up.
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

/// Sends a question to a shard, and returns the receiver of the answer; `None` if the shard's inbox stays full until then.
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

/// Asks every shard whether it is there.
async fn ping(probe: &Probe) -> Result<(), Unmade> {
    let asked = ask_all(probe, |shard, reply| {
        probe.ping(shard, move |there| {
            // Fails where nobody waits any more.
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
    let text = metrics::encode(&snapshots, stalls_of, refused, probe.is_draining(), &total);
    text.map(Into::into).map_err(|error| Unmade::Failed(error.to_string()))
}

async fn metrics(State(control): State<Control>) -> Response {
    let page = control.pages.metrics.get(make_metrics(&control)).await;
    pages::response(page, prometheus::TEXT_FORMAT)
}
