//! Grouping: what is needed moves to another segment, once, whatever happens in between.

use super::*;
use crate::base::millis::{Millis, UnixMillis};
use crate::store::Holding;

const WORK: PartitionKey = PartitionKey { queue: QueueId(0), partition: Partition(0) };
const TTL: u32 = 1_000_000;

fn long(partition: u16) -> PartitionKey {
    PartitionKey { queue: QueueId(1), partition: Partition(partition) }
}

/// Creates a world of one shard whose queues are open.
fn lone(seed: u64, config: Settings) -> World {
    let worlds = (seed..).map(|seed| World::new(seed, config.clone()));
    let mut world = worlds.into_iter().find(|world| world.shards() == 1).unwrap();
    assert!((0..QUEUES).all(|queue| world.open(queue)));
    world
}

/// Lets time pass in short steps, so that groups are made.
pub(super) fn idle(world: &mut World, steps: usize) {
    for _ in 0..steps {
        world.now = world.now.later(Millis::new(250));
        world.tick();
        world.settle();
    }
}

/// Stores about a segment of work, with some messages that stay beside it.
fn store_mixed(world: &mut World) {
    for part in 0..5 {
        world.append_sized(WORK, TTL, &[10_000]);
        world.append_sized(long(part % 2), TTL, &[300, 20]);
        world.settle();
    }
}

/// Returns the numbers of the messages that stay.
pub(super) fn stays(world: &mut World) -> BTreeSet<u64> {
    assert!(world.open(1));
    let all = [0, 1].map(|partition| world.read(long(partition), Offset(0)).unwrap());
    all.into_iter().flatten().map(|(_, number)| number).collect()
}

/// Releases all the work that is stored.
fn consume(world: &mut World) {
    let end = *world.offsets(WORK).last().unwrap() + 1;
    world.release(WORK, end);
}

/// Creates a world with sparse segments. No group has begun.
pub(super) fn sparse(seed: u64, config: Settings) -> World {
    let mut world = lone(seed, config);
    (0..6).for_each(|_| store_mixed(&mut world));
    consume(&mut world);
    world
}

pub(super) fn grouped_files(world: &World) -> Vec<FileName> {
    let files = segment_files(world).into_iter().map(|(file, _)| file);
    let is_grouped = |file: &FileName| {
        let header = header::SegmentHeader::parse(&world.disk.bytes(*file));
        header.is_ok_and(|header| header.features.contains(Features::GROUPED))
    };
    files.filter(is_grouped).collect()
}

pub(super) fn files_freed(world: &World) -> u64 {
    world.logs.iter().map(|log| log.counters().grouping.files).sum()
}

fn bytes_of_segments(world: &World) -> u64 {
    segment_files(world).iter().map(|(_, length)| length).sum()
}

/// Checks that the tools find each message once. Returns how many they find.
fn inspected(world: &World) -> u64 {
    let mut verified = 0;
    inspect::verify(&world.disk, &world.moment(), |file| {
        assert!(file.damage.is_empty(), "{file:?}");
        verified += file.messages;
    })
    .unwrap();
    let contents = inspect::Contents::read(&world.disk, &world.moment()).unwrap();
    let mut dumped = 0;
    for queue in 0..QUEUES {
        let mut last = BTreeMap::new();
        let take = |partition, stored: crate::base::batch::StoredBatch| {
            dumped += u64::from(stored.batch.count());
            let before = last.insert(partition, stored.end_offset());
            assert!(before.is_none_or(|before| before <= stored.base_offset), "{partition:?} goes back");
            Ok(())
        };
        let name = name(queue);
        if let Some(done) = contents.dump(&world.disk, &name, inspect::Kind::Messages, take, |_, _| panic!())
        {
            done.unwrap();
        }
    }
    assert_eq!(verified, dumped);
    dumped
}

#[test]
fn a_queue_that_stays_does_not_keep_the_segments_of_a_consumed_one() {
    let mut world = lone(1, config());
    let mut worst = 0;
    for round in 0..80 {
        store_mixed(&mut world);
        consume(&mut world);
        idle(&mut world, 12);
        if round > 20 {
            worst = worst.max(world.segments());
        }
    }
    let stays: u64 = [0, 1].map(|partition| world.offsets(long(partition)).len() as u64 * 200).iter().sum();
    let bytes = bytes_of_segments(&world);
    // Those that are written or recent, two files that are free, and the headers of grouped ones.
    let fixed = 6 * config().segment_bytes + world.segments() as u64 * 3 * BLOCK as u64;
    assert!(bytes < 2 * stays + fixed, "{bytes} bytes for {stays} that stay, {worst} files");
    assert!(files_freed(&world) > 40, "{}", files_freed(&world));
    assert!(worst < 60, "{worst} files");
    world.check();
    for _ in 0..3 {
        world.crash();
        world.check();
        idle(&mut world, 20);
        world.check();
    }
}

