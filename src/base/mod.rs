//! The words that all rooms share. No I/O.
//!
//! | file | one concept |
//! | --- | --- |
//! | `names` | projects, queues and clients by name, and their stable hashes |
//! | `queue` | a queue in this process, its partitions, and the shards that own them |
//! | `partitioner` | the partition of a key or of a client |
//! | `batch` | the messages of an append, in one block of memory |
//! | `budget` | the bytes that the connections of a shard reserve and hold |
//! | `clock` | a moment, and the wall clock without its jumps |
//! | `millis` | milliseconds: a length, and a moment of Unix time |
//! | `error` | faults, whose fault they are, and their status |
//! | `limits` | bounds that are no settings |
//! | `planted` | faults that tests may plant |
//! | `units` | offsets, partitions, sequences and message numbers: numbers with types of their own |
//! | `setting` | settings: how rooms declare their own, and how one of them is read and shown |

pub mod batch;
pub mod budget;
pub mod clock;
pub mod error;
pub mod limits;
pub mod millis;
pub mod names;
pub mod partitioner;
pub mod planted;
pub mod queue;
pub mod setting;
pub mod units;
