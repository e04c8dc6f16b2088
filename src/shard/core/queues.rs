//! Queues: found in the catalogue, opened or created by their home shard, forgotten by all.

use std::collections::{HashMap, VecDeque};

use super::deletions::Waiter;
use super::{Asking, Connections, Core, Message, OpenToken};
use crate::access::{Permit, Use};
use crate::base::clock::Now;
use crate::base::error::{Fault, PeerFault, StoreFault};
use crate::base::millis::Millis;
use crate::base::names::{FullName, Project, queue_hash};
use crate::base::planted;
use crate::base::queue::{QueueId, QueueInfo, home};
use crate::base::units::Partition;
use crate::operation::Answer;
use crate::store::{Completion, Life, Request, Store};

/// What becomes of a queue that is opened and not there.
#[derive(Debug)]
enum Creation {
    /// It is created: a place in the catalogue is kept for it, and one of its project's, where that is limited.
    Allowed(Option<Permit>),
    /// It is not, as there are too many.
    Refused(Fault),
    /// It is not, as `auto_create` is off.
    Off,
}

/// A queue that its home is opening.
#[derive(Debug)]
struct Opening {
    name: FullName,
    creation: Creation,
    /// Other operations that open the queue. They get the same answer.
    others: Vec<Asking>,
    /// A deletion of the queue, and all requests behind it.
    waiters: VecDeque<Waiter>,
}

/// The queues that a home is opening.
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

    /// The requests that wait for the opening of a queue; `None` if it is not being opened.
    pub(super) fn waiters(&mut self, name: &FullName) -> Option<&mut VecDeque<Waiter>> {
        self.get_mut(name).map(|opening| &mut opening.waiters)
    }
}

impl<S: Store<Connections>> Core<S> {
    /// Queues of an earlier run whose home this shard is are known, and count, from the start.
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

    /// Finds a queue for a connection of any shard; makes it, where this is its home.
    pub(super) fn open(&mut self, now: Now, by: Asking, name: FullName) {
        if let Some(waiters) = self.deletions.waiters(&name) {
            return waiters.push_back(Waiter::Open(by));
        }
        if let Some(info) = self.catalogue.get(&name) {
            return self.answer_opened(now, by, name, Ok(info));
        }
        let hash = queue_hash(&name.0, &name.1);
        let home = home(hash, self.shards);
        if home != self.shard {
            return self.outboxes[usize::from(home)].push(Message::Open { by, name });
        }
        if self.settings.operation.test_faults {
            planted::in_shard(name.1.as_str());
        }
        if let Some(opening) = self.openings.get_mut(&name) {
            if opening.waiters.is_empty() {
                opening.others.push(by);
            } else {
                opening.waiters.push_back(Waiter::Open(by));
            }
            return;
        }
        // The store may have the queue although it is not in the catalogue: then it is opened whatever the limits.
        let creation = self.creation(now, &name.0);
        let create = matches!(creation, Creation::Allowed(_)).then_some(self.settings.partitions);
        let queue = self.catalogue.next_id();
        let (others, waiters) = (Vec::new(), VecDeque::new());
        self.openings.insert(queue, Opening { name: name.clone(), creation, others, waiters });
        let token = OpenToken { by, queue };
        self.submit(now, Request::Open { token, queue, name, create });
    }

    /// Whether a project may have one more queue here; keeps the places for it.
    fn creation(&mut self, now: Now, project: &Project) -> Creation {
        if !self.settings.auto_create {
            return Creation::Off;
        }
        let permit = self.tenants.get(project, now.mono).map(|tenant| tenant.take(Use::Queue)).transpose();
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

    /// A queue of this home is there.
    fn record(
        &mut self,
        now: Millis,
        id: QueueId,
        name: FullName,
        life: Life,
        permit: Option<Permit>,
    ) -> QueueInfo {
        let held = || self.tenants.get(&name.0, now).map(|tenant| tenant.hold(Use::Queue));
        if let Some(permit) = permit.or_else(held) {
            self.tenants.hold_queue(id, permit);
        }
        let Life { incarnation, partitions, signing } = life;
        let hash = queue_hash(&name.0, &name.1);
        self.catalogue.record(name, QueueInfo { id, incarnation, partitions, hash, signing })
    }

    /// The store has begun or ended a queue's life, or has failed to.
    pub(super) fn handle_changed(&mut self, now: Now, completion: Completion<Connections>) {
        match completion {
            Completion::Opened { token, result } => self.handle_made(now, token, result),
            Completion::Deleted { token, result } => self.handle_deleted(now, token, result),
            // No change of a queue.
            Completion::Appended { .. } | Completion::Fetched { .. } | Completion::Resolved { .. } => {}
        }
    }

    /// The store has begun a queue's life: this shard is its home.
    fn handle_made(&mut self, now: Now, token: OpenToken, result: Result<Life, StoreFault>) {
        let OpenToken { by, queue: id } = token;
        let Some(Opening { name, creation, others, waiters }) = self.openings.remove(id) else { return };
        let (permit, refusal) = match creation {
            Creation::Allowed(permit) => {
                self.catalogue.unreserve();
                (permit, None)
            }
            Creation::Refused(fault) => (None, Some(fault)),
            Creation::Off => (None, None),
        };
        let result = match result {
            Ok(life) => Ok(self.record(now.mono, id, name.clone(), life, permit)),
            Err(StoreFault::NoQueue) => Err(refusal.unwrap_or(Fault::Store(StoreFault::NoQueue))),
            Err(fault) => Err(fault.into()),
        };
        for other in others {
            self.answer_opened(now, other, name.clone(), result.clone());
        }
        self.answer_opened(now, by, name.clone(), result);
        self.resume(now, &name, waiters);
    }

    /// A life of a queue has ended. The next operation that opens the queue asks its home again.
    pub(super) fn forget(&mut self, queue: QueueId, incarnation: u64) {
        // A partition's owner may know the queue in its store alone.
        self.catalogue.forget(queue);
        self.tenants.release_queue(queue);
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
            self.outboxes[usize::from(by.shard)].push(Message::Opened { by, name, result });
        }
    }

    /// A queue that a connection of this shard asked for.
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
        self.with_dirty(now, id, |connection, env| {
            let mut local_partition = Partition::default();
            if let Ok(info) = &opened {
                // The partition that costs a keyless producer no hop; spread over those of this shard.
                let owned: Vec<Partition> = info.all().filter(|p| info.owner(*p, shards) == shard).collect();
                local_partition =
                    owned.get(id.slot as usize % owned.len().max(1)).copied().unwrap_or_default();
            }
            let answer = Answer::Opened { result: opened, local_partition };
            connection.with_front(env, |front, cx| front.answer(by.operation, answer, cx));
        });
    }
}
