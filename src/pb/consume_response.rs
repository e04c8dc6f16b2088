//! Hand-written coder of `ConsumeResponse { status = 1, messages = 2 }`: the encoder for the server, the
//! decoder for clients.
//!
//! All messages of a stored batch share partition, TTL, age and time. Only offset, key and payload differ. So
//! the encoder prepares a template for each batch and then copies it.

use std::io::Write;

use prost::Message;

use super::headers::first_timestamp;
use super::wire::{
    BYTES, KEY_TAG, Malformed, Reader, VARINT, expect, extension_length, put_extension, put_varint,
    varint_length, write_varint,
};
use super::{MessageAndMetadata, Status};
use crate::base::batch::Record;
use crate::base::millis::UnixMillis;
use crate::base::units::{Offset, Partition};

const MESSAGES_TAG: u8 = 2 << 3 | BYTES;
const ID_TAG: u8 = 2 << 3 | BYTES;
const TTL_TAG: u8 = 3 << 3 | VARINT;
const AGE_TAG: u8 = 4 << 3 | VARINT;
const PAYLOAD_TAG: u8 = 6 << 3 | BYTES;
/// The two-byte tags of fields 101 to 103, varints.
const TIMESTAMP_TAG: [u8; 2] = [0xa8, 0x06];
const DELAY_TAG: [u8; 2] = [0xb0, 0x06];
const CLAIM_COUNT_TAG: [u8; 2] = [0xb8, 0x06];
/// The two-byte tag of `headers` (field 104, bytes).
const HEADERS_TAG: [u8; 2] = [0xc2, 0x06];
/// The two-byte tag of `first_timestamp_ms` (field 105, varint).
const FIRST_TIMESTAMP_TAG: [u8; 2] = [0xc8, 0x06];

/// The most bytes in front of a payload: the message's own tag and length, the tag and length of the id,
/// partition and point, 16 digits of the offset, TTL and age with at most six bytes each, the payload's tag
/// and length.
const HEAD_BYTES_MAX: usize = 6 + 2 + 5 + 1 + 16 + 6 + 6 + 6;

/// The encoded fields that the messages of a batch share.
#[derive(Clone, Debug)]
pub struct MessageTemplate {
    /// The partition in hexadecimal and a point.
    partition: [u8; 5],
    partition_length: u8,
    /// The encoded TTL and age.
    meta: [u8; 12],
    meta_length: u8,
    /// The time when the batch was stored, and the delay and the claim count if there are any.
    tail: [u8; 12 + 7 + 7],
    tail_length: u8,
}

/// Appends the headers of a message, and what they say to everybody.
#[inline(never)]
fn put_headers(headers: &[u8], out: &mut Vec<u8>) {
    put_extension(HEADERS_TAG, headers, out);
    if let Some(time) = first_timestamp(headers) {
        out.extend_from_slice(&FIRST_TIMESTAMP_TAG);
        write_varint(time, out);
    }
}

/// Returns the encoded length of key and headers.
#[inline(never)]
fn more_length(record: Record<'_>) -> usize {
    let length = |bytes: &[u8]| if bytes.is_empty() { 0 } else { extension_length(bytes.len()) };
    let first = first_timestamp(record.headers);
    let first = first.map_or(0, |time| FIRST_TIMESTAMP_TAG.len() + varint_length(time));
    length(record.key) + length(record.headers) + first
}

fn hex_length(value: u64) -> usize {
    (64 - (value | 1).leading_zeros() as usize).div_ceil(4)
}

