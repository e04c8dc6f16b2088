//! Origins of browsers (RFC 6454): which pages may connect to which host.
//!
//! An origin is admitted if its host and port are those of the request's `Host` header, or if the operator
//! allows it. Plain values without I/O.

use crate::base::millis::Millis;
use crate::base::setting::{Kind, Value};
use core::net::Ipv6Addr;
use std::collections::{HashSet, VecDeque};
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

/// A host, in lower case.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Host {
    /// A name, or an IPv4 address as written.
    Name(String),
    V6(Ipv6Addr),
}

/// A host and an optional port: the value of `Host`, and the last part of an origin.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Authority {
    host: Host,
    port: Option<u16>,
}

/// An origin as written in the `Origin` header.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Origin {
    /// In lower case. `None` because some WebSocket libraries leave it out.
    scheme: Option<String>,
    /// The port is `None` if it is the scheme's default.
    authority: Authority,
}

impl Authority {
    fn parse(text: &str) -> Option<Self> {
        let (host, port) = match text.strip_prefix('[') {
            Some(rest) => {
                let (address, rest) = rest.split_once(']')?;
                let port = if rest.is_empty() { None } else { Some(rest.strip_prefix(':')?) };
                (Host::V6(address.parse().ok()?), port)
            }
            None => {
                let (name, port) =
                    text.split_once(':').map_or((text, None), |(name, port)| (name, Some(port)));
                let is_part = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_');
                if name.is_empty() || !name.bytes().all(is_part) {
                    return None;
                }
                (Host::Name(name.to_ascii_lowercase()), port)
            }
        };
        let port = match port {
            // `u16::from_str` accepts a leading sign.
            Some(digits) if digits.bytes().all(|byte| byte.is_ascii_digit()) => Some(digits.parse().ok()?),
            Some(_) => return None,
            None => None,
        };
        Some(Self { host, port })
    }
}

impl Origin {
    fn parse(text: &str) -> Option<Self> {
        let Some((scheme, authority)) = text.split_once("://") else {
            return Some(Self { scheme: None, authority: Authority::parse(text)? });
        };
        let is_part = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'-' | b'.');
        if !scheme.starts_with(|first: char| first.is_ascii_alphabetic()) || !scheme.bytes().all(is_part) {
            return None;
        }
        let mut origin =
            Self { scheme: Some(scheme.to_ascii_lowercase()), authority: Authority::parse(authority)? };
        let default = origin.default_port();
        origin.authority.port = origin.authority.port.filter(|port| Some(*port) != default);
        Some(origin)
    }

    /// Returns the default port of the scheme.
    fn default_port(&self) -> Option<u16> {
        match self.scheme.as_deref() {
            Some("http" | "ws") => Some(80),
            Some("https" | "wss") => Some(443),
            _ => None,
        }
    }

    /// Returns whether pages of `host` have this origin. Ignores the scheme, because a proxy may terminate
    /// TLS in front of the server.
    fn is_of(&self, host: &Authority) -> bool {
        let default = self.default_port();
        self.authority.host == host.host && self.authority.port.or(default) == host.port.or(default)
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(scheme) = &self.scheme {
            write!(f, "{scheme}://")?;
        }
        match &self.authority.host {
            Host::Name(name) => f.write_str(name)?,
            Host::V6(address) => write!(f, "[{address}]")?,
        }
        self.authority.port.map_or(Ok(()), |port| write!(f, ":{port}"))
    }
}

/// Origins that an operator allows in addition to the requested host.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AllowedOrigins {
    /// Whether the list contains `*`, which allows every origin except `null`.
    any: bool,
    origins: Vec<Origin>,
}

