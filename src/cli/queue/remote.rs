//! The queues of one project on a server of the Zaqar API. What the API does not say is absent.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value, json};

use super::place::{Count, Place};
use crate::base::attributes::PARTITIONS;
use crate::base::clock::read_iso8601;
use crate::base::names::{FullName, Project, QueueName};
use crate::cli::Failure;
use crate::client::ClientError;
use crate::client::zaqar::{Answer, Asker, reason};
use crate::control::{
    CountsPage, MessageLine, POP_BYTES_MAX, QueueChange, QueueLine, QueuePage, RemovedLine, StatsPage,
    StoredLine,
};
use crate::process::terminal::{escaped, say};

/// The most queues, messages or ids that a request may be for.
const PAGE_MAX: usize = 20;

/// The status of a new queue.
const CREATED: u16 = 201;

/// The status of what does not exist, and of a message that a claim holds.
const NOT_FOUND: u16 = 404;
const FORBIDDEN: u16 = 403;

/// A server of the Zaqar API.
#[derive(Debug)]
pub(super) struct Remote {
    asker: Asker,
    project: Project,
    /// The address, for errors.
    url: String,
}

#[derive(Deserialize)]
struct Names {
    queues: Vec<Named>,
}

#[derive(Deserialize)]
struct Named {
    name: String,
}

#[derive(Deserialize)]
struct Stats {
    messages: Counts,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Counts {
    Known {
        free: u64,
        claimed: u64,
        total: u64,
        oldest: Option<End>,
        newest: Option<End>,
    },
    /// Kafka cannot count messages.
    Offsets {
        offsets: u64,
    },
}

/// The first or the last message of a queue.
#[derive(Deserialize)]
struct End {
    id: String,
    created: Option<String>,
}

#[derive(Deserialize)]
struct Messages {
    messages: Vec<Message>,
}

#[derive(Deserialize)]
struct Message {
    id: String,
    age: u32,
    ttl: u32,
    claim_id: Option<String>,
    /// Only popped messages have it.
    claim_count: Option<u32>,
    body: Value,
}

impl Remote {
    /// Uses a connection to `url`, as a client of `project`.
    pub(super) fn new(asker: Asker, project: Project, url: &str) -> Self {
        Self { asker, project, url: url.to_owned() }
    }

    fn failure(&self, error: &ClientError) -> Failure {
        Failure(format!("{}: {error}", escaped(&self.url)))
    }

    /// Asks, and returns the answer, whatever its status is.
    fn ask(&mut self, action: &str, body: Value) -> Result<Answer, Failure> {
        self.asker.ask(action, body).map_err(|error| self.failure(&error))
    }

    /// Asks, and reads the answer.
    fn read<T: DeserializeOwned>(&mut self, action: &str, body: Value) -> Result<T, Failure> {
        self.ask(action, body)?.read().map_err(|error| self.failure(&error))
    }

    /// Asks for a change whose answer has nothing to read.
    fn change(&mut self, action: &str, body: Value) -> Result<(), Failure> {
        self.read::<Value>(action, body).map(drop)
    }

    /// Counts the messages of a queue. No other action says whether a queue exists.
    fn stats(&mut self, queue: &QueueName) -> Result<Option<StatsPage>, Failure> {
        let answer = self.ask("queue_get_stats", json!({"queue_name": queue.as_str()}))?;
        if answer.status == NOT_FOUND {
            return Ok(None);
        }
        let stats = answer.read::<Stats>().map_err(|error| self.failure(&error))?;
        Ok(Some(stats.messages.page()))
    }

    fn exists(&mut self, queue: &QueueName) -> Result<bool, Failure> {
        Ok(self.stats(queue)?.is_some())
    }

    fn page(&mut self, (project, queue): &FullName) -> Result<QueuePage, Failure> {
        let attributes: Map<String, Value> = self.read("queue_get", json!({"queue_name": queue.as_str()}))?;
        let (project, queue) = (project.to_string(), queue.to_string());
        Ok(QueuePage { project, queue, partitions: None, attributes, stats: None, keys_move: false })
    }

    /// Returns those of at most [`PAGE_MAX`] messages that exist.
    fn get(&mut self, queue: &QueueName, ids: &[String]) -> Result<Vec<Message>, Failure> {
        let body = json!({"queue_name": queue.as_str(), "message_ids": ids});
        Ok(self.read::<Messages>("message_get_many", body)?.messages)
    }

