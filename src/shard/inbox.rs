//! What other threads send to a shard: a bounded lock-free queue of batches, and the bell beside it.
//!
//! The shard holds the [`Inbox`] and polls it in every turn. Everyone else holds a clone of the [`Sender`]:
//! other shards, the acceptor, the monitor. A full inbox refuses: the sender keeps the batch and tries
//! again in its next turn. Nothing here blocks or allocates.

use std::sync::{Arc, OnceLock};
use std::task::Waker;

use crossbeam::queue::ArrayQueue;

use super::doorbell::Doorbell;

#[derive(Debug)]
struct Shared<T> {
    queue: ArrayQueue<T>,
    bell: Doorbell,
    /// The driver's waker; set once, before anyone can find the bell armed.
    waker: OnceLock<Waker>,
}

/// The receiving end; its shard's alone.
#[derive(Debug)]
pub struct Inbox<T>(Arc<Shared<T>>);

/// The sending end; any thread's.
#[derive(Debug)]
pub struct Sender<T>(Arc<Shared<T>>);

impl<T> Clone for Sender<T> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

/// An inbox of at most `capacity` batches.
pub fn inbox<T>(capacity: usize) -> (Sender<T>, Inbox<T>) {
    let shared =
        Arc::new(Shared { queue: ArrayQueue::new(capacity), bell: Doorbell::new(), waker: OnceLock::new() });
    (Sender(shared.clone()), Inbox(shared))
}

impl<T> Sender<T> {
    /// Sends one batch and wakes the shard if it is parked; gives the batch back where the inbox is full.
    pub fn send(&self, batch: T) -> Result<(), T> {
        self.0.queue.push(batch)?;
        self.ring();
        Ok(())
    }

    /// Wakes the shard if it is parked.
    pub fn ring(&self) {
        if self.0.bell.ring() {
            self.wake();
        }
    }

    /// Wakes the shard whatever it does: for the monitor, which bounds how often it does that to a shard that does not move.
    pub fn wake(&self) {
        if let Some(waker) = self.0.waker.get() {
            waker.wake_by_ref();
        }
    }

    /// Batches waiting now.
    pub fn depth(&self) -> usize {
        self.0.queue.len()
    }
}

impl<T> Inbox<T> {
    /// Batches waiting now.
    pub fn depth(&self) -> usize {
        self.0.queue.len()
    }

    /// The oldest batch.
    pub fn poll(&self) -> Option<T> {
        self.0.queue.pop()
    }

    /// Arms the bell; false where something has come meanwhile, so that the shard must not park.
    pub fn arm(&self, waker: &Waker) -> bool {
        self.0.waker.get_or_init(|| waker.clone());
        self.0.bell.arm();
        if self.0.queue.is_empty() {
            return true;
        }
        self.0.bell.disarm();
        false
    }

    /// The shard is awake.
    pub fn disarm(&self) {
        self.0.bell.disarm();
    }
}
