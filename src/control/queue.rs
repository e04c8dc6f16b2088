//! One queue: shows it, creates it, changes its attributes, and empties it.

use std::ops::Not;
use std::time::Duration;

use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use tokio::sync::oneshot;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout_at};

use super::gate::Client;
use super::home::{change, failed, permit};
use super::pages::Unmade;
use super::queues::{name_of, no_queue};
use super::refused::{Refused, refusal};
use super::{ANSWER_TIMEOUT, Control, LOOK_TIMEOUT, ask_one};
use crate::access::Right;
use crate::base::attributes::{DEAD_QUEUE, PARTITIONS};
use crate::base::error::{Fault, StoreFault};
use crate::base::manage::{Found, Manage, Managed, PartitionStats, Stored};
use crate::base::millis::UnixMillis;
use crate::base::names::{FullName, QueueName};
use crate::base::queue::{QueueInfo, message_id};
use crate::base::units::Partition;
use crate::base::wish::{AlterFault, Alteration, Created, Described};
use crate::pb::headers::HeadersReader;
use crate::shard::probe::Probe;
use crate::store::claims::DEAD_QUEUE_HEADER;

/// How long the owner of a partition may take to answer. It may have to read the state of claims, or to write.
pub const MANAGED_TIMEOUT: Duration = Duration::from_secs(20);

/// A queue, as JSON.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
pub struct QueuePage {
    /// The project that owns the queue.
    pub project: String,
    /// The queue's name in its project.
    pub queue: String,
    /// The number of partitions. Absent where the Zaqar API was asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub partitions: Option<u16>,
    /// The attributes.
    pub attributes: Map<String, Value>,
    /// What it holds. Absent where nothing was counted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stats: Option<StatsPage>,
    /// Whether keys may go to other partitions from now on, because the number of partitions was set. What is stored stays
    /// where it is. Absent if not.
    #[serde(default, skip_serializing_if = "Not::not")]
    pub keys_move: bool,
}

/// What a queue holds, as JSON. What the store cannot say is absent.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
pub struct StatsPage {
    /// The messages. Absent on Kafka, which cannot count them.
    #[serde(flatten)]
    pub counts: Option<CountsPage>,
    /// On Kafka the number of offsets between the oldest ones and the ends of all partitions: there are not more messages
    /// than that. Absent elsewhere, and where a record holds many messages.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub offsets: Option<u64>,
}

/// The messages of a queue, as JSON. Those that have expired may count for another minute.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
pub struct CountsPage {
    /// Messages that can be claimed.
    pub free: u64,
    /// Messages that are claimed.
    pub claimed: u64,
    /// Messages that can be claimed later. Absent where the Zaqar API was asked, which does not tell them from free ones.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub delayed: Option<u64>,
    /// All of these.
    pub total: u64,
    /// Their size, in bytes. Absent where the Zaqar API was asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes: Option<u64>,
    /// The first of them; null if there is none.
    pub oldest: Option<StoredLine>,
    /// The last of them; null if there is none.
    pub newest: Option<StoredLine>,
}

/// When a message was stored, as JSON.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub struct StoredLine {
    /// The id of the message.
    pub id: String,
    /// When it was stored, in Unix milliseconds.
    pub timestamp: UnixMillis,
}

impl StatsPage {
    /// Adds what is known of a partition.
    pub fn add(&mut self, partition: Partition, managed: &Managed) {
        match managed {
            Managed::Stats(stats) => self.counts.get_or_insert_default().add(partition, stats),
            Managed::Offsets(Some(offsets)) => *self.offsets.get_or_insert_default() += offsets,
            _ => {}
        }
    }
}

