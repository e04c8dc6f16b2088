//! Runs one client connection on a socket: reads what has arrived, polls the application, writes.
//!
//! Reads and writes of a connection are one future. It runs on the glommio executor of its caller.

use std::future::{Future, poll_fn};
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use glommio::timer::Timer;

use super::connection::{Connection, Kind};
use super::error::ClientError;
use super::link::Link;
use super::session::Renewable;
use super::silence::{Look, Patience, Silence};
use super::wire::Wire;

/// The size of the read buffer, in bytes.
const READ_BYTES: usize = 256 << 10;

/// The application is polled only while fewer bytes than this wait to be sent.
const SEND_BYTES: usize = 256 << 10;

/// How many rounds of reading and writing a connection gets before it yields to others.
const ROUNDS: usize = 8;

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

    /// Returns the current operation, so that the grant of the connection can be renewed.
    fn operation(&mut self) -> Option<&mut dyn Renewable>;
}

impl Next {
    /// Returns when to poll again: at this time at the latest, unless it is sooner anyway.
    fn or_at(self, at: Option<Instant>) -> Self {
        match (self, at) {
            (Self::Wait, Some(at)) => Self::At(at),
            (Self::At(one), Some(other)) => Self::At(one.min(other)),
            (next, _) => next,
        }
    }
}

fn silent(timeout: Duration) -> io::Error {
    let why = format!("the server was silent for {} s", timeout.as_secs());
    io::Error::new(io::ErrorKind::TimedOut, why)
}

/// Runs `application` over a connection until the application is done or the connection ends.
pub async fn run(
    connection: &mut Connection,
    wire: &mut Wire,
    application: &mut impl Application,
) -> Result<(), ClientError> {
    run_with_buffer(connection, wire, application, &mut vec![0; READ_BYTES]).await
}

/// Like [`run`], with a buffer from the caller. For many connections that each read little.
pub async fn run_with_buffer(
    connection: &mut Connection,
    wire: &mut Wire,
    application: &mut impl Application,
    buffer: &mut [u8],
) -> Result<(), ClientError> {
    let mut silence = Silence::new(Instant::now(), Patience::USUAL);
    run_with_silence(connection, wire, application, buffer, &mut silence).await
}

/// Like [`run_with_buffer`], with the given supervision of the server's silence.
async fn run_with_silence(
    connection: &mut Connection,
    wire: &mut Wire,
    application: &mut impl Application,
    buffer: &mut [u8],
    silence: &mut Silence,
) -> Result<(), ClientError> {
    match connection.kind() {
        Kind::Plain(stream) => run_on(stream, wire, application, buffer, silence).await,
        Kind::Secure(link) => run_on(link.as_mut(), wire, application, buffer, silence).await,
    }
}

/// Runs `application` over one kind of connection.
async fn run_on(
    link: &mut impl Link,
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
            let received = link.poll_receive(cx, buffer, |bytes| {
                wire.handle_received(bytes, |piece, fin| application.handle_data(piece, fin))
            });
            match received {
                Poll::Ready(Ok(())) => {
                    progress = true;
                    silence.heard(Instant::now(), wire.take_pinged());
                }
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Pending => {}
            }
            if wire.is_open() && wire.out.len() - sent < SEND_BYTES {
                match application.poll(cx, wire) {
                    Ok(wanted) => {
                        let renewal = application.operation().map(|operation| wire.renew(cx, operation));
                        next = wanted.or_at(renewal.flatten());
                    }
                    Err(error) => return Poll::Ready(Err(error)),
                }
            }
            while sent < wire.out.len() {
                match link.poll_send(cx, &wire.out[sent..]) {
                    Poll::Ready(Ok(bytes)) => {
                        sent += bytes;
                        progress = true;
                    }
                    Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                    Poll::Pending => break,
                }
            }
            let is_flushed = match link.poll_flush(cx) {
                Poll::Ready(Ok(())) => true,
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Pending => false,
            };
            if sent == wire.out.len() {
                wire.out.clear();
                sent = 0;
            }
            match next {
                Next::Done if sent == 0 && is_flushed => return Poll::Ready(Ok(())),
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
    use crate::client::connection::connect;
    use crate::client::on_executor;
    use crate::client::wire::Target;
    use std::io::{Read, Write};
    use std::net::TcpListener;

    /// Sends nothing over its connection.
    struct Mute;

    impl Application for Mute {
        fn handle_data(&mut self, _: &[u8], _: bool) -> Result<(), ClientError> {
            Ok(())
        }

        fn poll(&mut self, _: &mut Context<'_>, _: &mut Wire) -> Result<Next, ClientError> {
            Ok(Next::Wait)
        }

        fn operation(&mut self) -> Option<&mut dyn Renewable> {
            None
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
            let mut connection = connect(&target).await.unwrap();
            let mut wire = Wire::start(&target);
            let mut silence = Silence::new(Instant::now(), patience);
            let ended =
                run_with_silence(&mut connection, &mut wire, &mut Mute, &mut [0; 4096], &mut silence).await;
            (ended, silence.pace)
        });
        assert_eq!(server.join().unwrap(), (0x89, 0x80), "a masked, empty ping");
        assert!(ended.is_err(), "the server closed the connection");
        assert!(pace >= patience.ask_after, "its ping ended a silence of {pace:?}");
    }
}
