//! TCP, or a Unix socket: a socket of a shard, and the waker that notes its slot.
//!
//! glommio's stream receives and sends with plain system calls that never block. If a call transfers less
//! than asked for, the stream arms a poll on the ring. Sockets have no buffers of their own.

use std::io;
use std::net::Shutdown;
use std::os::fd::AsRawFd;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use futures_lite::{AsyncRead, AsyncWrite};
use glommio::net::TcpStream;

use super::Transport;
use crate::shard::listener::{Accepted, SocketKind};
use crate::shard::parker::ReadyMark;

/// A connection without an encoding of its own.
#[derive(Debug)]
pub struct Plain {
    stream: TcpStream,
    mark: Arc<ReadyMark>,
    waker: Waker,
    /// Whether the socket may have bytes: the last read did not find it empty, or it was woken since.
    readable: bool,
    is_shut: bool,
}

impl Plain {
    /// Takes over an accepted or connected socket, for the connection in `slot`. Disables Nagle's algorithm of
    /// TCP.
    pub fn new(Accepted { socket, kind, .. }: Accepted, slot: u32) -> io::Result<Self> {
        if kind == SocketKind::Tcp {
            socket.set_nodelay(true)?;
        }
        // glommio's stream of TCP makes no call that a Unix socket lacks.
        socket.set_nonblocking(true)?;
        let (mark, waker) = ReadyMark::new(slot);
        Ok(Self { stream: TcpStream::from(socket), mark, waker, readable: true, is_shut: false })
    }
}

impl Transport for Plain {
    fn clear_mark(&mut self) {
        // The mark may mean that the socket is readable. A connection that is not read now must remember
        // that.
        self.mark.clear();
        self.readable = true;
    }

    fn mark(&self) {
        self.mark.mark();
    }

    fn is_readable(&self) -> bool {
        self.readable
    }

    fn read(&mut self, buffer: &mut [u8]) -> io::Result<Option<usize>> {
        let mut cx = Context::from_waker(&self.waker);
        match Pin::new(&mut self.stream).poll_read(&mut cx, buffer) {
            Poll::Ready(result) => {
                self.readable = true;
                result.map(Some)
            }
            Poll::Pending => {
                self.readable = false;
                Ok(None)
            }
        }
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut cx = Context::from_waker(&self.waker);
        let mut sent = 0;
        while sent < bytes.len() {
            match Pin::new(&mut self.stream).poll_write(&mut cx, &bytes[sent..]) {
                Poll::Ready(Ok(0)) => return Err(io::ErrorKind::WriteZero.into()),
                Poll::Ready(Ok(count)) => sent += count,
                Poll::Ready(Err(error)) => return Err(error),
                Poll::Pending => break,
            }
        }
        Ok(sent)
    }

    fn shut_down(&mut self) {
        if !self.is_shut {
            self.is_shut = true;
            // Fails if the peer has already disconnected, which does not matter.
            let _ = socket2::SockRef::from(&RawSocket(self.stream.as_raw_fd())).shutdown(Shutdown::Write);
        }
    }
}

/// Borrows the descriptor of a stream that stays open.
struct RawSocket(std::os::fd::RawFd);

impl AsRawFd for RawSocket {
    fn as_raw_fd(&self) -> std::os::fd::RawFd {
        self.0
    }
}
