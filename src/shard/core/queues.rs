//! Queues: finds them in the catalogue, opens or creates them at their home shard, and forgets them.

use std::collections::{HashMap, VecDeque};

use super::changes::Waiter;
use super::wishes::Checked;
use super::{Asking, ChangeId, Connections, Core, Letter, OpenToken};
use crate::access::{Permit, Use};
use crate::base::clock::Now;
use crate::base::error::{Fault, PeerFault, StoreFault};
use crate::base::millis::Millis;
use crate::base::names::{FullName, Project, queue_hash};
use crate::base::planted;
use crate::base::queue::{QueueId, QueueInfo, home};
use crate::base::units::Partition;
use crate::base::wish::Created;
use crate::operation::Answer;
use crate::store::{Completion, Life, NewQueue, Request, Store};

/// Whether a queue is created if it does not exist.
#[derive(Debug)]
enum Creation {
    /// Creates it. An entry in the catalogue is reserved, and the project has this permit.
    Allowed(Permit),
    /// Does not create it, because a limit on the number of queues is reached.
    Refused(Fault),
    /// Does not create it, because `auto_create` is off.
    Off,
    /// Does not create it, because the client may not. Others that wait for the queue may.
    Forbidden,
}

/// Who has begun an opening.
#[derive(Debug)]
enum Opener {
    /// An operation.
    Operation(Asking),
    /// A wish of the operator.
    Wish(ChangeId, Checked),
}

/// A queue that this shard, its home, is opening.
#[derive(Debug)]
struct Opening {
    name: FullName,
    by: Opener,
    creation: Creation,
    /// Other operations that open the queue, and whether their clients may create it. They get the same answer,
    /// unless it depends on that.
    others: Vec<(Asking, bool)>,
    /// A change of the queue or a wish, and all requests behind it. All requests, if a wish has begun the opening.
    waiters: VecDeque<Waiter>,
}

/// The queues that this shard is opening as their home.
#[derive(Debug, Default)]
pub(super) struct Openings {
    of: HashMap<QueueId, Opening>,
    names: HashMap<FullName, QueueId>,
}

impl Openings {
    fn get_mut(&mut self, name: &FullName) -> Option<&mut Opening> {
        self.names.get(name).and_then(|queue| self.of.get_mut(queue))
    }

    fn insert(&mut self, queue: QueueId, opening: Opening) {
        self.names.insert(opening.name.clone(), queue);
        self.of.insert(queue, opening);
    }

    fn remove(&mut self, queue: QueueId) -> Option<Opening> {
        let opening = self.of.remove(&queue)?;
        self.names.remove(&opening.name);
        Some(opening)
    }

    /// Returns the requests that wait for the opening of a queue; `None` if it is not being opened.
    pub(super) fn waiters(&mut self, name: &FullName) -> Option<&mut VecDeque<Waiter>> {
        self.get_mut(name).map(|opening| &mut opening.waiters)
    }
}

impl<S: Store<Connections>> Core<S> {
    /// Records the queues of an earlier run whose home is this shard. They count towards the limits.
    pub(super) fn adopt_queues(&mut self) {
        for name in self.store.names() {
            if home(queue_hash(&name.0, &name.1), self.shards) != self.shard {
                continue;
            }
            let id = self.catalogue.next_id();
            if let Some(life) = self.store.adopt(id, &name) {
                self.record(Millis::ZERO, id, name, life, None);
            }
        }
    }

    /// Finds a queue for a connection of any shard. The queue's home creates it if it does not exist.
    pub(super) fn open(&mut self, now: Now, by: Asking, name: FullName, may_create: bool) {
        if let Some(waiters) = self.changes.waiters_to_see(&name) {
            return waiters.push_back(Waiter::Open(by, may_create));
        }
        if let Some(info) = self.catalogue.get(&name) {
            return self.answer_opened(now, by, name, Ok(info));
        }
        let hash = queue_hash(&name.0, &name.1);
        let home = home(hash, self.shards);
        if home != self.shard {
            return self.outboxes[usize::from(home)].push(Letter::Open { by, name, may_create });
        }
        if self.settings.operation.test_faults {
            planted::in_shard(name.1.as_str());
        }
        if let Some(opening) = self.openings.get_mut(&name) {
            if opening.waiters.is_empty() && matches!(opening.by, Opener::Operation(_)) {
                opening.others.push((by, may_create));
            } else {
                opening.waiters.push_back(Waiter::Open(by, may_create));
            }
            return;
        }
        // The store may hold a queue that is not in the catalogue. Such a queue is opened despite the limits.
        let creation = match may_create {
            // A dead-letter queue is created whether clients may create queues or not.
            true if self.settings.auto_create || by.as_errand().is_some() => self.creation(now, &name.0),
            true => Creation::Off,
            false => Creation::Forbidden,
        };
        let create =
            matches!(creation, Creation::Allowed(_)).then(|| NewQueue::plain(self.settings.partitions));
        self.begin_opening(now, name, Opener::Operation(by), creation, create, VecDeque::new());
    }

