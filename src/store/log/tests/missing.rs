//! Files that are cut or missing, and what a clean stop proves about them.

use super::*;

#[test]
fn after_a_clean_stop_nothing_is_torn_and_damage_to_the_newest_message_is_reported() {
    for seed in 0..seeds() {
        let mut world = filled(seed, config());
        let before = read_all_numbers(&mut world);
        let written: Vec<FileName> = world
            .logs
            .iter()
            .filter_map(|log| log.writer.active().filter(|active| !active.spans.is_empty()))
            .map(|active| FileName::Segment(active.place))
            .collect();
        world.stop();
        let ends: BTreeMap<PartitionKey, Offset> =
            world.sent.iter().map(|(key, sent)| (*key, end_of(sent))).collect();
        let mut newest = segment_files(&world);
        newest.retain(|(file, _)| world.disk.backup().used(*file) > BLOCK * 2);
        let (file, _) = newest[world.random.below(newest.len())];
        // The last byte that is not zero belongs to the newest batch, or to the bytes before its padding.
        let at = world.disk.backup().used(file) - 1;
        let is_cut = seed % 3 == 0;
        // A clean stop is known even without the index.
        let has_index = seed % 2 == 0 || !written.contains(&file);
        if let (Some(index), false) = (index_of(file), has_index) {
            world.disk.run(&Step::Remove(index)).unwrap();
        }
        if is_cut {
            world.disk.cut(file, [at, BLOCK, 0][world.random.below(3)]);
        } else {
            world.disk.flip(file, at, 1);
        }
        let mut is_seen = false;
        inspect::verify(&world.disk, &world.moment(), |verified| {
            is_seen |= verified.file == file && !verified.damage.is_empty()
        })
        .unwrap();
        assert!(is_seen, "seed {seed}: {file} is called undamaged");
        let report = world.start();
        if is_cut || written.contains(&file) {
            assert!(
                report.damaged.iter().any(|damaged| damaged.file == file),
                "seed {seed}: {file}: {report:?}"
            );
        }
        let there = read_all_numbers(&mut world);
        assert!(there.is_subset(&before), "seed {seed}");
        assert!(is_cut || there.len() + 3 >= before.len(), "seed {seed}: one batch is damaged");
        // No offset is given out again.
        for key in all_keys() {
            world.append(key, 100_000);
            world.settle();
            let Fate::Acknowledged(offset) = world.sent[&key].last_key_value().unwrap().1.fate else {
                panic!()
            };
            assert!(offset >= ends[&key], "seed {seed}: {offset} was given before");
        }
    }
}

fn end_of(sent: &BTreeMap<u64, Message>) -> Offset {
    let offsets = sent.values().filter_map(|message| match message.fate {
        Fate::Acknowledged(offset) => Some(offset + 1),
        _ => None,
    });
    offsets.max().unwrap_or_default()
}

#[test]
fn a_missing_segment_is_reported_and_the_rest_is_served() {
    for seed in 0..seeds() / 4 {
        let mut world = filled(seed, Settings { tail_bytes: 0, ..config() });
        let before = read_all_numbers(&mut world);
        world.stop();
        let files = segment_files(&world);
        let (file, _) = files[world.random.below(files.len())];
        let is_empty = world.disk.backup().used(file) <= BLOCK * 2;
        world.disk.run(&Step::Remove(file)).unwrap();
        let report = world.start();
        assert!(is_empty || report.damaged.iter().any(|damaged| damaged.file == file), "seed {seed}: {file}");
        assert!(read_all_numbers(&mut world).is_subset(&before));
    }
}

#[test]
fn an_interrupted_removal_of_a_segment_is_not_damage() {
    for seed in 0..seeds() / 4 {
        let mut world = filled(seed, Settings { max_bytes: 4 * (64 << 10), ..config() });
        // Files are removed because the log is too large. The server ends at any step of that.
        world.tick();
        for _ in 0..world.random.below(12) {
            world.disk.advance();
            world.poll();
        }
        if world.random.one_in(2) {
            world.disk.lose_power();
            world.boot += 1;
        } else {
            world.disk.kill();
        }
        let report = world.start();
        assert!(report.damaged.is_empty(), "seed {seed}: {report:?}");
        inspect::verify(&world.disk, &world.moment(), |verified| {
            assert!(verified.damage.is_empty(), "seed {seed}: {verified:?}")
        })
        .unwrap();
    }
}

#[test]
fn the_name_of_a_missing_file_is_not_reused_so_that_it_can_be_put_back() {
    for seed in 0..seeds() / 4 {
        let mut world = filled(seed, Settings { tail_bytes: 0, ..config() });
        let before = read_all_numbers(&mut world);
        world.stop();
        let (file, _) = *segment_files(&world).last().unwrap();
        let backup = world.disk.backup();
        if backup.used(file) <= BLOCK * 2 {
            continue;
        }
        // Remove the last file: no later file keeps its number from being reused.
        world.disk.run(&Step::Remove(file)).unwrap();
        world.start();
        for _ in 0..20 {
            for key in all_keys() {
                assert!(world.open(key.queue.0));
                world.append_sized(key, 100_000, &[9_000]);
            }
            world.settle();
        }
        assert!(!segment_files(&world).iter().any(|(of, _)| *of == file), "seed {seed}: {file} was reused");
        world.stop();
        world.disk.put_back(&backup, file);
        let report = world.start();
        assert!(report.damaged.is_empty(), "seed {seed}: {report:?}");
        assert!(
            before.is_subset(&read_all_numbers(&mut world)),
            "seed {seed}: some messages are still missing"
        );
    }
}
