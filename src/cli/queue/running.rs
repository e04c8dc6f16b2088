//! The queues of a running server, through its control port.

use url::form_urlencoded::Serializer;

use super::place::{Count, Place};
use crate::base::names::{FullName, QueueName};
use crate::cli::Failure;
use crate::client::{ControlClient, ControlError};
use crate::control::{
    Affected, IDS_MAX, MessageLine, POP_MAX, QueueChange, QueueLine, QueuePage, RemovedLine,
};

/// The most queues of a page.
const PAGE_MAX: usize = 1_000;

/// A running server.
#[derive(Debug)]
pub(super) struct Running(ControlClient);

impl Running {
    /// Uses a client of the server's control port.
    pub(super) fn new(client: ControlClient) -> Self {
        Self(client)
    }
}

fn path((project, queue): &FullName, rest: &str) -> String {
    format!("/queues/{project}/{queue}{rest}")
}

/// Returns a path with a query.
fn with_query(path: &str, pairs: &[(&str, &str)]) -> String {
    let query = Serializer::new(String::new()).extend_pairs(pairs).finish();
    if query.is_empty() { path.to_owned() } else { format!("{path}?{query}") }
}

/// Returns `None` if the queue does not exist.
fn if_exists<T>(answer: Result<T, ControlError>) -> Result<Option<T>, Failure> {
    match answer {
        Ok(answer) => Ok(Some(answer)),
        Err(ControlError::Refused { status, text, .. })
            if status.as_u16() == 404 && text.contains("no such queue") =>
        {
            Ok(None)
        }
        Err(error) => Err(error.into()),
    }
}

fn messages_path(name: &FullName, ids: &[String], more: Option<(&str, &str)>) -> String {
    let ids = ids.iter().map(|id| ("id", id.as_str()));
    with_query(&path(name, "/messages"), &ids.chain(more).collect::<Vec<_>>())
}

impl Place for Running {
    fn list(&mut self, project: Option<&str>, prefix: &str) -> Result<Vec<QueueLine>, Failure> {
        let (limit, mut all) = (PAGE_MAX.to_string(), Vec::<QueueLine>::new());
        loop {
            let after = all.last().map(|line| format!("{}/{}", line.project, line.queue));
            let mut pairs = vec![("limit", limit.as_str())];
            pairs.extend(project.map(|project| ("project", project)));
            pairs.extend((!prefix.is_empty()).then_some(("prefix", prefix)));
            pairs.extend(after.as_deref().map(|after| ("after", after)));
            let page: Vec<QueueLine> = self.0.get(&with_query("/queues", &pairs))?;
            let is_last = page.len() < PAGE_MAX;
            all.extend(page);
            if is_last {
                return Ok(all);
            }
        }
    }

    fn show(&mut self, name: &FullName) -> Result<Option<QueuePage>, Failure> {
        if_exists(self.0.get(&path(name, "")))
    }

    fn create(&mut self, name: &FullName, new: QueueChange) -> Result<(bool, QueuePage), Failure> {
        Ok(self.0.put(&path(name, ""), &new)?)
    }

    fn set(&mut self, name: &FullName, change: QueueChange) -> Result<Option<QueuePage>, Failure> {
        if_exists(self.0.patch(&path(name, ""), &change))
    }

    fn purge(&mut self, name: &FullName) -> Result<Option<Count>, Failure> {
        let answer = self.0.post::<Affected>(&path(name, "/purge"));
        Ok(if_exists(answer)?.map(|affected| Some(affected.messages)))
    }

    fn redrive(&mut self, name: &FullName, to: Option<&QueueName>) -> Result<Option<u64>, Failure> {
        let to: Vec<_> = to.map(|to| ("to", to.as_str())).into_iter().collect();
        let answer = self.0.post::<Affected>(&with_query(&path(name, "/redrive"), &to));
        Ok(if_exists(answer)?.map(|affected| affected.messages))
    }

    fn delete(&mut self, name: &FullName) -> Result<bool, Failure> {
        Ok(if_exists(self.0.delete(&path(name, "")))?.is_some())
    }

    fn find(&mut self, name: &FullName, ids: &[String]) -> Result<Option<Vec<MessageLine>>, Failure> {
        let mut all = Vec::new();
        for some in ids.chunks(IDS_MAX) {
            let mut left = some.to_vec();
            // An answer has as many messages as fit. None is left when it has none of those that were asked for.
            while !left.is_empty() {
                let answer = self.0.get::<Vec<MessageLine>>(&messages_path(name, &left, None));
                let Some(found) = if_exists(answer)? else { return Ok(None) };
                let before = left.len();
                left.retain(|id| !found.iter().any(|line| line.id == *id));
                all.extend(found);
                if left.len() == before {
                    break;
                }
            }
        }
        Ok(Some(all))
    }

    fn remove(
        &mut self,
        name: &FullName,
        ids: &[String],
        is_unclaimed: bool,
    ) -> Result<Option<Vec<RemovedLine>>, Failure> {
        let more = is_unclaimed.then_some(("unclaimed", "true"));
        if_exists(self.0.delete_some(&messages_path(name, ids, more)))
    }

    fn pop(&mut self, name: &FullName, count: u32) -> Result<Option<Vec<MessageLine>>, Failure> {
        let count = count.min(POP_MAX).to_string();
        if_exists(self.0.post(&with_query(&path(name, "/pop"), &[("count", &count)])))
    }

    fn close(self: Box<Self>) -> Result<(), Failure> {
        Ok(())
    }
}
