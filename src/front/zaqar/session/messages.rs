//! `message_get`, `message_get_many`, `message_delete`, `message_delete_many`.

use super::ids::Life;
use super::known::KnownQueue;
use super::limits::{CLAIM_BYTES, PAGE_MAX};
use super::outcome::{Body, Outcome, Shown, ttl_secs};
use super::task::{Call, Parts, Progress, Task};
use super::{super::action::Texts, CLAIMS_OF};
use crate::base::claim::{Granted, LeaseId};
use crate::base::error::StoreFault;
use crate::base::manage::{Found, Manage, Managed, Only, Removed};
use crate::base::millis::UnixMillis;
use crate::base::units::{Offset, Partition};
use crate::operation::Answer;

/// The answer to a request whose message does not exist.
pub(super) fn no_message() -> Outcome {
    Outcome::failed(404, "the message does not exist: it was never posted, was deleted, or has expired")
}

/// Messages by partition, ascending.
type ByPartition = Vec<(Partition, Vec<Offset>)>;

fn by_partition(mut messages: Vec<(Partition, Offset)>) -> ByPartition {
    messages.sort_unstable();
    messages.dedup();
    let mut parts: ByPartition = Vec::new();
    for (partition, offset) in messages {
        match parts.last_mut().filter(|(last, _)| *last == partition) {
            Some((_, offsets)) => offsets.push(offset),
            None => parts.push((partition, vec![offset])),
        }
    }
    parts
}

/// Reads the ids of a request. Those that are no ids of the queue name nothing.
fn read_ids(queue: &KnownQueue, ids: Texts<'_>) -> Vec<(Partition, Offset)> {
    let life = Life::of(&queue.info);
    ids.iter().filter_map(|id| read(queue, life, &id)).collect()
}

fn read(queue: &KnownQueue, life: Life, id: &str) -> Option<(Partition, Offset)> {
    life.read_message(id).filter(|(partition, _)| partition.0 < queue.info.partitions)
}

/// Checks the number of ids of a request.
pub(super) fn check_count(ids: Texts<'_>) -> Result<(), Outcome> {
    match ids.count_to(PAGE_MAX) {
        count if (1..=PAGE_MAX).contains(&count) => Ok(()),
        count => Err(Outcome::bad(format!("message_ids: {count} are not from 1 to {PAGE_MAX}"))),
    }
}

/// Messages that are being read.
#[derive(Debug)]
struct Reading {
    life: Life,
    parts: Parts,
    found: Vec<(Partition, Found)>,
    /// Whether one message was asked for, which must exist.
    is_single: bool,
}

/// Reads one message.
pub(super) fn get(queue: &KnownQueue, id: &str, call: &mut Call<'_, '_>) -> Progress {
    match read(queue, Life::of(&queue.info), id) {
        Some(message) => find(queue, vec![message], true, call),
        None => Progress::Done(no_message()),
    }
}

/// Reads messages. Those that do not exist are left out.
pub(super) fn get_many(queue: &KnownQueue, ids: Texts<'_>, call: &mut Call<'_, '_>) -> Progress {
    match read_ids(queue, ids) {
        messages if messages.is_empty() => {
            Progress::Done(Outcome::new(200, Body::Messages(Vec::new(), None)))
        }
        messages => find(queue, messages, false, call),
    }
}

fn find(
    queue: &KnownQueue,
    messages: Vec<(Partition, Offset)>,
    is_single: bool,
    call: &mut Call<'_, '_>,
) -> Progress {
    let parts = by_partition(messages);
    let left = Parts::new(parts.len());
    for (partition, offsets) in parts {
        call.manage(queue, partition, Manage::Find(offsets));
    }
    let life = Life::of(&queue.info);
    Progress::Waits(Box::new(Reading { life, parts: left, found: Vec::new(), is_single }))
}

impl Task for Reading {
    fn answer(&mut self, answer: Answer, _call: &mut Call<'_, '_>) -> Option<Result<Outcome, StoreFault>> {
        let Answer::Managed { partition, result } = answer else { return None };
        if let Some(Managed::Found(found)) = self.parts.take(result) {
            self.found.extend(found.into_iter().map(|found| (partition, found)));
        }
        if let Err(fault) = self.parts.end()? {
            return Some(Err(fault));
        }
        self.found.sort_by_key(|(partition, found)| (*partition, found.offset));
        let life = self.life;
        let mut shown = self.found.drain(..).map(|(partition, found)| Shown {
            life,
            partition,
            ttl_secs: ttl_secs(&found.stored, found.expires, found.stored.timestamp),
            stored: found.stored,
            record: found.record,
            offset: found.offset,
            claim: None,
            count: None,
        });
        Some(Ok(if !self.is_single {
            Outcome::new(200, Body::Messages(shown.collect(), None))
        } else if let Some(message) = shown.next() {
            Outcome::new(200, Body::Message(Box::new(message)))
        } else {
            no_message()
        }))
    }
}

/// Messages that are being deleted.
#[derive(Debug)]
struct Deleting {
    parts: Parts,
    /// Whether one message was named, whose claim counts.
    is_single: bool,
    /// Whether a claim was named that none of the queue is.
    is_malformed: bool,
    result: Removed,
}

/// The answer to a deletion.
pub(super) fn deleted() -> Outcome {
    Outcome::new(204, Body::Nothing)
}

