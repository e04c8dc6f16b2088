//! Refuses requests that a web page from another site may have made a browser send.
//!
//! | header | accepted | why |
//! | --- | --- | --- |
//! | `Host` | IP addresses, `localhost`, `control_hosts` | a page can make its own name resolve to this port (DNS rebinding) |
//! | `Origin` | absent, or the host and port of the request | a page from another site sends its own origin |
//! | `Sec-Fetch-Site` | absent, `same-origin`, `none` | requests for embedded resources have no `Origin` |
//!
//! `same-site` is refused, too: it includes other ports of this host, where anyone may serve a page. Only a
//! link to `/` may come from another site: the live page contains no data itself, and the linking page cannot
//! read what it shows.
//!
//! A request without `Host` is HTTP/1.0. Simple probes send that, browsers do not.

use std::net::{Ipv4Addr, Ipv6Addr};

use axum::http::{Method, Request, StatusCode, Version, header};
use axum::response::{IntoResponse, Response};

/// The most characters of a refused name to repeat in an error.
const SHOWN_CHARS_MAX: usize = 100;

/// The accepted names in addition to IP addresses and `localhost`, in lower case.
#[derive(Clone, Debug)]
pub(super) struct Guard(Vec<String>);

/// The status and the reason of a refused request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Refusal(StatusCode, String);

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        (self.0, format!("{}\n", self.1)).into_response()
    }
}

/// A host, in brackets if it is an IPv6 address, and an optional port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct HostPort<'a> {
    host: &'a str,
    port: Option<u16>,
}

impl<'a> HostPort<'a> {
    fn parse(text: &'a str) -> Option<Self> {
        let end =
            if text.starts_with('[') { text.find(']')? + 1 } else { text.find(':').unwrap_or(text.len()) };
        let (host, rest) = text.split_at(end);
        let port = match rest.strip_prefix(':') {
            None if rest.is_empty() => None,
            None => return None,
            Some("") => None,
            Some(digits) if digits.bytes().all(|byte| byte.is_ascii_digit()) => Some(digits.parse().ok()?),
            Some(_) => return None,
        };
        (!host.is_empty()).then_some(Self { host, port })
    }

    fn is_ip(&self) -> bool {
        match self.host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            // The client's network interface follows `%`.
            Some(v6) => v6.split('%').next().is_some_and(|v6| v6.parse::<Ipv6Addr>().is_ok()),
            None => self.host.parse::<Ipv4Addr>().is_ok(),
        }
    }

    /// Returns whether host and port are equal. A missing port means `default`.
    fn is_same(&self, other: &HostPort<'_>, default: u16) -> bool {
        self.host.eq_ignore_ascii_case(other.host)
            && self.port.unwrap_or(default) == other.port.unwrap_or(default)
    }
}

/// Returns whether an origin is the requested host and port. Ignores the scheme, because a proxy may
/// terminate TLS.
fn is_own_origin(origin: &str, asked: &HostPort<'_>) -> bool {
    let Some((scheme, rest)) = origin.split_once("://") else { return false };
    let default = match scheme {
        "http" => 80,
        "https" => 443,
        _ => return false,
    };
    HostPort::parse(rest).is_some_and(|origin| origin.is_same(asked, default))
}

/// Returns the part of a request's text that errors repeat.
fn shown(text: &str) -> String {
    text.chars().take(SHOWN_CHARS_MAX).collect()
}

impl Guard {
    pub(super) fn new(hosts: Vec<String>) -> Self {
        Self(hosts)
    }

    fn is_ours(&self, asked: &HostPort<'_>) -> bool {
        let name = asked.host.strip_suffix('.').unwrap_or(asked.host);
        let is = |one: &str| one.eq_ignore_ascii_case(name);
        asked.is_ip() || is("localhost") || self.0.iter().any(|one| is(one))
    }

