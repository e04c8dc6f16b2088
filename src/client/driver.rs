//! Runs one client connection on a socket: reads what has arrived, polls the application, writes.
//!
//! Reads and writes of a connection are one future. It runs on the glommio executor of its caller.

use std::future::{Future, poll_fn};
use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use futures_lite::{AsyncRead, AsyncWrite};
use glommio::net::TcpStream;
use glommio::timer::Timer;
use socket2::{Domain, SockAddr, Socket, Type};

use super::address::Endpoint;
use super::error::ClientError;
use super::resolve::resolve;
use super::silence::{Look, Patience, Silence};
use super::wire::{Target, Wire};

/// The size of the read buffer, in bytes.
const READ_BYTES: usize = 256 << 10;

/// The application is polled only while fewer bytes than this wait to be sent.
const SEND_BYTES: usize = 256 << 10;

/// How many rounds of reading and writing a connection gets before it yields to others.
const ROUNDS: usize = 8;

/// How long to wait for one address to accept the connection, before the next address of the name is tried.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// When to poll an application again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// When data arrives, or the application wakes its waker.
    Wait,
    /// As for `Wait`, and at this time at the latest.
    At(Instant),
    /// As soon as other connections had their turn.
    Again,
    /// Never: the application no longer needs the connection.
    Done,
}

/// The protocol logic that runs over a connection.
pub trait Application {
    /// Handles a piece of a WebSocket message from the server. `fin` marks the last piece of a message.
    fn handle_data(&mut self, piece: &[u8], fin: bool) -> Result<(), ClientError>;

