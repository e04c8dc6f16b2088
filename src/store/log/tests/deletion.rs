//! Tests deletions: a deleted queue stays deleted, and no other queue is affected.

use super::*;
use crate::base::names::queue_hash;
use crate::base::queue::{home, owner};
use crate::store::{NewQueue, Offline};

/// Returns the home of a queue.
fn home_of(queue: u64, shards: u16) -> u16 {
    let (project, queue) = name(queue);
    home(queue_hash(&project, &queue), shards)
}

impl World {
    /// Asks the queue's home to delete it. Returns the request's token.
    pub(super) fn submit_delete(&mut self, queue: u64) -> u64 {
        self.next += 1;
        let (token, name) = (self.next, name(queue));
        let shard = usize::from(home_of(queue, self.shards()));
        assert!(self.logs[shard].submit(self.now, Request::Delete { token, name }).is_ok());
        token
    }

    /// Lets every shard forget a queue's life.
    pub(super) fn forget_queue(&mut self, queue: u64, incarnation: u64) {
        self.logs.iter_mut().for_each(|log| log.forget(QueueId(queue), incarnation));
        self.open.remove(&queue);
    }

    /// Waits until the disk has nothing to do. Returns the answer to a deletion, if there is one.
    fn settle_deleted(&mut self, asked: u64) -> Option<Result<u64, StoreFault>> {
        let mut answer = None;
        loop {
            let completions = self.poll();
            let is_idle = completions.is_empty();
            for completion in completions {
                if let Completion::Deleted { token, result } = completion
                    && token == asked
                {
                    answer = Some(result);
                }
            }
            if !self.disk.advance() && is_idle {
                return answer;
            }
        }
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

/// The partition that takes messages while its queue is being deleted.
const KEY: PartitionKey = PartitionKey { queue: QueueId(1), partition: Partition(0) };

#[test]
fn a_failed_deletion_is_repeated_until_it_is_durable() {
    for seed in 0..seeds() {
        // Only steps of deletions fail.
        let mut world = filled(seed, Settings { grouping: false, ..config() });
        // Writing the record fails, or syncing it does. The second attempt fails, too.
        world.disk.fail_after(1 + seed % 2, EIO, 1);
        let asked = world.submit_delete(1);
        assert_eq!(world.settle_deleted(asked), None, "seed {seed}: it may be on the disk");
        world.disk.fail_after(1, EIO, 1);
        world.tick();
        assert_eq!(world.settle_deleted(asked), None, "seed {seed}");
        world.disk.heal();
        if world.random.one_in(2) {
            world.tick();
        } else {
            // The next write contains the deletion, too.
            let shards = world.shards();
            let other = (QUEUES..).find(|other| home_of(*other, shards) == home_of(1, shards)).unwrap();
            let open = Request::Open {
                token: 0,
                queue: QueueId(other),
                name: name(other),
                create: Some(NewQueue::plain(1)),
            };
            assert!(world.logs[usize::from(home_of(1, shards))].submit(world.now, open).is_ok());
        }
        let Some(Ok(incarnation)) = world.settle_deleted(asked) else { panic!("seed {seed}: not deleted") };
        world.forget_queue(1, incarnation);
        world.sent.retain(|key, _| key.queue != QueueId(1));
        world.crash();
        assert_eq!(world.delete(1), Err(StoreFault::NoQueue), "seed {seed}");
        world.check();
    }
}

#[test]
fn a_crash_during_a_failed_deletion_takes_the_whole_queue_or_nothing() {
    let mut kept = 0;
    for seed in 0..seeds() {
        let mut world = filled(seed, config());
        world.disk.fail_after(1 + seed % 2, EIO, 1);
        let asked = world.submit_delete(1);
        let answer = world.settle_deleted(asked);
        world.append_one(KEY, 100_000);
        world.crash();
        let is_kept = world.dir.as_ref().unwrap().incarnation(&name(1)).is_some();
        match answer {
            // The server has not promised anything.
            None if !is_kept => world.sent.retain(|key, _| key.queue != QueueId(1)),
            None => kept += 1,
            Some(answer) => assert!(answer.is_err() && is_kept, "seed {seed}: {answer:?}, {is_kept}"),
        }
        world.check();
    }
    assert!(kept > 0 && kept < seeds(), "{kept}");
}

#[test]
fn a_home_that_holds_no_messages_repeats_a_failed_deletion() {
    let worlds = (0..).map(|seed| World::new(seed, config()));
    let mut world = worlds.into_iter().find(|world| world.shards() > 1).unwrap();
    let shards = world.shards();
    let is_away = |queue: &u64| {
        let (project, queue_name) = name(*queue);
        owner(queue_hash(&project, &queue_name), Partition(0), shards) != home_of(*queue, shards)
    };
    let queue = (0..).find(is_away).unwrap();
    assert!(world.open(queue));
    world.append_one(PartitionKey { queue: QueueId(queue), partition: Partition(0) }, 100_000);
    let home = usize::from(home_of(queue, shards));
    assert!(!world.logs[home].needs_ticks(), "it holds no messages");
    world.disk.fail_after(1, EIO, 1);
    let asked = world.submit_delete(queue);
    assert_eq!(world.settle_deleted(asked), None);
    assert!(world.logs[home].needs_ticks());
    world.tick();
    assert!(matches!(world.settle_deleted(asked), Some(Ok(_))));
    assert!(!world.logs[home].needs_ticks());
}

#[test]
fn a_stop_waits_for_a_deletion_but_not_for_a_disk_that_fails() {
    for seed in 0..20 {
        for fails in [false, true] {
            // Without messages there is no index to wait for.
            let mut world = if seed % 2 == 0 { World::new(seed, config()) } else { filled(seed, config()) };
            assert!(world.open(1));
            world.settle();
            if fails {
                world.disk.fail_after(1, EIO, u64::MAX / 2);
            }
            world.submit_delete(1);
            let mut left: Vec<usize> = (0..world.logs.len()).collect();
            for _ in 0..1_000 {
                let World { logs, now, .. } = &mut world;
                left.retain(|shard| !logs[*shard].handle_stop(*now));
                if left.is_empty() {
                    break;
                }
                world.disk.advance();
            }
            assert!(left.is_empty(), "seed {seed}, fails {fails}: {left:?} do not stop");
            if !fails {
                world.disk.lose_power();
                world.start();
                assert_eq!(world.delete(1), Err(StoreFault::NoQueue), "seed {seed}");
            }
        }
    }
}

#[test]
fn a_queue_that_a_tool_has_deleted_stays_deleted_with_any_number_of_shards() {
    for seed in 0..20 {
        let mut world = filled(seed, config());
        world.stop();
        world.logs.clear();
        let (mut offline, report) = Offline::open(world.disk.clone()).unwrap();
        assert!(report.damaged.is_empty(), "{report:?}");
        assert!(offline.delete(&name(2)).is_ok());
        assert_eq!(offline.delete(&name(2)), Err(StoreFault::NoQueue));
        offline.close().unwrap();
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
