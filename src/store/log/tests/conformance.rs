//! The log passes the tests of all stores.

use std::cell::{Cell, RefCell};

use super::*;
use crate::base::millis::UnixMillis;
use crate::store::conformance::{self, Lab};

struct Lone {
    disk: RefCell<Simulated>,
    queues: Cell<u64>,
    config: Settings,
}

impl Lab for Lone {
    type Store = Log<u64, Simulated>;

    fn store(&self) -> Log<u64, Simulated> {
        let disk = Simulated::new(self.queues.get());
        self.disk.replace(disk.clone());
        let (dir, _) = open(&disk, 1, self.config.segment_bytes, &Moment { unix_ns: 1, boot: 1 }).unwrap();
        Log::new(Arc::new(dir), disk, 0, 1, &self.config)
    }

    fn reopen(&self, store: Self::Store) -> Option<Self::Store> {
        let disk = store.disk.clone();
        drop(store);
        disk.kill();
        self.disk.replace(disk.clone());
        let (dir, _) = open(&disk, 1, self.config.segment_bytes, &Moment { unix_ns: 1, boot: 1 }).unwrap();
        Some(Log::new(Arc::new(dir), disk, 0, 1, &self.config))
    }

    fn unix(&self) -> Option<UnixMillis> {
        None
    }

    fn has_catalogue(&self) -> bool {
        true
    }

    fn wait(&self) -> bool {
        self.disk.borrow().advance()
    }

    fn queue(&self) -> (QueueId, QueueName) {
        self.queues.set(self.queues.get() + 1);
        (QueueId(self.queues.get()), QueueName::parse(&format!("q{}", self.queues.get())).unwrap())
    }
}

#[test]
fn the_log_conforms() {
    let lone = |tail_bytes| Lone {
        disk: RefCell::new(Simulated::new(0)),
        queues: Cell::new(0),
        config: Settings { tail_bytes, segment_bytes: 1 << 20, ..config() },
    };
    conformance::run(&lone(8 << 10));
    // Nothing stays in memory: everything is read from disk.
    conformance::run(&lone(0));
    let in_memory = lone(1 << 20);
    conformance::run(&Lone {
        config: Settings { durability: Durability::Os, ..in_memory.config.clone() },
        ..in_memory
    });
}
