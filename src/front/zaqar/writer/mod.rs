//! Writes a document in either format.
//!
//! | file | one concept |
//! | --- | --- |
//! | here | writes values |
//! | `transcode` | converts a value to the other format |

mod transcode;

use base64::prelude::*;

pub(super) use self::transcode::Binary;

use super::binary::{BASE64_KEY, Genuine};
use super::document::{Format, Node};
use super::msgpack;

/// Writes one value into a buffer: a call of a method for each value, and for each key before its value. JSON is
/// compact and UTF-8.
#[derive(Debug)]
pub struct Writer<'a> {
    format: Format,
    out: &'a mut Vec<u8>,
    begin: usize,
}

impl<'a> Writer<'a> {
    /// Creates a writer that appends to `out`.
    pub fn new(format: Format, out: &'a mut Vec<u8>) -> Self {
        let begin = out.len();
        Self { format, out, begin }
    }

    /// Returns the format.
    pub fn format(&self) -> Format {
        self.format
    }

    /// Writes a map. `fill` must write exactly `members` keys with their values.
    #[inline]
    pub fn map<R>(&mut self, members: usize, fill: impl FnOnce(&mut Self) -> R) -> R {
        self.open_map(members);
        let filled = fill(self);
        self.close(b'}');
        filled
    }

    /// Writes an array. `fill` must write exactly `elements` values.
    #[inline]
    pub fn array<R>(&mut self, elements: usize, fill: impl FnOnce(&mut Self) -> R) -> R {
        self.open_array(elements);
        let filled = fill(self);
        self.close(b']');
        filled
    }

    /// Writes the key of the next value.
    #[inline]
    pub fn key(&mut self, key: &str) {
        self.text(key);
        if self.format == Format::Json {
            self.out.push(b':');
        }
    }

    /// Writes text.
    #[inline]
    pub fn text(&mut self, text: &str) {
        match self.format {
            Format::Json => {
                self.separate();
                put_json_text(text, self.out);
            }
            Format::MessagePack => {
                put_text_head(text.len(), self.out);
                self.out.extend_from_slice(text.as_bytes());
            }
        }
    }

    /// Writes an integer.
    #[inline]
    pub fn integer(&mut self, value: impl Into<i128>) {
        let value = value.into();
        match (self.format, i64::try_from(value)) {
            (Format::MessagePack, _) => put_integer(value, self.out),
            (Format::Json, Ok(value)) => self.json(&value),
            (Format::Json, Err(_)) => self.json(&value),
        }
    }

    /// Writes a float. JSON has none that are not finite: they become null.
    pub fn float(&mut self, value: f64) {
        match self.format {
            Format::Json => self.json(&value),
            Format::MessagePack => put_float(value, self.out),
        }
    }

    /// Writes a boolean.
    pub fn bool(&mut self, value: bool) {
        match self.format {
            Format::Json => self.json(&value),
            Format::MessagePack => self.out.push(if value { msgpack::TRUE } else { msgpack::FALSE }),
        }
    }

    /// Writes null.
    pub fn null(&mut self) {
        match self.format {
            Format::Json => self.json(&()),
            Format::MessagePack => self.out.push(msgpack::NIL),
        }
    }

    /// Writes bytes. JSON has none: they become text if they are UTF-8, and `{"base64": …}` otherwise.
    pub fn binary(&mut self, bytes: &[u8]) {
        match (self.format, std::str::from_utf8(bytes)) {
            (Format::MessagePack, _) => put_binary(bytes, self.out),
            (Format::Json, Ok(text)) => self.text(text),
            (Format::Json, Err(_)) => self.base64(bytes),
        }
    }

    /// Writes bytes as `{"base64": …}`.
    pub(super) fn base64(&mut self, bytes: &[u8]) {
        self.map(1, |writer| {
            writer.key(BASE64_KEY);
            writer.text(&BASE64_STANDARD.encode(bytes));
        });
    }

    /// Writes a value of a document. One of the same format is copied as it is. In JSON, bytes are written as
    /// by [`Self::binary`], extension types as `{"base64": …}` of their data, and keys that are bytes as text. In
    /// MessagePack, integers are as short as possible, and those beyond 64 bits become floats.
    pub fn node(&mut self, node: Node<'_>) {
        if node.format() == self.format {
            self.spliced(node.raw());
        } else if self.format == Format::Json {
            self.rendered(node, Binary::TextOrBase64);
        } else {
            transcode::to_msgpack(node, None, self.out);
        }
    }

    /// Writes the encoded bytes of one value.
    #[inline]
    pub(super) fn spliced(&mut self, value: &[u8]) {
        self.separate();
        self.out.extend_from_slice(value);
    }

    /// Writes the encoded bytes of the key of the next value.
    pub(super) fn spliced_key(&mut self, key: &[u8]) {
        self.spliced(key);
        if self.format == Format::Json {
            self.out.push(b':');
        }
    }

