//! The header that this server adds to Kafka records. It holds what value, key, timestamp and the message's own headers
//! do not.
//!
//! | byte | |
//! | --- | --- |
//! | 0 | version: 1 |
//! | 1 | flags: 1 a TTL follows, 2 a client follows, 4 the record is packed, 8 its messages have keys, 16 its messages have keys and headers |
//! | next | the TTL in seconds (u32, big-endian), if flag 1 is set |
//! | next | the client's id (16 bytes, as in a UUID), if flag 2 is set |
//! | next | the number of messages in the record (u32, big-endian), if flag 4 is set |
//!
//! Further bytes belong to a later version and are ignored. A record without the header, or with an
//! unreadable one, has the topic's default TTL and names no client: it goes to every consumer.

use std::ffi::CStr;

use super::layout::MESSAGES_MAX;
use crate::base::batch::{Batch, Shape};
use crate::base::names::ClientId;

/// The name of the header that records of this server have.
pub const HEADER: &CStr = c"ms";

const VERSION: u8 = 1;
const HAS_TTL: u8 = 1;
const HAS_CLIENT: u8 = 2;
const IS_PACKED: u8 = 4;
const HAS_KEYS: u8 = 8;
const HAS_HEADERS: u8 = 16;

/// The size of the longest header, in bytes: version and flags, TTL, client, number of messages.
const BYTES_MAX: usize = 2 + size_of::<u32>() + size_of::<u128>() + size_of::<u32>();

/// The content of a packed record's value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Packed {
    /// The number of messages.
    pub count: u32,
    /// What they may hold.
    pub shape: Shape,
}

impl Packed {
    /// Returns the messages of a record's value, or `None` if they differ from this description.
    pub fn batch(self, client: ClientId, ttl_secs: u32, value: &[u8]) -> Option<Batch> {
        let Self { count, shape } = self;
        if count > MESSAGES_MAX {
            return None;
        }
        Batch::from_stored(client, ttl_secs, shape, count, value)
    }
}

/// The content of a header.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Header {
    /// The time to live in seconds, unless it is the topic's default.
    pub ttl_secs: Option<u32>,
    /// The client that stored the record, unless it is anonymous.
    pub client: Option<ClientId>,
    /// The content of the value, if it holds messages in stored form.
    pub packed: Option<Packed>,
}

/// An encoded header.
#[derive(Clone, Copy, Debug)]
pub struct Encoded {
    bytes: [u8; BYTES_MAX],
    length: usize,
}

impl Encoded {
    /// Returns the header's value.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes[..self.length]
    }
}

impl Header {
    /// Encodes the header. Returns `None` if it would be empty.
    pub fn encode(&self) -> Option<Encoded> {
        if *self == Self::default() {
            return None;
        }
        let mut encoded = Encoded { bytes: [0; BYTES_MAX], length: 2 };
        encoded.bytes[0] = VERSION;
        let mut put = |flag: u8, bytes: &[u8]| {
            encoded.bytes[1] |= flag;
            encoded.bytes[encoded.length..encoded.length + bytes.len()].copy_from_slice(bytes);
            encoded.length += bytes.len();
        };
        if let Some(ttl_secs) = self.ttl_secs {
            put(HAS_TTL, &ttl_secs.to_be_bytes());
        }
        if let Some(client) = self.client {
            put(HAS_CLIENT, &client.as_u128().to_be_bytes());
        }
        if let Some(packed) = self.packed {
            let shape = match packed.shape {
                Shape::Payloads => 0,
                Shape::Keys => HAS_KEYS,
                Shape::Headers => HAS_HEADERS,
            };
            put(IS_PACKED | shape, &packed.count.to_be_bytes());
        }
        Some(encoded)
    }

    /// Parses a header. An unreadable one counts as empty.
    pub fn decode(value: &[u8]) -> Self {
        Self::read(value).unwrap_or_default()
    }

    fn read(value: &[u8]) -> Option<Self> {
        let (&[VERSION, flags], mut rest) = value.split_first_chunk::<2>()? else { return None };
        let mut header = Self::default();
        if flags & HAS_TTL != 0 {
            let (ttl, behind) = rest.split_first_chunk()?;
            header.ttl_secs = Some(u32::from_be_bytes(*ttl));
            rest = behind;
        }
        if flags & HAS_CLIENT != 0 {
            let (client, behind) = rest.split_first_chunk()?;
            header.client = Some(ClientId::from(u128::from_be_bytes(*client)));
            rest = behind;
        }
        if flags & IS_PACKED != 0 {
            let count = u32::from_be_bytes(*rest.first_chunk()?);
            let shape = match flags & (HAS_KEYS | HAS_HEADERS) {
                0 => Shape::Payloads,
                HAS_KEYS => Shape::Keys,
                _ => Shape::Headers,
            };
            header.packed = Some(Packed { count, shape });
        }
        Some(header)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn an_empty_header_is_left_out_and_an_unreadable_one_counts_as_empty() {
        assert!(Header::default().encode().is_none());
        for bad in [&b""[..], b"\x01", b"\x02\x01\0\0\0\x3c", b"\x01\x01\0\0\0", b"\x01\x02short"] {
            assert_eq!(Header::decode(bad), Header::default(), "{bad:?}");
        }
        assert_eq!(
            Header::decode(b"\x01\x01\0\0\0\x3clater"),
            Header { ttl_secs: Some(60), ..Header::default() }
        );
    }

    proptest! {
        #[test]
        fn a_header_is_read_back_as_written(ttl_secs: Option<u32>, client: Option<u128>, packed: Option<(u32, u8)>) {
            let packed = packed.map(|(count, shape)| {
                let shape = [Shape::Payloads, Shape::Keys, Shape::Headers][usize::from(shape) % 3];
                Packed { count, shape }
            });
            let header = Header { ttl_secs, client: client.map(ClientId::from), packed };
            let encoded = header.encode();
            prop_assert_eq!(encoded.map_or(Header::default(), |encoded| Header::decode(encoded.as_bytes())), header);
        }

        #[test]
        fn any_bytes_can_be_parsed(bytes: Vec<u8>) {
            Header::decode(&bytes);
        }
    }
}
