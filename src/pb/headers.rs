//! Hand-written coder of `Headers { headers = 1 }` and `Header { name = 1, value = 2 }` (protocol section 7).
//!
//! Batches and stores keep headers in this encoding. Only who needs a name or a value decodes them.

use std::borrow::Cow;

use super::wire::{BYTES, Malformed, Reader, expect, varint_length, write_varint};

/// Names that begin with this belong to the server. They are dropped from what a producer sends.
pub const SERVER_PREFIX: &str = "millstream-";

/// The name of the header that holds what Kafka's records do not. No message may have it.
pub const KAFKA_NAME: &str = "ms";

/// The header of a moved message that holds when it was first stored, in Unix milliseconds.
pub const FIRST_TIMESTAMP: &str = "millstream-dead-first";

const HEADER_TAG: u8 = 1 << 3 | BYTES;
const NAME_TAG: u8 = 1 << 3 | BYTES;
const VALUE_TAG: u8 = 2 << 3 | BYTES;

/// A header of a message.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HeaderRef<'a> {
    /// The name.
    pub name: &'a str,
    /// The value; `None` is Kafka's null.
    pub value: Option<&'a [u8]>,
}

/// Reads encoded headers one by one. Ends after the first that cannot be decoded.
#[derive(Clone, Debug)]
pub struct HeadersReader<'a>(Reader<'a>);

impl<'a> HeadersReader<'a> {
    /// Creates a reader of encoded `Headers`.
    pub fn new(bytes: &'a [u8]) -> Self {
        Self(Reader(bytes))
    }

    fn read(&mut self) -> Result<Option<HeaderRef<'a>>, Malformed> {
        match self.0.tag()? {
            None => return Ok(None),
            Some((1, wire_type)) => expect(wire_type, BYTES)?,
            Some(_) => return Err(Malformed("an unknown field in Headers")),
        }
        let mut fields = Reader(self.0.bytes()?);
        let mut header = HeaderRef::default();
        while let Some((field, wire_type)) = fields.tag()? {
            expect(wire_type, BYTES)?;
            let bytes = fields.bytes()?;
            match field {
                1 => {
                    let name = std::str::from_utf8(bytes);
                    header.name = name.map_err(|_| Malformed("a name that is not UTF-8"))?;
                }
                2 => header.value = Some(bytes),
                _ => return Err(Malformed("an unknown field in a Header")),
            }
        }
        Ok(Some(header))
    }
}

impl<'a> Iterator for HeadersReader<'a> {
    type Item = Result<HeaderRef<'a>, Malformed>;

    fn next(&mut self) -> Option<Self::Item> {
        let read = self.read().transpose();
        if !matches!(read, Some(Ok(_))) {
            self.0 = Reader(&[]);
        }
        read
    }
}

/// Appends an encoded header to encoded headers.
pub fn put_header(header: HeaderRef<'_>, out: &mut Vec<u8>) {
    let HeaderRef { name, value } = header;
    let field = |bytes: &[u8]| 1 + varint_length(bytes.len() as u64) + bytes.len();
    out.push(HEADER_TAG);
    write_varint((field(name.as_bytes()) + value.map_or(0, field)) as u64, out);
    put_bytes(NAME_TAG, name.as_bytes(), out);
    if let Some(value) = value {
        put_bytes(VALUE_TAG, value, out);
    }
}

fn put_bytes(tag: u8, bytes: &[u8], out: &mut Vec<u8>) {
    out.push(tag);
    write_varint(bytes.len() as u64, out);
    out.extend_from_slice(bytes);
}

/// Returns when a moved message was first stored, in Unix milliseconds.
pub fn first_timestamp(headers: &[u8]) -> Option<u64> {
    let first = HeadersReader::new(headers).flatten().find(|header| header.name == FIRST_TIMESTAMP)?;
    std::str::from_utf8(first.value?).ok()?.parse().ok().filter(|time| i64::try_from(*time).is_ok())
}

