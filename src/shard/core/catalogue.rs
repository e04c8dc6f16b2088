//! The queues that a shard knows. Only their home shard creates them, the others remember them.

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::Bound;

use crate::base::attributes::Attributes;
use crate::base::error::StoreFault;
use crate::base::names::{FullName, Project, QueueName};
use crate::base::queue::{QueueId, QueueInfo};
use crate::base::wish::Described;
use crate::operation::QueuesWanted;

/// The catalogue of queues of one shard.
#[derive(Debug)]
pub struct Catalogue {
    shard: u16,
    queues: HashMap<FullName, QueueInfo>,
    /// The attributes of the queues whose home is this shard, of those that have any.
    attributes: HashMap<QueueId, Attributes>,
    /// The names of the queues whose home is this shard.
    names: BTreeMap<Project, BTreeSet<QueueName>>,
    /// The number of the last queue that this shard created or adopted.
    next: u64,
    /// The number of queues whose home is this shard, of places reserved for queues that are being created,
    /// and the limit of both together.
    made: usize,
    reserved: usize,
    max: usize,
}

impl Catalogue {
    /// Creates an empty catalogue. The shard creates no more queues once it is the home of `max`.
    pub fn new(shard: u16, max: usize) -> Self {
        Self {
            shard,
            queues: HashMap::new(),
            attributes: HashMap::new(),
            names: BTreeMap::new(),
            made: 0,
            next: 0,
            reserved: 0,
            max,
        }
    }

    /// Changes how many queues the shard may be the home of. Existing ones stay.
    pub fn set_max(&mut self, max: usize) {
        self.max = max;
    }

    /// Returns a queue, if it is known.
    pub fn get(&self, name: &FullName) -> Option<QueueInfo> {
        self.queues.get(name).filter(|info| !info.policy.has_ended()).map(present)
    }

    /// Returns a queue whose home is this shard, if it is known, with its attributes.
    pub fn describe(&self, name: &FullName) -> Option<Described> {
        let info = self.get(name)?;
        let attributes = self.attributes.get(&info.id).cloned().unwrap_or_default();
        Some(Described { info, attributes })
    }

    /// Returns the wanted ones of the queues whose home is this shard, with their attributes, by name.
    pub fn list(&self, wanted: &QueuesWanted) -> Vec<(QueueName, Attributes)> {
        let Some(names) = self.names.get(&wanted.project) else { return Vec::new() };
        let with_attributes = |name: &QueueName| {
            let queue = self.describe(&(wanted.project.clone(), name.clone()));
            (name.clone(), queue.map(|queue| queue.attributes).unwrap_or_default())
        };
        let behind = names.range::<str, _>((Bound::Excluded(&*wanted.after), Bound::Unbounded));
        behind.filter(|name| wanted.shows(name)).take(wanted.limit).map(with_attributes).collect()
    }

    /// Sets the attributes of a queue whose home is this shard.
    pub fn set_attributes(&mut self, queue: QueueId, attributes: Attributes) {
        if attributes.is_empty() {
            self.attributes.remove(&queue);
        } else {
            self.attributes.insert(queue, attributes);
        }
    }

    /// Sets how many partitions a queue has. Searches all queues.
    pub fn grow(&mut self, queue: QueueId, partitions: u16) {
        if let Some(info) = self.queues.values_mut().find(|info| info.id == queue) {
            info.partitions = info.partitions.max(partitions);
        }
    }

    /// Returns all known queues.
    pub fn iter(&self) -> impl Iterator<Item = (&FullName, &QueueInfo)> {
        self.queues.iter()
    }

    /// Returns the number for the next queue whose home is this shard.
    pub fn next_id(&mut self) -> QueueId {
        self.next += 1;
        QueueId::new(self.shard, self.next)
    }

    /// Reserves a place for a queue that is about to be created, until [`Self::unreserve`].
    pub fn reserve(&mut self) -> Result<(), StoreFault> {
        if self.made + self.reserved >= self.max {
            return Err(StoreFault::TooManyQueues);
        }
        self.reserved += 1;
        Ok(())
    }

    /// Releases a reserved place, because the queue is about to be recorded or was not created.
    pub fn unreserve(&mut self) {
        self.reserved = self.reserved.saturating_sub(1);
    }

