//! The client's side of the opening handshake.

use tungstenite::handshake::derive_accept_key;
use tungstenite::handshake::machine::TryParse;
use tungstenite::http::{HeaderValue, header};

use super::refusal::Refusal;

/// A handshake that waits for the server's response.
#[derive(Clone, Debug)]
pub struct ClientHandshake {
    key: String,
}

/// The contents of a client's request.
#[derive(Clone, Debug)]
pub struct ClientRequest<'a> {
    /// The value of the `Host` header.
    pub host: &'a str,
    /// The path and the query.
    pub path: &'a str,
    /// The subprotocol to offer, if any.
    pub subprotocol: Option<&'a str>,
    /// Additional headers, as name and value.
    pub headers: &'a [(&'static str, String)],
}

impl ClientHandshake {
    /// Appends the request to `out`.
    pub fn start(request: &ClientRequest<'_>, out: &mut Vec<u8>) -> Self {
        let key = tungstenite::handshake::client::generate_key();
        let mut text = format!(
            "GET {} HTTP/1.1\r\nHost: {}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {key}\r\n",
            request.path, request.host
        );
        if let Some(subprotocol) = request.subprotocol {
            text.push_str(&format!("Sec-WebSocket-Protocol: {subprotocol}\r\n"));
        }
        for (name, value) in request.headers {
            text.push_str(&format!("{name}: {value}\r\n"));
        }
        text.push_str("\r\n");
        out.extend_from_slice(text.as_bytes());
        Self { key }
    }

    /// Parses the response at the start of `bytes` and returns its length, or `None` if more bytes are
    /// needed.
    pub fn handle(&self, bytes: &[u8]) -> Result<Option<usize>, Refusal> {
        let parsed = tungstenite::handshake::client::Response::try_parse(bytes)
            .map_err(|error| Refusal::new(400, format!("not a WebSocket server: {error}")))?;
        let Some((used, response)) = parsed else { return Ok(None) };
        let status = response.status().as_u16();
        if status != 101 {
            let body = String::from_utf8_lossy(&bytes[used..]);
            let retry_after = response.headers().get(header::RETRY_AFTER);
            // The other form, a date, would need the clocks of both sides to agree.
            let retry_after = retry_after.and_then(|value| value.to_str().ok()?.trim().parse().ok());
            return Err(Refusal { retry_after, ..Refusal::new(status, body.trim()) });
        }
        let accepted = response.headers().get(header::SEC_WEBSOCKET_ACCEPT).map(HeaderValue::as_bytes);
        if accepted != Some(derive_accept_key(self.key.as_bytes()).as_bytes()) {
            return Err(Refusal::new(400, "not a WebSocket server: wrong Sec-WebSocket-Accept"));
        }
        Ok(Some(used))
    }
}
