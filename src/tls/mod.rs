//! TLS without I/O: bytes of the wire in, plaintext out, and the way back. The server's side; `client` has the
//! client's.
//!
//! Built on rustls and aws-lc-rs. In the server, only this room knows rustls: the shards see a [`Session`] for
//! each connection, and a [`Config`] that all connections share and a reload replaces. The control port gives the
//! part of it for clients without certificates to tokio-rustls.
//!
//! TLS 1.2 and 1.3, ALPN `http/1.1`. There is no resumption: with ECDSA it saves nothing, and it would skip
//! the check of a client's certificate. There is no early data, and no data before a handshake ends.
//!
//! | file | content |
//! | --- | --- |
//! | `session` | one connection: handshake, opening and sealing records |
//! | `config` | what all connections share: certificates, client CAs, revoked certificates |
//! | `resolver` | which certificate a client gets |
//! | `verifier` | which certificates of clients are verified at all |
//! | `certificate` | what the server reads from certificates: names, expiry, identity |
//! | `failure` | why a session ended |
//! | `counters` | handshakes, failures and bytes of a shard |
//! | `settings` | the settings of certificates, client certificates and versions |
//! | `client/` | the client's side of a connection |
//! | `files` | reads the files of the settings: the only part with I/O |

mod certificate;
pub mod client;
mod config;
mod counters;
mod failure;
pub mod files;
mod resolver;
mod session;
mod settings;
#[cfg(test)]
mod tests;
mod verifier;

pub use certificate::{CertificateId, ClientCertificate};
pub use config::{Config, Material, Pair, Unusable, Validity};
pub use counters::{Counters, SUITES, Suite};
pub use failure::Failure;
pub use session::{Session, State};
pub use settings::{CertificateFiles, ClientAuth, MinVersion, Settings};
pub use verifier::CLIENT_INTERMEDIATES_MAX;

/// The largest record on the wire that a peer may send, in bytes: header, plaintext, and what TLS 1.2 allows
/// a cipher to add (RFC 5246, section 6.2.3). At most this much of a cut record is kept for a connection.
pub const RECORD_BYTES_MAX: usize = 5 + (16 << 10) + 2048;

/// The most bytes that a peer may send before its handshake ends. Room for a chain of client certificates.
pub const HANDSHAKE_BYTES_MAX: usize = 24 << 10;
