//! The frame header (RFC 6455 section 5.2): parses and writes it, and checks every rule that a single header
//! can break.

use super::CloseCode;
use crate::base::limits::CONTROL_PAYLOAD_BYTES_MAX;

/// The longest header, in bytes: two bytes, an eight-byte length, a masking key.
pub const HEADER_BYTES_MAX: usize = 14;

/// The type of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Opcode {
    /// Continues a WebSocket message.
    Continuation = 0,
    /// Starts a text message.
    Text = 1,
    /// Starts a binary message.
    Binary = 2,
    /// Begins or confirms the end of the connection.
    Close = 8,
    /// Asks for a pong.
    Ping = 9,
    /// Answers a ping.
    Pong = 10,
}

impl Opcode {
    /// Returns whether the frame is a close, a ping or a pong.
    pub fn is_control(self) -> bool {
        self as u8 & 8 != 0
    }
}

/// A frame's header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrameHeader {
    /// Whether this is the last frame of its message.
    pub fin: bool,
    /// The type of the frame.
    pub opcode: Opcode,
    /// The masking key. Clients mask, servers do not.
    pub mask: Option<[u8; 4]>,
    /// The length of the payload, in bytes.
    pub length: u64,
}

impl FrameHeader {
    /// Parses a header at the start of `bytes` and returns it with its length, or `None` if more bytes are
    /// needed.
    ///
    /// Reports a fault in the first two bytes without waiting for the rest.
    #[inline]
    pub fn parse(bytes: &[u8]) -> Result<Option<(Self, usize)>, CloseCode> {
        let [first, second, rest @ ..] = bytes else { return Ok(None) };
        if first & 0x70 != 0 {
            return Err(CloseCode::PROTOCOL);
        }
        let fin = first & 0x80 != 0;
        let opcode = match first & 0x0f {
            0 => Opcode::Continuation,
            1 => Opcode::Text,
            2 => Opcode::Binary,
            8 => Opcode::Close,
            9 => Opcode::Ping,
            10 => Opcode::Pong,
            _ => return Err(CloseCode::PROTOCOL),
        };
        let short = second & 0x7f;
        if opcode.is_control() && (!fin || usize::from(short) > CONTROL_PAYLOAD_BYTES_MAX) {
            return Err(CloseCode::PROTOCOL);
        }
        let (length, rest) = match short {
            126 => match rest.split_first_chunk::<2>() {
                Some((length, rest)) => (u64::from(u16::from_be_bytes(*length)), rest),
                None => return Ok(None),
            },
            127 => match rest.split_first_chunk::<8>() {
                Some((length, rest)) => (u64::from_be_bytes(*length), rest),
                None => return Ok(None),
            },
            short => (u64::from(short), rest),
        };
        let minimal = match short {
            126 => length >= 126,
            127 => length > 0xffff && length >> 63 == 0,
            _ => true,
        };
        if !minimal {
            return Err(CloseCode::PROTOCOL);
        }
        let (mask, rest) = if second & 0x80 == 0 {
            (None, rest)
        } else {
            match rest.split_first_chunk::<4>() {
                Some((key, rest)) => (Some(*key), rest),
                None => return Ok(None),
            }
        };
        Ok(Some((Self { fin, opcode, mask, length }, bytes.len() - rest.len())))
    }

    /// Appends the header to `out`.
    #[inline]
    pub fn write(&self, out: &mut Vec<u8>) {
        let masked = if self.mask.is_some() { 0x80 } else { 0 };
        out.push(if self.fin { 0x80 } else { 0 } | self.opcode as u8);
        match self.length {
            0..=125 => out.push(masked | self.length as u8),
            126..=0xffff => {
                out.push(masked | 126);
                out.extend_from_slice(&(self.length as u16).to_be_bytes());
            }
            _ => {
                out.push(masked | 127);
                out.extend_from_slice(&self.length.to_be_bytes());
            }
        }
        if let Some(key) = self.mask {
            out.extend_from_slice(&key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::io::Cursor;
    use tungstenite::protocol::frame::FrameHeader as Oracle;

    /// Returns whether the header breaks a rule that tungstenite's parser does not check, or checks only once
    /// it has the whole header (reserved opcodes).
    fn breaks_a_rule_that_the_oracle_finds_late_or_never(bytes: &[u8]) -> bool {
        let control = bytes[0] & 8 != 0;
        let short = bytes[1] & 0x7f;
        let wide = |n: usize| bytes[2..2 + n].iter().fold(0u64, |value, byte| value << 8 | u64::from(*byte));
        bytes[0] & 0x70 != 0
            || matches!(bytes[0] & 0x0f, 3..=7 | 11..)
            || control && (bytes[0] & 0x80 == 0 || short > 125)
            || short == 126 && wide(2) < 126
            || short == 127 && (wide(8) <= 0xffff || wide(8) >> 63 == 1)
    }

    proptest! {
        #[test]
        fn headers_parse_as_in_tungstenite(
            first in prop_oneof![any::<u8>(), Just(0x82u8), Just(0x02), Just(0x89)],
            second in prop_oneof![any::<u8>(), Just(126u8), Just(127), Just(254), Just(255)],
            rest in proptest::collection::vec(prop_oneof![any::<u8>(), Just(0)], 12),
            length in 0usize..=14,
        ) {
            let mut bytes = vec![first, second];
            bytes.extend(rest);
            let faulty = breaks_a_rule_that_the_oracle_finds_late_or_never(&bytes);
            let bytes = &bytes[..length];
            let ours = FrameHeader::parse(bytes);
            let mut cursor = Cursor::new(bytes);
            match Oracle::parse(&mut cursor) {
                Err(_) => prop_assert!(ours.is_err()),
                // Ours may report the fault before the oracle has the whole header.
                Ok(None) => prop_assert!(ours == Ok(None) || ours.is_err() && faulty),
                Ok(Some(_)) if faulty => prop_assert!(ours.is_err()),
                Ok(Some((oracle, payload))) => {
                    let (header, used) = ours.unwrap().unwrap();
                    prop_assert_eq!(header.length, payload);
                    prop_assert_eq!(used as u64, cursor.position());
                    prop_assert_eq!(header.fin, oracle.is_final);
                    prop_assert_eq!(header.opcode as u8, u8::from(oracle.opcode));
                    prop_assert_eq!(header.mask, oracle.mask);
                    let mut written = Vec::new();
                    header.write(&mut written);
                    prop_assert_eq!(&written[..], &bytes[..used]);
                }
            }
        }
    }
}
