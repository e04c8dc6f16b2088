//! The request that opens a connection: parses it from the received bytes, and logs refused origins.

use core::net::SocketAddr;

use super::Settings;
use crate::base::clock::Now;
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
pub(super) fn log_refused_origin(refusal: &Refusal, peer: Option<SocketAddr>, settings: &Settings, now: Now) {
    let Some(origin) = &refusal.origin else { return };
    let (origin, novelty) = settings.policy.refused_origins.remember(origin, now.mono);
    if novelty != Novelty::Known {
        tracing::warn!(
            target: BOUNDED,
            origin,
            ?peer,
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
