//! TLS over another transport.
//!
//! What is read is opened into the reader's buffer, and what is written is sealed once for each write, in
//! records of 16 KiB. Sealed bytes cannot be unsealed, so at most [`AHEAD_BYTES`] of plaintext are sealed
//! before the socket has accepted all earlier ones: the rest stays with the core, which counts it. The
//! buffers for opening and sealing belong to the shard. A connection keeps only a cut record, plaintext that
//! its reader had no room for, and sealed bytes that its socket did not accept.
//!
//! A handshake makes one step for each call of `read`, and the turn makes them one by one (`turn`).

use std::cell::{Cell, RefCell};
use std::fmt;
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use super::Transport;
use crate::base::clock::Now;
use crate::base::millis::Millis;
use crate::tls::{
    ClientCertificate, Config, Counters, Failure, HANDSHAKE_BYTES_MAX, RECORD_BYTES_MAX, Session, State,
};
use crate::ws::handshake::Refusal;

/// The most plaintext that is sealed before the socket has accepted all that was sealed earlier, in bytes.
pub const AHEAD_BYTES: usize = 64 << 10;

/// The same, while the connections of the shard keep more than [`KEPT_BYTES_MAX`].
pub const AHEAD_BYTES_PRESSED: usize = 4 << 10;

/// The bytes that the connections of a shard may keep (cut records, unread plaintext, sealed bytes) before
/// less is sealed ahead.
pub const KEPT_BYTES_MAX: usize = 32 << 20;

/// How much is read and discarded after a failure, in bytes. Closing a socket with unread bytes resets the
/// connection, and the peer may lose the alert.
const FAILED_READ_BYTES: usize = 64 << 10;

/// The size of the buffer for received bytes, for a reader with room for `window` bytes of plaintext.
pub fn wire_bytes(window: usize) -> usize {
    window.max(RECORD_BYTES_MAX).max(HANDSHAKE_BYTES_MAX + 1)
}

/// What the TLS connections of a shard share.
#[derive(Debug)]
pub struct Tls {
    config: RefCell<Arc<Config>>,
    counters: RefCell<Counters>,
    buffers: RefCell<Buffers>,
    /// The bytes that all connections keep.
    kept: Cell<usize>,
}

struct Buffers {
    wire: Vec<u8>,
    sealed: Vec<u8>,
}

impl fmt::Debug for Buffers {
    /// Shows lengths only: what was received is opened in place.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { wire, sealed } = self;
        f.debug_struct("Buffers").field("wire", &wire.len()).field("sealed", &sealed.len()).finish()
    }
}

impl Tls {
    /// Creates the shared part, for readers with room for `window` bytes of plaintext.
    pub fn new(config: Arc<Config>, window: usize) -> Self {
        let buffers = Buffers { wire: vec![0; wire_bytes(window)], sealed: Vec::new() };
        Self {
            config: RefCell::new(config),
            counters: RefCell::default(),
            buffers: RefCell::new(buffers),
            kept: Cell::new(0),
        }
    }

    /// Uses another configuration for handshakes that begin or end from now on.
    pub fn set_config(&self, config: Arc<Config>) {
        self.config.replace(config);
    }

    /// Returns the counters.
    pub fn counters(&self) -> Counters {
        self.counters.borrow().clone()
    }

    /// Returns how many bytes all connections keep.
    pub fn kept(&self) -> usize {
        self.kept.get()
    }

    /// Counts connections that a reload has closed.
    pub fn count_revoked(&self, connections: u64) {
        self.counters.borrow_mut().revoked += connections;
    }
}

/// What the core must know about a TLS connection.
#[derive(Clone, Debug, Default)]
pub struct News {
    /// The processor time of the handshake in nanoseconds, once it has ended.
    pub handshake_ns: Option<u64>,
    /// The verified certificate of the client, once the handshake has ended.
    pub certificate: Option<Arc<ClientCertificate>>,
    /// Since when the peer owes the rest of a record.
    pub cut_since: Option<Millis>,
}

