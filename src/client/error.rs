//! The reasons why a connection ended, and whether a retry can help.

use std::fmt;
use std::io;
use std::time::Duration;

use crate::base::error::StatusCode;
use crate::client::session::{ServerFault, UNAUTHORIZED};
use crate::process::terminal::escaped;
use crate::tls::client::Fault;
use crate::ws::CloseCode;
use crate::ws::handshake::Refusal;

/// The most characters that are shown of a server's reason for a refusal.
const REASON_CHARS_MAX: usize = 300;

/// The reason why a connection ended.
#[derive(Debug)]
pub enum ClientError {
    /// The address is invalid. The text says why.
    Address(String),
    /// An error of the socket or of name resolution.
    Io(io::Error),
    /// The server refused the handshake.
    Refused(Refusal),
    /// The server closed the connection, with a close code if it sent one.
    Closed(Option<CloseCode>),
    /// No token could be obtained. The text names the source and says why.
    Token(String),
    /// TLS failed.
    Tls(Fault),
    /// The server did not do what it was asked. The text says what, and the server's reason.
    Failed(String),
    /// The server violated the protocol. The text says how.
    Broken(String),
}

impl ClientError {
    /// Returns whether a retry can help.
    pub fn is_transient(&self) -> bool {
        match self {
            // A file may be absent for a moment while it is replaced.
            Self::Io(_) | Self::Closed(_) | Self::Token(_) => true,
            // A 429 is transient: the project has reached its limit of connections, and a lost connection may
            // still count.
            Self::Refused(refusal) => StatusCode(refusal.status.into()).is_transient(),
            Self::Tls(fault) => fault.is_transient(),
            Self::Address(_) | Self::Failed(_) | Self::Broken(_) => false,
        }
    }

    /// Returns whether the server refused the handshake because it does not know the client.
    pub(super) fn is_unauthorized(&self) -> bool {
        matches!(self, Self::Refused(refusal) if StatusCode(refusal.status.into()) == UNAUTHORIZED)
    }

    /// Returns how long the server asks to wait before a retry.
    pub(super) fn retry_after(&self) -> Duration {
        match self {
            Self::Refused(refusal) => Duration::from_secs(refusal.retry_after.unwrap_or(0).into()),
            _ => Duration::ZERO,
        }
    }
}

impl fmt::Display for ClientError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(why) | Self::Failed(why) => f.write_str(&escaped(why)),
            Self::Io(error) => write!(f, "connection: {error}"),
            Self::Refused(refusal) if refusal.status == 200 => f.write_str(
                "the server answered 200: it speaks HTTP, but not WebSocket there; is this the address of the control port?",
            ),
            Self::Refused(refusal) => {
                let mut reason = refusal.reason.chars();
                let shown: String = reason.by_ref().take(REASON_CHARS_MAX).collect();
                let rest = if reason.next().is_some() { "…" } else { "" };
                write!(f, "refused: {} {}{rest}", refusal.status, escaped(&shown))
            }
            Self::Closed(Some(code)) => write!(f, "the server closed the connection with code {}", code.0),
            Self::Closed(None) => f.write_str("the server closed the connection"),
            Self::Token(why) => f.write_str(&escaped(why)),
            Self::Tls(fault) => write!(f, "TLS: {}", escaped(&fault.to_string())),
            Self::Broken(how) => write!(f, "the server violated the protocol: {}", escaped(how)),
        }
    }
}

impl std::error::Error for ClientError {}

impl From<io::Error> for ClientError {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

impl From<Fault> for ClientError {
    fn from(fault: Fault) -> Self {
        Self::Tls(fault)
    }
}

impl From<ServerFault> for ClientError {
    fn from(fault: ServerFault) -> Self {
        Self::Broken(fault.0)
    }
}
