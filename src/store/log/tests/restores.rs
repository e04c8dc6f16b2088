//! Directories that are restored or rolled back, and starts that skip offsets.

use super::*;
use crate::base::millis::Millis;

/// A consumer's marker: its position in every partition, and its timeline.
#[derive(Clone, Debug)]
struct Stand {
    timeline: u64,
    positions: BTreeMap<PartitionKey, Offset>,
    /// The messages that it has seen.
    seen: BTreeSet<u64>,
}

impl Stand {
    /// Returns the marker of a consumer that has read everything.
    fn take(world: &mut World) -> Self {
        let mut stand =
            Self { timeline: world.timeline(), positions: BTreeMap::new(), seen: BTreeSet::new() };
        for key in all_keys() {
            assert!(world.open(key.queue.0));
            let read = world.read(key, Offset(0)).unwrap();
            stand.positions.insert(key, read.last().map_or(Offset::ZERO, |(offset, _)| *offset + 1));
            stand.seen.extend(read.iter().map(|(_, number)| *number));
        }
        stand
    }

    /// Returns the numbers that it reads from where the server lets it continue.
    fn go_on(&self, world: &mut World) -> Vec<u64> {
        let mut all = Vec::new();
        for key in all_keys() {
            assert!(world.open(key.queue.0));
            let position = Position::After { timeline: self.timeline, offset: self.positions[&key] };
            let from = world.resolve(key, position);
            assert!(from <= self.positions[&key], "a start skips nothing");
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
        let mut given: BTreeMap<PartitionKey, BTreeSet<Offset>> = BTreeMap::new();
        let mut backups = Vec::new();
        let mut was_restored = false;
        for _ in 0..6 {
            for _ in 0..world.random.below(60) {
                let key = PartitionKey {
                    queue: QueueId(world.random.below(QUEUES as usize) as u64),
                    partition: Partition(world.random.below(PARTITIONS.into()) as u16),
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
                        // An older backup is restored, on this machine or on another.
                        was_restored = true;
                        let (backup, sent) = backups[world.random.below(backups.len())].clone();
                        world.disk.restore(&backup, false);
                        world.sent = sent;
                        world.boot += u128::from(world.random.one_in(2));
                    }
                    world.start();
                }
            }
            // What is stored now reaches every earlier consumer, under an id that no message had.
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
                    assert!(got.is_disjoint(&stand.seen), "seed {seed}: messages are repeated without need");
                }
            }
        }
    }
}

#[test]
fn a_rollback_that_is_not_noticed_skips_nothing() {
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
        // Messages that are stored before the consumer returns are not skipped either, although the log has
        // grown beyond its marker.
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
fn a_lost_history_never_locks_consumers_out_however_often_the_server_starts() {
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
                "markers with the lost key are accepted as the queue's"
            );
            let key = PartitionKey { queue: QueueId(0), partition: Partition(0) };
            assert!(world.open(0));
            let position = Position::After { timeline: marks.timeline, offset: Offset(3) };
            assert_eq!(
                world.resolve(key, position),
                Offset(0),
                "such a consumer begins at the oldest message"
            );
            world.stop();
        }
    }
}

#[test]
fn offsets_that_a_start_skips_do_not_count_as_messages() {
    let key = PartitionKey { queue: QueueId(0), partition: Partition(0) };
    // Returns the messages stored since the start, all messages, those from the third on, and the end of the
    // partition.
    let counted = |world: &mut World| {
        assert!(world.open(0));
        let (incarnation, _) = world.log_of(key).id(key).unwrap();
        let signing = Default::default();
        let info = QueueInfo {
            id: key.queue,
            incarnation,
            partitions: PARTITIONS,
            hash: 0,
            signing,
            policy: Default::default(),
        };
        let tail = world.log_of(key).tail(&info, key.partition).unwrap();
        (tail.stored, tail.messages_from(Offset(0)), tail.messages_from(Offset(2)), tail.end)
    };
    let store = |world: &mut World, count: usize| {
        world.append_sized(key, 100_000, &vec![1; count]);
        world.settle();
    };
    let mut world = World::new(7, config());
    assert_eq!(counted(&mut world), (0, 0, 0, Offset(0)));
    store(&mut world, 3);
    assert_eq!(counted(&mut world), (3, 3, 1, Offset(3)));
    world.stop();
    // In another boot, offsets are skipped before the next message.
    world.boot += 1;
    world.start();
    assert_eq!(counted(&mut world), (0, 3, 1, Offset(3)));
    store(&mut world, 2);
    let (stored, all, from, end) = counted(&mut world);
    assert_eq!((stored, all, from), (2, 5, 3));
    assert!(end > Offset(1 << 40), "offsets were skipped: {end}");
    // In the same boot, the offsets that the previous start skipped are still known.
    world.restart();
    assert_eq!(counted(&mut world), (0, 5, 3, end));
    store(&mut world, 1);
    assert_eq!(counted(&mut world), (1, 6, 4, end + 1));
}

#[test]
fn a_mark_after_skipped_offsets_sends_no_reader_back() {
    let mut world = World::new(1, config());
    let key = PartitionKey { queue: QueueId(0), partition: Partition(0) };
    assert!(world.open(0));
    world.append(key, 20);
    world.settle();
    // The machine reboots. Once everything has expired, a mark keeps the end of the partition.
    world.disk.lose_power();
    world.boot += 1;
    assert!(world.start().is_branch && world.open(0));
    world.pass(Millis::new(30_000));
    let mut from = Offset::ZERO;
    for _ in 0..4 {
        world.next += 1;
        let (token, now) = (world.next, world.now);
        let (bytes_max, exclude, wait) = (2000, None, false);
        let request =
            Request::Fetch { token, partition: key, from, bytes_max, exclude, view: View::Unclaimed, wait };
        assert!(world.log_of(key).submit(now, request).is_ok());
        world.settle();
        let fetched = world.reads.remove(&token).unwrap().unwrap();
        assert!(!fetched.is_rewound, "a reader at {from} was sent back");
        from = fetched.next;
    }
}
