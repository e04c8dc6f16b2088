//! Backups of a running log: cuts, holds, and copies while the shards go on.

use std::ops::ControlFlow;
use std::sync::Mutex;

use super::grouping::{files_freed, grouped_files, idle, sparse};
use super::*;
use crate::base::millis::Millis;
use crate::base::names::queue_hash;
use crate::base::queue::owner;
use crate::store::log::backup::{Advance, Backup, BackupError, Earlier};
use crate::store::log::recovery::Damaged;

/// The answer to a request for a cut, once there is one.
type Asked = Arc<Mutex<Option<Result<Cut, NoCut>>>>;

/// What clients know of the messages of each partition.
type Sent = BTreeMap<PartitionKey, BTreeMap<u64, Message>>;

fn ask(world: &World, id: u64) -> Asked {
    let asked: Asked = Arc::default();
    let taken = asked.clone();
    world.dir.as_ref().unwrap().begin_cut(id, world.shards(), move |cut| *taken.lock().unwrap() = Some(cut));
    asked
}

fn answer(asked: &Asked) -> Option<Result<Cut, NoCut>> {
    asked.lock().unwrap().clone()
}

/// Lets clients go on until the cut is made. Returns it with what clients knew before.
fn cut_under_load(world: &mut World, id: u64) -> (Cut, Now, Sent) {
    let mut sent = world.sent.clone();
    for message in sent.values_mut().flat_map(BTreeMap::values_mut) {
        if message.fate == Fate::UnderWay {
            message.fate = Fate::Unknown;
        }
    }
    let asked = ask(world, id);
    for _ in 0..1_000 {
        if let Some(cut) = answer(&asked) {
            return (cut.unwrap(), world.now, sent);
        }
        if !world.disk.advance() || world.random.one_in(3) {
            let key = random_key(world);
            if world.open.contains(&key.queue.0) {
                world.append(key, 100_000);
            }
        }
        world.poll();
    }
    panic!("seed {}: there is no cut", world.seed);
}

fn random_key(world: &mut World) -> PartitionKey {
    PartitionKey {
        queue: QueueId(world.random.below(QUEUES as usize) as u64),
        partition: Partition(world.random.below(PARTITIONS.into()) as u16),
    }
}

/// Copies a cut while clients go on, with the segments that an earlier backup holds. Returns the copy, what
/// could not be read, and how many segments were copied and kept.
fn copy(
    world: &mut World,
    cut: &Cut,
    before: Option<&Simulated>,
) -> Result<(Simulated, Vec<Damaged>, usize, usize), BackupError> {
    let (source, target) = (world.disk.clone(), Simulated::new(world.seed ^ 0xbac));
    let earlier = before.map(|before| Earlier::read(before).unwrap().unwrap()).unwrap_or_default();
    let backup = Backup { source: &source, cut, target: &target, earlier: &earlier };
    let (mut copied, mut kept) = (0, 0);
    let unix = world.now.unix;
    let adopt = |file| {
        let before = before.unwrap();
        let (_, length) = before.list().unwrap().into_iter().find(|(of, _)| *of == file).unwrap();
        let bytes = disk::read_all(before, file, length).unwrap();
        let steps = [Step::Create(file), Step::Write(file, 0, Arc::new(bytes)), Step::Sync(file)];
        disk::run_all(&target, &steps).unwrap();
        true
    };
    let damaged = backup.run(unix, adopt, |step| {
        match step {
            Advance::Copied(_) => copied += 1,
            Advance::Kept(_) => kept += 1,
        }
        for _ in 0..world.random.below(40) {
            world.act();
        }
        ControlFlow::Continue(())
    })?;
    Ok((target, damaged, copied, kept))
}

