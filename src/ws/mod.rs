//! RFC 6455 without I/O: handshake, origins, frames, masking, control frames and close rules, for server and
//! client.
//!
//! Takes bytes and returns pieces of frames. Never touches sockets or clocks, and never waits for the end of
//! a frame or of a WebSocket message.

pub mod frame;
pub mod handshake;
pub mod mask;
pub mod origin;
mod receiver;
mod sender;

pub use receiver::{ControlPayload, Input, MessageKind, Receiver};
pub use sender::Sender;

/// Our side of the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Receives masked frames, sends unmasked ones.
    Server,
    /// Receives unmasked frames, sends masked ones.
    Client,
}

/// The code of a close frame (RFC 6455 section 7.4).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct CloseCode(pub u16);

impl CloseCode {
    /// The server is shutting down, or the peer was silent for too long.
    pub const AWAY: Self = Self(1001);
    /// The peer broke a rule of RFC 6455.
    pub const PROTOCOL: Self = Self(1002);
    /// The peer sent a text message where only binary messages are accepted.
    pub const UNSUPPORTED: Self = Self(1003);
    /// The peer sent text that is not valid UTF-8.
    pub const INVALID_UTF8: Self = Self(1007);
    /// The peer sent a message that is larger than the server accepts.
    pub const TOO_LARGE: Self = Self(1009);
    /// The server has failed: its handler of the connection panicked.
    pub const INTERNAL: Self = Self(1011);
    /// The peer sent more than `discard_limit_bytes` of a half that is discarded.
    pub const POLICY: Self = Self(1008);
    /// The grant of a client of the Zaqar API has ended. The code is that API's.
    pub const AUTHENTICATION_EXPIRED: Self = Self(4003);

    /// Parses the payload of a close frame: empty, or a code that may be sent and a reason in UTF-8.
    ///
    /// Returns the code to close with if the payload is invalid.
    pub fn parse(payload: &[u8]) -> Result<Option<Self>, Self> {
        match payload {
            [] => Ok(None),
            [_] => Err(Self::PROTOCOL),
            [high, low, reason @ ..] => {
                let code = u16::from_be_bytes([*high, *low]);
                if !matches!(code, 1000..=1003 | 1007..=1014 | 3000..=4999) {
                    Err(Self::PROTOCOL)
                } else if std::str::from_utf8(reason).is_err() {
                    Err(Self::INVALID_UTF8)
                } else {
                    Ok(Some(Self(code)))
                }
            }
        }
    }
}