    /// Appends frames to `wire.out`. Called once the handshake is complete, while the send buffer has room.
    fn poll(&mut self, cx: &mut Context<'_>, wire: &mut Wire) -> Result<Next, ClientError>;
}

/// How long to wait before trying again when the backlog of a Unix socket is full.
const BACKLOG_WAIT: Duration = Duration::from_millis(20);

/// Opens a connection. For TCP, resolves the name, then tries its addresses in turn. The error gives the result
/// of each address.
pub async fn connect(target: &Target) -> Result<TcpStream, ClientError> {
    Ok(match target.address.endpoint() {
        Endpoint::Tcp { host, port } => connect_first(&resolve(host, *port, target.lookup).await?).await?,
        Endpoint::Unix(path) => connect_unix(path).await?,
    })
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

fn silent(timeout: Duration) -> io::Error {
    let why = format!("the server was silent for {} s", timeout.as_secs());
    io::Error::new(io::ErrorKind::TimedOut, why)
}

/// Runs `application` over a connection until the application is done or the connection ends.
pub async fn run(
    stream: &mut TcpStream,
    wire: &mut Wire,
    application: &mut impl Application,
) -> Result<(), ClientError> {
    run_with_buffer(stream, wire, application, &mut vec![0; READ_BYTES]).await
}

/// Like [`run`], with a buffer from the caller. For many connections that each read little.
pub async fn run_with_buffer(
    stream: &mut TcpStream,
    wire: &mut Wire,
    application: &mut impl Application,
    buffer: &mut [u8],
) -> Result<(), ClientError> {
    let mut silence = Silence::new(Instant::now(), Patience::USUAL);
    run_with_silence(stream, wire, application, buffer, &mut silence).await
}

/// Like [`run_with_buffer`], with the given supervision of the server's silence.
async fn run_with_silence(
    stream: &mut TcpStream,
    wire: &mut Wire,
    application: &mut impl Application,
    buffer: &mut [u8],
    silence: &mut Silence,
) -> Result<(), ClientError> {
    let mut sent = 0;
    let mut timer: Option<(Instant, Timer)> = None;
    // The timer fires at once. The first look decides when the next one is due.
    let mut look = Timer::new(Duration::ZERO);
    poll_fn(|cx| {
        // A new timer must be polled to be armed, and by then it may have fired already.
        while Pin::new(&mut look).poll(cx).is_ready() {
            let left = match silence.look(Instant::now(), wire.is_open()) {
                Look::Wait(left) => left,
                Look::Ask(left) => {
                    wire.ping();
                    left
                }
                Look::Over(time) => return Poll::Ready(Err(silent(time).into())),
            };
            look = Timer::new(left);
        }
        for _ in 0..ROUNDS {
            let mut progress = false;
            let mut next = Next::Wait;
            match Pin::new(&mut *stream).poll_read(cx, buffer) {
                Poll::Ready(Ok(0)) => return Poll::Ready(Err(ClientError::Closed(None))),
                Poll::Ready(Ok(bytes)) => {
                    progress = true;
                    let each = |piece: &[u8], fin| application.handle_data(piece, fin);
                    if let Err(error) = wire.handle_received(&mut buffer[..bytes], each) {
                        return Poll::Ready(Err(error));
                    }
                    silence.heard(Instant::now(), wire.take_pinged());
                }
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error.into())),
                Poll::Pending => {}
            }
            if wire.is_open() && wire.out.len() - sent < SEND_BYTES {
                match application.poll(cx, wire) {
                    Ok(wanted) => next = wanted,
                    Err(error) => return Poll::Ready(Err(error)),
                }
            }
            while sent < wire.out.len() {
                match Pin::new(&mut *stream).poll_write(cx, &wire.out[sent..]) {
                    Poll::Ready(Ok(bytes)) => {
                        sent += bytes;
                        progress = true;
                    }
                    Poll::Ready(Err(error)) => return Poll::Ready(Err(error.into())),
                    Poll::Pending => break,
                }
            }
            if sent == wire.out.len() {
                wire.out.clear();
                sent = 0;
            }
            match next {
                Next::Done if sent == 0 => return Poll::Ready(Ok(())),
                Next::At(at) => {
                    if timer.as_ref().is_none_or(|(armed, _)| *armed != at) {
                        timer = Some((at, Timer::new(at.saturating_duration_since(Instant::now()))));
                    }
                    if let Some((_, running)) = &mut timer
                        && Pin::new(running).poll(cx).is_ready()
                    {
                        timer = None;
                        progress = true;
                    }
                }
                Next::Again => progress = true,
                Next::Wait | Next::Done => {}
            }
            if !progress {
                return Poll::Pending;
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    })
    .await
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::resolve::Lookup;
    use crate::shard::executor::{ExecutorSettings, spawn};
    use std::io::{Read, Write};
    use std::net::{Ipv4Addr, Ipv6Addr, TcpListener};

    fn on_executor<T: Send + 'static, F: Future<Output = T> + 'static>(
        make: impl FnOnce() -> F + Send + 'static,
    ) -> T {
        let settings = ExecutorSettings { name: "test".into(), core: None };
        spawn(settings, make).unwrap().join().unwrap()
    }

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
                let stream = connect(&target).await?;
                Ok::<_, ClientError>(stream.peer_addr().map_err(io::Error::from)?)
            });
            assert_eq!(peer.unwrap(), there);
        }
    }

    /// Sends nothing over its connection.
    struct Mute;

    impl Application for Mute {
        fn handle_data(&mut self, _: &[u8], _: bool) -> Result<(), ClientError> {
            Ok(())
        }

        fn poll(&mut self, _: &mut Context<'_>, _: &mut Wire) -> Result<Next, ClientError> {
            Ok(Next::Wait)
        }
    }

    #[test]
    fn a_silent_server_is_pinged_and_its_own_pings_set_the_pace() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("ws://{}/", listener.local_addr().unwrap());
        let server = std::thread::spawn(move || {
            let (stream, _) = listener.accept().unwrap();
            stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
            let mut socket = tungstenite::accept(stream).unwrap();
            // Read and write raw frames from here on. A pong from the library would end the silence before
            // the server's ping does.
            let stream = socket.get_mut();
            let mut frame = [0; 6];
            stream.read_exact(&mut frame).unwrap();
            stream.write_all(&[0x89, 0]).unwrap();
            (frame[0], frame[1])
        });
        let patience = Patience {
            handshake: Duration::from_secs(60),
            ask_after: Duration::from_millis(20),
            give_up_after: Duration::from_secs(60),
        };
        let (ended, pace) = on_executor(move || async move {
            let target = Target::parse(&url, None, None).unwrap();
            let mut stream = connect(&target).await.unwrap();
            let mut wire = Wire::start(&target);
            let mut silence = Silence::new(Instant::now(), patience);
            let ended =
                run_with_silence(&mut stream, &mut wire, &mut Mute, &mut [0; 4096], &mut silence).await;
            (ended, silence.pace)
        });
        assert_eq!(server.join().unwrap(), (0x89, 0x80), "a masked, empty ping");
        assert!(ended.is_err(), "the server closed the connection");
        assert!(pace >= patience.ask_after, "its ping ended a silence of {pace:?}");
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
