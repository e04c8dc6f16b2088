//! One TLS connection of a client.

use std::fmt;
use std::sync::Arc;

use rustls::client::UnbufferedClientConnection;
use rustls::pki_types::ServerName;
use rustls::unbuffered::{
    ConnectionState, EncodeError, EncodeTlsData, EncryptError, InsufficientSizeError, UnbufferedStatus,
    WriteTraffic,
};
use rustls::{CipherSuite, ClientConfig, Error, ProtocolVersion};

use super::records::Records;

/// The version of TLS and the cipher suite that both sides agreed on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Security {
    version: ProtocolVersion,
    suite: CipherSuite,
}

impl fmt::Display for Security {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.version {
            ProtocolVersion::TLSv1_2 => f.write_str("TLS 1.2")?,
            ProtocolVersion::TLSv1_3 => f.write_str("TLS 1.3")?,
            other => write!(f, "{other:?}")?,
        }
        // The IANA's names have no version, as in TLS_AES_128_GCM_SHA256.
        match self.suite.as_str() {
            Some(name) => write!(f, " ({})", name.replacen("TLS13_", "TLS_", 1)),
            None => write!(f, " ({:?})", self.suite),
        }
    }
}

/// The client's side of one TLS connection, without I/O.
///
/// After an error, the records hold the alert for the server, and nothing more can be sent or received.
pub struct Session {
    connection: UnbufferedClientConnection,
    /// The bytes that wait for the rest of a record, or of a handshake message of several records. rustls
    /// keeps positions in them, so every call must get them again: it panics without them.
    kept: Vec<u8>,
    is_open: bool,
    is_ended: bool,
    has_failed: bool,
}

impl Session {
    /// Starts a connection to the server `name`. The first call of [`Self::handle`] writes the handshake.
    pub fn new(config: Arc<ClientConfig>, name: ServerName<'static>) -> Result<Self, Error> {
        let connection = UnbufferedClientConnection::new(config, name)?;
        Ok(Self { connection, kept: Vec::new(), is_open: false, is_ended: false, has_failed: false })
    }

    /// Returns the bytes with which the next input must begin.
    pub fn kept(&self) -> &[u8] {
        &self.kept
    }

    /// Handles bytes from the server, preceded by [`Self::kept`]. Appends the content of complete records to
    /// `plain`, and what the server must get for them to `records`.
    pub fn handle(
        &mut self,
        input: &mut [u8],
        plain: &mut Vec<u8>,
        records: &mut Records,
    ) -> Result<(), Error> {
        self.check()?;
        let mut rest = input;
        loop {
            let UnbufferedStatus { discard, state } = self.connection.process_tls_records(rest);
            let goes_on = match state {
                Ok(ConnectionState::ReadTraffic(mut traffic)) => {
                    while let Some(record) = traffic.next_record() {
                        plain.extend_from_slice(record?.payload);
                    }
                    true
                }
                Ok(ConnectionState::EncodeTlsData(data)) => {
                    encode(data, records)?;
                    true
                }
                Ok(ConnectionState::TransmitTlsData(data)) => {
                    // The caller sends the records before it seals anything.
                    data.done();
                    true
                }
                Ok(ConnectionState::WriteTraffic(_)) => {
                    self.is_open = true;
                    false
                }
                Ok(ConnectionState::PeerClosed) => {
                    self.is_ended = true;
                    true
                }
                // The handshake needs more input, or both sides have ended.
                Ok(_) => false,
                Err(error) => {
                    self.has_failed = true;
                    self.write_alert(rest.get_mut(discard..).unwrap_or_default(), records);
                    return Err(error);
                }
            };
            rest = rest.get_mut(discard..).unwrap_or_default();
            if !goes_on {
                // A connection that waits for nothing keeps no buffer.
                self.kept = rest.to_vec();
                return Ok(());
            }
        }
    }

    /// Returns whether the handshake is complete, so that plaintext can be sealed.
    pub fn is_open(&self) -> bool {
        self.is_open
    }

    /// Returns whether the server has ended its side of the connection (`close_notify`).
    pub fn is_ended(&self) -> bool {
        self.is_ended
    }

    /// Returns what both sides agreed on, once they have.
    pub fn security(&self) -> Option<Security> {
        let version = self.connection.protocol_version()?;
        Some(Security { version, suite: self.connection.negotiated_cipher_suite()?.suite() })
    }

    /// Appends records that contain `plain`. They must be sent, because they cannot be sealed again.
    pub fn seal(&mut self, plain: &[u8], records: &mut Records) -> Result<(), Error> {
        self.write(records, |traffic, out| traffic.encrypt(plain, out))
    }

    /// Appends the `close_notify` that ends the client's side. Does nothing before the handshake is complete.
    pub fn close(&mut self, records: &mut Records) -> Result<(), Error> {
        if !self.is_open || self.has_failed {
            return Ok(());
        }
        self.write(records, |traffic, out| traffic.queue_close_notify(out))
    }

    fn write(
        &mut self,
        records: &mut Records,
        mut write: impl FnMut(
            &mut WriteTraffic<'_, rustls::client::ClientConnectionData>,
            &mut [u8],
        ) -> Result<usize, EncryptError>,
    ) -> Result<(), Error> {
        self.check()?;
        loop {
            match self.connection.process_tls_records(&mut self.kept).state? {
                ConnectionState::WriteTraffic(mut traffic) => loop {
                    match write(&mut traffic, records.free()) {
                        Ok(bytes) => {
                            records.add(bytes);
                            return Ok(());
                        }
                        Err(EncryptError::InsufficientSize(InsufficientSizeError { required_size })) => {
                            records.reserve(required_size);
                        }
                        Err(EncryptError::EncryptExhausted) => return Err(Error::EncryptError),
                    }
                },
                // The answer to a key update of the server, for example.
                ConnectionState::EncodeTlsData(data) => encode(data, records)?,
                ConnectionState::TransmitTlsData(data) => data.done(),
                ConnectionState::PeerClosed => self.is_ended = true,
                _ => return Err(Error::HandshakeNotComplete),
            }
        }
    }

    /// Appends the alert that says why the connection fails, if there is one.
    fn write_alert(&mut self, input: &mut [u8], records: &mut Records) {
        if let Ok(ConnectionState::EncodeTlsData(data)) = self.connection.process_tls_records(input).state {
            // Without an alert the server only learns that the connection ends.
            let _ = encode(data, records);
        }
    }

    fn check(&self) -> Result<(), Error> {
        if self.has_failed { Err(Error::General("the connection has failed before".into())) } else { Ok(()) }
    }
}

/// Appends a handshake record, or another one that the connection itself has written.
fn encode<D>(mut data: EncodeTlsData<'_, D>, records: &mut Records) -> Result<(), Error> {
    loop {
        match data.encode(records.free()) {
            Ok(bytes) => {
                records.add(bytes);
                return Ok(());
            }
            Err(EncodeError::InsufficientSize(InsufficientSizeError { required_size })) => {
                records.reserve(required_size);
            }
            Err(EncodeError::AlreadyEncoded) => {
                return Err(Error::General("a record was written twice".into()));
            }
        }
    }
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { is_open, is_ended, .. } = self;
        f.debug_struct("Session")
            .field("is_open", is_open)
            .field("is_ended", is_ended)
            .finish_non_exhaustive()
    }
}
