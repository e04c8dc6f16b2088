//! The acceptor: one thread that takes connections and gives each to the shard with the fewest.
//!
//! One listening socket without SO_REUSEPORT, so that a second server on the port fails to start; and because the
//! kernel's hashing is uneven when connections are few.

use std::io;
use std::net::{Shutdown, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use socket2::{Domain, Protocol, Socket, Type};

use super::delivery::Delivery;
use super::driver::Shared;
use super::inbox::Sender;

/// How long to wait when descriptors or memory have run out, before trying again.
const OUT_OF_RESOURCES_WAIT: Duration = Duration::from_millis(50);

/// A listening socket.
#[derive(Clone, Debug)]
pub struct Listener(Arc<Socket>);

impl Listener {
    /// Binds and listens; `backlog` connections may wait to be accepted.
    pub fn bind(address: SocketAddr, backlog: u32) -> io::Result<Self> {
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
        socket.set_reuse_address(true)?;
        socket.bind(&address.into())?;
        socket.listen(i32::try_from(backlog).unwrap_or(i32::MAX))?;
        Ok(Self(Arc::new(socket)))
    }

    /// Where it listens.
    pub fn local_address(&self) -> io::Result<SocketAddr> {
        self.0.local_addr()?.as_socket().ok_or_else(|| io::ErrorKind::Unsupported.into())
    }

    /// Ends [`Self::run`], on whatever thread it runs.
    pub fn close(&self) {
        // Fails only where it was closed before.
        let _ = self.0.shutdown(Shutdown::Both);
    }

    /// Accepts until it is closed.
    pub fn run(&self, shards: &[Sender<Delivery>], shared: &Shared) {
        let mut out_of_resources = false;
        loop {
            match self.0.accept() {
                Ok((socket, peer)) => {
                    out_of_resources = false;
                    hand_over(socket, peer.as_socket(), shards, shared);
                }
                Err(error) => match error.raw_os_error() {
                    // Closed.
                    Some(libc::EINVAL | libc::EBADF) => return,
                    Some(libc::EMFILE | libc::ENFILE | libc::ENOBUFS | libc::ENOMEM) => {
                        if !out_of_resources {
                            out_of_resources = true;
                            tracing::error!(%error, "no connection can be accepted; raise the limit of open files");
                        }
                        std::thread::sleep(OUT_OF_RESOURCES_WAIT);
                    }
                    // The peer went while it waited in the backlog (accept(2)).
                    _ => {}
                },
            }
        }
    }
}

fn hand_over(socket: Socket, peer: Option<SocketAddr>, shards: &[Sender<Delivery>], shared: &Shared) {
    let fewest = shared.connections.iter().enumerate().min_by_key(|(_, count)| count.load(Ordering::Relaxed));
    let Some((shard, count)) = fewest else { return };
    count.fetch_add(1, Ordering::Relaxed);
    let mut delivery = Delivery::Socket(socket, peer);
    while let Err(back) = shards[shard].send(delivery) {
        delivery = back;
        std::thread::sleep(Duration::from_millis(1));
    }
}