/// A TLS connection over the transport `T`.
pub struct Secure<T> {
    socket: T,
    session: Session,
    shared: Rc<Tls>,
    /// What the handshake began with, until it ends.
    config: Option<Arc<Config>>,
    /// Plaintext that the reader had no room for, from `opened_at` on. At most one record, or what came with the
    /// handshake.
    opened: Vec<u8>,
    opened_at: usize,
    /// Sealed bytes that the socket has not accepted, from `sent` on.
    sealed: Vec<u8>,
    sent: usize,
    /// The bytes that the last read took from the socket.
    taken: usize,
    /// The part of the shard's `kept` that is this connection's.
    kept: usize,
    /// The time of the handshake's steps, in nanoseconds.
    handshake_ns: u64,
    news: News,
    /// The number of the cut record, and since when its rest is due.
    cut: Option<(u64, Millis)>,
    /// The session has failed, and its failure is counted.
    is_over: bool,
    /// The sending direction has ended.
    is_shut: bool,
}

impl<T: fmt::Debug> fmt::Debug for Secure<T> {
    /// Shows lengths only: some of the bytes are plaintext.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { socket, session, opened, sealed, kept, is_over, is_shut, .. } = self;
        f.debug_struct("Secure")
            .field("socket", socket)
            .field("session", session)
            .field("opened", &opened.len())
            .field("sealed", &sealed.len())
            .field("kept", kept)
            .field("is_over", is_over)
            .field("is_shut", is_shut)
            .finish_non_exhaustive()
    }
}

impl<T: Transport> Secure<T> {
    /// Starts a session on a socket that was just accepted.
    pub fn new(socket: T, shared: &Rc<Tls>) -> io::Result<Self> {
        let config = Arc::clone(&shared.config.borrow());
        let session = Session::new(&config).map_err(io::Error::other)?;
        Ok(Self {
            socket,
            session,
            shared: Rc::clone(shared),
            config: Some(config),
            opened: Vec::new(),
            opened_at: 0,
            sealed: Vec::new(),
            sent: 0,
            taken: 0,
            kept: 0,
            handshake_ns: 0,
            news: News::default(),
            cut: None,
            is_over: false,
            is_shut: false,
        })
    }

    /// Handles what the socket has received. Returns how much plaintext is in `buffer`.
    fn receive(&mut self, buffer: &mut [u8], buffers: &mut Buffers) -> io::Result<Option<usize>> {
        let Buffers { wire, sealed } = buffers;
        let cut = self.session.put_back(wire);
        let most = self.session.wanted(buffer.len()).min(wire.len().saturating_sub(cut));
        let Some(bytes) = self.socket.read(&mut wire[cut..cut + most])? else { return Ok(None) };
        if bytes == 0 {
            return self.end();
        }
        self.taken = bytes;
        self.shared.counters.borrow_mut().received_bytes += bytes as u64;
        sealed.clear();
        let mut filled = 0;
        let handshake = self.is_handshaking().then(Instant::now);
        // The core must know the client before it reads what the client sent along with its handshake.
        let room = if handshake.is_some() { 0 } else { buffer.len() };
        let rest = &mut self.opened;
        let take = |plain: &[u8]| {
            let fits = plain.len().min(room - filled);
            buffer[filled..filled + fits].copy_from_slice(&plain[..fits]);
            filled += fits;
            rest.extend_from_slice(&plain[fits..]);
        };
        let result = self.session.open(&mut wire[..cut + bytes], sealed, take);
        if let Some(began) = handshake {
            self.handshake_ns += began.elapsed().as_nanos() as u64;
        }
        if result == Err(Failure::PlainHttp) {
            Refusal::new(400, "plaintext HTTP on the port for TLS: use https:// or wss://").write(sealed);
        }
        let sent = self.send(sealed);
        match result {
            // The connection ends in any case, also if the peer is gone and gets no alert.
            Err(failure) => return Err(self.fail(failure, wire)),
            Ok(_) => sent?,
        }
        if handshake.is_some() && !self.is_handshaking() {
            self.admit(wire)?;
        }
        if filled == 0 {
            // The next step, or the end, is for a later call, so that others have their turn.
            self.socket.mark();
            return Ok(None);
        }
        Ok(Some(filled))
    }

