//! A connection to a server: how it is opened and closed.

use std::future::poll_fn;
use std::io;
use std::net::{Shutdown, SocketAddr};
use std::path::Path;
use std::time::{Duration, Instant};

use glommio::net::TcpStream;
use glommio::timer::Timer;
use socket2::{Domain, SockAddr, Socket, Type};

use super::address::Endpoint;
use super::error::ClientError;
use super::link::Link;
use super::resolve::resolve;
use super::secure::SecureLink;
use super::wire::{Target, Wire};
use crate::tls::client::Security;

/// How long to wait for one address to accept the connection, before the next address of the name is tried.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// How long to wait before trying again when the backlog of a Unix socket is full.
const BACKLOG_WAIT: Duration = Duration::from_millis(20);

/// How long a closing connection waits for the socket to take the end of TLS.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);

/// An open connection to a server.
#[derive(Debug)]
pub struct Connection(Kind);

/// The kinds of connections.
#[derive(Debug)]
pub(super) enum Kind {
    Plain(TcpStream),
    Secure(Box<SecureLink>),
}

impl Connection {
    /// Returns the version and the cipher suite of TLS, once both sides have agreed. `None` without TLS.
    pub fn security(&self) -> Option<Security> {
        match &self.0 {
            Kind::Plain(_) => None,
            Kind::Secure(link) => link.security(),
        }
    }

    /// Completes the handshake of TLS, and returns what both sides agreed on. Returns `None` without TLS.
    pub async fn negotiate(&mut self) -> Result<Option<Security>, ClientError> {
        let Kind::Secure(link) = &mut self.0 else { return Ok(None) };
        let timeout = async {
            Timer::new(CONNECT_TIMEOUT).await;
            Err(io::Error::new(io::ErrorKind::TimedOut, "no answer to the handshake of TLS").into())
        };
        futures_lite::future::or(poll_fn(|cx| link.poll_open(cx)), timeout).await?;
        Ok(link.security())
    }

    /// Closes the connection. The server of a TLS connection learns that it has received everything.
    pub async fn close(mut self) {
        if let Kind::Secure(link) = &mut self.0 {
            link.close();
            let sent = poll_fn(|cx| link.poll_flush(cx));
            let timeout = async {
                Timer::new(CLOSE_TIMEOUT).await;
                Ok(())
            };
            // Fails if the connection has already failed, which does not matter.
            let _ = futures_lite::future::or(sent, timeout).await;
        }
        let _ = self.stream().shutdown(Shutdown::Both).await;
    }

    pub(super) fn kind(&mut self) -> &mut Kind {
        &mut self.0
    }

    fn stream(&self) -> &TcpStream {
        match &self.0 {
            Kind::Plain(stream) => stream,
            Kind::Secure(link) => link.stream(),
        }
    }
}

/// Opens a connection with a token, if the target has any, and starts its handshake.
pub async fn open(target: &Target) -> Result<(Connection, Wire), ClientError> {
    let token = match &target.tokens {
        Some(tokens) => Some(tokens.clone().obtain(None).await?),
        None => None,
    };
    Ok((connect(target).await?, Wire::with_token(target, token)))
}

/// Opens a connection. For TCP, resolves the name, then tries its addresses in turn. The error gives the
/// result of each address. A handshake of TLS takes place when the connection is run.
pub async fn connect(target: &Target) -> Result<Connection, ClientError> {
    let stream = match target.address.endpoint() {
        Endpoint::Tcp { host, port } => connect_first(&resolve(host, *port, target.lookup).await?).await?,
        Endpoint::Unix(path) => connect_unix(path).await?,
    };
    Ok(Connection(if target.address.is_secure() {
        let without = || ClientError::Address("a wss:// address needs trusted authorities".into());
        let trust = target.trust.as_ref().ok_or_else(without)?;
        Kind::Secure(Box::new(SecureLink::new(stream, &target.address, trust)?))
    } else {
        Kind::Plain(stream)
    }))
}

/// Connects to a Unix socket. glommio's stream of TCP makes no call that such a socket lacks.
async fn connect_unix(path: &Path) -> io::Result<TcpStream> {
    let failed = |error: io::Error| io::Error::new(error.kind(), format!("{}: {error}", path.display()));
    let address = SockAddr::unix(path).map_err(failed)?;
    let until = Instant::now() + CONNECT_TIMEOUT;
    loop {
        let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
        socket.set_nonblocking(true)?;
        match socket.connect(&address) {
            Ok(()) => return Ok(TcpStream::from(socket)),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock && Instant::now() < until => {
                Timer::new(BACKLOG_WAIT).await;
            }
            Err(error) => return Err(failed(error)),
        }
    }
}

