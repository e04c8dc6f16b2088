//! Accepts connections and serves HTTP/1 on them, with limits on time and number.

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

/// The longest time for the head of a request, counted from accepting the connection or from the last answer.
/// So it is also the longest idle time.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);

/// The longest head of a request, in bytes; longer ones get 431. Also limits the buffered part of an answer,
/// except for a body made in one piece.
const HEAD_BYTES_MAX: usize = 16 << 10;

/// The pause after a failure to accept, so that retries do not use up a core.
const ACCEPT_AGAIN_AFTER: Duration = Duration::from_millis(100);

/// Accepts and serves connections. Never returns.
pub(super) async fn serve(listener: TcpListener, router: Router, guard: Guard, connections: Connections) {
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(HEAD_TIMEOUT).max_buf_size(HEAD_BYTES_MAX);
    let service = TowerToHyperService::new(router);
    let guard = Arc::new(guard);
    // One less than the limit, because a connection is accepted before another is evicted for it.
    let places = Arc::new(Semaphore::new(CONTROL_CONNECTIONS_MAX - 1));
    loop {
        let socket = match listener.accept().await {
            Ok((socket, _)) => socket,
            Err(error) => {
                if !is_clients_own(&error) {
                    tracing::warn!(%error, "control port cannot accept a connection, retrying");
                    tokio::time::sleep(ACCEPT_AGAIN_AFTER).await;
                }
                continue;
            }
        };
        if places.available_permits() == 0 {
            connections.give_way();
        }
        // Cannot fail: nothing closes the semaphore.
        let Ok(place) = places.clone().acquire_owned().await else { return };
        let talk = converse(http.clone(), socket, service.clone(), guard.clone(), connections.enter());
        tokio::spawn(async move {
            talk.await;
            drop(place);
        });
    }
}

/// Returns whether the client disconnected before it was accepted.
fn is_clients_own(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset)
}

/// Serves requests in order until the client disconnects or the connection must end.
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
                // A body of the request is not read; hyper then closes the connection.
                None => service.call(request).await,
            }
        }
    });
    let talk = async {
        // An error is the client's: it disconnected, was too slow, or did not speak HTTP.
        let _ = http.serve_connection(socket, answer).await;
    };
    future::or(talk, connection.must_end()).await;
}