#[test]
fn without_the_setting_nothing_is_grouped() {
    let mut world = sparse(1, Settings { grouping: false, ..config() });
    idle(&mut world, 100);
    assert_eq!(grouped_files(&world), []);
    assert!(world.segments() > 5);
}

#[test]
fn nothing_is_lost_or_doubled_wherever_a_group_is_interrupted() {
    let mut is_one_complete = false;
    for step in 0..seeds().max(120) {
        let mut world = sparse(step % 7, config());
        let before = stays(&mut world);
        world.now = world.now.later(Millis::new(1_000));
        world.tick();
        for _ in 0..step {
            world.disk.advance();
            world.now = world.now.later(Millis::new(20));
            world.tick();
            world.poll();
        }
        is_one_complete |= files_freed(&world) > 0;
        if step % 3 > 0 {
            world.disk.lose_power();
            world.boot += 1;
        } else {
            world.disk.kill();
        }
        let found = inspected(&world);
        let report = world.start();
        assert!(report.damaged.is_empty(), "step {step}: {report:?}");
        assert_eq!(report.messages, found, "step {step}");
        world.check();
        // What was released may come back.
        assert_eq!(stays(&mut world), before, "step {step}");
        idle(&mut world, 40);
        world.check();
        assert_eq!(stays(&mut world), before, "step {step}");
        world.crash();
        world.check();
    }
    assert!(is_one_complete, "some groups were complete");
}

#[test]
fn groups_go_on_beside_everything_else() {
    let mut freed = 0;
    for seed in 0..seeds() {
        let mut world = World::new(seed, config());
        world.all_end = false;
        for _ in 0..4 {
            for _ in 0..world.random.below(60) {
                world.act();
                if world.random.one_in(2) && world.open(WORK.queue.0) {
                    world.append_sized(WORK, 5, &[9_000]);
                }
                if world.random.one_in(4) {
                    let (steps, ms) = (world.random.below(12), world.random.below(900) as u64);
                    world.now = world.now.later(Millis::new(ms));
                    world.tick();
                    for _ in 0..steps {
                        world.disk.advance();
                    }
                }
            }
            if world.random.one_in(3) {
                let (after, count) = (world.random.below(60) as u64, world.random.between(1, 3) as u64);
                world.disk.fail_after(after, EIO, count);
            }
            for _ in 0..world.random.below(30) {
                world.now = world.now.later(Millis::new(400));
                world.tick();
                for _ in 0..world.random.below(20) {
                    world.disk.advance();
                }
                world.poll();
            }
            world.disk.heal();
            freed += files_freed(&world);
            if world.random.one_in(4) {
                world.settle();
                world.restart();
            } else {
                world.crash();
            }
            world.check();
            world.forget_unknown();
        }
        world.settle();
        world.check();
    }
    assert!(freed > seeds() / 4, "{freed} files were freed");
}

#[test]
fn leased_messages_and_state_are_kept_beyond_their_ttl() {
    let mut world = lone(3, config());
    world.note(WORK, 50);
    for _ in 0..6 {
        for _ in 0..5 {
            world.append_sized(WORK, 60, &[10_000]);
            world.append_sized(long(0), TTL, &[20]);
            world.settle();
        }
    }
    let all = world.offsets(WORK);
    let leased = [all[1], all[2], all[12]];
    world.pin(WORK, leased.iter().map(|offset| *offset..*offset + 1).collect());
    idle(&mut world, 4);
    world.logs.iter_mut().for_each(|log| log.set_clock_step_max(Millis::new(1 << 40)));
    world.pass(Millis::new(100_000));
    idle(&mut world, 60);
    assert!(files_freed(&world) > 0, "segments were grouped");
    let stored = world.read_as(WORK, Offset(0), View::Stored).unwrap();
    assert!(leased.iter().all(|leased| stored.iter().any(|(offset, _)| offset == leased)), "{stored:?}");
    assert!(!world.read(hidden(WORK), Offset(0)).unwrap().is_empty());
    world.check();
    // A grouped span is kept by each lease in it.
    world.sent.get_mut(&WORK).unwrap().values_mut().for_each(|message| message.is_pinned = false);
    world.pin(WORK, vec![leased[0]..leased[0] + 1]);
    idle(&mut world, 20);
    let stored = world.read_as(WORK, Offset(0), View::Stored).unwrap();
    assert!(stored.iter().any(|(offset, _)| *offset == leased[0]), "{stored:?}");
    world.check();
    world.crash();
    world.check();
}

