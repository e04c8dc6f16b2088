//! `queue_create`, `queue_list`, `queue_get`, `queue_delete`, `queue_get_stats`, `queue_purge`.

use std::sync::Arc;

use serde_json::{Map, Value};

use super::super::action::Unchecked;
use super::super::document::Node;
use super::super::texts;
use super::ids::Life;
use super::known::KnownQueue;
use super::limits::PARTITIONS;
use super::outcome::{Body, Outcome, QueueStats};
use super::task::{Call, Parts, Progress, Task};
use crate::access::Grant;
use crate::base::attributes::{self, Attributes};
use crate::base::error::{Fault, StoreFault};
use crate::base::manage::{Manage, Managed, PartitionStats};
use crate::base::names::{FullName, Project};
use crate::base::units::Partition;
use crate::base::wish::{AlterFault, Wish};
use crate::operation::{Answer, ListedQueue, Order, QueuesWanted, SubscriptionOrder};

/// Returns the outcome of a wish that was not granted.
pub(super) fn not_granted(fault: &AlterFault) -> Outcome {
    match fault {
        AlterFault::Attribute(fault) => Outcome::bad(fault.to_string()),
        AlterFault::Fault(fault) => Outcome::fault(fault),
    }
}

/// An order about one queue.
#[derive(Debug)]
enum Ordered {
    Create,
    Get,
    Delete,
}

#[derive(Debug)]
struct Ordering {
    what: Ordered,
    name: String,
}

/// Returns the attributes of a new queue that names no number of partitions.
pub(super) fn new_queue() -> Map<String, Value> {
    Map::from_iter([(attributes::PARTITIONS.to_owned(), Value::from(PARTITIONS))])
}

/// Creates a queue, unless it exists.
pub(super) fn create(
    name: FullName,
    metadata: Unchecked<Option<Node<'_>>>,
    call: &mut Call<'_, '_>,
) -> Progress {
    let mut wanted = new_queue();
    match metadata {
        Err(why) => return Progress::Done(Outcome::bad(why)),
        Ok(None) => {}
        Ok(Some(metadata)) => match metadata.to_json_map() {
            Some(metadata) => wanted.extend(metadata.into_iter().filter(|(_, value)| !value.is_null())),
            None => return Progress::Done(Outcome::bad(UNKEPT_METADATA)),
        },
    }
    let text = name.1.to_string();
    call.order(Order::Wish(name, Wish::Create(wanted)));
    Progress::Waits(Box::new(Ordering { what: Ordered::Create, name: text }))
}

/// What a client reads whose metadata cannot be kept.
const UNKEPT_METADATA: &str =
    "metadata: it must not contain bytes, extension types, or numbers that are not finite";

/// Returns the attributes of a queue.
pub(super) fn get(name: FullName, call: &mut Call<'_, '_>) -> Progress {
    let text = name.1.to_string();
    call.order(Order::Wish(name, Wish::Find));
    Progress::Waits(Box::new(Ordering { what: Ordered::Get, name: text }))
}

/// The answer to `queue_get` if there is no such queue.
pub(super) fn no_metadata() -> Outcome {
    Outcome::new(200, Body::Metadata(Attributes::default()))
}

/// Deletes a queue with its messages.
pub(super) fn delete(name: FullName, call: &mut Call<'_, '_>) -> Progress {
    let text = name.1.to_string();
    call.order(Order::Delete(name));
    Progress::Waits(Box::new(Ordering { what: Ordered::Delete, name: text }))
}

/// The answer to `queue_delete`, whether there was such a queue or not.
pub(super) fn removed(name: &str) -> Outcome {
    Outcome::text(204, texts::queue_removed(name))
}

impl Task for Ordering {
    fn answer(&mut self, answer: Answer, _call: &mut Call<'_, '_>) -> Option<Result<Outcome, StoreFault>> {
        Some(Ok(match (&self.what, answer) {
            (Ordered::Create, Answer::Wished(Ok(created))) => {
                let status = if created.is_new { 201 } else { 204 };
                Outcome::text(status, texts::queue_created(&self.name))
            }
            (Ordered::Get, Answer::Wished(Ok(found))) => {
                Outcome::new(200, Body::Metadata(found.queue.attributes))
            }
            (Ordered::Get, Answer::Wished(Err(AlterFault::Fault(Fault::Store(StoreFault::NoQueue))))) => {
                no_metadata()
            }
            (Ordered::Create | Ordered::Get, Answer::Wished(Err(fault))) => not_granted(&fault),
            (Ordered::Delete, Answer::Deleted(Ok(()) | Err(StoreFault::NoQueue))) => removed(&self.name),
            (Ordered::Delete, Answer::Deleted(Err(fault @ StoreFault::NoCatalogue))) => {
                Outcome::failed(501, fault.to_string())
            }
            (Ordered::Delete, Answer::Deleted(Err(fault))) => Outcome::store_fault(fault),
            _ => return None,
        }))
    }
}

/// A list of queues under way.
#[derive(Debug)]
struct Listing {
    project: Project,
    limit: usize,
    detailed: bool,
    /// The parts that are missing; `None` before the first one.
    parts: Option<Parts>,
    queues: Vec<ListedQueue>,
    /// The queue whose attributes are asked for.
    asked: usize,
}

/// Lists the queues of a project.
pub(super) fn list(
    project: &Project,
    marker: Option<&str>,
    limit: usize,
    detailed: bool,
    of: Option<&Arc<Grant>>,
    call: &mut Call<'_, '_>,
) -> Progress {
    let (project, after, of) = (project.clone(), marker.unwrap_or_default().into(), of.cloned());
    call.order(Order::List(QueuesWanted { project: project.clone(), after, limit, of }));
    Progress::Waits(Box::new(Listing { project, limit, detailed, parts: None, queues: Vec::new(), asked: 0 }))
}

