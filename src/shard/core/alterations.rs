//! Describes, creates and alters queues, at the home of the queue: for the operator, and for operations.
//!
//! ```text
//! asked ──▶ waits for an opening or a change of the queue
//!   │                  │
//!   ▼                  ▼
//! known? ── no ──▶ looked for in the store ── none ──▶ created, if that is wished
//!   │ yes              │ found
//!   ▼                  ▼
//! described, or altered in the store ──▶ every shard knows ──▶ answered
//! ```

use std::collections::VecDeque;

use super::changes::{Kind, Waiter};
use super::wishes::Checked;
use super::{Asking, ChangeId, Connection, ConnectionId, Connections, Core, Letter};
use crate::base::attributes::{Allowed, AttributeFault, Attributes, check_partitions, take_partitions};
use crate::base::clock::Now;
use crate::base::error::StoreFault;
use crate::base::limits::PARTITIONS_MAX;
use crate::base::names::FullName;
use crate::base::queue::QueueId;
use crate::base::wish::{AlterFault, Alteration, Created, Described, Granted, Wish};
use crate::operation::Answer;
use crate::store::{Life, NewQueue, Request, Store};

/// The answers to the operator's wishes.
#[derive(Debug, Default)]
pub(super) struct Answers(VecDeque<(ChangeId, Granted)>);

impl<S: Store<Connections>> Core<S> {
    /// Takes a wish about a queue whose home is this shard. [`Self::poll_granted`] returns the answer.
    pub fn wish(&mut self, now: Now, name: FullName, wish: Wish) -> ChangeId {
        self.wish_of(now, None, name, wish)
    }

    /// As [`Self::wish`], for an operation, which gets the answer.
    pub(super) fn wish_of(&mut self, now: Now, by: Option<Asking>, name: FullName, wish: Wish) -> ChangeId {
        let id = self.changes.next_id(by);
        match self.checked(&name, wish) {
            Ok(wish) => self.grant_wish(now, id, name, wish),
            Err(fault) => self.answer_wish(now, id, Err(fault.into())),
        }
        id
    }

    /// Returns the next answer to a wish: [`StoreFault::NoQueue`] if there is no queue of that name.
    pub fn poll_granted(&mut self) -> Option<(ChangeId, Granted)> {
        self.granted.0.pop_front()
    }

    fn checked(&self, name: &FullName, wish: Wish) -> Result<Checked, AttributeFault> {
        Ok(match wish {
            Wish::Find => Checked::Find,
            Wish::Alter(alteration) => Checked::Alter(alteration),
            Wish::Create(mut attributes) => {
                let partitions = take_partitions(&mut attributes, PARTITIONS_MAX)?;
                let attributes = Attributes::default().with(attributes, &name.1, &self.allowed())?;
                Checked::Create(NewQueue {
                    partitions: partitions.unwrap_or(self.settings.partitions),
                    attributes,
                })
            }
        })
    }

    /// Returns what the settings allow in attributes.
    fn allowed(&self) -> Allowed {
        let settings = &self.settings.operation;
        Allowed {
            ttl_secs: (settings.ttl_min_secs, settings.ttl_max_secs),
            delay_max_secs: settings.delay_max_secs,
            payload_max: settings.max_payload_bytes,
        }
    }

    /// Begins to fulfil a wish, or waits for what the store does to the queue now.
    pub(super) fn grant_wish(&mut self, now: Now, id: ChangeId, name: FullName, wish: Checked) {
        let waiters = match wish {
            Checked::Find => self.openings.waiters(&name).or_else(|| self.changes.waiters_to_see(&name)),
            Checked::Create(_) | Checked::Alter(_) => self.waiters(&name),
        };
        if let Some(waiters) = waiters {
            return waiters.push_back(Waiter::Wish(id, wish));
        }
        match self.catalogue.describe(&name) {
            Some(queue) => self.grant_of(now, id, name, queue, wish),
            None => self.look_for(now, id, name, wish),
        }
    }

