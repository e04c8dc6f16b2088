//! Clocks that are wrong, and that are set right.

use super::*;
use crate::base::millis::Millis;

const HOUR: Millis = Millis::from_secs(3_600);
const MONTH: Millis = Millis::from_secs(30 * 86_400);

#[test]
fn after_a_clock_ahead_is_set_right_messages_live_for_their_ttl() {
    for is_new in [false, true] {
        // Read from memory, and from disk.
        for tail_bytes in [8 << 10, 0] {
            let mut world = World::new(3, Settings { tail_bytes, ..config() });
            let key = PartitionKey { queue: QueueId(0), partition: Partition(0) };
            assert!(world.open(0));
            let right = world.now.unix;
            world.append_one(key, 3600);
            world.set_clock(right + MONTH);
            let ahead = world.append_one(key, 3600);
            world.set_clock(right + Millis::new(1_000));
            if is_new {
                world.restart();
                assert!(world.open(0));
            }
            world.pass(Millis::new(1_000));
            let stamps = world.timestamps(key);
            assert_eq!(
                stamps,
                [right, right + Millis::new(2_000)],
                "a message stored with the clock ahead counts as stored when the clock was set right"
            );
            world.set_clock(world.now.unix + Millis::new(5));
            let after = world.append_one(key, 3600);
            assert_eq!(world.timestamps(key).last(), Some(&world.now.unix), "timestamps follow the clock");
            // After a restart, too, the wrong timestamps on the disk are corrected.
            world.restart();
            assert!(world.open(0));
            assert!(world.timestamps(key).iter().all(|stamp| *stamp <= world.now.unix));
            let since = world.resolve(key, Position::Time(world.now.unix));
            let last = world.read(key, since).unwrap();
            assert_eq!(last.iter().map(|(_, number)| *number).collect::<Vec<_>>(), [after]);
            assert!(world.read(key, Offset(0)).unwrap().iter().any(|(_, number)| *number == ahead));
            world.set_clock(right + HOUR + HOUR);
            assert!(
                world.read(key, Offset(0)).unwrap().is_empty(),
                "all are older than their TTL of an hour"
            );
            for _ in 0..3 {
                world.pass(HOUR);
            }
            for log in &world.logs {
                let kept = log.segments.kept().iter().filter(|segment| segment.expiry() <= world.now.unix);
                assert_eq!(
                    kept.count(),
                    0,
                    "a file is kept by a timestamp of the wrong clock: {:?} {:?} {:?}",
                    log.segments.kept(),
                    log.partitions,
                    world.now
                );
            }
        }
    }
}

#[test]
fn small_steps_back_repeat_the_last_timestamp() {
    let mut world = World::new(3, config());
    let key = PartitionKey { queue: QueueId(0), partition: Partition(0) };
    assert!(world.open(0));
    let right = world.now.unix;
    world.append_one(key, 3600);
    world.set_clock(right.saturating_sub(Millis::from_secs(1_800)));
    world.append_one(key, 3600);
    assert_eq!(world.timestamps(key), [right, right]);
}

#[test]
fn a_server_that_starts_with_the_clock_far_ahead_removes_nothing_at_once() {
    let mut world = filled(3, config());
    let before = read_all_numbers(&mut world);
    let (right, files) = (world.now, world.segments());
    world.stop();
    world.set_clock(right.unix + MONTH);
    world.start();
    world.pass(Millis::new(60_000));
    assert!(world.segments() >= files && read_all_numbers(&mut world).is_empty(), "expired, and not removed");
    world.stop();
    world.set_clock(right.unix + Millis::new(60_000));
    world.start();
    assert_eq!(read_all_numbers(&mut world), before, "the clock was wrong");
    world.stop();
    world.set_clock(right.unix + MONTH);
    world.start();
    for _ in 0..3 {
        world.pass(HOUR);
    }
    assert!(world.logs.iter().all(|log| log.segments.kept().len() <= 2), "the clock was right");
}

#[test]
fn a_shard_that_only_keeps_files_of_others_removes_nothing_at_once_either() {
    let mut world = (0..).map(|seed| World::new(seed, config())).find(|world| world.shards() == 3).unwrap();
    world.config.max_age = std::time::Duration::from_secs(7 * 24 * 3600);
    // One partition, whose files every shard keeps after a restart.
    let key = PartitionKey { queue: QueueId(0), partition: Partition(0) };
    assert!(world.open(0));
    for _ in 0..40 {
        world.append_sized(key, 1_000_000, &[9_000]);
        world.settle();
    }
    let before = world.read(key, Offset(0)).unwrap();
    world.stop();
    let right = world.now.unix;
    world.set_clock(right + MONTH);
    while world.start().is_branch || world.shards() < 2 {
        world.stop();
    }
    world.pass(Millis::new(60_000));
    world.stop();
    world.set_clock(right + Millis::new(120_000));
    world.start();
    assert!(world.open(0));
    assert_eq!(world.read(key, Offset(0)).unwrap(), before, "the clock was wrong, and nothing was removed");
}

#[test]
fn the_size_limit_holds_while_the_clock_is_not_trusted() {
    let mut world = filled(3, Settings { max_bytes: 8 * (64 << 10), ..config() });
    let right = world.now;
    world.stop();
    world.set_clock(right.unix + MONTH);
    world.start();
    for _ in 0..30 {
        for key in all_keys() {
            assert!(world.open(key.queue.0));
            world.append_sized(key, 100_000, &[9_000, 9_000]);
        }
        world.settle();
        world.pass(Millis::new(1_000));
    }
    let segments = world.segments();
    assert!(segments <= 8 + 3 * usize::from(world.shards()), "{segments} files");
}