/// Starts a server on a copy, with what clients knew at the cut.
fn restore(world: &World, disk: &Simulated, now: Now, sent: &Sent) -> (World, Report) {
    let mut restored = World {
        random: Random(world.seed ^ 1),
        disk: disk.clone(),
        config: world.config.clone(),
        logs: Vec::new(),
        sent: sent.clone(),
        appends: HashMap::new(),
        open: BTreeSet::new(),
        reads: HashMap::new(),
        dir: None,
        told: BTreeSet::new(),
        now,
        ..*world
    };
    let report = restored.start();
    (restored, report)
}

fn verified(disk: &Simulated, world: &World) -> bool {
    let mut is_whole = true;
    let verified = |found: inspect::Verified| is_whole &= found.damage.is_empty() && found.torn == 0;
    inspect::verify(disk, &world.moment(), verified).unwrap();
    is_whole
}

#[test]
fn a_backup_under_load_has_all_that_was_acknowledged_though_files_expire_and_are_reused() {
    let mut all_kept = 0;
    for seed in 0..seeds().div_ceil(8) {
        let mut world = World::new(seed, config());
        let mut before: Option<Simulated> = None;
        for id in 1..=3 {
            for _ in 0..world.random.below(600) {
                world.act();
            }
            let (cut, now, sent) = cut_under_load(&mut world, id);
            // All that may go goes, and its files are reused.
            let keys: Vec<PartitionKey> = world.sent.keys().copied().collect();
            for key in keys.into_iter().filter(|key| key.partition.of_state().is_none()) {
                world.release(key, Offset(u64::MAX));
            }
            world.pass(Millis::new(30_000));
            for _ in 0..200 {
                world.act();
            }
            let (target, damaged, copied, kept) = copy(&mut world, &cut, before.as_ref())
                .unwrap_or_else(|error| panic!("seed {seed}: {error}"));
            assert_eq!((damaged, copied + kept), (vec![], cut.segments.len()), "seed {seed}");
            assert_eq!(world.dir.as_ref().unwrap().end_hold(id), Ok(()), "seed {seed}");
            all_kept += kept;
            target.lose_power();
            assert!(verified(&target, &world), "seed {seed}");
            // The next backup needs this one unchanged.
            let saved = target.backup();
            let (mut restored, report) = restore(&world, &target, now, &sent);
            assert!(report.damaged.is_empty() && report.torn == 0, "seed {seed}: {report:?}");
            restored.check();
            for _ in 0..100 {
                restored.act();
            }
            restored.crash();
            restored.check();
            let whole = Simulated::new(seed);
            whole.restore(&saved, false);
            before = Some(whole);
            world.settle();
            world.check();
        }
        // Nothing is held any more.
        world.pass(Millis::new(200_000_000));
        world.crash();
        world.check();
    }
    assert!(all_kept > 0, "no segment was taken from an earlier backup");
}

/// What follows from a message of another shard must not be in a cut without that message.
#[test]
fn a_cut_is_one_moment_in_all_shards() {
    let mut cuts = 0;
    for seed in 0..seeds() {
        let mut world = World::new(seed, config());
        if world.shards() < 2 {
            continue;
        }
        let keys: Vec<PartitionKey> = all_keys().collect();
        assert!((0..QUEUES).all(|queue| world.open(queue)));
        // Each message is sent after the one before it is stored, to another partition.
        let (mut chain, mut asked) = (Vec::new(), None);
        let begin = world.random.between(5, 200);
        for step in 0.. {
            let is_stored = |(key, number): &(PartitionKey, u64)| {
                matches!(world.sent[key][number].fate, Fate::Acknowledged(_))
            };
            if chain.last().is_none_or(is_stored) {
                let key = keys[world.random.below(keys.len())];
                world.append_sized(key, 100_000, &[10]);
                chain.push((key, world.next - 1));
            }
            if step == begin {
                asked = Some(ask(&world, 1));
            }
            if asked.as_ref().and_then(answer).is_some() {
                break;
            }
            // One shard is slower than the others.
            let shard = world.random.below(world.logs.len());
            let now = world.now;
            let completions: Vec<_> = std::iter::from_fn(|| world.logs[shard].poll_completion(now)).collect();
            world.note_fates(&completions);
            world.disk.advance();
        }
        let cut = answer(&asked.unwrap()).unwrap().unwrap();
        let (target, ..) = copy(&mut world, &cut, None).unwrap();
        let (now, sent) = (world.now, world.sent.clone());
        let (mut restored, _) = restore(&world, &target, now, &sent);
        let mut is_there = Vec::new();
        for (key, number) in &chain {
            assert!(restored.open(key.queue.0));
            let read = restored.read(*key, Offset(0)).unwrap();
            is_there.push(read.iter().any(|(_, of)| of == number));
        }
        assert!(is_there.is_sorted_by(|a, b| a >= b), "seed {seed}: {is_there:?}");
        cuts += 1;
    }
    assert!(cuts > 0);
}