    /// Fulfils a wish about a queue that exists.
    pub(super) fn grant_of(
        &mut self,
        now: Now,
        id: ChangeId,
        name: FullName,
        queue: Described,
        wish: Checked,
    ) {
        match wish {
            Checked::Find | Checked::Create(_) => {
                self.answer_wish(now, id, Ok(Created { is_new: false, queue }));
            }
            Checked::Alter(alteration) => self.begin_alteration(now, id, name, queue, alteration),
        }
    }

    pub(super) fn answer_wish(&mut self, now: Now, id: ChangeId, answer: Granted) {
        match id.by {
            Some(by) => self.answer_order(now, by, Answer::Wished(answer)),
            None => self.granted.0.push_back((id, answer)),
        }
    }

    fn begin_alteration(
        &mut self,
        now: Now,
        id: ChangeId,
        name: FullName,
        queue: Described,
        alteration: Alteration,
    ) {
        let Alteration { changes, partitions } = alteration;
        let present = queue.info.partitions;
        let partitions = partitions.unwrap_or(present);
        let checked = check_partitions(partitions, present, PARTITIONS_MAX.max(present))
            .and_then(|()| queue.attributes.with(changes, &name.1, &self.allowed()));
        match checked {
            Err(fault) => self.answer_wish(now, id, Err(fault.into())),
            Ok(attributes) if attributes == queue.attributes && partitions == present => {
                self.answer_wish(now, id, Ok(Created { is_new: false, queue }));
            }
            Ok(attributes) => {
                self.changes.begin(now, id, name.clone(), queue.info.id, Kind::Alteration);
                self.submit(now, Request::Alter { token: id, name, attributes, partitions });
            }
        }
    }

    /// Handles the store's answer to an alteration.
    pub(super) fn handle_altered(&mut self, now: Now, id: ChangeId, result: Result<Life, StoreFault>) {
        let Some(changing) = self.changes.end(id) else { return };
        let answer = match result {
            Ok(life) => self.apply(now, &changing.name, changing.queue, life),
            Err(fault) => Err(fault.into()),
        };
        self.answer_wish(now, id, answer);
        self.resume(now, &changing.name, changing.waiters);
    }

    /// Lets every shard know what the store has altered.
    fn apply(&mut self, now: Now, name: &FullName, queue: QueueId, life: Life) -> Granted {
        let Life { partitions, attributes, .. } = life;
        let known = self.catalogue.get(name).filter(|info| info.id == queue);
        let before = known.ok_or(AlterFault::Fault(StoreFault::NoQueue.into()))?;
        before.policy.set(attributes.policy());
        self.catalogue.set_attributes(queue, attributes);
        if partitions > before.partitions {
            before.policy.grow(partitions);
            self.grow(now, queue, partitions);
            for shard in self.others() {
                self.outboxes[usize::from(shard)].push(Letter::Grown { queue, partitions });
            }
        }
        let queue = self.catalogue.describe(name).ok_or(AlterFault::Fault(StoreFault::NoQueue.into()))?;
        Ok(Created { is_new: false, queue })
    }

    /// Handles that another server has changed the attributes of a queue whose home is this shard.
    pub(super) fn handle_altered_elsewhere(&mut self, queue: QueueId, attributes: Attributes) {
        let Some((_, policy)) = self.tenants.policies().get(queue) else { return };
        policy.set(attributes.policy());
        self.catalogue.set_attributes(queue, attributes);
    }

    /// Handles that a queue has more partitions.
    pub(super) fn grow(&mut self, now: Now, queue: QueueId, partitions: u16) {
        self.catalogue.grow(queue, partitions);
        let reads = |id: &ConnectionId| {
            let front = self.connections.get(*id).and_then(Connection::front);
            front.is_some_and(|front| front.reads(queue))
        };
        let readers: Vec<ConnectionId> = self.connections.ids().filter(reads).collect();
        for id in readers {
            self.with_dirty(now, id, |connection, env| {
                connection.with_front(env, |front, _| front.handle_grown());
            });
        }
    }
}
