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
    /// Plaintext that arrived along with the end of the handshake.
    early: Vec<u8>,
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
        Ok(Self { stream, session, asked, records, early: Vec::new() })
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
            let mut early = std::mem::take(&mut self.early);
            let received = self.poll_receive(cx, &mut [], |plain| {
                early.extend_from_slice(plain);
                Ok(())
            });
            self.early = early;
            let received = ready!(received);
            // If the server has ended its side already, the next receives give what it sent, and then the end.
            if !(self.session.is_open() && self.session.is_ended()) {
                received?;
            }
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
        if self.session.is_ended() {
            return Poll::Ready(Err(ClientError::Closed(None)));
        }
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
        if !self.early.is_empty() {
            return Poll::Ready(each(&mut std::mem::take(&mut self.early)));
        }
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

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::io::{Read, Write};
    use std::net::TcpListener;

    use rustls::pki_types::PrivateKeyDer;
    use rustls::{ServerConfig, ServerConnection};

    use super::super::connection::{Kind, connect};
    use super::super::trust::TrustSettings;
    use super::super::wire::Target;
    use super::*;
    use crate::shard::executor::{ExecutorSettings, spawn};

    fn server() -> ServerConnection {
        let made = rcgen::generate_simple_self_signed(vec!["server.example".to_owned()]).unwrap();
        let key = PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![made.cert.der().clone()], key)
            .unwrap();
        config.send_half_rtt_data = true;
        ServerConnection::new(Arc::new(config)).unwrap()
    }

    #[test]
    fn what_arrives_with_the_end_of_the_handshake_is_received_later() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let there = listener.local_addr().unwrap();
        let serving = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut server = server();
            while !server.wants_write() {
                server.read_tls(&mut stream).unwrap();
                server.process_new_packets().unwrap();
            }
            server.writer().write_all(b"early").unwrap();
            server.send_close_notify();
            let mut flight = Vec::new();
            while server.wants_write() {
                server.write_tls(&mut flight).unwrap();
            }
            stream.write_all(&flight).unwrap();
            // The client may reset the connection at its end.
            let _ = stream.read_to_end(&mut Vec::new());
        });
        let settings = ExecutorSettings { name: "test".into(), core: None };
        let client = spawn(settings, move || async move {
            let trust = Trust::load(&TrustSettings { insecure: true, ..TrustSettings::default() })?;
            let target = Target::parse(&format!("wss://{there}/"), None, None)?.trusting(Some(trust));
            let mut connection = connect(&target).await?;
            connection.negotiate().await?;
            let Kind::Secure(link) = connection.kind() else { panic!("TLS") };
            let mut received = Vec::new();
            loop {
                let mut each = |plain: &mut [u8]| {
                    received.extend_from_slice(plain);
                    Ok(())
                };
                let one = poll_fn(|cx| link.poll_receive(cx, &mut [], &mut each)).await;
                if let Err(error) = one {
                    return Ok::<_, ClientError>((received, error.to_string()));
                }
            }
        });
        let (received, end) = client.unwrap().join().unwrap().unwrap();
        assert_eq!((&received[..], &end[..]), (&b"early"[..], "the server closed the connection"));
        serving.join().unwrap();
    }
}
