//! `rd_kafka_metadata_t`: all topics of the cluster; and where a partition begins and ends.

use std::ffi::{CStr, c_int};
use std::ptr;
use std::time::Duration;

use rdkafka::bindings as rd;

use super::handle::Handle;
use super::partition::to_c;
use super::trouble::{NO_ERROR, Trouble, check, text_of};
use crate::base::units::Partition;

impl Handle {
    /// Returns all topics that this client may see, with their numbers of partitions. Blocks.
    pub fn topics(&self, patience: Duration) -> Result<Vec<(String, u16)>, Trouble> {
        let mut raw = ptr::null();
        // SAFETY: the handle lives; a null topic stands for none in particular; on success the answer is ours to destroy,
        // after what it borrows was copied.
        unsafe {
            check(rd::rd_kafka_metadata(self.raw(), 1, ptr::null_mut(), &mut raw, to_ms(patience)))?;
            let metadata = &*raw;
            let topics = match usize::try_from(metadata.topic_cnt) {
                Ok(count) if count > 0 => std::slice::from_raw_parts(metadata.topics, count),
                _ => &[],
            };
            let there = topics.iter().filter(|topic| topic.err == NO_ERROR);
            let all = there
                .map(|topic| (text_of(topic.topic), u16::try_from(topic.partition_cnt).unwrap_or(u16::MAX)));
            let all = all.collect();
            rd::rd_kafka_metadata_destroy(raw);
            Ok(all)
        }
    }

    /// Returns Kafka's first offset of a partition, and its end. Blocks.
    pub fn watermarks(
        &self,
        topic: &CStr,
        partition: Partition,
        patience: Duration,
    ) -> Result<(i64, i64), Trouble> {
        let (mut first, mut end) = (0, 0);
        // SAFETY: the handle and the name live during the call, which writes both numbers if it succeeds.
        let code = unsafe {
            rd::rd_kafka_query_watermark_offsets(
                self.raw(),
                topic.as_ptr(),
                to_c(partition),
                &mut first,
                &mut end,
                to_ms(patience),
            )
        };
        check(code).map(|()| (first, end))
    }
}

fn to_ms(patience: Duration) -> c_int {
    c_int::try_from(patience.as_millis()).unwrap_or(c_int::MAX)
}