    /// Deletes a message that exists, unless it is claimed.
    fn delete_unclaimed(&mut self, queue: &QueueName, id: &str) -> Result<RemovedLine, Failure> {
        let body = json!({"queue_name": queue.as_str(), "message_id": id});
        let answer = self.ask("message_delete", body)?;
        if answer.status == FORBIDDEN {
            return Ok(removed(id, Some(&reason(&answer.body))));
        }
        answer.granted().map_err(|error| self.failure(&error))?;
        Ok(removed(id, None))
    }

    /// Deletes at most [`PAGE_MAX`] messages, and appends what became of each to `lines`.
    fn remove_some(
        &mut self,
        queue: &QueueName,
        ids: &[String],
        is_unclaimed: bool,
        lines: &mut Vec<RemovedLine>,
    ) -> Result<(), Failure> {
        // A deletion does not say which of the messages existed.
        let found = self.get(queue, ids)?;
        let (there, absent): (Vec<_>, Vec<_>) =
            ids.iter().partition(|id| found.iter().any(|message| message.id == **id));
        lines.extend(absent.iter().map(|id| removed(id, Some("there is no such message"))));
        if is_unclaimed {
            for id in there {
                lines.push(self.delete_unclaimed(queue, id)?);
            }
        } else if !there.is_empty() {
            let body = json!({"queue_name": queue.as_str(), "message_ids": there});
            self.change("message_delete_many", body)?;
            lines.extend(there.iter().map(|id| removed(id, None)));
        }
        Ok(())
    }
}

impl Counts {
    fn page(self) -> StatsPage {
        match self {
            Self::Offsets { offsets } => StatsPage { counts: None, offsets: Some(offsets) },
            Self::Known { free, claimed, total, oldest, newest } => {
                let [oldest, newest] = [oldest, newest].map(|end| end.and_then(End::line));
                let counts = CountsPage { free, claimed, delayed: None, total, bytes: None, oldest, newest };
                StatsPage { counts: Some(counts), offsets: None }
            }
        }
    }
}

impl End {
    fn line(self) -> Option<StoredLine> {
        let timestamp = read_iso8601(&self.created?)?;
        Some(StoredLine { id: self.id, timestamp })
    }
}

impl Message {
    fn line(self) -> MessageLine {
        let Self { id, age, ttl, claim_id, claim_count, body } = self;
        // A text is printed without quotes.
        let payload = match body {
            Value::String(text) => text,
            other => other.to_string(),
        };
        MessageLine {
            id,
            age,
            ttl,
            timestamp: None,
            delay: None,
            count: claim_count.filter(|count| *count > 0),
            is_claimed: claim_id.is_some(),
            key: None,
            headers: Vec::new(),
            payload: STANDARD.encode(payload),
        }
    }
}

/// Returns the line of a message that is deleted, or why it is not.
fn removed(id: &str, why: Option<&str>) -> RemovedLine {
    RemovedLine { id: id.to_owned(), is_deleted: why.is_none(), why: why.map(str::to_owned) }
}

/// Returns the error for what the API does not offer.
fn not_offered(what: &str) -> Failure {
    Failure(format!(
        "{what}: the Zaqar API does not offer this: give --control or --data-dir in place of --url"
    ))
}

impl Place for Remote {
    fn list(&mut self, _: Option<&str>, prefix: &str) -> Result<Vec<QueueLine>, Failure> {
        let (mut all, mut marker) = (Vec::new(), None::<String>);
        loop {
            let mut body = json!({"limit": PAGE_MAX});
            if let Some(marker) = &marker {
                body["marker"] = json!(marker);
            }
            let page: Names = self.read("queue_list", body)?;
            let Some(last) = page.queues.last().map(|last| last.name.clone()) else { return Ok(all) };
            if marker.is_some_and(|marker| last <= marker) {
                let why = "queue_list: the server repeats a page".to_owned();
                return Err(self.failure(&ClientError::Broken(why)));
            }
            let names =
                page.queues.into_iter().map(|queue| queue.name).filter(|name| name.starts_with(prefix));
            let project = self.project.to_string();
            all.extend(names.map(|queue| QueueLine {
                project: project.clone(),
                queue,
                partitions: None,
                held: None,
            }));
            marker = Some(last);
        }
    }

