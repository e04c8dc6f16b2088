//! The vocabulary that all rooms share. No I/O.
//!
//! | file | one concept |
//! | --- | --- |
//! | `names` | projects, queues and clients by name, and their stable hashes |
//! | `attributes` | the attributes of a queue, as clients set them |
//! | `policy` | what these ask of the server, and what the queue holds; `policies` of all queues |
//! | `queue` | the id of a queue in this process, its partitions, and the shards that own them |
//! | `partitioner` | the partition of a key or of a client |
//! | `batch` | the messages of an append in one block of memory |
//! | `hidden` | messages of fetched batches that the reader must skip |
//! | `budget` | the bytes that the connections of a shard reserve and hold |
//! | `claim` | claims: leases of messages, as operations ask for them and stores keep them |
//! | `manage` | requests about single messages of a partition, and about all of them |
//! | `lease` | a lease, as those see it who do not hold it |
//! | `clock` | a point in time, and a wall clock that resists jumps |
//! | `millis` | milliseconds: a length, and a moment of Unix time |
//! | `error` | faults, who caused them, and their status |
//! | `limits` | bounds that are not settings |
//! | `planted` | faults that tests can inject |
//! | `secret` | text that is never shown |
//! | `units` | offsets, partitions, sequences and message numbers: numbers with types of their own |
//! | `wish` | what is wished of a queue as a whole: to find, create or alter it |
//! | `setting` | how rooms declare settings, and how a setting is read and shown |

pub mod attributes;
pub mod batch;
pub mod budget;
pub mod claim;
pub mod clock;
pub mod error;
pub mod hidden;
pub mod lease;
pub mod limits;
pub mod manage;
pub mod millis;
pub mod names;
pub mod partitioner;
pub(crate) mod planted;
pub mod policies;
pub mod policy;
pub mod queue;
pub mod secret;
pub(crate) mod setting;
pub mod units;
pub mod wish;