    /// Writes a MessagePack value in JSON.
    pub(super) fn rendered(&mut self, node: Node<'_>, binary: Binary) {
        transcode::to_json(node, binary, self);
    }

    /// Writes a JSON value in MessagePack, with the bytes that maps stand for.
    pub(super) fn transcoded(&mut self, node: Node<'_>, genuine: Option<Genuine<'_>>) {
        transcode::to_msgpack(node, genuine, self.out);
    }

    /// Begins a map.
    pub(super) fn open_map(&mut self, members: usize) {
        match self.format {
            Format::Json => self.spliced(b"{"),
            Format::MessagePack => put_map_head(members, self.out),
        }
    }

    /// Begins an array.
    pub(super) fn open_array(&mut self, elements: usize) {
        match self.format {
            Format::Json => self.spliced(b"["),
            Format::MessagePack => put_array_head(elements, self.out),
        }
    }

    /// Ends a map or an array.
    pub(super) fn close(&mut self, end: u8) {
        if self.format == Format::Json {
            self.out.push(end);
        }
    }

    fn json(&mut self, value: &impl serde::Serialize) {
        self.separate();
        // A Vec takes all bytes.
        let _ = serde_json::to_writer(&mut *self.out, value);
    }

    /// Writes the comma between two values. No value ends with the byte that begins a container or follows a key.
    #[inline]
    fn separate(&mut self) {
        if self.format == Format::Json
            && self.out.len() > self.begin
            && !matches!(self.out.last(), Some(b'{' | b'[' | b':'))
        {
            self.out.push(b',');
        }
    }
}

/// Appends text as JSON.
fn put_json_text(text: &str, out: &mut Vec<u8>) {
    // A Vec takes all bytes.
    let _ = serde_json::to_writer(out, text);
}

/// Appends the shortest head for `length`: up to `fixed` in one byte, then with one (`None` if there is no such
/// head), two or four bytes.
#[inline]
fn put_head(length: usize, fixed: (usize, u8), one: Option<u8>, two: u8, four: u8, out: &mut Vec<u8>) {
    match (length, one) {
        (length, _) if length < fixed.0 => out.push(fixed.1 | length as u8),
        (0..=0xff, Some(one)) => out.extend_from_slice(&[one, length as u8]),
        (0..=0xffff, _) => {
            out.push(two);
            out.extend_from_slice(&(length as u16).to_be_bytes());
        }
        _ => {
            out.push(four);
            out.extend_from_slice(&(length as u32).to_be_bytes());
        }
    }
}

#[inline]
fn put_text_head(length: usize, out: &mut Vec<u8>) {
    put_head(length, (32, 0xa0), Some(0xd9), 0xda, 0xdb, out);
}

/// Appends the head of a MessagePack map.
pub(super) fn put_map_head(members: usize, out: &mut Vec<u8>) {
    put_head(members, (16, 0x80), None, 0xde, 0xdf, out);
}

/// Appends the head of a MessagePack array.
pub(super) fn put_array_head(elements: usize, out: &mut Vec<u8>) {
    put_head(elements, (16, 0x90), None, 0xdc, 0xdd, out);
}

/// Appends MessagePack bytes.
pub(super) fn put_binary(bytes: &[u8], out: &mut Vec<u8>) {
    put_head(bytes.len(), (0, 0), Some(0xc4), 0xc5, 0xc6, out);
    out.extend_from_slice(bytes);
}

/// Appends a MessagePack float of 64 bits.
pub(super) fn put_float(value: f64, out: &mut Vec<u8>) {
    out.push(0xcb);
    out.extend_from_slice(&value.to_be_bytes());
}

/// Appends the shortest MessagePack integer, or a float if it is beyond 64 bits.
pub(super) fn put_integer(value: i128, out: &mut Vec<u8>) {
    let mut put = |first: u8, bytes: &[u8]| {
        out.push(first);
        out.extend_from_slice(bytes);
    };
    match value {
        -32..=0x7f => put(value as u8, &[]),
        0x80..=0xff => put(0xcc, &[value as u8]),
        0x100..=0xffff => put(0xcd, &(value as u16).to_be_bytes()),
        0x1_0000..=0xffff_ffff => put(0xce, &(value as u32).to_be_bytes()),
        0x1_0000_0000..=0xffff_ffff_ffff_ffff => put(0xcf, &(value as u64).to_be_bytes()),
        -0x80..=-33 => put(0xd0, &[value as u8]),
        -0x8000..=-0x81 => put(0xd1, &(value as i16).to_be_bytes()),
        -0x8000_0000..=-0x8001 => put(0xd2, &(value as i32).to_be_bytes()),
        -0x8000_0000_0000_0000..=-0x8000_0001 => put(0xd3, &(value as i64).to_be_bytes()),
        _ => put_float(value as f64, out),
    }
}
