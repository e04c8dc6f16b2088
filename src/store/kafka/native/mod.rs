//! librdkafka as this room uses it: every unsafe call but those of the producer's promise, behind types that keep its rules.
//!
//! The crate's own producer and consumer cost two to three times as much for each message (a look-up of the topic by name, a copy,
//! an allocation for each event). So topics, batches and events come from the crate's bindings. All calls may be made from any
//! thread, and return at once unless their documentation says that they block.
//!
//! | file | C type |
//! | --- | --- |
//! | `trouble` | `rd_kafka_resp_err_t`: what went wrong, for the log and for clients |
//! | `handle` | `rd_kafka_t`: a client of the cluster |
//! | `queue` | `rd_kafka_queue_t`: where a handle's events and messages arrive |
//! | `event` | `rd_kafka_event_t`: answers, delivery reports, errors, log lines |
//! | `message` | `rd_kafka_message_t`: a message that was read |
//! | `topic`, `produce` | `rd_kafka_topic_t`: reading its partitions, producing into them |
//! | `admin_options` | `rd_kafka_AdminOptions_t`: what every question to the cluster carries |
//! | `topic_description` | `rd_kafka_TopicDescription_t`: ids and partitions of topics |
//! | `new_topic` | `rd_kafka_NewTopic_t`: making a topic |
//! | `topic_config` | `rd_kafka_ConfigResource_t`: a topic's configuration |
//! | `partition` | `int32_t`: a partition's number |
//! | `partition_list` | `rd_kafka_topic_partition_list_t`: offsets of partitions |

#![allow(unsafe_code)]

mod admin_options;
mod event;
mod handle;
mod message;
mod new_topic;
mod partition;
mod partition_list;
mod produce;
mod queue;
mod topic;
mod topic_config;
mod topic_description;
mod trouble;

pub(super) use event::{Event, Report, Reports};
pub(super) use handle::{Handle, WeakHandle};
pub(super) use message::Message;
pub(super) use new_topic::NewTopic;
pub(super) use partition_list::{OffsetOf, PartitionOffset};
pub(super) use produce::Scratch;
pub(super) use queue::Queue;
pub(super) use topic::Topic;
pub(super) use topic_description::Described;
pub(super) use trouble::Trouble;

/// Messages taken from a queue, and reports taken from an event, in one call.
const AT_ONCE: usize = 256;