    /// Handles the end of the handshake.
    fn admit(&mut self, wire: &mut [u8]) -> io::Result<()> {
        let certificate = match self.session.certificate() {
            Ok(certificate) => certificate,
            Err(failure) => return Err(self.fail(failure, wire)),
        };
        // The handshake may have begun before a reload that accepts other clients, or that revokes this one.
        let current = Arc::clone(&self.shared.config.borrow());
        let is_accepted = self.config.take().is_some_and(|began| current.accepts_the_clients_of(&began));
        if !is_accepted || certificate.as_ref().is_some_and(|of| current.revokes(of)) {
            return Err(self.fail(Failure::Certificate, wire));
        }
        self.shared.counters.borrow_mut().count_handshake(self.session.suite());
        self.news.handshake_ns = Some(self.handshake_ns);
        self.news.certificate = certificate.map(Arc::new);
        Ok(())
    }

    /// Counts a failure, and returns it as an error.
    #[cold]
    fn fail(&mut self, failure: Failure, wire: &mut [u8]) -> io::Error {
        tracing::debug!(%failure, "TLS connection failed");
        let mut counters = self.shared.counters.borrow_mut();
        if self.news.handshake_ns.is_none() && self.session.state() == State::Handshaking
            || failure == Failure::Certificate
        {
            counters.count_failure(failure);
        } else {
            counters.broken += 1;
        }
        drop(counters);
        self.is_over = true;
        let mut left = FAILED_READ_BYTES;
        while left > 0 {
            match self.socket.read(&mut wire[..]) {
                Ok(Some(bytes @ 1..)) => left = left.saturating_sub(bytes),
                _ => break,
            }
        }
        io::Error::other(failure)
    }

    /// Reads after this side has ended. Nothing is opened any more: the session has sent its last record, so it
    /// cannot answer an invalid one. The caller only counts the bytes, and gets zeros.
    #[cold]
    fn discard(&mut self, buffer: &mut [u8]) -> io::Result<Option<usize>> {
        let read = self.socket.read(buffer)?;
        let bytes = read.unwrap_or(0);
        buffer[..bytes].fill(0);
        self.shared.counters.borrow_mut().received_bytes += bytes as u64;
        Ok(read)
    }

    /// Handles the end of the socket without `close_notify`.
    fn end(&mut self) -> io::Result<Option<usize>> {
        if self.session.state() == State::Handshaking {
            return Ok(Some(0));
        }
        self.shared.counters.borrow_mut().truncated += 1;
        Err(io::ErrorKind::UnexpectedEof.into())
    }

    /// Sends sealed bytes, or keeps them behind those that wait.
    fn send(&mut self, sealed: &[u8]) -> io::Result<()> {
        if sealed.is_empty() {
            return Ok(());
        }
        self.shared.counters.borrow_mut().sent_bytes += sealed.len() as u64;
        let sent = if self.sealed.is_empty() { self.socket.write(sealed)? } else { 0 };
        self.sealed.extend_from_slice(&sealed[sent..]);
        Ok(())
    }

    /// Updates what this connection keeps.
    fn count_kept(&mut self) {
        let cut = self.session.cut().map_or(0, |(_, bytes)| bytes);
        let kept = cut + self.opened.capacity() + self.sealed.capacity();
        self.shared.kept.set(self.shared.kept() + kept - self.kept);
        self.kept = kept;
    }

    fn is_handshaking(&self) -> bool {
        self.session.state() == State::Handshaking
    }
}

