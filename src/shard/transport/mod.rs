//! The interface between a shard's turn and the socket of a connection.
//!
//! The core frames bytes and counts how many of them a transport has accepted. A transport with its own
//! encoding on the wire (TLS records) buffers the encoded bytes itself. It accepts framed bytes only as far
//! as it can buffer their encoded form, and reports how many it accepted, never how many it sent.
//!
//! | file | content |
//! | --- | --- |
//! | `plain` | TCP and Unix sockets |
//! | `secure` | TLS over another transport |
//! | `socket` | either of them |

mod plain;
mod secure;
mod socket;
#[cfg(test)]
mod tests;

pub use plain::Plain;
pub use secure::{AHEAD_BYTES, AHEAD_BYTES_PRESSED, KEPT_BYTES_MAX, News, Secure, Tls, wire_bytes};
pub use socket::Socket;

use std::io;

use crate::base::clock::Now;

/// The socket of one connection. Nothing here blocks.
pub trait Transport {
    /// Reads bytes that have arrived. Returns `None` if there are none, 0 at the end. After `None` the
    /// transport marks itself ready when more bytes arrive.
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<Option<usize>>;

    /// Reads like [`Self::read`], but below any encoding of the transport. For the PROXY header, which precedes
    /// the encoding.
    fn read_raw(&mut self, buffer: &mut [u8]) -> io::Result<Option<usize>> {
        self.read(buffer)
    }

    /// Accepts as many of `bytes` as it has room for. If it accepts fewer than all, it marks itself ready
    /// when it has room again.
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize>;

    /// Returns whether a read may find bytes.
    fn is_readable(&self) -> bool;

    /// Ends the sending direction, once. What is read afterwards may only be counted: an encoding does not
    /// decode it.
    fn shut_down(&mut self);

    /// Marks the connection ready, so that a later turn serves it.
    fn mark(&self);

    /// Clears the mark, because a turn serves the connection now.
    fn clear_mark(&mut self);

    /// Returns whether the transport has its own encoding on the wire. The methods below are only for such
    /// transports.
    fn is_encoded(&self) -> bool {
        false
    }

    /// Returns whether the encoding is still being negotiated. Then a read makes one step of that.
    fn is_handshaking(&self) -> bool {
        false
    }

    /// Returns how many encoded bytes the last read took from the socket.
    fn wire_bytes_read(&self) -> usize {
        0
    }

    /// Sends encoded bytes that the socket had no room for, as many as it accepts now.
    fn resume(&mut self) -> io::Result<()> {
        Ok(())
    }

    /// Removes and returns what the core must know. Called after the reads of a turn.
    fn take_news(&mut self, _now: Now) -> News {
        News::default()
    }
}
