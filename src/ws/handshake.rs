//! The opening handshake (RFC 6455 section 4) on bytes in memory: tungstenite's, and what the protocol's
//! section 1 adds: subprotocol, identity headers, origin.
//!
//! The caller gathers the request's bytes and bounds them; nothing here keeps any.

use std::fmt::Write as _;

use base64::Engine;
use base64::alphabet;
use base64::engine::general_purpose::{GeneralPurpose, GeneralPurposeConfig};
use tungstenite::error::CapacityError;
use tungstenite::handshake::derive_accept_key;
use tungstenite::handshake::headers::MAX_HEADERS;
use tungstenite::handshake::machine::TryParse;
use tungstenite::handshake::server::{Request, Response, write_response};
use tungstenite::http::{HeaderMap, HeaderValue, Method, StatusCode, Version, header};

use crate::base::error::PeerFault;
use crate::base::names::{ClientId, Project};

pub use super::policy::Policy;

/// The subprotocol's name (protocol section 1).
pub const SUBPROTOCOL: &str = "queuing-streaming.v1";
/// The response header, and the request header, of the client's identity.
pub const CLIENT_ID_HEADER: &str = "client-id";
/// The request header of the project.
pub const PROJECT_HEADER: &str = "x-project-id";
const TOKEN_HEADER: &str = "x-auth-token";

/// What a client reads where our own code has failed.
const INTERNAL: &str = "internal: the response to this handshake cannot be written";

/// When a client that is refused for lack of room, or because the server stops, may come again, seconds.
const RETRY_AFTER_SECS: u32 = 5;

/// Standard base64 whose last letter may have bits that no byte needs: RFC 6455's own example of a key has some.
static LENIENT: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_allow_trailing_bits(true),
);

/// What a path leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Endpoint {
    /// The streaming protocol.
    Streaming,
    /// `/echo` under `--test-echo`.
    Echo,
}

/// A handshake that was accepted.
#[derive(Debug)]
pub struct Accepted {
    /// Bytes of the request; what follows is frames.
    pub used: usize,
    /// What the client asked for.
    pub endpoint: Endpoint,
    /// The tenant.
    pub project: Project,
    /// Who the client is.
    pub client: ClientId,
    /// Whether the client said so itself, so that its order survives a reconnect.
    pub client_is_known: bool,
}

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

impl From<PeerFault> for Refusal {
    fn from(fault: PeerFault) -> Self {
        Self::new(400, fault.to_string())
    }
}

