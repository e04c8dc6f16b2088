//! How bodies of messages are stored, so that clients of every protocol can read them.
//!
//! A body is stored as JSON text, with the header `content-type: application/json`. JSON cannot represent bytes, which
//! MessagePack can: they are stored as `{"base64": …}`, and the header [`BINARY`] says so, with a list of the maps
//! that only look like that (`zaqar::binary`).
//!
//! A message without this header, or with it but without JSON, is bytes.

use std::fmt;

pub use super::binary::BINARY;
use super::binary::{BASE64_KEY, Genuine, find_genuine};
use super::document::{Document, Format, Kind, Node};
use super::tokens::{Token, Tokens};
use super::writer::{Binary, Writer};
use crate::pb::headers::{HeaderRef, HeadersReader, put_header};

const CONTENT_TYPE: &str = "content-type";
const JSON: &str = "application/json";

/// Why a body cannot be stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BodyFault {
    /// It contains an extension type.
    Extension,
    /// It contains a map with a key that is bytes.
    BinaryKey,
    /// It contains a float that is not finite.
    NotFinite,
    /// Its headers would be longer than allowed, because it contains both bytes and many maps that look like
    /// the stored form of bytes.
    LongHeaders {
        /// The length of the headers.
        bytes: usize,
        /// The limit, `max_headers_bytes`.
        max: usize,
    },
}

impl fmt::Display for BodyFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Extension => f.write_str("body: a MessagePack extension type cannot be stored"),
            Self::BinaryKey => f.write_str("body: keys of maps must be text, not bytes"),
            Self::NotFinite => f.write_str("body: a number that is not finite cannot be stored"),
            Self::LongHeaders { bytes, max } => write!(
                f,
                "body: it contains bytes and many maps with the only key \"base64\": its headers of {bytes} bytes are \
                 more than max_headers_bytes = {max}"
            ),
        }
    }
}

/// Appends the stored form of a body: JSON text to `payload`, and encoded headers to `headers`. After a fault, both
/// are as before.
pub fn store(
    body: Node<'_>,
    headers_max: usize,
    payload: &mut Vec<u8>,
    headers: &mut Vec<u8>,
) -> Result<(), BodyFault> {
    let begin = headers.len();
    let genuine = match body.format() {
        Format::Json => None,
        Format::MessagePack => {
            check_representable(body)?;
            find_genuine(body)
        }
    };
    put_header(HeaderRef { name: CONTENT_TYPE, value: Some(JSON.as_bytes()) }, headers);
    if let Some(genuine) = &genuine {
        put_header(HeaderRef { name: BINARY, value: Some(genuine) }, headers);
    }
    let bytes = headers.len() - begin;
    if bytes > headers_max {
        headers.truncate(begin);
        return Err(BodyFault::LongHeaders { bytes, max: headers_max });
    }
    match body.format() {
        Format::Json => payload.extend_from_slice(body.raw()),
        Format::MessagePack => {
            Writer::new(Format::Json, payload).rendered(body, Binary::Base64);
        }
    }
    Ok(())
}

/// Checks that a MessagePack value can be stored as JSON.
fn check_representable(body: Node<'_>) -> Result<(), BodyFault> {
    for token in Tokens::new(body) {
        match token {
            Token::Key(key) if key.kind() == Kind::Binary => return Err(BodyFault::BinaryKey),
            Token::Value(value) => match value.kind() {
                Kind::Extension => return Err(BodyFault::Extension),
                Kind::Float if !value.as_float().is_some_and(f64::is_finite) => {
                    return Err(BodyFault::NotFinite);
                }
                _ => {}
            },
            _ => {}
        }
    }
    Ok(())
}

/// Writes the body of a message that is stored as `payload` with encoded `headers`. A body that [`store`] has stored
/// comes back as it was posted, except that a JSON reader gets bytes as by [`Writer::binary`].
pub fn write(payload: &[u8], headers: &[u8], writer: &mut Writer<'_>) {
    let stored = Stored::read(headers);
    let document = if stored.is_json { Document::check(Format::Json, payload).ok() } else { None };
    match (document, writer.format()) {
        (None, _) => writer.binary(payload),
        (Some(document), Format::MessagePack) => writer.transcoded(document.root(), stored.genuine),
        (Some(document), Format::Json) => match stored.genuine {
            None => writer.node(document.root()),
            Some(genuine) => write_with_text(document.root(), genuine, writer),
        },
    }
}

/// Writes a JSON value with the text of the bytes that are UTF-8.
fn write_with_text(node: Node<'_>, mut genuine: Genuine<'_>, writer: &mut Writer<'_>) {
    let mut tokens = Tokens::new(node);
    while let Some(token) = tokens.next() {
        match token {
            Token::Map => {
                if let Some((text, behind)) = tokens.only_text(BASE64_KEY)
                    && let Some(bytes) = genuine.bytes_of(text)
                {
                    writer.binary(&bytes);
                    tokens = behind;
                } else {
                    writer.open_map(0);
                }
            }
            Token::Array => writer.open_array(0),
            Token::End { is_map } => writer.close(if is_map { b'}' } else { b']' }),
            Token::Key(key) => writer.spliced_key(key.raw()),
            Token::Value(value) => writer.spliced(value.raw()),
        }
    }
}

/// What the headers of a message say about its payload.
#[derive(Debug, Default)]
struct Stored<'a> {
    is_json: bool,
    genuine: Option<Genuine<'a>>,
}

impl<'a> Stored<'a> {
    fn read(headers: &'a [u8]) -> Self {
        let mut stored = Self::default();
        for header in HeadersReader::new(headers).flatten() {
            match header.name {
                BINARY => stored.genuine = Some(Genuine::new(header.value.unwrap_or(&[]))),
                name if name.eq_ignore_ascii_case(CONTENT_TYPE) => {
                    stored.is_json = header.value.is_some_and(is_json);
                }
                _ => {}
            }
        }
        stored
    }
}

/// Returns whether a media type is JSON, with any parameters.
fn is_json(media_type: &[u8]) -> bool {
    let essence = media_type.split(|byte| *byte == b';').next().unwrap_or(&[]);
    essence.trim_ascii().eq_ignore_ascii_case(JSON.as_bytes())
}