impl CountsPage {
    fn add(&mut self, partition: Partition, stats: &PartitionStats) {
        let PartitionStats { free, claimed, delayed, bytes, oldest, newest } = *stats;
        self.free += free;
        self.claimed += claimed;
        *self.delayed.get_or_insert_default() += delayed;
        self.total += free + claimed + delayed;
        *self.bytes.get_or_insert_default() += bytes;
        let line = |Stored { offset, timestamp }| StoredLine { id: message_id(partition, offset), timestamp };
        let both = self.oldest.take().into_iter().chain(oldest.map(line));
        self.oldest = both.min_by_key(|line| line.timestamp);
        let both = self.newest.take().into_iter().chain(newest.map(line));
        self.newest = both.max_by_key(|line| line.timestamp);
    }
}

impl QueuePage {
    /// Creates the page of a queue.
    pub fn new((project, queue): &FullName, partitions: u16, attributes: &Map<String, Value>) -> Self {
        let (project, queue) = (project.to_string(), queue.to_string());
        let (partitions, attributes) = (Some(partitions), attributes.clone());
        Self { project, queue, partitions, attributes, stats: None, keys_move: false }
    }

    fn of(name: &FullName, Described { info, attributes }: &Described) -> Self {
        Self::new(name, info.partitions, attributes.as_map())
    }
}

/// What a request to create or change a queue says.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct QueueChange {
    /// The attributes to set. Null removes one.
    #[serde(default)]
    pub attributes: Map<String, Value>,
    /// The number of partitions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub partitions: Option<u16>,
}

/// How many messages a request was for, as JSON.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub struct Affected {
    /// The number of messages.
    pub messages: u64,
}

/// Asks a queue's home for the queue. The error is the response.
pub(super) async fn find(probe: &Probe, name: &FullName) -> Result<Described, Refused> {
    let until = Instant::now() + ANSWER_TIMEOUT;
    let home = probe.home(name);
    let ask = |reply: oneshot::Sender<_>| probe.find(name.clone(), move |found| drop(reply.send(found)));
    let answer = ask_one(until, ask).await.ok_or_else(|| Refused::with(Unmade::Silent(home)))?;
    match timeout_at(Instant::now() + LOOK_TIMEOUT, answer).await {
        Ok(Ok(found)) => found.map_err(|fault| alter_refused(&fault, &format!("{}/{}", name.0, name.1))),
        _ => Err(Refused::with(Unmade::Late(home, LOOK_TIMEOUT))),
    }
}

/// Asks the owner of a partition about its messages. The error is the response.
pub(super) async fn manage(
    probe: &Probe,
    info: &QueueInfo,
    partition: Partition,
    what: Manage,
) -> Result<Managed, Refused> {
    let shard = usize::from(info.owner(partition, probe.shards() as u16));
    let until = Instant::now() + ANSWER_TIMEOUT;
    let key = info.key(partition);
    let ask = |reply: oneshot::Sender<_>| {
        probe.manage(shard, key, what.clone(), move |managed| drop(reply.send(managed)))
    };
    let answer = ask_one(until, ask).await.ok_or_else(|| Refused::with(Unmade::Silent(shard)))?;
    match timeout_at(Instant::now() + MANAGED_TIMEOUT, answer).await {
        Ok(Ok(Ok(managed))) => Ok(managed),
        Ok(Ok(Err(fault))) => Err(Refused::with(refusal(&fault.into()))),
        _ => Err(Refused::with(Unmade::Late(shard, MANAGED_TIMEOUT))),
    }
}

/// Asks the owners of all partitions of a queue at once. Returns the answers by partition.
pub(super) async fn manage_all(
    probe: &Probe,
    info: &QueueInfo,
    what: &Manage,
) -> Result<Vec<(Partition, Managed)>, Refused> {
    let mut each = JoinSet::new();
    for partition in info.all() {
        let (probe, info, what) = (probe.clone(), info.clone(), what.clone());
        each.spawn(async move {
            manage(&probe, &info, partition, what).await.map(|managed| (partition, managed))
        });
    }
    let mut answers = Vec::new();
    while let Some(joined) = each.join_next().await {
        answers.push(joined.map_err(|error| Refused::with(failed(&error.to_string())))??);
    }
    answers.sort_unstable_by_key(|(partition, _)| *partition);
    Ok(answers)
}