impl Listing {
    /// Asks for the next attributes that are wanted and unknown. If there are none, the list is complete.
    fn next(&mut self, call: &mut Call<'_, '_>) -> Option<Outcome> {
        if self.detailed
            && let Some(unknown) =
                self.queues[self.asked..].iter().position(|queue| queue.attributes.is_none())
        {
            self.asked += unknown;
            let name = self.queues[self.asked].name.clone();
            call.order(Order::Wish((self.project.clone(), name), Wish::Find));
            return None;
        }
        Some(Outcome::new(200, Body::Queues(std::mem::take(&mut self.queues), self.detailed)))
    }
}

impl Task for Listing {
    fn answer(&mut self, answer: Answer, call: &mut Call<'_, '_>) -> Option<Result<Outcome, StoreFault>> {
        match answer {
            Answer::Listed { of, queues } => {
                let parts = self.parts.get_or_insert_with(|| Parts::new(of.into()));
                self.queues.extend(parts.take(queues).unwrap_or_default());
                if let Err(fault) = parts.end()? {
                    return Some(Err(fault));
                }
                self.queues.sort_by(|one, other| one.name.cmp(&other.name));
                self.queues.truncate(self.limit);
            }
            // A queue that cannot be opened, or that was deleted meanwhile, is listed without its attributes.
            Answer::Wished(found) => {
                if let (Some(queue), Ok(found)) = (self.queues.get_mut(self.asked), found) {
                    queue.attributes = Some(found.queue.attributes);
                }
                self.asked = (self.asked + 1).min(self.queues.len());
            }
            _ => return None,
        }
        self.next(call).map(Ok)
    }
}

/// A request to all partitions.
#[derive(Debug)]
enum Gathering {
    Stats(QueueStats),
    Purge,
}

#[derive(Debug)]
struct Gather {
    parts: Parts,
    /// The shards that have not ended subscriptions yet: how many have, and of how many. `None` if that is not wanted.
    ending: Option<(u16, Option<u16>)>,
    what: Gathering,
}

/// Counts what a queue holds.
pub(super) fn stats(queue: &KnownQueue, call: &mut Call<'_, '_>) -> Progress {
    let life = Life::of(&queue.info);
    let stats = QueueStats { life, free: 0, claimed: 0, oldest: None, newest: None, offsets: None };
    gather(queue, Gathering::Stats(stats), || Manage::Stats, None, call)
}

/// The answer to `queue_get_stats` if there is no such queue.
pub(super) fn no_stats() -> Outcome {
    Outcome::new(404, Body::Stats(None))
}

/// Deletes all messages of a queue, and ends the subscriptions to it if that is wanted.
pub(super) fn purge(queue: &KnownQueue, subscriptions: bool, call: &mut Call<'_, '_>) -> Progress {
    if subscriptions {
        let (name, what) = (queue.name.clone(), SubscriptionOrder::End(None));
        call.order(Order::Subscriptions { name, what });
    }
    gather(queue, Gathering::Purge, || Manage::Purge, subscriptions.then_some((0, None)), call)
}

/// The answer to `queue_purge`.
pub(super) fn purged() -> Outcome {
    Outcome::new(204, Body::Nothing)
}

fn gather(
    queue: &KnownQueue,
    what: Gathering,
    ask: impl Fn() -> Manage,
    ending: Option<(u16, Option<u16>)>,
    call: &mut Call<'_, '_>,
) -> Progress {
    for partition in queue.info.all() {
        call.manage(queue, partition, ask());
    }
    Progress::Waits(Box::new(Gather { parts: Parts::new(queue.info.partitions.into()), ending, what }))
}

impl Task for Gather {
    fn answer(&mut self, answer: Answer, _call: &mut Call<'_, '_>) -> Option<Result<Outcome, StoreFault>> {
        match answer {
            Answer::Managed { partition, result } => match (self.parts.take(result), &mut self.what) {
                (Some(Managed::Stats(part)), Gathering::Stats(stats)) => stats.add(partition, &part),
                (Some(Managed::Offsets(offsets)), Gathering::Stats(stats)) => {
                    *stats.offsets.get_or_insert_default() += offsets.unwrap_or(0);
                }
                _ => {}
            },
            Answer::Subscriptions { of, .. } => {
                self.ending = self.ending.map(|(ended, _)| (ended + 1, Some(of)));
            }
            _ => return None,
        }
        if self.ending.is_some_and(|(ended, of)| of.is_none_or(|of| ended < of)) {
            return None;
        }
        if let Err(fault) = self.parts.end()? {
            return Some(Err(fault));
        }
        Some(Ok(match std::mem::replace(&mut self.what, Gathering::Purge) {
            Gathering::Stats(stats) => Outcome::new(200, Body::Stats(Some(Box::new(stats)))),
            Gathering::Purge => purged(),
        }))
    }
}

impl QueueStats {
    fn add(&mut self, partition: Partition, part: &PartitionStats) {
        // Messages that become free later are free to this API, which knows no third kind.
        self.free += part.free + part.delayed;
        self.claimed += part.claimed;
        let ours = |stored| Some((partition, stored));
        let is_older = |one: &Option<(Partition, crate::base::manage::Stored)>| {
            part.oldest.is_some_and(|oldest| one.is_none_or(|(_, other)| oldest.timestamp < other.timestamp))
        };
        if is_older(&self.oldest) {
            self.oldest = part.oldest.and_then(ours);
        }
        if part
            .newest
            .is_some_and(|new| self.newest.is_none_or(|(_, other)| new.timestamp >= other.timestamp))
        {
            self.newest = part.newest.and_then(ours);
        }
    }
}
