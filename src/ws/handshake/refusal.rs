//! The response that refuses a handshake.

use std::fmt::Write as _;

/// Seconds until a client may retry after 429 (too many requests) or 503 (overloaded or shutting down).
const RETRY_AFTER_SECS: u32 = 5;

/// An HTTP response that refuses a handshake. The connection ends after it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The HTTP status code.
    pub status: u16,
    /// The text of the body.
    pub reason: String,
    /// The origin, if it is the reason for the refusal.
    pub origin: Option<String>,
    /// Seconds until a retry makes sense, as a server's response says it. Not written: [`Self::write`] has its own.
    pub retry_after: Option<u32>,
}

impl Refusal {
    /// Creates a refusal without an origin.
    pub fn new(status: u16, reason: impl Into<String>) -> Self {
        Self { status, reason: reason.into(), origin: None, retry_after: None }
    }

    /// Appends the whole response to `out`.
    pub fn write(&self, out: &mut Vec<u8>) {
        let name = tungstenite::http::StatusCode::from_u16(self.status)
            .ok()
            .and_then(|status| status.canonical_reason())
            .unwrap_or("Refused");
        let more = match self.status {
            // Required by RFC 9110 section 15.5.2.
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
    fn a_refusal_has_the_headers_of_its_status() {
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
