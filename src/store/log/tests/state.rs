//! Hidden partitions, releases and pins: what they keep and what they let go.

use super::*;
use crate::access::{ProjectLimits, Use};
use crate::base::batch::{Record, Shape};
use crate::base::millis::{Millis, UnixMillis};
use crate::base::names::queue_hash;
use crate::base::queue::owner;

const KEY: PartitionKey = PartitionKey { queue: QueueId(0), partition: Partition(0) };
const TTL: u32 = 1_000_000;

/// Creates a world of one shard whose queues are open.
fn lone(config: Settings) -> World {
    let worlds = (0..).map(|seed| World::new(seed, config.clone()));
    let mut world = worlds.into_iter().find(|world| world.shards() == 1).unwrap();
    assert!((0..QUEUES).all(|queue| world.open(queue)));
    world
}

/// Stores messages that fill about a segment, in several rounds.
fn fill_segment(world: &mut World, key: PartitionKey) {
    for _ in 0..5 {
        world.append_sized(key, TTL, &[10_000]);
        world.settle();
    }
}

fn end(world: &World, key: PartitionKey) -> Offset {
    *world.offsets(key).last().unwrap() + 1
}

fn features(world: &World) -> BTreeSet<u64> {
    let header = |file| header::SegmentHeader::parse(&world.disk.bytes(file)).unwrap();
    segment_files(world).into_iter().map(|(file, _)| header(file).features.0).collect()
}

#[test]
fn a_consumed_queue_keeps_the_disk_small_whatever_its_ttl() {
    for has_state in [false, true] {
        let mut world = lone(config());
        let mut most = 0;
        for round in 0..60 {
            if has_state {
                world.note(KEY, 500);
            }
            fill_segment(&mut world, KEY);
            let below = end(&world, KEY);
            world.release(KEY, below);
            world.pass(Millis::new(1_000));
            if round > 5 {
                most = most.max(world.segments());
            }
        }
        // Those of the notes, the active one, the next one, and one that is free.
        let limit = if has_state { 8 } else { 4 };
        assert!(most <= limit, "{most} files, with state: {has_state}");
        let counters = world.logs[0].counters();
        assert_eq!((counters.expired, counters.dropped, counters.stored), (0, 0, 300));
        world.crash();
        world.check();
    }
}

#[test]
fn a_release_beyond_the_end_takes_nothing_that_is_stored_later() {
    let mut world = lone(config());
    world.append_sized(KEY, TTL, &[10]);
    world.settle();
    let first = world.next;
    world.log_of(KEY).release(KEY, Offset(1 << 40));
    for _ in 0..4 {
        fill_segment(&mut world, KEY);
        world.pass(Millis::new(1_000));
    }
    let read = world.read(KEY, Offset(0)).unwrap();
    assert_eq!(read.iter().filter(|(_, number)| *number >= first).count(), 20);
    world.sent.clear();
}

#[test]
fn state_alone_keeps_few_segments_beside_messages_that_stay() {
    let mut world = lone(config());
    let kept = PartitionKey { queue: QueueId(1), partition: Partition(0) };
    world.note(kept, 100);
    for _ in 0..20 {
        world.note(KEY, 100);
        fill_segment(&mut world, KEY);
        let below = end(&world, KEY);
        world.release(KEY, below);
        world.pass(Millis::new(1_000));
    }
    // The snapshots move on, although nothing of their partition changes.
    let oldest = *world.offsets(hidden(kept)).last().unwrap();
    assert!(oldest > Offset(3) && world.segments() <= 8, "{oldest}, {} files", world.segments());
    // Once nobody writes snapshots, each note keeps its segment.
    let id = world.logs[0].id(hidden(kept)).unwrap();
    let before = world.segments();
    world.note(kept, 100);
    for _ in 0..6 {
        fill_segment(&mut world, KEY);
        let below = end(&world, KEY);
        world.release(KEY, below);
        world.now = world.now.later(Millis::new(1_000));
        let now = world.now;
        world.logs[0].handle_tick(now);
        world.settle();
    }
    assert_eq!(world.logs[0].poll_stale_state().map(|key| key.queue.0 < 2), Some(true));
    assert!(world.logs[0].partitions.get(id).unwrap().past.has_messages());
    assert!(world.segments() <= before + 3, "{} files: state alone keeps one or two", world.segments());
    world.crash();
    world.check();
}

