//! `rd_kafka_AdminOptions_t`: the options of one question to the cluster.

use std::ffi::{c_int, c_void};
use std::ptr;

use rdkafka::bindings as rd;

use super::handle::Handle;

/// The options of one question. They carry its number, `asked`, which comes back with the answer.
pub(super) struct Options {
    raw: *mut rd::rd_kafka_AdminOptions_t,
}

impl Options {
    pub(super) fn new(handle: &Handle, of: rd::rd_kafka_admin_op_t, asked: usize, timeout_ms: c_int) -> Self {
        // SAFETY: the handle lives; the opaque is a number, never a pointer. librdkafka ignores a timeout out of range.
        unsafe {
            let raw = rd::rd_kafka_AdminOptions_new(handle.raw(), of);
            rd::rd_kafka_AdminOptions_set_opaque(raw, asked as *mut c_void);
            rd::rd_kafka_AdminOptions_set_request_timeout(raw, timeout_ms, ptr::null_mut(), 0);
            Self { raw }
        }
    }

    pub(super) fn raw(&self) -> *const rd::rd_kafka_AdminOptions_t {
        self.raw
    }
}

impl Drop for Options {
    fn drop(&mut self) {
        // SAFETY: `new` made it; it is destroyed once.
        unsafe { rd::rd_kafka_AdminOptions_destroy(self.raw) };
    }
}
