//! Flipped bytes, and sectors that cannot be read.

use super::*;

#[test]
fn a_flipped_byte_costs_one_batch_at_most_and_is_reported() {
    for seed in 0..seeds() {
        let mut world = World::new(seed, config());
        for _ in 0..200 {
            world.act();
        }
        world.settle();
        world.forget_unknown();
        world.disk.kill();
        let mut random = Random(seed);
        let files = world.disk.list().unwrap();
        let (name, length) = files[random.below(files.len())];
        let at = random.below(length as usize);
        world.disk.flip(name, at, 1 << random.below(8));
        let mut is_seen = false;
        inspect::verify(&world.disk, &world.moment(), |verified| {
            is_seen |= verified.torn > 0 || !verified.damage.is_empty();
        })
        .unwrap();
        let report = world.crash();
        // What the first start finds, a second one knows, too.
        if seed.is_multiple_of(2) {
            world.settle();
            world.crash();
        }
        let before: Vec<(PartitionKey, u64)> =
            world.sent.iter().flat_map(|(key, sent)| sent.keys().map(|number| (*key, *number))).collect();
        let mut lost = 0;
        for (key, _) in &before {
            assert!(matches!(name, FileName::Catalogue(_)) || world.open(key.queue.0));
        }
        let mut keys: BTreeSet<PartitionKey> = before.iter().map(|(key, _)| *key).collect();
        keys.retain(|key| world.open.contains(&key.queue.0));
        for key in keys {
            let there: BTreeMap<u64, Offset> = world
                .read(key, Offset(0))
                .unwrap()
                .into_iter()
                .map(|(offset, number)| (number, offset))
                .collect();
            let unix = world.now.unix;
            world.sent.get_mut(&key).unwrap().retain(|number, message| {
                // Without its state, a partition does not know what was pinned.
                message.is_pinned = false;
                message.is_earlier = false;
                match (there.get(number), message.fate) {
                    (Some(offset), Fate::Acknowledged(at)) => assert_eq!(*offset, at),
                    (None, _) => lost += u64::from(message.must_be_there() && message.expiry > unix),
                    (Some(_), fate) => panic!("{number}: {fate:?}"),
                }
                there.contains_key(number)
            });
        }
        // The last round of a segment may never have been acknowledged: it is cut off if it is incomplete.
        let may_lose = report.torn > 0 || matches!(name, FileName::Catalogue(_));
        assert!(lost <= 3 || may_lose, "seed {seed}: {lost} of {name} at {at}");
        assert!(is_seen || lost == 0, "seed {seed}: {lost} of {name} at {at} are lost without a report");
        // New messages get ids that no message had before.
        for _ in 0..100 {
            world.act();
        }
        world.settle();
        if !matches!(name, FileName::Catalogue(_)) {
            world.check();
        }
    }
}

#[test]
fn a_block_that_cannot_be_read_costs_the_batches_in_it_and_no_others() {
    for seed in 0..seeds() {
        let mut world = filled(seed, Settings { tail_bytes: 0, ..config() });
        let before = read_all_numbers(&mut world);
        let files = segment_files(&world);
        let (file, length) = files[world.random.below(files.len())];
        let block = world.random.between(2, length as usize / BLOCK - 1) as u64;
        world.disk.spoil(file, block);
        // The running server reads around the block. So does the next one, which must read whole files.
        for is_new in [false, true] {
            if is_new {
                let report = world.crash();
                let is_told = report.damaged.iter().any(|damaged| damaged.file == file);
                let lost = before.len() - read_all_numbers(&mut world).len();
                let indexed = world.disk.list().unwrap().iter().any(|(of, _)| Some(*of) == index_of(file));
                assert!(
                    is_told || indexed || lost == 0,
                    "seed {seed}: {lost} messages are lost without a report"
                );
            }
            let there = read_all_numbers(&mut world);
            assert!(there.is_subset(&before));
            // A block holds parts of a few batches of three messages.
            let lost = before.len() - there.len();
            assert!(lost <= 3 * (BLOCK / 100), "seed {seed}: {lost} messages of one block");
        }
        for key in all_keys() {
            world.append(key, 100_000);
            world.settle();
            let last = world.sent[&key].last_key_value().unwrap().1.fate;
            assert!(matches!(last, Fate::Acknowledged(_)), "seed {seed}: {last:?}");
        }
    }
}

#[test]
fn an_unreadable_index_costs_nothing() {
    for seed in 0..seeds() / 4 {
        let mut world = filled(seed, Settings { tail_bytes: 0, ..config() });
        let before = read_all_numbers(&mut world);
        let files = world.disk.list().unwrap();
        for (file, length) in files {
            if matches!(file, FileName::Index(_)) {
                world.disk.spoil(file, world.random.below(length as usize) as u64 / BLOCK as u64);
            }
        }
        assert_eq!(read_all_numbers(&mut world), before, "seed {seed}");
        world.crash();
        assert_eq!(read_all_numbers(&mut world), before, "seed {seed}");
    }
}

#[test]
fn a_lost_device_fails_fetches_and_loses_no_messages() {
    for has_indexes in [true, false] {
        let mut world = filled(3, Settings { tail_bytes: 0, ..config() });
        let before = read_all_numbers(&mut world);
        let mut files = world.disk.list().unwrap();
        files.retain(|(file, _)| match file {
            FileName::Segment(_) => true,
            FileName::Index(_) => !has_indexes,
            _ => false,
        });
        let blocks = |length: u64| 0..length.div_ceil(BLOCK as u64);
        files
            .iter()
            .for_each(|(file, length)| blocks(*length).for_each(|block| world.disk.spoil(*file, block)));
        // What was read is forgotten, a window at each tick.
        for _ in 0..10 {
            world.logs.iter_mut().for_each(|log| log.backlog.trim());
        }
        let failed = all_keys().filter(|key| world.read(*key, Offset(0)).is_err()).count();
        assert!(failed > 0, "fetches fail if no file can be read");
        world.disk.cure();
        assert_eq!(read_all_numbers(&mut world), before, "with indexes: {has_indexes}");
    }
}