/// Checks the headers that a producer sends. Returns them without those whose names belong to the server.
pub fn checked_headers(bytes: &[u8]) -> Result<Cow<'_, [u8]>, Malformed> {
    let mut has_servers = false;
    for header in HeadersReader::new(bytes) {
        let HeaderRef { name, .. } = header?;
        if name == KAFKA_NAME {
            return Err(Malformed("the name ms is reserved"));
        }
        // Kafka's C library ends names there.
        if name.contains('\0') {
            return Err(Malformed("a name with a zero byte"));
        }
        has_servers |= name.starts_with(SERVER_PREFIX);
    }
    if !has_servers {
        return Ok(Cow::Borrowed(bytes));
    }
    let mut kept = Vec::with_capacity(bytes.len());
    let others = HeadersReader::new(bytes).flatten();
    others
        .filter(|header| !header.name.starts_with(SERVER_PREFIX))
        .for_each(|header| put_header(header, &mut kept));
    Ok(Cow::Owned(kept))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pb::{Header, Headers};
    use bytes::Bytes;
    use proptest::prelude::*;
    use prost::Message;

    fn encoded(headers: &[(&str, Option<&[u8]>)]) -> Vec<u8> {
        let mut bytes = Vec::new();
        headers.iter().for_each(|(name, value)| put_header(HeaderRef { name, value: *value }, &mut bytes));
        bytes
    }

    proptest! {
        #[test]
        fn encoding_and_decoding_match_prost(
            headers in proptest::collection::vec(
                (".{0,9}", proptest::option::of(proptest::collection::vec(any::<u8>(), 0..200))), 0..6),
        ) {
            let mut ours = Vec::new();
            for (name, value) in &headers {
                put_header(HeaderRef { name, value: value.as_deref() }, &mut ours);
            }
            let oracle = Headers {
                headers: headers.iter().map(|(name, value)| Header {
                    name: Some(name.clone()), value: value.clone().map(Bytes::from),
                }).collect(),
            };
            prop_assert_eq!(&ours, &oracle.encode_to_vec());
            let read: Vec<_> = HeadersReader::new(&ours).map(Result::unwrap).collect();
            let expected: Vec<_> =
                headers.iter().map(|(name, value)| HeaderRef { name, value: value.as_deref() }).collect();
            prop_assert_eq!(read, expected);
        }

        #[test]
        fn what_is_accepted_is_what_prost_decodes(bytes in proptest::collection::vec(
            prop_oneof![Just(0x0au8), Just(0x12), 0u8..9, any::<u8>()], 0..24)) {
            if let Ok(kept) = checked_headers(&bytes) {
                let oracle = Headers::decode(&bytes[..]).unwrap();
                let names: Vec<_> = oracle.headers.iter().map(|header| header.name().to_owned())
                    .filter(|name| !name.starts_with(SERVER_PREFIX)).collect();
                let read: Vec<_> =
                    HeadersReader::new(&kept).map(|header| header.unwrap().name.to_owned()).collect();
                prop_assert_eq!(read, names);
            }
        }
    }

    #[test]
    fn what_is_no_headers_is_refused() {
        for (bytes, why) in [
            (&[0x0a, 1][..], "a field that is longer than its pb"),
            (&[0x08, 1], "a known field of another wire type"),
            (&[0x12, 0], "an unknown field in Headers"),
            (&[0x0a, 2, 0x1a, 0], "an unknown field in a Header"),
            (&[0x0a, 3, 0x0a, 1, 0xff], "a name that is not UTF-8"),
            (&encoded(&[("a", None), ("ms", Some(b"x"))]), "the name ms is reserved"),
            (&encoded(&[("a\0b", None)]), "a name with a zero byte"),
        ] {
            assert_eq!(checked_headers(bytes), Err(Malformed(why)), "{bytes:?}");
        }
        assert_eq!(HeadersReader::new(&[0x0a, 1, 0x0a, 0]).count(), 1, "a fault ends the reading");
    }

    #[test]
    fn names_of_the_server_are_dropped() {
        let mine = encoded(&[("a", Some(b"1")), ("b", None), ("Millstream-x", Some(b""))]);
        assert!(matches!(checked_headers(&mine), Ok(Cow::Borrowed(kept)) if kept == mine));
        let mixed = encoded(&[("a", Some(b"1")), ("millstream-dead-id", Some(b"0.7")), ("b", None)]);
        assert_eq!(checked_headers(&mixed).unwrap(), encoded(&[("a", Some(b"1")), ("b", None)]));
        assert_eq!(checked_headers(&encoded(&[("millstream-", None)])).unwrap(), &b""[..]);
        assert_eq!(checked_headers(b"").unwrap(), &b""[..]);
    }
}
