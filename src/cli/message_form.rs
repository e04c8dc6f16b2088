//! How `consume` and `claim` print a message.

use std::io::{self, IsTerminal, Write};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::output::write_json;
use crate::control::HeaderLine;
use crate::pb::ReceivedMessage;
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
    headers: Vec<HeaderLine>,
    payload: String,
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
                    headers: HeaderLine::all(message.headers),
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
