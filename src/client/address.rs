//! The address of a server: a parsed URL. Its host name is resolved at each connection.
//!
//! A Unix socket has no standard URL. `ws+unix:` and its path, then `:` and the path of the request if there is
//! one, is the form of the JavaScript library `ws`. A control port at a Unix socket is `unix:` and its path, as in the
//! setting `control_listen`.

use std::path::{Path, PathBuf};

use url::{Host, Position, Url};

use super::error::ClientError;

/// The protocol of an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scheme {
    /// WebSocket, over TCP (`ws`) or TLS (`wss`).
    Ws,
    /// HTTP, for a control port, over TCP (`http`) or TLS (`https`).
    Http,
}

impl Scheme {
    fn name(self) -> &'static str {
        match self {
            Self::Ws => "ws",
            Self::Http => "http",
        }
    }

    /// Returns the name of the same protocol over TLS.
    fn secure_name(self) -> &'static str {
        match self {
            Self::Ws => "wss",
            Self::Http => "https",
        }
    }

    /// Describes the addresses of this protocol.
    fn description(self) -> &'static str {
        match self {
            Self::Ws => "a ws:// or wss:// address",
            Self::Http => "an http:// or https:// address, nor unix:/PATH",
        }
    }
}

/// The scheme of a WebSocket server at a Unix socket.
const UNIX_SCHEME: &str = "ws+unix:";

/// The scheme of a control port at a Unix socket.
const UNIX_CONTROL: &str = "unix:";

/// The host in requests over a Unix socket.
const UNIX_AUTHORITY: &str = "localhost";

/// Where a server listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Endpoint {
    /// At a TCP port of a host.
    Tcp {
        /// The host.
        host: Host<String>,
        /// The port.
        port: u16,
    },
    /// At a Unix socket with this path.
    Unix(PathBuf),
}

/// The address of a server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Address {
    scheme: Scheme,
    is_secure: bool,
    endpoint: Endpoint,
    authority: String,
    path: String,
}

impl Address {
    /// Parses a URL. The error says which part is invalid, and shows no secret.
    pub fn parse(text: &str, scheme: Scheme) -> Result<Self, ClientError> {
        let bad = |why: &str| ClientError::Address(format!("{}: {why}", without_secret(text)));
        let trimmed = text.trim();
        if trimmed.get(..UNIX_SCHEME.len()).is_some_and(|start| start.eq_ignore_ascii_case(UNIX_SCHEME)) {
            if scheme != Scheme::Ws {
                return Err(bad(&format!("not a {}:// address", scheme.name())));
            }
            return Self::parse_unix(&trimmed[UNIX_SCHEME.len()..]).map_err(bad);
        }
        if scheme == Scheme::Http
            && let Some(path) = trimmed.strip_prefix(UNIX_CONTROL)
        {
            return Self::parse_unix_control(path).map_err(bad);
        }
        let (name, secure) = (scheme.name(), scheme.secure_name());
        let url = Url::parse(text).map_err(|error| {
            bad(&format!("{error}; write {name}://HOST:PORT/, an IPv6 address in brackets"))
        })?;
        let is_secure = url.scheme() == secure;
        // The URL parser treats `ws:host` and `ws:///host` like `ws://host`, so check the text.
        let rest = text.trim().get(url.scheme().len()..).and_then(|rest| rest.strip_prefix("://"));
        let (true, Some(rest)) = (is_secure || url.scheme() == name, rest) else {
            return Err(bad(&format!("not {}", scheme.description())));
        };
        let Some(host) = url.host().filter(|_| !rest.starts_with(['/', '\\'])) else {
            return Err(bad("the host is missing"));
        };
        if !url.username().is_empty() || url.password().is_some() {
            return Err(bad("a user name and password before the @ are not supported: remove them"));
        }
        if url.fragment().is_some() {
            return Err(bad("a fragment (#) is not sent to servers: remove it, or write %23"));
        }
        if has_token(&url) {
            return Err(bad(TOKEN_SHOWN));
        }
        if scheme == Scheme::Http && url.query().is_some() {
            return Err(bad("the address of a control port cannot have a query (?)"));
        }
        let port = match url.port_or_known_default() {
            Some(port) if port > 0 => port,
            _ => return Err(bad("port 0 is not valid")),
        };
        let authority = match url.port() {
            Some(port) => format!("{host}:{port}"),
            None => host.to_string(),
        };
        let path = url[Position::BeforePath..Position::AfterQuery].to_owned();
        let endpoint = Endpoint::Tcp { host: host.to_owned(), port };
        Ok(Self { scheme, is_secure, endpoint, authority, path })
    }

