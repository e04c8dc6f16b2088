//! RFC 6455 without I/O: handshake, origins, frames, masking, control frames, close rules, server and client side.
//!
//! Bytes in, pieces of frames out. Never touches sockets or clocks, never waits for the end of a frame or
//! of a wsmessage.

pub mod frame;
pub mod handshake;
pub mod mask;
pub mod origin;
mod receiver;
mod sender;

pub use receiver::{ControlPayload, Input, MessageKind, Receiver};
pub use sender::Sender;

/// Which side of the connection we are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Receives masked frames, sends unmasked ones.
    Server,
    /// The other way round.
    Client,
}

/// The code of a close frame (RFC 6455 section 7.4).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct CloseCode(pub u16);

impl CloseCode {
    /// The server stops, or the peer was silent for too long.
    pub const AWAY: Self = Self(1001);
    /// A rule of RFC 6455 was broken.
    pub const PROTOCOL: Self = Self(1002);
    /// A text wsmessage, where only binary ones mean something.
    pub const UNSUPPORTED: Self = Self(1003);
    /// Text that is no UTF-8.
    pub const INVALID_UTF8: Self = Self(1007);
    /// The server's own fault.
    pub const INTERNAL: Self = Self(1011);
    /// More than `discard_limit_bytes` of a discarded half.
    pub const POLICY: Self = Self(1008);

    /// Reads a close frame's payload: nothing, or a code that may be sent and a reason in UTF-8.
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
