//! Hand-written coder of `ProduceRequest { ttl = 1, payloads = 2, keys = 100, delay = 101, token = 102, headers = 103 }`.

use super::wire::{
    BYTES, KEY_TAG, Malformed, Reader, VARINT, expect, extension_length, put_extension, put_varint,
    varint_length, write_varint,
};
use crate::base::batch::Record;

/// The number of the field `delay`.
const DELAY: u32 = 101;
/// The two-byte tag of `delay` (field 101, varint).
const DELAY_TAG: [u8; 2] = [0xa8, 0x06];

/// The number of the field `token`.
const TOKEN: u32 = 102;
/// The number of the field `headers`.
const HEADERS: u32 = 103;
/// The two-byte tag of `headers` (field 103, bytes).
const HEADERS_TAG: [u8; 2] = [0xba, 0x06];

/// The result for a request that carries a delay or headers: [`decode_full_request`] decodes it.
pub const WITH_EXTRAS: Malformed = Malformed("delay or headers");

/// The result for a request that carries a token: if there is nothing else in it, [`lone_token`] returns the token.
pub const WITH_TOKEN: Malformed = Malformed("token: a request with a token carries nothing else");

/// A ProduceRequest without its payloads and keys.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ProduceRequestHead {
    /// The time to live, in seconds.
    pub ttl: Option<u32>,
    /// The number of payloads.
    pub payloads: u32,
    /// The number of keys.
    pub keys: u32,
}

/// The rarer fields of a ProduceRequest.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ProduceExtras {
    /// The delay, in seconds.
    pub delay: Option<u32>,
    /// The number of headers fields.
    pub headers: u32,
}

