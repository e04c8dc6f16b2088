//! Power loss, killed processes and failing steps: nothing acknowledged is lost, and service resumes.

use super::*;
use crate::base::millis::Millis;

#[test]
fn acknowledged_messages_survive_power_loss_and_kill() {
    for seed in 0..seeds() {
        let durability = if seed % 4 == 0 { Durability::Os } else { Durability::Fsync };
        let mut world = World::new(seed, Settings { durability, ..config() });
        for _ in 0..4 {
            if world.random.one_in(2) {
                let (after, count) = (world.random.below(300) as u64, world.random.between(1, 4) as u64);
                world.disk.fail_after(after, EIO, count);
            }
            for _ in 0..world.random.below(400) {
                world.act();
            }
            world.disk.heal();
            world.crash();
            world.check();
            world.forget_unknown();
        }
        world.settle();
        world.check();
    }
}

#[test]
fn messages_of_a_failed_round_do_not_come_back() {
    let key = PartitionKey { queue: QueueId(0), partition: Partition(0) };
    for seed in 0..seeds() {
        let mut world = World::new(seed, config());
        assert!(world.open(0));
        // Write more than half of a segment, so that the next one is ready.
        for _ in 0..4 {
            world.append_sized(key, 100_000, &[9_000]);
            world.settle();
        }
        // The round is written, and its sync fails.
        world.disk.fail_after(2, EIO, 1);
        world.append_sized(key, 100_000, &[20]);
        world.settle();
        world.append_sized(key, 100_000, &[20]);
        world.settle();
        let fates = world.sent[&key].values().rev().map(|message| message.fate);
        let [last, failed] = fates.take(2).collect::<Vec<_>>()[..] else { panic!("two were sent") };
        assert!(
            matches!((failed, last), (Fate::Unknown, Fate::Acknowledged(_))),
            "seed {seed}: {failed:?} {last:?}"
        );
        world.disk.lose_power();
        world.crash();
        world.check();
    }
}

#[test]
fn messages_in_an_index_are_durable() {
    for seed in 0..seeds() {
        let mut world = World::new(seed, Settings { durability: Durability::Os, ..config() });
        for _ in 0..300 {
            world.act();
        }
        world.disk.lose_power();
        let files = world.disk.list().unwrap();
        let is_indexed = |place| files.iter().any(|(file, _)| *file == FileName::Index(place));
        inspect::verify(&world.disk, &world.moment(), |verified| {
            if matches!(verified.file, FileName::Segment(place) if is_indexed(place)) {
                assert!(verified.damage.is_empty() && verified.torn == 0, "seed {seed}: {verified:?}");
            }
        })
        .unwrap();
    }
}

#[test]
fn whichever_step_fails_nothing_acknowledged_is_lost_and_service_resumes() {
    for (errno, count) in [(EIO, 1), (ENOSPC, 1), (EIO, 20), (ENOSPC, 20)] {
        for step in 1..=seeds() {
            let mut world = World::new(step, config());
            world.disk.fail_after(step, errno, count);
            for _ in 0..100 {
                world.act();
            }
            // The failures last for a while at most. Then what was refused is served again.
            world.disk.heal();
            world.settle();
            for second in 1..5 {
                world.now.mono = world.now.mono + Millis::from_secs(second);
                world.tick();
                world.settle();
            }
            let key = PartitionKey { queue: QueueId(0), partition: Partition(1) };
            assert!(world.open(0), "step {step}");
            world.append(key, 100_000);
            world.settle();
            let last = world.sent[&key].last_key_value().unwrap().1.fate;
            assert!(matches!(last, Fate::Acknowledged(_)), "step {step}: {last:?}");
            world.check();
            world.crash();
            world.check();
        }
    }
}

#[test]
fn where_a_torn_round_was_cut_off_it_is_whole() {
    let mut world = World::new(3, Settings { tail_bytes: 0, ..config() });
    let key = all_keys().next().unwrap();
    assert!(world.open(key.queue.0));
    // The first is written alone. The others wait for it, and make up one round.
    for _ in 0..4 {
        world.append_sized(key, 100_000, &[300]);
    }
    world.settle();
    let mut is_cut_within = false;
    for (file, _) in segment_files(&world) {
        let mut bytes = world.disk.bytes(file);
        let Ok(header) = header::SegmentHeader::parse(&bytes) else { continue };
        let whole = scan::scan(&header, &bytes);
        let Some((last, _)) = whole.batches.last().filter(|_| whole.batches.len() > 1) else { continue };
        bytes[*last as usize..].fill(0);
        let cut = scan::scan(&header, &bytes);
        assert_eq!((cut.batches.len(), cut.end, &cut.damage[..]), (whole.batches.len() - 1, *last, &[][..]));
        is_cut_within |= cut.torn > 0 || cut.end < whole.end;
        let again = scan::scan(&header, &bytes[..cut.end as usize]);
        let found = (again.batches.len(), again.end, again.torn, &again.damage[..]);
        assert_eq!(found, (cut.batches.len(), cut.end, 0, &[][..]));
        assert_eq!(scan::scan_sealed(&header, &bytes, cut.end), []);
    }
    assert!(is_cut_within, "there is a round of several batches");
}
