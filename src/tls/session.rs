//! One TLS connection of the server, without I/O.
//!
//! Bytes of the socket go in through [`Session::open`]. A record that is not complete yet is kept until the
//! rest arrives, and only so long: an idle session holds no buffer. Plaintext goes out through
//! [`Session::seal`], which appends whole records to the caller's buffer.

use std::fmt;
use std::sync::Arc;

use rustls::pki_types::CertificateDer;
use rustls::server::UnbufferedServerConnection;
use rustls::unbuffered::{ConnectionState, EncodeError, EncryptError};

use super::counters::position;
use super::{ClientCertificate, Config, Failure, HANDSHAKE_BYTES_MAX, RECORD_BYTES_MAX};

/// The most plaintext of a record (RFC 8446, section 5.1).
const PLAINTEXT_BYTES_MAX: usize = 16 << 10;

/// The size of a record's header.
const HEADER_BYTES: usize = 5;

/// More than any cipher adds to a record.
const OVERHEAD_BYTES: usize = 64;

/// The state of a session whose bytes were valid.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// The handshake has not ended.
    Handshaking,
    /// Both sides may send.
    Open,
    /// The peer has sent `close_notify`, and sends no more.
    PeerClosed,
}

/// A connection of the server.
pub struct Session {
    connection: UnbufferedServerConnection,
    /// Bytes that are not processed: the start of a record, or of a handshake message.
    cut: Vec<u8>,
    state: State,
    /// The number of bytes received before the handshake ended, and along with its end.
    received: usize,
    /// The number of calls of [`Self::open`] that completed a record. Distinguishes cut records.
    opened: u64,
    /// The session is over. rustls must not be called again: it may hold places in bytes that are gone, and
    /// panics without them.
    has_failed: bool,
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { cut, state, .. } = self;
        f.debug_struct("Session").field("cut", &cut.len()).field("state", state).finish_non_exhaustive()
    }
}

impl Session {
    /// Creates the session of a connection that was just accepted.
    pub fn new(config: &Config) -> Result<Self, Failure> {
        let connection = UnbufferedServerConnection::new(Arc::clone(&config.server))
            .map_err(|error| Failure::of(&error))?;
        let (cut, state) = (Vec::new(), State::Handshaking);
        Ok(Self { connection, cut, state, received: 0, opened: 0, has_failed: false })
    }

    /// Returns the state.
    pub fn state(&self) -> State {
        self.state
    }

    /// Returns the number of the cut record and its bytes so far. `None` if no record is cut.
    pub fn cut(&self) -> Option<(u64, usize)> {
        (!self.cut.is_empty()).then_some((self.opened, self.cut.len()))
    }

    /// Copies the bytes of the cut record to the front of `wire`, where the next bytes of the socket must
    /// follow. Returns how many they are.
    pub fn put_back(&self, wire: &mut [u8]) -> usize {
        let bytes = self.cut.len().min(wire.len());
        wire[..bytes].copy_from_slice(&self.cut[..bytes]);
        bytes
    }

    /// Returns how many bytes of the socket may follow the cut record at once, if the caller has room for
    /// `room` bytes of plaintext. At least 1. Plaintext beyond `room` is at most one record.
    pub fn wanted(&self, room: usize) -> usize {
        let most = match self.state {
            State::Handshaking => HANDSHAKE_BYTES_MAX + 1 - self.received.min(HANDSHAKE_BYTES_MAX),
            State::Open | State::PeerClosed => room.max(RECORD_BYTES_MAX).saturating_sub(self.cut.len()),
        };
        most.max(1)
    }

    /// Handles `wire`: the cut record, as from [`Self::put_back`], and the bytes that arrived after it.
    /// Passes the plaintext of each whole record to `take`, and appends to `reply` what the peer must get.
    /// After a failure `reply` holds the alert, and the session is over: nothing more is opened or sealed.
    pub fn open(
        &mut self,
        wire: &mut [u8],
        reply: &mut Vec<u8>,
        take: impl FnMut(&[u8]),
    ) -> Result<State, Failure> {
        if self.has_failed {
            return Err(Failure::Protocol);
        }
        let opened = self.open_records(wire, reply, take);
        if opened.is_err() {
            self.has_failed = true;
            self.cut = Vec::new();
        }
        opened
    }