    /// Parses what follows `ws+unix:`.
    fn parse_unix(text: &str) -> Result<Self, &'static str> {
        // Some write `ws+unix:///run/a.sock`, with an empty host.
        let text = text.strip_prefix("//").unwrap_or(text);
        if !text.starts_with('/') {
            return Err(
                "write ws+unix:/PATH with the absolute path of the socket, and :/PATH behind it for a path of the request",
            );
        }
        let (socket, request) = text.split_once(':').unwrap_or((text, "/"));
        if socket.contains(['?', '#']) {
            return Err("write :/ between the path of the socket and a query");
        }
        // A URL parser checks and encodes the path of the request.
        let url = Url::parse(&format!("ws://{UNIX_AUTHORITY}{request}"));
        let Some(url) = url.ok().filter(|_| request.starts_with('/')) else {
            return Err("the path of the request behind the path of the socket must begin with /");
        };
        if url.fragment().is_some() {
            return Err("a fragment (#) is not sent to servers: remove it, or write %23");
        }
        if has_token(&url) {
            return Err(TOKEN_SHOWN);
        }
        Ok(Self {
            scheme: Scheme::Ws,
            is_secure: false,
            endpoint: Endpoint::Unix(Path::new(socket).to_owned()),
            authority: UNIX_AUTHORITY.into(),
            path: url[Position::BeforePath..Position::AfterQuery].to_owned(),
        })
    }

    /// Parses what follows `unix:`.
    fn parse_unix_control(path: &str) -> Result<Self, &'static str> {
        if path.is_empty() {
            return Err("write unix:/PATH with the path of the socket");
        }
        Ok(Self::at_control_socket(Path::new(path)))
    }

    /// Returns the address of a control port at a Unix socket.
    pub fn at_control_socket(path: &Path) -> Self {
        Self {
            scheme: Scheme::Http,
            is_secure: false,
            endpoint: Endpoint::Unix(path.to_owned()),
            authority: UNIX_AUTHORITY.into(),
            path: "/".into(),
        }
    }

    /// Returns whether connections use TLS.
    pub fn is_secure(&self) -> bool {
        self.is_secure
    }

    /// Returns whether connections stay on this machine.
    pub fn is_local(&self) -> bool {
        match &self.endpoint {
            Endpoint::Unix(_) => true,
            Endpoint::Tcp { host: Host::Ipv4(ip), .. } => ip.is_loopback(),
            Endpoint::Tcp { host: Host::Ipv6(ip), .. } => ip.is_loopback(),
            // RFC 6761 reserves this name, and no other that people use.
            Endpoint::Tcp { host: Host::Domain(name), .. } => name == "localhost",
        }
    }

    /// Returns where the server listens.
    pub fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    /// Returns host and port for the `Host` header: without the port if it is the scheme's default.
    pub fn authority(&self) -> &str {
        &self.authority
    }

    /// Returns path and query. The path is at least `/`.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// Returns the URL of a control port without trailing slashes, so that a path can be appended. That of a Unix
    /// socket names a host in its place.
    pub fn base(&self) -> String {
        let name = if self.is_secure { self.scheme.secure_name() } else { self.scheme.name() };
        format!("{name}://{}{}", self.authority, self.path.trim_end_matches('/'))
    }
}

/// Why an address must not contain a token.
const TOKEN_SHOWN: &str =
    "other users can see a token in an address: use --token-file, --token-command or MILLSTREAM_TOKEN";

/// The query parameter that carries a token (protocol section 1).
const TOKEN_PARAMETER: &str = "token";

/// Masks secrets in a text that may be a URL: the user name and password before an `@`, and a token in the
/// query. Malformed URLs are masked, too.
pub fn without_secret(text: &str) -> String {
    let shown = match text.rsplit_once('@') {
        Some((before, host)) => format!("{}…@{host}", shown_scheme(before)),
        None => text.to_owned(),
    };
    let Some(query) = shown.find(['?', '#']) else { return shown };
    let (path, query) = shown.split_at(query);
    let mut out = path.to_owned();
    for parameter in query.split_inclusive(['?', '#', '&', ';']) {
        let content = parameter.trim_end_matches(['?', '#', '&', ';']);
        if is_token(content) {
            out.push_str(TOKEN_PARAMETER);
            out.push_str("=…");
            out.push_str(&parameter[content.len()..]);
        } else {
            out.push_str(parameter);
        }
    }
    out
}

/// Returns the part before an `@` that cannot be secret: `ws://`, possibly after the name of an option.
fn shown_scheme(before: &str) -> &str {
    let is_of_name = |byte: u8| byte.is_ascii_alphanumeric() || b"+-.=_".contains(&byte);
    match before.find("://") {
        Some(at) if before.as_bytes()[..at].iter().all(|byte| is_of_name(*byte)) => &before[..at + 3],
        _ => "",
    }
}

