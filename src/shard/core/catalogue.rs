//! Which queues there are: made by their home shard alone, remembered by the others.

use std::collections::HashMap;
use std::collections::hash_map::Entry;

use crate::error::StoreFault;
use crate::names::FullName;
use crate::queue::{QueueId, QueueInfo};

/// See the module's page.
#[derive(Debug)]
pub struct Catalogue {
    shard: u16,
    queues: HashMap<FullName, QueueInfo>,
    /// Numbers the next queue that this shard makes.
    next: u64,
    /// Queues that this shard made, and may make.
    made: usize,
    max: usize,
}

impl Catalogue {
    /// An empty one, in which the shard may make `max` queues.
    pub fn new(shard: u16, max: usize) -> Self {
        Self { shard, queues: HashMap::new(), next: 0, made: 0, max }
    }

    /// What is known of a queue.
    pub fn get(&self, name: &FullName) -> Option<QueueInfo> {
        self.queues.get(name).copied()
    }

    /// Every queue that is known.
    pub fn iter(&self) -> impl Iterator<Item = (&FullName, &QueueInfo)> {
        self.queues.iter()
    }

    /// The number of the next queue that this shard makes.
    pub fn next_id(&mut self) -> Result<QueueId, StoreFault> {
        if self.made >= self.max {
            return Err(StoreFault::TooManyQueues);
        }
        self.next += 1;
        Ok(QueueId(u64::from(self.shard) << 48 | self.next))
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
