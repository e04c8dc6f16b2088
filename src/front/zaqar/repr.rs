//! The size of a value as the API counts it: the characters of its Python representation.

use super::document::{Format, Kind, Node};
use super::tokens::{Token, Tokens};

/// The most characters that a byte of JSON can become: a control character, as `\x7f`.
const JSON_EXPANSION: usize = 4;
/// The same for MessagePack: the smallest extension type.
const MESSAGE_PACK_EXPANSION: usize = 16;
/// `ExtType(code=, data=b'')` with a number of up to four characters.
const EXTENSION_CHARACTERS: usize = 28;

/// Returns whether the representation has more than `max` characters. Does not count them if the value is short.
pub fn is_longer_than(node: Node<'_>, max: usize) -> bool {
    let expansion = match node.format() {
        Format::Json => JSON_EXPANSION,
        Format::MessagePack => MESSAGE_PACK_EXPANSION,
    };
    node.raw().len().saturating_mul(expansion) > max && repr_length(node) > max
}

/// Returns the number of characters of the Python representation: `", "` and `": "` between values, `None`, `True` and
/// `False`, and text in quotes. Numbers count as they are written. Characters from U+00AE on count as one.
pub fn repr_length(node: Node<'_>) -> usize {
    let (mut length, mut follows) = (0, false);
    for token in Tokens::new(node) {
        if follows && !matches!(token, Token::End { .. }) {
            length += 2;
        }
        length += match token {
            Token::Map | Token::Array | Token::End { .. } => 1,
            Token::Key(value) | Token::Value(value) => scalar(value),
        };
        // The separator is a colon and a blank after a key, and otherwise a comma and a blank.
        follows = !matches!(token, Token::Map | Token::Array);
    }
    length
}

fn scalar(value: Node<'_>) -> usize {
    match value.kind() {
        Kind::Null => 4,
        Kind::Bool => 5 - usize::from(value.as_bool() == Some(true)),
        Kind::Text => {
            let text = value.as_text().unwrap_or_default();
            let escapes = if text.contains('"') { text.matches('\'').count() } else { 0 };
            2 + escapes + text.chars().map(character).sum::<usize>()
        }
        Kind::Binary => 3 + bytes(value.as_binary().unwrap_or(&[])),
        Kind::Extension => EXTENSION_CHARACTERS + bytes(value.as_extension().unwrap_or(&[])),
        Kind::Integer | Kind::Float if value.format() == Format::Json => value.raw().len(),
        Kind::Integer => value.as_integer().unwrap_or_default().to_string().len(),
        Kind::Float => format!("{:?}", value.as_float().unwrap_or_default()).len(),
        Kind::Array | Kind::Map => 0,
    }
}

fn bytes(bytes: &[u8]) -> usize {
    bytes.iter().map(|byte| if byte.is_ascii() { character(char::from(*byte)) } else { 4 }).sum()
}

fn character(character: char) -> usize {
    match character {
        '\\' | '\n' | '\r' | '\t' => 2,
        '\0'..' ' | '\x7f'..='\u{a0}' | '\u{ad}' => 4,
        _ => 1,
    }
}
