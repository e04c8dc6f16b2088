//! The connections of the control port: how long each may take, and which one is closed when there are too
//! many.
//!
//! At the limit, the connection with the oldest request is closed. Its request is incomplete, its client does
//! not read the answer, or it is idle. So a new client is always answered, however many others stay
//! connected. Live streams never end by themselves. They have their own limit, at which a new stream
//! displaces an existing one.

use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::Notify;
use tokio::time::{Instant, timeout_at};

use crate::base::limits::LIVE_STREAMS_MAX;

/// The lifetime of a connection after the start of its last request, whether its answer was read or not. Live
/// streams are exempt.
const REQUEST_LIFETIME: Duration = Duration::from_secs(60);

/// The longest time for which the client of a live stream may read nothing.
const STUCK_MAX: Duration = Duration::from_secs(30);

#[derive(Debug)]
pub(super) struct Connection {
    state: Mutex<Activity>,
    end: Notify,
}

#[derive(Debug)]
struct Activity {
    /// When its last request or its live stream started, or when it was accepted.
    since: Instant,
    /// Set for a live stream. A notification displaces it.
    live: Option<Arc<Notify>>,
    /// Since when its socket has accepted no bytes.
    stuck_since: Option<Instant>,
}

impl Connection {
    fn new() -> Self {
        let state = Activity { since: Instant::now(), live: None, stuck_since: None };
        Self { state: Mutex::new(state), end: Notify::new() }
    }

    fn state(&self) -> MutexGuard<'_, Activity> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Records the start of a request.
    pub(super) fn begins(&self) {
        self.state().since = Instant::now();
    }

    /// Returns when to check the connection again. If that time has passed, the connection must end.
    fn deadline(&self, now: Instant) -> Instant {
        let state = self.state();
        match (&state.live, state.stuck_since) {
            (None, _) => state.since + REQUEST_LIFETIME,
            (Some(_), stuck) => stuck.unwrap_or(now) + STUCK_MAX,
        }
    }

    /// Waits until the connection must end, because its time is up or it is evicted.
    pub(super) async fn must_end(&self) {
        loop {
            let now = Instant::now();
            let deadline = self.deadline(now);
            if deadline <= now || timeout_at(deadline, self.end.notified()).await.is_ok() {
                return;
            }
        }
    }
}

/// All open connections. Clones share them.
#[derive(Clone, Debug, Default)]
pub(super) struct Connections(Arc<Mutex<Vec<Arc<Connection>>>>);

/// A registered connection. Dropping it removes the connection.
#[derive(Debug)]
pub(super) struct Entered {
    all: Connections,
    pub(super) connection: Arc<Connection>,
}

impl Drop for Entered {
    fn drop(&mut self) {
        self.all.open().retain(|one| !Arc::ptr_eq(one, &self.connection));
    }
}

impl Connections {
    fn open(&self) -> MutexGuard<'_, Vec<Arc<Connection>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Registers a new connection.
    pub(super) fn enter(&self) -> Entered {
        let connection = Arc::new(Connection::new());
        self.open().push(connection.clone());
        Entered { all: self.clone(), connection }
    }

    /// Closes the connection with the oldest request. A live stream is closed only if no other connection is
    /// open.
    pub(super) fn give_way(&self) {
        let open = self.open();
        let oldest = open.iter().min_by_key(|one| {
            let state = one.state();
            (state.live.is_some(), state.since)
        });
        if let Some(oldest) = oldest {
            oldest.end.notify_one();
        }
    }

    /// Makes a connection a live stream. At the limit it displaces another: the one whose client has read
    /// nothing for the longest time, otherwise the oldest.
    pub(super) fn watch(&self, connection: &Arc<Connection>) -> Watching {
        let open = self.open();
        let live = || open.iter().filter(|one| one.state().live.is_some());
        if live().count() >= LIVE_STREAMS_MAX {
            let gives_way = live().min_by_key(|one| {
                let state = one.state();
                (state.stuck_since.is_none(), state.stuck_since.unwrap_or(state.since))
            });
            if let Some(one) = gives_way {
                let mut state = one.state();
                if let Some(displaced) = state.live.take() {
                    displaced.notify_one();
                }
                // The displaced stream now has the time of a normal request to send its last event.
                state.since = Instant::now();
            }
        }
        let displaced = Arc::new(Notify::new());
        let mut state = connection.state();
        (state.live, state.since) = (Some(displaced.clone()), Instant::now());
        drop(state);
        Watching { connection: connection.clone(), displaced }
    }
}

/// A live stream, until this is dropped.
#[derive(Debug)]
pub(super) struct Watching {
    connection: Arc<Connection>,
    displaced: Arc<Notify>,
}

