//! What went wrong on a TLS connection, and what to do about it.

use std::fmt;

use rustls::pki_types::UnixTime;
use rustls::{AlertDescription, CertificateError, Error};

use crate::base::clock::rfc3339;
use crate::base::millis::UnixMillis;

/// Where the trusted authorities come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RootsFrom {
    /// The system's store.
    System,
    /// This file.
    File(String),
    /// Nowhere: every certificate is accepted.
    Nowhere,
}

/// What a client asked for, to explain why it did not get it.
#[derive(Clone, Debug)]
pub struct Asked {
    /// Where the trusted authorities come from.
    pub roots: RootsFrom,
    /// Whether the client has a certificate.
    pub has_identity: bool,
}

/// The failure of a TLS connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    text: String,
    is_transient: bool,
}

impl Fault {
    /// Explains an error. `is_open` tells whether the handshake was complete.
    pub fn explain(error: &Error, asked: &Asked, is_open: bool) -> Self {
        match error {
            Error::InvalidCertificate(error) => Self::lasting(of_certificate(error, asked)),
            Error::AlertReceived(alert) => of_alert(*alert, asked, is_open),
            Error::InvalidMessage(_) if !is_open => Self::lasting(
                "the server did not answer with TLS: is this its plain port? Then write ws://".into(),
            ),
            Error::PeerIncompatible(_) | Error::NoApplicationProtocol => {
                let error = error.to_string();
                Self::lasting(format!("{error}; this client speaks TLS 1.2 and 1.3, and HTTP/1.1 over it"))
            }
            // What arrived is not what the server sent.
            Error::DecryptError | Error::InvalidMessage(_) | Error::PeerSentOversizedRecord => {
                Self { text: format!("the connection is damaged: {error}"), is_transient: true }
            }
            other => Self::lasting(other.to_string()),
        }
    }

    /// Describes a connection whose end is missing: the server did not say that it has sent everything.
    pub fn cut(is_open: bool) -> Self {
        let text = if is_open {
            "the connection was cut: it ended without the server's close_notify"
        } else {
            "the server closed the connection during the TLS handshake; is this its plain port?"
        };
        Self { text: text.into(), is_transient: true }
    }

    fn lasting(text: String) -> Self {
        Self { text, is_transient: false }
    }

    /// Returns whether a retry can help.
    pub fn is_transient(&self) -> bool {
        self.is_transient
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

fn of_certificate(error: &CertificateError, asked: &Asked) -> String {
    match error {
        CertificateError::UnknownIssuer => unknown_issuer(asked),
        // A trusted authority has the name of the issuer, and another key.
        CertificateError::BadSignature
        | CertificateError::UnsupportedSignatureAlgorithmForPublicKeyContext { .. } => {
            format!("{} (one with the same name is trusted, but it has another key)", unknown_issuer(asked))
        }
        CertificateError::NotValidForNameContext { expected, presented } => {
            let expected = expected.to_str();
            let names: Vec<&str> = presented.iter().map(|name| plain_name(name)).collect();
            if names.is_empty() {
                format!("the server's certificate names no host (subjectAltName), and the address names {expected}")
            } else {
                format!(
                    "the server's certificate is for {}, and the address names {expected}: use a name of the \
                     certificate in the address",
                    names.join(", ")
                )
            }
        }
        CertificateError::ExpiredContext { time, not_after } => format!(
            "the server's certificate expired at {}: renew it on the server (it is {} here)",
            at(*not_after),
            at(*time)
        ),
        CertificateError::NotValidYetContext { time, not_before } => format!(
            "the server's certificate is not valid before {}: check the clocks (it is {} here)",
            at(*not_before),
            at(*time)
        ),
        CertificateError::InvalidPurpose | CertificateError::InvalidPurposeContext { .. } => {
            "the server's certificate is not for servers (extendedKeyUsage must contain serverAuth)".into()
        }
        CertificateError::Other(other) if other.to_string().contains("CaUsedAsEndEntity") => {
            "the server's certificate is that of an authority (CA:TRUE), and must not be a server's: issue one \
             with CA:FALSE"
                .into()
        }
        other => format!("the server's certificate is not valid: {other}"),
    }
}

fn unknown_issuer(asked: &Asked) -> String {
    match &asked.roots {
        RootsFrom::File(file) => format!(
            "no authority in {file} has issued the server's certificate: name the file of its authority with --ca"
        ),
        _ => "no authority that this machine trusts has issued the server's certificate: if you know the \
              server's authority, name its file with --ca"
            .into(),
    }
}

fn of_alert(alert: AlertDescription, asked: &Asked, is_open: bool) -> Fault {
    use AlertDescription as Alert;
    let name = alert.as_str().map_or_else(|| format!("{alert:?}"), str::to_owned);
    let needs_certificate = "the server requires a certificate of the client: set --cert and --key";
    let text = match alert {
        Alert::CertificateRequired => needs_certificate.into(),
        // What servers send in TLS 1.2 when the client has no certificate.
        Alert::BadCertificate if !asked.has_identity => needs_certificate.into(),
        Alert::BadCertificate
        | Alert::UnsupportedCertificate
        | Alert::CertificateRevoked
        | Alert::CertificateExpired
        | Alert::CertificateUnknown
        | Alert::UnknownCA
        | Alert::AccessDenied => {
            format!("the server refused the certificate of the client ({name}): check --cert")
        }
        Alert::HandshakeFailure if !asked.has_identity => format!(
            "the server refused the handshake ({name}): it shares no cipher suite with this client, or \
             requires a certificate of the client (--cert and --key)"
        ),
        Alert::ProtocolVersion => "the server accepts neither TLS 1.2 nor TLS 1.3".into(),
        Alert::UnrecognisedName => "the server has no certificate for the name in the address".into(),
        _ if is_open => {
            return Fault { text: format!("the server ended the connection ({name})"), is_transient: true };
        }
        Alert::InternalError => {
            return Fault {
                text: format!("the server failed in the handshake ({name})"),
                is_transient: true,
            };
        }
        _ => format!("the server refused the handshake ({name})"),
    };
    Fault::lasting(text)
}

/// Returns a name of a certificate without the kind in front of it, such as `a.example` of
/// `DnsName("a.example")`.
fn plain_name(name: &str) -> &str {
    let inner = name.split_once('(').and_then(|(_, rest)| rest.strip_suffix(')'));
    inner.map_or(name, |inner| inner.trim_matches('"'))
}

fn at(time: UnixTime) -> String {
    let shown = rfc3339(UnixMillis::new(time.as_secs().saturating_mul(1_000)));
    shown.unwrap_or_else(|| format!("{} s (Unix time)", time.as_secs()))
}