impl<T: Transport> Transport for Secure<T> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<Option<usize>> {
        self.taken = 0;
        let waiting = &self.opened[self.opened_at..];
        if !waiting.is_empty() {
            let bytes = waiting.len().min(buffer.len());
            buffer[..bytes].copy_from_slice(&waiting[..bytes]);
            self.opened_at += bytes;
            if self.opened_at == self.opened.len() {
                (self.opened, self.opened_at) = (Vec::new(), 0);
                self.count_kept();
            }
            return Ok(Some(bytes));
        }
        if self.is_over {
            return Err(io::ErrorKind::ConnectionAborted.into());
        }
        if self.session.state() == State::PeerClosed {
            return Ok(Some(0));
        }
        if self.is_shut {
            return self.discard(buffer);
        }
        let shared = Rc::clone(&self.shared);
        let received = self.receive(buffer, &mut shared.buffers.borrow_mut());
        self.count_kept();
        received
    }

    fn read_raw(&mut self, buffer: &mut [u8]) -> io::Result<Option<usize>> {
        self.socket.read(buffer)
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.is_handshaking() || self.is_over || self.is_shut {
            return Err(io::ErrorKind::NotConnected.into());
        }
        self.resume()?;
        let shared = Rc::clone(&self.shared);
        let Buffers { sealed, .. } = &mut *shared.buffers.borrow_mut();
        let mut taken = 0;
        while taken < bytes.len() && self.sealed.is_empty() {
            let is_pressed = shared.kept() > KEPT_BYTES_MAX;
            let most = if is_pressed { AHEAD_BYTES_PRESSED } else { AHEAD_BYTES };
            let piece = &bytes[taken..bytes.len().min(taken + most)];
            sealed.clear();
            self.session.seal(piece, sealed).map_err(io::Error::other)?;
            self.send(sealed)?;
            taken += piece.len();
        }
        self.count_kept();
        Ok(taken)
    }

    fn is_readable(&self) -> bool {
        !self.opened.is_empty() || self.socket.is_readable()
    }

    fn shut_down(&mut self) {
        if self.is_shut {
            return;
        }
        self.is_shut = true;
        if !self.is_handshaking() && !self.is_over {
            let shared = Rc::clone(&self.shared);
            let Buffers { sealed, .. } = &mut *shared.buffers.borrow_mut();
            sealed.clear();
            self.session.close(sealed);
            // Fails if the peer has already disconnected, which does not matter.
            let _ = self.send(sealed);
            self.count_kept();
        }
        if self.sealed.is_empty() {
            self.socket.shut_down();
        }
    }

    fn mark(&self) {
        self.socket.mark();
    }

    fn clear_mark(&mut self) {
        self.socket.clear_mark();
    }

    fn is_encoded(&self) -> bool {
        true
    }

    fn is_handshaking(&self) -> bool {
        self.is_handshaking()
    }

    fn wire_bytes_read(&self) -> usize {
        self.taken
    }

    fn resume(&mut self) -> io::Result<()> {
        if self.sealed.is_empty() {
            return Ok(());
        }
        self.sent += self.socket.write(&self.sealed[self.sent..])?;
        if self.sent == self.sealed.len() {
            (self.sealed, self.sent) = (Vec::new(), 0);
            self.count_kept();
            if self.is_shut {
                self.socket.shut_down();
            }
        }
        Ok(())
    }

    fn take_news(&mut self, now: Now) -> News {
        // A record that we do not read is not the peer's debt.
        let is_waiting = !self.is_handshaking() && !self.is_readable() && !self.is_shut;
        self.cut = match (self.session.cut().filter(|_| is_waiting), self.cut) {
            (Some((number, _)), Some((same, since))) if same == number => Some((same, since)),
            (Some((number, _)), _) => Some((number, now.mono)),
            (None, _) => None,
        };
        News { cut_since: self.cut.map(|(_, since)| since), ..std::mem::take(&mut self.news) }
    }
}

impl<T> Drop for Secure<T> {
    fn drop(&mut self) {
        self.shared.kept.set(self.shared.kept() - self.kept);
        if self.session.state() == State::Handshaking && !self.is_over {
            self.shared.counters.borrow_mut().count_failure(Failure::Unfinished);
        }
    }
}
