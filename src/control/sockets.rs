//! The sockets of the control port: TCP and Unix sockets, bound before anything else starts.

use std::io;
use std::net::{self, SocketAddr};
use std::os::fd::AsFd;
use std::path::Path;
use std::sync::Arc;

use socket2::SockRef;
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};

use super::way::Way;
use crate::shard::address::{Address, Addresses, FileMode};
use crate::shard::listener::Listener;

/// Connections that may wait at a socket to be accepted.
const BACKLOG: u32 = 128;

/// The size of a socket's send buffer, in bytes (the kernel doubles it). With a larger buffer, a client that
/// reads nothing would seem to read.
const SEND_BUFFER_BYTES: usize = 256 << 10;

/// The listening sockets of the control port. Clones share them.
#[derive(Clone, Debug)]
pub(super) struct Sockets(Arc<[Listening]>);

/// A listening socket.
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
    pub(super) fn inherited(socket: net::TcpListener) -> io::Result<Self> {
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

    /// Returns a handle on the same socket for the runtime that this is called on.
    fn acceptor(&self) -> io::Result<Acceptor> {
        let socket = self.listener.as_fd().try_clone_to_owned()?;
        Ok(match &self.address {
            Address::Tcp(address) => {
                let is_local = address.ip().to_canonical().is_loopback();
                Acceptor::Tcp(TcpListener::from_std(socket.into())?, is_local)
            }
            Address::Unix(_) => Acceptor::Unix(UnixListener::from_std(socket.into())?),
        })
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

    /// Returns the sockets for the runtime that this is called on.
    pub(super) fn acceptors(&self) -> io::Result<Vec<Acceptor>> {
        self.0.iter().map(Listening::acceptor).collect()
    }
}

/// A listening socket, for tokio.
#[derive(Debug)]
pub(super) enum Acceptor {
    /// Also tells whether only this machine reaches it.
    Tcp(TcpListener, bool),
    Unix(UnixListener),
}

impl Acceptor {
    /// Waits for a connection.
    pub(super) async fn accept(&self) -> io::Result<(Stream, Way)> {
        match self {
            Self::Tcp(listener, is_local) => {
                let (stream, peer) = listener.accept().await?;
                SockRef::from(&stream).set_send_buffer_size(SEND_BUFFER_BYTES)?;
                let peer = SocketAddr::new(peer.ip().to_canonical(), peer.port());
                Ok((Stream::Tcp(stream), Way::Tcp { peer, is_local: *is_local }))
            }
            Self::Unix(listener) => {
                let (stream, _) = listener.accept().await?;
                SockRef::from(&stream).set_send_buffer_size(SEND_BUFFER_BYTES)?;
                let peer = stream.peer_cred()?;
                Ok((Stream::Unix(stream), Way::Unix { uid: peer.uid(), gid: peer.gid(), pid: peer.pid() }))
            }
        }
    }
}