/// A repeated field of a ProduceRequest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProduceField<'a> {
    /// The next payload.
    Payload(&'a [u8]),
    /// The next key.
    Key(&'a [u8]),
    /// The next message's headers, encoded.
    Headers(&'a [u8]),
}

/// Decodes a ProduceRequest without a delay, headers or a token. Calls `each` with every payload and key, in order.
/// Returns [`WITH_EXTRAS`] or [`WITH_TOKEN`] if it has one: to keep them in the loop would cost every message.
#[inline]
pub fn decode_produce_request<'a>(
    bytes: &'a [u8],
    mut each: impl FnMut(ProduceField<'a>),
) -> Result<ProduceRequestHead, Malformed> {
    let mut reader = Reader(bytes);
    let mut head = ProduceRequestHead::default();
    while let Some((field, wire_type)) = reader.tag()? {
        match field {
            1 => {
                expect(wire_type, VARINT)?;
                head.ttl = Some(reader.varint()? as u32);
            }
            2 => {
                expect(wire_type, BYTES)?;
                each(ProduceField::Payload(reader.bytes()?));
                head.payloads += 1;
            }
            100 => {
                expect(wire_type, BYTES)?;
                each(ProduceField::Key(reader.bytes()?));
                head.keys += 1;
            }
            // By value: a reader that is lent to a function is not kept in registers.
            _ => reader = other_field(reader, field, wire_type)?,
        }
    }
    Ok(head)
}

/// Skips a field that the decoder above does not know. Returns the reader behind it.
#[cold]
fn other_field(mut reader: Reader<'_>, field: u32, wire_type: u8) -> Result<Reader<'_>, Malformed> {
    match field {
        DELAY => expect(wire_type, VARINT).and(Err(WITH_EXTRAS)),
        HEADERS => expect(wire_type, BYTES).and(Err(WITH_EXTRAS)),
        TOKEN => expect(wire_type, BYTES).and(Err(WITH_TOKEN)),
        _ => reader.skip(wire_type).map(|()| reader),
    }
}

/// Decodes a ProduceRequest that may have a delay and headers. Otherwise like [`decode_produce_request`].
#[cold]
pub fn decode_full_request<'a>(
    bytes: &'a [u8],
    mut each: impl FnMut(ProduceField<'a>),
) -> Result<(ProduceRequestHead, ProduceExtras), Malformed> {
    let mut reader = Reader(bytes);
    let (mut head, mut extras) = (ProduceRequestHead::default(), ProduceExtras::default());
    while let Some((field, wire_type)) = reader.tag()? {
        let wanted = if matches!(field, 1 | DELAY) { VARINT } else { BYTES };
        if matches!(field, 1 | 2 | 100 | DELAY | TOKEN | HEADERS) {
            expect(wire_type, wanted)?;
        }
        match field {
            1 => head.ttl = Some(reader.varint()? as u32),
            2 => {
                each(ProduceField::Payload(reader.bytes()?));
                head.payloads += 1;
            }
            100 => {
                each(ProduceField::Key(reader.bytes()?));
                head.keys += 1;
            }
            DELAY => extras.delay = Some(reader.varint()? as u32),
            HEADERS => {
                each(ProduceField::Headers(reader.bytes()?));
                extras.headers += 1;
            }
            TOKEN => return Err(WITH_TOKEN),
            _ => reader.skip(wire_type)?,
        }
    }
    Ok((head, extras))
}

/// Returns the token of a ProduceRequest that carries nothing else that a ProduceRequest may carry.
#[cold]
pub fn lone_token(bytes: &[u8]) -> Option<&str> {
    let mut reader = Reader(bytes);
    let mut token = None;
    while let Some((field, wire_type)) = reader.tag().ok()? {
        match field {
            1 | 2 | 100 | DELAY | HEADERS => return None,
            TOKEN => token = Some(std::str::from_utf8(reader.bytes().ok()?).ok()?),
            _ => reader.skip(wire_type).ok()?,
        }
    }
    token
}

/// Returns the TTL if it is the first field, as encoders write it. This is only a guess: a later TTL field
/// overrides it.
#[inline]
pub fn first_ttl(bytes: &[u8]) -> Option<u32> {
    let rest = bytes.strip_prefix(&[1 << 3 | VARINT])?;
    Reader(rest).varint().ok().map(|ttl| ttl as u32)
}

/// Appends a ProduceRequest with its length prefix and returns how many bytes that took. Writes keys only if
/// at least one message has one, and headers likewise. TTL and delay are in seconds.
pub fn encode_produce_request<'a>(
    ttl: Option<u32>,
    delay: Option<u32>,
    records: impl Iterator<Item = Record<'a>> + Clone,
    out: &mut Vec<u8>,
) -> usize {
    let (mut body, mut keys, mut has_keys) = (0, 0, false);
    let (mut all_headers, mut has_headers) = (0, false);
    for Record { key, headers, payload } in records.clone() {
        body += 1 + varint_length(payload.len() as u64) + payload.len();
        keys += extension_length(key.len());
        has_keys |= !key.is_empty();
        all_headers += extension_length(headers.len());
        has_headers |= !headers.is_empty();
    }
    body += if has_keys { keys } else { 0 };
    body += if has_headers { all_headers } else { 0 };
    body += delay.map_or(0, |delay| DELAY_TAG.len() + varint_length(u64::from(delay)));
    let length = ttl.map_or(0, |ttl| 1 + varint_length(u64::from(ttl))) + body;
    let total = varint_length(length as u64) + length;
    out.reserve(total);
    write_varint(length as u64, out);
    if let Some(ttl) = ttl {
        out.push(1 << 3 | VARINT);
        write_varint(u64::from(ttl), out);
    }
    for Record { payload, .. } in records.clone() {
        let mut head = [0; 6];
        head[0] = 2 << 3 | BYTES;
        let end = put_varint(payload.len() as u64, &mut head, 1);
        out.extend_from_slice(&head[..end]);
        out.extend_from_slice(payload);
    }
    for Record { key, .. } in records.clone().take_while(|_| has_keys) {
        put_extension(KEY_TAG, key, out);
    }
    if let Some(delay) = delay {
        out.extend_from_slice(&DELAY_TAG);
        write_varint(u64::from(delay), out);
    }
    for Record { headers, .. } in records.take_while(|_| has_headers) {
        put_extension(HEADERS_TAG, headers, out);
    }
    total
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pb::ProduceRequest;
    use bytes::Bytes;
    use proptest::prelude::*;
    use prost::Message;

    /// Returns any field: known, known with a wrong wire type, unknown, or cut short.
    fn field() -> impl Strategy<Value = Vec<u8>> {
        let bytes = proptest::collection::vec(any::<u8>(), 0..20);
        let number = prop_oneof![Just(1u64), Just(2), Just(100), Just(3), 101u64..200];
        prop_oneof![
            6 => bytes.clone().prop_map(|b| [&[0x12, b.len() as u8][..], &b].concat()),
            2 => any::<u32>().prop_map(|ttl| { let mut out = vec![8]; write_varint(ttl.into(), &mut out); out }),
            1 => bytes.clone().prop_map(|b| [&[0xa2, 0x06, b.len() as u8][..], &b].concat()),
            1 => bytes.clone().prop_map(|b| [&[0xba, 0x06, b.len() as u8][..], &b].concat()),
            1 => any::<u32>().prop_map(|delay| { let mut out = vec![0xa8, 0x06]; write_varint(delay.into(), &mut out); out }),
            1 => (number, 0u64..6, bytes).prop_filter("groups are refused", |(_, wire, _)| !matches!(wire, 3 | 4))
                .prop_map(|(number, wire, b)| {
                    let mut out = Vec::new();
                    write_varint(number << 3 | wire, &mut out);
                    out.extend(b);
                    out
                }),
        ]
    }

    proptest! {
        #[test]
        fn decoding_matches_prost(fields in proptest::collection::vec(field(), 0..8)) {
            let bytes = fields.concat();
            let (mut payloads, mut keys, mut headers) = (Vec::new(), Vec::new(), Vec::new());
            let mut ours = decode_produce_request(&bytes, |field| match field {
                ProduceField::Payload(payload) => payloads.push(payload.to_vec()),
                ProduceField::Key(key) => keys.push(key.to_vec()),
                ProduceField::Headers(_) => panic!("only a full request has them"),
            })
            .map(|head| (head, ProduceExtras::default()));
            if ours == Err(WITH_EXTRAS) {
                (payloads, keys) = (Vec::new(), Vec::new());
                ours = decode_full_request(&bytes, |field| match field {
                    ProduceField::Payload(payload) => payloads.push(payload.to_vec()),
                    ProduceField::Key(key) => keys.push(key.to_vec()),
                    ProduceField::Headers(of_one) => headers.push(of_one.to_vec()),
                });
            }
            match ProduceRequest::decode(Bytes::from(bytes.clone())) {
                // The garbage of a field may contain a group, which prost skips and our decoder refuses.
                Err(_) => prop_assert!(ours.is_err()),
                Ok(_) if ours == Err(Malformed("a group or an unknown wire type")) => {}
                Ok(oracle) if oracle.token.is_some() => prop_assert_eq!(ours, Err(WITH_TOKEN)),
                Ok(oracle) => {
                    let (ours, extras) = ours.unwrap();
                    prop_assert_eq!((ours.ttl, extras.delay), (oracle.ttl, oracle.delay));
                    prop_assert_eq!(extras.headers as usize, headers.len());
                    prop_assert_eq!(headers, oracle.headers);
                    prop_assert_eq!(ours.keys as usize, keys.len());
                    prop_assert_eq!(keys, oracle.keys);
                    prop_assert_eq!(ours.payloads as usize, payloads.len());
                    prop_assert_eq!(payloads, oracle.payloads);
                }
            }
        }

        #[test]
        fn encoding_matches_prost(
            ttl in any::<u32>(),
            delay in proptest::option::of(any::<u32>()),
            messages in proptest::collection::vec(
                (prop_oneof![Just(vec![]), proptest::collection::vec(any::<u8>(), 0..200)],
                 prop_oneof![3 => Just(vec![]), 1 => proptest::collection::vec(any::<u8>(), 0..200)],
                 proptest::collection::vec(any::<u8>(), 0..300)), 0..5),
        ) {
            let mut ours = Vec::new();
            let records = messages.iter().map(|(key, headers, payload)| Record { key, headers, payload });
            let length = encode_produce_request(Some(ttl), delay, records, &mut ours);
            let (mut keys, mut headers, mut payloads) = (Vec::new(), Vec::new(), Vec::new());
            for (key, of_one, payload) in &messages {
                keys.push(Bytes::from(key.clone()));
                headers.push(Bytes::from(of_one.clone()));
                payloads.push(Bytes::from(payload.clone()));
            }
            let or_none = |all: Vec<Bytes>| if all.iter().all(Bytes::is_empty) { vec![] } else { all };
            let (keys, headers) = (or_none(keys), or_none(headers));
            let oracle = ProduceRequest { ttl: Some(ttl), payloads, keys, delay, token: None, headers };
            prop_assert_eq!(length, ours.len());
            prop_assert_eq!(ours, oracle.encode_length_delimited_to_vec());
        }
    }

    #[test]
    fn the_first_ttl_is_found_only_in_front() {
        assert_eq!(first_ttl(&[8, 60, 0x12, 0]), Some(60));
        assert_eq!(first_ttl(&[0x12, 0, 8, 60]), None);
        assert_eq!(first_ttl(&[]), None);
    }
}
