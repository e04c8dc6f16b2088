//! The acceptor: one thread that takes connections and gives each to the shard with the fewest.
//!
//! One listening socket without SO_REUSEPORT, so that a second server on the port fails to start; and because the
//! kernel's hashing is uneven when connections are few.
//!
//! A shard that stands still, or whose inbox is full, is passed over: the others serve on. A shard that stands still gets a connection
//! only if no other moves. Beyond the connections that the limit of open files leaves room for (`descriptors`) a connection gets 503 and
//! is closed.

use std::io;
use std::net::{Shutdown, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use socket2::{Domain, Protocol, Socket, Type};

use super::delivery::Delivery;
use super::driver::Shared;
use super::inbox::Sender;
use super::parker::Heartbeat;

/// How long to wait when descriptors or memory have run out, before trying again.
const OUT_OF_RESOURCES_WAIT: Duration = Duration::from_millis(50);
/// How long to wait when no shard that moves has room in its inbox, before trying again.
const ALL_FULL_WAIT: Duration = Duration::from_millis(1);
/// The reason that the client gets where there is no room.
const NO_FILES: &str =
    "the server has no room for more connections: each takes one of its open files, whose number is limited";

/// A listening socket. Clones are the same.
#[derive(Clone, Debug)]
pub struct Listener {
    socket: Arc<Socket>,
    is_closed: Arc<AtomicBool>,
    connections_max: usize,
}

/// A shard as the acceptor sees it.
#[derive(Clone, Debug)]
pub struct Target {
    /// Its inbox.
    pub sender: Sender<Delivery>,
    /// Its pulse.
    pub heartbeat: Arc<Heartbeat>,
}

impl Listener {
    /// Binds and listens; `backlog` connections may wait to be accepted.
    pub fn bind(address: SocketAddr, backlog: u32) -> io::Result<Self> {
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
        socket.set_reuse_address(true)?;
        socket.bind(&address.into())?;
        socket.listen(i32::try_from(backlog).unwrap_or(i32::MAX))?;
        Ok(Self { socket: Arc::new(socket), is_closed: Arc::default(), connections_max: usize::MAX })
    }

    /// Bounds the connections that are open at once on all shards together; without it only `max_connections` does.
    #[must_use]
    pub fn with_connections_max(self, connections_max: usize) -> Self {
        Self { connections_max, ..self }
    }

    /// Where it listens.
    pub fn local_address(&self) -> io::Result<SocketAddr> {
        self.socket.local_addr()?.as_socket().ok_or_else(|| io::ErrorKind::Unsupported.into())
    }

    /// Ends [`Self::run`], on whatever thread it runs.
    pub fn close(&self) {
        self.is_closed.store(true, Ordering::Relaxed);
        // Fails only where it was closed before.
        let _ = self.socket.shutdown(Shutdown::Both);
    }

    /// Accepts until it is closed.
    pub fn run(&self, shards: &[Target], shared: &Shared) {
        let (mut out_of_resources, mut is_full) = (false, false);
        loop {
            match self.socket.accept() {
                Ok((socket, peer)) => {
                    out_of_resources = false;
                    let open: usize =
                        shared.connections.iter().map(|count| count.load(Ordering::Relaxed)).sum();
                    if open < self.connections_max {
                        is_full = false;
                        self.hand_over(socket, peer.as_socket(), shards, shared);
                        continue;
                    }
                    if !is_full {
                        is_full = true;
                        tracing::error!(
                            connections = open,
                            "connections are refused with 503: the limit of open files leaves no room for more; raise it"
                        );
                    }
                    shared.refused_by_acceptor.fetch_add(1, Ordering::Relaxed);
                    shared.refuser.refuse(socket, NO_FILES);
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

    /// Gives a connection to the shard with the fewest of those that move and have room. Waits while none of them has room, and drops
    /// the connection where the listener is closed meanwhile.
    fn hand_over(&self, socket: Socket, peer: Option<SocketAddr>, shards: &[Target], shared: &Shared) {
        let mut delivery = Delivery::Socket(socket, peer);
        loop {
            let stands_still = |shard: &Target| shard.heartbeat.stands_still();
            let none_moves = shards.iter().all(stands_still);
            let mut order: Vec<(&Target, _)> = shards
                .iter()
                .zip(&shared.connections)
                .filter(|&(shard, _)| none_moves || !stands_still(shard))
                .collect();
            order.sort_by_cached_key(|(_, count)| count.load(Ordering::Relaxed));
            for (shard, count) in order {
                // Before the shard can count it as gone.
                count.fetch_add(1, Ordering::Relaxed);
                match shard.sender.send(delivery) {
                    Ok(()) => return,
                    Err(back) => {
                        count.fetch_sub(1, Ordering::Relaxed);
                        delivery = back;
                    }
                }
            }
            if self.is_closed.load(Ordering::Relaxed) {
                return;
            }
            std::thread::sleep(ALL_FULL_WAIT);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shard::inbox::{Inbox, inbox};
    use crate::shard::refuser::Refuser;
    use std::io::{Read, Write};
    use std::net::TcpStream;
    use std::sync::atomic::AtomicUsize;
    use std::time::Instant;

    /// An acceptor at work for two shards that take nothing by themselves; the inbox of the first has room for `room` deliveries.
    struct Rig {
        listener: Listener,
        address: SocketAddr,
        targets: Vec<Target>,
        inboxes: Vec<Inbox<Delivery>>,
        shared: Arc<Shared>,
    }

    impl Rig {
        fn new(room: usize, connections_max: usize) -> Self {
            let listener = Listener::bind(([127, 0, 0, 1], 0).into(), 64).unwrap();
            let listener = listener.with_connections_max(connections_max);
            let address = listener.local_address().unwrap();
            let (senders, inboxes): (Vec<_>, Vec<_>) = [inbox(room), inbox(8)].into_iter().unzip();
            let target = |sender| Target { sender, heartbeat: Arc::default() };
            let shared = Arc::new(Shared {
                connections: vec![AtomicUsize::new(0), AtomicUsize::new(5)],
                drained: AtomicUsize::new(0),
                refused_by_acceptor: Arc::default(),
                refuser: Refuser::start().unwrap(),
                epoch: Instant::now(),
            });
            Self { listener, address, targets: senders.into_iter().map(target).collect(), inboxes, shared }
        }

        fn run(&self) -> std::thread::JoinHandle<()> {
            let (listener, targets, shared) =
                (self.listener.clone(), self.targets.clone(), self.shared.clone());
            std::thread::spawn(move || listener.run(&targets, &shared))
        }

        fn dial(&self) -> TcpStream {
            let stream = TcpStream::connect(self.address).unwrap();
            stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
            stream
        }

        /// Waits until a shard's inbox holds that many deliveries.
        fn await_depth(&self, shard: usize, depth: usize) {
            let until = Instant::now() + Duration::from_secs(20);
            while self.inboxes[shard].depth() < depth {
                assert!(Instant::now() < until, "{} of {depth}", self.inboxes[shard].depth());
                std::thread::yield_now();
            }
        }
    }

    #[test]
    fn a_shard_without_room_is_passed_over() {
        let rig = Rig::new(1, usize::MAX);
        let thread = rig.run();
        let _held: Vec<TcpStream> = (0..4).map(|_| rig.dial()).collect();
        // The first is given one, which fills its inbox although it has the fewest connections.
        rig.await_depth(1, 3);
        assert_eq!(rig.inboxes[0].depth(), 1);
        let counts: Vec<usize> =
            rig.shared.connections.iter().map(|count| count.load(Ordering::Relaxed)).collect();
        assert_eq!(counts, [1, 8]);
        rig.listener.close();
        thread.join().unwrap();
    }

    #[test]
    fn a_shard_that_stands_still_gets_no_connections_until_it_moves() {
        let rig = Rig::new(8, usize::MAX);
        rig.targets[0].heartbeat.set_stands_still(true);
        let thread = rig.run();
        let mut held: Vec<TcpStream> = (0..3).map(|_| rig.dial()).collect();
        rig.await_depth(1, 3);
        assert_eq!(rig.inboxes[0].depth(), 0);
        rig.targets[0].heartbeat.set_stands_still(false);
        held.push(rig.dial());
        rig.await_depth(0, 1);
        rig.listener.close();
        thread.join().unwrap();
    }

    #[test]
    fn a_shard_that_stands_still_gets_none_because_the_others_are_full() {
        let rig = Rig::new(8, usize::MAX);
        rig.targets[0].heartbeat.set_stands_still(true);
        while rig.targets[1].sender.send(Delivery::StoreNews).is_ok() {}
        // Closed, it tries once.
        rig.listener.close();
        let hand_over = || {
            let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
            rig.listener.hand_over(socket, None, &rig.targets, &rig.shared);
            rig.inboxes[0].depth()
        };
        assert_eq!(hand_over(), 0, "the other has no room for a moment");
        rig.targets[1].heartbeat.set_stands_still(true);
        assert_eq!(hand_over(), 1, "no shard moves");
    }

    #[test]
    fn beyond_the_room_for_connections_the_answer_is_503_and_then_it_goes_on() {
        let rig = Rig::new(8, 7);
        let thread = rig.run();
        let _held: Vec<TcpStream> = (0..2).map(|_| rig.dial()).collect();
        rig.await_depth(0, 2);
        let mut refused = rig.dial();
        refused.write_all(b"GET / HTTP/1.1\r\nHost: here\r\n\r\n").unwrap();
        let mut text = String::new();
        refused.read_to_string(&mut text).unwrap();
        assert!(text.starts_with("HTTP/1.1 503 ") && text.contains("open files"), "{text}");
        assert!(!text.contains("max_connections"), "{text}");
        assert_eq!(rig.shared.refused_by_acceptor.load(Ordering::Relaxed), 1);
        rig.shared.connections[1].fetch_sub(1, Ordering::Relaxed);
        let _next = rig.dial();
        rig.await_depth(0, 3);
        rig.listener.close();
        thread.join().unwrap();
    }

    #[test]
    fn closing_ends_it_although_no_shard_has_room() {
        let rig = Rig::new(1, usize::MAX);
        while rig.targets[1].sender.send(Delivery::StoreNews).is_ok() {}
        let thread = rig.run();
        let _held: Vec<TcpStream> = (0..3).map(|_| rig.dial()).collect();
        rig.await_depth(0, 1);
        rig.listener.close();
        thread.join().unwrap();
    }
}