impl MessageTemplate {
    /// Creates the template for a batch of `partition`. TTL and age are in seconds, the time in Unix
    /// milliseconds.
    pub fn new(partition: Partition, ttl: u32, age: u32, timestamp: UnixMillis) -> Self {
        let mut template = Self {
            partition: [0; 5],
            partition_length: hex_length(u64::from(partition.0)) as u8 + 1,
            meta: [0; 12],
            meta_length: 0,
            tail: [0; 26],
            tail_length: 0,
        };
        // Cannot fail: any u16 in hexadecimal and the point fit into five bytes.
        let _ = write!(&mut template.partition[..], "{:x}.", partition.0);
        template.meta[0] = TTL_TAG;
        let at = put_varint(u64::from(ttl), &mut template.meta, 1);
        template.meta[at] = AGE_TAG;
        template.meta_length = put_varint(u64::from(age), &mut template.meta, at + 1) as u8;
        template.tail[..2].copy_from_slice(&TIMESTAMP_TAG);
        template.tail_length = put_varint(timestamp.get(), &mut template.tail, 2) as u8;
        template
    }

    /// Adds how long claims will not see the messages yet, in seconds.
    #[cold]
    #[must_use]
    pub fn delayed(self, secs: u32) -> Self {
        self.with(DELAY_TAG, secs)
    }

    /// Adds how often each of the messages was given out. Comes after [`Self::delayed`].
    #[must_use]
    pub fn claimed(self, count: u32) -> Self {
        self.with(CLAIM_COUNT_TAG, count)
    }

    fn with(mut self, tag: [u8; 2], value: u32) -> Self {
        let at = usize::from(self.tail_length);
        self.tail[at..at + 2].copy_from_slice(&tag);
        self.tail_length = put_varint(u64::from(value), &mut self.tail, at + 2) as u8;
        self
    }

    /// Returns the length of a message without its tag and length prefix, in bytes.
    #[inline]
    fn body_length(&self, offset: Offset, record: Record<'_>) -> usize {
        let payload = record.payload.len();
        // One comparison where there is neither.
        let more = if record.key.len() | record.headers.len() == 0 { 0 } else { more_length(record) };
        2 + usize::from(self.partition_length)
            + hex_length(offset.0)
            + usize::from(self.meta_length)
            + 1
            + varint_length(payload as u64)
            + payload
            + more
            + usize::from(self.tail_length)
    }

    /// Returns the number of bytes that [`Self::encode`] appends for a message.
    #[inline(always)]
    pub fn encoded_length(&self, offset: Offset, record: Record<'_>) -> usize {
        let body = self.body_length(offset, record);
        1 + varint_length(body as u64) + body
    }

    /// Appends one entry of `messages`. Always inlined: each call for a message of its own costs 20 instructions more.
    #[inline(always)]
    pub fn encode(&self, offset: Offset, record: Record<'_>, out: &mut Vec<u8>) {
        let Record { key, headers, payload } = record;
        let mut head = [0u8; HEAD_BYTES_MAX];
        head[0] = MESSAGES_TAG;
        let mut at = put_varint(self.body_length(offset, record) as u64, &mut head, 1);
        let digits = hex_length(offset.0);
        let partition = usize::from(self.partition_length);
        head[at] = ID_TAG;
        head[at + 1] = (partition + digits) as u8;
        at += 2;
        head[at..at + 5].copy_from_slice(&self.partition);
        at += partition;
        for digit in (0..digits).rev() {
            head[at] = b"0123456789abcdef"[(offset.0 >> (4 * digit)) as usize & 15];
            at += 1;
        }
        head[at..at + 12].copy_from_slice(&self.meta);
        at += usize::from(self.meta_length);
        head[at] = PAYLOAD_TAG;
        at = put_varint(payload.len() as u64, &mut head, at + 1);
        out.extend_from_slice(&head[..at]);
        out.extend_from_slice(payload);
        if !key.is_empty() {
            put_extension(KEY_TAG, key, out);
        }
        out.extend_from_slice(&self.tail[..usize::from(self.tail_length)]);
        if !headers.is_empty() {
            put_headers(headers, out);
        }
    }
}

impl MessageTemplate {
    /// Returns the number of bytes that [`Self::encode_with`] appends for a message.
    pub fn encoded_length_with(&self, more: &[u8], offset: Offset, record: Record<'_>) -> usize {
        let body = self.body_length(offset, record) + more.len();
        1 + varint_length(body as u64) + body
    }

