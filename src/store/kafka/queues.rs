//! A shard's queues as topics: opens, alters, remembers and watches them.

use std::collections::{HashMap, VecDeque};
use std::ffi::CString;
use std::sync::Arc;

use super::attributes::{Member, NO_GROWTH, refused};
use super::client::Client;
use super::native::{Described, Trouble};
use super::openings::{Openings, Written};
use super::topic_rules::TopicRules;
use super::topics::{KnownTopics, TopicInfo, Topics};
use super::watch::{WATCHING, Watch};
use crate::base::clock::Now;
use crate::base::error::StoreFault;
use crate::base::names::FullName;
use crate::base::queue::QueueId;
use crate::store::{Asker, Completion, Life, NewQueue, StoreEvent};

/// The topic of a queue, and the queue's life without its attributes.
type Topic = (Arc<CString>, Life);

/// The queues of a shard.
#[derive(Debug)]
pub(super) struct Queues<T: Asker> {
    openings: Openings<T::Open>,
    known: KnownTopics,
    watch: Watch,
    attributes: Member<Written>,
    /// The queues that this shard has opened: it is their home.
    homed: HashMap<Arc<CString>, (QueueId, Arc<TopicInfo>)>,
    /// The alterations under way, by number.
    altering: HashMap<usize, (T::Change, Topic)>,
    /// The number of the last alteration.
    last: usize,
    /// The alterations that were made.
    altered: VecDeque<(T::Change, Topic)>,
    /// The topics of queues of this home whose attributes may have changed.
    changed: VecDeque<Arc<CString>>,
    /// What was refused.
    refused: VecDeque<Completion<T>>,
}

impl<T: Asker> Queues<T> {
    pub(super) fn new(topics: Arc<Topics>, rules: TopicRules, attributes: Member<Written>) -> Self {
        Self {
            openings: Openings::new(topics.clone(), rules),
            known: KnownTopics::new(topics),
            watch: Watch::new(),
            attributes,
            homed: HashMap::new(),
            altering: HashMap::new(),
            last: 0,
            altered: VecDeque::new(),
            changed: VecDeque::new(),
            refused: VecDeque::new(),
        }
    }

    /// Opens a queue. If its topic is missing, and `create` says how, creates it.
    pub(super) fn open(
        &mut self,
        now: Now,
        token: T::Open,
        queue: QueueId,
        name: &FullName,
        create: Option<NewQueue>,
        client: Option<&Client>,
    ) {
        self.openings.open(now, token, queue, name, create, (client, &self.attributes));
    }

    /// Changes the attributes of a queue.
    pub(super) fn alter(&mut self, token: T::Change, (project, name): &FullName, new: &NewQueue) {
        let topic = self.openings.rules().names.topic(project, name);
        let of = topic.and_then(|topic| self.homed.get(&topic));
        let result = match of {
            None => Err(StoreFault::NoQueue),
            Some((_, info)) if new.partitions != info.life.partitions => {
                Err(StoreFault::Unsupported(NO_GROWTH))
            }
            Some((_, info)) => {
                refused(&new.attributes).map_or(Ok(info), |why| Err(StoreFault::Unsupported(why)))
            }
        };
        match result {
            Err(fault) => self.refused.push_back(Completion::Altered { token, result: Err(fault) }),
            Ok(info) => {
                self.last += 1;
                self.attributes.write(
                    Written::Alteration(self.last),
                    &info.name,
                    &info.life,
                    &new.attributes,
                );
                self.altering.insert(self.last, (token, (info.name.clone(), info.life.clone())));
            }
        }
    }

    /// Handles what has become of changes of attributes, and what other servers have changed.
    pub(super) fn handle_attributes(&mut self, client: Option<&Client>) {
        while let Some((written, result)) = self.attributes.poll_written() {
            match written {
                Written::Opening(asked) => self.openings.handle_written(asked, result, &self.attributes),
                Written::Alteration(number) => {
                    let Some((token, topic)) = self.altering.remove(&number) else { continue };
                    match result {
                        Ok(()) => self.altered.push_back((token, topic)),
                        Err(fault) => {
                            self.refused.push_back(Completion::Altered { token, result: Err(fault) });
                        }
                    }
                }
            }
        }
        self.take_opened();
        while let Some(changed) = self.attributes.poll_changed() {
            match changed {
                Some(topic) => {
                    self.changed.extend(self.homed.get_key_value(&topic).map(|(topic, _)| topic.clone()));
                }
                // All are known, so openings can go on.
                None => self.openings.retry(client, &self.attributes),
            }
        }
    }