impl Watching {
    /// Waits until another stream displaces this one.
    pub(super) async fn displaced(&self) {
        self.displaced.notified().await;
    }
}

impl Drop for Watching {
    fn drop(&mut self) {
        let mut state = self.connection.state();
        (state.live, state.since) = (None, Instant::now());
    }
}

/// The socket of a connection. Records since when it has accepted no bytes.
#[derive(Debug)]
pub(super) struct Watched<S> {
    socket: S,
    connection: Arc<Connection>,
}

impl<S> Watched<S> {
    pub(super) fn new(socket: S, connection: Arc<Connection>) -> Self {
        Self { socket, connection }
    }

    fn note(&self, written: Poll<std::io::Result<usize>>) -> Poll<std::io::Result<usize>> {
        let mut state = self.connection.state();
        match &written {
            Poll::Pending => {
                state.stuck_since.get_or_insert_with(Instant::now);
            }
            Poll::Ready(_) => state.stuck_since = None,
        }
        drop(state);
        written
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Watched<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.socket).poll_read(cx, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Watched<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        let written = Pin::new(&mut self.socket).poll_write(cx, bytes);
        self.note(written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        pieces: &[std::io::IoSlice<'_>],
    ) -> Poll<std::io::Result<usize>> {
        let written = Pin::new(&mut self.socket).poll_write_vectored(cx, pieces);
        self.note(written)
    }

    fn is_write_vectored(&self) -> bool {
        self.socket.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.socket).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.socket).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_lite::future::{block_on, poll_once};

    fn must_end_now(connection: &Connection) -> bool {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        runtime.block_on(poll_once(connection.must_end())).is_some()
    }

    fn is_displaced(watching: &Watching) -> bool {
        block_on(poll_once(watching.displaced())).is_some()
    }

    /// Makes the request look as old as `time`.
    fn ago(connection: &Connection, time: Duration) {
        connection.state().since = Instant::now() - time;
    }

    #[test]
    fn the_connection_with_the_oldest_request_is_evicted_before_any_live_stream() {
        let all = Connections::default();
        let [live, old, busy, young] = [(); 4].map(|()| all.enter());
        let watching = all.watch(&live.connection);
        for (one, secs) in [(&live, 50), (&old, 40), (&busy, 45), (&young, 1)] {
            ago(&one.connection, Duration::from_secs(secs));
        }
        // It has started another request, so it has not been idle.
        busy.connection.begins();
        all.give_way();
        let ends = [&live, &old, &busy, &young].map(|one| must_end_now(&one.connection));
        assert_eq!(ends, [false, true, false, false]);
        assert!(!is_displaced(&watching));
        drop((old, busy, young));
        assert_eq!(all.open().len(), 1, "ended connections are removed");
        all.give_way();
        assert!(must_end_now(&live.connection), "no other connection is open");
    }

    #[test]
    fn unread_requests_and_live_streams_time_out() {
        let all = Connections::default();
        let entered = all.enter();
        let connection = &entered.connection;
        assert!(!must_end_now(connection));
        ago(connection, REQUEST_LIFETIME);
        assert!(must_end_now(connection));
        let watching = all.watch(connection);
        ago(connection, 10 * REQUEST_LIFETIME);
        assert!(!must_end_now(connection), "a live stream that is read continues");
        connection.state().stuck_since = Some(Instant::now() - STUCK_MAX);
        assert!(must_end_now(connection));
        connection.state().stuck_since = None;
        drop(watching);
        assert!(!must_end_now(connection), "its next request gets the full time");
    }

    #[test]
    fn a_live_stream_displaces_an_unread_one_otherwise_the_oldest() {
        let all = Connections::default();
        let entered: Vec<_> = (0..LIVE_STREAMS_MAX + 2).map(|_| all.enter()).collect();
        let watch = |one: &Entered| all.watch(&one.connection);
        let watching: Vec<_> = entered[..LIVE_STREAMS_MAX].iter().map(watch).collect();
        for (index, one) in entered[..LIVE_STREAMS_MAX].iter().enumerate() {
            ago(&one.connection, Duration::from_secs(100 - index as u64));
        }
        entered[5].connection.state().stuck_since = Some(Instant::now());
        let displaced = |of: &[Watching]| of.iter().position(is_displaced);
        let _one_more = watch(&entered[LIVE_STREAMS_MAX]);
        assert_eq!(displaced(&watching), Some(5));
        let _another = watch(&entered[LIVE_STREAMS_MAX + 1]);
        assert_eq!(displaced(&watching), Some(0));
        let live = all.open().iter().filter(|one| one.state().live.is_some()).count();
        assert_eq!(live, LIVE_STREAMS_MAX);
    }
}
