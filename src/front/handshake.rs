//! The server's side of a handshake: chooses the front by the path, and reads the client's identity. Between
//! [`Handshake::read`] and [`Handshake::accept`] the caller decides whether to admit the client.

use super::identity::{Credentials, Identity};
use super::policy::Policy;
use crate::base::error::PeerFault;
use crate::ws::handshake::{Refusal, UpgradeRequest, UpgradeResponse};

/// The name of the subprotocol (protocol section 1).
pub const SUBPROTOCOL: &str = "queuing-streaming.v1";

/// The front of a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Endpoint {
    /// The streaming protocol.
    Streaming,
    /// `/v2`, and what is below it: the API of Zaqar.
    Zaqar,
    /// `/echo`, if `--test-echo` is set.
    Echo,
    /// Any other path, without a subprotocol, and clients need not authenticate: the first data frame names the front.
    Undecided,
}

/// A valid handshake that has not been accepted yet.
#[derive(Debug)]
pub struct Handshake {
    /// The front that the request's path names.
    pub endpoint: Endpoint,
    /// The identity of the client.
    pub identity: Identity,
    used: usize,
    response: UpgradeResponse,
}

impl Handshake {
    /// Parses and checks a request at the start of `bytes`, or returns `None` if more bytes are needed.
    pub fn read(bytes: &[u8], policy: &Policy) -> Result<Option<Self>, Refusal> {
        let Some(request) = UpgradeRequest::parse(bytes)? else { return Ok(None) };
        let mut endpoint = Endpoint::of(request.path(), policy.test_echo);
        let mut response = request.accept(&policy.allowed_origins, endpoint.subprotocol())?;
        if endpoint == Endpoint::Streaming && !policy.reads_tokens && request.offered().next().is_none() {
            endpoint = Endpoint::Undecided;
        }
        let identity = Credentials::read(&request, policy)?.identify()?;
        if !identity.author.is_known && matches!(endpoint, Endpoint::Streaming | Endpoint::Undecided) {
            response.set_header("Client-ID", &identity.author.client.to_string());
        }
        Ok(Some(Self { endpoint, identity, used: request.used(), response }))
    }

    /// Returns the length of the request in bytes. Frames follow.
    pub fn used(&self) -> usize {
        self.used
    }

    /// Appends the response that accepts the request to `out`.
    pub fn accept(&self, out: &mut Vec<u8>) -> Result<(), Refusal> {
        self.response.write(out)
    }
}

impl Endpoint {
    /// Returns the front of a path.
    pub fn of(path: &str, test_echo: bool) -> Self {
        match path {
            "/echo" if test_echo => Self::Echo,
            _ if path == "/v2" || path.starts_with("/v2/") => Self::Zaqar,
            _ => Self::Streaming,
        }
    }

    /// Returns whether clients may authenticate on the open connection.
    pub fn admits_strangers(self) -> bool {
        self == Self::Zaqar
    }

    fn subprotocol(self) -> Option<&'static str> {
        match self {
            Self::Streaming | Self::Undecided => Some(SUBPROTOCOL),
            Self::Zaqar | Self::Echo => None,
        }
    }
}

