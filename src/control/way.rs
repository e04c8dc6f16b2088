//! The way by which a request comes: who is at the other end of its connection.

use std::fmt;
use std::net::SocketAddr;

/// The other end of a connection.
#[derive(Clone, Copy, Debug)]
pub(super) enum Way {
    /// A process that may open the Unix socket. The system names it.
    Unix { uid: u32, gid: u32, pid: Option<i32> },
    /// A TCP connection. `is_local` tells whether the server's address is a loopback address.
    Tcp { peer: SocketAddr, is_local: bool },
}

impl fmt::Display for Way {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix { uid, gid, pid: Some(pid) } => write!(f, "uid {uid} gid {gid} pid {pid}"),
            Self::Unix { uid, gid, pid: None } => write!(f, "uid {uid} gid {gid}"),
            Self::Tcp { peer, .. } => peer.fmt(f),
        }
    }
}
