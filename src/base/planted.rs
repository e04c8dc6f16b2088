//! Faults that clients can inject if the setting `test_faults` is on. Tests use them to see, on the real
//! binary, what a bug of the server would cost.
//!
//! Without that setting, nothing here is called.

use std::time::Duration;

/// A ProduceRequest that ends with this text panics, and so does the setup of an operation on a queue whose
/// name ends with it.
pub const IN_CONNECTION: &str = "panic-connection";
/// The name of a queue whose creation panics in the shard.
const IN_SHARD: &str = "panic-shard";
/// The name of a queue whose creation keeps the shard busy for [`STALL_TIME`].
const STALL: &str = "stall-shard";
const STALL_TIME: Duration = Duration::from_secs(3);

/// Panics if `about`, the name or request that a connection handles, ends with [`IN_CONNECTION`].
pub fn in_connection(about: &[u8]) {
    assert!(!about.ends_with(IN_CONNECTION.as_bytes()), "planted by test_faults");
}

/// Called when a shard creates a queue. Panics or stalls if the name asks for it.
pub fn in_shard(queue: &str) {
    assert!(queue != IN_SHARD, "planted by test_faults");
    if queue == STALL {
        std::thread::sleep(STALL_TIME);
    }
}
