//! How stored bodies represent bytes, and the header of those that contain some.

use base64::prelude::*;

use super::document::{Kind, Node};
use super::tokens::{Token, Tokens};
use crate::pb::wire::{Reader, write_varint};

/// The only member of the map that stands for bytes in JSON.
pub const BASE64_KEY: &str = "base64";

/// The name of the header. Its value lists the maps `{"base64": "…"}` of the body that are genuine and do not stand
/// for bytes, as varints in ascending order: among all such maps, in the order of the document, the first is 0.
pub const BINARY: &str = "millstream-binary";

/// Returns the value of the header, or `None` if the body contains no bytes.
pub fn find_genuine(body: Node<'_>) -> Option<Vec<u8>> {
    let (mut genuine, mut ordinal, mut has_bytes) = (Vec::new(), 0, false);
    let mut tokens = Tokens::new(body);
    while let Some(token) = tokens.next() {
        match token {
            Token::Map if tokens.only_text(BASE64_KEY).is_some() => {
                write_varint(ordinal, &mut genuine);
                ordinal += 1;
            }
            Token::Value(value) if value.kind() == Kind::Binary => {
                has_bytes = true;
                ordinal += 1;
            }
            _ => {}
        }
    }
    has_bytes.then_some(genuine)
}

/// Reads the value of the header while the body is read.
#[derive(Clone, Debug)]
pub struct Genuine<'a> {
    listed: Reader<'a>,
    next: Option<u64>,
    ordinal: u64,
}

impl<'a> Genuine<'a> {
    /// Creates a reader of the header's value.
    pub fn new(value: &'a [u8]) -> Self {
        let mut listed = Reader(value);
        let next = listed.varint().ok();
        Self { listed, next, ordinal: 0 }
    }

    /// Handles the text of the next map `{"base64": "…"}`. Returns the bytes that it stands for, or `None` if it is
    /// genuine.
    pub fn bytes_of(&mut self, text: Node<'_>) -> Option<Vec<u8>> {
        let ordinal = self.ordinal;
        self.ordinal += 1;
        if self.next == Some(ordinal) {
            self.next = self.listed.varint().ok();
            return None;
        }
        BASE64_STANDARD.decode(text.as_text()?.as_bytes()).ok()
    }
}