/// Connects to the first address that accepts a connection.
async fn connect_first(addresses: &[SocketAddr]) -> io::Result<TcpStream> {
    let mut failures: Vec<String> = Vec::new();
    let mut kind = io::ErrorKind::NotFound;
    for address in addresses {
        match connect_to(*address).await {
            Ok(stream) => return Ok(stream),
            Err(error) => {
                kind = error.kind();
                failures.push(format!("{address}: {error}"));
            }
        }
    }
    Err(io::Error::new(kind, failures.join("; ")))
}

async fn connect_to(address: SocketAddr) -> io::Result<TcpStream> {
    let timeout = async {
        Timer::new(CONNECT_TIMEOUT).await;
        let why = format!("no answer within {} s", CONNECT_TIMEOUT.as_secs());
        Err(io::Error::new(io::ErrorKind::TimedOut, why))
    };
    let connect = async { TcpStream::connect(address).await.map_err(io::Error::from) };
    let stream = futures_lite::future::or(connect, timeout).await?;
    stream.set_nodelay(true).map_err(io::Error::from)?;
    Ok(stream)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::on_executor;
    use crate::client::resolve::Lookup;
    use std::net::{Ipv4Addr, Ipv6Addr, TcpListener};

    #[test]
    fn addresses_are_tried_in_turn() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let there = listener.local_addr().unwrap();
        // A port that was free a moment ago, so nobody listens on it.
        let gone = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let peer = on_executor(move || async move {
            connect_first(&[gone, there]).await.and_then(|stream| Ok(stream.peer_addr()?))
        });
        assert_eq!(peer.unwrap(), there);
        let why = on_executor(move || async move { connect_first(&[gone, gone]).await.map(drop) });
        let why = why.unwrap_err().to_string();
        assert_eq!(why.matches(&gone.to_string()).count(), 2, "the error names each address: {why}");
    }

    #[test]
    fn a_name_with_ipv4_and_ipv6_addresses_is_reached_at_the_one_that_answers() {
        let six_first: Lookup =
            |_, port| Ok(vec![(Ipv6Addr::LOCALHOST, port).into(), (Ipv4Addr::LOCALHOST, port).into()]);
        let four_first: Lookup =
            |_, port| Ok(vec![(Ipv4Addr::LOCALHOST, port).into(), (Ipv6Addr::LOCALHOST, port).into()]);
        for (at, lookup) in [("127.0.0.1:0", six_first), ("[::1]:0", four_first)] {
            let listener = match TcpListener::bind(at) {
                Ok(listener) => listener,
                // IPv6 may be unavailable on this machine.
                Err(_) if at.starts_with('[') => continue,
                Err(error) => panic!("{error}"),
            };
            let there = listener.local_addr().unwrap();
            let peer = on_executor(move || async move {
                let url = format!("ws://both-families.invalid:{}/", there.port());
                let target = Target { lookup, ..Target::parse(&url, None, None)? };
                let connection = connect(&target).await?;
                Ok::<_, ClientError>(connection.stream().peer_addr().map_err(io::Error::from)?)
            });
            assert_eq!(peer.unwrap(), there);
        }
    }

    #[test]
    fn lookups_run_off_the_executor_and_are_shared() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let connected = on_executor(move || async move {
            let target = Target::parse(&format!("ws://localhost:{port}/"), None, None)?;
            let both: Vec<_> = (0..2)
                .map(|_| {
                    let target = target.clone();
                    glommio::spawn_local(async move { connect(&target).await.map(drop) })
                })
                .collect();
            for one in both {
                one.await?;
            }
            let nowhere = Target::parse("ws://no-such-host.invalid/", None, None)?;
            Ok::<_, ClientError>(connect(&nowhere).await.map(drop))
        });
        let nowhere = connected.unwrap().unwrap_err();
        assert!(nowhere.is_transient(), "the name may resolve later");
        assert!(nowhere.to_string().contains("no-such-host.invalid"), "{nowhere}");
    }
}