pub(super) async fn show(
    State(Control { probe, looks, .. }): State<Control>,
    Path((project, queue)): Path<(String, String)>,
) -> Result<Response, Refused> {
    let name = name_of(&project, &queue)?;
    let _look = permit(looks).await?;
    let described = find(&probe, &name).await?;
    let mut stats = StatsPage::default();
    for (partition, managed) in manage_all(&probe, &described.info, &Manage::Stats).await? {
        stats.add(partition, &managed);
    }
    let page = QueuePage { stats: Some(stats), ..QueuePage::of(&name, &described) };
    Ok(Json(page).into_response())
}

/// Returns what a request says; without a body, nothing. The error is the response.
fn change_of(body: &[u8]) -> Result<QueueChange, Refused> {
    if body.is_empty() {
        return Ok(QueueChange::default());
    }
    serde_json::from_slice(body)
        .map_err(|error| Refused::with((StatusCode::BAD_REQUEST, format!("the body: {error}\n"))))
}

/// Checks that a client may produce to the dead-letter queue that it names.
fn check_dead_queue(client: Option<&Client>, attributes: &Map<String, Value>) -> Result<(), Refused> {
    let named = attributes.get(DEAD_QUEUE).and_then(Value::as_str);
    // What is no name is refused later.
    match named.map(QueueName::parse) {
        Some(Ok(queue)) => check_target(client, &queue),
        _ => Ok(()),
    }
}

/// Checks that a client may produce to a queue that gets messages of another one.
fn check_target(client: Option<&Client>, queue: &QueueName) -> Result<(), Refused> {
    if client.is_none_or(|client| client.may(Right::Produce, queue)) {
        return Ok(());
    }
    let why = format!("the client's grant does not allow to produce to {}\n", queue.as_str());
    Err(Refused::with((StatusCode::FORBIDDEN, why)))
}

fn alter_refused(fault: &AlterFault, shown: &str) -> Refused {
    match fault {
        AlterFault::Attribute(fault) => Refused::with((StatusCode::BAD_REQUEST, format!("{fault}\n"))),
        AlterFault::Fault(Fault::Store(StoreFault::NoQueue)) => Refused::with(no_queue(shown)),
        AlterFault::Fault(fault) => Refused::with(refusal(fault)),
    }
}

pub(super) async fn create(
    State(control): State<Control>,
    client: Option<Extension<Client>>,
    Path((project, queue)): Path<(String, String)>,
    body: Bytes,
) -> Result<Response, Refused> {
    let name = name_of(&project, &queue)?;
    let QueueChange { mut attributes, partitions } = change_of(&body)?;
    check_dead_queue(client.as_deref(), &attributes)?;
    if let Some(partitions) = partitions {
        attributes.insert(PARTITIONS.to_owned(), partitions.into());
    }
    let create = move |probe: &Probe, name, reply: oneshot::Sender<_>| {
        probe.create(name, attributes.clone(), move |created| drop(reply.send(created)))
    };
    let created: Result<Created, AlterFault> = change(control, name.clone(), "the creation", create).await?;
    let shown = format!("{project}/{queue}");
    let Created { is_new, queue: described } = created.map_err(|fault| alter_refused(&fault, &shown))?;
    if is_new {
        tracing::info!(project, queue, "created a queue");
    }
    let status = if is_new { StatusCode::CREATED } else { StatusCode::OK };
    Ok((status, Json(QueuePage::of(&name, &described))).into_response())
}

pub(super) async fn set(
    State(control): State<Control>,
    client: Option<Extension<Client>>,
    Path((project, queue)): Path<(String, String)>,
    body: Bytes,
) -> Result<Response, Refused> {
    let name = name_of(&project, &queue)?;
    let QueueChange { attributes, partitions } = change_of(&body)?;
    check_dead_queue(client.as_deref(), &attributes)?;
    let alter = move |probe: &Probe, name, reply: oneshot::Sender<_>| {
        let alteration = Alteration { changes: attributes.clone(), partitions };
        probe.alter(name, alteration, move |altered| drop(reply.send(altered)))
    };
    let altered: Result<Described, AlterFault> = change(control, name.clone(), "the change", alter).await?;
    let described = altered.map_err(|fault| alter_refused(&fault, &format!("{project}/{queue}")))?;
    tracing::info!(project, queue, "changed a queue");
    let page = QueuePage { keys_move: partitions.is_some(), ..QueuePage::of(&name, &described) };
    Ok(Json(page).into_response())
}