impl AllowedOrigins {
    /// Parses a comma-separated list of origins or `*`. The error names the invalid entry.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut allowed = Self::default();
        for entry in text.split(',').map(str::trim).filter(|entry| !entry.is_empty()) {
            if entry == "*" {
                allowed.any = true;
                continue;
            }
            // No browser or library sends an origin that is a name without scheme and port.
            let is_whole = |origin: &Origin| origin.scheme.is_some() || origin.authority.port.is_some();
            let origin = Origin::parse(entry).filter(is_whole).ok_or_else(|| {
                format!(
                    "{entry:?} is not an origin: write scheme, host and an optional port, as in https://console.example:8443, \
                     without a path; or * for every origin except null"
                )
            })?;
            allowed.origins.push(origin);
        }
        Ok(allowed)
    }

    /// Returns whether a page of `origin` may connect to `host`. Both are values as in the request's headers.
    pub fn admits(&self, origin: &str, host: &str) -> bool {
        // Any site can produce the origin `null` with a sandboxed page or a file.
        if origin.eq_ignore_ascii_case("null") {
            return false;
        }
        if self.any {
            return true;
        }
        let Some(origin) = Origin::parse(origin) else { return false };
        self.origins.contains(&origin) || Authority::parse(host).is_some_and(|host| origin.is_of(&host))
    }
}

/// Writes the form that [`AllowedOrigins::parse`] reads.
impl fmt::Display for AllowedOrigins {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let any = self.any.then(|| "*".to_owned());
        let all: Vec<String> = any.into_iter().chain(self.origins.iter().map(Origin::to_string)).collect();
        f.write_str(&all.join(","))
    }
}

/// The log's view of a refused origin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Novelty {
    /// It was refused before, or there is no room to remember it.
    Known,
    /// It is refused for the first time, or for the first time since it was forgotten.
    New,
    /// Like `New`, but the memory is full: further origins are `Known` until the oldest expires.
    Last,
}

/// Refused origins, remembered so that the log names each of them once. Clones share them.
///
/// A new origin replaces the oldest, but only after [`Self::KEPT`]. So the log names at most [`Self::MAX`]
/// origins within that time, however many clients invent.
#[derive(Clone, Debug, Default)]
pub struct RefusedOrigins(Arc<Mutex<Remembered>>);

#[derive(Debug, Default)]
struct Remembered {
    /// The origins, in lower case.
    origins: HashSet<Arc<str>>,
    /// The same origins with the time when they were first refused, oldest first.
    order: VecDeque<(Arc<str>, Millis)>,
}

impl RefusedOrigins {
    /// The largest number of remembered origins. With [`Self::CHARS_MAX`] they take less than 1 MiB.
    pub const MAX: usize = 1_000;
    /// The number of characters to remember of each origin.
    pub const CHARS_MAX: usize = 256;
    /// The shortest time for which an origin is remembered.
    pub const KEPT: Millis = Millis::new(600_000);

    /// Remembers an origin that is refused at `now`. Returns the part of it that a log may show.
    pub fn remember(&self, origin: &str, now: Millis) -> (String, Novelty) {
        let short: String = origin.chars().take(Self::CHARS_MAX).collect();
        let novelty = self.0.lock().unwrap_or_else(PoisonError::into_inner).add(&short, now);
        (short, novelty)
    }
}

impl Remembered {
    fn add(&mut self, origin: &str, now: Millis) -> Novelty {
        let origin: Arc<str> = origin.to_ascii_lowercase().into();
        if self.origins.contains(&origin) {
            return Novelty::Known;
        }
        let is_full = self.order.len() == RefusedOrigins::MAX;
        if is_full {
            let is_old = |(_, since): &mut (Arc<str>, Millis)| *since + RefusedOrigins::KEPT <= now;
            let Some((oldest, _)) = self.order.pop_front_if(is_old) else { return Novelty::Known };
            self.origins.remove(&oldest);
        }
        self.origins.insert(origin.clone());
        self.order.push_back((origin, now));
        if !is_full && self.order.len() == RefusedOrigins::MAX { Novelty::Last } else { Novelty::New }
    }
}

impl Value for AllowedOrigins {
    fn read(text: &str, _: &Kind) -> Result<Self, String> {
        Self::parse(text)
    }

