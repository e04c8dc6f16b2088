//! Accepts connections and serves HTTP/1 on them, with or without TLS, with limits on time and number.

use std::convert::Infallible;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::response::IntoResponse;
use futures_lite::future;
use hyper::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::{Service, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::Semaphore;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;

use super::connections::{Connections, Entered, Watched};
use super::guard::Guard;
use super::sockets::{Acceptor, Sockets, Stream};
use super::way::Way;
use crate::base::limits::CONTROL_CONNECTIONS_MAX;
use crate::shard::certificates::Certificates;

/// The longest time for the head of a request, counted from accepting the connection or from the last answer.
/// So it is also the longest idle time. A TLS handshake may take as long.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);

/// The longest head of a request, in bytes; longer ones get 431. Also limits the buffered part of an answer,
/// except for a body made in one piece.
const HEAD_BYTES_MAX: usize = 16 << 10;

/// The pause after a failure to accept, so that retries do not use up a core.
const ACCEPT_AGAIN_AFTER: Duration = Duration::from_millis(100);

/// What all connections share.
#[derive(Clone, Debug)]
pub(super) struct Shared {
    pub(super) router: Router,
    pub(super) guard: Arc<Guard>,
    pub(super) connections: Connections,
    /// The certificates, if TCP connections speak TLS.
    pub(super) certificates: Option<Certificates>,
}

/// Accepts and serves the connections of all sockets. Never returns, unless the sockets cannot be used.
pub(super) async fn serve(sockets: Sockets, shared: Shared) -> io::Result<()> {
    // Fewer than the limit, because each socket accepts a connection before another is evicted for it.
    let places = Arc::new(Semaphore::new(CONTROL_CONNECTIONS_MAX.saturating_sub(sockets.count()).max(1)));
    let mut accepting = tokio::task::JoinSet::new();
    for socket in sockets.acceptors()? {
        accepting.spawn(serve_one(socket, shared.clone(), places.clone()));
    }
    accepting.join_all().await;
    Ok(())
}

async fn serve_one(socket: Acceptor, shared: Shared, places: Arc<Semaphore>) {
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(HEAD_TIMEOUT).max_buf_size(HEAD_BYTES_MAX);
    loop {
        let (stream, way) = match socket.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                if !is_clients_own(&error) {
                    tracing::warn!(%error, "control port cannot accept a connection, retrying");
                    tokio::time::sleep(ACCEPT_AGAIN_AFTER).await;
                }
                continue;
            }
        };
        if places.available_permits() == 0 {
            shared.connections.give_way();
        }
        // Cannot fail: nothing closes the semaphore.
        let Ok(place) = places.clone().acquire_owned().await else { return };
        let (http, shared, entered) = (http.clone(), shared.clone(), shared.connections.enter());
        tokio::spawn(async move {
            talk(http, stream, way, shared, entered).await;
            drop(place);
        });
    }
}

/// Returns whether the client disconnected before it was accepted.
fn is_clients_own(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset, NotConnected};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset | NotConnected)
}

/// Serves a connection until the client disconnects or the connection must end.
async fn talk(http: http1::Builder, stream: Stream, way: Way, shared: Shared, entered: Entered) {
    let connection = entered.connection.clone();
    let talk = async {
        match (stream, &shared.certificates) {
            (Stream::Unix(stream), _) => {
                converse(http, Watched::new(stream, entered.connection.clone()), way, &shared, &entered)
                    .await;
            }
            (Stream::Tcp(stream), None) => {
                converse(http, Watched::new(stream, entered.connection.clone()), way, &shared, &entered)
                    .await;
            }
            (Stream::Tcp(stream), Some(certificates)) => {
                let acceptor = TlsAcceptor::from(certificates.config().without_client_certificates());
                let stream = Watched::new(stream, entered.connection.clone());
                // A failure is the client's: it speaks no TLS, or does not trust the certificate.
                if let Ok(Ok(stream)) = timeout(HEAD_TIMEOUT, acceptor.accept(stream)).await {
                    converse(http, stream, way, &shared, &entered).await;
                }
            }
        }
    };
    future::or(talk, connection.must_end()).await;
}

/// Serves requests in order.
async fn converse(
    http: http1::Builder,
    stream: impl AsyncRead + AsyncWrite + Unpin,
    way: Way,
    shared: &Shared,
    entered: &Entered,
) {
    let answering = entered.connection.clone();
    let service = TowerToHyperService::new(shared.router.clone());
    let answer = service_fn(move |mut request: Request<Incoming>| {
        answering.begins();
        let refusal = shared.guard.check(&request).err();
        request.extensions_mut().insert(answering.clone());
        request.extensions_mut().insert(way);
        let service = service.clone();
        async move {
            match refusal {
                Some(refusal) => Ok::<_, Infallible>(refusal.into_response()),
                // A body of the request is not read; hyper then closes the connection.
                None => service.call(request).await,
            }
        }
    });
    // An error is the client's: it disconnected, was too slow, or did not speak HTTP.
    let _ = http.serve_connection(TokioIo::new(stream), answer).await;
}
