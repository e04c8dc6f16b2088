//! The acceptor: a thread that accepts connections, and gives each to the shard with the fewest connections.
//!
//! Each address has one listening socket without SO_REUSEPORT, for two reasons: a second server on the same
//! port fails to start, and the kernel's hashing distributes few connections unevenly.
//!
//! A shard that has stalled, or whose inbox is full, is skipped, so that the others continue to serve. A
//! stalled shard gets connections only if all shards have stalled. If the limit of open files leaves no room
//! for a connection (`descriptors`), the connection gets 503 and is closed.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rustix::event::{EventfdFlags, PollFd, PollFlags, eventfd, poll};

use super::address::Addresses;
use super::core::Peer;
use super::delivery::Delivery;
use super::driver::Shared;
use super::inbox::Sender;
use super::listener::{Accepted, Listener};
use super::parker::Heartbeat;

/// How long to wait before trying again when descriptors or memory are exhausted.
const OUT_OF_RESOURCES_WAIT: Duration = Duration::from_millis(50);
/// How long to wait before trying again when no shard takes the connection, because it has stalled or its
/// inbox is full.
const ALL_FULL_WAIT: Duration = Duration::from_millis(1);
/// The most connections to accept from one listening socket before the others have their turn.
const ACCEPTS_PER_LOOK: usize = 64;
/// The reason in the 503 of the acceptor.
const NO_FILES: &str = "the server has no room for more connections: its limit of open files is reached";

/// The listening sockets of a server. Clones share them.
#[derive(Clone, Debug)]
pub struct Acceptor {
    listeners: Arc<Vec<Listener>>,
    is_closed: Arc<AtomicBool>,
    /// [`Self::run`] has returned.
    has_ended: Arc<AtomicBool>,
    /// Wakes the acceptor when it is closed.
    end: Arc<OwnedFd>,
    connections_max: usize,
}

/// A shard as the acceptor sees it.
#[derive(Clone, Debug)]
pub struct Target {
    /// The sender to its inbox.
    pub sender: Sender<Delivery>,
    /// Shows whether it has stalled.
    pub heartbeat: Arc<Heartbeat>,
}

impl Acceptor {
    /// Accepts from these sockets.
    pub fn new(listeners: Vec<Listener>) -> io::Result<Self> {
        let end = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        Ok(Self {
            listeners: Arc::new(listeners),
            is_closed: Arc::default(),
            has_ended: Arc::default(),
            end: Arc::new(end),
            connections_max: usize::MAX,
        })
    }

    /// Limits the open connections of all shards together. Without it only `max_connections` applies.
    #[must_use]
    pub fn with_connections_max(self, connections_max: usize) -> Self {
        Self { connections_max, ..self }
    }

    /// Returns the addresses that it listens on without TLS.
    pub fn addresses(&self) -> io::Result<Addresses> {
        self.listeners.iter().filter(|one| !one.is_secure()).map(Listener::address).collect()
    }

    /// Returns the addresses that it listens on with TLS.
    pub fn secure_addresses(&self) -> io::Result<Addresses> {
        self.listeners.iter().filter(|one| one.is_secure()).map(Listener::address).collect()
    }

    /// Accepts no more connections, and closes the sockets that do not outlive the server. Ends [`Self::run`]
    /// on any thread.
    pub fn close(&self) {
        self.is_closed.store(true, Ordering::Relaxed);
        // Fails only after 2^64 - 1 calls.
        let _ = rustix::io::write(&self.end, &1_u64.to_ne_bytes());
        self.listeners.iter().for_each(Listener::close);
    }

    /// Returns whether it hands over no more connections.
    pub fn has_ended(&self) -> bool {
        self.has_ended.load(Ordering::Acquire)
    }

    /// Accepts connections until the sockets are closed.
    pub fn run(&self, shards: &[Target], shared: &Shared) {
        let mut trouble = Trouble::default();
        let end = PollFd::new(&*self.end, PollFlags::IN);
        let sockets = self.listeners.iter().map(|listener| PollFd::new(listener, PollFlags::IN));
        let mut polled: Vec<_> = std::iter::once(end).chain(sockets).collect();
        while !self.is_closed.load(Ordering::Relaxed) {
            // Fails only if the kernel has no memory, or for a signal.
            if poll(&mut polled, None).is_err() {
                std::thread::sleep(ALL_FULL_WAIT);
                continue;
            }
            for (listener, polled) in self.listeners.iter().zip(&mut polled[1..]) {
                if !polled.revents().is_empty() {
                    self.accept_from(listener, shards, shared, &mut trouble);
                }
            }
        }
        self.has_ended.store(true, Ordering::Release);
    }

