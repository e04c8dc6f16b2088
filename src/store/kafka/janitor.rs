//! One thread of the server for calls that block, and for making handles: librdkafka's threads inherit the cores of the thread that
//! makes a handle, and must not inherit a shard's.

use std::fmt;
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, Sender};

use super::news::News;

type Work = Box<dyn FnOnce() + Send>;

/// Takes work for its thread, which ends with the last clone.
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

/// What the janitor's work brings back for one store.
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

    /// Has `janitor` run `work` and bring its result back.
    pub(super) fn ask(&self, janitor: &Janitor, work: impl FnOnce() -> R + Send + 'static) {
        let (sender, news) = (self.sender.clone(), self.news.clone());
        janitor.run(move || {
            // Fails if the store is gone, and then nobody needs the result.
            let _ = sender.send(work());
            news.ring();
        });
    }

    /// The next result.
    pub(super) fn poll(&self) -> Option<R> {
        self.receiver.try_recv().ok()
    }
}
