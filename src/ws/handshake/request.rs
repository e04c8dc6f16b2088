//! A client's upgrade request, and the response that accepts it.

use base64::Engine;
use base64::alphabet;
use base64::engine::general_purpose::{GeneralPurpose, GeneralPurposeConfig};
use tungstenite::error::CapacityError;
use tungstenite::handshake::derive_accept_key;
use tungstenite::handshake::headers::MAX_HEADERS;
use tungstenite::handshake::machine::TryParse;
use tungstenite::handshake::server::{Request, Response, write_response};
use tungstenite::http::{HeaderMap, HeaderValue, Method, StatusCode, Version, header};

use super::refusal::Refusal;
use crate::ws::origin::AllowedOrigins;

/// The reason that the client sees if our own code fails.
const INTERNAL: &str = "internal: the response to this handshake cannot be written";

/// Standard base64 that accepts non-zero trailing bits in the last letter: the example key in RFC 6455 has
/// some.
static LENIENT: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_allow_trailing_bits(true),
);

/// A complete request, not yet checked.
#[derive(Debug)]
pub struct UpgradeRequest {
    used: usize,
    request: Request,
}

/// The response that accepts a request (status 101).
#[derive(Debug)]
pub struct UpgradeResponse(Response);

impl UpgradeRequest {
    /// Parses a request at the start of `bytes`, or returns `None` if more bytes are needed.
    pub fn parse(bytes: &[u8]) -> Result<Option<Self>, Refusal> {
        let parsed = Request::try_parse(bytes).map_err(|error| match error {
            tungstenite::Error::Capacity(CapacityError::TooManyHeaders) => {
                Refusal::new(431, format!("handshake: more than {MAX_HEADERS} header lines"))
            }
            error => Refusal::new(400, format!("invalid handshake: {error}")),
        })?;
        Ok(parsed.map(|(used, request)| Self { used, request }))
    }

    /// Returns the length of the request in bytes. Frames follow.
    pub fn used(&self) -> usize {
        self.used
    }

    /// Returns the path.
    pub fn path(&self) -> &str {
        self.request.uri().path()
    }

    /// Returns the query string; empty if the request has none.
    pub fn query(&self) -> &str {
        self.request.uri().query().unwrap_or("")
    }

    /// Returns the value of a header, or `None` if it is absent. A header that is repeated, empty or not
    /// ASCII is an error.
    pub fn header(&self, name: &str) -> Result<Option<&str>, Refusal> {
        single(self.request.headers(), name)
    }

    /// Returns the names of the offered subprotocols. A header that is not text offers nothing of ours.
    pub fn offered(&self) -> impl Iterator<Item = &str> {
        offered(self.request.headers())
    }

    /// Checks the request and creates the response: the rules of RFC 6455, then the origin, then the offered
    /// subprotocols if `subprotocol` is set.
    pub fn accept(
        &self,
        origins: &AllowedOrigins,
        subprotocol: Option<&'static str>,
    ) -> Result<UpgradeResponse, Refusal> {
        let headers = self.request.headers();
        check_upgrade(&self.request)?;
        match single(headers, header::SEC_WEBSOCKET_VERSION.as_str())? {
            Some("13") => {}
            Some(other) => {
                return Err(Refusal::new(426, format!("Sec-WebSocket-Version: {other} is not 13")));
            }
            None => return Err(Refusal::new(400, "invalid handshake: Sec-WebSocket-Version is absent")),
        }
        let key = single(headers, header::SEC_WEBSOCKET_KEY.as_str())?.unwrap_or("");
        if !LENIENT.decode(key).is_ok_and(|nonce| nonce.len() == 16) {
            return Err(Refusal::new(400, "invalid handshake: Sec-WebSocket-Key is not 16 bytes in base64"));
        }
        check_origin(headers, origins)?;
        let accept = HeaderValue::from_str(&derive_accept_key(key.as_bytes()))
            .map_err(|_| Refusal::new(500, INTERNAL))?;
        let mut response = Response::new(());
        *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
        let headers_out = response.headers_mut();
        headers_out.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
        headers_out.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
        headers_out.insert(header::SEC_WEBSOCKET_ACCEPT, accept);
        if let Some(subprotocol) = subprotocol
            && offers(headers, subprotocol)?
        {
            headers_out.insert(header::SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(subprotocol));
        }
        Ok(UpgradeResponse(response))
    }
}

