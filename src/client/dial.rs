//! How requests to a control port reach it: over TCP, a Unix socket or TLS. The parts that ureq does not have.

use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;

use rustls::pki_types::ServerName;
use rustls::{ClientConnection, StreamOwned};
use ureq::Error;
use ureq::unversioned::transport::{
    Buffers, ConnectionDetails, Connector, Either, LazyBuffers, NextTimeout, Transport, TransportAdapter,
};

use super::trust::Trust;
use crate::tls::client::Fault;

/// Connects to a Unix socket, whatever the URL says.
#[derive(Debug)]
pub(super) struct UnixConnector(pub(super) Option<PathBuf>);

/// A connection to a Unix socket.
#[derive(Debug)]
pub(super) struct UnixTransport {
    stream: UnixStream,
    buffers: LazyBuffers,
}

fn buffers(details: &ConnectionDetails<'_>) -> LazyBuffers {
    LazyBuffers::new(details.config.input_buffer_size(), details.config.output_buffer_size())
}

impl Connector<()> for UnixConnector {
    type Out = UnixTransport;

    fn connect(
        &self,
        details: &ConnectionDetails<'_>,
        _: Option<()>,
    ) -> Result<Option<UnixTransport>, Error> {
        let Some(path) = &self.0 else { return Ok(None) };
        Ok(Some(UnixTransport { stream: UnixStream::connect(path)?, buffers: buffers(details) }))
    }
}

/// Converts the end of the time that a socket may take.
fn timed(timeout: NextTimeout) -> impl FnOnce(std::io::Error) -> Error {
    move |error| match error.kind() {
        ErrorKind::WouldBlock | ErrorKind::TimedOut => Error::Timeout(timeout.reason),
        _ => error.into(),
    }
}

impl Transport for UnixTransport {
    fn buffers(&mut self) -> &mut dyn Buffers {
        &mut self.buffers
    }

    fn transmit_output(&mut self, amount: usize, timeout: NextTimeout) -> Result<(), Error> {
        self.stream.set_write_timeout(timeout.not_zero().map(|time| *time))?;
        self.stream.write_all(&self.buffers.output()[..amount]).map_err(timed(timeout))
    }

    fn await_input(&mut self, timeout: NextTimeout) -> Result<bool, Error> {
        self.stream.set_read_timeout(timeout.not_zero().map(|time| *time))?;
        let read = loop {
            match self.stream.read(self.buffers.input_append_buf()) {
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                read => break read.map_err(timed(timeout))?,
            }
        };
        self.buffers.input_appended(read);
        Ok(read > 0)
    }

    /// Connections are never used again.
    fn is_open(&mut self) -> bool {
        false
    }
}

/// Puts TLS on a connection whose URL begins with `https://`.
#[derive(Debug)]
pub(super) struct TlsConnector(pub(super) Option<Trust>);

/// A connection with TLS.
#[derive(Debug)]
pub(super) struct TlsTransport {
    stream: StreamOwned<ClientConnection, Adapter>,
    buffers: LazyBuffers,
}

/// A connection as rustls wants it.
struct Adapter(TransportAdapter);

impl std::fmt::Debug for Adapter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.get_ref().fmt(f)
    }
}

impl Read for Adapter {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        self.0.read(buffer)
    }
}

impl Write for Adapter {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.0.flush()
    }
}

impl<In: Transport> Connector<In> for TlsConnector {
    type Out = Either<In, TlsTransport>;

    fn connect(
        &self,
        details: &ConnectionDetails<'_>,
        chained: Option<In>,
    ) -> Result<Option<Self::Out>, Error> {
        let Some(transport) = chained else { return Ok(None) };
        let Some(trust) = self.0.as_ref().filter(|_| details.needs_tls()) else {
            return Ok(Some(Either::A(transport)));
        };
        let other = |why: String| Error::Other(why.into());
        let host = details.uri.host().unwrap_or_default().trim_start_matches('[').trim_end_matches(']');
        let name = ServerName::try_from(host.to_owned())
            .map_err(|error| other(format!("{host}: no certificate can have this name: {error}")))?;
        let session = ClientConnection::new(trust.config().clone(), name);
        let mut session = session.map_err(|error| other(error.to_string()))?;
        let mut adapter =
            TransportAdapter::new(Box::new(transport) as Box<dyn Transport>, details.current_time.clone());
        adapter.set_timeout(details.timeout);
        let mut adapter = Adapter(adapter);
        while session.is_handshaking() {
            session.complete_io(&mut adapter).map_err(|error| explained(error, trust))?;
        }
        let stream = StreamOwned::new(session, adapter);
        Ok(Some(Either::B(TlsTransport { stream, buffers: buffers(details) })))
    }
}

/// Explains why a handshake has failed.
fn explained(error: std::io::Error, trust: &Trust) -> Error {
    let tls = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
    let fault = match tls {
        Some(tls) => Fault::explain(tls, trust.asked(), false),
        None if error.kind() == ErrorKind::UnexpectedEof => Fault::cut(false),
        None => return error.into(),
    };
    // The flags and the scheme of the streaming protocol have other names than those of a control port.
    let text = fault.to_string().replace("--ca", "--control-ca").replace("ws://", "http://");
    Error::Other(format!("TLS: {text}").into())
}

impl Transport for TlsTransport {
    fn buffers(&mut self) -> &mut dyn Buffers {
        &mut self.buffers
    }

    fn transmit_output(&mut self, amount: usize, timeout: NextTimeout) -> Result<(), Error> {
        self.stream.sock.0.set_timeout(timeout);
        self.stream.write_all(&self.buffers.output()[..amount])?;
        Ok(())
    }

    fn await_input(&mut self, timeout: NextTimeout) -> Result<bool, Error> {
        self.stream.sock.0.set_timeout(timeout);
        let read = self.stream.read(self.buffers.input_append_buf())?;
        self.buffers.input_appended(read);
        Ok(read > 0)
    }

    /// Connections are never used again.
    fn is_open(&mut self) -> bool {
        false
    }

    fn is_tls(&self) -> bool {
        true
    }
}
