//! The queues of the embedded log: what there is of each, and deleting one.

use std::collections::BTreeMap;
use std::io;

use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use tokio::sync::{OwnedSemaphorePermit, oneshot};
use tokio::task::{JoinError, spawn_blocking};

use super::pages::{self, JSON, Page, Unmade};
use super::{Control, ask_all};
use crate::base::millis::UnixMillis;
use crate::base::names::{Project, QueueName};
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
    #[serde(rename = "oldest_ms")]
    pub oldest: Option<UnixMillis>,
    /// When the newest was.
    #[serde(rename = "newest_ms")]
    pub newest: Option<UnixMillis>,
}

impl QueueLine {
    /// The line of a queue.
    pub fn new((project, queue): &(Project, QueueName), summary: &QueueSummary) -> Self {
        let QueueSummary { partitions, messages, bytes, oldest, newest } = *summary;
        let (project, queue) = (project.to_string(), queue.to_string());
        Self { project, queue, partitions, messages, bytes, oldest, newest }
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
    State(Control { probe, deletions, .. }): State<Control>,
    Path((project, queue)): Path<(String, String)>,
) -> Response {
    let Some(log) = probe.log().cloned() else { return no_log() };
    let name = Project::parse_stored(&project).and_then(|project| Ok((project, QueueName::parse(&queue)?)));
    let name = match name {
        Ok(name) => name,
        Err(fault) => return (StatusCode::BAD_REQUEST, format!("{fault}\n")).into_response(),
    };
    // A client that leaves before its turn has asked for nothing. Nobody closes the semaphore.
    let Ok(permit) = deletions.acquire_owned().await else { return failed("no deletion is begun any more") };
    let shown = format!("{project}/{queue}");
    let delete = move || -> io::Result<bool> {
        let is_deleted = log.delete_queue(&name)?;
        if is_deleted {
            tracing::info!(project, queue, "a queue is deleted");
        }
        Ok(is_deleted)
    };
    let settle = move || {
        let probe = probe.clone();
        async move {
            let settle = |shard, reply: oneshot::Sender<()>| {
                probe.settle(shard, move |()| {
                    // Fails where nobody waits any more.
                    let _ = reply.send(());
                })
            };
            ask_all(&probe, settle).await.map(drop)
        }
    };
    match delete_and_settle(permit, delete, settle).await {
        Ok(Deletion::Settled) => StatusCode::NO_CONTENT.into_response(),
        Ok(Deletion::Unsettled(shard)) => {
            let text = format!(
                "queue {shown} is deleted, but shard {shard} does not answer: it may still serve it\n"
            );
            (StatusCode::ACCEPTED, text).into_response()
        }
        Ok(Deletion::Unknown) => {
            (StatusCode::NOT_FOUND, format!("queue {shown}: no such queue\n")).into_response()
        }
        Ok(Deletion::Failed(error)) => {
            (StatusCode::SERVICE_UNAVAILABLE, format!("{error}\n")).into_response()
        }
        Err(error) => failed(&error.to_string()),
    }
}

fn failed(why: &str) -> Response {
    (StatusCode::INTERNAL_SERVER_ERROR, format!("{why}\n")).into_response()
}

/// What became of a deletion.
#[derive(Debug)]
enum Deletion {
    /// It is done, and every shard knows.
    Settled,
    /// It is done, and this shard does not answer: it stands still, or has ended as the server drains.
    Unsettled(usize),
    /// There is no such queue.
    Unknown,
    /// The disk failed.
    Failed(io::Error),
}

/// Deletes a queue and has every shard take notice: in a task of its own, as a client that leaves takes its request's future with it.
/// Each settling ends with [`super::ANSWER_TIMEOUT`].
async fn delete_and_settle<S>(
    permit: OwnedSemaphorePermit,
    delete: impl FnOnce() -> io::Result<bool> + Send + 'static,
    settle: impl Fn() -> S + Send + Sync + 'static,
) -> Result<Deletion, JoinError>
where
    S: Future<Output = Result<(), usize>> + Send + 'static,
{
    let task = tokio::spawn(async move {
        let _permit = permit;
        match spawn_blocking(delete).await? {
            Ok(true) => {}
            Ok(false) => return Ok(Deletion::Unknown),
            Err(error) => return Ok(Deletion::Failed(error)),
        }
        // Twice: what a shard has told the others before it knew has arrived once they have settled again.
        for _ in 0..2 {
            if let Err(shard) = settle().await {
                return Ok(Deletion::Unsettled(shard));
            }
        }
        Ok::<_, JoinError>(Deletion::Settled)
    });
    task.await?
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, mpsc};
    use std::task::{Context, Waker};

    use tokio::sync::Semaphore;

    use super::*;

    #[test]
    fn a_line_names_its_times_as_milliseconds() {
        let name = (Project::parse("p").unwrap(), QueueName::parse("q").unwrap());
        let times = (Some(UnixMillis::new(7)), None);
        let summary = QueueSummary { oldest: times.0, newest: times.1, ..QueueSummary::default() };
        let line = serde_json::to_value(QueueLine::new(&name, &summary)).unwrap();
        assert_eq!((&line["oldest_ms"], line.get("newest_ms")), (&7.into(), Some(&serde_json::Value::Null)));
    }

    fn permit() -> OwnedSemaphorePermit {
        Arc::new(Semaphore::new(1)).try_acquire_owned().unwrap()
    }

    #[test]
    fn a_deletion_is_settled_though_its_client_has_left() {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let (release, released) = mpsc::channel::<()>();
            let (settled, mut settlings) = tokio::sync::mpsc::unbounded_channel();
            let delete = move || {
                released.recv().unwrap();
                Ok(true)
            };
            let settle = move || {
                settled.send(()).unwrap();
                std::future::ready(Ok(()))
            };
            let mut request = Box::pin(delete_and_settle(permit(), delete, settle));
            assert!(request.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
            // As the server does where the connection has ended.
            drop(request);
            release.send(()).unwrap();
            let mut count = 0;
            while settlings.recv().await.is_some() {
                count += 1;
            }
            assert_eq!(count, 2);
        });
    }

    #[test]
    fn a_shard_that_does_not_settle_is_named_and_nothing_is_settled_where_nothing_was_deleted() {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let ended = |deleted: io::Result<bool>| {
            let settle = || std::future::ready(Err(3));
            runtime.block_on(delete_and_settle(permit(), move || deleted, settle)).unwrap()
        };
        assert!(matches!(ended(Ok(true)), Deletion::Unsettled(3)));
        assert!(matches!(ended(Ok(false)), Deletion::Unknown));
        assert!(matches!(ended(Err(io::Error::other("full"))), Deletion::Failed(_)));
    }
}