    /// Watches the queues that are open now.
    fn take_opened(&mut self) {
        while let Some((queue, info)) = self.openings.take_opened() {
            self.watch.add(queue, &info);
            self.homed.insert(info.name.clone(), (queue, info));
        }
    }

    /// Returns the topic of a queue, or `None` once it is forgotten.
    pub(super) fn topic(&mut self, queue: QueueId) -> Option<&Arc<TopicInfo>> {
        self.known.get(queue)
    }

    /// Checks soon whether a queue's topic is still the same, because something went wrong with it.
    pub(super) fn suspect(&mut self, queue: QueueId) {
        if let Some(info) = self.known.get(queue) {
            self.watch.suspect(queue, info);
        }
    }

    /// Handles a description of topics.
    pub(super) fn handle_described(
        &mut self,
        asked: usize,
        result: Result<Vec<Described>, Trouble>,
        client: Option<&Client>,
    ) {
        if asked == WATCHING {
            self.watch.handle_described(result);
        } else {
            self.openings.handle_described(asked, result, client);
        }
    }

    /// Handles the answer to a topic's creation.
    pub(super) fn handle_created(
        &mut self,
        asked: usize,
        result: Result<(), Trouble>,
        client: Option<&Client>,
    ) {
        self.openings.handle_created(asked, result, client);
    }

    /// Handles a topic's configuration.
    pub(super) fn handle_configs(&mut self, asked: usize, result: Result<Vec<(String, String)>, Trouble>) {
        self.openings.handle_configs(asked, result, &self.attributes);
        self.take_opened();
    }

    /// Asks what waits for a client.
    pub(super) fn handle_client(&mut self, client: Option<&Client>) {
        self.openings.retry(client, &self.attributes);
    }

    /// Handles the loss of the client that was asked, and so of its answers.
    pub(super) fn handle_client_lost(&mut self) {
        self.openings.handle_client_lost();
    }

    /// Asks again what waits for a tick, and checks topics if it is time.
    pub(super) fn handle_tick(&mut self, now: Now, client: Option<&Client>) {
        self.openings.fail_unread(now, &self.attributes);
        self.openings.retry(client, &self.attributes);
        self.watch.look(now, client);
    }

    /// Answers a request that this store refuses.
    pub(super) fn refuse(&mut self, refusal: Completion<T>) {
        self.refused.push_back(refusal);
    }

    /// Returns the next queue that was opened or altered, or could not be, and the next request that was refused.
    pub(super) fn poll(&mut self) -> Option<Completion<T>> {
        if let Some((token, result)) = self.openings.poll() {
            return Some(Completion::Opened { token, result });
        }
        if let Some((token, (topic, life))) = self.altered.pop_front() {
            // Another server may have changed them since. An event that follows is never older.
            let result = Ok(self.attributes.with_attributes(&topic, &life));
            return Some(Completion::Altered { token, result });
        }
        self.refused.pop_front()
    }

    /// Returns the next queue whose topic or attributes have changed.
    pub(super) fn poll_event(&mut self) -> Option<StoreEvent> {
        while let Some(topic) = self.changed.pop_front() {
            let Some((queue, info)) = self.homed.get(&topic) else { continue };
            let Life { attributes, .. } = self.attributes.with_attributes(&topic, &info.life);
            return Some(StoreEvent::Altered { queue: *queue, attributes });
        }
        self.watch.poll_event()
    }

    /// Forgets a queue that the server no longer serves.
    pub(super) fn forget(&mut self, queue: QueueId) {
        self.known.forget(queue);
        self.watch.forget(queue);
        self.homed.retain(|_, (homed, _)| *homed != queue);
    }

    /// Returns whether ticks have nothing to do here.
    pub(super) fn is_idle(&self) -> bool {
        self.openings.is_idle() && self.watch.is_idle()
    }
}
