//! The attributes of queues, in a compacted topic. One thread of the server reads and writes it for all shards.
//!
//! ```text
//! a shard ──▶ change ──▶ the thread ──▶ Kafka ──▶ reported as stored ──┐
//!                                         │                            ├──▶ answered
//! other servers ──────────────────────────┴──▶ read by the thread ─────┘
//!                                                      └──▶ every shard is told which topic has changed
//! ```
//!
//! All servers read the same records in the same order, so they agree. Of two changes at once, the last one counts.
//!
//! | file | one concept |
//! | --- | --- |
//! | here | the topic as the shards use it |
//! | `record` | a queue's record |
//! | `abilities` | attributes that this store refuses |
//! | `view` | the last record of each queue |
//! | `writes` | changes on their way |
//! | `follower` | the thread |

mod abilities;
mod follower;
mod record;
mod view;
mod writes;

pub(super) use abilities::{NO_GROWTH, NO_TOPIC, refused};

use std::ffi::{CStr, CString};
use std::fmt;
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::Thread;

use self::follower::Follower;
use self::record::Record;
use self::view::View;
use super::janitor::Returns;
use super::news::News;
use super::properties::Properties;
use super::settings::Settings;
use super::tokens::Tokens;
use crate::base::attributes::Attributes;
use crate::base::error::StoreFault;
use crate::store::Life;

/// The attributes topic. Its thread ends when the last clone is dropped. `None` if the setting names no topic.
#[derive(Clone, Debug)]
pub(super) struct AttributesTopic(Option<Arc<Inner>>);

struct Inner {
    shared: Arc<Shared>,
    changes: Mutex<Sender<Change>>,
    thread: Thread,
}

/// What the shards and the thread share.
#[derive(Default)]
struct Shared {
    view: Mutex<View>,
    members: Mutex<Vec<Teller>>,
}

/// Tells a shard which topics' records have changed. `None` if they are all known for the first time.
type Teller = Box<dyn Fn(Option<CString>) + Send>;

/// Receives what became of a change.
type Reply = Box<dyn FnOnce(Result<(), StoreFault>) + Send>;

/// The changes that the thread gets.
type Asked = Receiver<Change>;

/// A change of attributes for the thread.
struct Change {
    topic: Arc<CString>,
    record: Record,
    /// Receives the result.
    reply: Reply,
}

impl Shared {
    fn view(&self) -> MutexGuard<'_, View> {
        self.view.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells every shard about a topic.
    fn tell(&self, topic: Option<&CString>) {
        for tell in &*self.members.lock().unwrap_or_else(PoisonError::into_inner) {
            tell(topic.cloned());
        }
    }
}

impl fmt::Debug for Inner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("AttributesTopic")
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        // Ends the channel, which the thread sees when it wakes.
        *self.changes.get_mut().unwrap_or_else(PoisonError::into_inner) = mpsc::channel().0;
        self.thread.unpark();
    }
}

impl AttributesTopic {
    /// Starts the thread. It may run on the caller's cores.
    pub(super) fn start(
        config: &Settings,
        properties: Properties,
        tokens: Option<Tokens>,
    ) -> std::io::Result<Self> {
        let Ok(name) = CString::new(&*config.attributes_topic) else { return Ok(Self(None)) };
        if name.is_empty() {
            return Ok(Self(None));
        }
        let shared = Arc::new(Shared::default());
        let (changes, asked) = mpsc::channel();
        let follower = Follower::new(name, config, properties, tokens, shared.clone(), asked);
        let thread =
            std::thread::Builder::new().name("kafka-attributes".into()).spawn(move || follower.run())?;
        let (changes, thread) = (Mutex::new(changes), thread.thread().clone());
        Ok(Self(Some(Arc::new(Inner { shared, changes, thread }))))
    }

    /// Creates a shard's access to the topic. `news` wakes the shard.
    pub(super) fn join<I: Copy + Send + 'static>(&self, news: &Arc<News>) -> Member<I> {
        let (changed, written) = (Returns::new(news), Returns::new(news));
        if let Some(inner) = &self.0 {
            let tell = Box::new(changed.giver());
            inner.shared.members.lock().unwrap_or_else(PoisonError::into_inner).push(tell);
        }
        Member { topic: self.clone(), changed, written }
    }
}

/// What is known of the attributes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Knowledge {
    /// No queue has any.
    Off,
    /// Nothing yet: the topic has not been read to its end.
    Nothing,
    /// Those of all queues.
    All,
}

/// A shard's access to the attributes topic. `I` identifies a change.
#[derive(Debug)]
pub(super) struct Member<I> {
    topic: AttributesTopic,
    changed: Returns<Option<CString>>,
    written: Returns<(I, Result<(), StoreFault>)>,
}

impl<I: Copy + Send + 'static> Member<I> {
    /// Returns what is known.
    pub(super) fn knowledge(&self) -> Knowledge {
        match &self.topic.0 {
            None => Knowledge::Off,
            Some(inner) if inner.shared.view().is_whole() => Knowledge::All,
            Some(_) => Knowledge::Nothing,
        }
    }

    /// Returns the life of the queue with this topic, with its attributes.
    pub(super) fn with_attributes(&self, topic: &CStr, life: &Life) -> Life {
        let get = |inner: &Arc<Inner>| inner.shared.view().get(topic, life.signing.key);
        Life { attributes: self.topic.0.as_ref().map(get).unwrap_or_default(), ..life.clone() }
    }

    /// Changes the attributes of a queue. [`Self::poll_written`] returns the result.
    pub(super) fn write(&self, id: I, topic: &Arc<CString>, life: &Life, attributes: &Attributes) {
        let give = self.written.giver();
        let Some(inner) = &self.topic.0 else {
            return give((id, Err(StoreFault::Unsupported(NO_TOPIC))));
        };
        let change = Change {
            topic: topic.clone(),
            record: Record { topic_id: life.signing.key, attributes: attributes.clone() },
            reply: Box::new(move |result| give((id, result))),
        };
        // If the thread has ended after a panic, there is no answer; the core says so.
        let _ = inner.changes.lock().unwrap_or_else(PoisonError::into_inner).send(change);
        inner.thread.unpark();
    }

    /// Returns the result of the next change.
    pub(super) fn poll_written(&self) -> Option<(I, Result<(), StoreFault>)> {
        self.written.poll()
    }

    /// Returns the next topic whose record has changed; `None` in it if all are known for the first time.
    pub(super) fn poll_changed(&self) -> Option<Option<CString>> {
        self.changed.poll()
    }
}
