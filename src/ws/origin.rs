//! Origins of browsers (RFC 6454): which pages may connect to which host.
//!
//! The origin of a page is admitted where its host and port are those of the request's `Host`, or where the operator allows it.
//! Plain values without I/O.

use crate::base::millis::Millis;
use crate::base::setting::{Kind, Value};
use core::net::Ipv6Addr;
use std::collections::{HashSet, VecDeque};
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

/// A host, in lower case.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Host {
    /// A name, or an IPv4 address as it is written.
    Name(String),
    V6(Ipv6Addr),
}

/// A host and, where it is written, a port: the value of `Host`, and the end of an origin.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Authority {
    host: Host,
    port: Option<u16>,
}

/// An origin as the header `Origin` has it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Origin {
    /// In lower case. Some WebSocket libraries leave it out.
    scheme: Option<String>,
    /// Without a port where that is the default one of the scheme.
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
            // A number's own parser takes a sign.
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

    /// The port that stands for none.
    fn default_port(&self) -> Option<u16> {
        match self.scheme.as_deref() {
            Some("http" | "ws") => Some(80),
            Some("https" | "wss") => Some(443),
            _ => None,
        }
    }

    /// Whether it is the origin of pages of that host. The scheme is not compared: TLS may end before the server.
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

/// Origins that an operator admits beside the host that is asked.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AllowedOrigins {
    /// `*`: every one but `null`.
    any: bool,
    origins: Vec<Origin>,
}

impl AllowedOrigins {
    /// Origins, or `*`, with commas between. The error names the entry that is neither.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut allowed = Self::default();
        for entry in text.split(',').map(str::trim).filter(|entry| !entry.is_empty()) {
            if entry == "*" {
                allowed.any = true;
                continue;
            }
            // Without scheme and port, a name is no origin that any browser or library sends.
            let is_whole = |origin: &Origin| origin.scheme.is_some() || origin.authority.port.is_some();
            let origin = Origin::parse(entry).filter(is_whole).ok_or_else(|| {
                format!(
                    "{entry:?} is no origin: write scheme, host and perhaps a port, as in https://console.example:8443, \
                     without a path; or * for every origin but null"
                )
            })?;
            allowed.origins.push(origin);
        }
        Ok(allowed)
    }

    /// Whether a page of `origin` may connect where `host` was asked; both as the request's headers have them.
    pub fn admits(&self, origin: &str, host: &str) -> bool {
        // Sandboxed pages and files, of whoever made them.
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

/// As [`AllowedOrigins::parse`] reads it.
impl fmt::Display for AllowedOrigins {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let any = self.any.then(|| "*".to_owned());
        let all: Vec<String> = any.into_iter().chain(self.origins.iter().map(Origin::to_string)).collect();
        f.write_str(&all.join(","))
    }
}

/// What is known of an origin that is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Novelty {
    /// It was refused before, or has no room now.
    Known,
    /// It is refused for the first time.
    New,
    /// The same, and others have no room until the oldest makes some.
    Last,
}

/// Origins that were refused, so that the log names each of them once. Clones share them.
///
/// The oldest makes room for a new one, but only after [`Self::KEPT`]: the log names [`Self::MAX`] within that time at most,
/// however many clients make up.
#[derive(Clone, Debug, Default)]
pub struct RefusedOrigins(Arc<Mutex<Remembered>>);

#[derive(Debug, Default)]
struct Remembered {
    /// In lower case.
    origins: HashSet<Arc<str>>,
    /// The same with when they were first refused, the oldest first.
    order: VecDeque<(Arc<str>, Millis)>,
}

impl RefusedOrigins {
    /// How many are remembered: less than 1 MiB with [`Self::CHARS_MAX`], whatever clients send.
    pub const MAX: usize = 1_000;
    /// How much of each is remembered, characters.
    pub const CHARS_MAX: usize = 256;
    /// How long each is remembered at least.
    pub const KEPT: Millis = Millis::new(600_000);

    /// Remembers an origin that is refused at `now`, and gives the part of it that a log may show.
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
    fn an_origin_is_the_host_that_was_asked_or_it_is_foreign() {
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
            // Without a scheme, as it stands.
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
    fn an_operator_allows_origins_or_every_one_but_null() {
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
            assert!(why.contains(&format!("{malformed:?} is no origin")), "{why}");
        }
    }

    #[test]
    fn what_is_allowed_is_shown_as_it_is_read() {
        for text in ["", "*", "https://console.example,http://[::1]:3000", "*,h:1"] {
            assert_eq!(AllowedOrigins::parse(text).unwrap().to_string(), text);
        }
        let allowed = AllowedOrigins::parse(" HTTPS://A.example:443 ,, http://b ").unwrap();
        assert_eq!(allowed.to_string(), "https://a.example,http://b");
    }

    #[test]
    fn refused_origins_are_told_once_in_bounded_memory() {
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
        // The oldest makes room once it is old.
        let later = at(5) + RefusedOrigins::KEPT;
        assert_eq!(of("https://another", later.saturating_sub(at(1))), Novelty::Known);
        assert_eq!(of("https://another", later), Novelty::New);
        assert_eq!(of("https://another", later), Novelty::Known);
        assert_eq!(of("https://yet.another", later), Novelty::Known, "the next one is not old yet");
        assert_eq!(of("https://evil.example", later + at(1)), Novelty::New);
        let remembered = refused.0.lock().unwrap();
        let bounds = (remembered.origins.len(), remembered.order.len());
        assert_eq!(bounds, (RefusedOrigins::MAX, RefusedOrigins::MAX));
    }

    proptest! {
        #[test]
        fn a_port_left_out_is_the_default_one_and_every_other_difference_is_foreign(
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
