//! The scripts of all conversations.

mod consume;
mod handshake;
mod limits;
mod produce;
mod websocket;

use super::script::Script;

/// Writes a conversation.
pub type Write = fn(&mut Script);

/// Returns all scripts by name.
pub fn all() -> Vec<(&'static str, Write)> {
    vec![
        ("consume-broken", consume::broken),
        ("consume-credit", consume::credit_and_linger),
        ("consume-echo", consume::echo),
        ("consume-expired", consume::expired),
        ("consume-markers", consume::markers),
        ("consume-partitions", consume::partitions),
        ("consume-rewound", consume::rewound),
        ("drain", limits::drain),
        ("handshake-accepted", handshake::accepted),
        ("handshake-cut", handshake::cut),
        ("handshake-late", handshake::late),
        ("handshake-refused", handshake::refused),
        ("limits-project", limits::project),
        ("limits-rate", limits::rate),
        ("limits-server", limits::server),
        ("produce-broken", produce::broken),
        ("produce-credit", produce::credit_and_half_close),
        ("produce-cut", produce::cut),
        ("produce-headers", produce::headers),
        ("produce-refused", produce::refused),
        ("produce-setup", produce::setup),
        ("produce-store", produce::store),
        ("websocket-close", websocket::close),
        ("websocket-echo", websocket::echo),
        ("websocket-idle", websocket::idle),
        ("websocket-violations", websocket::violations),
    ]
}