    /// Seals plaintext in records of at most 16 KiB, and appends them to `wire`. Only after the handshake.
    pub fn seal(&mut self, plain: &[u8], wire: &mut Vec<u8>) -> Result<(), Failure> {
        if self.has_failed {
            return Err(Failure::Protocol);
        }
        loop {
            // rustls may hold places in the cut bytes, so it must see them.
            let state = self.connection.process_tls_records(&mut self.cut).state;
            match state.map_err(|error| Failure::of(&error))? {
                ConnectionState::EncodeTlsData(mut data) => append(wire, |room| data.encode(room))?,
                ConnectionState::TransmitTlsData(sent) => sent.done(),
                ConnectionState::WriteTraffic(mut traffic) => {
                    for record in plain.chunks(PLAINTEXT_BYTES_MAX) {
                        append_record(wire, record.len(), |room| traffic.encrypt(record, room))?;
                    }
                    return Ok(());
                }
                _ => return Err(Failure::Unfinished),
            }
        }
    }

    /// Appends `close_notify`, if the handshake has ended and nothing has failed. Nothing may be sealed
    /// afterwards.
    pub fn close(&mut self, wire: &mut Vec<u8>) {
        if self.has_failed {
            return;
        }
        while let Ok(state) = self.connection.process_tls_records(&mut self.cut).state {
            let done = match state {
                ConnectionState::EncodeTlsData(mut data) => append(wire, |room| data.encode(room)).is_err(),
                ConnectionState::TransmitTlsData(sent) => {
                    sent.done();
                    false
                }
                ConnectionState::WriteTraffic(mut traffic) => {
                    // Fails only if the keys are used up. Then the peer sees a truncated stream.
                    let _ = append_record(wire, 0, |room| traffic.queue_close_notify(room));
                    true
                }
                _ => true,
            };
            if done {
                return;
            }
        }
    }

    /// Returns the position of the cipher suite in [`SUITES`](super::SUITES), once it is known.
    pub fn suite(&self) -> Option<usize> {
        self.connection.negotiated_cipher_suite().and_then(|suite| position(suite.suite()))
    }

