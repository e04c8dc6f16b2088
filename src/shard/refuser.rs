//! Refuses connections before a shard serves them: each gets an answer, and time to read it.
//!
//! Closing a socket with unread bytes resets the connection, and the peer may lose the answer. Most clients
//! send their handshake at once, so their bytes are read and discarded until they close, for at most `LINGER`
//! and `READ_BYTES_MAX`. A separate thread does that. It keeps at most `OPEN_MAX` sockets open, and closes
//! the oldest to accept another.

use std::collections::VecDeque;
use std::io::{self, ErrorKind, Read};
use std::net::Shutdown;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, SyncSender};
use std::time::{Duration, Instant};

use socket2::Socket;

use super::listener::Accepted;
use crate::ws::handshake::Refusal;

/// How long a refused connection waits for its peer to close it.
const LINGER: Duration = Duration::from_secs(2);
/// The most bytes that are read from it during that time.
const READ_BYTES_MAX: usize = 64 << 10;
/// The time between two reads of the open connections.
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// The alert `internal_error` (RFC 8446, section 6.2), in a record without encryption.
const TLS_ALERT: [u8; 7] = [21, 3, 3, 0, 2, 2, 80];

/// The most refused connections that the thread keeps open.
const LINGERING_MAX: usize = 8;
/// The most refused connections that wait for the thread.
const WAITING_MAX: usize = 4;
/// The descriptors of all these connections, and of a new connection that replaces an old one.
pub(super) const OPEN_MAX: usize = LINGERING_MAX + WAITING_MAX + 1;

/// Refuses connections, from any thread, without blocking. Clones share one thread, which ends with the last
/// clone.
#[derive(Clone, Debug)]
pub struct Refuser(SyncSender<Lingering>);

impl Refuser {
    /// Starts the thread.
    pub fn start() -> io::Result<Self> {
        let (sender, receiver) = mpsc::sync_channel(WAITING_MAX);
        std::thread::Builder::new().name("refuser".into()).spawn(move || linger(&receiver))?;
        Ok(Self(sender))
    }

    /// Answers with 503 and the reason, and closes the connection after its peer had time to read that. If
    /// the socket cannot take the answer, the connection is closed without it.
    pub fn refuse(&self, socket: Socket, reason: &str) {
        let mut response = Vec::new();
        Refusal::new(503, reason).write(&mut response);
        self.answer(socket, &response);
    }

    /// Like [`Self::refuse`], but answers a client that begins a TLS handshake with an alert.
    pub fn refuse_accepted(&self, accepted: Accepted, reason: &str) {
        if accepted.is_secure {
            self.answer(accepted.socket, &TLS_ALERT);
        } else {
            self.refuse(accepted.socket, reason);
        }
    }

    fn answer(&self, socket: Socket, response: &[u8]) {
        let answered = socket
            .set_nonblocking(true)
            .and_then(|()| socket.send(response))
            .and_then(|_| socket.shutdown(Shutdown::Write));
        if answered.is_err() {
            return;
        }
        let mut refused = Lingering { socket, until: Instant::now() + LINGER, left: READ_BYTES_MAX };
        if refused.discard() {
            // If the thread has no room, the connection is closed at once. The bytes that have arrived are
            // already read.
            let _ = self.0.try_send(refused);
        }
    }
}

/// A refused connection that is still open.
#[derive(Debug)]
struct Lingering {
    socket: Socket,
    until: Instant,
    /// The number of bytes that may still be read.
    left: usize,
}

impl Lingering {
    /// Discards the bytes that have arrived. Returns false when the peer has closed or has sent too much.
    fn discard(&mut self) -> bool {
        let mut buffer = [0; 4096];
        while self.left > 0 {
            let most = self.left.min(buffer.len());
            match self.socket.read(&mut buffer[..most]) {
                Ok(0) => return false,
                Ok(bytes) => self.left -= bytes,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return true,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(_) => return false,
            }
        }
        false
    }
}

fn linger(new: &Receiver<Lingering>) {
    let mut open: VecDeque<Lingering> = VecDeque::new();
    loop {
        let came = if open.is_empty() {
            new.recv().map_err(RecvTimeoutError::from)
        } else {
            new.recv_timeout(LOOK_EVERY)
        };
        match came {
            Ok(refused) => {
                if open.len() == LINGERING_MAX {
                    open.pop_front();
                }
                open.push_back(refused);
            }
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return,
        }
        let now = Instant::now();
        open.retain_mut(|refused| refused.until > now && refused.discard());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::net::{TcpListener, TcpStream};

    /// Returns both ends of a connection: the client's and the server's.
    fn pair() -> (TcpStream, Socket) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        client.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        (client, listener.accept().unwrap().0.into())
    }

    fn answer(mut client: TcpStream) -> String {
        let mut text = String::new();
        client.read_to_string(&mut text).unwrap();
        text
    }

    #[test]
    fn an_earlier_handshake_does_not_reset_the_connection() {
        let refuser = Refuser::start().unwrap();
        let (mut client, socket) = pair();
        client.write_all(&[b'x'; 8_000]).unwrap();
        refuser.refuse(socket, "no room");
        let text = answer(client);
        assert!(text.starts_with("HTTP/1.1 503 ") && text.contains("no room"), "{text}");
    }

    #[test]
    fn a_later_handshake_does_not_reset_the_connection() {
        let refuser = Refuser::start().unwrap();
        let (mut client, socket) = pair();
        refuser.refuse(socket, "no room");
        // The second write fails if the first caused a reset.
        for _ in 0..2 {
            client.write_all(b"GET / HTTP/1.1\r\n").unwrap();
        }
        assert!(answer(client).starts_with("HTTP/1.1 503 "));
    }

    #[test]
    fn reads_are_bounded_and_connections_beyond_the_bound_are_answered_too() {
        let refuser = Refuser::start().unwrap();
        let clients: Vec<_> = (0..3 * OPEN_MAX)
            .map(|_| {
                let (client, socket) = pair();
                refuser.refuse(socket, "no room");
                client
            })
            .collect();
        for client in clients {
            assert!(answer(client).starts_with("HTTP/1.1 503 "));
        }
        let (mut client, socket) = pair();
        client.write_all(&vec![b'x'; READ_BYTES_MAX]).unwrap();
        let mut refused = Lingering { socket, until: Instant::now() + LINGER, left: READ_BYTES_MAX };
        refused.socket.set_nonblocking(true).unwrap();
        while refused.discard() {
            std::thread::yield_now();
        }
        assert_eq!(refused.left, 0);
    }
}
