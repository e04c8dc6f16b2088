//! One TLS connection on a socket.

use std::cell::Cell;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use futures_lite::{AsyncRead, AsyncWrite};
use glommio::net::TcpStream;
use rustls::pki_types::ServerName;
use url::Host;

use super::address::{Address, Endpoint};
use super::error::ClientError;
use super::link::Link;
use super::trust::Trust;
use crate::tls::client::{Asked, Fault, Records, Security, Session};

/// How many bytes to read at once.
const READ_BYTES: usize = 256 << 10;

/// How many bytes to seal at once, at most. The next ones are sealed once the socket has taken these.
const SEAL_BYTES: usize = 64 << 10;

/// The most bytes that wait for the rest of a handshake message. rustls limits such a message to 64 KiB.
const KEPT_BYTES_MAX: usize = 256 << 10;

/// A TLS connection on a socket.
#[derive(Debug)]
pub(super) struct SecureLink {
    stream: TcpStream,
    session: Session,
    asked: Arc<Asked>,
    /// What waits to be sent.
    records: Records,
}

/// The buffers of a thread, for all of its TLS connections: records from the socket, and their content.
#[derive(Default)]
struct Scratch {
    input: Vec<u8>,
    plain: Vec<u8>,
}

thread_local! {
    static SCRATCH: Cell<Scratch> = Cell::default();
}

/// Returns the name that the certificate of the server must have.
fn name(address: &Address) -> Result<ServerName<'static>, ClientError> {
    let Endpoint::Tcp { host, .. } = address.endpoint() else {
        return Err(ClientError::Address("TLS needs the name of a host".into()));
    };
    Ok(match host {
        Host::Ipv4(ip) => ServerName::from(std::net::IpAddr::from(*ip)),
        Host::Ipv6(ip) => ServerName::from(std::net::IpAddr::from(*ip)),
        Host::Domain(name) => ServerName::try_from(name.clone()).map_err(|error| {
            ClientError::Address(format!("{name}: no certificate can have this name: {error}"))
        })?,
    })
}

impl SecureLink {
    /// Starts TLS on a new connection to `address`.
    pub(super) fn new(stream: TcpStream, address: &Address, trust: &Trust) -> Result<Self, ClientError> {
        let asked = trust.asked().clone();
        let mut session = Session::new(trust.config().clone(), name(address)?)
            .map_err(|error| Fault::explain(&error, &asked, false))?;
        let mut records = Records::default();
        session
            .handle(&mut [], &mut Vec::new(), &mut records)
            .map_err(|error| Fault::explain(&error, &asked, false))?;
        Ok(Self { stream, session, asked, records })
    }

    /// Returns the version and the cipher suite, once both sides have agreed.
    pub(super) fn security(&self) -> Option<Security> {
        self.session.security()
    }

    /// Returns the socket.
    pub(super) fn stream(&self) -> &TcpStream {
        &self.stream
    }

    /// Ends the client's side of the connection. The caller flushes it.
    pub(super) fn close(&mut self) {
        // Fails if the connection has failed before.
        let _ = self.session.close(&mut self.records);
    }

    /// Completes the handshake.
    pub(super) fn poll_open(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), ClientError>> {
        loop {
            ready!(self.poll_flush(cx))?;
            if self.session.is_open() {
                return Poll::Ready(Ok(()));
            }
            ready!(self.poll_receive(cx, &mut [], |_| Ok(())))?;
        }
    }

    fn fault(&self, error: &rustls::Error) -> ClientError {
        Fault::explain(error, &self.asked, self.session.is_open()).into()
    }

    /// Reads records, and appends their content to `plain`.
    fn poll_records(
        &mut self,
        cx: &mut Context<'_>,
        Scratch { input, plain }: &mut Scratch,
    ) -> Poll<Result<(), ClientError>> {
        let before = self.session.kept().len();
        if before > KEPT_BYTES_MAX {
            return Poll::Ready(Err(ClientError::Broken("a TLS handshake message is too long".into())));
        }
        if input.len() < before + READ_BYTES {
            input.resize(before + READ_BYTES, 0);
        }
        let free = &mut input[before..before + READ_BYTES];
        let read = match ready!(Pin::new(&mut self.stream).poll_read(cx, free)) {
            Ok(0) => return Poll::Ready(Err(Fault::cut(self.session.is_open()).into())),
            Ok(read) => read,
            Err(error) => return Poll::Ready(Err(error.into())),
        };
        input[..before].copy_from_slice(self.session.kept());
        let handled = self.session.handle(&mut input[..before + read], plain, &mut self.records);
        Poll::Ready(match handled {
            Ok(()) if self.session.is_ended() => Err(ClientError::Closed(None)),
            Ok(()) => Ok(()),
            Err(error) => {
                // The alert tells the server why. Nothing else is left to send, so one attempt is enough.
                let _ = Pin::new(&mut self.stream).poll_write(cx, self.records.waiting());
                Err(self.fault(&error))
            }
        })
    }

    /// Returns why a write failed: the server may have said so in an alert before it closed the connection.
    fn reason(&mut self, cx: &mut Context<'_>, error: std::io::Error) -> ClientError {
        let mut scratch = SCRATCH.take();
        let read = self.poll_records(cx, &mut scratch);
        scratch.plain.clear();
        SCRATCH.set(scratch);
        match read {
            Poll::Ready(Err(fault @ ClientError::Tls(_))) => fault,
            _ => error.into(),
        }
    }
}

impl Link for SecureLink {
    fn poll_receive(
        &mut self,
        cx: &mut Context<'_>,
        _buffer: &mut [u8],
        mut each: impl FnMut(&mut [u8]) -> Result<(), ClientError>,
    ) -> Poll<Result<(), ClientError>> {
        let mut scratch = SCRATCH.take();
        let read = self.poll_records(cx, &mut scratch);
        // What arrived before an error counts.
        let handled = if scratch.plain.is_empty() { Ok(()) } else { each(&mut scratch.plain) };
        scratch.plain.clear();
        SCRATCH.set(scratch);
        match read {
            Poll::Ready(read) => Poll::Ready(handled.and(read)),
            Poll::Pending => Poll::Pending,
        }
    }

    fn poll_send(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<Result<usize, ClientError>> {
        ready!(self.poll_flush(cx))?;
        if !self.session.is_open() {
            // What arrives next continues the handshake.
            return Poll::Pending;
        }
        let taken = bytes.len().min(SEAL_BYTES);
        if let Err(error) = self.session.seal(&bytes[..taken], &mut self.records) {
            return Poll::Ready(Err(self.fault(&error)));
        }
        match self.poll_flush(cx) {
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            // The rest is sent later.
            _ => Poll::Ready(Ok(taken)),
        }
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), ClientError>> {
        while !self.records.is_empty() {
            match ready!(Pin::new(&mut self.stream).poll_write(cx, self.records.waiting())) {
                Ok(bytes) => self.records.sent(bytes),
                Err(error) => return Poll::Ready(Err(self.reason(cx, error))),
            }
        }
        Poll::Ready(Ok(()))
    }
}
