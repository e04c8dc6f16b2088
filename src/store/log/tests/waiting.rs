//! Readers that wait: served, cancelled, or failed because their queue is deleted.

use super::load::{LOADS_BESIDE_ROUNDS, QUIET_AFTER};
use super::*;
use crate::base::millis::UnixMillis;

#[test]
fn waiters_for_older_messages_are_served_or_cancelled() {
    for seed in 0..seeds() {
        let mut world = World::new(seed, Settings { tail_bytes: 0, read_bytes: 20_000, ..config() });
        for _ in 0..200 {
            world.act();
        }
        world.settle();
        let keys: Vec<PartitionKey> = world.sent.keys().copied().collect();
        let mut waiting = BTreeMap::new();
        for _ in 0..300 {
            let key = keys[world.random.below(keys.len())];
            world.next += 1;
            let (token, now) = (world.next, world.now);
            if world.random.one_in(4)
                && let Some((token, partition)) = waiting.pop_first()
            {
                assert!(world.log_of(partition).submit(now, Request::Cancel { token, partition }).is_ok());
            } else {
                waiting.insert(token, key);
                let from = Offset(world.random.below(world.sent[&key].len()) as u64);
                let (bytes_max, exclude, wait) = (500, None, false);
                let request = Request::Fetch {
                    token,
                    partition: key,
                    from,
                    bytes_max,
                    exclude,
                    view: View::Unclaimed,
                    wait,
                };
                assert!(world.log_of(key).submit(now, request).is_ok());
            }
            if world.random.one_in(3) {
                world.disk.advance();
            }
            world.poll();
            waiting.retain(|token, _| !world.reads.contains_key(token));
        }
        world.settle();
        waiting.retain(|token, _| !world.reads.contains_key(token));
        assert!(waiting.is_empty(), "seed {seed}: {waiting:?} wait forever");
        assert!(world.logs.iter().all(|log| log.waiting() == 0));
    }
}

/// Handles the completions of all shards. When the queue is deleted, all shards forget it.
fn hear(world: &mut World, waiting: &mut BTreeSet<u64>) {
    loop {
        let completions = world.poll();
        if completions.is_empty() {
            return;
        }
        for completion in completions {
            waiting.remove(&completion.token());
            if let Completion::Deleted { result, .. } = completion {
                world.forget_queue(0, result.unwrap());
            }
        }
    }
}

#[test]
fn readers_of_a_deleted_queue_get_an_answer() {
    for seed in 0..seeds() {
        let mut world = filled(seed, Settings { tail_bytes: 0, ..config() });
        let mut waiting = BTreeSet::new();
        let is_deleted_at = world.random.below(30);
        for number in 0..40 {
            let key = PartitionKey { queue: QueueId(0), partition: Partition(world.random.below(2) as u16) };
            let now = world.now;
            if number == is_deleted_at {
                let token = world.submit_delete(0);
                waiting.insert(token);
            }
            world.next += 1;
            let token = world.next;
            waiting.insert(token);
            let (from, bytes_max, exclude) = (Offset(world.random.below(30) as u64), 500, None);
            let request = match world.random.below(3) {
                0 => Request::Resolve {
                    token,
                    partition: key,
                    position: Position::Time(UnixMillis::new(1 + number as u64)),
                },
                1 => Request::Resolve { token, partition: key, position: Position::Latest },
                _ => Request::Fetch {
                    token,
                    partition: key,
                    from,
                    bytes_max,
                    exclude,
                    view: View::Unclaimed,
                    wait: number % 2 == 0,
                },
            };
            assert!(world.log_of(key).submit(now, request).is_ok());
            if world.random.one_in(2) {
                world.disk.advance();
            }
            hear(&mut world, &mut waiting);
        }
        loop {
            hear(&mut world, &mut waiting);
            if !world.disk.advance() {
                break;
            }
        }
        hear(&mut world, &mut waiting);
        assert!(waiting.is_empty(), "seed {seed}: {waiting:?} wait forever");
    }
}

/// Fetches the oldest message of each partition from the disk. Returns the most reads that were pending at once,
/// and then lets everything complete.
fn read_all(world: &mut World, keys: &[PartitionKey]) -> usize {
    world.logs[0].backlog.forget_windows();
    let mut tokens = Vec::new();
    for key in keys {
        world.next += 1;
        let (token, now) = (world.next, world.now);
        tokens.push(token);
        let (from, bytes_max, exclude, wait) = (Offset::ZERO, 500, None, false);
        let request =
            Request::Fetch { token, partition: *key, from, bytes_max, exclude, view: View::Unclaimed, wait };
        assert!(world.logs[0].submit(now, request).is_ok());
    }
    let mut most = 0;
    loop {
        world.poll();
        most = most.max(world.disk.reads());
        if !world.disk.advance() {
            break;
        }
    }
    assert!(tokens.iter().all(|token| world.reads.contains_key(token)), "every reader gets an answer");
    most
}

#[test]
fn readers_of_older_messages_leave_the_disk_to_rounds() {
    let settings = || Settings { tail_bytes: 0, ..config() };
    let mut world = (0..).map(|seed| World::new(seed, settings())).find(|world| world.shards() == 1).unwrap();
    assert!((0..QUEUES).all(|queue| world.open(queue)));
    let of = |queue| (0..PARTITIONS).map(move |partition| (QueueId(queue), Partition(partition)));
    let keys = (0..QUEUES).flat_map(of).map(|(queue, partition)| PartitionKey { queue, partition });
    let keys: Vec<PartitionKey> = keys.collect();
    for _ in 0..10 {
        keys.iter().for_each(|key| world.append_sized(*key, 100_000, &[100]));
        world.settle();
    }
    world.pass(QUIET_AFTER);
    assert_eq!(read_all(&mut world, &keys), LOADS_MAX, "nothing is written");
    // The round is pending while the partitions are read, and then was written a short time ago.
    world.append_sized(keys[0], 100_000, &[100]);
    world.poll();
    assert_eq!(read_all(&mut world, &keys), LOADS_BESIDE_ROUNDS, "a round is being written");
    world.now = world.now.later(Millis::new(QUIET_AFTER.get() - 1));
    assert_eq!(read_all(&mut world, &keys), LOADS_BESIDE_ROUNDS, "the next round may follow soon");
    world.now = world.now.later(Millis::new(1));
    assert_eq!(read_all(&mut world, &keys), LOADS_MAX, "nothing was written for a while");
}
