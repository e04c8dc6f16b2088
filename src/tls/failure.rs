//! Why a session ended.

use rustls::{Error, PeerIncompatible};

use std::fmt;

/// Why a session ended other than by a close of the peer. A label of `/metrics`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// The peer sent an HTTP request in plaintext.
    PlainHttp,
    /// The peer supports no version that the server accepts.
    Version,
    /// The peer and the server have no cipher suite, group, signature scheme or protocol in common.
    NothingInCommon,
    /// The certificate of the peer is missing, invalid or revoked.
    Certificate,
    /// The peer sent an alert: for example, it does not trust the server's certificate.
    Alert,
    /// The peer sent more than [`HANDSHAKE_BYTES_MAX`](super::HANDSHAKE_BYTES_MAX), or a record that is too
    /// large.
    TooLong,
    /// The peer broke a rule of TLS, or its bytes are corrupted or no TLS at all.
    Protocol,
    /// The connection ended before the handshake did: closed by the peer, late, or the server drains.
    Unfinished,
}

impl Failure {
    /// All kinds, in the order of [`Self::index`].
    pub const ALL: [Self; 8] = [
        Self::PlainHttp,
        Self::Version,
        Self::NothingInCommon,
        Self::Certificate,
        Self::Alert,
        Self::TooLong,
        Self::Protocol,
        Self::Unfinished,
    ];

    /// Returns the position in [`Self::ALL`].
    pub fn index(self) -> usize {
        self as usize
    }

    /// Returns the label.
    pub fn name(self) -> &'static str {
        match self {
            Self::PlainHttp => "plain_http",
            Self::Version => "version",
            Self::NothingInCommon => "nothing_in_common",
            Self::Certificate => "certificate",
            Self::Alert => "alert",
            Self::TooLong => "too_long",
            Self::Protocol => "protocol",
            Self::Unfinished => "unfinished",
        }
    }

    /// Sorts an error of rustls.
    pub(super) fn of(error: &Error) -> Self {
        match error {
            Error::PeerIncompatible(
                PeerIncompatible::Tls12NotOffered
                | PeerIncompatible::Tls12NotOfferedOrEnabled
                | PeerIncompatible::SupportedVersionsExtensionRequired
                // Clients of TLS 1.1 and older do not send it.
                | PeerIncompatible::SignatureAlgorithmsExtensionRequired
                | PeerIncompatible::ServerDoesNotSupportTls12Or13
                | PeerIncompatible::ServerTlsVersionIsDisabledByOurConfig,
            ) => Self::Version,
            Error::PeerIncompatible(_) | Error::NoApplicationProtocol => Self::NothingInCommon,
            Error::InvalidCertificate(_)
            | Error::NoCertificatesPresented
            | Error::InvalidCertRevocationList(_) => Self::Certificate,
            Error::AlertReceived(_) => Self::Alert,
            Error::PeerSentOversizedRecord => Self::TooLong,
            _ => Self::Protocol,
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::PlainHttp => "plaintext HTTP on the port for TLS",
            Self::Version => "no common TLS version",
            Self::NothingInCommon => "no common cipher suite, group, signature scheme or protocol",
            Self::Certificate => "the client's certificate is missing, invalid or revoked",
            Self::Alert => "the peer sent an alert",
            Self::TooLong => "the peer sent too much for a handshake or a record",
            Self::Protocol => "the bytes are not valid TLS",
            Self::Unfinished => "the connection ended before the handshake",
        })
    }
}

impl std::error::Error for Failure {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_has_its_position_and_its_own_label() {
        for (index, kind) in Failure::ALL.into_iter().enumerate() {
            assert_eq!(kind.index(), index);
            assert!(Failure::ALL[index + 1..].iter().all(|other| other.name() != kind.name()));
        }
    }
}