    /// Appends one entry of `messages`, with `more` encoded fields behind the others. Fields of a pb may come in any
    /// order.
    pub fn encode_with(&self, more: &[u8], offset: Offset, record: Record<'_>, out: &mut Vec<u8>) {
        let start = out.len();
        self.encode(offset, record, out);
        if more.is_empty() {
            return;
        }
        // The entry is longer than the template knows, maybe by a byte of its length, too.
        let body = self.body_length(offset, record);
        let mut head = [0u8; 6];
        head[0] = MESSAGES_TAG;
        let end = put_varint((body + more.len()) as u64, &mut head, 1);
        out.splice(start..start + 1 + varint_length(body as u64), head[..end].iter().copied());
        out.extend_from_slice(more);
    }
}

/// Appends one entry of `messages` that carries a marker. Markers are rare, so prost encodes it.
pub fn encode_marked(message: &MessageAndMetadata, out: &mut Vec<u8>) {
    out.push(MESSAGES_TAG);
    write_varint(message.encoded_len() as u64, out);
    message.encode_raw(out);
}

/// A message as a consumer receives it. Borrows from the pb.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ReceivedMessage<'a> {
    /// The marker that came with the message.
    pub marker: Option<&'a str>,
    /// The id, `<partition>.<offset>` in hexadecimal.
    pub id: &'a str,
    /// The time to live, in seconds.
    pub ttl: u32,
    /// The age, in seconds.
    pub age: u32,
    /// The payload; `None` if the message only carries a marker.
    pub payload: Option<&'a [u8]>,
    /// The key with which the message was produced.
    pub key: Option<&'a [u8]>,
    /// The time when the message was stored, in Unix milliseconds.
    pub timestamp_ms: Option<i64>,
    /// Whether the queue went back before this message, so that earlier messages may arrive again. The reader
    /// leaves it false: `rewound` belongs to a ConsumeResponse, and the client's session copies it here.
    pub is_rewound: bool,
    /// How often the message was given out by claims, this time included. 0 outside of a ClaimResponse.
    pub claim_count: u32,
    /// The headers with which the message was produced, for a [`HeadersReader`](super::headers::HeadersReader); empty if it has
    /// none.
    pub headers: &'a [u8],
}

/// Decodes a ConsumeResponse message by message.
#[derive(Clone, Debug)]
pub struct ConsumeResponseReader<'a> {
    reader: Reader<'a>,
    status: Option<Status>,
    renewal: Option<Status>,
    is_rewound: bool,
}

pub(super) fn text(bytes: &[u8]) -> Result<&str, Malformed> {
    std::str::from_utf8(bytes).map_err(|_| Malformed("a string that is not UTF-8"))
}

pub(super) fn status(bytes: &[u8]) -> Result<Status, Malformed> {
    Status::decode(bytes).map_err(|_| Malformed("a bad Status"))
}

impl<'a> ConsumeResponseReader<'a> {
    /// Creates a reader for one whole pb.
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { reader: Reader(bytes), status: None, renewal: None, is_rewound: false }
    }

    /// Returns the next message, or `None` at the end. Only then is [`Self::status`] reliable.
    #[inline]
    pub fn next_message(&mut self) -> Result<Option<ReceivedMessage<'a>>, Malformed> {
        while let Some((field, wire_type)) = self.reader.tag()? {
            match field {
                1 => {
                    expect(wire_type, BYTES)?;
                    self.status = Some(status(self.reader.bytes()?)?);
                }
                2 => {
                    expect(wire_type, BYTES)?;
                    return message(Reader(self.reader.bytes()?)).map(Some);
                }
                104 => {
                    expect(wire_type, VARINT)?;
                    self.is_rewound = self.reader.varint()? != 0;
                }
                106 => {
                    expect(wire_type, BYTES)?;
                    self.renewal = Some(status(self.reader.bytes()?)?);
                }
                _ => self.reader.skip(wire_type)?,
            }
        }
        Ok(None)
    }

    /// Returns the status, if one was read.
    pub fn status(&self) -> Option<&Status> {
        self.status.as_ref()
    }

    /// Returns the answer to a token, or the news about the grant in force, if either was read.
    pub fn renewal(&self) -> Option<&Status> {
        self.renewal.as_ref()
    }

    /// Returns whether `rewound` has been read. Our servers write it in front of the messages.
    pub fn is_rewound(&self) -> bool {
        self.is_rewound
    }
}

