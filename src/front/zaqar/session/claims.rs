//! `claim_create`, `claim_get`, `claim_update`, `claim_delete`.
//!
//! A claim is a lease of the ledger. It belongs to no connection: who knows its id may use it. A claim holds messages of one
//! partition.

use super::super::texts;
use super::CLAIMS_OF;
use super::ids::Life;
use super::known::KnownQueue;
use super::limits::CLAIM_BYTES;
use super::messages::shown_runs;
use super::outcome::{Body, Outcome};
use super::task::{Call, Progress, Task};
use crate::base::claim::{LeaseId, Leaving, Settle, Terms};
use crate::base::error::StoreFault;
use crate::base::manage::{Manage, Managed};
use crate::base::units::Partition;
use crate::operation::{Answer, Command};

/// The answer to `claim_create` if there is nothing to claim.
pub(super) fn nothing() -> Outcome {
    Outcome::new(204, Body::Claimed(None, Vec::new()))
}

/// The answer to a request whose claim does not exist.
pub(super) fn no_claim() -> Outcome {
    Outcome::failed(
        404,
        "the claim does not exist: it was never made, was released, has ended, or has no messages left",
    )
}

/// A claim that is being made.
#[derive(Debug)]
struct Claiming {
    queue: KnownQueue,
    terms: Terms,
    limit: u32,
    partition: Partition,
    /// The partitions that were not asked yet.
    left: u16,
}

/// Claims messages of the first partition from `first` on that has any.
pub(super) fn create(
    queue: KnownQueue,
    (ttl_secs, grace_secs): (u32, u32),
    limit: usize,
    first: u16,
    call: &mut Call<'_, '_>,
) -> Progress {
    let partitions = queue.info.partitions;
    let claiming = Claiming {
        queue,
        terms: Terms { client: CLAIMS_OF, ttl_secs, grace_secs },
        limit: u32::try_from(limit).unwrap_or(u32::MAX),
        partition: Partition(first % partitions.max(1)),
        left: partitions.saturating_sub(1),
    };
    claiming.ask(call);
    Progress::Waits(Box::new(claiming))
}

impl Claiming {
    fn ask(&self, call: &mut Call<'_, '_>) {
        let (operation, target) = (call.operation, self.queue.target(self.partition));
        let (terms, messages_max, bytes_max) = (self.terms, self.limit, CLAIM_BYTES);
        call.send(Command::Claim { operation, target, terms, messages_max, bytes_max });
    }

    /// The operation claims nothing more here. What it has claimed stays, or is given back.
    fn leave(&self, leaving: Leaving, call: &mut Call<'_, '_>) {
        let (operation, target) = (call.operation, self.queue.target(self.partition));
        call.send(Command::Leave { operation, target, leaving });
    }
}

impl Task for Claiming {
    fn answer(&mut self, answer: Answer, call: &mut Call<'_, '_>) -> Option<Result<Outcome, StoreFault>> {
        let Answer::Claimed { result, .. } = answer else { return None };
        match result {
            Ok(Some(grant)) => {
                self.leave(Leaving::Keep, call);
                let life = Life::of(&self.queue.info);
                let id = life.claim(self.partition, grant.lease).as_str().to_owned();
                let mut messages = Vec::new();
                let claim = Some((&*id, call.resources.now.unix));
                shown_runs(life, self.partition, &grant.runs, claim, &mut messages);
                Some(Ok(Outcome::new(201, Body::Claimed(Some(id), messages))))
            }
            Ok(None) if self.left > 0 => {
                self.leave(Leaving::Keep, call);
                self.left -= 1;
                self.partition = Partition((self.partition.0 + 1) % self.queue.info.partitions.max(1));
                self.ask(call);
                None
            }
            Ok(None) => {
                self.leave(Leaving::Keep, call);
                Some(Ok(nothing()))
            }
            Err(fault) => Some(Err(fault)),
        }
    }

    fn abandon(&mut self, call: &mut Call<'_, '_>) {
        // Nobody has seen the messages.
        self.leave(Leaving::Settle(Settle::Return), call);
    }
}

/// Ends a claim that nobody has heard of.
pub(super) fn give_back(queue: &KnownQueue, id: &str, call: &mut Call<'_, '_>) {
    if let Some((partition, lease)) = read(queue, id) {
        call.manage(queue, partition, Manage::Release(CLAIMS_OF, lease));
    }
}

/// What is done with a claim that exists.
#[derive(Debug)]
enum Kind {
    Get,
    Update,
    Delete,
}

#[derive(Debug)]
struct Using {
    kind: Kind,
    life: Life,
    partition: Partition,
    id: String,
}

/// Reads the id of a claim of the queue.
fn read(queue: &KnownQueue, id: &str) -> Option<(Partition, LeaseId)> {
    Life::of(&queue.info).read_claim(id).filter(|(partition, _)| partition.0 < queue.info.partitions)
}

/// Returns what a claim holds.
pub(super) fn get(queue: &KnownQueue, id: &str, call: &mut Call<'_, '_>) -> Progress {
    let Some((partition, lease)) = read(queue, id) else { return Progress::Done(no_claim()) };
    call.manage(queue, partition, Manage::Claim(CLAIMS_OF, lease));
    waits(Kind::Get, queue, partition, id)
}

/// Begins the time of a claim anew.
pub(super) fn update(
    queue: &KnownQueue,
    id: &str,
    (ttl_secs, grace_secs): (u32, u32),
    call: &mut Call<'_, '_>,
) -> Progress {
    let Some((partition, lease)) = read(queue, id) else { return Progress::Done(no_claim()) };
    call.manage(queue, partition, Manage::Renew { client: CLAIMS_OF, lease, ttl_secs, grace_secs });
    waits(Kind::Update, queue, partition, id)
}

/// Ends a claim. Its messages can be claimed again at once.
pub(super) fn delete(queue: &KnownQueue, id: &str, call: &mut Call<'_, '_>) -> Progress {
    let Some((partition, lease)) = read(queue, id) else { return Progress::Done(released(id)) };
    call.manage(queue, partition, Manage::Release(CLAIMS_OF, lease));
    waits(Kind::Delete, queue, partition, id)
}

/// The answer to `claim_delete`, whether there was such a claim or not.
pub(super) fn released(id: &str) -> Outcome {
    Outcome::text(204, texts::claim_deleted(id))
}

fn waits(kind: Kind, queue: &KnownQueue, partition: Partition, id: &str) -> Progress {
    Progress::Waits(Box::new(Using { kind, life: Life::of(&queue.info), partition, id: id.to_owned() }))
}

impl Task for Using {
    fn answer(&mut self, answer: Answer, call: &mut Call<'_, '_>) -> Option<Result<Outcome, StoreFault>> {
        let Answer::Managed { result, .. } = answer else { return None };
        let managed = match result {
            Ok(managed) => managed,
            Err(fault) => return Some(Err(fault)),
        };
        Some(Ok(match (&self.kind, managed) {
            (Kind::Get, Managed::Claim(Some(view))) => {
                let age = call.resources.now.mono.since(view.since);
                let claim = Some((&*self.id, call.resources.now.unix.saturating_sub(age)));
                let mut messages = Vec::new();
                shown_runs(self.life, self.partition, &view.runs, claim, &mut messages);
                Outcome::new(200, Body::Claim(age.as_secs(), view.ttl_secs, messages))
            }
            (Kind::Update, Managed::Renewed(true)) => Outcome::text(204, texts::claim_updated(&self.id)),
            (Kind::Delete, _) => released(&self.id),
            (Kind::Get | Kind::Update, _) => no_claim(),
        }))
    }
}