    fn show(&self, _: &Kind) -> String {
        self.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn admits(allowed: &str, origin: &str, host: &str) -> bool {
        AllowedOrigins::parse(allowed).unwrap().admits(origin, host)
    }

    #[test]
    fn an_origin_must_match_the_requested_host() {
        for (host, origin) in [
            ("q.example", "http://q.example"),
            ("q.example", "https://q.example"),
            ("q.example", "https://q.example:443"),
            ("q.example:443", "https://q.example"),
            ("q.example:443", "wss://q.example"),
            ("q.example:80", "http://q.example"),
            ("q.example:9000", "http://q.example:9000"),
            ("q.example:9000", "https://q.example:9000"),
            ("Q.Example:9000", "HTTP://q.eXample:9000"),
            ("q.example.", "https://q.example."),
            ("127.0.0.1:9000", "http://127.0.0.1:9000"),
            ("[2001:db8::1]:443", "https://[2001:DB8::1]"),
            ("[2001:db8::1]", "https://[2001:db8:0:0:0:0:0:1]"),
            ("[::1]:9000", "http://[::1]:9000"),
            ("localhost", "capacitor://localhost"),
            // Without a scheme, compared as written.
            ("127.0.0.1:9000", "127.0.0.1:9000"),
            ("q.example:9000", "Q.Example:9000"),
            ("q.example", "q.example"),
            ("[::1]:9000", "[::1]:9000"),
        ] {
            assert!(admits("", origin, host), "Host: {host}, Origin: {origin}");
        }
        for (host, origin) in [
            ("q.example", "https://evil.example"),
            ("q.example", "https://q.example.evil.example"),
            ("q.example", "https://evil-q.example"),
            ("q.example", "https://q.example."),
            ("q.example", "https://q.example:80"),
            ("q.example", "http://q.example:443"),
            ("q.example:443", "http://q.example"),
            ("q.example:443", "https://q.example:444"),
            ("q.example:9000", "http://q.example:9001"),
            ("q.example:9000", "http://q.example"),
            ("q.example", "http://q.example:9000"),
            ("[::1]:9000", "http://[::2]:9000"),
            ("[::1]:9000", "http://::1:9000"),
            ("q.example", "null"),
            ("null", "null"),
            ("NULL", "Null"),
            ("q.example:9000", "q.example"),
            ("q.example", "q.example:80"),
            ("q.example:9000", "q.example:9001"),
            ("localhost:80", "capacitor://localhost"),
            // Malformed.
            ("q.example", "http://user@q.example"),
            ("q.example", "evil.example@q.example"),
            ("q.example", "http://q.example/"),
            ("q.example", "evil.example/q.example"),
            ("q.example", "http://q.example?x"),
            ("q.example", "http://q.example#x"),
            ("q.example", "http://q.example:"),
            ("q.example:80", "http://q.example:+80"),
            ("q.example", "http://q.example:65616"),
            ("q.example", "http://q.example http://evil.example"),
            ("q.example", "http://http://q.example"),
            ("q.example", "://q.example"),
            ("q.example", "1http://q.example"),
            ("q.example", "http:q.example"),
            ("[::1]", "http://[::1"),
            ("[::1]", "http://[::1]x"),
            ("http://q.example", "http://q.example"),
            ("", "http://"),
            ("*", "http://*"),
        ] {
            assert!(!admits("", origin, host), "Host: {host}, Origin: {origin}");
        }
    }

    #[test]
    fn an_operator_can_allow_origins_or_all_except_null() {
        let allowed = "https://console.example, HTTP://Other.example:3000,127.0.0.1:9000";
        for origin in [
            "https://console.example",
            "https://CONSOLE.example:443",
            "http://other.example:3000",
            "127.0.0.1:9000",
        ] {
            assert!(admits(allowed, origin, "q.example"), "{origin}");
        }
        for origin in [
            "http://console.example",
            "https://console.example:444",
            "https://console.example/",
            "http://other.example",
            "http://127.0.0.1:9000",
            "null",
        ] {
            assert!(!admits(allowed, origin, "q.example"), "{origin}");
        }
        for allowed in ["*", "https://console.example,*"] {
            assert!(admits(allowed, "https://evil.example", "q.example"));
            assert!(!admits(allowed, "null", "q.example"));
        }
        for malformed in [
            "null",
            "console.example",
            "https://",
            "https://console.example/",
            "https://console.example/path",
            "https://user@console.example",
            "https://console.example:port",
            "https://console.example:70000",
            "https://*.example",
            "https://console.example https://other.example",
            "https://b\u{fc}cher.example",
            "**",
        ] {
            let text = format!("https://console.example,{malformed}");
            let why = AllowedOrigins::parse(&text).unwrap_err();
            assert!(why.contains(&format!("{malformed:?} is not an origin")), "{why}");
        }
    }

    #[test]
    fn allowed_origins_are_shown_as_they_are_parsed() {
        for text in ["", "*", "https://console.example,http://[::1]:3000", "*,h:1"] {
            assert_eq!(AllowedOrigins::parse(text).unwrap().to_string(), text);
        }
        let allowed = AllowedOrigins::parse(" HTTPS://A.example:443 ,, http://b ").unwrap();
        assert_eq!(allowed.to_string(), "https://a.example,http://b");
    }

    #[test]
    fn refused_origins_are_new_once_and_memory_is_bounded() {
        let refused = RefusedOrigins::default();
        let shared = refused.clone();
        let at = Millis::new;
        let of = |origin: &str, now| refused.remember(origin, now).1;
        assert_eq!(
            refused.remember("https://Evil.example", at(5)),
            ("https://Evil.example".into(), Novelty::New)
        );
        assert_eq!(shared.remember("https://evil.example", at(5)).1, Novelty::Known);
        let long = "x".repeat(RefusedOrigins::CHARS_MAX + 1);
        assert_eq!(refused.remember(&long, at(6)).0.len(), RefusedOrigins::CHARS_MAX);
        for number in 2..RefusedOrigins::MAX - 1 {
            assert_eq!(of(&format!("https://{number}"), at(6)), Novelty::New, "{number}");
        }
        assert_eq!(of("https://last", at(6)), Novelty::Last);
        // The oldest is replaced once it has expired.
        let later = at(5) + RefusedOrigins::KEPT;
        assert_eq!(of("https://another", later.saturating_sub(at(1))), Novelty::Known);
        assert_eq!(of("https://another", later), Novelty::New);
        assert_eq!(of("https://another", later), Novelty::Known);
        assert_eq!(of("https://yet.another", later), Novelty::Known, "the next oldest has not expired");
        assert_eq!(of("https://evil.example", later + at(1)), Novelty::New);
        let remembered = refused.0.lock().unwrap();
        let bounds = (remembered.origins.len(), remembered.order.len());
        assert_eq!(bounds, (RefusedOrigins::MAX, RefusedOrigins::MAX));
    }

    proptest! {
        #[test]
        fn a_missing_port_is_the_default_and_any_other_difference_is_refused(
            host in "[a-z0-9]{1,8}(\\.[a-z0-9]{1,8}){0,2}|\\[(::1|2001:db8::[1-9a-f])\\]",
            other in "[a-z0-9]{1,8}\\.example",
            is_tls: bool,
            port in 1u16..,
        ) {
            let (scheme, default) = if is_tls { ("https", 443) } else { ("http", 80) };
            let spelt = |port: u16| {
                let mut ways = vec![format!("{host}:{port}")];
                ways.extend((port == default).then(|| host.clone()));
                ways
            };
            for asked in spelt(port).into_iter().chain(spelt(default)) {
                for of in [port, default] {
                    let asked_port = if spelt(default).contains(&asked) { default } else { port };
                    for authority in spelt(of) {
                        let origin = format!("{scheme}://{authority}");
                        prop_assert_eq!(admits("", &origin, &asked), of == asked_port, "{} {}", origin, asked);
                        let upper = (origin.to_ascii_uppercase(), asked.to_ascii_uppercase());
                        prop_assert_eq!(admits("", &upper.0, &upper.1), of == asked_port);
                    }
                }
                prop_assume!(other != host);
                let foreign = format!("{scheme}://{other}:{port}");
                prop_assert!(!admits("", &foreign, &asked));
            }
        }
    }
}
