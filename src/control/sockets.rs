//! The sockets of the control port: TCP and Unix sockets, bound before anything else starts.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::path::Path;
use std::sync::Arc;

use socket2::Socket;
use tokio::io::unix::AsyncFd;
use tokio::net::{TcpStream, UnixStream};

use super::rights::Way;
use crate::shard::address::{Address, Addresses, FileMode};
use crate::shard::listener::{Accepted, Listener, SocketKind};

/// Connections that may wait at a socket to be accepted.
const BACKLOG: u32 = 128;

/// The size of a socket's send buffer, in bytes (the kernel doubles it). With a larger buffer, a client that
/// reads nothing would seem to read.
const SEND_BUFFER_BYTES: usize = 256 << 10;

/// The listening sockets of the control port. Clones share them.
#[derive(Clone, Debug)]
pub(super) struct Sockets(Arc<[Listening]>);

/// A listening socket, for tokio.
#[derive(Debug)]
pub(super) struct Listening {
    listener: Listener,
    address: Address,
}

/// An accepted connection.
#[derive(Debug)]
pub(super) enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl Listening {
    fn new(listener: Listener) -> io::Result<Self> {
        let address = listener.address()?;
        Ok(Self { listener, address })
    }

    /// Takes over a socket that listens already.
    pub(super) fn inherited(socket: TcpListener) -> io::Result<Self> {
        Self::new(Listener::inherited(socket)?)
    }

    /// Binds to all addresses. The files of Unix sockets get the permissions `mode`.
    pub(super) fn bind(addresses: &Addresses, mode: FileMode) -> io::Result<Vec<Self>> {
        Listener::bind_all(addresses, BACKLOG, mode)?.into_iter().map(Self::new).collect()
    }

    /// Binds to a Unix socket in a directory that this process has locked.
    pub(super) fn bind_in_own_directory(path: &Path, mode: FileMode) -> io::Result<Self> {
        Self::new(Listener::bind_in_own_directory(path, BACKLOG, mode)?)
    }

    pub(super) fn address(&self) -> &Address {
        &self.address
    }

    /// Returns whether only this machine reaches it. `localhost` is not always 127.0.0.1.
    fn is_local(&self) -> bool {
        self.address.tcp().is_none_or(|address| address.ip().to_canonical().is_loopback())
    }
}

impl Sockets {
    pub(super) fn new(all: Vec<Listening>) -> Self {
        Self(all.into())
    }

    pub(super) fn count(&self) -> usize {
        self.0.len()
    }

    /// Removes the files of Unix sockets.
    pub(super) fn remove_files(&self) {
        self.0.iter().for_each(|one| one.listener.remove_file());
    }

    /// Registers them with the runtime that this is called on.
    pub(super) fn register(&self) -> io::Result<Vec<AsyncFd<Registered>>> {
        let one = |index| Ok(AsyncFd::register(Registered { of: self.clone(), index })?);
        (0..self.0.len()).map(one).collect()
    }
}

/// One of the sockets.
#[derive(Debug)]
pub(super) struct Registered {
    of: Sockets,
    index: usize,
}

impl Registered {
    fn listening(&self) -> &Listening {
        &self.of.0[self.index]
    }
}

impl AsRawFd for Registered {
    fn as_raw_fd(&self) -> RawFd {
        self.as_fd().as_raw_fd()
    }
}

impl AsFd for Registered {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.listening().listener.as_fd()
    }
}

/// Waits for a connection.
pub(super) async fn accept(socket: &AsyncFd<Registered>) -> io::Result<(Stream, Way)> {
    loop {
        let mut ready = socket.readable().await?;
        let accepted = ready.try_io(|socket| socket.get_ref().listening().listener.accept());
        let Ok(accepted) = accepted else { continue };
        let (Accepted { socket: accepted, kind, .. }, _) = accepted?;
        return take_over(accepted, kind, socket.get_ref().listening().is_local());
    }
}

fn take_over(accepted: Socket, kind: SocketKind, is_local: bool) -> io::Result<(Stream, Way)> {
    accepted.set_nonblocking(true)?;
    accepted.set_send_buffer_size(SEND_BUFFER_BYTES)?;
    match kind {
        SocketKind::Tcp => {
            let stream = TcpStream::from_std(accepted.into())?;
            let peer: SocketAddr = stream.peer_addr()?;
            let peer = SocketAddr::new(peer.ip().to_canonical(), peer.port());
            Ok((Stream::Tcp(stream), Way::Tcp { peer, is_local }))
        }
        SocketKind::Unix => {
            let stream = UnixStream::from_std(accepted.into())?;
            let peer = stream.peer_cred()?;
            let way = Way::Unix { uid: peer.uid(), gid: peer.gid(), pid: peer.pid() };
            Ok((Stream::Unix(stream), way))
        }
    }
}