    fn begin_opening(
        &mut self,
        now: Now,
        name: FullName,
        by: Opener,
        creation: Creation,
        create: Option<NewQueue>,
        waiters: VecDeque<Waiter>,
    ) {
        let queue = self.catalogue.next_id();
        let opening = Opening { name: name.clone(), by, creation, others: Vec::new(), waiters };
        self.openings.insert(queue, opening);
        self.submit(now, Request::Open { token: OpenToken { queue }, queue, name, create });
    }

    /// Looks for a queue that is not in the catalogue, for a wish.
    pub(super) fn look_for(&mut self, now: Now, id: ChangeId, name: FullName, wish: Checked) {
        self.begin_opening(now, name, Opener::Wish(id, wish), Creation::Off, None, VecDeque::new());
    }

    /// Returns whether a project may create one more queue, and reserves what that takes.
    fn creation(&mut self, now: Now, project: &Project) -> Creation {
        let permit = self.tenants.get(project, now.mono).take(Use::Queue);
        match permit {
            Ok(permit) => match self.catalogue.reserve() {
                Ok(()) => Creation::Allowed(permit),
                Err(fault) => Creation::Refused(fault.into()),
            },
            Err(limit) => {
                let fault = PeerFault::TooMany { what: "queues", key: "project_max_queues", limit };
                Creation::Refused(fault.into())
            }
        }
    }

    /// Records a queue whose home is this shard.
    fn record(
        &mut self,
        now: Millis,
        id: QueueId,
        name: FullName,
        life: Life,
        permit: Option<Permit>,
    ) -> QueueInfo {
        let permit = permit.unwrap_or_else(|| self.tenants.get(&name.0, now).hold(Use::Queue));
        self.tenants.hold_queue(id, permit);
        let Life { incarnation, partitions, signing, attributes } = life;
        let hash = queue_hash(&name.0, &name.1);
        let policy = self.tenants.policies().add(id, name.clone(), attributes.policy());
        self.catalogue.set_attributes(id, attributes);
        self.catalogue.record(name, QueueInfo { id, incarnation, partitions, hash, signing, policy })
    }

    /// Handles the store's answer to an opening, a change of a queue, or a request of the operator.
    pub(super) fn handle_changed(&mut self, now: Now, completion: Completion<Connections>) {
        match completion {
            Completion::Opened { token, result } => self.handle_made(now, token, result),
            Completion::Deleted { token, result } => self.handle_deleted(now, token, result),
            Completion::Altered { token, result } => self.handle_altered(now, token, result),
            Completion::Managed { token, result } => self.handle_managed(token, result),
            Completion::Listed { token, result } => self.handle_listed(now, token, result),
            // These are for operations.
            Completion::Appended { .. }
            | Completion::Fetched { .. }
            | Completion::Resolved { .. }
            | Completion::Claimed { .. }
            | Completion::Watched { .. }
            | Completion::Settled { .. } => {}
        }
    }

    /// Handles the store's answer to an opening. This shard is the queue's home.
    fn handle_made(&mut self, now: Now, token: OpenToken, result: Result<Life, StoreFault>) {
        let OpenToken { queue: id } = token;
        let Some(Opening { name, by, creation, others, waiters }) = self.openings.remove(id) else { return };
        let by = match by {
            Opener::Operation(by) => by,
            Opener::Wish(wish, what) => {
                return self.handle_found(now, id, name, (wish, what), creation, result, waiters);
            }
        };
        let is_forbidden = matches!(creation, Creation::Forbidden);
        let is_missing = matches!(result, Err(StoreFault::NoQueue));
        let (permit, refusal) = match creation {
            Creation::Allowed(permit) => {
                self.catalogue.unreserve();
                (Some(permit), None)
            }
            Creation::Refused(fault) => (None, Some(fault)),
            Creation::Off | Creation::Forbidden => (None, None),
        };
        let result = match result {
            Ok(life) => Ok(self.record(now.mono, id, name.clone(), life, permit)),
            Err(StoreFault::NoQueue) => Err(refusal.unwrap_or(Fault::Store(StoreFault::NoQueue))),
            Err(fault) => Err(fault.into()),
        };
        let (again, others): (Vec<_>, Vec<_>) =
            others.into_iter().partition(|(_, may_create)| is_missing && is_forbidden && *may_create);
        for (other, may_create) in others {
            // Why another one cannot create the queue does not concern a client that may not.
            let absent = is_missing && !may_create;
            let result = if absent { Err(StoreFault::NoQueue.into()) } else { result.clone() };
            self.answer_opened(now, other, name.clone(), result);
        }
        self.answer_opened(now, by, name.clone(), result);
        for (other, may_create) in again {
            self.open(now, other, name.clone(), may_create);
        }
        self.resume(now, &name, waiters);
    }

