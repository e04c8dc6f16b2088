//! A server's address: a URL, read once. The name in it is resolved at each connection.

use url::{Host, Position, Url};

use super::error::ClientError;

/// What is spoken at an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scheme {
    /// WebSocket.
    Ws,
    /// HTTP: a control port.
    Http,
}

impl Scheme {
    fn name(self) -> &'static str {
        match self {
            Self::Ws => "ws",
            Self::Http => "http",
        }
    }

    /// The same over TLS.
    fn secure_name(self) -> &'static str {
        match self {
            Self::Ws => "wss",
            Self::Http => "https",
        }
    }
}

/// A server's address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Address {
    scheme: Scheme,
    host: Host<String>,
    port: u16,
    authority: String,
    path: String,
}

impl Address {
    /// Reads a URL. The error says which part of it cannot be, and shows no secret.
    pub fn parse(text: &str, scheme: Scheme) -> Result<Self, ClientError> {
        let bad = |why: &str| ClientError::Address(format!("{}: {why}", without_secret(text)));
        let (name, secure) = (scheme.name(), scheme.secure_name());
        let url = Url::parse(text).map_err(|error| {
            bad(&format!("{error}; write {name}://HOST:PORT/, an IPv6 address in brackets"))
        })?;
        if url.scheme() == secure {
            let instead = format!("TLS is not spoken yet: use {name}://, or a proxy that ends TLS");
            return Err(bad(&instead));
        }
        // The parser takes `ws:host` and `ws:///host` for the same.
        let rest = text.trim().get(name.len()..).and_then(|rest| rest.strip_prefix("://"));
        let (true, Some(rest)) = (url.scheme() == name, rest) else {
            return Err(bad(&format!("not a {name}:// address")));
        };
        let Some(host) = url.host().filter(|_| !rest.starts_with(['/', '\\'])) else {
            return Err(bad("it names no host"));
        };
        if !url.username().is_empty() || url.password().is_some() {
            return Err(bad("a name and password before the @ are not sent: leave them out"));
        }
        if url.fragment().is_some() {
            return Err(bad("a fragment (#) is not sent: leave it out, or write %23"));
        }
        if scheme == Scheme::Http && url.query().is_some() {
            return Err(bad("a control port's address has no query (?)"));
        }
        let port = match url.port_or_known_default() {
            Some(port) if port > 0 => port,
            _ => return Err(bad("nothing can listen on port 0")),
        };
        let authority = match url.port() {
            Some(port) => format!("{host}:{port}"),
            None => host.to_string(),
        };
        let path = url[Position::BeforePath..Position::AfterQuery].to_owned();
        Ok(Self { scheme, host: host.to_owned(), port, authority, path })
    }

    /// The host.
    pub fn host(&self) -> &Host<String> {
        &self.host
    }

    /// The port.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Host and port as the `Host` header has them: without the scheme's own port.
    pub fn authority(&self) -> &str {
        &self.authority
    }

    /// Path and query; at least `/`.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// The URL without a slash at its end: paths of the server are appended to it.
    pub fn base(&self) -> String {
        format!("{}://{}{}", self.scheme.name(), self.authority, self.path.trim_end_matches('/'))
    }
}

/// The query parameter that carries a token (protocol section 1).
const TOKEN_PARAMETER: &str = "token";

/// Text that may be a URL, as others may see it: without the name and the password before its `@`, and without a token in its query.
/// What is no URL, or not the one that was meant, hides no less.
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

/// The part of what is before an `@` that can be no secret: `ws://`, or the same behind the name of an option.
fn shown_scheme(before: &str) -> &str {
    let is_of_name = |byte: u8| byte.is_ascii_alphanumeric() || b"+-.=_".contains(&byte);
    match before.find("://") {
        Some(at) if before.as_bytes()[..at].iter().all(|byte| is_of_name(*byte)) => &before[..at + 3],
        _ => "",
    }
}

/// Whether a parameter is the token, however its name is written.
fn is_token(parameter: &str) -> bool {
    // A URL's parser leaves these out.
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
        (address.host.to_string(), address.port, address.authority, address.path)
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
    fn what_cannot_be_spoken_is_refused_with_a_reason_and_without_secrets() {
        let cases = [
            ("wss://h/", "TLS is not spoken yet"),
            ("WSS://h:9000", "TLS is not spoken yet"),
            ("http://h:9000/", "ws://"),
            ("127.0.0.1:9000", "ws://"),
            ("localhost:9000", "ws://"),
            ("ws:h:9000", "ws://"),
            ("ws:///h", "no host"),
            ("ws://", "ws://HOST:PORT/"),
            ("ws://::1:9000/", "brackets"),
            ("ws://h:65536/", "port"),
            ("ws://h:0/", "port 0"),
            ("ws://h/#there", "fragment"),
            ("ws://me:hidden@h/", "@"),
            ("ws:me:hidden@h", "…@h"),
            ("me:hidden@h:9000", "…@h:9000"),
            ("wss://h/?token=hidden&x=1", "token=…&x=1"),
            ("wss://h/?%74oken=hidden&x=1", "token=…&x=1"),
            ("h:9000?token=hidden", "token=…"),
        ];
        for (text, words) in cases {
            let why = Address::parse(text, Scheme::Ws).unwrap_err().to_string();
            assert!(why.contains(words), "{text}: {why}");
            assert!(!why.contains("hidden"), "{why}");
        }
    }

    #[test]
    fn a_control_ports_address_may_have_a_path() {
        let base = |text| Address::parse(text, Scheme::Http).map(|address| address.base());
        assert_eq!(base("http://127.0.0.1:9001/").unwrap(), "http://127.0.0.1:9001");
        assert_eq!(base("HTTP://[::1]:9001/behind/").unwrap(), "http://[::1]:9001/behind");
        for (text, words) in [
            ("https://h/", "TLS is not spoken yet"),
            ("127.0.0.1:9001", "http://"),
            ("http://h/?x", "query"),
            ("ws://h/", "http://"),
        ] {
            assert!(base(text).unwrap_err().to_string().contains(words), "{text}");
        }
    }

    #[test]
    fn secrets_are_left_out_of_what_others_see() {
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
