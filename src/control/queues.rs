//! The queues of the embedded log: lists what each holds, and deletes a queue.

use std::collections::BTreeMap;
use std::time::Duration;

use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use tokio::sync::{OwnedSemaphorePermit, oneshot};
use tokio::task::JoinError;
use tokio::time::{Instant, timeout, timeout_at};

use super::pages::{self, JSON, Page, Unmade};
use super::{ANSWER_TIMEOUT, Control, ask_all, ask_one};
use crate::base::error::{Fault, StoreFault};
use crate::base::millis::UnixMillis;
use crate::base::names::{FullName, Project, QueueName};
use crate::shard::core::{Deleted, FORGET};
use crate::shard::probe::Probe;
use crate::store::QueueSummary;

/// A queue, as JSON.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub struct QueueLine {
    /// The project that owns the queue.
    pub project: String,
    /// The queue's name in its project.
    pub queue: String,
    /// The number of partitions.
    pub partitions: u16,
    /// The number of messages. An expired message counts until all messages of its partition in the same
    /// file have expired.
    pub messages: u64,
    /// The size of the messages on disk, in bytes.
    pub bytes: u64,
    /// When the oldest message was stored; null if there is none. Unix milliseconds.
    #[serde(rename = "oldest_ms")]
    pub oldest: Option<UnixMillis>,
    /// When the newest message was stored; null if there is none. Unix milliseconds.
    #[serde(rename = "newest_ms")]
    pub newest: Option<UnixMillis>,
}

impl QueueLine {
    /// Creates the entry of a queue from its totals over all shards.
    pub fn new((project, queue): &FullName, summary: &QueueSummary) -> Self {
        let QueueSummary { partitions, messages, bytes, oldest, newest } = *summary;
        let (project, queue) = (project.to_string(), queue.to_string());
        Self { project, queue, partitions, messages, bytes, oldest, newest }
    }
}

/// How long a queue's home may take at most to delete it. It waits for the disk, then for the other shards.
pub const DELETION_TIMEOUT: Duration = Duration::from_secs(20);

const _: () =
    assert!(FORGET.as_duration().as_nanos() < DELETION_TIMEOUT.as_nanos(), "the home answers first");

async fn make(probe: &Probe) -> Page {
    let asked = ask_all(probe, |shard, reply| probe.queues(shard, move |answer| drop(reply.send(answer))));
    let shards = asked.await.map_err(Unmade::Silent)?;
    let mut all: BTreeMap<_, QueueSummary> = BTreeMap::new();
    for of_shard in shards {
        for (name, summary) in of_shard.map_err(Unmade::Unknown)? {
            all.entry(name).or_default().merge(&summary);
        }
    }
    pages::json(&all.iter().map(|(name, summary)| QueueLine::new(name, summary)).collect::<Vec<_>>())
}

pub(super) async fn list(State(control): State<Control>) -> Response {
    pages::response(control.pages.queues.get(make(&control.probe)).await, JSON)
}

pub(super) async fn delete(
    State(Control { probe, deletions, .. }): State<Control>,
    Path((project, queue)): Path<(String, String)>,
) -> Response {
    let name = Project::parse_stored(&project).and_then(|project| Ok((project, QueueName::parse(&queue)?)));
    let name = match name {
        Ok(name) => name,
        Err(fault) => return (StatusCode::BAD_REQUEST, format!("{fault}\n")).into_response(),
    };
    // If the client disconnects while it waits for the permit, nothing is deleted. The semaphore is never
    // closed.
    let Ok(permit) = deletions.acquire_owned().await else { return failed("deletions are closed") };
    let shown = format!("{project}/{queue}");
    match to_its_end(permit, async move { ask_home(&probe, &name).await }).await {
        Ok(outcome) => {
            if matches!(outcome, Outcome::Answered(Ok(_))) {
                tracing::info!(project, queue, "deleted a queue");
            }
            outcome.response(&shown)
        }
        Err(error) => failed(&error.to_string()),
    }
}

/// Runs `work` in its own task, which holds the permit. If it ran in the request's future, a client that
/// disconnects would drop that future and release the permit too early.
async fn to_its_end<T: Send + 'static>(
    permit: OwnedSemaphorePermit,
    work: impl Future<Output = T> + Send + 'static,
) -> Result<T, JoinError> {
    let task = tokio::spawn(async move {
        let _permit = permit;
        work.await
    });
    task.await
}

