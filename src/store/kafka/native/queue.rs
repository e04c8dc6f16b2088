//! `rd_kafka_queue_t`: the queue at which the events and messages of a handle arrive.

use std::ffi::c_void;
use std::ptr::{self, NonNull};
use std::sync::Arc;

use rdkafka::bindings as rd;

use super::handle::Handle;
use crate::store::kafka::news::News;

/// A queue of a handle. It rings `News` when something arrives and it was empty.
///
/// Its two ways to take something are next to what they return: `Queue::poll` in `event`, `Queue::consume` in
/// `message`.
#[derive(Debug)]
pub struct Queue {
    raw: NonNull<rd::rd_kafka_queue_t>,
    /// The queue belongs to the handle, which must outlive it.
    _handle: Handle,
    /// librdkafka's callback holds a pointer to it.
    news: Arc<News>,
}

// SAFETY: librdkafka locks its queues; any thread may use them.
unsafe impl Send for Queue {}

impl Queue {
    /// Returns the handle's main queue: reports, errors, log lines.
    pub fn main(handle: &Handle, news: &Arc<News>) -> Option<Self> {
        // SAFETY: the handle lives; the returned reference is ours.
        let raw = unsafe { rd::rd_kafka_queue_get_main(handle.raw()) };
        Self::of(raw, handle, news)
    }

    /// Creates a further queue, for messages.
    pub fn new(handle: &Handle, news: &Arc<News>) -> Option<Self> {
        // SAFETY: the handle lives; the returned reference is ours.
        let raw = unsafe { rd::rd_kafka_queue_new(handle.raw()) };
        Self::of(raw, handle, news)
    }

    fn of(raw: *mut rd::rd_kafka_queue_t, handle: &Handle, news: &Arc<News>) -> Option<Self> {
        extern "C" fn ring(_: *mut rd::rd_kafka_t, news: *mut c_void) {
            // SAFETY: the pointer is that of an `Arc<News>`, which the queue holds while the callback is
            // enabled.
            unsafe { &*news.cast::<News>() }.ring();
        }
        let queue = Self { raw: NonNull::new(raw)?, _handle: handle.clone(), news: news.clone() };
        // SAFETY: `drop` disables the callback before `news` is dropped.
        unsafe {
            let opaque = Arc::as_ptr(&queue.news).cast_mut().cast();
            rd::rd_kafka_queue_cb_event_enable(queue.raw.as_ptr(), Some(ring), opaque);
        }
        Some(queue)
    }

    pub(super) fn raw(&self) -> *mut rd::rd_kafka_queue_t {
        self.raw.as_ptr()
    }
}

impl Drop for Queue {
    fn drop(&mut self) {
        // SAFETY: librdkafka makes no callback after the first call; the second destroys our own reference,
        // once.
        unsafe {
            rd::rd_kafka_queue_cb_event_enable(self.raw.as_ptr(), None, ptr::null_mut());
            rd::rd_kafka_queue_destroy(self.raw.as_ptr());
        }
    }
}
