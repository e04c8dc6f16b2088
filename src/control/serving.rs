//! Accepting connections and talking HTTP/1 on each, for so long and on so many at once.

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
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;

use super::connections::{Connections, Entered, Watched};
use super::guard::Guard;
use crate::base::limits::CONTROL_CONNECTIONS_MAX;

/// How long a client may take for a request's head, counted from when the connection was accepted or the last answer was sent: so
/// long a connection may be idle, too.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);

/// The longest head; a longer one gets 431. No more is kept of an answer that is not sent, but for what was made in one piece.
const HEAD_BYTES_MAX: usize = 16 << 10;

/// How long accepting waits after it has failed, so that it does not use up a core.
const ACCEPT_AGAIN_AFTER: Duration = Duration::from_millis(100);

/// Serves without end.
pub(super) async fn serve(listener: TcpListener, router: Router, guard: Guard, connections: Connections) {
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(HEAD_TIMEOUT).max_buf_size(HEAD_BYTES_MAX);
    let service = TowerToHyperService::new(router);
    let guard = Arc::new(guard);
    // One more is accepted before another gives way to it.
    let places = Arc::new(Semaphore::new(CONTROL_CONNECTIONS_MAX - 1));
    loop {
        let socket = match listener.accept().await {
            Ok((socket, _)) => socket,
            Err(error) => {
                if !is_clients_own(&error) {
                    tracing::warn!(%error, "the control port cannot accept a connection; it tries again");
                    tokio::time::sleep(ACCEPT_AGAIN_AFTER).await;
                }
                continue;
            }
        };
        if places.available_permits() == 0 {
            connections.give_way();
        }
        // Fails where it is closed, which nobody does.
        let Ok(place) = places.clone().acquire_owned().await else { return };
        let talk = converse(http.clone(), socket, service.clone(), guard.clone(), connections.enter());
        tokio::spawn(async move {
            talk.await;
            drop(place);
        });
    }
}

/// The client has gone before it was accepted.
fn is_clients_own(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset)
}

/// Answers one request after the other until the client or the connection's time ends.
async fn converse(
    http: http1::Builder,
    socket: TcpStream,
    service: TowerToHyperService<Router>,
    guard: Arc<Guard>,
    entered: Entered,
) {
    let connection = &entered.connection;
    let socket = TokioIo::new(Watched::new(socket, connection.clone()));
    let answering = connection.clone();
    let answer = service_fn(move |mut request: Request<Incoming>| {
        answering.begins();
        let refusal = guard.check(&request).err();
        request.extensions_mut().insert(answering.clone());
        let service = service.clone();
        async move {
            match refusal {
                Some(refusal) => Ok::<_, Infallible>(refusal.into_response()),
                // A body that comes with it is not read; hyper ends the connection then.
                None => service.call(request).await,
            }
        }
    });
    let talk = async {
        // An error is the client's: it is gone, too slow, or does not talk HTTP.
        let _ = http.serve_connection(socket, answer).await;
    };
    future::or(talk, connection.must_end()).await;
}
