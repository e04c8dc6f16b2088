//! `rd_kafka_ConfigResource_t`: a topic's configuration.

use std::ffi::CStr;

use rdkafka::bindings as rd;

use super::admin_options::Options;
use super::array::array;
use super::handle::Handle;
use super::queue::Queue;
use super::trouble::{Trouble, check, text_of};

impl Handle {
    /// Asks for a topic's configuration. The answer comes to `queue` as `Event::Configs`.
    pub fn describe_config(&self, queue: &Queue, asked: usize, topic: &CStr) {
        let options = Options::new(self, rd::rd_kafka_admin_op_t::RD_KAFKA_ADMIN_OP_DESCRIBECONFIGS, asked);
        // SAFETY: the name, the options, the queue and the handle live during the calls, which copy what they
        // keep.
        unsafe {
            let resource = rd::rd_kafka_ConfigResource_new(
                rd::rd_kafka_ResourceType_t::RD_KAFKA_RESOURCE_TOPIC,
                topic.as_ptr(),
            );
            let mut all = [resource];
            rd::rd_kafka_DescribeConfigs(self.raw(), all.as_mut_ptr(), 1, options.raw(), queue.raw());
            rd::rd_kafka_ConfigResource_destroy(resource);
        }
    }
}

/// # Safety
/// `raw` is a live event of DescribeConfigs.
pub(super) unsafe fn configs(raw: *mut rd::rd_kafka_event_t) -> Result<Vec<(String, String)>, Trouble> {
    let mut all = Vec::new();
    // SAFETY: the caller's promise; the results live as long as the event.
    unsafe {
        let result = rd::rd_kafka_event_DescribeConfigs_result(raw);
        for resource in array(|count| rd::rd_kafka_DescribeConfigs_result_resources(result, count)) {
            let resource = *resource;
            let code = rd::rd_kafka_ConfigResource_error(resource);
            check(code).map_err(|_| {
                Trouble::new(code.into(), text_of(rd::rd_kafka_ConfigResource_error_string(resource)))
            })?;
            for entry in array(|count| rd::rd_kafka_ConfigResource_configs(resource, count)) {
                all.push((
                    text_of(rd::rd_kafka_ConfigEntry_name(*entry)),
                    text_of(rd::rd_kafka_ConfigEntry_value(*entry)),
                ));
            }
        }
    }
    Ok(all)
}
