//! Faults that `test_faults` lets clients plant, so that tests can see on the real binary what our own bugs would cost.
//!
//! Without that setting nothing here is called.

use std::time::Duration;

/// A ProduceRequest that ends with this panics, as does the setup of an operation on a queue of this name.
pub const IN_CONNECTION: &str = "panic-connection";
/// Creating a queue of this name panics in the shard.
const IN_SHARD: &str = "panic-shard";
/// Creating a queue of this name keeps the shard busy.
const STALL: &str = "stall-shard";
const STALL_TIME: Duration = Duration::from_secs(3);

/// What a connection's handling is doing something about: panics where it is planted.
pub fn in_connection(about: &[u8]) {
    assert!(!about.ends_with(IN_CONNECTION.as_bytes()), "planted by test_faults");
}

/// A shard creates a queue.
pub fn in_shard(queue: &str) {
    assert!(queue != IN_SHARD, "planted by test_faults");
    if queue == STALL {
        std::thread::sleep(STALL_TIME);
    }
}