#[test]
fn an_earlier_run_s_messages_stay_until_the_first_pin_and_then_only_the_pinned_ones() {
    let mut world = lone(config());
    world.note(KEY, 10);
    for _ in 0..6 {
        for _ in 0..5 {
            world.append_sized(KEY, 60, &[10_000]);
            world.settle();
        }
    }
    let stored = world.read(KEY, Offset(0)).unwrap();
    world.crash();
    assert!((0..QUEUES).all(|queue| world.open(queue)));
    world.logs.iter_mut().for_each(|log| log.set_clock_step_max(Millis::new(1 << 40)));
    world.pass(Millis::new(100_000));
    world.log_of(KEY).release(KEY, Offset(20));
    world.pass(Millis::new(10_000));
    assert_eq!(world.read_as(KEY, Offset(0), View::Stored).unwrap(), stored);
    assert_eq!(world.read(KEY, Offset(0)).unwrap(), [], "they have expired");
    world.log_of(KEY).pin(KEY, vec![Offset(21)..Offset(22), Offset(26)..Offset(27)]);
    world.append_sized(KEY, TTL, &[100]);
    world.pass(Millis::new(10_000));
    let read = world.read_as(KEY, Offset(0), View::Stored).unwrap();
    let left: Vec<u64> = read.iter().map(|(offset, _)| offset.0).collect();
    assert!(left.contains(&21) && left.contains(&26), "{left:?}");
    assert!(left[0] >= 15 && left.len() < 20, "{left:?}: what was released, and what is not pinned, goes");
    world.log_of(KEY).pin(KEY, Vec::new());
    world.pass(Millis::new(10_000));
    let read = world.read_as(KEY, Offset(0), View::Stored).unwrap();
    assert!(read.len() < 6, "{read:?}: only the segment that is written is left");
}

#[test]
fn the_operator_s_limit_drops_messages_and_never_state() {
    let mut world = lone(Settings { max_bytes: 6 * (64 << 10), ..config() });
    world.note(KEY, 10);
    world.settle();
    for _ in 0..12 {
        fill_segment(&mut world, KEY);
        let all = vec![Offset(0)..end(&world, KEY)];
        world.log_of(KEY).pin(KEY, all);
        world.now = world.now.later(Millis::new(1_000));
        let now = world.now;
        world.logs[0].handle_tick(now);
        world.settle();
    }
    let read = world.read_as(KEY, Offset(0), View::Stored).unwrap();
    assert!(read[0].0 > Offset(20), "the oldest are dropped, although they are pinned");
    assert!(world.logs[0].counters().dropped > 20);
    assert_eq!(world.logs[0].poll_stale_state(), Some(KEY));
    assert_eq!(world.logs[0].poll_stale_state(), None, "once at a tick");
    assert_eq!(world.read(hidden(KEY), Offset(0)).unwrap().len(), 1);
    let before = world.segments();
    world.crash();
    assert!(world.open(0));
    world.check_partition(hidden(KEY));
    for _ in 0..3 {
        world.pass(Millis::new(1_000));
    }
    assert!(world.segments() <= before);
    world.check_partition(hidden(KEY));
}

#[test]
fn state_does_not_count_as_messages() {
    let mut world = lone(Settings { grouping: false, ..config() });
    let tenants = ProjectLimits { storage_bytes: 1 << 40, ..ProjectLimits::default() };
    let tenants = Arc::new(Tenants::new(tenants));
    let tenant = tenants.get(&name(0).0, Millis::ZERO);
    (0..QUEUES).for_each(|queue| tenants.hold_queue(QueueId(queue), tenant.hold(Use::Queue)));
    world.logs[0].count_for(&tenants);
    world.append_sized(KEY, TTL, &[100]);
    world.settle();
    let counted = |world: &World| {
        let held = world.logs[0].describe(world.now.unix).unwrap();
        let sum: (u64, u64) =
            held.iter().fold((0, 0), |sum, (_, held)| (sum.0 + held.messages, sum.1 + held.bytes));
        (sum, world.logs[0].counters(), tenant.storage())
    };
    let before = counted(&world);
    for _ in 0..30 {
        world.note(KEY, 9_000);
        world.settle();
    }
    let now = world.now;
    world.logs[0].handle_tick(now);
    assert_eq!(counted(&world), before);
    let id = world.logs[0].id(KEY).unwrap();
    let report = world.crash();
    assert_eq!(report.messages, 1);
    let history = history::History::parse(&world.disk.bytes(FileName::History)).unwrap();
    let end_of = |partition| history.resume(world.timeline() ^ 1, (id.0, partition), Offset(9));
    assert_eq!(end_of(KEY.partition.state()), Offset(0));
    let contents = inspect::Contents::read(&world.disk, &world.moment()).unwrap();
    let queues = contents.queues(UnixMillis::ZERO);
    assert_eq!(queues.iter().map(|(_, held)| held.messages).sum::<u64>(), 1);
    let mut dumped = [0, 0];
    for (kind, count) in [inspect::Kind::Messages, inspect::Kind::State].into_iter().zip(&mut dumped) {
        let take = |partition, stored: crate::base::batch::StoredBatch| {
            assert_eq!(partition, KEY.partition);
            *count += stored.batch.count();
            Ok(())
        };
        contents.dump(&world.disk, &name(0), kind, take, |_, _| panic!("undamaged")).unwrap().unwrap();
    }
    assert_eq!(dumped, [1, 30]);
    let mut verified = (0, 0);
    inspect::verify(&world.disk, &world.moment(), |file| {
        verified = (verified.0 + file.messages, verified.1 + file.notes);
    })
    .unwrap();
    assert_eq!(verified, (1, 30));
    // A full disk refuses notes as well, and counts only messages.
    assert!(world.open(0));
    world.disk.fail_after(1, ENOSPC, 1_000);
    world.note(KEY, 10);
    world.append_sized(KEY, TTL, &[10, 10]);
    world.settle();
    assert_eq!(world.logs.iter().map(|log| log.counters().refused).sum::<u64>(), 2);
}

