//! Worlds with full files, and helpers to read them.

use super::*;

/// Returns the files of the sealed segments and of those that are being written, with their lengths.
pub(super) fn segment_files(world: &World) -> Vec<(FileName, u64)> {
    let files = world.disk.list().unwrap();
    files.into_iter().filter(|(file, _)| matches!(file, FileName::Segment(_))).collect()
}

pub(super) fn index_of(file: FileName) -> Option<FileName> {
    match file {
        FileName::Segment(place) => Some(FileName::Index(place)),
        _ => None,
    }
}

pub(super) fn all_keys() -> impl Iterator<Item = PartitionKey> {
    (0..QUEUES).flat_map(|queue| {
        Partition::all(PARTITIONS).map(move |partition| PartitionKey { queue: QueueId(queue), partition })
    })
}

/// Creates a world with several full segments, in which nothing expires.
pub(super) fn filled(seed: u64, config: Settings) -> World {
    let mut world = World::new(seed, config);
    assert!((0..QUEUES).all(|queue| world.open(queue)));
    for round in 0..12 {
        for key in all_keys() {
            let sizes = vec![world.random.between(10, 2_000); 3];
            world.append_sized(key, 100_000, &sizes);
        }
        if round % 2 == 0 {
            world.settle();
        }
    }
    world.settle();
    world
}

/// Reads every partition. Returns the numbers of the messages that exist.
pub(super) fn read_all_numbers(world: &mut World) -> BTreeSet<u64> {
    let mut all = BTreeSet::new();
    for key in all_keys() {
        assert!(world.open(key.queue.0));
        all.extend(
            world
                .read(key, Offset(0))
                .expect("an unreadable part fails no fetch")
                .into_iter()
                .map(|(_, number)| number),
        );
    }
    all
}
