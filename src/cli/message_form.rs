//! How `consume` and `claim` print a message.

use std::io::{self, IsTerminal, Write};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::output::write_json;
use crate::pb::ReceivedMessage;
use crate::pb::headers::{HeaderRef, HeadersReader};
use crate::process::terminal::write_escaped;

/// How messages are printed to standard output.
#[derive(Clone, Copy, Debug)]
pub(super) enum MessageForm {
    /// The payload and a newline.
    Plain,
    /// The same, with control characters escaped, because standard output is a terminal.
    Escaped,
    /// A line of JSON.
    Json,
}

#[derive(serde::Serialize)]
struct Line<'a> {
    id: &'a str,
    age: u32,
    ttl: u32,
    timestamp: Option<i64>,
    /// How often the message was claimed.
    #[serde(skip_serializing_if = "Option::is_none")]
    count: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    key: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    headers: Vec<ShownHeader<'a>>,
    payload: String,
}

/// A header as JSON. A null has neither value.
#[derive(serde::Serialize)]
pub(super) struct ShownHeader<'a> {
    name: &'a str,
    /// The value, if it is UTF-8.
    #[serde(skip_serializing_if = "Option::is_none")]
    value: Option<&'a str>,
    /// The value in base64, if it is not.
    #[serde(skip_serializing_if = "Option::is_none")]
    value_base64: Option<String>,
}

impl<'a> ShownHeader<'a> {
    /// Returns the headers of a message, up to the first that cannot be decoded.
    pub(super) fn all(headers: &'a [u8]) -> Vec<Self> {
        let shown = |HeaderRef { name, value }| match value.map(|value| (value, str::from_utf8(value))) {
            None => Self { name, value: None, value_base64: None },
            Some((_, Ok(text))) => Self { name, value: Some(text), value_base64: None },
            Some((bytes, Err(_))) => Self { name, value: None, value_base64: Some(STANDARD.encode(bytes)) },
        };
        HeadersReader::new(headers).map_while(Result::ok).map(shown).collect()
    }
}

impl MessageForm {
    /// Returns the form that `--json` and `--raw` ask for.
    pub(super) fn new(json: bool, raw: bool) -> Self {
        match (json, raw) {
            (true, _) => Self::Json,
            (false, true) => Self::Plain,
            (false, false) if io::stdout().is_terminal() => Self::Escaped,
            (false, false) => Self::Plain,
        }
    }

    /// Writes a message.
    pub(super) fn write(self, message: &ReceivedMessage<'_>, out: &mut impl Write) -> io::Result<()> {
        let payload = message.payload.unwrap_or_default();
        match self {
            Self::Json => {
                let line = Line {
                    id: message.id,
                    age: message.age,
                    ttl: message.ttl,
                    timestamp: message.timestamp_ms,
                    count: Some(message.claim_count).filter(|count| *count > 0),
                    key: message.key.map(|key| STANDARD.encode(key)),
                    headers: ShownHeader::all(message.headers),
                    payload: STANDARD.encode(payload),
                };
                return write_json(out, &line);
            }
            Self::Escaped => write_escaped(payload, out)?,
            Self::Plain => out.write_all(payload)?,
        }
        out.write_all(b"\n")
    }
}
