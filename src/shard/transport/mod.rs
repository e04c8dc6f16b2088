//! How the bytes of a connection travel: what a shard's turn asks of a socket.
//!
//! The core frames bytes and counts how many of them a transport has taken. A transport that needs bytes of its own on the wire (TLS
//! records) keeps those itself: it takes framed bytes only as far as it can hold what becomes of them, and reports how many it
//! took, never how many it sent.
//!
//! | file | one concept |
//! | --- | --- |
//! | `plain` | TCP |

mod plain;

pub use plain::Plain;

use std::io;

/// The socket of one connection. Nothing here blocks.
pub trait Transport {
    /// Reads what has come: `None` if there is nothing, 0 at the end. After `None` the transport marks itself ready once more has
    /// come.
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<Option<usize>>;

    /// Takes as many of `bytes` as it has room for. If it takes fewer than all, it marks itself ready once it has room again.
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize>;

    /// Whether a read may find something.
    fn is_readable(&self) -> bool;

    /// Ends our direction, once.
    fn shut_down(&mut self);

    /// Marks the connection ready: a later turn serves it.
    fn mark(&self);

    /// A turn serves the connection now.
    fn clear_mark(&mut self);
}
