//! Checks from time to time whether the topics of the open queues are still the same.

use std::collections::{HashMap, HashSet};
use std::ffi::CString;
use std::sync::Arc;

use super::client::Client;
use super::native::{Described, Trouble};
use super::topics::TopicInfo;
use crate::base::clock::Now;
use crate::base::millis::Millis;
use crate::base::queue::QueueId;
use crate::store::{Life, StoreEvent};

/// The interval at which all topics are checked.
const WATCH: Millis = Millis::new(30_000);

/// The shortest time between two checks, and so until suspected topics are checked.
pub(super) const SUSPICION: Millis = Millis::new(1_000);

const _: () = assert!(SUSPICION.get() < WATCH.get());

/// The most topics in one question.
const TOPICS_PER_QUESTION: usize = 500;

/// The number of all questions of the watch. Questions of openings have greater numbers.
pub(super) const WATCHING: usize = 0;

/// The topics that a shard watches.
#[derive(Debug)]
pub(super) struct Watch {
    /// The topics, each with the life that it had when its queue was opened.
    watched: HashMap<Arc<CString>, (QueueId, Life)>,
    /// When topics were last checked, by the monotonic clock.
    looked: Millis,
    /// Topics to check soon.
    suspects: HashSet<Arc<CString>>,
    /// Queues whose topics one broker did not know. A second such answer means that the topic was deleted.
    doubted: HashSet<QueueId>,
    /// Queues whose topics have changed, not yet reported.
    gone: Vec<StoreEvent>,
}

impl Watch {
    pub(super) fn new() -> Self {
        Self {
            watched: HashMap::new(),
            looked: Millis::ZERO,
            suspects: HashSet::new(),
            doubted: HashSet::new(),
            gone: Vec::new(),
        }
    }

    /// Watches the topic of a queue that was opened.
    pub(super) fn add(&mut self, queue: QueueId, info: &TopicInfo) {
        self.watched.insert(info.name.clone(), (queue, info.life.clone()));
    }

    /// Checks the topic of a queue soon, because something went wrong with it. Another shard may have opened
    /// the queue.
    pub(super) fn suspect(&mut self, queue: QueueId, info: &TopicInfo) {
        self.watched.entry(info.name.clone()).or_insert((queue, info.life.clone()));
        self.suspects.insert(info.name.clone());
    }

    /// Asks Kafka about topics if it is time.
    pub(super) fn look(&mut self, now: Now, client: Option<&Client>) {
        let Some(Client { handle, events, .. }) = client else { return };
        let since = now.mono.since(self.looked);
        let topics: Vec<Arc<CString>> = if since >= WATCH {
            self.watched.keys().cloned().collect()
        } else if since >= SUSPICION {
            std::mem::take(&mut self.suspects).into_iter().collect()
        } else {
            return;
        };
        if !topics.is_empty() {
            self.looked = now.mono;
        }
        for some in topics.chunks(TOPICS_PER_QUESTION) {
            handle.describe_topics(events, WATCHING, some);
        }
    }

    /// Compares Kafka's answer with what the topics were.
    pub(super) fn handle_described(&mut self, result: Result<Vec<Described>, Trouble>) {
        // If the cluster is unreachable, nothing is known about its topics.
        for Described { topic, result } in result.into_iter().flatten() {
            let Some((name, (queue, life))) = self.watched.get_key_value(&topic) else { continue };
            let (name, queue, incarnation) = (name.clone(), *queue, life.incarnation);
            let is_same = match result {
                Ok(found) => *life == found,
                // One broker may not know the topic yet: ask once more.
                Err(trouble) if trouble.is_unknown() && self.doubted.insert(queue) => {
                    self.suspects.insert(name);
                    continue;
                }
                Err(trouble) => !trouble.is_unknown(),
            };
            self.doubted.remove(&queue);
            if !is_same {
                let topic = topic.to_string_lossy();
                tracing::warn!(%topic, "a topic was deleted, recreated, or has other partitions");
                self.watched.remove(&name);
                self.gone.push(StoreEvent::Gone { queue, incarnation });
            }
        }
    }

    /// Returns the next queue whose topic has changed.
    pub(super) fn poll_event(&mut self) -> Option<StoreEvent> {
        self.gone.pop()
    }

    /// Stops watching a queue that the server no longer serves.
    pub(super) fn forget(&mut self, queue: QueueId) {
        let Self { watched, suspects, doubted, .. } = self;
        doubted.remove(&queue);
        watched.retain(|name, (watched, _)| {
            let is_other = *watched != queue;
            if !is_other {
                suspects.remove(name);
            }
            is_other
        });
    }

    /// Returns whether it watches nothing.
    pub(super) fn is_idle(&self) -> bool {
        self.watched.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::queue::Signing;
    use crate::store::kafka::layout::Layout;
    use std::sync::atomic::AtomicU64;

    const QUEUE: QueueId = QueueId(1);

    fn life(incarnation: u64) -> Life {
        Life { incarnation, partitions: 3, signing: Signing::default(), attributes: Default::default() }
    }

    fn info() -> TopicInfo {
        TopicInfo {
            name: Arc::new(c"default.q".to_owned()),
            default_ttl_secs: 1000,
            is_default_known: true,
            layout: Layout::Plain,
            is_young: false,
            served_bytes: usize::MAX,
            passed_over: AtomicU64::new(0),
            life: life(7),
        }
    }

    fn described(result: Result<Life, Trouble>) -> Result<Vec<Described>, Trouble> {
        Ok(vec![Described { topic: c"default.q".to_owned(), result }])
    }

    fn unknown() -> Trouble {
        Trouble::of(rdkafka::types::RDKafkaRespErr::RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART)
    }

    #[test]
    fn a_topic_has_changed_if_it_is_another_one_or_unknown_twice() {
        let mut watch = Watch::new();
        watch.add(QUEUE, &info());
        watch.handle_described(described(Ok(life(7))));
        watch.handle_described(described(Err(Trouble::nothing())));
        watch.handle_described(described(Err(unknown())));
        assert_eq!(watch.poll_event(), None);
        watch.handle_described(described(Err(unknown())));
        let gone = Some(StoreEvent::Gone { queue: QUEUE, incarnation: 7 });
        assert_eq!((watch.poll_event(), watch.poll_event()), (gone.clone(), None));
        watch.add(QUEUE, &info());
        watch.handle_described(described(Ok(life(8))));
        assert_eq!(watch.poll_event(), gone);
        assert!(watch.is_idle());
    }

    #[test]
    fn nothing_is_left_of_a_forgotten_queue() {
        let mut watch = Watch::new();
        watch.suspect(QUEUE, &info());
        watch.handle_described(described(Err(unknown())));
        watch.forget(QUEUE);
        assert!(watch.is_idle() && watch.suspects.is_empty() && watch.doubted.is_empty());
    }
}
