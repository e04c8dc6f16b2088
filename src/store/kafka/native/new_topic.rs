//! `rd_kafka_NewTopic_t`: a topic to create.

use std::ffi::{CStr, CString, c_char};

use rdkafka::bindings as rd;

use super::admin_options::Options;
use super::array::array;
use super::handle::Handle;
use super::queue::Queue;
use super::trouble::{Trouble, check, text_of};

/// A topic to create.
#[derive(Debug)]
pub struct NewTopic<'a> {
    pub name: &'a CStr,
    pub partitions: i32,
    pub replication: i32,
    pub configs: &'a [(CString, CString)],
}

impl Handle {
    /// Creates a topic. The answer comes to `queue` as `Event::Created`.
    pub fn create_topic(&self, queue: &Queue, asked: usize, topic: &NewTopic<'_>) -> Result<(), Trouble> {
        let options = Options::new(self, rd::rd_kafka_admin_op_t::RD_KAFKA_ADMIN_OP_CREATETOPICS, asked);
        let mut why = [0 as c_char; 256];
        // SAFETY: all arguments live during the calls, which copy what they keep; the buffer has the stated
        // size.
        unsafe {
            let made = rd::rd_kafka_NewTopic_new(
                topic.name.as_ptr(),
                topic.partitions,
                topic.replication,
                why.as_mut_ptr(),
                why.len(),
            );
            if made.is_null() {
                let code = rd::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR__INVALID_ARG;
                return Err(Trouble::new(code.into(), text_of(why.as_ptr())));
            }
            for (key, value) in topic.configs {
                rd::rd_kafka_NewTopic_set_config(made, key.as_ptr(), value.as_ptr());
            }
            let mut all = [made];
            rd::rd_kafka_CreateTopics(self.raw(), all.as_mut_ptr(), 1, options.raw(), queue.raw());
            rd::rd_kafka_NewTopic_destroy(made);
        }
        Ok(())
    }
}

/// # Safety
/// `raw` is a live event of CreateTopics.
pub(super) unsafe fn created(raw: *mut rd::rd_kafka_event_t) -> Result<(), Trouble> {
    // SAFETY: the caller's promise; the results live as long as the event.
    unsafe {
        let result = rd::rd_kafka_event_CreateTopics_result(raw);
        let topics = array(|count| rd::rd_kafka_CreateTopics_result_topics(result, count));
        let Some(topic) = topics.first() else { return Ok(()) };
        let code = rd::rd_kafka_topic_result_error(*topic);
        check(code)
            .map_err(|_| Trouble::new(code.into(), text_of(rd::rd_kafka_topic_result_error_string(*topic))))
    }
}
