//! Where the log is, how much of it is kept, and when a message counts as stored.

use std::path::PathBuf;
use std::time::Duration;

use crate::base::setting::{GIB, LONGEST_MS, choice, settings};

choice! {
    /// What an acknowledged message survives in the log.
    pub enum Durability {
        /// The end of the process and of the machine: a message is synced before it is acknowledged.
        #[default]
        Fsync = "fsync",
        /// The end of the process: a message is written before it is acknowledged, and the system syncs it
        /// later.
        Os = "os",
    }
}

settings! {
    /// The embedded log.
    #[derive(Clone, Debug, PartialEq, Eq)]
    pub struct Settings {
        in Log, AtStart:
        /// Directory of the log's files; only one server may use it
        data_dir: PathBuf = PathBuf::from("millstream-data"), "data_dir", Text;
        /// What an acknowledged message survives. fsync: power loss; os: the end of the server, but not of
        /// the machine
        durability: Durability = Durability::default(), "durability", Choice(Durability::NAMES);
        /// Size of a log file. Beyond those that hold messages, each shard has one or two, and as many as were
        /// filled in the last 10 seconds stay for new messages
        segment_bytes: u64 = 64 << 20, "log_segment_bytes", Bytes(1 << 20..=16 * GIB);
        /// Memory for the newest messages, over all shards
        tail_bytes: usize = 256 << 20, "log_tail_bytes", Bytes(0..=1024 * GIB);
        /// Memory for older messages while they are read, over all shards
        read_bytes: usize = 64 << 20, "log_read_bytes", Bytes(0..=1024 * GIB);
        /// Size of all files, over all shards, beyond which the oldest are dropped, even if their messages
        /// have not expired (0: no limit)
        max_bytes: u64 = 0, "log_max_bytes", Bytes(0..=1024 * 1024 * GIB);
        /// Age of its newest message at which a file is dropped, even if its messages have not expired (0: no
        /// limit)
        max_age: Duration = Duration::ZERO, "log_max_age", Duration(0..=LONGEST_MS);
        /// Whether a shard rewrites files of which little is needed, and files in which partitions are
        /// scattered, in up to 5 % of its time
        grouping: bool = true, "log_grouping", Flag;
        /// Free space that the log leaves on the disk; without more, messages are refused with 503
        min_free_bytes: u64 = 256 << 20, "log_min_free_bytes", Bytes(0..=1024 * GIB);
    }
}
