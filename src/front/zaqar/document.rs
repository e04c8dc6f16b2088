//! A checked document, and its values as slices of its bytes.

use std::borrow::Cow;

use serde_json::{Map, Value};

pub use super::kind::{DEPTH_MAX, Format, Kind, Undecodable};
use super::{json, msgpack};

/// A document that was checked as a whole.
#[derive(Clone, Copy, Debug)]
pub struct Document<'a> {
    root: Node<'a>,
}

impl<'a> Document<'a> {
    /// Checks that `bytes` are exactly one value: text is UTF-8, escapes are whole characters, and keys of maps are
    /// text or bytes. JSON follows RFC 8259, so `NaN` is none, and its numbers are within the range of a double.
    pub fn check(format: Format, bytes: &'a [u8]) -> Result<Self, Undecodable> {
        let root = match format {
            Format::Json => json::check(bytes)?,
            Format::MessagePack => msgpack::check(bytes)?,
        };
        Ok(Self { root: Node { format, raw: root } })
    }

    /// Returns the value.
    pub fn root(&self) -> Node<'a> {
        self.root
    }
}

/// A value of a checked document.
#[derive(Clone, Copy, Debug)]
pub struct Node<'a> {
    format: Format,
    raw: &'a [u8],
}

impl<'a> Node<'a> {
    /// Creates a value from the bytes of one value of a checked document.
    pub(super) fn of(format: Format, raw: &'a [u8]) -> Self {
        Self { format, raw }
    }

    /// Returns a value of a checked document again, by its bytes.
    pub(super) fn of_checked(format: Format, raw: &'a [u8]) -> Self {
        Self { format, raw }
    }

    /// Returns the format of the document.
    pub fn format(self) -> Format {
        self.format
    }

