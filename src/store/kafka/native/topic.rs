//! `rd_kafka_topic_t`: a topic of a handle, and reading its partitions.

use std::ffi::CStr;
use std::ptr::{self, NonNull};

use rdkafka::bindings as rd;

use super::handle::Handle;
use super::partition::to_c;
use super::queue::Queue;
use super::trouble::{Trouble, last_trouble};
use crate::base::units::Partition;

/// A topic of a handle.
#[derive(Debug)]
pub struct Topic {
    raw: NonNull<rd::rd_kafka_topic_t>,
    handle: Handle,
}

// SAFETY: librdkafka locks its topics; any thread may use them.
unsafe impl Send for Topic {}
// SAFETY: as for `Send`.
unsafe impl Sync for Topic {}

impl Topic {
    /// Creates the topic with this name.
    pub fn new(handle: &Handle, name: &CStr) -> Result<Self, Trouble> {
        // SAFETY: the handle and the name live; the returned reference is ours.
        let raw = unsafe { rd::rd_kafka_topic_new(handle.raw(), name.as_ptr(), ptr::null_mut()) };
        match NonNull::new(raw) {
            Some(raw) => Ok(Self { raw, handle: handle.clone() }),
            None => Err(last_trouble()),
        }
    }

    pub(super) fn raw(&self) -> *mut rd::rd_kafka_topic_t {
        self.raw.as_ptr()
    }

    pub(super) fn handle(&self) -> &Handle {
        &self.handle
    }

    /// Returns the topic's number in this process. `Message::from` returns the same.
    pub fn number(&self) -> usize {
        self.raw.as_ptr() as usize
    }

    /// Starts reading a partition from `offset` on, into `queue`.
    pub fn start(&self, partition: Partition, offset: i64, queue: &Queue) -> Result<(), Trouble> {
        let partition = to_c(partition);
        // SAFETY: topic and queue live, and belong to one handle.
        let failed =
            unsafe { rd::rd_kafka_consume_start_queue(self.raw.as_ptr(), partition, offset, queue.raw()) };
        if failed == 0 { Ok(()) } else { Err(last_trouble()) }
    }

    /// Stops reading a partition, and drops its messages from the queue. Blocks.
    pub fn stop(&self, partition: Partition) {
        // SAFETY: the topic lives. The call fails for a partition that was not started, which is fine.
        unsafe { rd::rd_kafka_consume_stop(self.raw.as_ptr(), to_c(partition)) };
    }
}

impl Drop for Topic {
    fn drop(&mut self) {
        // SAFETY: our own reference, destroyed once; the handle outlives it.
        unsafe { rd::rd_kafka_topic_destroy(self.raw.as_ptr()) };
    }
}
