//! `POST /reload`: reads the settings again, and says what that changed.
//!
//! The control port does not reload itself. It asks the thread that holds the settings, which serves one
//! request after another. So two reloads never run at the same time.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::time::{SystemTime, UNIX_EPOCH};

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use tokio::sync::oneshot;

use super::Control;
use super::pages::{self, JSON};

/// The most reloads that may wait. Each reads the newest settings, so a signal that finds no room is served by
/// those that wait.
const WAITING_MAX: usize = 8;

/// A setting that a reload has changed, as JSON.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub struct AppliedChange {
    /// The setting's key.
    pub key: String,
    /// The value before.
    pub from: String,
    /// The new value.
    pub to: String,
}

/// The effect of a successful reload, as JSON.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
pub struct ReloadPage {
    /// The changes that are in effect.
    pub applied: Vec<AppliedChange>,
    /// The keys of changed settings that need a restart.
    pub needs_restart: Vec<String>,
    /// Whether the files of TLS were read again and given to the shards.
    pub certificates_reloaded: bool,
    /// The shards that have not confirmed the changes. They keep the old settings and certificates until they run
    /// again.
    pub unconfirmed_shards: Vec<usize>,
    /// What may surprise about the changes.
    pub warnings: Vec<String>,
}

/// The reason why a reload has changed nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NotReloaded {
    /// The new settings cannot be used. The text names the key.
    Refused(String),
    /// The server cannot reload now.
    Unavailable(String),
}

/// The result of a reload.
pub type Reloaded = Result<ReloadPage, NotReloaded>;

/// A request for a reload.
#[derive(Debug)]
pub struct ReloadRequest(Option<oneshot::Sender<Reloaded>>);

/// Asks for reloads, from any thread, and counts them.
#[derive(Clone, Debug)]
pub struct Reloads {
    requests: SyncSender<ReloadRequest>,
    counts: Arc<Counts>,
}

#[derive(Debug)]
struct Counts {
    applied: AtomicU64,
    failed: AtomicU64,
    /// When the settings were last read successfully, in seconds since 1970.
    last_applied: AtomicU64,
}

impl ReloadRequest {
    /// Answers the request, if someone waits for the answer.
    pub fn answer(self, reloaded: Reloaded) {
        if let Some(reply) = self.0 {
            // Fails if the client has disconnected.
            let _ = reply.send(reloaded);
        }
    }
}

impl Reloads {
    /// Creates the requests of a server that has just read its settings, and their receiver.
    pub fn new() -> (Self, Receiver<ReloadRequest>) {
        let (requests, receiver) = sync_channel(WAITING_MAX);
        let counts = Counts {
            applied: AtomicU64::new(0),
            failed: AtomicU64::new(0),
            last_applied: AtomicU64::new(unix_seconds()),
        };
        (Self { requests, counts: Arc::new(counts) }, receiver)
    }

    /// Asks for a reload without waiting for it.
    pub fn request(&self) {
        // If there is no room, the reloads that wait read the settings after this moment.
        let _ = self.requests.try_send(ReloadRequest(None));
    }

    /// Counts a reload.
    pub fn count(&self, reloaded: &Reloaded) {
        if reloaded.is_ok() {
            self.counts.applied.fetch_add(1, Ordering::Relaxed);
            self.counts.last_applied.store(unix_seconds(), Ordering::Relaxed);
        } else {
            self.counts.failed.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Returns the number of reloads that were applied and that failed, and when the settings were last read
    /// successfully, in seconds since 1970.
    pub(super) fn counts(&self) -> (u64, u64, u64) {
        let Counts { applied, failed, last_applied } = &*self.counts;
        let read = |count: &AtomicU64| count.load(Ordering::Relaxed);
        (read(applied), read(failed), read(last_applied))
    }

    async fn ask(&self) -> Reloaded {
        let (reply, answer) = oneshot::channel();
        let unavailable = |why: String| Err(NotReloaded::Unavailable(why));
        match self.requests.try_send(ReloadRequest(Some(reply))) {
            Ok(()) => {}
            Err(TrySendError::Full(_)) => {
                return unavailable(format!("{WAITING_MAX} reloads wait already: try again later"));
            }
            Err(TrySendError::Disconnected(_)) => return unavailable("the server cannot reload".into()),
        }
        answer.await.unwrap_or_else(|_| unavailable("the server cannot reload".into()))
    }
}

fn unix_seconds() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

impl IntoResponse for NotReloaded {
    fn into_response(self) -> Response {
        let (status, why) = match self {
            Self::Refused(why) => (StatusCode::UNPROCESSABLE_ENTITY, why),
            Self::Unavailable(why) => (StatusCode::SERVICE_UNAVAILABLE, why),
        };
        (status, format!("nothing is changed: {}\n", why.trim_end())).into_response()
    }
}

pub(super) async fn reload(State(control): State<Control>) -> Response {
    match control.reloads.ask().await {
        Ok(page) => pages::response(pages::json(&page), JSON),
        Err(why) => why.into_response(),
    }
}
