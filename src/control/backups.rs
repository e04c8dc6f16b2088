//! Backups of the embedded log: makes a cut, and holds its files while a command copies them.
//!
//! A hold is a lease. It ends by itself if the command does not renew it, so a command that is killed keeps no
//! file for long.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep_until, timeout};

use super::pages::{self, JSON};
use super::{ANSWER_TIMEOUT, Control};
use crate::shard::backups::Backups;
use crate::store::log::{Cut, NoCut, NotHeld};

/// How long a hold lasts unless it is renewed.
pub const HOLD: Duration = Duration::from_secs(30);

/// A cut of the log, and the hold on its files, as JSON.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct BackupPage {
    /// The id of the hold.
    pub id: u64,
    /// How long the hold lasts unless it is renewed.
    pub hold_seconds: u64,
    /// What to copy.
    pub cut: Cut,
}

/// The lease of a hold, as JSON.
#[derive(Clone, Copy, Debug, Deserialize, Serialize)]
pub struct HoldPage {
    /// How long the hold lasts unless it is renewed.
    pub hold_seconds: u64,
}

/// The hold of the backup that is under way, and when it ends.
#[derive(Clone, Debug, Default)]
pub(super) struct Leases(Arc<Mutex<Option<(u64, Instant)>>>);

impl Leases {
    fn lock(&self) -> MutexGuard<'_, Option<(u64, Instant)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn renew(&self, id: u64) {
        *self.lock() = Some((id, Instant::now() + HOLD));
    }

    /// Returns when a hold ends, unless another has followed it.
    fn end_of(&self, id: u64) -> Option<Instant> {
        self.lock().filter(|(of, _)| *of == id).map(|(_, end)| end)
    }

    /// Ends the hold once it is not renewed any more.
    async fn watch(self, id: u64, backups: Backups) {
        while let Some(end) = self.end_of(id) {
            if Instant::now() < end {
                sleep_until(end).await;
            } else {
                if backups.end(id).is_ok() {
                    tracing::warn!("a backup did not renew its hold: its files are released");
                }
                return;
            }
        }
    }
}

/// Makes a cut.
pub(super) async fn begin(State(Control { probe, backups, leases, .. }): State<Control>) -> Response {
    let Some(backups) = backups else { return no_log() };
    if probe.is_draining() {
        return refuse(StatusCode::SERVICE_UNAVAILABLE, "the server is draining");
    }
    // If the client disconnects, the cut is made all the same, and its lease ends.
    let task = tokio::spawn(make(backups, leases));
    task.await.unwrap_or_else(|error| refuse(StatusCode::INTERNAL_SERVER_ERROR, &error.to_string()))
}

async fn make(backups: Backups, leases: Leases) -> Response {
    let id = (uuid::Uuid::new_v4().as_u64_pair().0).max(1);
    let (reply, answer) = oneshot::channel();
    // Fails if the client has disconnected.
    backups.begin(id, move |cut| drop(reply.send(cut)));
    match timeout(ANSWER_TIMEOUT, answer).await {
        Ok(Ok(Ok(cut))) => {
            leases.renew(id);
            tokio::spawn(leases.watch(id, backups));
            tracing::info!(segments = cut.segments.len(), "a backup began");
            let page = BackupPage { id, hold_seconds: HOLD.as_secs(), cut };
            pages::response(pages::json(&page), JSON)
        }
        Ok(Ok(Err(NoCut::Busy))) => {
            let why = "another backup is under way; if its command was killed, it ends within 30 s";
            refuse(StatusCode::CONFLICT, why)
        }
        _ => {
            // Fails if the disk was full.
            let _ = backups.end(id);
            refuse(StatusCode::SERVICE_UNAVAILABLE, "a shard did not answer within a second")
        }
    }
}

/// Renews a hold.
pub(super) async fn renew(
    State(Control { backups, leases, .. }): State<Control>,
    Path(id): Path<u64>,
) -> Response {
    let Some(backups) = backups else { return no_log() };
    match backups.check(id) {
        Ok(()) => {
            leases.renew(id);
            pages::response(pages::json(&HoldPage { hold_seconds: HOLD.as_secs() }), JSON)
        }
        Err(why) => not_held(why),
    }
}

/// Ends a hold.
pub(super) async fn end(State(Control { backups, .. }): State<Control>, Path(id): Path<u64>) -> Response {
    let Some(backups) = backups else { return no_log() };
    match backups.end(id) {
        Ok(()) => {
            tracing::info!("a backup ended");
            StatusCode::NO_CONTENT.into_response()
        }
        Err(why) => not_held(why),
    }
}

fn no_log() -> Response {
    refuse(StatusCode::NOT_FOUND, "the store is not the embedded log, so there is nothing to back up")
}

fn not_held(why: NotHeld) -> Response {
    match why {
        NotHeld::Ended => refuse(StatusCode::NOT_FOUND, "the server does not hold the files of this backup"),
        NotHeld::DiskFull => refuse(
            StatusCode::GONE,
            "the server's disk was full, and the log needed the files that the backup held",
        ),
    }
}

fn refuse(status: StatusCode, why: &str) -> Response {
    (status, format!("{why}\n")).into_response()
}
