//! Which queues there are: made by their home shard alone, remembered by the others.

use std::collections::HashMap;
use std::collections::hash_map::Entry;

use crate::base::error::StoreFault;
use crate::base::names::FullName;
use crate::base::queue::{QueueId, QueueInfo};

/// See the module's page.
#[derive(Debug)]
pub struct Catalogue {
    shard: u16,
    queues: HashMap<FullName, QueueInfo>,
    /// Numbers the next queue that this shard makes.
    next: u64,
    /// Queues whose home this shard is, places that are kept for queues about to be created, and how many there may be of both.
    made: usize,
    reserved: usize,
    max: usize,
}

impl Catalogue {
    /// An empty one, in which no queue is created once the shard is home of `max`.
    pub fn new(shard: u16, max: usize) -> Self {
        Self { shard, queues: HashMap::new(), next: 0, made: 0, reserved: 0, max }
    }

    /// What is known of a queue.
    pub fn get(&self, name: &FullName) -> Option<QueueInfo> {
        self.queues.get(name).copied()
    }

    /// Every queue that is known.
    pub fn iter(&self) -> impl Iterator<Item = (&FullName, &QueueInfo)> {
        self.queues.iter()
    }

    /// The number of the next queue whose home this shard is.
    pub fn next_id(&mut self) -> QueueId {
        self.next += 1;
        QueueId(u64::from(self.shard) << 48 | self.next)
    }

    /// Keeps a place for a queue that is about to be created, until [`Self::unreserve`].
    pub fn reserve(&mut self) -> Result<(), StoreFault> {
        if self.made + self.reserved >= self.max {
            return Err(StoreFault::TooManyQueues);
        }
        self.reserved += 1;
        Ok(())
    }

    /// The queue is about to be recorded, or was not created.
    pub fn unreserve(&mut self) {
        self.reserved = self.reserved.saturating_sub(1);
    }

    /// Forgets a queue; false where it was not known. Looks at all of them.
    pub fn forget(&mut self, queue: QueueId) -> bool {
        let before = self.queues.len();
        self.queues.retain(|_, info| info.id != queue);
        let is_forgotten = self.queues.len() < before;
        self.made -= usize::from(is_forgotten && queue.0 >> 48 == u64::from(self.shard));
        is_forgotten
    }

    /// Records a queue; where two asked for it at once, the first stays.
    pub fn record(&mut self, name: FullName, info: QueueInfo) -> QueueInfo {
        match self.queues.entry(name) {
            Entry::Occupied(known) => *known.get(),
            Entry::Vacant(vacant) => {
                self.made += usize::from(info.id.0 >> 48 == u64::from(self.shard));
                *vacant.insert(info)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::names::{Project, QueueName};

    fn record(catalogue: &mut Catalogue, name: &str) -> QueueId {
        let id = catalogue.next_id();
        let full = (Project::parse("p").unwrap(), QueueName::parse(name).unwrap());
        catalogue
            .record(
                full,
                QueueInfo { id, incarnation: 1, partitions: 1, hash: 1, signing: Default::default() },
            )
            .id
    }

    #[test]
    fn places_are_kept_for_queues_that_are_about_to_be_created() {
        let mut catalogue = Catalogue::new(3, 2);
        assert_eq!(catalogue.reserve(), Ok(()));
        assert_eq!(catalogue.reserve(), Ok(()));
        assert_eq!(catalogue.reserve(), Err(StoreFault::TooManyQueues));
        // One was created, the other was not.
        catalogue.unreserve();
        let one = record(&mut catalogue, "one");
        catalogue.unreserve();
        assert_eq!(catalogue.reserve(), Ok(()));
        assert_eq!(catalogue.reserve(), Err(StoreFault::TooManyQueues));
        catalogue.unreserve();
        // What is there is recorded whatever the limit, and counts.
        let two = record(&mut catalogue, "two");
        let three = record(&mut catalogue, "three");
        for queue in [one, two] {
            assert_eq!(catalogue.reserve(), Err(StoreFault::TooManyQueues));
            assert!(catalogue.forget(queue));
        }
        assert_eq!(catalogue.reserve(), Ok(()));
        assert_eq!(catalogue.reserve(), Err(StoreFault::TooManyQueues));
        assert!(catalogue.forget(three));
    }
}
