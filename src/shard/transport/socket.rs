//! The socket of a connection of the server: plain, or with TLS.

use std::io;

use super::{News, Plain, Secure, Transport};
use crate::base::clock::Now;

/// A socket of the server, on a plain transport: TCP or a Unix socket; in the simulation another one.
#[derive(Debug)]
pub enum Socket<T = Plain> {
    /// The plain transport itself.
    Plain(T),
    /// TLS over it.
    Secure(Box<Secure<T>>),
}

/// Calls a method of the transport inside.
macro_rules! inner {
    ($socket:expr, $transport:ident => $call:expr) => {
        match $socket {
            Self::Plain($transport) => $call,
            Self::Secure($transport) => $call,
        }
    };
}

impl<T: Transport> Transport for Socket<T> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<Option<usize>> {
        inner!(self, transport => transport.read(buffer))
    }

    fn read_raw(&mut self, buffer: &mut [u8]) -> io::Result<Option<usize>> {
        inner!(self, transport => transport.read_raw(buffer))
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        inner!(self, transport => transport.write(bytes))
    }

    fn is_readable(&self) -> bool {
        inner!(self, transport => transport.is_readable())
    }

    fn shut_down(&mut self) {
        inner!(self, transport => transport.shut_down());
    }

    fn mark(&self) {
        inner!(self, transport => transport.mark());
    }

    fn clear_mark(&mut self) {
        inner!(self, transport => transport.clear_mark());
    }

    #[inline]
    fn is_encoded(&self) -> bool {
        matches!(self, Self::Secure(_))
    }

    fn is_handshaking(&self) -> bool {
        inner!(self, transport => transport.is_handshaking())
    }

    fn wire_bytes_read(&self) -> usize {
        inner!(self, transport => transport.wire_bytes_read())
    }

    fn resume(&mut self) -> io::Result<()> {
        inner!(self, transport => transport.resume())
    }

    fn take_news(&mut self, now: Now) -> News {
        inner!(self, transport => transport.take_news(now))
    }
}
