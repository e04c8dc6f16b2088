//! `rd_kafka_message_t`: a message that was read.

use std::ffi::{CStr, c_void};
use std::marker::PhantomData;
use std::ptr;

use rdkafka::bindings as rd;

use super::AT_ONCE;
use super::partition::from_c;
use super::queue::Queue;
use super::trouble::{NO_ERROR, Trouble, check, text_of};
use crate::base::millis::UnixMillis;
use crate::base::units::Partition;

/// A message of a partition, or an error of that partition.
#[derive(Debug)]
pub struct Message<'a> {
    raw: *mut rd::rd_kafka_message_t,
    lives: PhantomData<&'a ()>,
}

impl Queue {
    /// Calls `handle` with up to [`AT_ONCE`] messages. Returns their number.
    pub fn consume(&self, mut handle: impl FnMut(Message<'_>)) -> usize {
        let mut messages = [ptr::null_mut(); AT_ONCE];
        // SAFETY: the array has the stated size; the returned messages are ours to destroy.
        let count =
            unsafe { rd::rd_kafka_consume_batch_queue(self.raw(), 0, messages.as_mut_ptr(), AT_ONCE) };
        let count = usize::try_from(count).unwrap_or(0);
        for raw in &messages[..count] {
            handle(Message { raw: *raw, lives: PhantomData });
            // SAFETY: destroyed once; every borrow of it has ended with the call above.
            unsafe { rd::rd_kafka_message_destroy(*raw) };
        }
        count
    }
}

impl Message<'_> {
    fn get(&self) -> &rd::rd_kafka_message_t {
        // SAFETY: the message lives as long as `self`.
        unsafe { &*self.raw }
    }

    /// Returns the topic's number (`Topic::number`) and the partition.
    pub fn from(&self) -> (usize, Partition) {
        (self.get().rkt as usize, from_c(self.get().partition))
    }

    /// Returns the error, if this is not a message. The end of a partition is one of the errors.
    pub fn trouble(&self) -> Option<Trouble> {
        let code = check(self.get().err).err()?.code;
        // SAFETY: the message lives, and so does the text of its error.
        let text = unsafe { text_of(rd::rd_kafka_message_errstr(self.raw)) };
        Some(Trouble::new(code, text))
    }

    /// Returns the message's offset, or, at the end of a partition, that end.
    pub fn offset(&self) -> i64 {
        self.get().offset
    }

    /// Returns its timestamp, or 0 if it has none.
    pub fn timestamp(&self) -> UnixMillis {
        let mut kind = rd::rd_kafka_timestamp_type_t::RD_KAFKA_TIMESTAMP_NOT_AVAILABLE;
        // SAFETY: the message lives; the call writes `kind` before it returns.
        let time = unsafe { rd::rd_kafka_message_timestamp(self.raw, &mut kind) };
        UnixMillis::new(u64::try_from(time).unwrap_or(0))
    }

    /// Returns the key, which is empty if there is none.
    pub fn key(&self) -> &[u8] {
        // SAFETY: pointer and length are librdkafka's, and the message lives.
        unsafe { bytes_of(self.get().key, self.get().key_len) }
    }

    /// Returns the payload, which is empty if there is none.
    pub fn payload(&self) -> &[u8] {
        // SAFETY: as for the key.
        unsafe { bytes_of(self.get().payload, self.get().len) }
    }

    /// Calls `each` with the name and the value of every header. The value `None` is Kafka's null.
    pub fn each_header(&self, mut each: impl FnMut(&CStr, Option<&[u8]>)) {
        let mut headers = ptr::null_mut();
        // SAFETY: the message lives, and its headers with it.
        if unsafe { rd::rd_kafka_message_headers(self.raw, &mut headers) } != NO_ERROR {
            return;
        }
        for index in 0.. {
            let (mut name, mut value, mut length) = (ptr::null(), ptr::null(), 0);
            // SAFETY: as above. After the last header the call writes nothing and fails.
            let code =
                unsafe { rd::rd_kafka_header_get_all(headers, index, &mut name, &mut value, &mut length) };
            if code != NO_ERROR {
                return;
            }
            // SAFETY: librdkafka ends names with a zero byte; pointer and length of the value are its own.
            unsafe {
                let value = (!value.is_null()).then(|| bytes_of(value, length));
                each(CStr::from_ptr(name), value);
            }
        }
    }
}

/// # Safety
/// `length` bytes live at `at` for `'a`, or it is null.
unsafe fn bytes_of<'a>(at: *const c_void, length: usize) -> &'a [u8] {
    if at.is_null() || length == 0 {
        return &[];
    }
    // SAFETY: the caller's promise.
    unsafe { std::slice::from_raw_parts(at.cast(), length) }
}