impl UpgradeResponse {
    /// Adds a header. A value that is not valid in a header is left out.
    pub fn set_header(&mut self, name: &'static str, value: &str) {
        if let Ok(value) = HeaderValue::from_str(value) {
            self.0.headers_mut().insert(name, value);
        }
    }

    /// Appends the whole response to `out`.
    pub fn write(&self, out: &mut Vec<u8>) -> Result<(), Refusal> {
        write_response(out, &self.0).map_err(|_| Refusal::new(500, INTERNAL))
    }
}

/// Checks RFC 6455 section 4.2.1, items 1 to 4: an HTTP/1.1 GET with one Host that requests an upgrade to
/// WebSocket.
fn check_upgrade(request: &Request) -> Result<(), Refusal> {
    let headers = request.headers();
    let why = if request.method() != Method::GET {
        "the method is not GET"
    } else if request.version() < Version::HTTP_11 {
        "the version is below HTTP/1.1"
    } else if single(headers, header::HOST.as_str())?.is_none() {
        "Host is absent"
    } else if !has_token(headers, &header::CONNECTION, "upgrade") {
        "Connection does not say Upgrade"
    } else if !has_token(headers, &header::UPGRADE, "websocket") {
        "Upgrade does not say websocket"
    } else {
        return Ok(());
    };
    Err(Refusal::new(400, format!("invalid handshake: {why}")))
}

/// Returns whether a list of tokens, in one header line or several (RFC 9110 section 5.6.1), contains
/// `token`.
fn has_token(headers: &HeaderMap, name: &header::HeaderName, token: &str) -> bool {
    let values = headers.get_all(name).iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).any(|one| one.trim().eq_ignore_ascii_case(token))
}

/// Returns the value of a header, or `None` if it is absent. A header that is repeated, empty or not ASCII is
/// an error.
fn single<'a>(headers: &'a HeaderMap, name: &str) -> Result<Option<&'a str>, Refusal> {
    let mut values = headers.get_all(name).iter();
    let Some(value) = values.next() else { return Ok(None) };
    if values.next().is_some() {
        return Err(Refusal::new(400, format!("{name}: given twice")));
    }
    match value.to_str() {
        Ok(value) if !value.trim().is_empty() => Ok(Some(value.trim())),
        _ => Err(Refusal::new(400, format!("{name}: empty or not plain text"))),
    }
}

/// Checks that a browser's origin is the requested host or an allowed origin.
fn check_origin(headers: &HeaderMap, allowed: &AllowedOrigins) -> Result<(), Refusal> {
    let Some(origin) = single(headers, "origin")? else { return Ok(()) };
    let host = single(headers, "host")?.unwrap_or("");
    if allowed.admits(origin, host) {
        return Ok(());
    }
    let reason = format!("origin: {origin} is neither {host} nor in allowed_origins");
    Err(Refusal { origin: Some(origin.to_owned()), ..Refusal::new(403, reason) })
}

/// Returns whether the client offers the subprotocol. A client that offers none, or an empty list, is
/// accepted; the response then names no subprotocol.
fn offers(headers: &HeaderMap, subprotocol: &str) -> Result<bool, Refusal> {
    let mut any = false;
    for name in offered(headers) {
        if name == subprotocol {
            return Ok(true);
        }
        any = true;
    }
    if any {
        Err(Refusal::new(400, format!("Sec-WebSocket-Protocol: only {subprotocol} is supported")))
    } else {
        Ok(false)
    }
}

/// Returns the names of the offered subprotocols, without empty ones.
fn offered(headers: &HeaderMap) -> impl Iterator<Item = &str> {
    // No subprotocol of ours contains bytes that are not text.
    let values =
        headers.get_all(header::SEC_WEBSOCKET_PROTOCOL).iter().map(|value| value.to_str().unwrap_or("?"));
    values.flat_map(|value| value.split(',')).map(str::trim).filter(|name| !name.is_empty())
}
