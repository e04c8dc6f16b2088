//! Producing `rd_kafka_message_t`s into a `rd_kafka_topic_t`.

use std::ffi::{CStr, c_int, c_void};
use std::ptr;

use rdkafka::bindings as rd;
use rdkafka::bindings::rd_kafka_vtype_t as vtype;

use super::partition::to_c;
use super::topic::Topic;
use super::trouble::{NO_ERROR, Trouble};
use crate::base::batch::Record;
use crate::base::units::Partition;
use crate::pb::headers::HeadersReader;

/// Memory for the messages of one call, reused by the next.
#[derive(Debug, Default)]
pub struct Scratch(Vec<rd::rd_kafka_message_t>);

impl Topic {
    /// Produces messages into a partition. Copies their keys and headers, but not the payloads. `header` is one more
    /// header of each.
    ///
    /// Returns how many messages librdkafka has taken, and the error that stopped it. If it took fewer
    /// without an error, its queue is full.
    ///
    /// # Safety
    /// The payloads must stay where they are until their reports have come or the client is destroyed. Clones
    /// of the handle keep the client alive: see `Handle::keep`.
    pub unsafe fn produce(
        &self,
        partition: Partition,
        opaque: usize,
        header: Option<(&CStr, &[u8])>,
        records: &[Record<'_>],
        scratch: &mut Scratch,
    ) -> (usize, Result<(), Trouble>) {
        let partition = to_c(partition);
        if records.iter().any(|record| !record.headers.is_empty()) {
            // SAFETY: the caller's promise.
            return unsafe { self.produce_with_headers(partition, opaque, header, records) };
        }
        match header {
            // SAFETY: the caller's promise.
            None => unsafe { self.produce_plain(partition, opaque, records, scratch) },
            // SAFETY: the caller's promise.
            Some(header) => unsafe { self.produce_with_header(partition, opaque, header, records) },
        }
    }

    /// # Safety
    /// As for [`Self::produce`].
    unsafe fn produce_plain(
        &self,
        partition: i32,
        opaque: usize,
        records: &[Record<'_>],
        scratch: &mut Scratch,
    ) -> (usize, Result<(), Trouble>) {
        scratch.0.clear();
        scratch.0.extend(records.iter().map(|Record { key, payload, .. }| rd::rd_kafka_message_t {
            err: NO_ERROR,
            rkt: ptr::null_mut(),
            partition,
            payload: payload.as_ptr().cast_mut().cast(),
            len: payload.len(),
            key: if key.is_empty() { ptr::null_mut() } else { key.as_ptr().cast_mut().cast() },
            key_len: key.len(),
            offset: 0,
            _private: opaque as *mut c_void,
        }));
        // SAFETY: the array has the stated size, and the payloads live as the caller promises.
        let taken = unsafe {
            rd::rd_kafka_produce_batch(
                self.raw(),
                partition,
                0,
                scratch.0.as_mut_ptr(),
                scratch.0.len() as c_int,
            )
        };
        let taken = usize::try_from(taken).unwrap_or(0);
        // librdkafka takes a prefix up to the first message that does not fit. Any other error concerns only
        // its own message.
        let first = scratch.0.iter().position(|message| message.err != NO_ERROR);
        match first.map(|index| (index, scratch.0[index].err)) {
            None => (taken, Ok(())),
            Some((index, rd::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR__QUEUE_FULL)) => (index, Ok(())),
            Some((_, code)) => (taken, Err(Trouble::of(code))),
        }
    }

    /// # Safety
    /// As for [`Self::produce`].
    unsafe fn produce_with_header(
        &self,
        partition: i32,
        opaque: usize,
        (name, value): (&CStr, &[u8]),
        records: &[Record<'_>],
    ) -> (usize, Result<(), Trouble>) {
        let header = rd::rd_kafka_vu_s__bindgen_ty_1__bindgen_ty_2 {
            name: name.as_ptr(),
            val: value.as_ptr().cast(),
            size: value.len() as isize,
        };
        let header = vu(vtype::RD_KAFKA_VTYPE_HEADER, rd::rd_kafka_vu_s__bindgen_ty_1 { header });
        let mut fields = self.fields(partition, opaque, header);
        for (index, record) in records.iter().enumerate() {
            // SAFETY: the caller's promise.
            match unsafe { self.produce_one(&mut fields, record) } {
                Ok(()) => {}
                Err(code) => return stopped(index, code),
            }
        }
        (records.len(), Ok(()))
    }

    /// # Safety
    /// As for [`Self::produce`].
    unsafe fn produce_with_headers(
        &self,
        partition: i32,
        opaque: usize,
        first: Option<(&CStr, &[u8])>,
        records: &[Record<'_>],
    ) -> (usize, Result<(), Trouble>) {
        for (index, record) in records.iter().enumerate() {
            let first = first.map(|(name, value)| (name.to_bytes(), Some(value)));
            let others = HeadersReader::new(record.headers).flatten();
            let others = others.map(|header| (header.name.as_bytes(), header.value));
            let headers = match Headers::of(first.into_iter().chain(others)) {
                Ok(headers) => headers,
                Err(code) => return stopped(index, code),
            };
            let u = rd::rd_kafka_vu_s__bindgen_ty_1 { headers: headers.0 };
            let mut fields = self.fields(partition, opaque, vu(vtype::RD_KAFKA_VTYPE_HEADERS, u));
            // SAFETY: the caller's promise.
            match unsafe { self.produce_one(&mut fields, record) } {
                // librdkafka owns them with the message.
                Ok(()) => std::mem::forget(headers),
                Err(code) => return stopped(index, code),
            }
        }
        (records.len(), Ok(()))
    }

    /// Produces one message, which it copies. The value `None` is Kafka's null: it deletes the key of a compacted topic.
    pub fn produce_copy(
        &self,
        partition: Partition,
        opaque: usize,
        key: &[u8],
        value: Option<&[u8]>,
    ) -> Result<(), Trouble> {
        let nothing = rd::rd_kafka_vu_s__bindgen_ty_1__bindgen_ty_1 { ptr: ptr::null_mut(), size: 0 };
        let nothing = rd::rd_kafka_vu_s__bindgen_ty_1 { mem: nothing };
        let flags = rd::rd_kafka_vu_s__bindgen_ty_1 { i: rd::RD_KAFKA_MSG_F_COPY as c_int };
        let mut fields = self.fields(to_c(partition), opaque, vu(vtype::RD_KAFKA_VTYPE_MSGFLAGS, flags));
        fields[4].u = value.map_or(nothing, bytes);
        fields[5].u = bytes(key);
        // SAFETY: all fields live during the call, which copies key and value.
        unsafe { self.produce_fields(&fields) }.map_err(Trouble::of)
    }

    /// Returns the arguments of a message: `more` is one of them. The last two are for its value and key.
    fn fields(&self, partition: i32, opaque: usize, more: rd::rd_kafka_vu_t) -> [rd::rd_kafka_vu_t; 6] {
        [
            vu(vtype::RD_KAFKA_VTYPE_RKT, rd::rd_kafka_vu_s__bindgen_ty_1 { rkt: self.raw() }),
            vu(vtype::RD_KAFKA_VTYPE_PARTITION, rd::rd_kafka_vu_s__bindgen_ty_1 { i32_: partition }),
            vu(vtype::RD_KAFKA_VTYPE_OPAQUE, rd::rd_kafka_vu_s__bindgen_ty_1 { ptr: opaque as *mut c_void }),
            more,
            vu(vtype::RD_KAFKA_VTYPE_VALUE, bytes(&[])),
            vu(vtype::RD_KAFKA_VTYPE_KEY, bytes(&[])),
        ]
    }

    /// Produces one message with these arguments. Returns librdkafka's code if it did not take the message.
    ///
    /// # Safety
    /// As for [`Self::produce`]. What the arguments point to must live during the call.
    unsafe fn produce_one(
        &self,
        fields: &mut [rd::rd_kafka_vu_t; 6],
        record: &Record<'_>,
    ) -> Result<(), rd::rd_kafka_resp_err_t> {
        fields[4].u = bytes(record.payload);
        fields[5].u = bytes(record.key);
        let count = if record.key.is_empty() { 5 } else { 6 };
        // SAFETY: the caller's promise.
        unsafe { self.produce_fields(&fields[..count]) }
    }

    /// # Safety
    /// What the arguments point to must live during the call, and a payload that is not copied as for [`Self::produce`].
    unsafe fn produce_fields(&self, fields: &[rd::rd_kafka_vu_t]) -> Result<(), rd::rd_kafka_resp_err_t> {
        // SAFETY: the caller's promise; a returned error is ours to destroy.
        unsafe {
            let error = rd::rd_kafka_produceva(self.handle().raw(), fields.as_ptr(), fields.len());
            if error.is_null() {
                return Ok(());
            }
            let code = rd::rd_kafka_error_code(error);
            rd::rd_kafka_error_destroy(error);
            Err(code)
        }
    }
}

/// Returns the result for messages of which librdkafka did not take the one at `index`.
fn stopped(index: usize, code: rd::rd_kafka_resp_err_t) -> (usize, Result<(), Trouble>) {
    match code {
        rd::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR__QUEUE_FULL => (index, Ok(())),
        code => (index, Err(Trouble::of(code))),
    }
}

fn vu(vtype: vtype, u: rd::rd_kafka_vu_s__bindgen_ty_1) -> rd::rd_kafka_vu_t {
    rd::rd_kafka_vu_t { vtype, u }
}

fn bytes(bytes: &[u8]) -> rd::rd_kafka_vu_s__bindgen_ty_1 {
    let ptr = bytes.as_ptr().cast_mut().cast();
    let mem = rd::rd_kafka_vu_s__bindgen_ty_1__bindgen_ty_1 { ptr, size: bytes.len() };
    rd::rd_kafka_vu_s__bindgen_ty_1 { mem }
}

/// `rd_kafka_headers_t`: the headers of a message that is not produced yet.
#[derive(Debug)]
struct Headers(*mut rd::rd_kafka_headers_t);

impl Headers {
    /// Copies names and values. The value `None` is Kafka's null.
    fn of<'a>(
        all: impl Iterator<Item = (&'a [u8], Option<&'a [u8]>)>,
    ) -> Result<Self, rd::rd_kafka_resp_err_t> {
        // SAFETY: the headers are ours to destroy.
        let headers = Self(unsafe { rd::rd_kafka_headers_new(4) });
        for (name, value) in all {
            let (at, length) = value.map_or((ptr::null(), 0), |value| (value.as_ptr().cast(), value.len()));
            // SAFETY: names and values have the stated sizes and live during the call, which copies them.
            let code = unsafe {
                rd::rd_kafka_header_add(
                    headers.0,
                    name.as_ptr().cast(),
                    name.len() as isize,
                    at,
                    length as isize,
                )
            };
            if code != NO_ERROR {
                return Err(code);
            }
        }
        Ok(headers)
    }
}

impl Drop for Headers {
    fn drop(&mut self) {
        // SAFETY: destroyed once; those of a message that librdkafka has taken are forgotten instead.
        unsafe { rd::rd_kafka_headers_destroy(self.0) };
    }
}
