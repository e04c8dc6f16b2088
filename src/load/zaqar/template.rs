//! A request that is encoded once and used many times.

use std::ops::Range;

use serde::Serialize;
use serde_json::{Value, json};

use super::super::stamp::{STAMP_BYTES, Stamp};
use super::format::Format;
use super::load::STAMP_CHARS;
use crate::client::ClientError;

/// The value in the place of a hole. It occurs nowhere else in a request.
const HOLE: &str = "\u{1f573}hole of a template\u{1f573}";

/// A request with a hole for one value.
#[derive(Debug)]
pub(super) struct Template {
    format: Format,
    bytes: Vec<u8>,
    hole: Range<usize>,
}

impl Template {
    /// Encodes the request that `make` builds around the value of the hole.
    pub(super) fn new(format: Format, make: impl FnOnce(Value) -> Value) -> Result<Self, ClientError> {
        let (mut bytes, mut hole) = (Vec::new(), Vec::new());
        format.write(&mut bytes, &make(json!(HOLE)))?;
        format.write(&mut hole, &HOLE)?;
        let at = bytes.windows(hole.len()).position(|window| window == hole);
        let at = at.ok_or_else(|| ClientError::Failed("a template has no hole".into()))?;
        Ok(Self { format, bytes, hole: at..at + hole.len() })
    }

    /// Returns the request with `value` in its hole.
    pub(super) fn fill(&self, value: &impl Serialize) -> Result<Vec<u8>, ClientError> {
        let mut out = self.bytes[..self.hole.start].to_vec();
        self.format.write(&mut out, value)?;
        out.extend_from_slice(&self.bytes[self.hole.end..]);
        Ok(out)
    }
}

/// A request with a stamp in each of its messages.
#[derive(Debug)]
pub(super) struct Stamped {
    bytes: Vec<u8>,
    /// Where the stamps begin.
    places: Vec<usize>,
}

impl Stamped {
    /// Encodes the request that `make` builds of messages that each begin with [`STAMP_CHARS`] of the given text.
    pub(super) fn new(format: Format, make: impl FnOnce(&str) -> Value) -> Result<Self, ClientError> {
        // No name may contain this character.
        let empty = "*".repeat(STAMP_CHARS);
        let mut bytes = Vec::new();
        format.write(&mut bytes, &make(&empty))?;
        let mut places = Vec::new();
        let mut from = 0;
        while let Some(at) = bytes[from..].windows(STAMP_CHARS).position(|window| window == empty.as_bytes())
        {
            places.push(from + at);
            from += at + STAMP_CHARS;
        }
        Ok(Self { bytes, places })
    }

    /// Returns the request with the stamps that `stamp` returns for its messages, counted from 0.
    pub(super) fn stamp(&mut self, stamp: impl Fn(u64) -> Stamp) -> &[u8] {
        for (place, number) in self.places.iter().zip(0..) {
            let mut raw = [0; STAMP_BYTES];
            stamp(number).write(&mut raw);
            for (digits, byte) in self.bytes[*place..].chunks_exact_mut(2).zip(raw) {
                digits.copy_from_slice(&[digit(byte >> 4), digit(byte & 15)]);
            }
        }
        &self.bytes
    }
}

/// Returns the stamp at the start of a message, or `None` if there is none.
pub(super) fn stamp_of(message: &str) -> Option<[u8; STAMP_BYTES]> {
    let digits = message.as_bytes().get(..STAMP_CHARS)?;
    let mut raw = [0; STAMP_BYTES];
    for (byte, digits) in raw.iter_mut().zip(digits.chunks_exact(2)) {
        *byte = value(digits[0])? << 4 | value(digits[1])?;
    }
    Some(raw)
}

fn digit(value: u8) -> u8 {
    if value < 10 { b'0' + value } else { b'a' + value - 10 }
}

fn value(digit: u8) -> Option<u8> {
    match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filled_template_equals_the_request_encoded_as_a_whole() {
        for format in [Format::Json, Format::MsgPack] {
            let make =
                |ids: Value| json!({"action": "x", "body": {"ids": ids, "n": 7}, "headers": {"a": "b"}});
            let template = Template::new(format, make).unwrap();
            for ids in [vec![], vec!["a"], vec!["b\"\\\u{e9}"; 20]] {
                let mut whole = Vec::new();
                format.write(&mut whole, &make(json!(ids))).unwrap();
                assert_eq!(template.fill(&ids).unwrap(), whole, "{format:?} {ids:?}");
            }
        }
    }

    #[test]
    fn each_message_gets_its_stamp() {
        for format in [Format::Json, Format::MsgPack] {
            let make = |empty: &str| json!({"messages": [{"body": format!("{empty}.")}, {"body": format!("{empty}..")}]});
            let mut stamped = Stamped::new(format, make).unwrap();
            for first in [0, u64::MAX - 1] {
                let stamp = |number| Stamp { run: 1, stream: 2, sequence: first + number, intended_ns: 0xab };
                let sent: Value = format.read(stamped.stamp(stamp)).unwrap();
                for (message, number) in sent["messages"].as_array().unwrap().iter().zip(0..) {
                    let raw = stamp_of(message["body"].as_str().unwrap()).unwrap();
                    assert_eq!(Stamp::read(&raw), Some(stamp(number)));
                }
            }
        }
        let digits = "0".repeat(STAMP_CHARS);
        assert!(stamp_of(&digits).is_some());
        for text in ["", &digits[1..], &digits.replacen('0', "G", 1), &digits.replacen('0', "\u{e9}", 1)] {
            assert_eq!(stamp_of(text), None, "{text}");
        }
    }
}
