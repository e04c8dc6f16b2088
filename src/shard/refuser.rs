//! Refusing connections before a shard serves them: each gets an answer, and time to read it.
//!
//! To close a socket that holds unread bytes resets the connection, and the peer may lose the answer. Most clients send their handshake
//! at once, so what they send is read and discarded until they close, for `LINGER` and `READ_BYTES_MAX` at most. A thread of
//! its own does that: it keeps `OPEN_MAX` sockets open at most, and closes the oldest where more are refused.

use std::collections::VecDeque;
use std::io::{self, ErrorKind, Read};
use std::net::Shutdown;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, SyncSender};
use std::time::{Duration, Instant};

use socket2::Socket;

use crate::ws::handshake::Refusal;

/// How long a refused connection stays open for its peer to close it.
const LINGER: Duration = Duration::from_secs(2);
/// How much is read of it meanwhile, bytes.
const READ_BYTES_MAX: usize = 64 << 10;
/// How often open connections are looked at.
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// Refused connections that the thread keeps open.
const LINGERING_MAX: usize = 8;
/// Those that wait for the thread to take them.
const WAITING_MAX: usize = 4;
/// Descriptors of all of them, and of one that takes the place of another.
pub(super) const OPEN_MAX: usize = LINGERING_MAX + WAITING_MAX + 1;

/// Refuses connections; any thread's, and never waits. Clones share one thread, which ends with the last of them.
#[derive(Clone, Debug)]
pub struct Refuser(SyncSender<Lingering>);

impl Refuser {
    /// Begins the thread.
    pub fn start() -> io::Result<Self> {
        let (sender, receiver) = mpsc::sync_channel(WAITING_MAX);
        std::thread::Builder::new().name("refuser".into()).spawn(move || linger(&receiver))?;
        Ok(Self(sender))
    }

    /// Answers with 503 and the reason, and closes the connection once its peer can have read that. A peer that cannot take the answer
    /// finds the connection closed.
    pub fn refuse(&self, socket: Socket, reason: &str) {
        let mut response = Vec::new();
        Refusal::new(503, reason).write(&mut response);
        let answered = socket
            .set_nonblocking(true)
            .and_then(|()| socket.send(&response))
            .and_then(|_| socket.shutdown(Shutdown::Write));
        if answered.is_err() {
            return;
        }
        let mut refused = Lingering { socket, until: Instant::now() + LINGER, left: READ_BYTES_MAX };
        if refused.discard() {
            // Without room for it the connection is closed now: what has come is read.
            let _ = self.0.try_send(refused);
        }
    }
}

/// A refused connection that is still open.
#[derive(Debug)]
struct Lingering {
    socket: Socket,
    until: Instant,
    /// Bytes that may still be read.
    left: usize,
}

impl Lingering {
    /// Reads what has come. False once the peer has closed, or has sent too much.
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

    /// A client's connection, and the server's end of it.
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
    fn a_handshake_that_was_sent_already_resets_nothing() {
        let refuser = Refuser::start().unwrap();
        let (mut client, socket) = pair();
        client.write_all(&[b'x'; 8_000]).unwrap();
        refuser.refuse(socket, "no room");
        let text = answer(client);
        assert!(text.starts_with("HTTP/1.1 503 ") && text.contains("no room"), "{text}");
    }

    #[test]
    fn a_handshake_that_comes_later_resets_nothing() {
        let refuser = Refuser::start().unwrap();
        let (mut client, socket) = pair();
        refuser.refuse(socket, "no room");
        // A second write fails where the first was answered by a reset.
        for _ in 0..2 {
            client.write_all(b"GET / HTTP/1.1\r\n").unwrap();
        }
        assert!(answer(client).starts_with("HTTP/1.1 503 "));
    }

    #[test]
    fn more_than_its_bound_is_not_read_and_more_connections_than_it_keeps_are_answered_too() {
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
