//! Converts a value to the other format, in time linear in its length.

use base64::prelude::*;

use super::super::binary::{BASE64_KEY, Genuine};
use super::super::document::{Format, Kind, Node};
use super::super::msgpack;
use super::super::tokens::{Token, Tokens};
use super::{Writer, put_array_head, put_binary, put_float, put_integer, put_map_head};

/// How bytes become JSON.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Binary {
    /// As text if they are UTF-8, and as `{"base64": …}` otherwise.
    TextOrBase64,
    /// As `{"base64": …}`.
    Base64,
}

/// Writes a MessagePack value as JSON. Keys that are bytes become text: in base64 if they are not UTF-8.
pub fn to_json(node: Node<'_>, binary: Binary, writer: &mut Writer<'_>) {
    for token in Tokens::new(node) {
        match token {
            Token::Map => writer.open_map(0),
            Token::Array => writer.open_array(0),
            Token::End { is_map } => writer.close(if is_map { b'}' } else { b']' }),
            Token::Key(key) => match (key.as_text(), key.as_binary().unwrap_or(&[])) {
                (Some(text), _) => writer.key(&text),
                (None, bytes) => match std::str::from_utf8(bytes) {
                    Ok(text) => writer.key(text),
                    Err(_) => writer.key(&BASE64_STANDARD.encode(bytes)),
                },
            },
            Token::Value(value) => put_json_scalar(value, binary, writer),
        }
    }
}

fn put_json_scalar(value: Node<'_>, binary: Binary, writer: &mut Writer<'_>) {
    match value.kind() {
        Kind::Bool => writer.bool(value.as_bool().unwrap_or_default()),
        Kind::Integer => writer.integer(msgpack::integer(value.raw()).unwrap_or_default()),
        Kind::Float => writer.float(value.as_float().unwrap_or_default()),
        Kind::Text => writer.text(&value.as_text().unwrap_or_default()),
        Kind::Binary if binary == Binary::TextOrBase64 => writer.binary(value.as_binary().unwrap_or(&[])),
        Kind::Binary => writer.base64(value.as_binary().unwrap_or(&[])),
        Kind::Extension => writer.base64(value.as_extension().unwrap_or(&[])),
        Kind::Null | Kind::Array | Kind::Map => writer.null(),
    }
}

/// Appends a JSON value as MessagePack. If `genuine` is given, maps that stand for bytes become bytes, except those
/// that it lists.
pub fn to_msgpack(node: Node<'_>, mut genuine: Option<Genuine<'_>>, out: &mut Vec<u8>) {
    // JSON does not say how many items a container has.
    let mut lengths = lengths(node).into_iter();
    let mut tokens = Tokens::new(node);
    while let Some(token) = tokens.next() {
        match token {
            Token::Map => {
                let length = lengths.next().unwrap_or_default();
                if let Some(genuine) = &mut genuine
                    && let Some((text, behind)) = tokens.only_text(BASE64_KEY)
                    && let Some(bytes) = genuine.bytes_of(text)
                {
                    put_binary(&bytes, out);
                    tokens = behind;
                } else {
                    put_map_head(length as usize, out);
                }
            }
            Token::Array => put_array_head(lengths.next().unwrap_or_default() as usize, out),
            Token::End { .. } => {}
            Token::Key(value) | Token::Value(value) => put_msgpack_scalar(value, out),
        }
    }
}

/// Returns the number of elements or members of each container, in the order in which they begin.
fn lengths(node: Node<'_>) -> Vec<u32> {
    let (mut lengths, mut open) = (Vec::new(), Vec::new());
    for token in Tokens::new(node) {
        if let Token::Map | Token::Array | Token::Value(_) = token
            && let Some(length) = open.last().and_then(|index: &usize| lengths.get_mut(*index))
        {
            *length += 1;
        }
        match token {
            Token::Map | Token::Array => {
                open.push(lengths.len());
                lengths.push(0);
            }
            Token::End { .. } => drop(open.pop()),
            Token::Key(_) | Token::Value(_) => {}
        }
    }
    lengths
}

fn put_msgpack_scalar(value: Node<'_>, out: &mut Vec<u8>) {
    match value.kind() {
        Kind::Integer => match std::str::from_utf8(value.raw()).unwrap_or_default() {
            digits if digits.len() < 30 => put_integer(digits.parse().unwrap_or_default(), out),
            digits => put_float(digits.parse().unwrap_or_default(), out),
        },
        Kind::Float => put_float(value.as_float().unwrap_or_default(), out),
        kind => {
            let mut writer = Writer::new(Format::MessagePack, out);
            match kind {
                Kind::Text => writer.text(&value.as_text().unwrap_or_default()),
                Kind::Bool => writer.bool(value.as_bool().unwrap_or_default()),
                _ => writer.null(),
            }
        }
    }
}
