//! Hand-written decoder of `ClaimRequest`.
//!
//! prost makes eight bytes, or sixteen while a list grows, of each byte of a packed list. This decoder leaves the
//! lists encoded, so that a request takes no more memory than its bytes on the wire.

use std::borrow::Cow;

use prost::Message;

use super::Settlement;
use super::wire::{BYTES, Malformed, Reader, VARINT, expect};

/// The most settlements in `by_claim` of one request.
pub const BY_CLAIM_MAX: usize = 1_000;

/// A decoded ClaimRequest. The lists hold varints, which are not checked yet.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ClaimRequestFields<'a> {
    /// The highest message number that the server may send.
    pub max_msgnum_to_send: Option<i64>,
    /// Messages that are done.
    pub ack: Cow<'a, [u8]>,
    /// Messages to give out again.
    pub release: Cow<'a, [u8]>,
    /// The delay of `release`, in seconds.
    pub release_delay: Option<u32>,
    /// Messages that cannot be processed.
    pub reject: Cow<'a, [u8]>,
    /// Messages whose claims shall last longer.
    pub renew: Cow<'a, [u8]>,
    /// How long they shall last, in seconds.
    pub renew_ttl: Option<u32>,
    /// Settlements of other operations' claims.
    pub by_claim: Vec<Settlement>,
    /// Whether nothing more shall be given out.
    pub stop: bool,
    /// Another token.
    pub token: Option<&'a str>,
}

/// Decodes a ClaimRequest.
pub fn decode_claim_request(bytes: &[u8]) -> Result<ClaimRequestFields<'_>, Malformed> {
    let mut reader = Reader(bytes);
    let mut fields = ClaimRequestFields::default();
    while let Some((field, wire_type)) = reader.tag()? {
        match field {
            2 => fields.max_msgnum_to_send = Some(number(&mut reader, wire_type)? as i64),
            3 => list(&mut reader, wire_type, &mut fields.ack)?,
            4 => list(&mut reader, wire_type, &mut fields.release)?,
            5 => fields.release_delay = Some(number(&mut reader, wire_type)? as u32),
            6 => list(&mut reader, wire_type, &mut fields.reject)?,
            7 => list(&mut reader, wire_type, &mut fields.renew)?,
            8 => fields.renew_ttl = Some(number(&mut reader, wire_type)? as u32),
            9 => {
                expect(wire_type, BYTES)?;
                let settlement = Settlement::decode(reader.bytes()?);
                fields.by_claim.push(settlement.map_err(|_| Malformed("a bad Settlement"))?);
                if fields.by_claim.len() > BY_CLAIM_MAX {
                    return Err(Malformed("by_claim: more than 1000 settlements in one request"));
                }
            }
            10 => fields.stop = number(&mut reader, wire_type)? != 0,
            102 => {
                expect(wire_type, BYTES)?;
                let text = std::str::from_utf8(reader.bytes()?);
                fields.token = Some(text.map_err(|_| Malformed("a string that is not UTF-8"))?);
            }
            _ => reader.skip(wire_type)?,
        }
    }
    Ok(fields)
}

fn number(reader: &mut Reader<'_>, wire_type: u8) -> Result<u64, Malformed> {
    expect(wire_type, VARINT)?;
    reader.varint()
}

/// Appends the elements of a list: packed, or a single one. Both have the same encoding.
fn list<'a>(reader: &mut Reader<'a>, wire_type: u8, list: &mut Cow<'a, [u8]>) -> Result<(), Malformed> {
    let elements = match wire_type {
        BYTES => reader.bytes()?,
        VARINT => {
            let before = reader.0;
            reader.varint()?;
            &before[..before.len() - reader.0.len()]
        }
        _ => return Err(Malformed("a known field of another wire type")),
    };
    if list.is_empty() {
        *list = Cow::Borrowed(elements);
    } else {
        list.to_mut().extend_from_slice(elements);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pb::ClaimRequest;
    use proptest::prelude::*;

    fn numbers(list: &[u8]) -> Result<Vec<u64>, Malformed> {
        let mut reader = Reader(list);
        let mut numbers = Vec::new();
        while !reader.0.is_empty() {
            numbers.push(reader.varint()?);
        }
        Ok(numbers)
    }

    /// Returns any field: known, in pieces, with a wrong wire type, or cut short.
    fn field() -> impl Strategy<Value = Vec<u8>> {
        let list = proptest::collection::vec(prop_oneof![0u64..200, any::<u64>()], 0..5);
        let packed = (3u64..8, list).prop_map(|(field, list)| {
            let mut out = vec![(field << 3) as u8 | BYTES, 0];
            list.iter().for_each(|number| crate::pb::wire::write_varint(*number, &mut out));
            out[1] = (out.len() - 2) as u8;
            out
        });
        let single = (1u64..12, any::<u64>()).prop_map(|(field, number)| {
            let mut out = vec![(field << 3) as u8];
            crate::pb::wire::write_varint(number, &mut out);
            out
        });
        let settlement = (any::<Option<u32>>(), any::<bool>()).prop_map(|(kind, has_id)| {
            let claim_id = has_id.then(|| "0.1.2".to_owned());
            let by_claim = vec![Settlement { kind, claim_id, ..Settlement::default() }];
            ClaimRequest { by_claim, ..ClaimRequest::default() }.encode_to_vec()
        });
        let token = any::<u8>().prop_map(|byte| vec![0xb2, 0x06, 1, byte]);
        let garbage = proptest::collection::vec(any::<u8>(), 0..9);
        prop_oneof![4 => packed, 4 => single, 2 => settlement, 1 => token, 1 => garbage]
    }

    proptest! {
        #[test]
        fn decoding_matches_prost(fields in proptest::collection::vec(field(), 0..8)) {
            let bytes = fields.concat();
            let ours = decode_claim_request(&bytes);
            match ClaimRequest::decode(&bytes[..]) {
                Err(_) => {
                    let lists = ours.map(|ours| [ours.ack, ours.release, ours.reject, ours.renew]);
                    prop_assert!(lists.is_err() || lists.unwrap().iter().any(|list| numbers(list).is_err()));
                }
                Ok(_) if ours == Err(Malformed("a group or an unknown wire type")) => {}
                Ok(oracle) => {
                    let ours = ours.unwrap();
                    prop_assert_eq!(ours.max_msgnum_to_send, oracle.max_msgnum_to_send);
                    prop_assert_eq!(numbers(&ours.ack), Ok(oracle.ack));
                    prop_assert_eq!(numbers(&ours.release), Ok(oracle.release));
                    prop_assert_eq!(numbers(&ours.reject), Ok(oracle.reject));
                    prop_assert_eq!(numbers(&ours.renew), Ok(oracle.renew));
                    prop_assert_eq!((ours.release_delay, ours.renew_ttl), (oracle.release_delay, oracle.renew_ttl));
                    prop_assert_eq!(ours.by_claim, oracle.by_claim);
                    prop_assert_eq!(ours.stop, oracle.stop.unwrap_or(false));
                    prop_assert_eq!(ours.token, oracle.token.as_deref());
                }
            }
        }
    }

    #[test]
    fn too_many_settlements_are_refused_before_they_take_memory() {
        let empty = [9 << 3 | BYTES, 0];
        assert!(decode_claim_request(&empty.repeat(BY_CLAIM_MAX)).is_ok());
        assert!(decode_claim_request(&empty.repeat(BY_CLAIM_MAX + 1)).is_err());
    }
}