/// Reads a request from the start of `bytes`. Once it is whole and acceptable, appends the response to `out`;
/// `None` where more bytes are needed.
pub fn accept(bytes: &[u8], policy: &Policy, out: &mut Vec<u8>) -> Result<Option<Accepted>, Refusal> {
    let parsed = Request::try_parse(bytes).map_err(|error| match error {
        tungstenite::Error::Capacity(CapacityError::TooManyHeaders) => {
            Refusal::new(431, format!("handshake: more than {MAX_HEADERS} header lines"))
        }
        error => Refusal::new(400, format!("no handshake: {error}")),
    })?;
    let Some((used, request)) = parsed else { return Ok(None) };
    let headers = request.headers();
    let path = request.uri().path();
    let endpoint = match path {
        "/echo" if policy.test_echo => Endpoint::Echo,
        _ if path == "/v2" || path.starts_with("/v2/") => {
            return Err(Refusal::new(404, "path: /v2 is not the streaming protocol's"));
        }
        _ => Endpoint::Streaming,
    };
    check_upgrade(&request)?;
    match single(headers, header::SEC_WEBSOCKET_VERSION.as_str())? {
        Some("13") => {}
        Some(other) => return Err(Refusal::new(426, format!("Sec-WebSocket-Version: {other} is not 13"))),
        None => return Err(Refusal::new(400, "no handshake: Sec-WebSocket-Version is absent")),
    }
    let key = single(headers, header::SEC_WEBSOCKET_KEY.as_str())?.unwrap_or("");
    if !LENIENT.decode(key).is_ok_and(|nonce| nonce.len() == 16) {
        return Err(Refusal::new(400, "no handshake: Sec-WebSocket-Key is not 16 bytes in base64"));
    }
    check_origin(headers, policy)?;
    let mut response = Response::new(());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers_out = response.headers_mut();
    headers_out.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
    headers_out.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
    let accept =
        HeaderValue::from_str(&derive_accept_key(key.as_bytes())).map_err(|_| Refusal::new(500, INTERNAL))?;
    headers_out.insert(header::SEC_WEBSOCKET_ACCEPT, accept);
    if endpoint == Endpoint::Streaming && offers_subprotocol(headers)? {
        headers_out.insert(header::SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(SUBPROTOCOL));
    }
    let identity = Identity::read(headers, request.uri().query().unwrap_or(""))?;
    let project = match identity.project {
        Some(name) => Project::parse(&name)?,
        None => policy.default_project.clone(),
    };
    let (client, client_is_known) = match identity.client {
        Some(id) => (ClientId::parse(&id)?, true),
        None => (ClientId::random(), false),
    };
    if !client_is_known
        && endpoint == Endpoint::Streaming
        && let Ok(value) = HeaderValue::from_str(&client.to_string())
    {
        headers_out.insert("Client-ID", value);
    }
    write_response(&mut *out, &response).map_err(|_| Refusal::new(500, INTERNAL))?;
    Ok(Some(Accepted { used, endpoint, project, client, client_is_known }))
}

/// RFC 6455 section 4.2.1, 1 to 4: a GET of HTTP/1.1 with one Host, that asks for an upgrade to WebSocket.
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
    Err(Refusal::new(400, format!("no handshake: {why}")))
}

/// Whether a list of tokens, in one header or in several (RFC 9110 section 5.6.1), holds `token`.
fn has_token(headers: &HeaderMap, name: &header::HeaderName, token: &str) -> bool {
    let values = headers.get_all(name).iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).any(|one| one.trim().eq_ignore_ascii_case(token))
}

/// The one value of a header; absent is fine, twice or empty or not ASCII is not.
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

/// A browser's origin must be the host that was asked, or one that the operator allows.
fn check_origin(headers: &HeaderMap, policy: &Policy) -> Result<(), Refusal> {
    let Some(origin) = single(headers, "origin")? else { return Ok(()) };
    let host = single(headers, "host")?.unwrap_or("");
    if policy.allowed_origins.admits(origin, host) {
        return Ok(());
    }
    let reason = format!("origin: {origin} is neither {host} nor in allowed_origins");
    Err(Refusal { origin: Some(origin.to_owned()), ..Refusal::new(403, reason) })
}

/// Whether the client offers our subprotocol. One that offers none, or an empty list, gets it unsaid.
fn offers_subprotocol(headers: &HeaderMap) -> Result<bool, Refusal> {
    let mut any = false;
    for value in headers.get_all(header::SEC_WEBSOCKET_PROTOCOL) {
        // What is no text names none of ours.
        for offered in value.to_str().unwrap_or("?").split(',').map(str::trim) {
            if offered == SUBPROTOCOL {
                return Ok(true);
            }
            any |= !offered.is_empty();
        }
    }
    if any {
        Err(Refusal::new(400, format!("Sec-WebSocket-Protocol: only {SUBPROTOCOL} is spoken")))
    } else {
        Ok(false)
    }
}

/// Who asks: from the headers, or from the query string where a browser cannot set headers.
#[derive(Debug, Default)]
struct Identity {
    project: Option<String>,
    client: Option<String>,
    token: Option<String>,
}

