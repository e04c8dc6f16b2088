//! The queues: lists what each holds, and deletes a queue.

use std::collections::BTreeMap;

use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use tokio::sync::oneshot;

use super::home::change;
use super::pages::{self, JSON, Lines, Unmade};
use super::queue_line::QueueLine;
use super::refused::{Refused, refusal};
use super::{Control, LOOK_TIMEOUT, ask_all_within};
use crate::base::error::StoreFault;
use crate::base::names::{FullName, Project, QueueName};
use crate::shard::core::Deleted;
use crate::shard::probe::Probe;
use crate::store::Listed;

async fn learn(probe: &Probe) -> Lines {
    let ask = |shard, reply: oneshot::Sender<_>| probe.queues(shard, move |answer| drop(reply.send(answer)));
    let asked = ask_all_within(LOOK_TIMEOUT, probe, ask);
    let shards = asked.await.map_err(|shard| Unmade::Late(shard, LOOK_TIMEOUT))?;
    let mut all: BTreeMap<_, Listed> = BTreeMap::new();
    for of_shard in shards {
        for (name, listed) in of_shard.map_err(Unmade::Unknown)? {
            all.entry(name).or_default().merge(&listed);
        }
    }
    Ok(all.iter().map(|(name, listed)| QueueLine::new(name, *listed)).collect())
}

/// Which queues a page shows.
#[derive(Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Wanted {
    /// Those of this project.
    project: Option<String>,
    /// Those whose names begin with this.
    prefix: Option<String>,
    /// Those behind this one: its project, a slash and its name.
    after: Option<String>,
    /// The most queues.
    limit: Option<usize>,
}

impl Wanted {
    /// Returns the wanted ones of all queues, which are sorted.
    fn of<'a>(&'a self, all: &'a [QueueLine]) -> impl Iterator<Item = &'a QueueLine> {
        let after = self.after.as_deref().map(|after| after.split_once('/').unwrap_or((after, "")));
        let from = after.map_or(0, |after| {
            all.partition_point(|line| (line.project.as_str(), line.queue.as_str()) <= after)
        });
        let is_wanted = |line: &&QueueLine| {
            self.project.as_ref().is_none_or(|project| *project == line.project)
                && self.prefix.as_ref().is_none_or(|prefix| line.queue.starts_with(prefix))
        };
        all[from..].iter().filter(is_wanted).take(self.limit.unwrap_or(usize::MAX))
    }
}

pub(super) async fn list(State(control): State<Control>, Query(wanted): Query<Wanted>) -> Response {
    let lines = || async { control.pages.queues.get(learn(&control.probe)).await };
    let page = if wanted == Wanted::default() {
        let make = async { pages::json(&&*lines().await?) };
        control.pages.all_queues.get(make).await
    } else {
        match lines().await {
            Ok(all) => pages::json(&wanted.of(&all).collect::<Vec<_>>()),
            Err(unmade) => Err(unmade),
        }
    };
    pages::response(page, JSON)
}

pub(super) async fn delete(
    State(control): State<Control>,
    Path((project, queue)): Path<(String, String)>,
) -> Response {
    let name = match name_of(&project, &queue) {
        Ok(name) => name,
        Err(refused) => return refused.into_response(),
    };
    let delete = |probe: &Probe, name, reply: oneshot::Sender<_>| {
        probe.delete(name, move |deleted| drop(reply.send(deleted)))
    };
    match change(control, name, "the deletion", delete).await {
        Ok(deleted) => {
            if deleted.is_ok() {
                tracing::info!(project, queue, "deleted a queue");
            }
            response(deleted, &format!("{project}/{queue}"))
        }
        Err(lost) => lost.into_response(),
    }
}

/// Parses the name of a queue in a path. The error is the response.
pub(super) fn name_of(project: &str, queue: &str) -> Result<FullName, Refused> {
    let name = Project::parse_stored(project).and_then(|project| Ok((project, QueueName::parse(queue)?)));
    name.map_err(|fault| Refused::with((StatusCode::BAD_REQUEST, format!("{fault}\n"))))
}

/// Returns the response to a request for a queue that does not exist.
pub(super) fn no_queue(shown: &str) -> Response {
    (StatusCode::NOT_FOUND, format!("queue {shown}: no such queue\n")).into_response()
}

/// Returns the response to a deletion that the home has answered.
fn response(deleted: Result<Deleted, StoreFault>, queue: &str) -> Response {
    match deleted {
        Ok(Deleted::Everywhere) => StatusCode::NO_CONTENT.into_response(),
        Ok(Deleted::NotBy(shard)) => {
            let text = format!(
                "queue {queue} is deleted, but shard {shard} does not answer: it may still serve it\n"
            );
            (StatusCode::ACCEPTED, text).into_response()
        }
        Err(StoreFault::NoQueue) => no_queue(queue),
        Err(fault) => refusal(&fault.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::QueueSummary;

    #[test]
    fn a_line_names_its_times_as_milliseconds() {
        let name = (Project::parse("p").unwrap(), QueueName::parse("q").unwrap());
        let times = (Some(crate::base::millis::UnixMillis::new(7)), None);
        let summary = QueueSummary { oldest: times.0, newest: times.1, ..QueueSummary::default() };
        let line = serde_json::to_value(QueueLine::new(&name, summary.into())).unwrap();
        assert_eq!((&line["oldest_ms"], line.get("newest_ms")), (&7.into(), Some(&serde_json::Value::Null)));
        // What the store cannot say is absent.
        let unknown = QueueLine::new(&name, Listed { partitions: 3, held: None });
        let text = serde_json::to_string(&unknown).unwrap();
        assert_eq!(text, r#"{"project":"p","queue":"q","partitions":3}"#);
        assert_eq!(serde_json::from_str::<QueueLine>(&text).unwrap(), unknown);
    }

    #[test]
    fn a_page_has_the_wanted_queues() {
        let line = |project: &str, queue: &str| {
            QueueLine::new(
                &(Project::parse(project).unwrap(), QueueName::parse(queue).unwrap()),
                Listed::default(),
            )
        };
        let all = [line("a", "x"), line("a", "y"), line("b", "xa"), line("b", "xb"), line("b", "z")];
        let wanted = |text: &str| {
            let wanted: Wanted = serde_json::from_str(text).unwrap();
            wanted.of(&all).map(|line| format!("{}/{}", line.project, line.queue)).collect::<Vec<_>>()
        };
        assert_eq!(wanted("{}").len(), 5);
        assert_eq!(wanted(r#"{"project": "b", "prefix": "x"}"#), ["b/xa", "b/xb"]);
        assert_eq!(wanted(r#"{"after": "a/y", "limit": 2}"#), ["b/xa", "b/xb"]);
        assert_eq!(wanted(r#"{"after": "b/xaa", "limit": 2}"#), ["b/xb", "b/z"]);
        assert_eq!(wanted(r#"{"after": "c"}"#).len(), 0);
    }

    #[test]
    fn every_answer_has_its_status() {
        for (deleted, status) in [
            (Ok(Deleted::Everywhere), 204),
            (Ok(Deleted::NotBy(3)), 202),
            (Err(StoreFault::NoQueue), 404),
            (Err(StoreFault::NoCatalogue), 404),
            (Err(StoreFault::Unavailable("the disk is full")), 503),
        ] {
            let shown = format!("{deleted:?}");
            assert_eq!(response(deleted, "p/q").status(), status, "{shown}");
        }
    }
}
