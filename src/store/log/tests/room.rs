//! The removal of files: on a full disk, beyond a limit of size or age, and after everything in them has
//! expired.

use super::*;
use crate::base::millis::Millis;

#[test]
fn a_full_disk_recovers_once_all_has_expired_though_each_file_keeps_the_end_of_a_partition() {
    let mut world = (0..).map(|seed| World::new(seed, config())).find(|world| world.shards() == 1).unwrap();
    assert!((0..QUEUES).all(|queue| world.open(queue)));
    let keys: Vec<PartitionKey> = (0..QUEUES)
        .flat_map(|queue| {
            (0..PARTITIONS)
                .map(move |partition| PartitionKey { queue: QueueId(queue), partition: Partition(partition) })
        })
        .collect();
    world.disk.limit(keys.len() as u64 * (64 << 10) + 4096);
    // One file for each partition, and no room for another.
    for key in &keys {
        world.append_sized(*key, 60, &[50_000]);
        world.settle();
    }
    world.append_sized(keys[0], 60, &[50_000]);
    world.settle();
    assert_eq!(world.logs[0].counters().refused, 1, "the disk is full");
    for _ in 0..10 {
        world.now = world.now.later(Millis::new(30_000));
        world.tick();
        world.settle();
    }
    for key in keys {
        world.append(key, 100_000);
        world.settle();
        let last = world.sent[&key].last_key_value().unwrap().1.fate;
        assert!(matches!(last, Fate::Acknowledged(_)), "{last:?}");
    }
    world.crash();
    world.check();
}

#[test]
fn the_oldest_files_are_dropped_if_size_or_age_is_limited() {
    let by_size = Settings { max_bytes: 12 * (64 << 10), ..config() };
    let by_age = Settings { max_age: std::time::Duration::from_secs(60), ..config() };
    for limits in [by_size, by_age] {
        let mut world = World::new(2, limits);
        assert!((0..QUEUES).all(|queue| world.open(queue)));
        for _ in 0..40 {
            for number in 0..200 {
                let key = PartitionKey {
                    queue: QueueId(number % QUEUES),
                    partition: Partition((number / 3) as u16 % PARTITIONS),
                };
                world.append(key, 100_000);
            }
            world.settle();
            world.pass(Millis::new(20_000));
        }
        let segments = world.segments();
        assert!(segments <= 12 + 2 * usize::from(world.shards()), "{segments} files");
        assert!(world.logs.iter().all(|log| log.counters().dropped > 0));
        let keys: Vec<PartitionKey> = world.sent.keys().copied().collect();
        for key in keys {
            let newest = world.sent[&key].values().filter_map(|message| match message.fate {
                Fate::Acknowledged(offset) => Some(offset),
                _ => None,
            });
            let newest = newest.max();
            let read = world.read(key, Offset(0)).unwrap();
            assert_eq!(read.last().map(|(offset, _)| *offset), newest, "the newest are kept");
            assert!(read[0].0 > Offset(0), "the oldest are dropped");
        }
    }
}

#[test]
fn offsets_continue_after_expired_messages_and_their_files_are_reused() {
    let mut world = World::new(1, config());
    let idle = PartitionKey { queue: QueueId(0), partition: Partition(0) };
    assert!((0..QUEUES).all(|queue| world.open(queue)));
    world.append(idle, 1);
    world.settle();
    let end = world.read(idle, Offset(0)).unwrap().last().expect("it has not expired").0 + 1;
    for _ in 0..60 {
        for number in 0..200 {
            // Every shard has busy partitions next to the idle one.
            let queue = QueueId(1 + number % (QUEUES - 1));
            world.append(PartitionKey { queue, partition: Partition((number / 2) as u16 % PARTITIONS) }, 1);
        }
        world.settle();
        world.pass(Millis::new(5_000));
    }
    let segments = world.segments();
    // Those that are written, the next ones, and those that are free for ten seconds.
    assert!(segments <= 6 * usize::from(world.shards()), "{segments} files, although few would suffice");
    world.disk.lose_power();
    world.crash();
    assert!(world.open(0));
    world.append(idle, 1000);
    world.settle();
    let first = world.read(idle, Offset(0)).unwrap()[0].0;
    assert!(first >= end, "{first} was given out before");
}
