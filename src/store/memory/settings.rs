//! How much the memory store holds, and what it does when it is full.

use crate::base::setting::{GIB, choice, settings};

choice! {
    /// What a full memory store does.
    pub enum WhenFull {
        /// Drops the oldest messages, counts them and warns once.
        #[default]
        DropOldest = "drop-oldest",
        /// Refuses new messages with 503.
        Refuse = "refuse",
    }
}

settings! {
    /// The memory store.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct Settings {
        in Store, AtStart:
        /// Memory for messages in the memory store, over all shards; each shard has an equal part
        bytes: usize = 1 << 30, "memory_bytes", Bytes(1..=1024 * GIB);
        /// What a full memory store does: drop the oldest messages, or refuse new ones with 503
        when_full: WhenFull = WhenFull::default(), "memory_full", Choice(WhenFull::NAMES);
    }
}