    /// Returns the client that a verified certificate names. `None` before the handshake ends, and for a
    /// client without a certificate. Fails if a certificate cannot be read, so that it cannot be compared with
    /// revoked ones.
    pub fn certificate(&self) -> Result<Option<ClientCertificate>, Failure> {
        if self.state == State::Handshaking {
            return Ok(None);
        }
        let chain: Option<&[CertificateDer<'_>]> = self.connection.peer_certificates();
        let Some((client, intermediates)) = chain.and_then(<[_]>::split_first) else { return Ok(None) };
        ClientCertificate::read(client, intermediates).map(Some).ok_or(Failure::Certificate)
    }

    fn open_records(
        &mut self,
        wire: &mut [u8],
        reply: &mut Vec<u8>,
        take: impl FnMut(&[u8]),
    ) -> Result<State, Failure> {
        let arrived = wire.len() - self.cut.len();
        if self.state == State::Handshaking {
            if self.received == 0 && wire.first().is_some_and(u8::is_ascii_uppercase) {
                return Err(Failure::PlainHttp);
            }
            self.received += arrived;
        }
        match self.process(wire, reply, take) {
            Ok(used) => {
                let rest = &wire[used..];
                let is_too_long = match self.state {
                    State::Handshaking => self.received > HANDSHAKE_BYTES_MAX,
                    State::Open | State::PeerClosed => rest.len() >= RECORD_BYTES_MAX,
                };
                if is_too_long {
                    self.refuse(rest.len(), reply);
                    return Err(Failure::TooLong);
                }
                self.opened += u64::from(used > 0);
                self.cut = rest.to_vec();
                Ok(self.state)
            }
            Err((failure, used)) => {
                self.alert(&mut wire[used..], reply);
                Err(failure)
            }
        }
    }

    /// Processes all whole records of `wire`. Returns how many bytes they take, also with a failure.
    fn process(
        &mut self,
        wire: &mut [u8],
        reply: &mut Vec<u8>,
        mut take: impl FnMut(&[u8]),
    ) -> Result<usize, (Failure, usize)> {
        let failed = |used| move |error: rustls::Error| (Failure::of(&error), used);
        let mut used = 0;
        loop {
            let status = self.connection.process_tls_records(&mut wire[used..]);
            used += status.discard;
            match status.state.map_err(failed(used))? {
                ConnectionState::ReadTraffic(mut traffic) => {
                    self.state = State::Open;
                    while let Some(record) = traffic.next_record() {
                        let record = record.map_err(failed(used))?;
                        take(record.payload);
                        used += record.discard;
                    }
                }
                ConnectionState::EncodeTlsData(mut data) => {
                    append(reply, |room| data.encode(room)).map_err(|failure| (failure, used))?;
                }
                ConnectionState::TransmitTlsData(sent) => sent.done(),
                ConnectionState::WriteTraffic(_) => {
                    self.state = State::Open;
                    return Ok(used);
                }
                ConnectionState::BlockedHandshake => return Ok(used),
                ConnectionState::PeerClosed | ConnectionState::Closed => {
                    // The certificate of a client that leaves during the handshake is not verified.
                    if self.state == State::Handshaking && self.connection.is_handshaking() {
                        return Err((Failure::Unfinished, used));
                    }
                    self.state = State::PeerClosed;
                    return Ok(wire.len());
                }
                // Early data is off, and there are no other states.
                _ => return Err((Failure::Protocol, used)),
            }
        }
    }

    /// Appends the alert for a peer that has sent too much, with `rest` bytes that are not processed.
    fn refuse(&mut self, rest: usize, reply: &mut Vec<u8>) {
        // rustls writes alerts only for what it has found itself. It may skip all of the rest, and then finds no
        // header of a record.
        let mut no_record = vec![u8::MAX; rest + HEADER_BYTES];
        if self.connection.process_tls_records(&mut no_record).state.is_err() {
            self.alert(&mut no_record, reply);
        }
    }

    /// Appends what rustls has ready after a failure: the alert, and what precedes it.
    fn alert(&mut self, wire: &mut [u8], reply: &mut Vec<u8>) {
        // Without that condition, rustls would process the invalid bytes again in the end.
        while self.connection.wants_write() {
            let Ok(ConnectionState::EncodeTlsData(mut data)) =
                self.connection.process_tls_records(wire).state
            else {
                return;
            };
            if append(reply, |room| data.encode(room)).is_err() {
                return;
            }
        }
    }
}

/// Appends what `encode` writes, after growing `wire` by as much as it asks for.
fn append(
    wire: &mut Vec<u8>,
    mut encode: impl FnMut(&mut [u8]) -> Result<usize, EncodeError>,
) -> Result<(), Failure> {
    let start = wire.len();
    loop {
        match encode(&mut wire[start..]) {
            Ok(bytes) => {
                wire.truncate(start + bytes);
                return Ok(());
            }
            Err(EncodeError::InsufficientSize(wanted)) if wanted.required_size > wire.len() - start => {
                wire.resize(start + wanted.required_size, 0);
            }
            Err(_) => return Err(Failure::Protocol),
        }
    }
}

/// Appends the record of `bytes` of plaintext that `encrypt` writes.
fn append_record(
    wire: &mut Vec<u8>,
    bytes: usize,
    mut encrypt: impl FnMut(&mut [u8]) -> Result<usize, EncryptError>,
) -> Result<(), Failure> {
    let start = wire.len();
    wire.resize(start + bytes + OVERHEAD_BYTES, 0);
    loop {
        match encrypt(&mut wire[start..]) {
            Ok(bytes) => {
                wire.truncate(start + bytes);
                return Ok(());
            }
            Err(EncryptError::InsufficientSize(wanted)) if wanted.required_size > wire.len() - start => {
                wire.resize(start + wanted.required_size, 0);
            }
            Err(_) => {
                wire.truncate(start);
                return Err(Failure::Protocol);
            }
        }
    }
}
