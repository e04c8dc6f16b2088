//! Producing `rd_kafka_message_t`s into a `rd_kafka_topic_t`.

use std::ffi::{CStr, c_int, c_void};
use std::ptr;

use rdkafka::bindings as rd;

use super::partition::to_c;
use super::topic::Topic;
use super::trouble::{NO_ERROR, Trouble};
use crate::base::units::Partition;

/// Memory for the messages of one call, reused by the next.
#[derive(Debug, Default)]
pub struct Scratch(Vec<rd::rd_kafka_message_t>);

impl Topic {
    /// Produces messages (key, payload) into a partition. Copies the keys, but not the payloads.
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
        records: &[(&[u8], &[u8])],
        scratch: &mut Scratch,
    ) -> (usize, Result<(), Trouble>) {
        let partition = to_c(partition);
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
        records: &[(&[u8], &[u8])],
        scratch: &mut Scratch,
    ) -> (usize, Result<(), Trouble>) {
        scratch.0.clear();
        scratch.0.extend(records.iter().map(|(key, payload)| rd::rd_kafka_message_t {
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
        records: &[(&[u8], &[u8])],
    ) -> (usize, Result<(), Trouble>) {
        use rd::rd_kafka_vtype_t as vtype;
        let vu = |vtype, u| rd::rd_kafka_vu_t { vtype, u };
        let bytes = |bytes: &[u8]| {
            let ptr = bytes.as_ptr().cast_mut().cast();
            let mem = rd::rd_kafka_vu_s__bindgen_ty_1__bindgen_ty_1 { ptr, size: bytes.len() };
            rd::rd_kafka_vu_s__bindgen_ty_1 { mem }
        };
        let header = rd::rd_kafka_vu_s__bindgen_ty_1__bindgen_ty_2 {
            name: name.as_ptr(),
            val: value.as_ptr().cast(),
            size: value.len() as isize,
        };
        let mut fields = [
            vu(vtype::RD_KAFKA_VTYPE_RKT, rd::rd_kafka_vu_s__bindgen_ty_1 { rkt: self.raw() }),
            vu(vtype::RD_KAFKA_VTYPE_PARTITION, rd::rd_kafka_vu_s__bindgen_ty_1 { i32_: partition }),
            vu(vtype::RD_KAFKA_VTYPE_OPAQUE, rd::rd_kafka_vu_s__bindgen_ty_1 { ptr: opaque as *mut c_void }),
            vu(vtype::RD_KAFKA_VTYPE_HEADER, rd::rd_kafka_vu_s__bindgen_ty_1 { header }),
            vu(vtype::RD_KAFKA_VTYPE_VALUE, bytes(&[])),
            vu(vtype::RD_KAFKA_VTYPE_KEY, bytes(&[])),
        ];
        for (index, (key, payload)) in records.iter().enumerate() {
            fields[4].u = bytes(payload);
            fields[5].u = bytes(key);
            let count = if key.is_empty() { 5 } else { 6 };
            // SAFETY: the array holds at least `count` fields, whose values live during the call, and the
            // payloads live as the caller promises; a returned error is ours to destroy.
            let code = unsafe {
                let error = rd::rd_kafka_produceva(self.handle().raw(), fields.as_ptr(), count);
                if error.is_null() {
                    continue;
                }
                let code = rd::rd_kafka_error_code(error);
                rd::rd_kafka_error_destroy(error);
                code
            };
            return match code {
                rd::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR__QUEUE_FULL => (index, Ok(())),
                code => (index, Err(Trouble::of(code))),
            };
        }
        (records.len(), Ok(()))
    }
}