fn failed(why: &str) -> Response {
    (StatusCode::INTERNAL_SERVER_ERROR, format!("{why}\n")).into_response()
}

/// The result of a deletion, as far as the control port knows it.
#[derive(Debug)]
enum Outcome {
    /// The home has answered.
    Answered(Result<Deleted, StoreFault>),
    /// The home does not answer, and was not asked to delete the queue.
    Silent(usize),
    /// The home was asked to delete the queue and has not answered: it has stalled, its disk fails, or the server has
    /// ended.
    Lost(usize),
}

impl Outcome {
    fn response(self, queue: &str) -> Response {
        match self {
            Self::Answered(Ok(Deleted::Everywhere)) => StatusCode::NO_CONTENT.into_response(),
            Self::Answered(Ok(Deleted::NotBy(shard))) => {
                let text = format!(
                    "queue {queue} is deleted, but shard {shard} does not answer: it may still serve it\n"
                );
                (StatusCode::ACCEPTED, text).into_response()
            }
            Self::Answered(Err(StoreFault::NoQueue)) => {
                (StatusCode::NOT_FOUND, format!("queue {queue}: no such queue\n")).into_response()
            }
            Self::Answered(Err(fault)) => {
                let status = u16::try_from(Fault::from(fault.clone()).status().0).unwrap_or_default();
                let status = StatusCode::from_u16(status).unwrap_or(StatusCode::SERVICE_UNAVAILABLE);
                (status, format!("{fault}\n")).into_response()
            }
            Self::Silent(home) => Unmade::Silent(home).into_response(),
            Self::Lost(home) => {
                let text = format!(
                    "shard {home} has not confirmed the deletion: queue {queue} may be deleted, or be deleted \
                     later\n"
                );
                (StatusCode::SERVICE_UNAVAILABLE, text).into_response()
            }
        }
    }
}

/// Asks a queue's home to delete it.
async fn ask_home(probe: &Probe, name: &FullName) -> Outcome {
    let home = probe.home(name);
    let until = Instant::now() + ANSWER_TIMEOUT;
    // A stalled shard would delete the queue much later. So a ping comes first: a shard that does not answer
    // it is not asked to delete anything.
    let ping = |reply: oneshot::Sender<()>| {
        probe.ping(home, move |there| {
            // Fails if nothing waits for the answer any more.
            let _ = reply.send(there);
        })
    };
    let there = ask_one(until, ping).await;
    let Some(there) = there else { return Outcome::Silent(home) };
    if !matches!(timeout_at(until, there).await, Ok(Ok(()))) {
        return Outcome::Silent(home);
    }
    let ask =
        |reply: oneshot::Sender<_>| probe.delete(name.clone(), move |deleted| drop(reply.send(deleted)));
    let Some(answer) = ask_one(until, ask).await else { return Outcome::Silent(home) };
    match timeout(DELETION_TIMEOUT, answer).await {
        Ok(Ok(deleted)) => Outcome::Answered(deleted),
        _ => Outcome::Lost(home),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
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

    #[test]
    fn a_deletion_goes_on_in_its_place_though_its_client_has_left() {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let places = Arc::new(Semaphore::new(1));
            let permit = places.clone().try_acquire_owned().unwrap();
            let (release, released) = oneshot::channel::<()>();
            let (done, is_done) = oneshot::channel();
            let work = async move {
                released.await.unwrap();
                done.send(()).unwrap();
            };
            let mut request = Box::pin(to_its_end(permit, work));
            assert!(request.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
            // The server does this when a client disconnects.
            drop(request);
            tokio::task::yield_now().await;
            assert_eq!(places.available_permits(), 0, "it is still under way");
            release.send(()).unwrap();
            is_done.await.unwrap();
            drop(places.acquire().await.unwrap());
        });
    }

    #[test]
    fn every_outcome_has_its_status() {
        for (outcome, status) in [
            (Outcome::Answered(Ok(Deleted::Everywhere)), 204),
            (Outcome::Answered(Ok(Deleted::NotBy(3))), 202),
            (Outcome::Answered(Err(StoreFault::NoQueue)), 404),
            (Outcome::Answered(Err(StoreFault::NoCatalogue)), 404),
            (Outcome::Answered(Err(StoreFault::Unavailable("the disk is full"))), 503),
            (Outcome::Silent(1), 503),
            (Outcome::Lost(1), 503),
        ] {
            let shown = format!("{outcome:?}");
            assert_eq!(outcome.response("p/q").status(), status, "{shown}");
        }
    }
}
