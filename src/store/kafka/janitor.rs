//! The server's thread for calls that block and for creating handles: librdkafka's threads inherit the cores
//! of the thread that creates a handle, and must not inherit a shard's.

use std::fmt;
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, Sender};

use super::news::News;

type Work = Box<dyn FnOnce() + Send>;

/// Accepts work for its thread, which ends when the last clone is dropped.
#[derive(Clone)]
pub struct Janitor(Sender<Work>);

impl Janitor {
    /// Starts the thread. It may run on the caller's cores.
    pub fn start() -> std::io::Result<Self> {
        let (sender, receiver): (Sender<Work>, Receiver<Work>) = mpsc::channel();
        std::thread::Builder::new().name("kafka-janitor".into()).spawn(move || {
            for work in receiver {
                work();
            }
        })?;
        Ok(Self(sender))
    }

    /// Runs `work` on the thread.
    pub(super) fn run(&self, work: impl FnOnce() + Send + 'static) {
        // Never fails: the thread ends after its senders.
        let _ = self.0.send(Box::new(work));
    }
}

impl fmt::Debug for Janitor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Janitor")
    }
}

/// The results of the janitor's work for one store.
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

    /// Lets `janitor` run `work` and return the result.
    pub(super) fn ask(&self, janitor: &Janitor, work: impl FnOnce() -> R + Send + 'static) {
        let give = self.giver();
        janitor.run(move || give(work()));
    }

    /// Returns what passes a result to the store, from any thread.
    pub(super) fn giver(&self) -> impl Fn(R) + Send + use<R> {
        let (sender, news) = (self.sender.clone(), self.news.clone());
        move |result| {
            // This fails if the store was dropped; then nobody needs the result.
            let _ = sender.send(result);
            news.ring();
        }
    }

    /// Returns the next result.
    pub(super) fn poll(&self) -> Option<R> {
        self.receiver.try_recv().ok()
    }
}
