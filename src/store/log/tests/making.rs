//! Segments that are made ahead, as fast as the present one fills.

use super::*;

const KEY: PartitionKey = PartitionKey { queue: QueueId(0), partition: Partition(0) };
const BYTES: u64 = 16 << 20;
/// The payload of a batch, in bytes; in stored form it takes hardly more.
const BATCH: usize = 400_000;

/// The file of the first segment, and that of the next one.
const FIRST: FileName = FileName::Segment(0);
const NEXT: FileName = FileName::Segment(1);

/// A world with one shard and large segments.
fn lone(seed: u64) -> World {
    let config = || Settings { segment_bytes: BYTES, ..config() };
    let mut world =
        (seed..).map(|seed| World::new(seed, config())).find(|world| world.shards() == 1).unwrap();
    assert!(world.open(0));
    world.settle();
    world
}

fn length(world: &World, file: FileName) -> u64 {
    segment_files(world).into_iter().find(|(of, _)| *of == file).map_or(0, |(_, length)| length)
}

/// Appends batches to the first segment. Returns its bytes then, roughly.
fn append(world: &mut World, batches: usize) -> u64 {
    for _ in 0..batches {
        world.append_sized(KEY, 100_000, &[BATCH]);
        world.settle();
    }
    world.sent.get(&KEY).map_or(0, BTreeMap::len) as u64 * BATCH as u64
}

#[test]
fn the_next_segment_grows_as_the_present_one_fills() {
    let mut world = lone(1);
    assert_eq!((length(&world, FIRST), length(&world, NEXT)), (BYTES, 0));
    let mut lengths = BTreeSet::new();
    for _ in 0..BYTES as usize / BATCH - 1 {
        let before = length(&world, NEXT);
        let (written, next) = (append(&mut world, 1), length(&world, NEXT));
        assert!(
            before <= next && next * 7 <= written * 8,
            "{next} bytes are made when {written} are written"
        );
        lengths.insert(next);
    }
    assert_eq!(length(&world, NEXT), BYTES, "it is ready in time");
    assert!(lengths.len() > 5, "{lengths:?}");
}

#[test]
fn a_segment_that_is_needed_early_is_made_at_once() {
    let mut world = lone(2);
    append(&mut world, BYTES as usize / BATCH / 2);
    assert!(length(&world, NEXT) < BYTES);
    // It does not fit into the rest of the first.
    world.append_sized(KEY, 100_000, &[BYTES as usize * 3 / 4]);
    world.settle();
    assert_eq!(length(&world, NEXT), BYTES);
    world.check();
}

#[test]
fn a_crash_while_a_segment_is_made_damages_nothing() {
    for seed in 0..seeds() / 20 {
        let mut world = lone(seed);
        let batches = world.random.between(8, 30);
        append(&mut world, batches);
        world.append_sized(KEY, 100_000, &[BATCH]);
        for _ in 0..world.random.below(6) {
            world.poll();
            world.disk.advance();
        }
        let report = world.crash();
        assert!(report.damaged.is_empty(), "seed {seed}: {report:?}");
        inspect::verify(&world.disk, &world.moment(), |verified| {
            assert!(verified.damage.is_empty(), "seed {seed}: {verified:?}");
        })
        .unwrap();
        world.check();
        assert!(world.open(0));
        append(&mut world, 1);
        world.check();
    }
}
