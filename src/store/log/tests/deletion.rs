//! Tests deletions: a deleted queue stays deleted, and no other queue is affected.

use super::*;
use crate::base::names::queue_hash;
use crate::base::queue::home;

impl World {
    /// Asks the queue's home to delete it. Returns the request's token.
    pub(super) fn submit_delete(&mut self, queue: u64) -> u64 {
        self.next += 1;
        let (token, name) = (self.next, name(queue));
        let shard = usize::from(home(queue_hash(&name.0, &name.1), self.shards()));
        assert!(self.logs[shard].submit(self.now, Request::Delete { token, name }).is_ok());
        token
    }

    /// Lets every shard forget a queue's life.
    pub(super) fn forget_queue(&mut self, queue: u64, incarnation: u64) {
        self.logs.iter_mut().for_each(|log| log.forget(QueueId(queue), incarnation));
        self.open.remove(&queue);
    }

    /// Deletes a queue, and waits for the answer.
    fn delete(&mut self, queue: u64) -> Result<(), StoreFault> {
        let asked = self.submit_delete(queue);
        let result = loop {
            let deleted = self.poll().into_iter().find_map(|completion| match completion {
                Completion::Deleted { token, result } if token == asked => Some(result),
                _ => None,
            });
            match deleted {
                Some(result) => break result,
                None => assert!(self.disk.advance(), "a deletion is answered"),
            }
        };
        self.forget_queue(queue, result?);
        // Appends in progress get their answers.
        self.settle();
        self.sent.retain(|key, _| key.queue != QueueId(queue));
        Ok(())
    }
}

#[test]
fn a_deleted_queue_stays_deleted_and_no_other_queue_is_affected() {
    let mut deleted = 0;
    for seed in 0..seeds() {
        let mut world = World::new(seed, config());
        for _ in 0..4 {
            for _ in 0..world.random.below(300) {
                world.act();
            }
            let queue = world.random.below(QUEUES as usize) as u64;
            match world.delete(queue) {
                Ok(()) => deleted += 1,
                Err(fault) => assert_eq!(fault, StoreFault::NoQueue, "seed {seed}"),
            }
            assert_eq!(world.delete(queue), Err(StoreFault::NoQueue), "seed {seed}");
            // In some runs, this recreates the queue.
            for _ in 0..world.random.below(100) {
                world.act();
            }
            let report = world.crash();
            assert!(report.damaged.is_empty(), "seed {seed}: {report:?}");
            world.check();
            world.forget_unknown();
        }
    }
    assert!(deleted > seeds(), "{deleted}");
}

#[test]
fn a_failed_deletion_has_no_later_effect() {
    for seed in 0..seeds() {
        let mut world = filled(seed, config());
        // The write of the record fails, or its sync does.
        world.disk.fail_after(1 + seed % 2, EIO, 1);
        assert!(matches!(world.delete(1), Err(StoreFault::Unavailable(_))), "seed {seed}");
        world.disk.heal();
        world.pass(Millis::new(1_000));
        world.append_one(PartitionKey { queue: QueueId(1), partition: Partition(0) }, 100_000);
        world.crash();
        world.check();
        assert_eq!(world.delete(1), Ok(()), "seed {seed}");
        world.crash();
        world.check();
    }
}

#[test]
fn a_queue_that_a_tool_has_deleted_stays_deleted_with_any_number_of_shards() {
    for seed in 0..20 {
        let mut world = filled(seed, config());
        world.stop();
        world.logs.clear();
        assert!(inspect::delete_queue(&world.disk, &name(2)).unwrap());
        assert!(!inspect::delete_queue(&world.disk, &name(2)).unwrap());
        world.sent.retain(|key, _| key.queue != QueueId(2));
        for _ in 0..3 {
            let report = world.start();
            assert!(report.damaged.is_empty(), "{report:?}");
            assert_eq!(report.queues, 2);
            world.stop();
        }
        world.start();
        world.check();
    }
}