impl Identity {
    fn read(headers: &HeaderMap, query: &str) -> Result<Self, Refusal> {
        let mut identity = Self::default();
        for (key, value) in form_urlencoded::parse(query.as_bytes()) {
            let field = match &*key {
                "project_id" => &mut identity.project,
                "client_id" => &mut identity.client,
                "token" => &mut identity.token,
                _ => continue,
            };
            if value.is_empty() || field.is_some() {
                return Err(Refusal::new(400, format!("{key}: empty or given twice")));
            }
            *field = Some(value.into_owned());
        }
        for (name, field) in [
            (PROJECT_HEADER, &mut identity.project),
            (CLIENT_ID_HEADER, &mut identity.client),
            (TOKEN_HEADER, &mut identity.token),
        ] {
            if let Some(value) = single(headers, name)? {
                *field = Some(value.to_owned());
            }
        }
        Ok(identity)
    }
}

/// A client's side of the handshake.
#[derive(Clone, Debug)]
pub struct ClientHandshake {
    key: String,
}

/// What a client asks for.
#[derive(Clone, Debug)]
pub struct ClientRequest<'a> {
    /// The `Host` header.
    pub host: &'a str,
    /// Path and query.
    pub path: &'a str,
    /// `X-Project-Id`; the server's default where absent.
    pub project: Option<&'a Project>,
    /// `Client-ID`.
    pub client: Option<ClientId>,
}

impl ClientHandshake {
    /// Appends the request to `out`.
    pub fn start(request: &ClientRequest<'_>, out: &mut Vec<u8>) -> Self {
        let key = tungstenite::handshake::client::generate_key();
        let mut text = format!(
            "GET {} HTTP/1.1\r\nHost: {}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {key}\r\nSec-WebSocket-Protocol: {SUBPROTOCOL}\r\n",
            request.path, request.host
        );
        if let Some(project) = request.project {
            text.push_str(&format!("X-Project-Id: {project}\r\n"));
        }
        if let Some(client) = request.client {
            text.push_str(&format!("Client-ID: {client}\r\n"));
        }
        text.push_str("\r\n");
        out.extend_from_slice(text.as_bytes());
        Self { key }
    }