    /// Parses a host from the request and checks that it is an accepted one.
    fn own<'a>(&self, text: &'a str) -> Result<HostPort<'a>, Refusal> {
        let Some(asked) = HostPort::parse(text) else {
            return Err(Refusal(StatusCode::BAD_REQUEST, format!("host: {:?} is invalid", shown(text))));
        };
        if self.is_ours(&asked) {
            return Ok(asked);
        }
        let host = shown(asked.host);
        tracing::warn!(?host, "control port request refused: host not in control_hosts");
        let why = format!(
            "host: {host:?} is not an IP address, not localhost, and not in control_hosts; if it is a name of this \
             server, add it to control_hosts"
        );
        Err(Refusal(StatusCode::MISDIRECTED_REQUEST, why))
    }

    /// Returns the requested host. A host in the request target overrides the header, but both must be
    /// accepted.
    fn asked<'a, B>(&self, request: &'a Request<B>) -> Result<Option<HostPort<'a>>, Refusal> {
        let mut hosts = request.headers().get_all(header::HOST).iter();
        let bad = |why: &str| Refusal(StatusCode::BAD_REQUEST, format!("host: {why}"));
        let host = match (hosts.next(), hosts.next()) {
            (Some(_), Some(_)) => return Err(bad("given twice")),
            (Some(host), None) => Some(self.own(host.to_str().map_err(|_| bad("not plain text"))?)?),
            (None, _) if request.version() > Version::HTTP_10 => return Err(bad("absent")),
            (None, _) => None,
        };
        match request.uri().authority() {
            Some(target) => self.own(target.as_str()).map(Some),
            None => Ok(host),
        }
    }

    /// Refuses a request that a page from another site may have caused.
    pub(super) fn check<B>(&self, request: &Request<B>) -> Result<(), Refusal> {
        let asked = self.asked(request)?;
        let headers = request.headers();
        let foreign = |what: &str, text: &[u8]| {
            let text = shown(&String::from_utf8_lossy(text));
            let why = format!("{what}: {text:?} is not this server; open the page by its own address");
            Err(Refusal(StatusCode::FORBIDDEN, why))
        };
        for origin in headers.get_all(header::ORIGIN) {
            let text = origin.to_str().unwrap_or_default();
            if !asked.is_some_and(|asked| is_own_origin(text, &asked)) {
                return foreign("origin", origin.as_bytes());
            }
        }
        for site in headers.get_all("sec-fetch-site") {
            let is_own = matches!(site.as_bytes(), b"same-origin" | b"none");
            if !is_own && !opens_the_page(request) {
                return foreign("sec-fetch-site", site.as_bytes());
            }
        }
        Ok(())
    }
}