/// Refuses an invalid name with 400.
impl From<PeerFault> for Refusal {
    fn from(fault: PeerFault) -> Self {
        Self::new(400, fault.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::names::ClientId;
    use crate::base::names::Project;
    use crate::operation::Author;
    use crate::ws::handshake::{ClientHandshake, ClientRequest};
    use crate::ws::origin::AllowedOrigins;
    use tungstenite::handshake::derive_accept_key;
    use tungstenite::handshake::headers::MAX_HEADERS;

    const UUID: &str = "67e55044-10b1-426f-9247-bb680e5fe0c8";

    fn policy() -> Policy {
        Policy {
            allowed_origins: AllowedOrigins::parse("https://console.example").unwrap(),
            test_echo: true,
            ..Policy::default()
        }
    }

    fn project(handshake: &Handshake) -> Option<&str> {
        handshake.identity.project.as_ref().map(Project::as_str)
    }

    fn request(path: &str, extra: &str) -> String {
        format!(
            "GET {path} HTTP/1.1\r\nHost: h:9000\r\nConnection: keep-alive, Upgrade\r\nUpgrade: WebSocket\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n{extra}\r\n"
        )
    }

    fn answer(text: &str) -> Result<(Handshake, String), u16> {
        let mut out = Vec::new();
        match Handshake::read(text.as_bytes(), &policy()) {
            Ok(Some(handshake)) => {
                handshake.accept(&mut out).unwrap();
                Ok((handshake, String::from_utf8(out).unwrap()))
            }
            Ok(None) => panic!("the request is whole"),
            Err(refusal) => Err(refusal.status),
        }
    }

    #[test]
    fn a_handshake_is_accepted_as_in_rfc_6455_and_following_bytes_are_left() {
        let text = request("/any/path", "") + "\u{1}\u{2}";
        let (accepted, response) = answer(&text).unwrap();
        assert_eq!(accepted.used(), text.len() - 2);
        assert!(response.starts_with("HTTP/1.1 101 "), "{response}");
        assert!(response.contains("s3pPLMBiTxaQ9kYGzzhZRbK+xOo="), "{response}");
        assert!(response.to_lowercase().contains(&format!("client-id: {}", accepted.identity.author.client)));
        assert!(!response.to_lowercase().contains("sec-websocket-protocol"));
        for end in 0..text.len() - 2 {
            assert!(Handshake::read(&text.as_bytes()[..end], &policy()).unwrap().is_none(), "{end}");
        }
    }

    #[test]
    fn identity_comes_from_headers_or_the_query() {
        let (accepted, response) =
            answer(&request("/", &format!("X-Project-Id: acme\r\nClient-ID: {UUID}\r\n"))).unwrap();
        assert_eq!((project(&accepted), accepted.identity.author.is_known), (Some("acme"), true));
        assert!(!response.to_lowercase().contains("client-id"));
        let (accepted, _) = answer(&request(&format!("/?project_id=b&client_id={UUID}"), "")).unwrap();
        assert_eq!((project(&accepted), accepted.identity.author.is_known), (Some("b"), true));
        let (accepted, _) = answer(&request("/?project_id=b", "X-Project-Id: header\r\n")).unwrap();
        assert_eq!(project(&accepted), Some("header"));
        for extra in [
            "X-Project-Id: \r\n",
            "X-Project-Id: a\r\nX-Project-Id: a\r\n",
            "X-Project-Id: a/b\r\n",
            "Client-ID: 1\r\n",
            "Client-ID: \r\n",
        ] {
            assert_eq!(answer(&request("/", extra)).err(), Some(400), "{extra}");
        }
        assert_eq!(answer(&request("/?project_id=", "")).err(), Some(400));
        assert_eq!(answer(&request("/?project_id=a&project_id=b", "")).err(), Some(400));
    }

    #[test]
    fn a_token_comes_from_a_header_an_offer_or_the_query() {
        let policy = Policy { reads_tokens: true, ..policy() };
        let ask = |policy: &Policy, path: &str, extra: &str| {
            let read = Handshake::read(request(path, extra).as_bytes(), policy);
            read.map(|handshake| handshake.unwrap().identity.token.map(|token| token.expose().to_owned()))
                .map_err(|refusal| refusal.status)
        };
        let token = |extra: &str| ask(&policy, "/", extra);
        let found = Ok(Some("secret".to_owned()));
        // base64url of "secret" is c2VjcmV0.
        let offer = |names: &str| token(&format!("Sec-WebSocket-Protocol: {names}\r\n"));
        assert_eq!(token(""), Ok(None));
        assert_eq!(token("X-Auth-Token: secret\r\n"), found);
        assert_eq!(token("Authorization: bearer  secret\r\n"), found);
        assert_eq!(token("Authorization: Basic c2VjcmV0\r\n"), Ok(None));
        assert_eq!(token("Authorization: Bearer secret\r\nX-Auth-Token: secret\r\n"), found);
        assert_eq!(token("Authorization: Bearer secret\r\nX-Auth-Token: other\r\n"), Err(400));
        assert_eq!(offer("queuing-streaming.bearer.c2VjcmV0, queuing-streaming.v1"), found);
        for bad in [
            "queuing-streaming.bearer.c2VjcmV0",
            "queuing-streaming.v1, queuing-streaming.bearer.c2VjcmV0, queuing-streaming.bearer.c2VjcmV0",
            "queuing-streaming.v1, queuing-streaming.bearer.c2VjcmV0=",
            "queuing-streaming.v1, queuing-streaming.bearer.",
            "queuing-streaming.v1, queuing-streaming.bearer._w",
        ] {
            assert_eq!(offer(bad), Err(400), "{bad}");
        }
        assert_eq!(ask(&policy, "/?token=secret", ""), Ok(None), "only with auth_query_token");
        let with_query = Policy { auth_query_token: true, ..policy.clone() };
        assert_eq!(ask(&with_query, "/?token=secret", ""), found);
        assert_eq!(ask(&with_query, "/?token=other", "X-Auth-Token: secret\r\n"), Err(400));
        assert_eq!(token("X-Auth-Token: \r\n"), Err(400));
        let off = Policy { reads_tokens: false, ..with_query };
        assert_eq!(ask(&off, "/?token=a&token=b", "X-Auth-Token: \r\n"), Ok(None));
        assert_eq!(ask(&off, "/?token=other", "X-Auth-Token: secret\r\n"), Ok(None), "ignored without auth");
    }

    #[test]
    fn the_offer_with_the_token_is_not_echoed() {
        let policy = Policy { reads_tokens: true, ..policy() };
        let offer = "Sec-WebSocket-Protocol: queuing-streaming.bearer.c2VjcmV0, queuing-streaming.v1\r\n";
        let handshake = Handshake::read(request("/", offer).as_bytes(), &policy).unwrap().unwrap();
        let mut out = Vec::new();
        handshake.accept(&mut out).unwrap();
        let said = String::from_utf8(out).unwrap();
        assert!(said.contains(SUBPROTOCOL) && !said.contains("bearer"), "{said}");
        assert!(!format!("{handshake:?}").contains("secret"));
    }

    #[test]
    fn subprotocols_paths_versions_and_origins_are_checked() {
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
        assert_eq!(answer(&request("/v2/queues", "")).unwrap().0.endpoint, Endpoint::Zaqar);
        assert_eq!(answer(&request("/v2", "")).unwrap().0.endpoint, Endpoint::Zaqar);
        assert_eq!(answer(&request("/v2x", "")).unwrap().0.endpoint, Endpoint::Undecided);
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
        let refusal = Handshake::read(text.as_bytes(), &policy()).unwrap_err();
        assert_eq!(refusal.origin.as_deref(), Some("http://evil"), "the log needs the origin");
        assert!(refusal.reason.contains("allowed_origins"), "{}", refusal.reason);
    }

    #[test]
    fn the_zaqar_path_selects_no_subprotocol() {
        for names in ["queuing-streaming.v1", "other", "queuing-streaming.v1, other"] {
            let offer = format!("Sec-WebSocket-Protocol: {names}\r\n");
            let (handshake, response) = answer(&request("/v2", &offer)).unwrap();
            assert_eq!(handshake.endpoint, Endpoint::Zaqar, "{names}");
            assert!(!response.to_lowercase().contains("sec-websocket-protocol"), "{response}");
        }
    }

    #[test]
    fn the_first_frame_decides_only_without_a_subprotocol_and_without_authentication() {
        let offer = "Sec-WebSocket-Protocol: queuing-streaming.v1\r\n";
        assert_eq!(answer(&request("/", "")).unwrap().0.endpoint, Endpoint::Undecided);
        assert_eq!(answer(&request("/", offer)).unwrap().0.endpoint, Endpoint::Streaming);
        let guarded = Policy { reads_tokens: true, ..policy() };
        let handshake = Handshake::read(request("/", "").as_bytes(), &guarded).unwrap().unwrap();
        assert_eq!(handshake.endpoint, Endpoint::Streaming);
    }

    #[test]
    fn a_key_is_16_bytes_whatever_its_trailing_bits() {
        let with = |key: &str| answer(&request("/", "").replace("dGhlIHNhbXBsZSBub25jZQ==", key));
        for key in ["AQIDBAUGBwgJCgsMDQ4PEC==", "AQIDBAUGBwgJCgsMDQ4PEA==", "AAAAAAAAAAAAAAAAAAAAAB=="] {
            let accept = derive_accept_key(key.as_bytes());
            assert!(with(key).unwrap().1.contains(&accept), "the accept value uses the key as sent: {key}");
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
        // In addition to the required headers.
        let with = |more: usize| answer(&request("/", &"X: y\r\n".repeat(more)));
        let has = request("/", "").matches("\r\n").count() - 2;
        assert!(with(MAX_HEADERS - has).is_ok());
        assert_eq!(with(MAX_HEADERS - has + 1).err(), Some(431));
    }

    #[test]
    fn one_or_two_dots_are_no_project_names() {
        for (name, expected) in
            [(".", Some(400)), ("..", Some(400)), ("...", None), (".a", None), ("a..b", None)]
        {
            assert_eq!(answer(&request("/", &format!("X-Project-Id: {name}\r\n"))).err(), expected, "{name}");
            assert_eq!(answer(&request(&format!("/?project_id={name}"), "")).err(), expected, "{name}");
        }
        assert_eq!(answer(&request("/?project_id=%2E%2e", "")).err(), Some(400));
    }

    #[test]
    fn client_and_server_complete_a_handshake() {
        let (mut asked, mut said) = (Vec::new(), Vec::new());
        let project = Project::parse("acme").unwrap();
        let client = ClientId::parse(UUID).unwrap();
        let request = ClientRequest {
            host: "127.0.0.1:9000",
            path: "/",
            subprotocol: Some(SUBPROTOCOL),
            headers: &[("X-Project-Id", project.to_string()), ("Client-ID", client.to_string())],
        };
        let handshake = ClientHandshake::start(&request, &mut asked);
        let accepted = Handshake::read(&asked, &policy()).unwrap().unwrap();
        accepted.accept(&mut said).unwrap();
        let author = Author { client, is_known: true };
        assert_eq!(accepted.identity, Identity { project: Some(project), author, token: None });
        assert_eq!(handshake.handle(&said[..said.len() - 1]), Ok(None));
        assert_eq!(handshake.handle(&said), Ok(Some(said.len())));
        let mut refused = Vec::new();
        Refusal::new(403, "no").write(&mut refused);
        assert_eq!(handshake.handle(&refused), Err(Refusal::new(403, "no")));
    }
}