/// Returns whether the query of a URL has a token.
fn has_token(url: &Url) -> bool {
    url.query().is_some_and(|query| query.split('&').any(is_token))
}

/// Returns whether a parameter is the token, in any spelling of its name.
fn is_token(parameter: &str) -> bool {
    // URL parsers ignore these characters.
    let parameter: String = parameter.chars().filter(|char| !matches!(char, '\t' | '\r' | '\n')).collect();
    let Some((name, _)) = form_urlencoded::parse(parameter.as_bytes()).next() else { return false };
    let name = name.split('=').next().unwrap_or_default().trim();
    name.eq_ignore_ascii_case(TOKEN_PARAMETER)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> (String, u16, String, String) {
        let address = Address::parse(text, Scheme::Ws).unwrap_or_else(|error| panic!("{error}"));
        let Endpoint::Tcp { host, port } = address.endpoint else { panic!("{text}") };
        (host.to_string(), port, address.authority, address.path)
    }

    fn of(host: &str, port: u16, authority: &str, path: &str) -> (String, u16, String, String) {
        (host.into(), port, authority.into(), path.into())
    }

    #[test]
    fn addresses_are_read_as_people_write_them() {
        let here = |path| of("127.0.0.1", 9000, "127.0.0.1:9000", path);
        assert_eq!(read("ws://127.0.0.1:9000"), here("/"));
        assert_eq!(read("WS://127.0.0.1:9000/"), here("/"));
        assert_eq!(read("ws://127.0.0.1:9000?project_id=acme"), here("/?project_id=acme"));
        assert_eq!(read("ws://127.0.0.1:9000/a/b?x=%20y"), here("/a/b?x=%20y"));
        assert_eq!(read("ws://Queue.Example"), of("queue.example", 80, "queue.example", "/"));
        assert_eq!(read("ws://queue.example:80/"), of("queue.example", 80, "queue.example", "/"));
        assert_eq!(read("ws://my_service:9000"), of("my_service", 9000, "my_service:9000", "/"));
        assert_eq!(read("ws://[::1]:9000/q"), of("[::1]", 9000, "[::1]:9000", "/q"));
        assert_eq!(read("ws://[2001:DB8::1]"), of("[2001:db8::1]", 80, "[2001:db8::1]", "/"));
    }

    #[test]
    fn addresses_over_tls_have_their_own_default_port() {
        assert_eq!(read("wss://Queue.Example"), of("queue.example", 443, "queue.example", "/"));
        assert_eq!(read("WSS://queue.example:443/q"), of("queue.example", 443, "queue.example", "/q"));
        assert_eq!(read("wss://[::1]:9443"), of("[::1]", 9443, "[::1]:9443", "/"));
        let is_secure = |text| Address::parse(text, Scheme::Ws).unwrap().is_secure();
        assert!(is_secure("wss://h") && is_secure(" WSS://h") && !is_secure("ws://h"));
    }

    #[test]
    fn unsupported_addresses_are_refused_with_a_reason_and_without_secrets() {
        let cases = [
            ("https://h/", "wss://"),
            ("wss:h:9000", "wss://"),
            ("wss:///h", "host is missing"),
            ("wss://h:0", "port 0"),
            ("http://h:9000/", "ws://"),
            ("127.0.0.1:9000", "ws://"),
            ("localhost:9000", "ws://"),
            ("ws:h:9000", "ws://"),
            ("ws:///h", "host is missing"),
            ("ws://", "ws://HOST:PORT/"),
            ("ws://::1:9000/", "brackets"),
            ("ws://h:65536/", "port"),
            ("ws://h:0/", "port 0"),
            ("ws://h/#there", "fragment"),
            ("ws://me:hidden@h/", "@"),
            ("ws:me:hidden@h", "…@h"),
            ("me:hidden@h:9000", "…@h:9000"),
            ("ws://h/?x=1&token=hidden", "--token-file"),
            ("https://h/?token=hidden&x=1", "token=…&x=1"),
            ("https://h/?%74oken=hidden&x=1", "token=…&x=1"),
            ("h:9000?token=hidden", "token=…"),
        ];
        for (text, words) in cases {
            let why = Address::parse(text, Scheme::Ws).unwrap_err().to_string();
            assert!(why.contains(words), "{text}: {why}");
            assert!(!why.contains("hidden"), "{why}");
        }
    }

    #[test]
    fn only_loopback_addresses_and_unix_sockets_are_local() {
        let is_local = |text| Address::parse(text, Scheme::Ws).unwrap().is_local();
        for text in
            ["ws://127.0.0.1", "ws://127.8.8.8:1", "ws://[::1]/", "ws://LOCALHOST/", "ws+unix:/run/a.sock"]
        {
            assert!(is_local(text), "{text}");
        }
        for text in
            ["ws://10.0.0.1", "ws://0.0.0.0", "ws://[::]", "ws://localhost.example", "ws://127.0.0.1.nip.io"]
        {
            assert!(!is_local(text), "{text}");
        }
    }

    #[test]
    fn unix_sockets_have_a_path_and_the_request_another() {
        for (text, socket, path) in [
            ("ws+unix:/run/millstream.sock", "/run/millstream.sock", "/"),
            ("WS+UNIX:/run/a b.sock:/", "/run/a b.sock", "/"),
            ("ws+unix:///run/a.sock", "/run/a.sock", "/"),
            ("ws+unix:/run/a.sock:/b/c?project_id=acme", "/run/a.sock", "/b/c?project_id=acme"),
        ] {
            let address = Address::parse(text, Scheme::Ws).unwrap_or_else(|error| panic!("{error}"));
            assert_eq!(address.endpoint, Endpoint::Unix(socket.into()), "{text}");
            assert_eq!((address.authority(), address.path()), ("localhost", path), "{text}");
        }
        for (text, scheme, words) in [
            ("ws+unix:", Scheme::Ws, "absolute path"),
            ("ws+unix:run/a.sock", Scheme::Ws, "absolute path"),
            ("ws+unix:/run/a.sock?project_id=acme", Scheme::Ws, "write :/ between"),
            ("ws+unix:/run/a.sock?token=hidden", Scheme::Ws, "token=…"),
            ("ws+unix:/run/a.sock:/?token=hidden", Scheme::Ws, "--token-file"),
            ("ws+unix:/run/a.sock:b", Scheme::Ws, "begin with /"),
            ("ws+unix:/run/a.sock:/b#c", Scheme::Ws, "fragment"),
            ("ws+unix:/run/a.sock", Scheme::Http, "not a http:// address"),
        ] {
            let why = Address::parse(text, scheme).unwrap_err().to_string();
            assert!(why.contains(words) && !why.contains("hidden"), "{text}: {why}");
        }
    }

    #[test]
    fn the_address_of_a_control_port_may_have_a_path() {
        let base = |text| Address::parse(text, Scheme::Http).map(|address| address.base());
        assert_eq!(base("http://127.0.0.1:9001/").unwrap(), "http://127.0.0.1:9001");
        assert_eq!(base("HTTP://[::1]:9001/behind/").unwrap(), "http://[::1]:9001/behind");
        assert_eq!(base("https://h/").unwrap(), "https://h");
        let unix = Address::parse("unix:/run/control.sock", Scheme::Http).unwrap();
        assert_eq!(unix.endpoint, Endpoint::Unix("/run/control.sock".into()));
        // As the server shows the one in its data directory.
        let unix = Address::parse("unix:data/control.sock", Scheme::Http).unwrap();
        assert_eq!(unix.endpoint, Endpoint::Unix("data/control.sock".into()));
        for (text, words) in [
            ("127.0.0.1:9001", "http://"),
            ("unix:", "the path of the socket"),
            ("http://h/?x", "query"),
            ("ws://h/", "http://"),
        ] {
            assert!(base(text).unwrap_err().to_string().contains(words), "{text}");
        }
    }

    #[test]
    fn secrets_are_masked() {
        assert_eq!(without_secret("--url=ws://a:b@h:1/?token=t&y=2"), "--url=ws://…@h:1/?token=…&y=2");
        assert_eq!(without_secret("ws://h:1/?y=2"), "ws://h:1/?y=2");
        assert_eq!(without_secret("kafka-1:9092,kafka-2:9092"), "kafka-1:9092,kafka-2:9092");
        assert_eq!(without_secret("ws://h:1/?y=2&tokens=3#part"), "ws://h:1/?y=2&tokens=3#part");
        assert_eq!(without_secret("ws://h:1/a?x#b&%54OKEN=t"), "ws://h:1/a?x#b&token=…");
        assert_eq!(without_secret(""), "");
        let hidden = [
            "ws:me:hidden@h",
            "me:hidden@h",
            "me:hidden://more@h",
            "ws://me:hidden@more://me:hidden@h/",
            "ws://me:hid/den?hidden@h/",
            "/?token=hidden",
            "ws://h/?x&token=hidden",
            "ws://h/?%74%6f%6B%65%6e=hidden",
            "ws://h/?to\tken=hidden",
            "ws://h/?token%3Dhidden",
            "ws://h/?+token=hidden",
            "ws://h/?a=1;token=hidden",
            "ws://h/#token=hidden",
        ];
        for text in hidden {
            assert!(!without_secret(text).contains("hidden"), "{text}: {}", without_secret(text));
        }
    }
}