    /// Accepts the connections that wait at one socket, at most [`ACCEPTS_PER_LOOK`].
    fn accept_from(&self, from: &Listener, shards: &[Target], shared: &Shared, trouble: &mut Trouble) {
        for _ in 0..ACCEPTS_PER_LOOK {
            // Connections that wait at a socket that outlives the server are for the next one.
            if self.is_closed.load(Ordering::Relaxed) {
                return;
            }
            match from.accept() {
                Ok((accepted, peer)) => {
                    trouble.is_out_of_resources = false;
                    let open: usize =
                        shared.connections.iter().map(|count| count.load(Ordering::Relaxed)).sum();
                    if open < self.connections_max {
                        trouble.is_full = false;
                        self.hand_over(accepted, peer, shards, shared);
                        continue;
                    }
                    if !trouble.is_full {
                        trouble.is_full = true;
                        tracing::error!(
                            connections = open,
                            "refusing connections with 503: the limit of open files leaves no room for more; raise it"
                        );
                    }
                    shared.refused_by_acceptor.fetch_add(1, Ordering::Relaxed);
                    shared.refuser.refuse_accepted(accepted, NO_FILES);
                }
                Err(error) => match error.raw_os_error() {
                    Some(libc::EMFILE | libc::ENFILE | libc::ENOBUFS | libc::ENOMEM) => {
                        if !trouble.is_out_of_resources {
                            trouble.is_out_of_resources = true;
                            tracing::error!(%error, "accepting connections failed; raise the limit of open files");
                        }
                        std::thread::sleep(OUT_OF_RESOURCES_WAIT);
                        return;
                    }
                    // No connection waits, or the socket is closed.
                    Some(libc::EAGAIN | libc::EINVAL | libc::EBADF) => return,
                    // The peer disconnected while it waited in the backlog (accept(2)).
                    _ => {}
                },
            }
        }
    }