/// Deletes one message, which must not be claimed, or be in this claim.
pub(super) fn delete(queue: &KnownQueue, id: &str, claim: Option<&str>, call: &mut Call<'_, '_>) -> Progress {
    let life = Life::of(&queue.info);
    let Some((partition, offset)) = read(queue, life, id) else { return Progress::Done(deleted()) };
    let claim = claim.map(|claim| life.read_claim(claim));
    let only = match claim {
        None => Only::Unclaimed,
        // No lease has the number 0.
        Some(None) => Only::In(CLAIMS_OF, LeaseId(0)),
        Some(Some((of, lease))) if of == partition => Only::In(CLAIMS_OF, lease),
        // A claim of another partition holds no message of this one.
        Some(Some(_)) => Only::In(CLAIMS_OF, LeaseId(0)),
    };
    let is_malformed = claim == Some(None);
    call.manage(queue, partition, Manage::Remove { offsets: vec![offset], only });
    let (parts, result) = (Parts::new(1), Removed::Yes);
    Progress::Waits(Box::new(Deleting { parts, is_single: true, is_malformed, result }))
}

/// Deletes messages, claimed or not. Those that do not exist are left out.
pub(super) fn delete_many(queue: &KnownQueue, ids: Texts<'_>, call: &mut Call<'_, '_>) -> Progress {
    let messages = read_ids(queue, ids);
    if messages.is_empty() {
        return Progress::Done(deleted());
    }
    let parts = by_partition(messages);
    let left = Parts::new(parts.len());
    for (partition, offsets) in parts {
        call.manage(queue, partition, Manage::Remove { offsets, only: Only::All });
    }
    let result = Removed::Yes;
    Progress::Waits(Box::new(Deleting { parts: left, is_single: false, is_malformed: false, result }))
}

impl Task for Deleting {
    fn answer(&mut self, answer: Answer, _call: &mut Call<'_, '_>) -> Option<Result<Outcome, StoreFault>> {
        let Answer::Managed { result, .. } = answer else { return None };
        if let Some(Managed::Removed(removed)) = self.parts.take(result)
            && let Some(result) = removed.first()
        {
            self.result = *result;
        }
        if let Err(fault) = self.parts.end()? {
            return Some(Err(fault));
        }
        Some(Ok(match self.result {
            Removed::Claimed | Removed::Unclaimed if self.is_malformed => {
                Outcome::bad("claim_id: it is no id of a claim of this queue")
            }
            Removed::Claimed if self.is_single => {
                Outcome::failed(403, "the message is claimed; only its claim_id allows to delete it")
            }
            Removed::Unclaimed if self.is_single => {
                Outcome::bad("claim_id: the claim does not hold the message, nor does another one")
            }
            _ => deleted(),
        }))
    }
}

/// Messages that are being popped.
#[derive(Debug)]
struct Popping {
    queue: KnownQueue,
    wanted: usize,
    popped: Vec<Shown>,
    /// The next partition, and how many are left after it.
    partition: Partition,
    left: u16,
}

/// Deletes the oldest messages that can be claimed, and returns them. `first` is the partition to begin with.
pub(super) fn pop(queue: KnownQueue, wanted: usize, first: u16, call: &mut Call<'_, '_>) -> Progress {
    let partitions = queue.info.partitions;
    let partition = Partition(first % partitions.max(1));
    let popping =
        Popping { queue, wanted, popped: Vec::new(), partition, left: partitions.saturating_sub(1) };
    popping.ask(call);
    Progress::Waits(Box::new(popping))
}

impl Popping {
    fn ask(&self, call: &mut Call<'_, '_>) {
        let messages_max = u32::try_from(self.wanted - self.popped.len()).unwrap_or(u32::MAX);
        call.manage(&self.queue, self.partition, Manage::Pop { messages_max, bytes_max: CLAIM_BYTES });
    }
}

impl Task for Popping {
    fn answer(&mut self, answer: Answer, call: &mut Call<'_, '_>) -> Option<Result<Outcome, StoreFault>> {
        let Answer::Managed { result, .. } = answer else { return None };
        match result {
            Ok(Managed::Popped(runs)) => {
                let life = Life::of(&self.queue.info);
                shown_runs(life, self.partition, &runs, None, &mut self.popped);
            }
            Ok(_) => {}
            // What is popped is deleted, so the client must get it.
            Err(_) if !self.popped.is_empty() => self.left = 0,
            Err(fault) => return Some(Err(fault)),
        }
        if self.left > 0 && self.popped.len() < self.wanted {
            self.left -= 1;
            self.partition = Partition((self.partition.0 + 1) % self.queue.info.partitions.max(1));
            self.ask(call);
            return None;
        }
        Some(Ok(Outcome::new(200, Body::Messages(std::mem::take(&mut self.popped), None))))
    }
}

/// Adds the messages of runs: those of a claim since some time, or popped ones.
pub(super) fn shown_runs(
    life: Life,
    partition: Partition,
    runs: &[Granted],
    claim: Option<(&str, UnixMillis)>,
    shown: &mut Vec<Shown>,
) {
    let (claim, since) = claim.unzip();
    for run in runs {
        let (mut record, mut offset) = (run.record, run.offsets.start);
        while offset < run.offsets.end {
            shown.push(Shown {
                life,
                partition,
                stored: run.stored.clone(),
                record,
                offset,
                ttl_secs: ttl_secs(&run.stored, run.expires, since.unwrap_or(run.stored.timestamp)),
                claim: claim.map(str::to_owned),
                // A pop counts too, and is no claim.
                count: claim.is_none().then(|| run.count.saturating_sub(1)),
            });
            record = run.stored.batch.record_at(record).map_or(usize::MAX, |(next, _)| next);
            offset = offset.saturating_add(1);
        }
    }
}