#[test]
fn state_is_given_to_the_owner_of_the_messages_and_told_once_by_it() {
    for seed in 0..seeds() / 4 {
        let mut world = World::new(seed, config());
        let keys: Vec<PartitionKey> = all_keys().collect();
        for key in &keys {
            assert!(world.open(key.queue.0));
            world.note(*key, 10);
        }
        world.settle();
        world.crash();
        let told = |world: &mut World| {
            let mut told = Vec::new();
            for shard in 0..world.shards() {
                while let Some(key) = world.logs[usize::from(shard)].poll_stateful() {
                    let (project, queue) = name(key.queue.0);
                    assert_eq!(owner(queue_hash(&project, &queue), key.partition, world.shards()), shard);
                    told.push(key);
                }
            }
            world.told.extend(&told);
            told.sort_by_key(|key| (key.queue.0, key.partition));
            told
        };
        assert_eq!(told(&mut world), [], "no queue is open");
        let first = all_keys().filter(|key| key.queue.0 == 0).collect::<Vec<_>>();
        assert!(world.open(0));
        assert_eq!(told(&mut world), first);
        assert!((0..QUEUES).all(|queue| world.open(queue)));
        let rest = keys.iter().copied().filter(|key| key.queue.0 > 0).collect::<Vec<_>>();
        assert_eq!(told(&mut world), rest);
        world.check();
    }
}

#[test]
fn a_deleted_queue_takes_its_state_with_it() {
    let mut world = lone(config());
    for _ in 0..3 {
        world.note(KEY, 40_000);
        world.settle();
    }
    let (incarnation, _) = world.logs[0].id(KEY).unwrap();
    world.submit_delete(KEY.queue.0);
    world.settle();
    world.forget_queue(KEY.queue.0, incarnation);
    world.sent.clear();
    world.pass(Millis::new(1_000));
    assert!(world.logs[0].segments.kept().is_empty(), "its segments are free");
    assert!(world.logs[0].partitions.of_queue(incarnation).is_empty());
    world.crash();
    assert!(world.open(KEY.queue.0));
    assert_eq!(world.read(hidden(KEY), Offset(0)).unwrap(), []);
    assert!(world.logs.iter_mut().all(|log| log.poll_stateful().is_none()));
}

#[test]
fn damaged_state_does_not_prevent_a_start_and_its_offsets_are_not_given_again() {
    for seed in 0..seeds() / 4 {
        let mut world = World::new(seed, config());
        assert!((0..QUEUES).all(|queue| world.open(queue)));
        for _ in 0..world.random.between(5, 40) {
            world.note(KEY, 3_000);
            world.append_sized(KEY, TTL, &[100]);
            world.settle();
        }
        let given: BTreeSet<Offset> = world.offsets(hidden(KEY)).into_iter().collect();
        world.disk.kill();
        let files = segment_files(&world);
        let (file, length) = files[world.random.below(files.len())];
        let all = world.disk.list().unwrap();
        let is_indexed = all.iter().any(|(of, _)| Some(*of) == index_of(file));
        // A file without an index leaves no trace.
        if is_indexed && world.random.one_in(2) {
            world.disk.run(&Step::Remove(file)).unwrap();
        } else {
            (2..length / BLOCK as u64).for_each(|block| world.disk.spoil(file, block));
        }
        let report = world.start();
        assert!((0..QUEUES).all(|queue| world.open(queue)));
        let left = world.read(hidden(KEY), Offset(0)).unwrap();
        assert!(left.iter().all(|(offset, _)| given.contains(offset)), "seed {seed}");
        world.sent.clear();
        world.note(KEY, 10);
        world.settle();
        let next = world.offsets(hidden(KEY))[0];
        let is_used = left.len() < given.len();
        assert!(!given.contains(&next) || left.is_empty(), "seed {seed}: {next}, {report:?}");
        assert!(!is_used || !report.damaged.is_empty() || next > *given.last().unwrap(), "seed {seed}");
        let read = world.read(hidden(KEY), Offset(0)).unwrap();
        assert_eq!(read.len(), left.len() + 1, "seed {seed}: what is left is read up to the end");
    }
}

