//! Tests the doorbell under loom: no interleaving of senders and a parking shard loses a wake-up, and at most
//! one sender wakes the shard.
#![allow(missing_docs)]

/// Replaces `std::sync::atomic` in the file under test.
mod sync {
    pub use loom::sync::atomic::{AtomicBool, Ordering, fence};
}

#[path = "../src/shard/doorbell.rs"]
mod doorbell;

use doorbell::Doorbell;
use loom::sync::Arc;
use loom::sync::atomic::{AtomicUsize, Ordering};
use loom::thread;

#[test]
fn a_batch_sent_to_a_parking_shard_is_seen_or_wakes_it() {
    loom::model(|| {
        let bell = Arc::new(Doorbell::new());
        let queue = Arc::new(AtomicUsize::new(0));
        let wakes = Arc::new(AtomicUsize::new(0));
        let senders: Vec<_> = (0..2)
            .map(|_| {
                let (bell, queue, wakes) = (bell.clone(), queue.clone(), wakes.clone());
                thread::spawn(move || {
                    queue.fetch_add(1, Ordering::Release);
                    if bell.ring() {
                        wakes.fetch_add(1, Ordering::Relaxed);
                    }
                })
            })
            .collect();
        bell.arm();
        let seen_before_parking = queue.load(Ordering::Acquire);
        senders.into_iter().for_each(|sender| sender.join().unwrap());
        let wakes = wakes.load(Ordering::Relaxed);
        assert!(wakes <= 1, "at most one sender may wake the shard");
        assert!(seen_before_parking == 2 || wakes == 1, "{seen_before_parking} seen, {wakes} wakes");
        bell.disarm();
        assert!(!bell.ring(), "a shard that is awake must not be woken");
    });
}