    /// Gives a connection to the shard with the fewest connections, of those that run and have room. Waits
    /// while none has room. Drops the connection if the listener is closed during the wait.
    fn hand_over(&self, accepted: Accepted, peer: Peer, shards: &[Target], shared: &Shared) {
        let mut delivery = Delivery::Socket(accepted, peer);
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
                // Counted before the send, so that the shard cannot subtract it first.
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

/// What was logged, and must not be logged again until it is over.
#[derive(Debug, Default)]
struct Trouble {
    is_out_of_resources: bool,
    is_full: bool,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shard::address::FileMode;
    use crate::shard::inbox::{Inbox, inbox};
    use crate::shard::listener::SocketKind;
    use crate::shard::refuser::Refuser;
    use socket2::{Domain, Socket, Type};
    use std::io::{Read, Write};
    use std::net::{SocketAddr, TcpListener, TcpStream};
    use std::sync::atomic::AtomicUsize;
    use std::time::Instant;

    /// An acceptor for two shards whose inboxes nobody polls. The inbox of the first has room for `room`
    /// deliveries.
    struct Rig {
        acceptor: Acceptor,
        address: SocketAddr,
        targets: Vec<Target>,
        inboxes: Vec<Inbox<Delivery>>,
        shared: Arc<Shared>,
    }

    impl Rig {
        fn new(room: usize, connections_max: usize) -> Self {
            let any: Addresses = SocketAddr::from(([127, 0, 0, 1], 0)).into();
            let listeners = Listener::bind_all(&any, 64, FileMode(0o600)).unwrap();
            let acceptor = Acceptor::new(listeners).unwrap().with_connections_max(connections_max);
            let address = acceptor.addresses().unwrap().first_tcp().unwrap();
            let (senders, inboxes): (Vec<_>, Vec<_>) = [inbox(room), inbox(8)].into_iter().unzip();
            let target = |sender| Target { sender, heartbeat: Arc::default() };
            let shared = Arc::new(Shared {
                connections: vec![AtomicUsize::new(0), AtomicUsize::new(5)],
                drained: AtomicUsize::new(0),
                refused_by_acceptor: Arc::default(),
                tls: None,
                judge: None,
                refuser: Refuser::start().unwrap(),
                epoch: Instant::now(),
            });
            Self { acceptor, address, targets: senders.into_iter().map(target).collect(), inboxes, shared }
        }

        fn run(&self) -> std::thread::JoinHandle<()> {
            let (acceptor, targets, shared) =
                (self.acceptor.clone(), self.targets.clone(), self.shared.clone());
            std::thread::spawn(move || acceptor.run(&targets, &shared))
        }

        fn dial(&self) -> TcpStream {
            let stream = TcpStream::connect(self.address).unwrap();
            stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
            stream
        }

        /// Waits until a shard's inbox holds `depth` deliveries.
        fn await_depth(&self, shard: usize, depth: usize) {
            let until = Instant::now() + Duration::from_secs(20);
            while self.inboxes[shard].depth() < depth {
                assert!(Instant::now() < until, "{} of {depth}", self.inboxes[shard].depth());
                std::thread::yield_now();
            }
        }
    }

    #[test]
    fn a_shard_without_room_is_skipped() {
        let rig = Rig::new(1, usize::MAX);
        let thread = rig.run();
        let _held: Vec<TcpStream> = (0..4).map(|_| rig.dial()).collect();
        // The first shard has the fewest connections, but one delivery fills its inbox.
        rig.await_depth(1, 3);
        assert_eq!(rig.inboxes[0].depth(), 1);
        let counts: Vec<usize> =
            rig.shared.connections.iter().map(|count| count.load(Ordering::Relaxed)).collect();
        assert_eq!(counts, [1, 8]);
        rig.acceptor.close();
        thread.join().unwrap();
    }

    #[test]
    fn a_stalled_shard_gets_no_connections_until_it_recovers() {
        let rig = Rig::new(8, usize::MAX);
        rig.targets[0].heartbeat.set_stands_still(true);
        let thread = rig.run();
        let mut held: Vec<TcpStream> = (0..3).map(|_| rig.dial()).collect();
        rig.await_depth(1, 3);
        assert_eq!(rig.inboxes[0].depth(), 0);
        rig.targets[0].heartbeat.set_stands_still(false);
        held.push(rig.dial());
        rig.await_depth(0, 1);
        rig.acceptor.close();
        thread.join().unwrap();
    }

    #[test]
    fn a_stalled_shard_gets_no_connections_when_the_others_are_full() {
        let rig = Rig::new(8, usize::MAX);
        rig.targets[0].heartbeat.set_stands_still(true);
        while rig.targets[1].sender.send(Delivery::StoreNews).is_ok() {}
        // After the close it tries once.
        rig.acceptor.close();
        let hand_over = || {
            let socket = Socket::new(Domain::UNIX, Type::STREAM, None).unwrap();
            let accepted = Accepted { socket, kind: SocketKind::Unix, is_secure: false };
            rig.acceptor.hand_over(accepted, Peer::Unix, &rig.targets, &rig.shared);
            rig.inboxes[0].depth()
        };
        assert_eq!(hand_over(), 0, "the other shard is full, but runs");
        rig.targets[1].heartbeat.set_stands_still(true);
        assert_eq!(hand_over(), 1, "all shards have stalled");
    }

    #[test]
    fn connections_beyond_the_limit_get_503_and_later_ones_are_accepted() {
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
        rig.acceptor.close();
        thread.join().unwrap();
    }

    #[test]
    fn a_lasting_socket_keeps_its_backlog_when_it_is_closed() {
        let mut rig = Rig::new(8, usize::MAX);
        let held = TcpListener::bind("127.0.0.1:0").unwrap();
        rig.address = held.local_addr().unwrap();
        rig.acceptor = Acceptor::new(vec![Listener::inherited(held.try_clone().unwrap()).unwrap()]).unwrap();
        let thread = rig.run();
        let _first = rig.dial();
        rig.await_depth(0, 1);
        rig.acceptor.close();
        thread.join().unwrap();
        let second = rig.dial();
        assert_eq!(rig.inboxes[0].depth(), 1, "it waits in the backlog");
        held.set_nonblocking(false).unwrap();
        assert_eq!(held.accept().unwrap().1, second.local_addr().unwrap(), "the next server gets it");
    }

    #[test]
    fn closing_ends_the_acceptor_even_if_no_shard_has_room() {
        let rig = Rig::new(1, usize::MAX);
        while rig.targets[1].sender.send(Delivery::StoreNews).is_ok() {}
        let thread = rig.run();
        let _held: Vec<TcpStream> = (0..3).map(|_| rig.dial()).collect();
        rig.await_depth(0, 1);
        rig.acceptor.close();
        thread.join().unwrap();
    }
}
