//! Where the log is, how much of it is kept, and when a message counts as stored.

use std::path::PathBuf;
use std::time::Duration;

use crate::base::setting::{GIB, LONGEST_MS, choice, settings};

choice! {
    /// What an acknowledged message survives in the log.
    pub enum Durability {
        /// The end of the process and of the machine: it is synced before it is acknowledged.
        #[default]
        Fsync = "fsync",
        /// The end of the process: it is written before it is acknowledged, and the system syncs it when it likes.
        Os = "os",
    }
}

settings! {
    /// The embedded log.
    #[derive(Clone, Debug, PartialEq, Eq)]
    pub struct Settings {
        in Log:
        /// Directory of the log's files; one server's alone
        data_dir: PathBuf = PathBuf::from("millstream-data"), "data_dir", Text;
        /// What an acknowledged message survives. fsync: power loss; os: the end of the server, but not of the machine
        durability: Durability = Durability::default(), "durability", Choice(Durability::NAMES);
        /// Size of the log's files; each shard has one or two beside those with messages
        segment_bytes: u64 = 64 << 20, "log_segment_bytes", Bytes(1 << 20..=16 * GIB);
        /// What is kept of the newest messages in memory, over all shards
        tail_bytes: usize = 256 << 20, "log_tail_bytes", Bytes(0..=1024 * GIB);
        /// What is kept in memory of older messages while they are read, over all shards
        read_bytes: usize = 64 << 20, "log_read_bytes", Bytes(0..=1024 * GIB);
        /// Size of all files beyond which the oldest are dropped, whether their messages have expired or not, over all
        /// shards (0: no limit)
        max_bytes: u64 = 0, "log_max_bytes", Bytes(0..=1024 * 1024 * GIB);
        /// How long after its newest message a file is dropped, whether its messages have expired or not (0: no limit)
        max_age: Duration = Duration::ZERO, "log_max_age", Duration(0..=LONGEST_MS);
        /// What is left free on the disk; at that, messages are refused with 503 until there is room
        min_free_bytes: u64 = 256 << 20, "log_min_free_bytes", Bytes(0..=1024 * GIB);
    }
}