#[test]
fn segments_have_version_1_until_a_feature_is_needed_and_after_it_is_not() {
    let mut world = lone(config());
    fill_segment(&mut world, KEY);
    assert_eq!(features(&world), [0].into());
    // A delay, in the middle of a segment.
    world.append_sized(KEY, TTL, &[10]);
    world.settle();
    assert!(world.logs[0].writer.active().is_some_and(|active| !active.spans.is_empty()));
    let partition = KEY;
    let late = crate::store::conformance::batch(1, 100, &[b"late"]).delayed(5);
    let append = Request::Append { token: 1 << 40, stream: Stream(1), partition, batch: late };
    world.appends.insert(1 << 40, (KEY, Vec::new()));
    assert!(world.logs[0].submit(world.now, append).is_ok());
    world.settle();
    let active = |world: &World| world.logs[0].writer.active().unwrap().header.features.0;
    assert_eq!((features(&world), active(&world)), ([0, 2].into(), 2), "the segment with the delay says so");
    for _ in 0..4 {
        fill_segment(&mut world, KEY);
    }
    assert_eq!(active(&world), 0, "a segment after one without delays has none");
    // Headers, likewise. The header of the segment names what its batches need, as bit 4.
    let mut headers = BatchBuilder::new(ClientId::from(1), 100, 0).with_shape(Shape::Headers);
    headers.push_record(Record { headers: b"\x0a\0", ..Record::plain(b"with headers") });
    let append = Request::Append { token: 2 << 40, stream: Stream(1), partition, batch: headers.close() };
    world.appends.insert(2 << 40, (KEY, Vec::new()));
    assert!(world.logs[0].submit(world.now, append).is_ok());
    world.settle();
    assert_eq!(active(&world), 16);
    for _ in 0..4 {
        fill_segment(&mut world, KEY);
    }
    assert_eq!(active(&world), 0);
    // State stays as long as its queue.
    let before = world.segments();
    for _ in 0..5 {
        world.note(KEY, 10);
        fill_segment(&mut world, KEY);
    }
    let added = world.segments() - before;
    assert!(added <= 7, "{added} files: only one segment ends early");
    assert_eq!(active(&world), 1);
    world.crash();
    assert!(world.open(0));
    world.append_sized(KEY, TTL, &[10]);
    world.settle();
    let active = world.log_of(KEY).writer.active().unwrap().header.features.0;
    assert_eq!(active, 1, "the next note does not end the segment");
}

#[test]
fn a_segment_with_unsupported_features_is_refused_by_their_names() {
    let mut world = lone(config());
    world.append_sized(KEY, TTL, &[10]);
    world.settle();
    world.stop();
    world.logs.clear();
    let (file, _) = segment_files(&world)[0];
    let header = header::SegmentHeader::parse(&world.disk.bytes(file)).unwrap();
    let header = header::SegmentHeader { features: features::Features(1 << 2 | 1 << 9), ..header };
    world.disk.run(&Step::Write(file, 0, Arc::new(header.encode()))).unwrap();
    let why = open(&world.disk, 1, 64 << 10, &world.moment()).unwrap_err().to_string();
    let told = "00000000.segment: it uses features that this server does not support (produce sessions, feature 9): use a newer server";
    assert_eq!(why, told);
    let why = inspect::verify(&world.disk, &world.moment(), |_| {}).unwrap_err();
    assert_eq!(why.to_string(), told);
}

#[test]
fn a_full_disk_recovers_once_all_is_released() {
    let mut world = lone(config());
    world.disk.limit(5 * (64 << 10) + 4096);
    let keys: Vec<PartitionKey> = all_keys().take(5).collect();
    // A file for each partition, and no room for another.
    for key in &keys {
        world.append_sized(*key, TTL, &[50_000]);
        world.settle();
    }
    world.append_sized(keys[0], TTL, &[50_000]);
    world.settle();
    assert_eq!(world.logs[0].counters().refused, 1, "the disk is full");
    world.pass(Millis::new(5_000));
    world.append(keys[0], TTL);
    world.settle();
    assert!(world.logs[0].counters().refused > 1, "it stays full");
    for key in &keys {
        let below = end(&world, *key);
        world.release(*key, below);
    }
    for _ in 0..10 {
        world.pass(Millis::new(2_000));
    }
    for key in keys {
        world.append(key, TTL);
        world.settle();
        let last = world.sent[&key].last_key_value().unwrap().1.fate;
        assert!(matches!(last, Fate::Acknowledged(_)), "{last:?}");
    }
    world.crash();
    world.check();
}