#[test]
fn a_shard_that_does_not_run_holds_up_nobody() {
    let mut world = (0..).map(|seed| World::new(seed, config())).find(|world| world.shards() == 2).unwrap();
    assert!((0..QUEUES).all(|queue| world.open(queue)));
    world.settle();
    let asked = ask(&world, 1);
    let key = all_keys().find(|key| {
        let (project, queue) = name(key.queue.0);
        owner(queue_hash(&project, &queue), key.partition, 2) == 0
    });
    let key = key.unwrap();
    world.append(key, 100);
    let now = world.now;
    // Only one shard runs.
    let completions: Vec<_> = (0..100)
        .filter_map(|_| {
            world.disk.advance();
            world.logs[0].poll_completion(now)
        })
        .collect();
    world.note_fates(&completions);
    assert!(matches!(world.sent[&key].last_key_value().unwrap().1.fate, Fate::Acknowledged(_)));
    assert_eq!(answer(&asked), None, "the other shard is missing");
    assert_eq!(answer(&ask(&world, 2)), Some(Err(NoCut::Busy)));
    let dir = world.dir.clone().unwrap();
    assert_eq!(dir.end_hold(1), Ok(()));
    assert_eq!(answer(&asked), Some(Err(NoCut::Ended)));
    assert_eq!(dir.end_hold(1), Err(NotHeld::Ended));
    let (cut, ..) = cut_under_load(&mut world, 3);
    assert_eq!(cut.catalogues.len(), 2);
}

#[test]
fn a_hold_ends_before_a_full_disk_refuses_messages() {
    let limits = Settings { max_bytes: 6 * (64 << 10), ..config() };
    let mut world =
        (0..).map(|seed| World::new(seed, limits.clone())).find(|world| world.shards() == 1).unwrap();
    let key = PartitionKey { queue: QueueId(0), partition: Partition(0) };
    assert!(world.open(0));
    let fill = |world: &mut World| {
        world.append_sized(key, 100_000, &[20_000]);
        world.settle();
        world.pass(Millis::new(1_000));
    };
    (0..40).for_each(|_| fill(&mut world));
    world.disk.limit(10 * (64 << 10));
    let (cut, ..) = cut_under_load(&mut world, 1);
    let mut held = 0;
    while world.dir.as_ref().unwrap().check_hold(1).is_ok() {
        fill(&mut world);
        held += 1;
        assert!(held < 100, "the disk is never full");
    }
    assert!(held > 5, "the log grows beyond its limit: {held}");
    assert_eq!(world.dir.as_ref().unwrap().check_hold(1), Err(NotHeld::DiskFull));
    (0..20).for_each(|_| fill(&mut world));
    assert_eq!(world.logs[0].counters().refused, 0);
    // The files are used for other segments, which a copy notices.
    let copied = copy(&mut world, &cut, None);
    assert!(matches!(copied, Err(BackupError::Changed(_))), "{copied:?}");
}

