//! The request that opens a connection: parses it from the received bytes, and logs refused origins and PROXY
//! headers.

use super::{Peer, Settings};
use crate::base::clock::Now;
use crate::base::millis::Millis;
use crate::front::Handshake;
use crate::process::logging::BOUNDED;
use crate::ws::handshake::Refusal;
use crate::ws::origin::{Novelty, RefusedOrigins};

/// Parses a request from the start of `text`. The first `seen` bytes are known not to hold its end. Returns
/// `None` if the request is incomplete.
///
/// Only a complete request is parsed, so that a request that arrives byte by byte costs no more.
pub(super) fn read(text: &[u8], seen: usize, settings: &Settings) -> Result<Option<Handshake>, Refusal> {
    let from = seen.saturating_sub(3);
    let end = text[from..].windows(4).position(|window| window == b"\r\n\r\n").map(|at| from + at + 4);
    let starts = text.iter().zip(b"GET ").all(|(byte, expected)| byte == expected);
    let max = settings.handshake_max_bytes;
    if end.unwrap_or(text.len()) > max {
        Err(Refusal::new(431, format!("handshake: longer than handshake_max_bytes = {max}")))
    } else if end.is_some() || !starts {
        Handshake::read(text, &settings.policy)
    } else {
        Ok(None)
    }
}

/// Logs the origin of a web page whose handshake is refused. Repeats it only occasionally for each origin.
pub(super) fn log_refused_origin(refusal: &Refusal, peer: &Peer, settings: &Settings, now: Now) {
    let Some(origin) = &refusal.origin else { return };
    let (origin, novelty) = settings.policy.refused_origins.remember(origin, now.mono);
    if novelty != Novelty::Known {
        tracing::warn!(
            target: BOUNDED,
            origin,
            %peer,
            "refusing pages of this origin with 403; if the origin is yours, add it to allowed_origins \
             (null is never accepted)"
        );
    }
    if novelty == Novelty::Last {
        tracing::warn!(
            target: BOUNDED,
            origins = RefusedOrigins::MAX,
            minutes = RefusedOrigins::KEPT.get() / 60_000,
            "memory for refused origins is full: new origins are logged again when the oldest is forgotten \
             after these minutes"
        );
    }
}

/// The time between two log lines about refused PROXY headers.
const HEADERS_EVERY: Millis = Millis::new(60_000);

/// Logs refused PROXY headers of one shard, at most one line each minute.
#[derive(Debug, Default)]
pub struct RefusedHeaders {
    /// When the next line may be logged.
    due: Millis,
    /// The number of refusals since the last line.
    passed: u64,
}

impl RefusedHeaders {
    /// Logs why a peer's header is refused, or counts the refusal for the next line.
    pub(super) fn log(&mut self, peer: &Peer, why: &str, now: Millis) {
        if now < self.due {
            self.passed += 1;
            return;
        }
        self.due = now + HEADERS_EVERY;
        tracing::warn!(
            target: BOUNDED,
            %peer,
            passed = std::mem::take(&mut self.passed),
            "closing a connection of a proxy in proxy_from: {why}; let the proxy send the PROXY protocol, or \
             remove it from proxy_from; passed counts those that were not logged"
        );
    }
}