    fn show(&mut self, name: &FullName) -> Result<Option<QueuePage>, Failure> {
        let Some(stats) = self.stats(&name.1)? else { return Ok(None) };
        Ok(Some(QueuePage { stats: Some(stats), ..self.page(name)? }))
    }

    fn create(&mut self, name: &FullName, new: QueueChange) -> Result<(bool, QueuePage), Failure> {
        let QueueChange { mut attributes, partitions } = new;
        if let Some(partitions) = partitions {
            attributes.insert(PARTITIONS.to_owned(), partitions.into());
        }
        let body = json!({"queue_name": name.1.as_str(), "metadata": attributes});
        let answer = self.ask("queue_create", body)?.granted().map_err(|error| self.failure(&error))?;
        Ok((answer.status == CREATED, self.page(name)?))
    }

    fn set(&mut self, _: &FullName, change: QueueChange) -> Result<Option<QueuePage>, Failure> {
        Err(not_offered(if change.partitions.is_some() { "add-partitions" } else { "set" }))
    }

    fn purge(&mut self, name: &FullName) -> Result<Option<Count>, Failure> {
        if !self.exists(&name.1)? {
            return Ok(None);
        }
        let body = json!({"queue_name": name.1.as_str(), "resource_types": ["messages"]});
        self.change("queue_purge", body)?;
        Ok(Some(None))
    }

    fn redrive(&mut self, _: &FullName, _: Option<&QueueName>) -> Result<Option<u64>, Failure> {
        Err(not_offered("redrive"))
    }

    fn delete(&mut self, name: &FullName) -> Result<bool, Failure> {
        let exists = self.exists(&name.1)?;
        if exists {
            self.change("queue_delete", json!({"queue_name": name.1.as_str()}))?;
        }
        Ok(exists)
    }

    fn find(&mut self, (_, queue): &FullName, ids: &[String]) -> Result<Option<Vec<MessageLine>>, Failure> {
        let mut lines = Vec::new();
        for some in ids.chunks(PAGE_MAX) {
            lines.extend(self.get(queue, some)?.into_iter().map(Message::line));
        }
        Ok(if lines.is_empty() && !self.exists(queue)? { None } else { Some(lines) })
    }

    fn remove(
        &mut self,
        (_, queue): &FullName,
        ids: &[String],
        is_unclaimed: bool,
    ) -> Result<Option<Vec<RemovedLine>>, Failure> {
        if !self.exists(queue)? {
            return Ok(None);
        }
        let mut lines = Vec::new();
        for some in ids.chunks(PAGE_MAX) {
            match self.remove_some(queue, some, is_unclaimed, &mut lines) {
                Ok(()) => {}
                // What became of the others is told.
                Err(failure) if !lines.is_empty() => {
                    say(format_args!("millstream: {failure}"));
                    break;
                }
                Err(failure) => return Err(failure),
            }
        }
        Ok(Some(lines))
    }

    fn pop(&mut self, (_, queue): &FullName, count: u32) -> Result<Option<Vec<MessageLine>>, Failure> {
        let count = usize::try_from(count).unwrap_or(usize::MAX);
        let mut lines: Vec<MessageLine> = Vec::new();
        while lines.len() < count && lines.iter().map(MessageLine::bytes).sum::<usize>() < POP_BYTES_MAX {
            let body = json!({"queue_name": queue.as_str(), "pop": PAGE_MAX.min(count - lines.len())});
            match self.read::<Messages>("message_delete_many", body) {
                Ok(popped) if popped.messages.is_empty() => break,
                Ok(popped) => lines.extend(popped.messages.into_iter().map(Message::line)),
                // What was popped before is nowhere else.
                Err(failure) if !lines.is_empty() => {
                    say(format_args!("millstream: {failure}"));
                    break;
                }
                Err(failure) => return Err(failure),
            }
        }
        Ok(if lines.is_empty() && !self.exists(queue)? { None } else { Some(lines) })
    }

    fn close(self: Box<Self>) -> Result<(), Failure> {
        self.asker.close();
        Ok(())
    }
}
