//! A listening socket that outlives the server: its service manager holds it, too.
//!
//! Such a socket must not be shut down: that would end it for the next server, and reset the connections that
//! wait in its backlog. So another event ends the wait for connections.

use std::io;
use std::net::TcpListener;
use std::os::fd::OwnedFd;

use rustix::event::{EventfdFlags, PollFd, PollFlags, eventfd, poll};
use socket2::{SockAddr, Socket};

/// The socket, and the event that ends the wait.
#[derive(Debug)]
pub(super) struct Lasting {
    socket: TcpListener,
    end: OwnedFd,
}

impl Lasting {
    /// Takes over a socket that listens. It no longer blocks.
    pub(super) fn new(socket: TcpListener) -> io::Result<Self> {
        socket.set_nonblocking(true)?;
        Ok(Self { socket, end: eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)? })
    }

    /// Ends [`Self::accept`] on any thread, now and later.
    pub(super) fn end(&self) {
        // Fails only after 2^64 - 1 calls.
        let _ = rustix::io::write(&self.end, &1_u64.to_ne_bytes());
    }

    /// Waits for a connection. Fails with EBADF after [`Self::end`], even if connections wait.
    pub(super) fn accept(&self) -> io::Result<(Socket, SockAddr)> {
        loop {
            let mut ready = [PollFd::new(&self.end, PollFlags::IN), PollFd::new(&self.socket, PollFlags::IN)];
            match poll(&mut ready, None) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
            if !ready[0].revents().is_empty() {
                return Err(io::Error::from_raw_os_error(libc::EBADF));
            }
            match self.socket.accept() {
                // The peer has left meanwhile.
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                accepted => return accepted.map(|(socket, peer)| (socket.into(), peer.into())),
            }
        }
    }
}
