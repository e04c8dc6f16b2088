//! The removal of files that nobody needs, and those that are kept for new segments.

use super::*;
use crate::base::millis::Millis;

const KEY: PartitionKey = PartitionKey { queue: QueueId(0), partition: Partition(0) };
/// The segments that expire, and are stored again, between two ticks.
const AT_ONCE: usize = 6;

/// A world with one shard.
fn lone() -> World {
    let mut world = (0..).map(|seed| World::new(seed, config())).find(|world| world.shards() == 1).unwrap();
    assert!(world.open(0));
    world
}

/// Stores whole segments, which expire after a second.
fn store(world: &mut World, segments: usize) {
    for _ in 0..segments {
        world.append_sized(KEY, 1, &[50_000]);
        world.settle();
    }
}

/// Returns the number of files that were ever made for segments.
fn made(world: &World) -> u32 {
    let files = world.disk.list().unwrap();
    let places = files.iter().filter_map(|(file, _)| match file {
        FileName::Segment(place) => Some(place + 1),
        _ => None,
    });
    places.max().unwrap_or(0)
}

#[test]
fn a_server_that_stores_as_much_as_expires_makes_no_files() {
    let mut world = lone();
    for _ in 0..3 {
        store(&mut world, AT_ONCE);
        world.pass(Millis::new(1_500));
    }
    let before = made(&world);
    for _ in 0..20 {
        store(&mut world, AT_ONCE);
        world.pass(Millis::new(1_500));
    }
    assert_eq!(made(&world), before, "all files are reused");
}

#[test]
fn free_files_are_removed_once_no_more_are_written() {
    let mut world = lone();
    for _ in 0..3 {
        store(&mut world, AT_ONCE);
        world.pass(Millis::new(1_500));
    }
    assert!(world.segments() > AT_ONCE, "{} files", world.segments());
    for _ in 0..12 {
        world.pass(Millis::new(1_000));
    }
    // The one that is written, the next one, and one that is free.
    assert!(world.segments() <= 3, "{} files", world.segments());
    assert!(world.logs.iter().all(|log| !log.segments.may_have_surplus()));
    assert!(world.dir.as_ref().unwrap().removals().is_done());
}

#[test]
fn free_files_count_to_the_limit_of_size() {
    let limits = Settings { max_bytes: 8 * (64 << 10), ..config() };
    let mut world =
        (0..).map(|seed| World::new(seed, limits.clone())).find(|world| world.shards() == 1).unwrap();
    assert!(world.open(0));
    for _ in 0..4 {
        store(&mut world, 2 * AT_ONCE);
        world.pass(Millis::new(1_500));
        for _ in 0..2 * AT_ONCE {
            world.tick();
            world.settle();
        }
        // The one that is written, the next one, and the limit.
        assert!(world.segments() <= 8 + 2, "{} files", world.segments());
    }
}

#[test]
fn a_start_finds_no_damage_wherever_a_removal_is_interrupted() {
    let mut is_one_short = false;
    for step in 0..seeds().max(60) {
        let mut world = lone();
        world.append(KEY, 100_000);
        store(&mut world, AT_ONCE);
        // Too long ago for the files to be kept.
        world.now = world.now.later(Millis::from_secs(60));
        world.tick();
        for _ in 0..step {
            world.disk.advance();
            world.tick();
            world.poll();
        }
        let files = world.disk.list().unwrap();
        let is_short = |(file, bytes): &(FileName, u64)| {
            matches!(file, FileName::Segment(_)) && (1..config().segment_bytes).contains(bytes)
        };
        is_one_short |= files.iter().any(is_short);
        let report = world.crash();
        assert!(report.damaged.is_empty(), "step {step}: {report:?}");
        world.check();
        for _ in 0..4 {
            world.pass(Millis::new(1_000));
        }
        world.check();
    }
    assert!(is_one_short, "some removals were under way");
}

#[test]
fn files_that_wait_for_their_removal_are_used_again() {
    let mut world = lone();
    store(&mut world, 4 * AT_ONCE);
    // Too long ago for the files to be kept.
    world.now = world.now.later(Millis::from_secs(60));
    world.tick();
    world.tick();
    assert!(!world.dir.as_ref().unwrap().removals().is_done(), "files wait");
    let before = made(&world);
    for _ in 0..AT_ONCE {
        world.append_sized(KEY, 1, &[50_000]);
    }
    world.settle();
    assert_eq!(made(&world), before);
    world.crash();
    world.check();
}

#[test]
fn a_removal_that_fails_holds_up_no_other() {
    for step in 1..40 {
        let mut world = lone();
        store(&mut world, 2 * AT_ONCE);
        world.now = world.now.later(Millis::from_secs(60));
        world.tick();
        world.disk.fail_after(step, EIO, 1);
        for _ in 0..10 {
            world.pass(Millis::from_secs(2));
        }
        // The one that is written, the next one, one that is free, and the one whose removal failed.
        assert!(world.segments() <= 4, "step {step}: {} files", world.segments());
        assert!(world.dir.as_ref().unwrap().removals().is_done());
        world.disk.heal();
        let report = world.restart();
        assert!(report.damaged.is_empty(), "step {step}: {report:?}");
    }
}

#[test]
fn one_shard_at_a_time_removes_files() {
    let mut world = (0..).map(|seed| World::new(seed, config())).find(|world| world.shards() == 3).unwrap();
    assert!((0..QUEUES).all(|queue| world.open(queue)));
    for _ in 0..8 {
        for queue in 0..QUEUES {
            for partition in 0..PARTITIONS {
                let key = PartitionKey { queue: QueueId(queue), partition: Partition(partition) };
                world.append_sized(key, 1, &[50_000]);
            }
        }
        world.settle();
    }
    world.now = world.now.later(Millis::from_secs(60));
    let before = world.segments();
    let mut last = before;
    for _ in 0..3_000 {
        world.tick();
        world.disk.advance();
        let files = world.disk.list().unwrap();
        let short = files
            .iter()
            .filter(|(file, bytes)| matches!(file, FileName::Segment(_)) && *bytes < config().segment_bytes);
        assert!(short.count() <= 1, "{files:?}");
        world.poll();
        last = world.segments();
    }
    assert!(last < before / 2, "{last} of {before} files");
}
