//! The one thread of a server that does what blocks, or what must not happen on a shard's core: librdkafka's threads inherit the
//! cores of the thread that makes a handle.

use std::fmt;
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, Sender};

use super::news::News;

type Chore = Box<dyn FnOnce() + Send>;

/// Takes chores; its thread ends with the last clone of it.
#[derive(Clone)]
pub struct Janitor(Sender<Chore>);

impl Janitor {
    /// Begins the thread, which may run wherever the caller may.
    pub fn start() -> std::io::Result<Self> {
        let (sender, receiver): (Sender<Chore>, Receiver<Chore>) = mpsc::channel();
        std::thread::Builder::new().name("kafka-janitor".into()).spawn(move || {
            for chore in receiver {
                chore();
            }
        })?;
        Ok(Self(sender))
    }

    /// Does something on that thread.
    pub(super) fn run(&self, chore: impl FnOnce() + Send + 'static) {
        // The thread ends behind its senders alone.
        let _ = self.0.send(Box::new(chore));
    }
}

impl fmt::Debug for Janitor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Janitor")
    }
}

/// What chores brought, for one store.
#[derive(Debug)]
pub(super) struct Returns<R> {
    sender: Sender<R>,
    receiver: Receiver<R>,
    news: Arc<News>,
}

impl<R: Send + 'static> Returns<R> {
    pub(super) fn new(news: &Arc<News>) -> Self {
        let (sender, receiver) = mpsc::channel();
        Self { sender, receiver, news: news.clone() }
    }

    /// Has `janitor` do something and bring what comes of it.
    pub(super) fn ask(&self, janitor: &Janitor, chore: impl FnOnce() -> R + Send + 'static) {
        let (sender, news) = (self.sender.clone(), self.news.clone());
        janitor.run(move || {
            // Fails where the store is gone, whom it would have concerned.
            let _ = sender.send(chore());
            news.ring();
        });
    }

    pub(super) fn poll(&self) -> Option<R> {
        self.receiver.try_recv().ok()
    }
}
