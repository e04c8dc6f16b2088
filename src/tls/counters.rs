//! What a shard counts of its TLS connections.

use rustls::CipherSuite;

use super::Failure;

/// A cipher suite that the server supports. It implies the version.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Suite {
    number: CipherSuite,
    /// The version, as in `/metrics`.
    pub version: &'static str,
    /// The name, as in `/metrics`: that of IANA without `TLS_` and without the key exchange.
    pub name: &'static str,
}

const fn suite(number: CipherSuite, version: &'static str, name: &'static str) -> Suite {
    Suite { number, version, name }
}

/// The cipher suites of the server.
pub const SUITES: [Suite; 9] = [
    suite(CipherSuite::TLS13_AES_128_GCM_SHA256, "1.3", "AES_128_GCM_SHA256"),
    suite(CipherSuite::TLS13_AES_256_GCM_SHA384, "1.3", "AES_256_GCM_SHA384"),
    suite(CipherSuite::TLS13_CHACHA20_POLY1305_SHA256, "1.3", "CHACHA20_POLY1305_SHA256"),
    suite(CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256, "1.2", "ECDSA_AES_128_GCM_SHA256"),
    suite(CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384, "1.2", "ECDSA_AES_256_GCM_SHA384"),
    suite(
        CipherSuite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256,
        "1.2",
        "ECDSA_CHACHA20_POLY1305_SHA256",
    ),
    suite(CipherSuite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256, "1.2", "RSA_AES_128_GCM_SHA256"),
    suite(CipherSuite::TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384, "1.2", "RSA_AES_256_GCM_SHA384"),
    suite(CipherSuite::TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256, "1.2", "RSA_CHACHA20_POLY1305_SHA256"),
];

/// Returns the position of a suite in [`SUITES`].
pub(super) fn position(number: CipherSuite) -> Option<usize> {
    SUITES.iter().position(|suite| suite.number == number)
}

/// The counters of a shard's TLS connections.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Counters {
    /// Completed handshakes, by position in [`SUITES`].
    pub handshakes: [u64; SUITES.len()],
    /// Handshakes that failed, by [`Failure::index`].
    pub failed: [u64; Failure::ALL.len()],
    /// Connections that ended after the handshake because a record was invalid or the peer sent an alert.
    pub broken: u64,
    /// Connections whose peer ended the stream without `close_notify`, while the server had not closed it.
    pub truncated: u64,
    /// Connections closed because a reload revoked the certificate of their client.
    pub revoked: u64,
    /// Bytes received, as on the wire.
    pub received_bytes: u64,
    /// Bytes sent, as on the wire.
    pub sent_bytes: u64,
}

impl Counters {
    /// Counts a completed handshake.
    pub fn count_handshake(&mut self, suite: Option<usize>) {
        if let Some(count) = suite.and_then(|at| self.handshakes.get_mut(at)) {
            *count += 1;
        }
    }

    /// Counts a handshake that failed.
    pub fn count_failure(&mut self, failure: Failure) {
        self.failed[failure.index()] += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_suite_of_the_provider_is_counted() {
        let provider = rustls::crypto::aws_lc_rs::default_provider();
        for suite in &provider.cipher_suites {
            assert!(position(suite.suite()).is_some(), "{:?}", suite.suite());
        }
        assert_eq!(provider.cipher_suites.len(), SUITES.len());
    }
}
