//! Base-128 varints and field tags (protobuf encoding, proto2).

/// The wire type of a varint.
pub const VARINT: u8 = 0;
/// The wire type of length-delimited fields: strings, bytes, messages.
pub const BYTES: u8 = 2;
/// `rewound` of a ConsumeResponse (field 104) with the value true, encoded.
pub const REWOUND: [u8; 3] = [0xc0, 0x06, 1];
/// The two-byte tag of `keys` and of `key` (field 100, bytes).
pub const KEY_TAG: [u8; 2] = [0xa2, 0x06];

/// Returns the length of an extension: a field of bytes with a tag of two bytes.
#[inline]
pub const fn extension_length(bytes: usize) -> usize {
    2 + varint_length(bytes as u64) + bytes
}

/// Appends an extension.
#[inline]
pub fn put_extension(tag: [u8; 2], bytes: &[u8], out: &mut Vec<u8>) {
    out.extend_from_slice(&tag);
    write_varint(bytes.len() as u64, out);
    out.extend_from_slice(bytes);
}

/// The reason why a pb cannot be decoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Malformed(pub &'static str);

/// Returns the number of bytes that `value` takes as a varint.
#[inline]
pub const fn varint_length(value: u64) -> usize {
    // One byte for every seven bits. Zero takes one byte, too.
    (64 - (value | 1).leading_zeros() as usize).div_ceil(7)
}

/// Appends a varint.
#[inline]
pub fn write_varint(mut value: u64, out: &mut Vec<u8>) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// Writes a varint into `bytes` at `at`. Returns the position behind it.
#[inline]
pub fn put_varint(mut value: u64, bytes: &mut [u8], mut at: usize) -> usize {
    while value >= 0x80 {
        bytes[at] = value as u8 | 0x80;
        value >>= 7;
        at += 1;
    }
    bytes[at] = value as u8;
    at + 1
}

/// Returns whether a pb has a field numbered 100 or higher, which means that its sender knows the protocol's
/// extensions. Returns false for a malformed pb without one.
pub fn uses_extensions(pb: &[u8]) -> bool {
    let mut reader = Reader(pb);
    while let Ok(Some((field, wire_type))) = reader.tag() {
        if field >= 100 {
            return true;
        }
        if reader.skip(wire_type).is_err() {
            break;
        }
    }
    false
}

/// Reads fields in order.
#[derive(Clone, Copy, Debug)]
pub struct Reader<'a>(pub &'a [u8]);

impl<'a> Reader<'a> {
    /// Reads a varint of at most ten bytes.
    #[inline]
    pub fn varint(&mut self) -> Result<u64, Malformed> {
        if let [first @ 0..0x80, rest @ ..] = self.0 {
            self.0 = rest;
            return Ok(u64::from(*first));
        }
        let mut value = 0u64;
        for (index, byte) in self.0.iter().take(10).enumerate() {
            value |= u64::from(byte & 0x7f) << (7 * index);
            if byte & 0x80 == 0 {
                if index == 9 && *byte > 1 {
                    return Err(Malformed("a varint of more than 64 bits"));
                }
                self.0 = &self.0[index + 1..];
                return Ok(value);
            }
        }
        Err(Malformed("a varint that does not end"))
    }

    /// Reads a length and then that number of bytes.
    #[inline]
    pub fn bytes(&mut self) -> Result<&'a [u8], Malformed> {
        let length = self.varint()?;
        match usize::try_from(length).ok().and_then(|length| self.0.split_at_checked(length)) {
            Some((bytes, rest)) => {
                self.0 = rest;
                Ok(bytes)
            }
            None => Err(Malformed("a field that is longer than its pb")),
        }
    }

    /// Reads a field number and wire type. Returns `None` at the end.
    #[inline]
    pub fn tag(&mut self) -> Result<Option<(u32, u8)>, Malformed> {
        if self.0.is_empty() {
            return Ok(None);
        }
        let tag = self.varint()?;
        match u32::try_from(tag) {
            Ok(tag) if tag >= 8 => Ok(Some((tag >> 3, tag as u8 & 7))),
            _ => Err(Malformed("a field number out of range")),
        }
    }

    /// Skips the value of an unknown field.
    pub fn skip(&mut self, wire_type: u8) -> Result<(), Malformed> {
        let fixed = match wire_type {
            VARINT => return self.varint().map(drop),
            BYTES => return self.bytes().map(drop),
            1 => 8,
            5 => 4,
            _ => return Err(Malformed("a group or an unknown wire type")),
        };
        self.0 = self.0.get(fixed..).ok_or(Malformed("a field that is longer than its pb"))?;
        Ok(())
    }
}

/// Checks that a known field has the expected wire type.
#[inline]
pub fn expect(wire_type: u8, expected: u8) -> Result<(), Malformed> {
    if wire_type == expected { Ok(()) } else { Err(Malformed("a known field of another wire type")) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn varints_are_encoded_as_in_prost(value in prop_oneof![any::<u64>(), 0u64..300, Just(u64::MAX)]) {
            let mut ours = Vec::new();
            write_varint(value, &mut ours);
            let mut oracle = Vec::new();
            prost::encoding::encode_varint(value, &mut oracle);
            prop_assert_eq!(&ours, &oracle);
            prop_assert_eq!(varint_length(value), ours.len());
            let mut array = [0; 10];
            prop_assert_eq!(put_varint(value, &mut array, 0), ours.len());
            prop_assert_eq!(&array[..ours.len()], &ours[..]);
            let mut reader = Reader(&ours);
            prop_assert_eq!(reader.varint(), Ok(value));
            prop_assert!(reader.0.is_empty());
        }

        #[test]
        fn varints_are_decoded_as_in_prost(bytes in proptest::collection::vec(prop_oneof![any::<u8>(), Just(0x80u8), Just(0xff)], 0..12)) {
            let oracle = prost::encoding::decode_varint(&mut &bytes[..]);
            prop_assert_eq!(Reader(&bytes).varint().ok(), oracle.ok());
        }
    }
}
