//! A shard's queues as topics: opens, remembers and watches them.

use std::collections::VecDeque;
use std::sync::Arc;

use super::client::Client;
use super::native::{Described, Trouble};
use super::openings::Openings;
use super::topic_rules::TopicRules;
use super::topics::{KnownTopics, TopicInfo, Topics};
use super::watch::{WATCHING, Watch};
use crate::base::clock::Now;
use crate::base::names::{Project, QueueName};
use crate::base::queue::QueueId;
use crate::store::{Asker, Completion, StoreEvent};

/// The queues of a shard.
#[derive(Debug)]
pub(super) struct Queues<T: Asker> {
    openings: Openings<T::Open>,
    known: KnownTopics,
    watch: Watch,
    /// Deletions that were asked for.
    refused: VecDeque<Completion<T>>,
}

impl<T: Asker> Queues<T> {
    pub(super) fn new(topics: Arc<Topics>, rules: TopicRules) -> Self {
        Self {
            openings: Openings::new(topics.clone(), rules),
            known: KnownTopics::new(topics),
            watch: Watch::new(),
            refused: VecDeque::new(),
        }
    }

    /// Opens a queue. If its topic is missing and `create` has the number of partitions, creates it.
    pub(super) fn open(
        &mut self,
        token: T::Open,
        queue: QueueId,
        name: &(Project, QueueName),
        create: Option<u16>,
        client: Option<&Client>,
    ) {
        self.openings.open(token, queue, name, create, client);
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
        if let Some((queue, info)) = self.openings.handle_configs(asked, result) {
            self.watch.add(queue, &info);
        }
    }

    /// Asks what waits for a client.
    pub(super) fn handle_client(&mut self, client: Option<&Client>) {
        self.openings.retry(client);
    }

    /// Handles the loss of the client that was asked, and so of its answers.
    pub(super) fn handle_client_lost(&mut self) {
        self.openings.handle_client_lost();
    }

    /// Asks again what waits for a tick, and checks topics if it is time.
    pub(super) fn handle_tick(&mut self, now: Now, client: Option<&Client>) {
        self.openings.retry(client);
        self.watch.look(now, client);
    }

    /// Answers a request that this store refuses.
    pub(super) fn refuse(&mut self, refusal: Completion<T>) {
        self.refused.push_back(refusal);
    }

    /// Returns the next queue that was opened, or could not be opened or deleted.
    pub(super) fn poll(&mut self) -> Option<Completion<T>> {
        let opened = self.openings.poll().map(|(token, result)| Completion::Opened { token, result });
        opened.or_else(|| self.refused.pop_front())
    }

    /// Returns the next queue whose topic has changed.
    pub(super) fn poll_event(&mut self) -> Option<StoreEvent> {
        self.watch.poll_event()
    }

    /// Forgets a queue that the server no longer serves.
    pub(super) fn forget(&mut self, queue: QueueId) {
        self.known.forget(queue);
        self.watch.forget(queue);
    }

    /// Returns whether ticks have nothing to do here.
    pub(super) fn is_idle(&self) -> bool {
        self.openings.is_idle() && self.watch.is_idle()
    }
}