#[test]
fn a_damaged_segment_stays_as_it_is() {
    let mut world = sparse(2, config());
    let files = segment_files(&world);
    // A batch that stays, in the first segment.
    let (file, _) = files[0];
    let bytes = world.disk.bytes(file);
    let header = header::SegmentHeader::parse(&bytes).unwrap();
    let scanned = scan::scan(&header, &bytes);
    let id = world.logs[0].id(long(0)).unwrap();
    let (at, _) = scanned.batches.iter().find(|(_, of)| (of.incarnation, of.partition) == id).unwrap();
    let at = *at as usize + format::BATCH_HEADER + 3;
    world.disk.flip(file, at, 4);
    idle(&mut world, 60);
    assert!(!grouped_files(&world).is_empty(), "the others are grouped");
    assert_eq!(world.disk.bytes(file)[at] ^ 4, bytes[at]);
    let mut is_found = false;
    inspect::verify(&world.disk, &world.moment(), |verified| {
        is_found |= verified.file == file && !verified.damage.is_empty();
    })
    .unwrap();
    assert!(is_found, "the damage is found later, too");
    world.disk.flip(file, at, 4);
    world.check();
}

#[test]
fn a_grouped_segment_without_its_index_is_scanned_and_its_damage_is_found() {
    for is_damaged in [false, true] {
        let mut world = sparse(4, config());
        idle(&mut world, 60);
        let before = stays(&mut world);
        let file = *grouped_files(&world).first().expect("a grouped segment");
        world.stop();
        world.disk.run(&Step::Remove(index_of(file).unwrap())).unwrap();
        let bytes = world.disk.bytes(file);
        if is_damaged {
            // In the last batch of the last round.
            let last = bytes.iter().rposition(|byte| *byte != 0).unwrap();
            world.disk.flip(file, last, 1);
        }
        let report = world.start();
        assert_eq!(report.damaged.iter().any(|damaged| damaged.file == file), is_damaged, "{report:?}");
        assert_eq!(stays(&mut world) == before, !is_damaged);
        world.sent.clear();
        world.told.clear();
    }
}

#[test]
fn a_reader_of_an_old_segment_reads_on() {
    let mut world = sparse(5, config());
    let expected: Vec<(Offset, u64)> = world.read(long(0), Offset(0)).unwrap();
    world.now = world.now.later(Millis::new(1_000));
    world.tick();
    for _ in 0..400 {
        world.disk.advance();
        world.now = world.now.later(Millis::new(10));
        world.tick();
        assert_eq!(world.read(long(0), Offset(0)).unwrap(), expected);
    }
    assert!(files_freed(&world) > 0);
}

#[test]
fn scattered_partitions_get_few_runs() {
    let mut world = lone(6, config());
    for _ in 0..80 {
        for key in all_keys() {
            // Far enough apart that they make runs of their own.
            world.append_sized(key, TTL, &[800]);
            world.settle();
        }
    }
    let runs = |world: &World| -> u64 {
        let kept = world.logs[0].segments.kept();
        kept.iter().map(|segment| segment.holding().runs).sum()
    };
    let expected = read_all_numbers(&mut world);
    let before = runs(&world);
    idle(&mut world, 600);
    assert!(runs(&world) * 2 < before, "{} of {before} runs", runs(&world));
    assert_eq!(read_all_numbers(&mut world), expected);
    world.check();
    world.crash();
    world.check();
    inspected(&world);
}

#[test]
fn the_clock_set_back_drops_the_group() {
    let mut world = sparse(7, config());
    world.now = world.now.later(Millis::new(1_000));
    world.tick();
    for _ in 0..3 {
        world.disk.advance();
        world.poll();
    }
    let back = UnixMillis::new(world.now.unix.get() - 100_000_000);
    world.set_clock(back);
    world.append_one(WORK, TTL);
    idle(&mut world, 60);
    world
        .sent
        .values_mut()
        .for_each(|sent| sent.values_mut().for_each(|message| message.expiry = UnixMillis::MAX));
    world.check();
    world.crash();
    world.check();
}

#[test]
fn failing_steps_of_a_group_lose_nothing() {
    for step in 1..=seeds().min(120) {
        let mut world = sparse(step % 5, config());
        let before = stays(&mut world);
        world.disk.fail_after(step, if step % 2 == 0 { EIO } else { ENOSPC }, 1 + step % 3);
        idle(&mut world, 30);
        world.disk.heal();
        idle(&mut world, 300);
        assert_eq!(stays(&mut world), before, "step {step}");
        world.check();
        world.crash();
        assert_eq!(stays(&mut world), before, "step {step}");
        world.check();
        inspected(&world);
    }
}