    /// Reads the response from the start of `bytes`: how many bytes it has, `None` where more are needed.
    pub fn handle(&self, bytes: &[u8]) -> Result<Option<usize>, Refusal> {
        let parsed = tungstenite::handshake::client::Response::try_parse(bytes)
            .map_err(|error| Refusal::new(400, format!("no WebSocket server: {error}")))?;
        let Some((used, response)) = parsed else { return Ok(None) };
        let status = response.status().as_u16();
        if status != 101 {
            let body = String::from_utf8_lossy(&bytes[used..]);
            return Err(Refusal::new(status, body.trim()));
        }
        let accepted = response.headers().get(header::SEC_WEBSOCKET_ACCEPT).map(HeaderValue::as_bytes);
        if accepted != Some(derive_accept_key(self.key.as_bytes()).as_bytes()) {
            return Err(Refusal::new(400, "no WebSocket server: wrong Sec-WebSocket-Accept"));
        }
        Ok(Some(used))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ws::origin::AllowedOrigins;

    const UUID: &str = "67e55044-10b1-426f-9247-bb680e5fe0c8";

    fn policy() -> Policy {
        Policy {
            allowed_origins: AllowedOrigins::parse("https://console.example").unwrap(),
            test_echo: true,
            ..Policy::default()
        }
    }

    fn request(path: &str, extra: &str) -> String {
        format!(
            "GET {path} HTTP/1.1\r\nHost: h:9000\r\nConnection: keep-alive, Upgrade\r\nUpgrade: WebSocket\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n{extra}\r\n"
        )
    }

    fn answer(text: &str) -> Result<(Accepted, String), u16> {
        let mut out = Vec::new();
        match accept(text.as_bytes(), &policy(), &mut out) {
            Ok(Some(accepted)) => Ok((accepted, String::from_utf8(out).unwrap())),
            Ok(None) => panic!("the request is whole"),
            Err(refusal) => Err(refusal.status),
        }
    }

    #[test]
    fn a_handshake_is_accepted_as_rfc_6455_shows_it_and_what_follows_is_left() {
        let text = request("/any/path", "") + "\u{1}\u{2}";
        let (accepted, response) = answer(&text).unwrap();
        assert_eq!(accepted.used, text.len() - 2);
        assert!(response.starts_with("HTTP/1.1 101 "), "{response}");
        assert!(response.contains("s3pPLMBiTxaQ9kYGzzhZRbK+xOo="), "{response}");
        assert!(response.to_lowercase().contains(&format!("client-id: {}", accepted.client)));
        assert!(!response.to_lowercase().contains("sec-websocket-protocol"));
        for end in 0..text.len() - 2 {
            let mut out = Vec::new();
            assert!(accept(&text.as_bytes()[..end], &policy(), &mut out).unwrap().is_none(), "{end}");
        }
    }

    #[test]
    fn identity_comes_from_headers_or_from_the_query() {
        let (accepted, response) =
            answer(&request("/", &format!("X-Project-Id: acme\r\nClient-ID: {UUID}\r\n"))).unwrap();
        assert_eq!((accepted.project.as_str(), accepted.client_is_known), ("acme", true));
        assert!(!response.to_lowercase().contains("client-id"));
        let (accepted, _) = answer(&request(&format!("/?project_id=b&client_id={UUID}"), "")).unwrap();
        assert_eq!((accepted.project.as_str(), accepted.client_is_known), ("b", true));
        let (accepted, _) = answer(&request("/?project_id=b", "X-Project-Id: header\r\n")).unwrap();
        assert_eq!(accepted.project.as_str(), "header");
        for extra in [
            "X-Project-Id: \r\n",
            "X-Project-Id: a\r\nX-Project-Id: a\r\n",
            "X-Project-Id: a/b\r\n",
            "Client-ID: 1\r\n",
            "Client-ID: \r\n",
            "X-Auth-Token: \r\n",
        ] {
            assert_eq!(answer(&request("/", extra)).err(), Some(400), "{extra}");
        }
        assert_eq!(answer(&request("/?project_id=", "")).err(), Some(400));
        assert_eq!(answer(&request("/?project_id=a&project_id=b", "")).err(), Some(400));
    }

    #[test]
    fn subprotocols_paths_versions_and_origins_are_judged() {
        let offer = |names: &str| answer(&request("/", &format!("Sec-WebSocket-Protocol: {names}\r\n")));
        for ours in [
            "other, queuing-streaming.v1",
            "queuing-streaming.v1,queuing-streaming.v1",
            "other,other, queuing-streaming.v1",
            ",queuing-streaming.v1,",
            "other\r\nSec-WebSocket-Protocol: queuing-streaming.v1",
            "\r\nSec-WebSocket-Protocol: queuing-streaming.v1",
        ] {
            assert!(offer(ours).unwrap().1.contains(SUBPROTOCOL), "{ours}");
        }
        for nothing in ["", " ", ",", " ,\t,", "\r\nSec-WebSocket-Protocol: "] {
            assert!(!offer(nothing).unwrap().1.contains(SUBPROTOCOL), "{nothing:?}");
        }
        for others in [
            "other",
            "Queuing-Streaming.v1",
            "queuing-streaming.v1.x",
            "queuing-streaming",
            ",other",
            "\u{fc}",
        ] {
            assert_eq!(offer(others).err(), Some(400), "{others}");
        }
        assert_eq!(answer(&request("/v2/queues", "")).err(), Some(404));
        assert_eq!(answer(&request("/echo", "")).unwrap().0.endpoint, Endpoint::Echo);
        assert_eq!(answer(&request("/", "").replace("Version: 13", "Version: 8")).err(), Some(426));
        assert_eq!(answer(&request("/", "").replace("Upgrade: WebSocket\r\n", "")).err(), Some(400));
        assert_eq!(answer("GET / HTTP/1.1\r\nHost: h\r\n\r\n").err(), Some(400));
        assert_eq!(answer("POST / HTTP/1.1\r\nHost: h\r\n\r\n").err(), Some(400));
        assert!(answer(&request("/", "Origin: http://H:9000\r\n")).is_ok());
        assert!(answer(&request("/", "Origin: https://console.example\r\n")).is_ok());
        assert!(answer(&request("/", "Origin: H:9000\r\n")).is_ok());
        assert_eq!(answer(&request("/", "Origin: http://evil\r\n")).err(), Some(403));
        assert_eq!(answer(&request("/", "Origin: null\r\n")).err(), Some(403));
        let text = request("/", "Origin: http://evil\r\n");
        let refusal = accept(text.as_bytes(), &policy(), &mut Vec::new()).unwrap_err();
        assert_eq!(refusal.origin.as_deref(), Some("http://evil"), "the log names it");
        assert!(refusal.reason.contains("allowed_origins"), "{}", refusal.reason);
    }

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

    #[test]
    fn a_key_is_16_bytes_whatever_bits_its_last_letter_has_left() {
        let with = |key: &str| answer(&request("/", "").replace("dGhlIHNhbXBsZSBub25jZQ==", key));
        for key in ["AQIDBAUGBwgJCgsMDQ4PEC==", "AQIDBAUGBwgJCgsMDQ4PEA==", "AAAAAAAAAAAAAAAAAAAAAB=="] {
            let accept = derive_accept_key(key.as_bytes());
            assert!(with(key).unwrap().1.contains(&accept), "of the key as it was sent: {key}");
        }
        for key in [
            "AAAA",
            "AQIDBAUGBwgJCgsMDQ4PEC",
            "AQIDBAUGBwgJCgsMDQ4PEC=",
            "AQIDBAUGBwgJCgsMDQ4PE===",
            "AQIDBAUGBwgJCgsMDQ4PECA=",
            "AQIDBAUGBwgJCgsMDQ4P_-==",
            "JCMCrKJENqcrTU9erFxGoiP5P8JhjeocERQs9vgR/Y4=",
            "b'tb4IfqY2SEcIEy0pv0opLQ=='",
        ] {
            assert_eq!(with(key).err(), Some(400), "{key}");
        }
    }

    #[test]
    fn too_many_headers_are_431() {
        // Beside those that a handshake needs.
        let with = |more: usize| answer(&request("/", &"X: y\r\n".repeat(more)));
        let has = request("/", "").matches("\r\n").count() - 2;
        assert!(with(MAX_HEADERS - has).is_ok());
        assert_eq!(with(MAX_HEADERS - has + 1).err(), Some(431));
    }

    #[test]
    fn projects_of_dots_alone_are_no_names() {
        for (name, expected) in
            [(".", Some(400)), ("..", Some(400)), ("...", None), (".a", None), ("a..b", None)]
        {
            assert_eq!(answer(&request("/", &format!("X-Project-Id: {name}\r\n"))).err(), expected, "{name}");
            assert_eq!(answer(&request(&format!("/?project_id={name}"), "")).err(), expected, "{name}");
        }
        assert_eq!(answer(&request("/?project_id=%2E%2e", "")).err(), Some(400));
    }

    #[test]
    fn the_clients_side_meets_the_servers() {
        let (mut asked, mut said) = (Vec::new(), Vec::new());
        let project = Project::parse("acme").unwrap();
        let client = ClientId::parse(UUID).unwrap();
        let request = ClientRequest {
            host: "127.0.0.1:9000",
            path: "/",
            project: Some(&project),
            client: Some(client),
        };
        let handshake = ClientHandshake::start(&request, &mut asked);
        let accepted = accept(&asked, &policy(), &mut said).unwrap().unwrap();
        assert_eq!((accepted.project, accepted.client), (project, client));
        assert_eq!(handshake.handle(&said[..said.len() - 1]), Ok(None));
        assert_eq!(handshake.handle(&said), Ok(Some(said.len())));
        let mut refused = Vec::new();
        Refusal::new(403, "no").write(&mut refused);
        assert_eq!(handshake.handle(&refused), Err(Refusal::new(403, "no")));
    }
}
