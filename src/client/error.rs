//! Why a connection ended, and whether another try may go better.

use std::fmt;
use std::io;

use crate::base::error::StatusCode;
use crate::client::session::ServerFault;
use crate::process::terminal::escaped;
use crate::ws::CloseCode;
use crate::ws::handshake::Refusal;

/// Why a connection ended.
#[derive(Debug)]
pub enum ClientError {
    /// The address is none.
    Address(String),
    /// The socket.
    Io(io::Error),
    /// The handshake was refused.
    Refused(Refusal),
    /// The server closed the connection.
    Closed(Option<CloseCode>),
    /// The server broke the protocol.
    Broken(String),
}

impl ClientError {
    /// Whether another try may go better.
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Io(_) | Self::Closed(_) => true,
            // 429: the project has as many connections as it may have, perhaps one that was lost a moment ago.
            Self::Refused(refusal) => StatusCode(refusal.status.into()).is_transient(),
            Self::Address(_) | Self::Broken(_) => false,
        }
    }
}

impl fmt::Display for ClientError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(why) => f.write_str(&escaped(why)),
            Self::Io(error) => write!(f, "connection: {error}"),
            Self::Refused(refusal) => write!(f, "refused: {} {}", refusal.status, escaped(&refusal.reason)),
            Self::Closed(Some(code)) => write!(f, "the server closed the connection with code {}", code.0),
            Self::Closed(None) => f.write_str("the server closed the connection"),
            Self::Broken(how) => write!(f, "the server broke the protocol: {}", escaped(how)),
        }
    }
}

impl std::error::Error for ClientError {}

impl From<io::Error> for ClientError {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

impl From<ServerFault> for ClientError {
    fn from(fault: ServerFault) -> Self {
        Self::Broken(fault.0)
    }
}