    /// Forgets a queue. Returns false if it was not known. Searches all queues.
    pub fn forget(&mut self, queue: QueueId) -> bool {
        self.attributes.remove(&queue);
        let known = self.queues.iter().find(|(_, info)| info.id == queue);
        let Some(name) = known.map(|(name, _)| name.clone()) else { return false };
        self.queues.remove(&name);
        if queue.home() == self.shard {
            self.made -= 1;
            if let Some(names) = self.names.get_mut(&name.0) {
                names.remove(&name.1);
                if names.is_empty() {
                    self.names.remove(&name.0);
                }
            }
        }
        true
    }

    /// Records a queue. If the name is already known, keeps and returns the known queue.
    pub fn record(&mut self, name: FullName, info: QueueInfo) -> QueueInfo {
        match self.queues.entry(name) {
            // Its home has deleted the queue, and this shard has not heard of it yet.
            Entry::Occupied(mut known) if known.get().policy.has_ended() => {
                known.insert(info.clone());
                info
            }
            Entry::Occupied(known) => present(known.get()),
            Entry::Vacant(vacant) => {
                if info.id.home() == self.shard {
                    self.made += 1;
                    let (project, name) = vacant.key().clone();
                    self.names.entry(project).or_default().insert(name);
                }
                vacant.insert(info).clone()
            }
        }
    }
}

/// Returns a queue as it is now: the shard may not have been told yet that it has more partitions.
fn present(known: &QueueInfo) -> QueueInfo {
    let partitions = known.partitions.max(known.policy.grown_to());
    QueueInfo { partitions, ..known.clone() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(catalogue: &mut Catalogue, name: &str) -> QueueId {
        let id = catalogue.next_id();
        let full = (Project::parse("p").unwrap(), QueueName::parse(name).unwrap());
        catalogue
            .record(
                full,
                QueueInfo {
                    id,
                    incarnation: 1,
                    partitions: 1,
                    hash: 1,
                    signing: Default::default(),
                    policy: Default::default(),
                },
            )
            .id
    }

    #[test]
    fn a_queue_that_its_home_has_deleted_is_not_known_before_it_is_forgotten() {
        let mut catalogue = Catalogue::new(3, 2);
        let name = (Project::parse("p").unwrap(), QueueName::parse("q").unwrap());
        let info = |number| QueueInfo {
            id: QueueId::new(1, number),
            incarnation: number,
            partitions: 1,
            hash: 1,
            signing: Default::default(),
            policy: Default::default(),
        };
        let first = catalogue.record(name.clone(), info(1));
        assert_eq!(catalogue.record(name.clone(), info(2)).incarnation, 1, "the known one is kept");
        first.policy.end();
        assert!(catalogue.get(&name).is_none());
        assert_eq!(catalogue.record(name.clone(), info(2)).incarnation, 2);
        assert_eq!(catalogue.get(&name).map(|info| info.incarnation), Some(2));
        assert!(!catalogue.forget(QueueId::new(1, 1)), "the letter about the first comes late");
        assert!(catalogue.get(&name).is_some());
    }

    #[test]
    fn reserved_places_count_towards_the_limit() {
        let mut catalogue = Catalogue::new(3, 2);
        assert_eq!(catalogue.reserve(), Ok(()));
        assert_eq!(catalogue.reserve(), Ok(()));
        assert_eq!(catalogue.reserve(), Err(StoreFault::TooManyQueues));
        // The first queue is created, the second is not.
        catalogue.unreserve();
        let one = record(&mut catalogue, "one");
        catalogue.unreserve();
        assert_eq!(catalogue.reserve(), Ok(()));
        assert_eq!(catalogue.reserve(), Err(StoreFault::TooManyQueues));
        catalogue.unreserve();
        // Existing queues are recorded even beyond the limit, and count.
        let two = record(&mut catalogue, "two");
        let three = record(&mut catalogue, "three");
        for queue in [one, two] {
            assert_eq!(catalogue.reserve(), Err(StoreFault::TooManyQueues));
            assert!(catalogue.forget(queue));
        }
        assert_eq!(catalogue.reserve(), Ok(()));
        assert_eq!(catalogue.reserve(), Err(StoreFault::TooManyQueues));
        assert!(catalogue.forget(three));
        catalogue.set_max(0);
        assert_eq!(catalogue.reserve(), Err(StoreFault::TooManyQueues));
    }
}
