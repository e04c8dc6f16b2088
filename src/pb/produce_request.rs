//! `ProduceRequest { ttl = 1, payloads = 2, keys = 100 }` by hand.

use super::wire::{BYTES, Malformed, Reader, VARINT, expect, put_varint, varint_length, write_varint};

/// A ProduceRequest without its payloads.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ProduceRequestHead {
    /// Seconds.
    pub ttl: Option<u32>,
    /// How many there were.
    pub payloads: u32,
    /// How many there were.
    pub keys: u32,
}

/// Reads a ProduceRequest and hands each payload, in order, to `each`.
#[inline]
pub fn decode_produce_request<'a>(
    bytes: &'a [u8],
    mut each: impl FnMut(&'a [u8]),
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
                each(reader.bytes()?);
                head.payloads += 1;
            }
            100 => {
                expect(wire_type, BYTES)?;
                reader.bytes()?;
                head.keys += 1;
            }
            _ => reader.skip(wire_type)?,
        }
    }
    Ok(head)
}

/// The TTL where it is the first field, as encoders write it. Only a guess: the last one counts.
#[inline]
pub fn first_ttl(bytes: &[u8]) -> Option<u32> {
    let rest = bytes.strip_prefix(&[1 << 3 | VARINT])?;
    Reader(rest).varint().ok().map(|ttl| ttl as u32)
}

/// Appends a ProduceRequest, preceded by its length as on the wire; returns how many bytes that took.
pub fn encode_produce_request<'a>(
    ttl: u32,
    payloads: impl Iterator<Item = &'a [u8]> + Clone,
    out: &mut Vec<u8>,
) -> usize {
    let body: usize =
        payloads.clone().map(|payload| 1 + varint_length(payload.len() as u64) + payload.len()).sum();
    let length = 1 + varint_length(u64::from(ttl)) + body;
    let total = varint_length(length as u64) + length;
    out.reserve(total);
    write_varint(length as u64, out);
    out.push(1 << 3 | VARINT);
    write_varint(u64::from(ttl), out);
    for payload in payloads {
        let mut head = [0; 6];
        head[0] = 2 << 3 | BYTES;
        let end = put_varint(payload.len() as u64, &mut head, 1);
        out.extend_from_slice(&head[..end]);
        out.extend_from_slice(payload);
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

    /// Any field: known, known with another wire type, unknown, cut.
    fn field() -> impl Strategy<Value = Vec<u8>> {
        let bytes = proptest::collection::vec(any::<u8>(), 0..20);
        let number = prop_oneof![Just(1u64), Just(2), Just(100), Just(3), 101u64..200];
        prop_oneof![
            6 => bytes.clone().prop_map(|b| [&[0x12, b.len() as u8][..], &b].concat()),
            2 => any::<u32>().prop_map(|ttl| { let mut out = vec![8]; write_varint(ttl.into(), &mut out); out }),
            1 => bytes.clone().prop_map(|b| [&[0xa2, 0x06, b.len() as u8][..], &b].concat()),
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
        fn decoding_is_prosts(fields in proptest::collection::vec(field(), 0..8)) {
            let bytes = fields.concat();
            let mut payloads = Vec::new();
            let ours = decode_produce_request(&bytes, |payload| payloads.push(payload.to_vec()));
            match ProduceRequest::decode(Bytes::from(bytes.clone())) {
                // The garbage of one field may hold a group within, which prost skips and we refuse.
                Err(_) => prop_assert!(ours.is_err()),
                Ok(_) if ours == Err(Malformed("a group or an unknown wire type")) => {}
                Ok(oracle) => {
                    let ours = ours.unwrap();
                    prop_assert_eq!(ours.ttl, oracle.ttl);
                    prop_assert_eq!(ours.keys as usize, oracle.keys.len());
                    prop_assert_eq!(ours.payloads as usize, payloads.len());
                    prop_assert_eq!(payloads, oracle.payloads);
                }
            }
        }

        #[test]
        fn encoding_is_prosts(ttl in any::<u32>(), payloads in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..300), 0..5)) {
            let mut ours = Vec::new();
            let length = encode_produce_request(ttl, payloads.iter().map(Vec::as_slice), &mut ours);
            let oracle = ProduceRequest { ttl: Some(ttl), payloads: payloads.into_iter().map(Bytes::from).collect(), keys: vec![] };
            prop_assert_eq!(length, ours.len());
            prop_assert_eq!(ours, oracle.encode_length_delimited_to_vec());
        }
    }

    #[test]
    fn the_first_ttl_is_a_guess() {
        assert_eq!(first_ttl(&[8, 60, 0x12, 0]), Some(60));
        assert_eq!(first_ttl(&[0x12, 0, 8, 60]), None);
        assert_eq!(first_ttl(&[]), None);
    }
}