#[test]
fn a_backup_of_unreadable_blocks_has_the_rest_and_is_not_built_upon() {
    let mut world = World::new(3, config());
    let key = PartitionKey { queue: QueueId(0), partition: Partition(0) };
    assert!(world.open(0));
    for _ in 0..20 {
        world.append_sized(key, 100_000, &[9_000]);
        world.settle();
    }
    let (cut, ..) = cut_under_load(&mut world, 1);
    let spoiled = cut.segments[0];
    let file = FileName::Segment(spoiled.place);
    world.disk.spoil(file, 4);
    let (target, damaged, copied, _) = copy(&mut world, &cut, None).unwrap();
    assert_eq!((damaged.len(), copied), (1, cut.segments.len()));
    assert_eq!((damaged[0].file, damaged[0].damage.at), (file, 4 * BLOCK as u64));
    assert!(!verified(&target, &world));
    world.disk.cure();
    let (target, damaged, copied, kept) = copy(&mut world, &cut, Some(&target)).unwrap();
    assert_eq!((damaged, copied, kept), (vec![], 1, cut.segments.len() - 1));
    assert!(verified(&target, &world));
    // A file that is missing in a backup is noticed.
    target.run(&Step::Remove(FileName::Segment(cut.segments[0].place))).unwrap();
    target.run(&Step::Remove(FileName::Index(cut.segments[0].place))).unwrap();
    assert!(!verified(&target, &world));
}

#[test]
fn a_backup_whose_target_is_full_fails_and_names_the_file() {
    let mut world = World::new(3, config());
    assert!(world.open(0));
    world.append_one(PartitionKey { queue: QueueId(0), partition: Partition(0) }, 100);
    let (cut, ..) = cut_under_load(&mut world, 1);
    let none = Earlier::default();
    let (mut step, mut failed) = (0, 0);
    loop {
        let (source, target) = (world.disk.clone(), Simulated::new(7));
        step += 1;
        target.fail_after(step, ENOSPC, 1);
        let backup = Backup { source: &source, cut: &cut, target: &target, earlier: &none };
        match backup.run(world.now.unix, |_| false, |_| ControlFlow::Continue(())) {
            Ok(_) => break,
            Err(error) => {
                let said = error.to_string();
                assert!(said.contains("of the backup: No space left"), "{said}");
                // The manifest is the last file, so what is unfinished is no backup.
                let is_backup = Earlier::read(&target).unwrap().is_some_and(|of| of.lacks(&cut) == 0);
                assert!(!is_backup || said.contains("write backup"), "{said}");
                failed += 1;
            }
        }
    }
    assert!(failed > 10, "each step failed once: {failed}");
}

#[test]
fn a_start_on_a_backup_ends_its_being_a_backup() {
    let mut world = World::new(5, config());
    assert!(world.open(0));
    let (cut, now, sent) = cut_under_load(&mut world, 1);
    let (target, ..) = copy(&mut world, &cut, None).unwrap();
    let earlier = Earlier::read(&target).unwrap().unwrap();
    assert!(earlier.is_of(&world.disk).unwrap());
    assert!(!earlier.is_of(&World::new(6, config()).disk).unwrap());
    let (_, report) = restore(&world, &target, now, &sent);
    assert!(report.is_branch, "a copy is not proven to continue anything");
    assert_eq!(Earlier::read(&target).unwrap(), None);
}

