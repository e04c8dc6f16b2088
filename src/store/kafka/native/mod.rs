//! librdkafka as this room uses it: all unsafe calls, behind types that keep librdkafka's rules. Only the
//! promise of [`Topic::produce`] is left to the producer.
//!
//! The producer and consumer of the `rdkafka` crate cost two to three times as much for each message: they
//! look up the topic by name, copy, and allocate for each event. So topics, batches and events use the
//! crate's bindings. Any thread may make any of these calls. They return immediately unless their
//! documentation says that they block.
//!
//! | file | C type |
//! | --- | --- |
//! | `trouble` | `rd_kafka_resp_err_t`: errors, for the log and for clients |
//! | `handle` | `rd_kafka_t`: a client of the cluster |
//! | `queue` | `rd_kafka_queue_t`: where a handle's events and messages arrive |
//! | `event` | `rd_kafka_event_t`: answers, delivery reports, errors, log lines |
//! | `message` | `rd_kafka_message_t`: a message that was read |
//! | `topic`, `produce` | `rd_kafka_topic_t`: reading its partitions, producing into them |
//! | `admin_options` | `rd_kafka_AdminOptions_t`: the options of every question to the cluster |
//! | `array` | `T **`: the arrays in the answers |
//! | `topic_description` | `rd_kafka_TopicDescription_t`: ids and partitions of topics |
//! | `new_topic` | `rd_kafka_NewTopic_t`: creating a topic |
//! | `topic_config` | `rd_kafka_ConfigResource_t`: a topic's configuration |
//! | `metadata` | `rd_kafka_metadata_t`: all topics, and the ends of partitions |
//! | `partition` | `int32_t`: a partition's number |
//! | `partition_list` | `rd_kafka_topic_partition_list_t`: offsets of partitions |

#![allow(unsafe_code)]

mod admin_options;
mod array;
mod event;
mod handle;
mod message;
mod metadata;
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

/// The most messages taken from a queue, or reports taken from an event, in one call.
const AT_ONCE: usize = 256;
