//! Tests alterations: what was told is there after a crash, and what fails leaves the queue as it was.

use super::*;
use crate::base::attributes::Attributes;
use crate::base::names::queue_hash;
use crate::base::queue::home;
use crate::store::{Life, NewQueue};

/// What is known of the queue.
type Known = (u16, Attributes);

fn attributes(number: u64) -> Attributes {
    let json =
        format!(r#"{{"_max_messages":{},"note":"{}"}}"#, number + 1, "x".repeat(number as usize % 700));
    Attributes::parse_stored(json.as_bytes()).unwrap()
}

impl World {
    fn home_of(&self, queue: u64) -> usize {
        let (project, queue) = name(queue);
        usize::from(home(queue_hash(&project, &queue), self.shards()))
    }

    fn submit_alter(&mut self, queue: u64, known: Known) -> u64 {
        self.next += 1;
        let (token, name, (partitions, attributes)) = (self.next, name(queue), known);
        let home = self.home_of(queue);
        let alter = Request::Alter { token, name, attributes, partitions };
        assert!(self.logs[home].submit(self.now, alter).is_ok());
        token
    }

    fn submit_create(&mut self, queue: u64, known: Known) -> u64 {
        self.next += 1;
        let (token, name, (partitions, attributes)) = (self.next, name(queue), known);
        let home = self.home_of(queue);
        let create = Some(NewQueue { partitions, attributes });
        let open = Request::Open { token, queue: QueueId(queue), name, create };
        assert!(self.logs[home].submit(self.now, open).is_ok());
        token
    }

    /// Lets the disk do at most `steps` steps. Returns the answer to a change, if there is one.
    fn answer(&mut self, asked: u64, steps: usize) -> Option<Result<Known, StoreFault>> {
        for _ in 0..=steps {
            let answer = self.poll().into_iter().find_map(|completion| match completion {
                Completion::Altered { token, result } | Completion::Opened { token, result }
                    if token == asked =>
                {
                    Some(result.map(|life| (life.partitions, life.attributes)))
                }
                _ => None,
            });
            if answer.is_some() {
                return answer;
            }
            self.disk.advance();
        }
        None
    }

    /// Returns what the directory knows of a queue.
    fn known(&mut self, queue: u64) -> Option<Known> {
        let dir = self.dir.as_ref().unwrap();
        let life = dir.open(QueueId(queue), &name(queue));
        life.map(|Life { partitions, attributes, .. }| (partitions, attributes))
    }
}

const QUEUE: u64 = 1;

#[test]
fn what_was_told_is_there_after_a_crash_at_any_step() {
    let (mut told, mut untold) = (0, 0);
    for seed in 0..seeds() {
        let mut world = World::new(seed, config());
        let mut known: Option<Known> = None;
        for number in 0..6 {
            let wished = (PARTITIONS + number as u16, attributes(seed * 7 + number));
            if world.random.one_in(2) {
                world.settle();
            }
            let asked = match known {
                None => world.submit_create(QUEUE, wished.clone()),
                Some(_) => world.submit_alter(QUEUE, wished.clone()),
            };
            let steps = world.random.below(9);
            match world.answer(asked, steps) {
                Some(answer) => {
                    assert_eq!(answer, Ok(wished.clone()), "seed {seed}");
                    (known, told) = (Some(wished), told + 1);
                }
                None => {
                    let report = world.crash();
                    assert!(report.damaged.is_empty(), "seed {seed}: {report:?}");
                    let found = world.known(QUEUE);
                    assert!(found == known || found == Some(wished.clone()), "seed {seed}: {found:?}");
                    (known, untold) = (found, untold + 1);
                }
            }
            if world.random.one_in(3) {
                world.crash();
                assert_eq!(world.known(QUEUE), known, "seed {seed}");
            }
        }
    }
    assert!(told > seeds() && untold > seeds(), "{told}, {untold}");
}

#[test]
fn a_failed_alteration_is_repeated_until_it_is_durable() {
    for seed in 0..seeds() {
        let mut world = World::new(seed, config());
        let asked = world.submit_create(QUEUE, (2, Attributes::default()));
        assert!(world.answer(asked, 1_000).unwrap().is_ok());
        let wished = (3, attributes(seed));
        world.settle();
        // Each of the four steps fails in some runs: the head of the file is written first.
        world.disk.fail_after(1 + seed % 4, EIO, 1);
        let asked = world.submit_alter(QUEUE, wished.clone());
        assert_eq!(world.answer(asked, 20), None, "seed {seed}: it may be on the disk");
        assert_eq!(world.known(QUEUE), Some((2, Attributes::default())), "nobody was told of it");
        if world.random.one_in(3) {
            world.disk.heal();
            world.crash();
            let found = world.known(QUEUE).unwrap();
            assert!(found == wished || found.0 == 2, "seed {seed}: {found:?}");
            continue;
        }
        world.disk.fail_after(1, EIO, 1);
        world.tick();
        assert_eq!(world.answer(asked, 20), None, "seed {seed}");
        world.disk.heal();
        world.tick();
        assert_eq!(world.answer(asked, 20), Some(Ok(wished.clone())), "seed {seed}");
        world.crash();
        assert_eq!(world.known(QUEUE), Some(wished), "seed {seed}");
    }
}

#[test]
fn a_queue_that_does_not_exist_is_not_altered() {
    let mut world = World::new(1, config());
    let asked = world.submit_alter(QUEUE, (2, Attributes::default()));
    assert_eq!(world.answer(asked, 5), Some(Err(StoreFault::NoQueue)));
}

#[test]
fn added_partitions_keep_their_messages_whatever_the_number_of_shards() {
    for seed in 0..seeds() / 4 {
        let mut world = World::new(seed, config());
        assert!(world.open(QUEUE));
        let asked = world.submit_alter(QUEUE, (PARTITIONS + 2, Attributes::default()));
        assert!(world.answer(asked, 1_000).unwrap().is_ok());
        let key = PartitionKey { queue: QueueId(QUEUE), partition: Partition(PARTITIONS + 1) };
        world.append_one(key, 100_000);
        world.crash();
        assert_eq!(world.known(QUEUE).unwrap().0, PARTITIONS + 2, "seed {seed}");
        assert_eq!(world.read(key, Offset(0)).unwrap().len(), 1, "seed {seed}");
    }
}

#[test]
fn a_partition_with_messages_exists_although_the_alteration_is_damaged() {
    let mut world = World::new(3, config());
    assert!(world.open(QUEUE));
    let asked = world.submit_alter(QUEUE, (PARTITIONS + 2, Attributes::default()));
    assert!(world.answer(asked, 1_000).unwrap().is_ok());
    let key = PartitionKey { queue: QueueId(QUEUE), partition: Partition(PARTITIONS) };
    world.append_one(key, 100_000);
    let file = FileName::Catalogue(world.home_of(QUEUE) as u16);
    let length = world.disk.list().unwrap().iter().find(|(name, _)| *name == file).unwrap().1;
    let zeros = Arc::new(vec![0xff; 4]);
    world.disk.run(&Step::Write(file, length - 4, zeros)).unwrap();
    world.disk.run(&Step::Sync(file)).unwrap();
    let report = world.crash();
    assert!(report.torn > 0 || !report.damaged.is_empty(), "{report:?}");
    assert_eq!(world.known(QUEUE).unwrap().0, PARTITIONS + 1);
    assert_eq!(world.read(key, Offset(0)).unwrap().len(), 1);
}

#[test]
fn earlier_versions_refuse_a_catalogue_from_its_first_alteration_on() {
    let mut world = World::new(2, config());
    assert!(world.open(QUEUE));
    // The home of the queue, and so its file, changes with the number of shards.
    let version = |world: &World| {
        let files = world.disk.list().unwrap().into_iter();
        let catalogues = files.filter(|(file, _)| matches!(file, FileName::Catalogue(_)));
        let version = |(file, _)| {
            let bytes = world.disk.run(&Step::Read(file, vec![(8, 4)])).unwrap();
            u32::from_le_bytes(bytes[0][..].try_into().unwrap())
        };
        catalogues.map(version).max().unwrap()
    };
    assert_eq!(version(&world), 1);
    world.settle();
    // The head is durable before the record is written.
    world.submit_alter(QUEUE, (PARTITIONS, attributes(1)));
    world.poll();
    for _ in 0..3 {
        world.disk.advance();
    }
    world.disk.lose_power();
    world.start();
    let expected = if world.known(QUEUE).unwrap().1.is_empty() { 1 } else { 2 };
    assert_eq!(version(&world), expected, "a start writes the file anew");
    let asked = world.submit_alter(QUEUE, (PARTITIONS, attributes(2)));
    assert!(world.answer(asked, 1_000).unwrap().is_ok());
    assert_eq!(version(&world), 2);
    world.crash();
    assert_eq!((version(&world), world.known(QUEUE).unwrap().1), (2, attributes(2)));
}