#[test]
fn a_directory_after_a_crash_or_a_stop_is_copied_as_it_is() {
    for seed in 0..seeds().div_ceil(4) {
        let mut world = World::new(seed, config());
        for _ in 0..world.random.below(600) {
            world.act();
        }
        if seed % 2 == 0 {
            world.stop();
        } else {
            world.disk.kill();
        }
        world.appends.clear();
        for message in world.sent.values_mut().flat_map(BTreeMap::values_mut) {
            if message.fate == Fate::UnderWay {
                message.fate = Fate::Unknown;
            }
        }
        world.logs.clear();
        let (cut, report) = inspect::cut(&world.disk, &world.moment()).unwrap();
        assert!(report.damaged.is_empty());
        let (source, target) = (world.disk.clone(), Simulated::new(seed));
        let none = Earlier::default();
        let backup = Backup { source: &source, cut: &cut, target: &target, earlier: &none };
        let damaged = backup.run(world.now.unix, |_| false, |_| ControlFlow::Continue(())).unwrap();
        assert_eq!(damaged, vec![], "seed {seed}");
        let (now, sent) = (world.now, world.sent.clone());
        let (mut restored, report) = restore(&world, &target, now, &sent);
        assert!(report.damaged.is_empty(), "seed {seed}: {report:?}");
        restored.check();
    }
}

#[test]
fn a_backup_while_segments_are_grouped_has_everything() {
    let (mut unfinished, mut grouped, mut replaced, mut kept) = (0, 0, 0, 0);
    for step in 0..seeds().min(100) {
        let mut world = sparse(step % 7, config());
        world.now = world.now.later(Millis::new(1_000));
        world.tick();
        for _ in 0..step {
            world.disk.advance();
            world.now = world.now.later(Millis::new(20));
            world.tick();
            world.poll();
        }
        let mut before: Option<Simulated> = None;
        for id in 1..=2 {
            let is_grouped = |world: &World, place| grouped_files(world).contains(&FileName::Segment(place));
            let files = world.disk.list().unwrap();
            unfinished += files.iter().filter(|(file, _)| matches!(file, FileName::NewSegment(_))).count();
            let (cut, now, sent) = cut_under_load(&mut world, id);
            let in_cut = cut.segments.iter().filter(|segment| is_grouped(&world, segment.place)).count();
            grouped += in_cut;
            let replaces = |segment: &CutSegment| {
                let blocks = world.disk.bytes(FileName::Segment(segment.place));
                let header = header::SegmentHeader::parse(&blocks).unwrap();
                grouped::Grouped::parse(&header, &blocks).unwrap().unwrap_or_default().replaced
            };
            let gone: Vec<u64> = cut.segments.iter().flat_map(replaces).collect();
            assert!(cut.segments.iter().all(|segment| !gone.contains(&segment.stamp)), "step {step}");
            // The group that is being made becomes complete meanwhile. What it replaces stays.
            idle(&mut world, 12);
            replaced += grouped_files(&world).len().saturating_sub(in_cut);
            let (target, damaged, _, adopted) = copy(&mut world, &cut, before.as_ref())
                .unwrap_or_else(|error| panic!("step {step}: {error}"));
            assert_eq!(damaged, vec![], "step {step}");
            kept += adopted;
            assert_eq!(world.dir.as_ref().unwrap().end_hold(id), Ok(()), "step {step}");
            target.lose_power();
            assert!(verified(&target, &world), "step {step}");
            let saved = target.backup();
            for (file, _) in target.list().unwrap() {
                assert!(!file.is_passing() || file == FileName::Backup, "step {step}: {file}");
            }
            let (mut restored, report) = restore(&world, &target, now, &sent);
            assert!(report.damaged.is_empty() && report.torn == 0, "step {step}: {report:?}");
            restored.check();
            idle(&mut restored, 40);
            restored.check();
            restored.crash();
            restored.check();
            let whole = Simulated::new(step);
            whole.restore(&saved, false);
            before = Some(whole);
        }
        // Nothing is held any more, so what was replaced is freed.
        let is_done = |world: &World| world.logs.iter().all(|log| log.counters().grouping.waiting == 0);
        idle(&mut world, 60);
        while !is_done(&world) {
            idle(&mut world, 1);
        }
        assert!(files_freed(&world) > 0, "step {step}");
        world.check();
        world.crash();
        world.check();
    }
    assert!(
        unfinished > 0 && grouped > 0 && replaced > 0 && kept > 0,
        "{unfinished} {grouped} {replaced} {kept}"
    );
}
