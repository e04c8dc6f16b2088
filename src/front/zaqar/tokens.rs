//! A checked document as a flat sequence, so that no pass over it recurses.

use super::document::{Format, Kind, Node};
use super::{json, msgpack};

/// A part of a document.
#[derive(Clone, Copy, Debug)]
pub enum Token<'a> {
    /// A map begins.
    Map,
    /// An array begins.
    Array,
    /// The innermost map or array ends.
    End {
        /// Whether it is a map.
        is_map: bool,
    },
    /// A key: text or bytes. Its value follows.
    Key(Node<'a>),
    /// A value that is neither a map nor an array.
    Value(Node<'a>),
}

/// The tokens of a value of a checked document, in order.
#[derive(Clone, Debug)]
pub struct Tokens<'a> {
    format: Format,
    bytes: &'a [u8],
    at: usize,
    /// How many items of each open container follow, and whether it is a map. MessagePack only.
    open: Vec<(usize, bool)>,
}

impl<'a> Tokens<'a> {
    /// Returns the tokens of `node`.
    pub fn new(node: Node<'a>) -> Self {
        Self { format: node.format(), bytes: node.raw(), at: 0, open: Vec::new() }
    }

    fn next_json(&mut self) -> Option<Token<'a>> {
        while let Some(b' ' | b'\n' | b'\r' | b'\t' | b',' | b':') = self.bytes.get(self.at) {
            self.at += 1;
        }
        let first = *self.bytes.get(self.at)?;
        let token = match first {
            b'{' => Token::Map,
            b'[' => Token::Array,
            b'}' | b']' => Token::End { is_map: first == b'}' },
            _ => {
                let end = json::skip(self.bytes, self.at);
                let node =
                    Node::of(Format::Json, self.bytes.get(self.at..end).filter(|raw| !raw.is_empty())?);
                self.at = end;
                let is_key = first == b'"' && json::is_key(self.bytes, end);
                return Some(if is_key { Token::Key(node) } else { Token::Value(node) });
            }
        };
        self.at += 1;
        Some(token)
    }

    fn next_msgpack(&mut self) -> Option<Token<'a>> {
        let mut is_key = false;
        if let Some((left, is_map)) = self.open.last_mut() {
            let Some(less) = left.checked_sub(1) else {
                let is_map = *is_map;
                self.open.pop();
                return Some(Token::End { is_map });
            };
            is_key = *is_map && *left % 2 == 0;
            *left = less;
        }
        let rest = self.bytes.get(self.at..)?;
        let head = msgpack::head(rest)?;
        let length = head.bytes + head.data;
        self.at += length;
        let node = Node::of(Format::MessagePack, rest.get(..length)?);
        Some(match head.kind {
            Kind::Map | Kind::Array => {
                let is_map = head.kind == Kind::Map;
                self.open.push((head.items, is_map));
                if is_map { Token::Map } else { Token::Array }
            }
            _ if is_key => Token::Key(node),
            _ => Token::Value(node),
        })
    }

    /// Returns the text of a map of one member with this key, if the last token began one, and the tokens behind the
    /// map.
    pub fn only_text(&self, name: &str) -> Option<(Node<'a>, Self)> {
        // Looks first, because a copy allocates.
        let is_likely = match self.format {
            Format::Json => json::next_value(self.bytes.get(self.at..)?).is_some(),
            Format::MessagePack => self.open.last().is_some_and(|(left, _)| *left == 2),
        };
        if !is_likely {
            return None;
        }
        let mut ahead = self.clone();
        match (ahead.next(), ahead.next(), ahead.next()) {
            (Some(Token::Key(key)), Some(Token::Value(value)), Some(Token::End { .. }))
                if key.is_text(name) && value.kind() == Kind::Text =>
            {
                Some((value, ahead))
            }
            _ => None,
        }
    }
}

impl<'a> Iterator for Tokens<'a> {
    type Item = Token<'a>;

    fn next(&mut self) -> Option<Token<'a>> {
        match self.format {
            Format::Json => self.next_json(),
            Format::MessagePack => self.next_msgpack(),
        }
    }
}