    /// Returns the bytes of the value, without blanks around it.
    pub fn raw(self) -> &'a [u8] {
        self.raw
    }

    /// Returns the kind of the value.
    pub fn kind(self) -> Kind {
        match self.format {
            Format::Json => json::kind(self.raw),
            Format::MessagePack => msgpack::head(self.raw).map_or(Kind::Null, |head| head.kind),
        }
    }

    /// Returns whether the value is null.
    pub fn is_null(self) -> bool {
        self.kind() == Kind::Null
    }

    /// Returns the value of a boolean.
    pub fn as_bool(self) -> Option<bool> {
        let is_true = self.raw.first()
            == Some(match self.format {
                Format::Json => &b't',
                Format::MessagePack => &msgpack::TRUE,
            });
        (self.kind() == Kind::Bool).then_some(is_true)
    }

    /// Returns the value of an integer. One beyond 64 bits becomes the nearest `i64`, which is out of every
    /// range. A boolean, `5.0` and `"5"` are no integers.
    pub fn as_integer(self) -> Option<i64> {
        match self.format {
            Format::Json => json::integer(self.raw),
            Format::MessagePack => msgpack::integer(self.raw).map(|value| match i64::try_from(value) {
                Ok(value) => value,
                Err(_) if value < 0 => i64::MIN,
                Err(_) => i64::MAX,
            }),
        }
    }

    /// Returns the value of a float.
    pub fn as_float(self) -> Option<f64> {
        match self.format {
            Format::Json if self.kind() == Kind::Float => std::str::from_utf8(self.raw).ok()?.parse().ok(),
            Format::Json => None,
            Format::MessagePack => msgpack::float(self.raw),
        }
    }

    /// Returns text.
    pub fn as_text(self) -> Option<Cow<'a, str>> {
        match self.format {
            Format::Json => json::text(self.raw),
            Format::MessagePack => std::str::from_utf8(msgpack::text(self.raw)?).ok().map(Cow::Borrowed),
        }
    }

    /// Returns the bytes of binary data.
    pub fn as_binary(self) -> Option<&'a [u8]> {
        (self.kind() == Kind::Binary).then(|| msgpack::data(self.raw))
    }

    /// Returns the bytes of an extension type, without its number.
    pub fn as_extension(self) -> Option<&'a [u8]> {
        (self.kind() == Kind::Extension).then(|| msgpack::data(self.raw))
    }

    /// Returns whether the value is this text.
    pub fn is_text(self, text: &str) -> bool {
        self.text_bytes().is_some_and(|bytes| *bytes == *text.as_bytes())
    }

    /// Returns the UTF-8 of text. Faster than [`Self::as_text`] for comparisons.
    #[inline]
    fn text_bytes(self) -> Option<Cow<'a, [u8]>> {
        match (self.format, self.raw) {
            (Format::Json, [b'"', inner @ .., b'"']) if !inner.contains(&b'\\') => Some(inner.into()),
            (Format::Json, raw) => json::text(raw).map(|text| text.into_owned().into_bytes().into()),
            (Format::MessagePack, raw) => msgpack::text(raw).map(Cow::Borrowed),
        }
    }

    /// Returns the keys and values of a map; nothing for another value.
    #[inline]
    pub fn entries(self) -> Entries<'a> {
        Entries(self.elements_of(Kind::Map))
    }

    /// Returns the members of a map whose keys are text.
    pub fn members(self) -> impl Iterator<Item = (Cow<'a, str>, Node<'a>)> {
        self.entries().filter_map(|(key, value)| Some((key.as_text()?, value)))
    }

    /// Returns the elements of an array; nothing for another value.
    #[inline]
    pub fn elements(self) -> Elements<'a> {
        self.elements_of(Kind::Array)
    }

    #[inline]
    fn elements_of(self, kind: Kind) -> Elements<'a> {
        let (bytes, left) = match self.format {
            Format::Json if json::kind(self.raw) == kind => (self.raw.get(1..).unwrap_or(&[]), 0),
            Format::MessagePack => match msgpack::head(self.raw) {
                Some(head) if head.kind == kind => (self.raw.get(head.bytes..).unwrap_or(&[]), head.items),
                _ => (&[][..], 0),
            },
            Format::Json => (&[][..], 0),
        };
        Elements { format: self.format, bytes, left }
    }

    /// Returns the members of a map with these names. Of members with the same name, the last counts.
    #[inline]
    pub fn named<const N: usize>(self, names: [&str; N]) -> [Option<Node<'a>>; N] {
        let mut found = [None; N];
        for (key, value) in self.entries() {
            let Some(key) = key.text_bytes() else { continue };
            if let Some(index) = names.iter().position(|name| *name.as_bytes() == *key) {
                found[index] = Some(value);
            }
        }
        found
    }

    /// Returns a map as a tree of values. `None` if it is no map, or contains what JSON cannot represent: binary data,
    /// extension types, or floats that are not finite.
    pub fn to_json_map(self) -> Option<Map<String, Value>> {
        match self.to_json_value()? {
            Value::Object(map) => Some(map),
            _ => None,
        }
    }

    /// Returns the value as a tree. `None` if it contains what JSON cannot represent, as [`Self::to_json_map`].
    pub fn to_json_value(self) -> Option<Value> {
        match self.format {
            Format::Json => serde_json::from_slice(self.raw).ok(),
            Format::MessagePack => msgpack::Tree(self.raw).value(),
        }
    }
}

/// The elements of an array, or the keys and values of a map in turn.
#[derive(Clone, Debug)]
pub struct Elements<'a> {
    format: Format,
    bytes: &'a [u8],
    /// How many follow. MessagePack only.
    left: usize,
}

impl<'a> Iterator for Elements<'a> {
    type Item = Node<'a>;

    #[inline]
    fn next(&mut self) -> Option<Node<'a>> {
        let (begin, end) = match self.format {
            Format::Json => {
                let begin = json::next_value(self.bytes)?;
                (begin, json::skip(self.bytes, begin))
            }
            Format::MessagePack => {
                self.left = self.left.checked_sub(1)?;
                (0, msgpack::skip(self.bytes)?)
            }
        };
        let raw = self.bytes.get(begin..end)?;
        self.bytes = self.bytes.get(end..)?;
        Some(Node { format: self.format, raw })
    }
}

/// The keys and values of a map.
#[derive(Clone, Debug)]
pub struct Entries<'a>(Elements<'a>);

impl<'a> Iterator for Entries<'a> {
    type Item = (Node<'a>, Node<'a>);

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        Some((self.0.next()?, self.0.next()?))
    }
}