/// Returns what the store says that it holds, at several times and from several offsets on.
fn counted(world: &mut World, begun: UnixMillis) -> Vec<Holding> {
    assert!(world.open(1));
    let mut all = Vec::new();
    for secs in [0, 30_000, 70_000, 120_000, 2 * TTL] {
        for (partition, from) in [(0, 0), (1, 0), (0, 2), (1, 4), (0, 10), (1, 12)] {
            let (key, unix) = (long(partition), begun + Millis::from_secs(secs));
            let mut holding = world.log_of(key).holding(key, Offset(from), unix).unwrap();
            // When a message was stored is known only where a portion begins or ends.
            for (_, stored) in [&mut holding.oldest, &mut holding.newest].into_iter().flatten() {
                *stored = stored.filter(|_| from == 0);
            }
            all.push(holding);
        }
    }
    all
}

/// Returns the batches that stay, as the tools find them.
fn batches(world: &World) -> Vec<(Partition, Offset, UnixMillis, Batch)> {
    let contents = inspect::Contents::read(&world.disk, &world.moment()).unwrap();
    let mut all = Vec::new();
    let take = |partition, stored: crate::base::batch::StoredBatch| {
        all.push((partition, stored.base_offset, stored.timestamp, stored.batch));
        Ok(())
    };
    let dumped = contents.dump(&world.disk, &name(1), inspect::Kind::Messages, take, |_, _| panic!());
    dumped.unwrap().unwrap();
    all
}

#[test]
fn what_is_counted_and_what_messages_say_is_the_same_after_a_group() {
    for seed in 0..seeds().min(20) {
        let mut world = lone(seed, config());
        let begun = world.now.unix;
        for part in 1..=6 {
            for turn in 0..5 {
                world.append_sized(WORK, TTL, &[10_000]);
                let built = BatchBuilder::new(ClientId::from(7), part * 20_000, 0);
                let headed = part % 2 == 0;
                let built = if headed { built.with_shape(Shape::Headers) } else { built };
                let built = if part == 3 { built.delayed(60_000) } else { built };
                let headers: &[u8] = if headed { b"\x0a\x03one" } else { b"" };
                world.append_built(long(turn % 2), built, &[300, 300], headers);
                world.settle();
            }
        }
        consume(&mut world);
        let (expected, stored) = (counted(&mut world, begun), batches(&world));
        assert!(expected[0].visible > 10 && expected[0].delayed > 0, "{:?}", expected[0]);
        idle(&mut world, 60);
        assert!(files_freed(&world) > 0, "seed {seed}: segments were grouped");
        assert_eq!(counted(&mut world, begun), expected, "seed {seed}");
        assert_eq!(batches(&world), stored, "seed {seed}");
        let mut used = Features::NONE;
        for file in grouped_files(&world) {
            used = used | header::SegmentHeader::parse(&world.disk.bytes(file)).unwrap().features;
        }
        assert_eq!(used, Features::GROUPED | Features::HEADERS | Features::DELAY, "seed {seed}");
        world.settle();
        world.crash();
        assert_eq!(counted(&mut world, begun), expected, "seed {seed}: after a start");
        world.check();
        for file in grouped_files(&world) {
            world.disk.run(&Step::Remove(index_of(file).unwrap())).unwrap();
        }
        world.crash();
        assert_eq!(counted(&mut world, begun), expected, "seed {seed}: after a scan");
        assert_eq!(batches(&world), stored, "seed {seed}");
        world.check();
    }
}

#[test]
fn a_span_that_was_released_in_part_while_it_was_copied_counts_the_rest() {
    for step in 0..40 {
        let mut world = sparse(6, config());
        world.now = world.now.later(Millis::new(1_000));
        world.tick();
        for _ in 0..step {
            world.disk.advance();
            world.now = world.now.later(Millis::new(20));
            world.tick();
            world.poll();
        }
        let offsets = world.offsets(long(0));
        let below = offsets[offsets.len() / 2];
        world.release(long(0), below);
        idle(&mut world, 60);
        let unix = world.now.unix;
        let held = world.log_of(long(0)).holding(long(0), Offset(0), unix).unwrap();
        let read = world.read(long(0), Offset(0)).unwrap();
        assert!(held.visible < offsets.len() as u64, "step {step}");
        assert_eq!(held.visible, read.len() as u64, "step {step}");
        assert_eq!(held.oldest.unwrap().0, read[0].0, "step {step}");
        world.check();
    }
}
