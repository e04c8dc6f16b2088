//! `rd_kafka_TopicDescription_t`: the existing topics, with their ids and partitions.

use std::ffi::{CStr, CString, c_char};
use std::sync::Arc;

use rdkafka::bindings as rd;

use super::admin_options::Options;
use super::array::array;
use super::handle::Handle;
use super::queue::Queue;
use super::trouble::{Trouble, check, text_of};
use crate::base::attributes::Attributes;
use crate::base::queue::Signing;
use crate::store::Life;

/// A topic, and the life of its queue.
#[derive(Clone, Debug)]
pub struct Described {
    pub topic: CString,
    pub result: Result<Life, Trouble>,
}

impl Handle {
    /// Asks whether topics exist, and for their ids and partitions. The answer comes to `queue` as
    /// `Event::Described`.
    pub fn describe_topics(&self, queue: &Queue, asked: usize, topics: &[Arc<CString>]) {
        let options = Options::new(self, rd::rd_kafka_admin_op_t::RD_KAFKA_ADMIN_OP_DESCRIBETOPICS, asked);
        let mut names: Vec<*const c_char> = topics.iter().map(|topic| topic.as_ptr()).collect();
        // SAFETY: the names, the options, the queue and the handle live during the call, which copies what it
        // keeps.
        unsafe {
            let topics = rd::rd_kafka_TopicCollection_of_topic_names(names.as_mut_ptr(), names.len());
            rd::rd_kafka_DescribeTopics(self.raw(), topics, options.raw(), queue.raw());
            rd::rd_kafka_TopicCollection_destroy(topics);
        }
    }
}

/// # Safety
/// `raw` is a live event of DescribeTopics.
pub(super) unsafe fn described(raw: *mut rd::rd_kafka_event_t) -> Vec<Described> {
    // SAFETY: the caller's promise; the results live as long as the event.
    unsafe {
        let result = rd::rd_kafka_event_DescribeTopics_result(raw);
        let topics = array(|count| rd::rd_kafka_DescribeTopics_result_topics(result, count));
        let described = |topic: &*const rd::rd_kafka_TopicDescription_t| {
            let name = CStr::from_ptr(rd::rd_kafka_TopicDescription_name(*topic)).to_owned();
            Described { topic: name, result: description(*topic) }
        };
        topics.iter().map(described).collect()
    }
}

/// # Safety
/// `topic` is of a live event.
unsafe fn description(topic: *const rd::rd_kafka_TopicDescription_t) -> Result<Life, Trouble> {
    // SAFETY: the caller's promise.
    unsafe {
        let error = rd::rd_kafka_TopicDescription_error(topic);
        if !error.is_null() {
            let code = rd::rd_kafka_error_code(error);
            check(code).map_err(|_| Trouble::new(code.into(), text_of(rd::rd_kafka_error_string(error))))?;
        }
        let id = rd::rd_kafka_TopicDescription_topic_id(topic);
        // The id is random in most of its 128 bits, and known only to Kafka's own clients.
        let (high, low) = if id.is_null() {
            (0, 0)
        } else {
            let bits =
                (rd::rd_kafka_Uuid_most_significant_bits(id), rd::rd_kafka_Uuid_least_significant_bits(id));
            (bits.0.cast_unsigned(), bits.1.cast_unsigned())
        };
        let signing = Signing { key: u128::from(high) << 64 | u128::from(low), ..Signing::default() };
        let mut partitions = 0;
        rd::rd_kafka_TopicDescription_partitions(topic, &mut partitions);
        let partitions = u16::try_from(partitions).unwrap_or(u16::MAX);
        Ok(Life { incarnation: high ^ low, partitions, signing, attributes: Attributes::default() })
    }
}