    /// Handles the store's answer to an opening for a wish. Such an opening looks for the queue first. A second one
    /// creates it, so that the answer can say whether it is new.
    #[allow(clippy::too_many_arguments)]
    fn handle_found(
        &mut self,
        now: Now,
        id: QueueId,
        name: FullName,
        (wish, what): (ChangeId, Checked),
        creation: Creation,
        result: Result<Life, StoreFault>,
        waiters: VecDeque<Waiter>,
    ) {
        let permit = match creation {
            Creation::Allowed(permit) => {
                self.catalogue.unreserve();
                Some(permit)
            }
            Creation::Refused(_) | Creation::Off | Creation::Forbidden => None,
        };
        let is_new = permit.is_some();
        match (result, what) {
            (Ok(life), what) => {
                self.record(now.mono, id, name.clone(), life, permit);
                match (self.catalogue.describe(&name), what) {
                    (Some(queue), Checked::Create(_)) => {
                        self.answer_wish(now, wish, Ok(Created { is_new, queue }))
                    }
                    (Some(queue), what) => self.grant_of(now, wish, name.clone(), queue, what),
                    (None, _) => self.answer_wish(now, wish, Err(StoreFault::NoQueue.into())),
                }
            }
            (Err(StoreFault::NoQueue), Checked::Create(new)) if !is_new => {
                match self.creation(now, &name.0) {
                    creation @ Creation::Allowed(_) => {
                        let by = Opener::Wish(wish, Checked::Create(new.clone()));
                        return self.begin_opening(now, name, by, creation, Some(new), waiters);
                    }
                    Creation::Refused(fault) => self.answer_wish(now, wish, Err(fault.into())),
                    Creation::Off | Creation::Forbidden => {
                        self.answer_wish(now, wish, Err(StoreFault::NoQueue.into()));
                    }
                }
            }
            (Err(fault), _) => self.answer_wish(now, wish, Err(fault.into())),
        }
        self.resume(now, &name, waiters);
    }

    /// Handles that this shard's store has found the end of a queue's life. Only the queue's home tells the
    /// shards to forget it. A `Forget` from another shard could overtake an `Opened` from the home, and the
    /// receiver would keep the dead queue.
    pub(super) fn report_gone(&mut self, queue: QueueId, incarnation: u64) {
        match queue.home() {
            home if home == self.shard => self.tell_gone(queue, incarnation, None),
            home => self.outboxes[usize::from(home)].push(Letter::Gone { queue, incarnation }),
        }
    }

    /// Forgets a queue whose life has ended. The next operation that opens the queue asks its home again.
    pub(super) fn forget(&mut self, queue: QueueId, incarnation: u64) {
        // On a partition's owner, the queue may be known only to the store.
        self.catalogue.forget(queue);
        self.tenants.release_queue(queue);
        self.tenants.policies().remove(queue);
        self.store.forget(queue, incarnation);
        self.is_asked = true;
    }

    pub(super) fn answer_opened(
        &mut self,
        now: Now,
        by: Asking,
        name: FullName,
        result: Result<QueueInfo, Fault>,
    ) {
        if by.shard == self.shard {
            self.handle_opened(now, by, name, result);
        } else {
            self.outboxes[usize::from(by.shard)].push(Letter::Opened { by, name, result });
        }
    }

    /// Delivers the result of an opening to the connection of this shard that asked for it.
    pub(super) fn handle_opened(
        &mut self,
        now: Now,
        by: Asking,
        name: FullName,
        result: Result<QueueInfo, Fault>,
    ) {
        let id = by.connection;
        let (shard, shards) = (self.shard, self.shards);
        let opened = result.map(|info| self.catalogue.record(name, info));
        if let Some(errand) = by.as_errand() {
            let (local_partition, has_claims) = (Partition::default(), S::CLAIMS);
            return self.handle_errand(
                now,
                errand,
                Answer::Opened { result: opened, local_partition, has_claims },
            );
        }
        self.with_dirty(now, id, |connection, env| {
            let mut local_partition = Partition::default();
            if let Ok(info) = &opened {
                // A keyless producer that uses a partition of this shard needs no hop to another shard.
                // Connections are spread over the shard's partitions.
                let owned: Vec<Partition> = info.all().filter(|p| info.owner(*p, shards) == shard).collect();
                local_partition =
                    owned.get(id.slot as usize % owned.len().max(1)).copied().unwrap_or_default();
            }
            let has_claims = S::CLAIMS;
            let answer = Answer::Opened { result: opened, local_partition, has_claims };
            connection.with_front(env, |front, cx| front.answer(by.operation, answer, cx));
        });
    }
}
