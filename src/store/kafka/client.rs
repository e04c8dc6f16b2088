//! A client in use: a handle with its queues and its topics.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::Arc;

use super::native::{Handle, Queue, Topic, Trouble};
use super::news::News;
use super::topics::TopicInfo;
use crate::base::queue::QueueId;

/// A handle, its main queue, and its topics. Topics and queue drop before the handle.
#[derive(Debug)]
pub(super) struct Client {
    pub topics: HandleTopics,
    /// Delivery reports, answers, errors and log lines.
    pub events: Queue,
    pub handle: Handle,
}

impl Client {
    pub(super) fn new(handle: Handle, news: &Arc<News>) -> Option<Self> {
        Some(Self { topics: HandleTopics::default(), events: Queue::main(&handle, news)?, handle })
    }
}

/// A consuming client, and the queue of its messages.
#[derive(Debug)]
pub(super) struct Consumer {
    pub messages: Queue,
    pub client: Client,
}

impl Consumer {
    pub(super) fn new(handle: Handle, news: &Arc<News>) -> Option<Self> {
        Some(Self { messages: Queue::new(&handle, news)?, client: Client::new(handle, news)? })
    }
}

/// The topics of one handle, by queue.
#[derive(Debug, Default)]
pub(super) struct HandleTopics(HashMap<QueueId, Arc<Topic>>);

impl HandleTopics {
    /// Returns the topic of a queue.
    pub(super) fn get(
        &mut self,
        handle: &Handle,
        queue: QueueId,
        info: &TopicInfo,
    ) -> Result<&Arc<Topic>, Trouble> {
        match self.0.entry(queue) {
            Entry::Occupied(known) => Ok(known.into_mut()),
            Entry::Vacant(vacant) => Ok(vacant.insert(Arc::new(Topic::new(handle, &info.name)?))),
        }
    }

    /// Forgets a queue that the server no longer serves.
    pub(super) fn forget(&mut self, queue: QueueId) {
        self.0.remove(&queue);
    }
}
