//! One client connection on a socket: reads what is there, lets the application write, sends.
//!
//! Runs as a task of whatever glommio executor calls it; a connection's reads and writes are one future.

use std::future::{Future, poll_fn};
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use futures_lite::{AsyncRead, AsyncWrite};
use glommio::net::TcpStream;
use glommio::timer::Timer;

use super::error::ClientError;
use super::wire::{Target, Wire};

/// Read at once, bytes.
const READ_BYTES: usize = 256 << 10;

/// The application writes more only while less than this waits to be sent, bytes.
const SEND_BYTES: usize = 256 << 10;

/// How much is read and sent before other connections get their turn, rounds.
const ROUNDS: usize = 8;

/// How long a server may take to connect and to shake hands, and how long it may be silent afterwards: it pings every
/// `ping_interval`, 30 s unless told otherwise.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
const SILENCE_TIMEOUT: Duration = Duration::from_secs(90);

/// What an application waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// The server, or its own waker.
    Wait,
    /// The same, and that time.
    At(Instant),
    /// It wants to be asked again at once, when the others had their turn.
    Again,
    /// Nothing: the connection is no longer needed.
    Done,
}

/// What speaks over a connection.
pub trait Application {
    /// A piece of a wsmessage of the server's; `fin` where it ends it.
    fn handle_data(&mut self, piece: &[u8], fin: bool) -> Result<(), ClientError>;

    /// The handshake is done and there is room: appends frames to `wire.out`.
    fn poll(&mut self, cx: &mut Context<'_>, wire: &mut Wire) -> Result<Next, ClientError>;
}

/// Opens the TCP connection.
pub async fn connect(target: &Target) -> Result<TcpStream, ClientError> {
    let timeout = async {
        Timer::new(HANDSHAKE_TIMEOUT).await;
        Err(silent(HANDSHAKE_TIMEOUT))
    };
    let connect = async { TcpStream::connect(target.address).await.map_err(io::Error::from) };
    let stream = futures_lite::future::or(connect, timeout).await?;
    stream.set_nodelay(true).map_err(io::Error::from)?;
    Ok(stream)
}

fn silent(timeout: Duration) -> io::Error {
    let why = format!("the server was silent for {} s", timeout.as_secs());
    io::Error::new(io::ErrorKind::TimedOut, why)
}

/// Runs `application` over a connection until it is done, or the connection ends.
pub async fn run(
    stream: &mut TcpStream,
    wire: &mut Wire,
    application: &mut impl Application,
) -> Result<(), ClientError> {
    run_with_buffer(stream, wire, application, &mut vec![0; READ_BYTES]).await
}

/// The same for connections that are many and read little: with a buffer of the caller's size.
pub async fn run_with_buffer(
    stream: &mut TcpStream,
    wire: &mut Wire,
    application: &mut impl Application,
    buffer: &mut [u8],
) -> Result<(), ClientError> {
    let mut sent = 0;
    let mut timer: Option<(Instant, Timer)> = None;
    let mut heard = Instant::now();
    let mut silence = Timer::new(HANDSHAKE_TIMEOUT);
    poll_fn(|cx| {
        if Pin::new(&mut silence).poll(cx).is_ready() {
            let timeout = if wire.is_open() { SILENCE_TIMEOUT } else { HANDSHAKE_TIMEOUT };
            let left = timeout.saturating_sub(heard.elapsed());
            if left.is_zero() {
                return Poll::Ready(Err(silent(timeout).into()));
            }
            silence = Timer::new(left);
            // Arms it: it cannot be ready yet, and should it be, the next event finds it so.
            let _ = Pin::new(&mut silence).poll(cx);
        }
        for _ in 0..ROUNDS {
            let mut progress = false;
            let mut next = Next::Wait;
            match Pin::new(&mut *stream).poll_read(cx, buffer) {
                Poll::Ready(Ok(0)) => return Poll::Ready(Err(ClientError::Closed(None))),
                Poll::Ready(Ok(bytes)) => {
                    progress = true;
                    heard = Instant::now();
                    let each = |piece: &[u8], fin| application.handle_data(piece, fin);
                    if let Err(error) = wire.handle_received(&mut buffer[..bytes], each) {
                        return Poll::Ready(Err(error));
                    }
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