pub(super) async fn purge(
    State(control): State<Control>,
    Path((project, queue)): Path<(String, String)>,
) -> Result<Response, Refused> {
    let name = name_of(&project, &queue)?;
    let messages = each_message(&control, &name, Manage::Purge).await?;
    tracing::info!(project, queue, messages, "purged a queue");
    Ok(Json(Affected { messages }).into_response())
}

/// Where the messages of a dead-letter queue go.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct To {
    to: Option<String>,
}

pub(super) async fn redrive(
    State(control): State<Control>,
    client: Option<Extension<Client>>,
    Path((project, queue)): Path<(String, String)>,
    Query(To { to }): Query<To>,
) -> Result<Response, Refused> {
    let name = name_of(&project, &queue)?;
    let to = to.as_deref().map(QueueName::parse).transpose();
    let to = to.map_err(|fault| Refused::with((StatusCode::BAD_REQUEST, format!("to: {fault}\n"))))?;
    if to.as_ref() == Some(&name.1) {
        let why = "to: a queue cannot be redriven to itself\n";
        return Err(Refused::with((StatusCode::BAD_REQUEST, why)));
    }
    match &to {
        Some(to) => check_target(client.as_deref(), to)?,
        None => check_letters(&control.probe, &name).await?,
    }
    let messages = each_message(&control, &name, Manage::Redrive { to }).await?;
    tracing::info!(project, queue, messages, "redrives a queue");
    Ok(Json(Affected { messages }).into_response())
}

/// Checks that a queue looks like one of dead letters: an ordinary one would be held up while each of its messages is found
/// to come from nowhere. Looks at the oldest message of each partition.
async fn check_letters(probe: &Probe, name: &FullName) -> Result<(), Refused> {
    let Described { info, .. } = find(probe, name).await?;
    let mut is_any = false;
    for (partition, managed) in manage_all(probe, &info, &Manage::Stats).await? {
        let Managed::Stats(PartitionStats { oldest: Some(oldest), .. }) = managed else { continue };
        is_any = true;
        let found = manage(probe, &info, partition, Manage::Find(vec![oldest.offset])).await?;
        let Managed::Found(found) = found else { continue };
        if found.iter().any(is_letter) {
            return Ok(());
        }
    }
    if !is_any {
        return Ok(());
    }
    let why = format!(
        "queue {}/{}: its oldest messages are no dead letters, so where they belong is unknown; name a queue with to\n",
        name.0, name.1
    );
    Err(Refused::with((StatusCode::CONFLICT, why)))
}

/// Returns whether a message was moved from another queue.
fn is_letter(found: &Found) -> bool {
    let message = found.stored.batch.record_at(found.record);
    message.is_some_and(|(_, message)| {
        HeadersReader::new(message.headers)
            .map_while(Result::ok)
            .any(|header| header.name == DEAD_QUEUE_HEADER)
    })
}

/// Does something to all messages of a queue, even if the client disconnects. Returns how many there were.
async fn each_message(control: &Control, name: &FullName, what: Manage) -> Result<u64, Refused> {
    let Control { probe, changes, .. } = control.clone();
    let permit = permit(changes).await?;
    let Described { info, .. } = find(&probe, name).await?;
    let work = tokio::spawn(async move {
        let _permit = permit;
        manage_all(&probe, &info, &what).await
    });
    let answers = work.await.map_err(|error| Refused::with(failed(&error.to_string())))??;
    let messages = answers.iter().map(|(_, managed)| match managed {
        Managed::Purged(messages) | Managed::Redriven(messages) => *messages,
        _ => 0,
    });
    Ok(messages.sum())
}
