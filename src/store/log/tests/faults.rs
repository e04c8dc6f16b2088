//! What goes wrong outside the log: sectors that cannot be read, files that are cut or gone, directories that are restored, queues that
//! are deleted under their readers.

use super::*;
use crate::base::queue::Position;

/// The sealed and the written segments, with their lengths.
fn segment_files(world: &World) -> Vec<(FileName, u64)> {
    let files = world.disk.list().unwrap();
    files.into_iter().filter(|(file, _)| matches!(file, FileName::Segment(_))).collect()
}

fn all_keys() -> impl Iterator<Item = PartitionKey> {
    (0..QUEUES).flat_map(|queue| {
        (0..PARTITIONS).map(move |partition| PartitionKey { queue: QueueId(queue), partition })
    })
}

/// A world with several full segments, of which nothing expires.
fn filled(seed: u64, config: LogConfig) -> World {
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

/// Reads every partition: the numbers of the messages that are there.
fn read_all_numbers(world: &mut World) -> BTreeSet<u64> {
    let mut all = BTreeSet::new();
    for key in all_keys() {
        assert!(world.open(key.queue.0));
        all.extend(
            world
                .read(key, 0)
                .expect("a part that cannot be read fails no fetch")
                .into_iter()
                .map(|(_, number)| number),
        );
    }
    all
}

#[test]
fn a_block_that_cannot_be_read_costs_the_batches_in_it_and_no_others() {
    for seed in 0..seeds() {
        let mut world = filled(seed, LogConfig { tail_bytes: 0, ..config() });
        let before = read_all_numbers(&mut world);
        let files = segment_files(&world);
        let (file, length) = files[world.random.below(files.len())];
        let block = world.random.between(2, length as usize / BLOCK - 1) as u64;
        world.disk.spoil(file, block);
        // The server that runs reads around it, and so does the next one, which has to read whole files.
        for is_new in [false, true] {
            if is_new {
                let report = world.crash();
                let is_told = report.damaged.iter().any(|damaged| damaged.file == file);
                let lost = before.len() - read_all_numbers(&mut world).len();
                let indexed = world.disk.list().unwrap().iter().any(|(of, _)| Some(*of) == index_of(file));
                assert!(
                    is_told || indexed || lost == 0,
                    "seed {seed}: {lost} messages are lost, and nobody says so"
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

fn index_of(file: FileName) -> Option<FileName> {
    match file {
        FileName::Segment(place) => Some(FileName::Index(place)),
        _ => None,
    }
}

#[test]
fn an_index_that_cannot_be_read_costs_nothing() {
    for seed in 0..seeds() / 4 {
        let mut world = filled(seed, LogConfig { tail_bytes: 0, ..config() });
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
fn a_device_that_is_gone_fails_fetches_and_loses_nothing() {
    let mut world = filled(3, LogConfig { tail_bytes: 0, ..config() });
    let before = read_all_numbers(&mut world);
    let files = segment_files(&world);
    let blocks = |length: u64| 0..length / BLOCK as u64;
    files.iter().for_each(|(file, length)| blocks(*length).for_each(|block| world.disk.spoil(*file, block)));
    world.logs.iter_mut().for_each(|log| log.backlog.trim());
    world.logs.iter_mut().for_each(|log| log.backlog.trim());
    world.logs.iter_mut().for_each(|log| log.backlog.trim());
    let failed = all_keys().filter(|key| world.read(*key, 0).is_err()).count();
    assert!(failed > 0, "no file can be read");
    world.disk.cure();
    assert_eq!(read_all_numbers(&mut world), before);
}

#[test]
fn after_a_clean_stop_nothing_is_torn_and_damage_to_the_newest_message_is_reported() {
    for seed in 0..seeds() {
        let mut world = filled(seed, config());
        let before = read_all_numbers(&mut world);
        let written: Vec<FileName> = world
            .logs
            .iter()
            .filter_map(|log| log.journal.active.as_ref().filter(|active| !active.spans.is_empty()))
            .map(|active| FileName::Segment(active.place))
            .collect();
        world.stop();
        let ends: BTreeMap<PartitionKey, u64> =
            world.sent.iter().map(|(key, sent)| (*key, end_of(sent))).collect();
        let mut newest = segment_files(&world);
        newest.retain(|(file, _)| world.disk.backup().used(*file) > BLOCK * 2);
        let (file, _) = newest[world.random.below(newest.len())];
        // The last byte that is not zero is of the newest batch, or of its padding's neighbour.
        let at = world.disk.backup().used(file) - 1;
        let is_cut = seed % 3 == 0;
        // A clean stop is known without the index, too.
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
        // No offset is given again.
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

fn end_of(sent: &BTreeMap<u64, Message>) -> u64 {
    let offsets = sent.values().filter_map(|message| match message.fate {
        Fate::Acknowledged(offset) => Some(offset + 1),
        _ => None,
    });
    offsets.max().unwrap_or(0)
}

#[test]
fn a_segment_that_is_gone_is_reported_and_the_rest_is_served() {
    for seed in 0..seeds() / 4 {
        let mut world = filled(seed, LogConfig { tail_bytes: 0, ..config() });
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

/// A consumer's marker: where it stands in every partition, and in which timeline.
#[derive(Clone, Debug)]
struct Stand {
    timeline: u64,
    positions: BTreeMap<PartitionKey, u64>,
    /// The messages that it has seen.
    seen: BTreeSet<u64>,
}

impl Stand {
    /// Of a consumer that has read everything.
    fn take(world: &mut World) -> Self {
        let mut stand =
            Self { timeline: world.timeline(), positions: BTreeMap::new(), seen: BTreeSet::new() };
        for key in all_keys() {
            assert!(world.open(key.queue.0));
            let read = world.read(key, 0).unwrap();
            stand.positions.insert(key, read.last().map_or(0, |(offset, _)| offset + 1));
            stand.seen.extend(read.iter().map(|(_, number)| *number));
        }
        stand
    }

    /// What it reads from where the server has it go on.
    fn go_on(&self, world: &mut World) -> Vec<u64> {
        let mut all = Vec::new();
        for key in all_keys() {
            assert!(world.open(key.queue.0));
            let position = Position::After { timeline: self.timeline, offset: self.positions[&key] };
            let from = world.resolve(key, position);
            assert!(from <= self.positions[&key], "nothing is skipped by a mere start");
            all.extend(world.read(key, from).unwrap().into_iter().map(|(_, number)| number));
        }
        all
    }
}

#[test]
fn after_a_restore_nothing_stored_is_skipped_and_no_offset_is_given_twice() {
    for seed in 0..seeds() {
        let mut world = World::new(seed, config());
        let mut stands = Vec::new();
        let mut given: BTreeMap<PartitionKey, BTreeSet<u64>> = BTreeMap::new();
        let mut backups = Vec::new();
        let mut was_restored = false;
        for _ in 0..6 {
            for _ in 0..world.random.below(60) {
                let key = PartitionKey {
                    queue: QueueId(world.random.below(QUEUES as usize) as u64),
                    partition: world.random.below(PARTITIONS.into()) as u16,
                };
                assert!(world.open(key.queue.0));
                world.append(key, 100_000);
                if world.random.one_in(3) {
                    world.settle();
                }
            }
            world.settle();
            for (key, sent) in &world.sent {
                for message in sent.values() {
                    let Fate::Acknowledged(offset) = message.fate else { continue };
                    given.entry(*key).or_default().insert(offset);
                }
            }
            stands.push(Stand::take(&mut world));
            match world.random.below(4) {
                0 => {
                    world.crash();
                }
                1 => {
                    world.restart();
                }
                _ => {
                    world.stop();
                    backups.push((world.disk.backup(), world.sent.clone()));
                    if world.random.one_in(2) {
                        // An older one comes back, on this machine or another.
                        was_restored = true;
                        let (backup, sent) = backups[world.random.below(backups.len())].clone();
                        world.disk.restore(&backup, false);
                        world.sent = sent;
                        world.boot += u128::from(world.random.one_in(2));
                    }
                    world.start();
                }
            }
            // What is stored now reaches every consumer of before, under an id that nothing had.
            let (mut fresh, before) = (BTreeSet::new(), world.next);
            for key in all_keys() {
                assert!(world.open(key.queue.0));
                world.append(key, 100_000);
            }
            world.settle();
            for (key, sent) in &world.sent {
                for (number, message) in sent.range(before..) {
                    let Fate::Acknowledged(offset) = message.fate else { panic!("{:?}", message.fate) };
                    assert!(
                        given.entry(*key).or_default().insert(offset),
                        "seed {seed}: {offset} of {key:?} was given before"
                    );
                    fresh.insert(*number);
                }
            }
            for stand in &stands {
                let read = stand.go_on(&mut world);
                let got: BTreeSet<u64> = read.iter().copied().collect();
                assert!(fresh.is_subset(&got), "seed {seed}: {:?} are skipped", fresh.difference(&got));
                if !was_restored {
                    assert!(got.is_disjoint(&stand.seen), "seed {seed}: nothing is repeated without need");
                }
            }
        }
    }
}

#[test]
fn a_mark_behind_offsets_that_are_left_out_sends_no_reader_back() {
    let mut world = World::new(1, config());
    let key = PartitionKey { queue: QueueId(0), partition: 0 };
    assert!(world.open(0));
    world.append(key, 20);
    world.settle();
    // The machine starts anew, and says where the partition ends once all has expired.
    world.disk.lose_power();
    world.boot += 1;
    assert!(world.start().is_branch && world.open(0));
    world.pass(30_000);
    let mut from = 0;
    for _ in 0..4 {
        world.next += 1;
        let (token, now) = (world.next, world.now);
        let (bytes_max, exclude, wait) = (2000, None, false);
        let request = Request::Fetch { token, partition: key, from, bytes_max, exclude, wait };
        assert!(world.log_of(key).submit(now, request).is_ok());
        world.settle();
        let fetched = world.reads.remove(&token).unwrap().unwrap();
        assert!(!fetched.is_rewound, "nothing has gone back: {from}");
        from = fetched.next;
    }
}

#[test]
fn whoever_reads_a_queue_that_is_deleted_is_told() {
    for seed in 0..seeds() {
        let mut world = filled(seed, LogConfig { tail_bytes: 0, ..config() });
        let mut waiting = BTreeSet::new();
        let is_deleted_at = world.random.below(30);
        for number in 0..40 {
            let key = PartitionKey { queue: QueueId(0), partition: world.random.below(2) as u16 };
            let now = world.now;
            if number == is_deleted_at {
                let dir = world.dir.clone().unwrap();
                assert!(dir.delete_queue(&world.disk, &name(0)).unwrap());
                world.open.remove(&0);
            }
            world.next += 1;
            let token = world.next;
            waiting.insert(token);
            let (from, bytes_max, exclude) = (world.random.below(30) as u64, 500, None);
            let request = match world.random.below(3) {
                0 => Request::Resolve { token, partition: key, position: Position::Time(1 + number as u64) },
                1 => Request::Resolve { token, partition: key, position: Position::Latest },
                _ => {
                    Request::Fetch { token, partition: key, from, bytes_max, exclude, wait: number % 2 == 0 }
                }
            };
            assert!(world.log_of(key).submit(now, request).is_ok());
            if world.random.one_in(2) {
                world.disk.advance();
            }
            for completion in world.poll() {
                waiting.remove(&completion.token());
            }
        }
        loop {
            for completion in world.poll() {
                waiting.remove(&completion.token());
            }
            if !world.disk.advance() {
                break;
            }
        }
        for completion in world.poll() {
            waiting.remove(&completion.token());
        }
        assert!(waiting.is_empty(), "seed {seed}: {waiting:?} wait for ever");
    }
}

const HOUR: u64 = 3_600_000;
const DAY: u64 = 24 * HOUR;

impl World {
    /// The clock reads something else, a second later.
    fn set_clock(&mut self, unix_ms: u64) {
        self.now = Now::at_ms(self.now.mono_ms + 1_000, unix_ms);
    }

    fn append_one(&mut self, key: PartitionKey, ttl: u32) -> u64 {
        self.append_sized(key, ttl, &[100]);
        self.settle();
        self.next - 1
    }

    fn timestamps(&mut self, key: PartitionKey) -> Vec<u64> {
        let (mut all, mut from) = (Vec::new(), 0);
        loop {
            self.next += 1;
            let (token, now) = (self.next, self.now);
            let (bytes_max, exclude, wait) = (1 << 20, None, false);
            let request = Request::Fetch { token, partition: key, from, bytes_max, exclude, wait };
            assert!(self.log_of(key).submit(now, request).is_ok());
            let fetched = loop {
                self.poll();
                match self.reads.remove(&token) {
                    Some(fetched) => break fetched.unwrap(),
                    None => assert!(self.disk.advance(), "a fetch is answered"),
                }
            };
            all.extend(fetched.batches.iter().map(|stored| stored.timestamp_ms));
            from = fetched.next;
            if fetched.at_end {
                return all;
            }
        }
    }
}

#[test]
fn messages_of_a_clock_that_was_ahead_live_their_ttl_from_when_it_was_set_right() {
    for is_new in [false, true] {
        // From memory, and from disk.
        for tail_bytes in [8 << 10, 0] {
            let mut world = World::new(3, LogConfig { tail_bytes, ..config() });
            let key = PartitionKey { queue: QueueId(0), partition: 0 };
            assert!(world.open(0));
            let right = world.now.unix_ms;
            world.append_one(key, 3600);
            world.set_clock(right + 30 * DAY);
            let ahead = world.append_one(key, 3600);
            world.set_clock(right + 1000);
            if is_new {
                world.restart();
                assert!(world.open(0));
            }
            world.pass(1_000);
            let stamps = world.timestamps(key);
            assert_eq!(
                stamps,
                [right, right + 2_000],
                "what was stored ahead counts as stored when that was seen"
            );
            world.set_clock(world.now.unix_ms + 5);
            let after = world.append_one(key, 3600);
            assert_eq!(world.timestamps(key).last(), Some(&world.now.unix_ms), "timestamps follow the clock");
            // After a restart, too, the timestamps on disk are not believed.
            world.restart();
            assert!(world.open(0));
            assert!(world.timestamps(key).iter().all(|stamp| *stamp <= world.now.unix_ms));
            let since = world.resolve(key, Position::Time(world.now.unix_ms));
            let last = world.read(key, since).unwrap();
            assert_eq!(last.iter().map(|(_, number)| *number).collect::<Vec<_>>(), [after]);
            assert!(world.read(key, 0).unwrap().iter().any(|(_, number)| *number == ahead));
            world.set_clock(right + 2 * HOUR);
            assert!(world.read(key, 0).unwrap().is_empty(), "all have lived an hour");
            for _ in 0..3 {
                world.pass(HOUR);
            }
            for log in &world.logs {
                let kept = log.kept.iter().filter(|segment| segment.expiry_ms() <= world.now.unix_ms);
                assert_eq!(
                    kept.count(),
                    0,
                    "no file waits for a clock that was wrong: {:?} {:?} {:?}",
                    log.kept,
                    log.partitions.values().map(|p| (&p.past, p.is_marking)).collect::<Vec<_>>(),
                    world.now
                );
            }
        }
    }
}

#[test]
fn small_steps_back_repeat_the_last_timestamp() {
    let mut world = World::new(3, config());
    let key = PartitionKey { queue: QueueId(0), partition: 0 };
    assert!(world.open(0));
    let right = world.now.unix_ms;
    world.append_one(key, 3600);
    world.set_clock(right - HOUR / 2);
    world.append_one(key, 3600);
    assert_eq!(world.timestamps(key), [right, right]);
}

#[test]
fn a_server_that_starts_far_ahead_lets_nothing_go_at_once() {
    let mut world = filled(3, config());
    let before = read_all_numbers(&mut world);
    let (right, files) = (world.now, world.segments());
    world.stop();
    world.set_clock(right.unix_ms + 30 * DAY);
    world.start();
    world.pass(60_000);
    assert!(world.segments() >= files && read_all_numbers(&mut world).is_empty(), "expired, and not gone");
    world.stop();
    world.set_clock(right.unix_ms + 60_000);
    world.start();
    assert_eq!(read_all_numbers(&mut world), before, "the clock was wrong");
    world.stop();
    world.set_clock(right.unix_ms + 30 * DAY);
    world.start();
    for _ in 0..3 {
        world.pass(HOUR);
    }
    assert!(world.logs.iter().all(|log| log.kept.len() <= 2), "the clock was right");
}

#[test]
fn a_rollback_that_nothing_shows_skips_nothing_all_the_same() {
    for seed in 0..seeds() / 4 {
        let mut world = filled(seed, config());
        world.stop();
        let (backup, sent) = (world.disk.backup(), world.sent.clone());
        world.start();
        for key in all_keys() {
            assert!(world.open(key.queue.0));
            world.append(key, 100_000);
            world.append(key, 100_000);
        }
        world.settle();
        let stand = Stand::take(&mut world);
        world.stop();
        // Same boot, same inodes, same mount.
        world.disk.restore(&backup, true);
        world.sent = sent;
        world.start();
        let before = world.next;
        // What is stored before the consumer comes is not skipped either, though the log has outgrown its marker.
        for key in all_keys() {
            assert!(world.open(key.queue.0));
            for _ in 0..4 {
                world.append(key, 100_000);
            }
        }
        world.settle();
        let got: BTreeSet<u64> = stand.go_on(&mut world).into_iter().collect();
        let fresh: BTreeSet<u64> =
            world.sent.values().flat_map(|sent| sent.range(before..)).map(|(number, _)| *number).collect();
        assert!(fresh.is_subset(&got), "seed {seed}: {:?} are skipped", fresh.difference(&got));
    }
}

#[test]
fn consumers_are_not_locked_out_by_a_history_that_is_lost_however_often_the_server_starts() {
    for is_removed in [false, true] {
        let mut world = filled(3, config());
        let marks = world.dir.as_ref().unwrap().signing();
        world.stop();
        if is_removed {
            world.disk.run(&Step::Remove(FileName::History)).unwrap();
        } else {
            world.disk.flip(FileName::History, 30, 1);
        }
        for _ in 0..3 {
            let report = world.start();
            assert_eq!(report.damaged.is_empty(), is_removed || !report.is_branch, "{report:?}");
            let signing = world.dir.as_ref().unwrap().signing();
            assert!(
                signing.is_key_new && signing.key != marks.key,
                "markers of the lost key are believed to be the queue's"
            );
            let key = PartitionKey { queue: QueueId(0), partition: 0 };
            assert!(world.open(0));
            let position = Position::After { timeline: marks.timeline, offset: 3 };
            assert_eq!(world.resolve(key, position), 0, "and begin at the oldest message");
            world.stop();
        }
    }
}

#[test]
fn while_the_clock_is_held_the_log_keeps_to_its_size() {
    let mut world = filled(3, LogConfig { max_bytes: 8 * (64 << 10), ..config() });
    let right = world.now;
    world.stop();
    world.set_clock(right.unix_ms + 30 * DAY);
    world.start();
    for _ in 0..30 {
        for key in all_keys() {
            assert!(world.open(key.queue.0));
            world.append_sized(key, 100_000, &[9_000, 9_000]);
        }
        world.settle();
        world.pass(1_000);
    }
    let segments = world.segments();
    assert!(segments <= 8 + 3 * usize::from(world.shards()), "{segments} files");
}

#[test]
fn a_segment_that_is_removed_in_the_middle_is_no_damage() {
    for seed in 0..seeds() / 4 {
        let mut world = filled(seed, LogConfig { max_bytes: 4 * (64 << 10), ..config() });
        // Files go because there are too many; the server ends at any step of it.
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
            assert!(verified.damage.is_empty(), "{verified:?}")
        })
        .unwrap();
    }
}

#[test]
fn the_place_of_a_missing_file_stays_free_so_that_it_can_be_put_back() {
    for seed in 0..seeds() / 4 {
        let mut world = filled(seed, LogConfig { tail_bytes: 0, ..config() });
        let before = read_all_numbers(&mut world);
        world.stop();
        let (file, _) = *segment_files(&world).last().unwrap();
        let backup = world.disk.backup();
        if backup.used(file) <= BLOCK * 2 {
            continue;
        }
        // The last one, so that nothing behind it keeps its number from being used again.
        world.disk.run(&Step::Remove(file)).unwrap();
        world.start();
        for _ in 0..20 {
            for key in all_keys() {
                assert!(world.open(key.queue.0));
                world.append_sized(key, 100_000, &[9_000]);
            }
            world.settle();
        }
        assert!(
            !segment_files(&world).iter().any(|(of, _)| *of == file),
            "seed {seed}: {file} is another one now"
        );
        world.stop();
        world.disk.put_back(&backup, file);
        let report = world.start();
        assert!(report.damaged.is_empty(), "seed {seed}: {report:?}");
        assert!(before.is_subset(&read_all_numbers(&mut world)), "seed {seed}: all is there again");
    }
}

#[test]
fn a_shard_that_keeps_files_of_others_alone_holds_the_clock_too() {
    let mut world = (0..).map(|seed| World::new(seed, config())).find(|world| world.shards() == 3).unwrap();
    world.config.max_age = std::time::Duration::from_secs(7 * 24 * 3600);
    // One partition, whose files every shard keeps after a restart.
    let key = PartitionKey { queue: QueueId(0), partition: 0 };
    assert!(world.open(0));
    for _ in 0..40 {
        world.append_sized(key, 1_000_000, &[9_000]);
        world.settle();
    }
    let before = world.read(key, 0).unwrap();
    world.stop();
    let right = world.now.unix_ms;
    world.set_clock(right + 30 * DAY);
    while world.start().is_branch || world.shards() < 2 {
        world.stop();
    }
    world.pass(60_000);
    world.stop();
    world.set_clock(right + 120_000);
    world.start();
    assert!(world.open(0));
    assert_eq!(world.read(key, 0).unwrap(), before, "the clock was wrong, and nothing had gone");
}
