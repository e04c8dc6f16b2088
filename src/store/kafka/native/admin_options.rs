//! `rd_kafka_AdminOptions_t`: the options of one question to the cluster.

use std::ffi::{c_int, c_void};
use std::ptr;

use rdkafka::bindings as rd;

use super::handle::Handle;

/// How long Kafka may take to answer a question, in milliseconds.
const TIMEOUT_MS: c_int = 10_000;

/// The options of one question. They carry its number, `asked`, which is returned with the answer.
pub(super) struct Options {
    raw: *mut rd::rd_kafka_AdminOptions_t,
}

impl Options {
    pub(super) fn new(handle: &Handle, of: rd::rd_kafka_admin_op_t, asked: usize) -> Self {
        // SAFETY: the handle lives; the opaque is a number, never a pointer.
        unsafe {
            let raw = rd::rd_kafka_AdminOptions_new(handle.raw(), of);
            rd::rd_kafka_AdminOptions_set_opaque(raw, asked as *mut c_void);
            rd::rd_kafka_AdminOptions_set_request_timeout(raw, TIMEOUT_MS, ptr::null_mut(), 0);
            Self { raw }
        }
    }

    pub(super) fn raw(&self) -> *const rd::rd_kafka_AdminOptions_t {
        self.raw
    }
}

impl Drop for Options {
    fn drop(&mut self) {
        // SAFETY: `new` created it, and it is destroyed once.
        unsafe { rd::rd_kafka_AdminOptions_destroy(self.raw) };
    }
}
