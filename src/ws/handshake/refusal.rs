//! The response that refuses a handshake.

use std::fmt::Write as _;

/// When a client that is refused for lack of room, or because the server stops, may come again, seconds.
const RETRY_AFTER_SECS: u32 = 5;

/// A request that is refused: an HTTP response, after which the connection ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// HTTP status code.
    pub status: u16,
    /// Said in the body.
    pub reason: String,
    /// The origin that is refused, where that is why.
    pub origin: Option<String>,
}

impl Refusal {
    /// A refusal with its reason.
    pub fn new(status: u16, reason: impl Into<String>) -> Self {
        Self { status, reason: reason.into(), origin: None }
    }

    /// Appends the whole response.
    pub fn write(&self, out: &mut Vec<u8>) {
        let name = tungstenite::http::StatusCode::from_u16(self.status)
            .ok()
            .and_then(|status| status.canonical_reason())
            .unwrap_or("Refused");
        let more = match self.status {
            // RFC 9110, section 15.5.2, asks for it.
            401 => "WWW-Authenticate: Bearer\r\n".to_owned(),
            426 => "Sec-WebSocket-Version: 13\r\n".to_owned(),
            429 | 503 => format!("Retry-After: {RETRY_AFTER_SECS}\r\n"),
            _ => String::new(),
        };
        let mut text = String::new();
        // Writing to a String cannot fail.
        let _ = write!(
            text,
            "HTTP/1.1 {} {name}\r\n{more}Content-Type: text/plain; charset=utf-8\r\nContent-Length: {}\r\n\
             Connection: close\r\n\r\n{}\n",
            self.status,
            self.reason.len() + 1,
            self.reason
        );
        out.extend_from_slice(text.as_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_says_what_its_status_asks_for() {
        for (status, header) in [
            (401, Some("WWW-Authenticate: Bearer\r\n")),
            (426, Some("Sec-WebSocket-Version: 13\r\n")),
            (429, Some("Retry-After: 5\r\n")),
            (503, Some("Retry-After: 5\r\n")),
            (400, None),
            (403, None),
        ] {
            let mut out = Vec::new();
            Refusal::new(status, "no").write(&mut out);
            let text = String::from_utf8(out).unwrap();
            for one in ["WWW-Authenticate: Bearer\r\n", "Sec-WebSocket-Version: 13\r\n", "Retry-After: 5\r\n"]
            {
                assert_eq!(text.contains(one), header == Some(one), "{text}");
            }
            assert!(text.ends_with("\r\n\r\nno\n"), "{text}");
        }
    }
}
