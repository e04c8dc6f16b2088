//! The queues of the embedded log: what there is of each, and deleting one.

use std::collections::BTreeMap;

use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use tokio::sync::oneshot;

use super::pages::{self, JSON, Page, Unmade};
use super::{Control, ask_all};
use crate::names::{Project, QueueName};
use crate::shard::probe::Probe;
use crate::store::QueueSummary;

/// A queue, as JSON.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub struct QueueLine {
    /// Its project.
    pub project: String,
    /// Its name.
    pub queue: String,
    /// Partitions.
    pub partitions: u16,
    /// Messages; expired ones as long as their file holds others.
    pub messages: u64,
    /// Bytes on the disk.
    pub bytes: u64,
    /// When the oldest was stored, Unix milliseconds.
    pub oldest_ms: Option<u64>,
    /// When the newest was.
    pub newest_ms: Option<u64>,
}

impl QueueLine {
    /// The line of a queue.
    pub fn new((project, queue): &(Project, QueueName), summary: &QueueSummary) -> Self {
        let QueueSummary { partitions, messages, bytes, oldest_ms, newest_ms } = *summary;
        let (project, queue) = (project.to_string(), queue.to_string());
        Self { project, queue, partitions, messages, bytes, oldest_ms, newest_ms }
    }
}

fn no_log() -> Response {
    (StatusCode::NOT_FOUND, "queues are listed and deleted where the embedded log is the store\n")
        .into_response()
}

async fn make(probe: &Probe) -> Page {
    let asked = ask_all(probe, |shard, reply| probe.queues(shard, move |answer| drop(reply.send(answer))));
    let shards = asked.await.map_err(Unmade::Silent)?;
    let mut all: BTreeMap<_, QueueSummary> = BTreeMap::new();
    for (name, summary) in shards.into_iter().flatten() {
        all.entry(name).or_default().merge(&summary);
    }
    pages::json(&all.iter().map(|(name, summary)| QueueLine::new(name, summary)).collect::<Vec<_>>())
}

pub(super) async fn list(State(control): State<Control>) -> Response {
    if control.probe.log().is_none() {
        return no_log();
    }
    pages::response(control.pages.queues.get(make(&control.probe)).await, JSON)
}

pub(super) async fn delete(
    State(Control { probe, .. }): State<Control>,
    Path((project, queue)): Path<(String, String)>,
) -> Response {
    let Some(log) = probe.log().cloned() else { return no_log() };
    let name = Project::parse_stored(&project).and_then(|project| Ok((project, QueueName::parse(&queue)?)));
    let name = match name {
        Ok(name) => name,
        Err(fault) => return (StatusCode::BAD_REQUEST, format!("{fault}\n")).into_response(),
    };
    match tokio::task::spawn_blocking(move || log.delete_queue(&name)).await {
        Ok(Ok(true)) => {
            tracing::info!(project, queue, "a queue is deleted");
            // Twice: what a shard has told the others before it knew has arrived once they have settled again.
            for _ in 0..2 {
                let settle = |shard, reply: oneshot::Sender<()>| {
                    probe.settle(shard, move |()| {
                        // Fails where nobody waits any more.
                        let _ = reply.send(());
                    })
                };
                let settled = ask_all(&probe, settle);
                if let Err(shard) = settled.await {
                    let text = format!(
                        "queue {project}/{queue} is deleted, but shard {shard} does not answer: it may still serve it\n"
                    );
                    return (StatusCode::ACCEPTED, text).into_response();
                }
            }
            StatusCode::NO_CONTENT.into_response()
        }
        Ok(Ok(false)) => {
            (StatusCode::NOT_FOUND, format!("queue {project}/{queue}: no such queue\n")).into_response()
        }
        Ok(Err(error)) => (StatusCode::SERVICE_UNAVAILABLE, format!("{error}\n")).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")).into_response(),
    }
}
