//! The formats, the kinds of values, and why bytes are no document.

use std::fmt;

/// How many arrays and maps may contain each other, in both formats. serde_json reads as many.
pub const DEPTH_MAX: usize = 127;

/// The format of a document.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// JSON, in text messages.
    Json,
    /// MessagePack, in binary messages.
    MessagePack,
}

/// The kind of a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Null.
    Null,
    /// True or false.
    Bool,
    /// A number without fraction and exponent, of any size.
    Integer,
    /// Any other number.
    Float,
    /// Text.
    Text,
    /// Bytes. MessagePack only.
    Binary,
    /// An array.
    Array,
    /// A map.
    Map,
    /// An extension type. MessagePack only.
    Extension,
}

/// Why bytes are not a document.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Undecodable {
    /// What is wrong.
    pub why: &'static str,
    /// The offset in the document.
    pub at: usize,
}

impl fmt::Display for Undecodable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "at byte {}: {}", self.at, self.why)
    }
}