/// Decodes one entry of `messages`.
#[inline]
pub(super) fn message(mut reader: Reader<'_>) -> Result<ReceivedMessage<'_>, Malformed> {
    let mut message = ReceivedMessage::default();
    while let Some((field, wire_type)) = reader.tag()? {
        match field {
            1 => {
                expect(wire_type, BYTES)?;
                message.marker = Some(text(reader.bytes()?)?);
            }
            2 => {
                expect(wire_type, BYTES)?;
                message.id = text(reader.bytes()?)?;
            }
            3 => {
                expect(wire_type, VARINT)?;
                message.ttl = reader.varint()? as u32;
            }
            4 => {
                expect(wire_type, VARINT)?;
                message.age = reader.varint()? as u32;
            }
            6 => {
                expect(wire_type, BYTES)?;
                message.payload = Some(reader.bytes()?);
            }
            100 => {
                expect(wire_type, BYTES)?;
                message.key = Some(reader.bytes()?);
            }
            101 => {
                expect(wire_type, VARINT)?;
                message.timestamp_ms = Some(reader.varint()? as i64);
            }
            103 => {
                expect(wire_type, VARINT)?;
                message.claim_count = reader.varint()? as u32;
            }
            104 => {
                expect(wire_type, BYTES)?;
                message.headers = reader.bytes()?;
            }
            _ => reader.skip(wire_type)?,
        }
    }
    Ok(message)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pb::headers::{FIRST_TIMESTAMP, HeaderRef, put_header};
    use crate::pb::{Claim, ConsumeResponse};
    use bytes::Bytes;
    use proptest::prelude::*;

    fn messages() -> impl Strategy<Value = Vec<MessageAndMetadata>> {
        let offset = prop_oneof![0u64..40, any::<u64>()];
        let payload = proptest::collection::vec(any::<u8>(), 0..200);
        let key = prop_oneof![Just(None), proptest::collection::vec(any::<u8>(), 1..200).prop_map(Some)];
        let headers = prop_oneof![Just(None), proptest::collection::vec(any::<u8>(), 1..200).prop_map(Some)];
        let more = (any::<Option<u32>>(), any::<Option<u32>>(), headers);
        let message = (any::<u16>(), offset, any::<u32>(), any::<u32>(), payload, key, 0i64..i64::MAX, more)
            .prop_map(
                |(partition, offset, ttl, age, payload, key, timestamp_ms, (delay, claim_count, headers))| {
                    MessageAndMetadata {
                        delay,
                        claim_count,
                        headers: headers.map(Bytes::from),
                        id: Some(format!("{partition:x}.{offset:x}")),
                        ttl: Some(ttl),
                        age: Some(age),
                        payload: Some(Bytes::from(payload)),
                        key: key.map(Bytes::from),
                        timestamp_ms: Some(timestamp_ms),
                        ..Default::default()
                    }
                },
            );
        proptest::collection::vec(message, 0..6)
    }

    proptest! {
        #[test]
        fn encoding_matches_prost(messages in messages()) {
            let mut ours = Vec::new();
            let mut length = 0;
            for message in &messages {
                let (partition, offset) = message.id().split_once('.').unwrap();
                let partition = Partition(u16::from_str_radix(partition, 16).unwrap());
                let offset = Offset(u64::from_str_radix(offset, 16).unwrap());
                let mut template = MessageTemplate::new(partition, message.ttl(), message.age(), UnixMillis::new(message.timestamp_ms() as u64));
                template = message.delay.into_iter().fold(template, MessageTemplate::delayed);
                template = message.claim_count.into_iter().fold(template, MessageTemplate::claimed);
                let record =
                    Record { key: message.key(), headers: message.headers(), payload: message.payload() };
                length += template.encoded_length(offset, record);
                template.encode(offset, record, &mut ours);
                // The same with a claim, which comes behind the other fields.
                let claim = Claim { ttl: Some(message.age()), ..Claim::default() };
                let more = MessageAndMetadata { claim: Some(claim.clone()), ..MessageAndMetadata::default() };
                let (more, mut with) = (more.encode_to_vec(), Vec::new());
                template.encode_with(&more, offset, record, &mut with);
                prop_assert_eq!(template.encoded_length_with(&more, offset, record), with.len());
                let decoded = ConsumeResponse::decode(&with[..]).unwrap();
                let expected = MessageAndMetadata { claim: Some(claim), ..message.clone() };
                prop_assert_eq!(decoded.messages, vec![expected]);
            }
            prop_assert_eq!(length, ours.len());
            prop_assert_eq!(ours, ConsumeResponse { messages, ..ConsumeResponse::default() }.encode_to_vec());
        }

        #[test]
        fn moved_messages_say_when_they_were_first_stored(first in any::<u64>(), has_key in any::<bool>()) {
            let mut headers = Vec::new();
            put_header(HeaderRef { name: FIRST_TIMESTAMP, value: Some(first.to_string().as_bytes()) }, &mut headers);
            let key: &[u8] = if has_key { b"k" } else { b"" };
            let record = Record { key, headers: &headers, payload: b"x" };
            let template = MessageTemplate::new(Partition(0), 60, 1, UnixMillis::new(7));
            let mut out = Vec::new();
            template.encode(Offset(1), record, &mut out);
            prop_assert_eq!(template.encoded_length(Offset(1), record), out.len());
            let decoded = ConsumeResponse::decode(&out[..]).unwrap();
            prop_assert_eq!(decoded.messages[0].first_timestamp_ms, i64::try_from(first).ok());
            prop_assert_eq!(decoded.encode_to_vec(), out);
        }

        #[test]
        fn decoding_matches_prost(mut messages in messages(), marker in proptest::option::of("[a-z]{0,9}"), code in proptest::option::of(any::<u32>()), left in proptest::option::of(any::<u32>())) {
            if let Some(first) = messages.first_mut() {
                first.marker = marker;
            }
            let status = code.map(|code| Status { status_code: Some(code), ..Status::default() });
            let renewal = left.map(|left| Status { token_expires_s: Some(left), ..Status::default() });
            let pb = ConsumeResponse { status, messages, renewal, ..ConsumeResponse::default() };
            let bytes = pb.encode_to_vec();
            let mut reader = ConsumeResponseReader::new(&bytes);
            for expected in &pb.messages {
                let message = reader.next_message().unwrap().unwrap();
                prop_assert_eq!(message.marker, expected.marker.as_deref());
                prop_assert_eq!(message.id, expected.id());
                prop_assert_eq!((message.ttl, message.age), (expected.ttl(), expected.age()));
                prop_assert_eq!(message.payload, expected.payload.as_deref());
                prop_assert_eq!(message.key, expected.key.as_deref());
                prop_assert_eq!(message.timestamp_ms, expected.timestamp_ms);
                prop_assert_eq!(message.headers, expected.headers());
            }
            prop_assert_eq!(reader.next_message(), Ok(None));
            prop_assert_eq!(reader.status(), pb.status.as_ref());
            prop_assert_eq!(reader.renewal(), pb.renewal.as_ref());
        }

        #[test]
        fn garbage_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..60)) {
            let mut reader = ConsumeResponseReader::new(&bytes);
            while let Ok(Some(_)) = reader.next_message() {}
        }
    }
}
