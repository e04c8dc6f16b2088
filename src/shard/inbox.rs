//! The inbox of a shard: a bounded lock-free queue of batches from other threads, and its doorbell.
//!
//! The shard holds the [`Inbox`] and polls it in every turn. Other shards, the acceptor and the monitor hold
//! clones of the [`Sender`]. A full inbox refuses a batch: the sender keeps it and tries again in its next
//! turn. Nothing here blocks or allocates.

use std::sync::{Arc, OnceLock};
use std::task::Waker;

use crossbeam::queue::ArrayQueue;

use super::doorbell::Doorbell;

#[derive(Debug)]
struct Shared<T> {
    queue: ArrayQueue<T>,
    bell: Doorbell,
    /// The driver's waker. Set once, before the bell can be armed.
    waker: OnceLock<Waker>,
}

/// The receiving end, held by the shard.
#[derive(Debug)]
pub struct Inbox<T>(Arc<Shared<T>>);

/// The sending end, for any thread.
#[derive(Debug)]
pub struct Sender<T>(Arc<Shared<T>>);

impl<T> Clone for Sender<T> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

/// Creates an inbox of at most `capacity` batches.
pub fn inbox<T>(capacity: usize) -> (Sender<T>, Inbox<T>) {
    let shared =
        Arc::new(Shared { queue: ArrayQueue::new(capacity), bell: Doorbell::new(), waker: OnceLock::new() });
    (Sender(shared.clone()), Inbox(shared))
}

impl<T> Sender<T> {
    /// Sends one batch, and wakes the shard if it is parked. Returns the batch if the inbox is full.
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

    /// Wakes the shard in any state. For the monitor, which limits how often it wakes a stalled shard.
    pub fn wake(&self) {
        if let Some(waker) = self.0.waker.get() {
            waker.wake_by_ref();
        }
    }

    /// Returns the number of batches in the inbox.
    pub fn depth(&self) -> usize {
        self.0.queue.len()
    }
}

impl<T> Inbox<T> {
    /// Returns the number of batches in the inbox.
    pub fn depth(&self) -> usize {
        self.0.queue.len()
    }

    /// Removes and returns the oldest batch.
    pub fn poll(&self) -> Option<T> {
        self.0.queue.pop()
    }

    /// Arms the bell. Returns false if a batch has arrived, so that the shard must not park.
    pub fn arm(&self, waker: &Waker) -> bool {
        self.0.waker.get_or_init(|| waker.clone());
        self.0.bell.arm();
        if self.0.queue.is_empty() {
            return true;
        }
        self.0.bell.disarm();
        false
    }

    /// Disarms the bell, because the shard is awake.
    pub fn disarm(&self) {
        self.0.bell.disarm();
    }
}
