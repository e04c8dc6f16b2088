//! `rd_kafka_topic_partition_list_t`: partitions, and the offsets that are asked of them.

use std::ffi::{CStr, CString, c_int};
use std::sync::Arc;

use rdkafka::bindings as rd;

use super::admin_options::Options;
use super::array::array;
use super::handle::Handle;
use super::partition::{from_c, to_c};
use super::queue::Queue;
use super::trouble::{Trouble, check};
use crate::base::millis::UnixMillis;
use crate::base::units::Partition;

/// The offset of a partition that is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum OffsetOf {
    /// The end of the partition.
    End,
    /// The offset of the first record at or after this time.
    Time(UnixMillis),
}

/// An offset of a partition.
#[derive(Clone, Debug)]
pub struct PartitionOffset {
    pub topic: CString,
    pub partition: Partition,
    pub offset: Result<i64, Trouble>,
}

impl Handle {
    /// Asks for offsets: for each partition either the end, or the first record at or after a time. `of` has
    /// each partition only once. The answer comes to `queue` as `Event::Offsets`, in no particular order.
    pub fn list_offsets(&self, queue: &Queue, asked: usize, of: &[(Arc<CString>, Partition, OffsetOf)]) {
        let options = Options::new(self, rd::rd_kafka_admin_op_t::RD_KAFKA_ADMIN_OP_LISTOFFSETS, asked);
        // SAFETY: all arguments live during the calls, which copy what they keep; an element of the list is
        // written before the list grows again.
        unsafe {
            let list = rd::rd_kafka_topic_partition_list_new(of.len() as c_int);
            for (topic, partition, which) in of {
                let one = rd::rd_kafka_topic_partition_list_add(list, topic.as_ptr(), to_c(*partition));
                (*one).offset = match which {
                    OffsetOf::End => rd::rd_kafka_OffsetSpec_t::RD_KAFKA_OFFSET_SPEC_LATEST as i64,
                    OffsetOf::Time(unix) => i64::try_from(unix.get()).unwrap_or(i64::MAX),
                };
            }
            rd::rd_kafka_ListOffsets(self.raw(), list, options.raw(), queue.raw());
            rd::rd_kafka_topic_partition_list_destroy(list);
        }
    }
}

/// # Safety
/// `raw` is a live event of ListOffsets.
pub(super) unsafe fn offsets(raw: *mut rd::rd_kafka_event_t) -> Vec<PartitionOffset> {
    // SAFETY: the caller's promise; the results live as long as the event.
    unsafe {
        let result = rd::rd_kafka_event_ListOffsets_result(raw);
        let infos = array(|count| rd::rd_kafka_ListOffsets_result_infos(result, count));
        let offset = |info: &*const rd::rd_kafka_ListOffsetsResultInfo_t| {
            let one = &*rd::rd_kafka_ListOffsetsResultInfo_topic_partition(*info);
            PartitionOffset {
                topic: CStr::from_ptr(one.topic).to_owned(),
                partition: from_c(one.partition),
                offset: check(one.err).map(|()| one.offset),
            }
        };
        infos.iter().map(offset).collect()
    }
}