/// Returns whether a browser opens the live page in a tab.
fn opens_the_page<B>(request: &Request<B>) -> bool {
    let says = |name: &str, value: &str| request.headers().get(name).is_some_and(|said| said == value);
    request.method() == Method::GET
        && request.uri().path() == "/"
        && says("sec-fetch-mode", "navigate")
        && says("sec-fetch-dest", "document")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(target: &str, headers: &[(&str, &str)]) -> u16 {
        let guard = Guard::new(vec!["metrics.example".into()]);
        let mut request = Request::builder().uri(target);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        guard.check(&request.body(()).unwrap()).map_or_else(|refusal| refusal.0.as_u16(), |()| 200)
    }

    #[test]
    fn accepted_hosts_are_addresses_localhost_and_control_hosts() {
        for host in [
            "127.0.0.1",
            "127.0.0.1:9001",
            "10.1.2.3:80",
            "[::1]:9001",
            "[fe80::1%25eth0]:9001",
            "localhost",
            "LocalHost:9001",
            "localhost.",
            "metrics.example:9001",
            "Metrics.Example.",
        ] {
            assert_eq!(status("/queues", &[("host", host)]), 200, "{host}");
        }
        for host in [
            "evil.example",
            "evil.example:9001",
            "127.0.0.1.evil.example:9001",
            "localhost.evil.example",
            "metrics.example.evil.example",
            "xmetrics.example",
            "me@localhost",
            "localhost@evil.example",
            "0x7f000001",
            "127.1",
            "[::1.evil.example]",
            "::1",
        ] {
            let refused = status("/queues", &[("host", host)]);
            assert!(refused == 421 || refused == 400, "{host}: {refused}");
        }
        for host in ["", ":9001", "localhost:port", "localhost:99999", "[::1", "[::1]9001", "a:1:2"] {
            assert_eq!(status("/queues", &[("host", host)]), 400, "{host}");
        }
        assert_eq!(status("/queues", &[("host", "localhost"), ("host", "localhost")]), 400);
        assert_eq!(status("/queues", &[]), 400, "HTTP/1.1 needs one");
        assert_eq!(status("http://evil.example/queues", &[("host", "localhost")]), 421);
        assert_eq!(status("http://localhost/queues", &[("host", "evil.example")]), 421);
        assert_eq!(status("http://localhost/queues", &[("host", "localhost")]), 200);
        let old = Request::builder().uri("/healthz").version(Version::HTTP_10).body(()).unwrap();
        assert_eq!(Guard::new(Vec::new()).check(&old), Ok(()));
        let evil = Request::builder().header("host", "evil.example").body(()).unwrap();
        let refusal = Guard::new(Vec::new()).check(&evil).unwrap_err();
        assert!(refusal.1.contains("evil.example") && refusal.1.contains("control_hosts"), "{refusal:?}");
    }

    #[test]
    fn an_origin_must_match_the_requested_host_and_port() {
        let with = |host, origin| status("/queues", &[("host", host), ("origin", origin)]);
        for (host, origin) in [
            ("127.0.0.1:9001", "http://127.0.0.1:9001"),
            ("127.0.0.1:9001", "https://127.0.0.1:9001"),
            ("localhost", "http://localhost:80"),
            ("localhost:443", "https://localhost"),
            ("[::1]:9001", "http://[::1]:9001"),
            ("Metrics.example", "https://metrics.example"),
        ] {
            assert_eq!(with(host, origin), 200, "{host} {origin}");
        }
        for origin in [
            "http://evil.example",
            "http://evil.example:9001",
            "http://localhost:9001",
            "http://127.0.0.1",
            "http://127.0.0.1:3000",
            "127.0.0.1:9001",
            "file://127.0.0.1:9001",
            "null",
            "",
        ] {
            assert_eq!(with("127.0.0.1:9001", origin), 403, "{origin}");
        }
        let old = Request::builder().version(Version::HTTP_10).header("origin", "http://localhost");
        assert!(Guard::new(Vec::new()).check(&old.body(()).unwrap()).is_err());
    }

    #[test]
    fn embedding_by_other_sites_is_refused_but_links_to_the_page_are_not() {
        let with = |target, site, mode, dest| {
            let fetch = [("sec-fetch-site", site), ("sec-fetch-mode", mode), ("sec-fetch-dest", dest)];
            status(target, &[&[("host", "127.0.0.1:9001")][..], &fetch].concat())
        };
        assert_eq!(with("/", "none", "navigate", "document"), 200);
        assert_eq!(with("/live", "same-origin", "cors", "empty"), 200);
        for site in ["cross-site", "same-site", "something-new"] {
            assert_eq!(with("/", site, "navigate", "document"), 200, "{site}");
            assert_eq!(with("/", site, "navigate", "iframe"), 403, "{site}");
            assert_eq!(with("/", site, "no-cors", "image"), 403, "{site}");
            assert_eq!(with("/queues", site, "navigate", "document"), 403, "{site}");
            assert_eq!(with("/live", site, "no-cors", "empty"), 403, "{site}");
        }
        let foreign = [("host", "localhost"), ("sec-fetch-site", "cross-site")];
        assert_eq!(status("/", &foreign), 403);
    }
}
