//! Requests to the home of a queue, which creates, changes and deletes it.

use std::sync::Arc;
use std::time::Duration;

use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};
use tokio::task::JoinError;
use tokio::time::{Instant, timeout, timeout_at};

use super::pages::Unmade;
use super::refused::Refused;
use super::{ANSWER_TIMEOUT, Control, ask_one};
use crate::base::names::FullName;
use crate::shard::core::FORGET;
use crate::shard::probe::Probe;

/// How long a queue's home may take at most to change it. It waits for the disk, and after a deletion for the other
/// shards.
pub const CHANGE_TIMEOUT: Duration = Duration::from_secs(20);

const _: () = assert!(FORGET.as_duration().as_nanos() < CHANGE_TIMEOUT.as_nanos(), "the home answers first");

/// The answer of a home to a change, as far as the control port knows it.
#[derive(Debug)]
enum Reached<T> {
    /// The home has answered.
    Answered(T),
    /// The home does not answer, and was not asked to change anything.
    Silent(usize),
    /// The home was asked and has not answered: it has stalled, its disk fails, or the server has ended.
    Lost(usize),
}

impl<T> Reached<T> {
    /// Returns the home's answer, or the response that says why there is none. `change` names the change, and `may` says
    /// what may be true of the queue.
    fn answer(self, change: &str, may: &str) -> Result<T, Refused> {
        match self {
            Self::Answered(answer) => Ok(answer),
            Self::Silent(home) => Err(Refused::with(Unmade::Silent(home))),
            Self::Lost(home) => {
                let text = format!("shard {home} has not confirmed {change}: {may}\n");
                Err(Refused::with((StatusCode::SERVICE_UNAVAILABLE, text)))
            }
        }
    }
}

/// Asks a queue's home to change something.
async fn ask_home<T>(probe: &Probe, name: &FullName, ask: impl Fn(oneshot::Sender<T>) -> bool) -> Reached<T> {
    let home = probe.home(name);
    let until = Instant::now() + ANSWER_TIMEOUT;
    // A stalled shard would make the change much later. So a ping comes first: a shard that does not answer it is
    // not asked to change anything.
    let ping = |reply: oneshot::Sender<()>| {
        probe.ping(home, move |there| {
            // Fails if nothing waits for the answer any more.
            let _ = reply.send(there);
        })
    };
    let there = ask_one(until, ping).await;
    let Some(there) = there else { return Reached::Silent(home) };
    if !matches!(timeout_at(until, there).await, Ok(Ok(()))) {
        return Reached::Silent(home);
    }
    let Some(answer) = ask_one(until, ask).await else { return Reached::Silent(home) };
    match timeout(CHANGE_TIMEOUT, answer).await {
        Ok(Ok(answer)) => Reached::Answered(answer),
        _ => Reached::Lost(home),
    }
}

/// Has the home of a queue change it, even if the client disconnects meanwhile. `change` names the change. The error is
/// the response that says why the home has not answered.
pub(super) async fn change<T: Send + 'static>(
    control: Control,
    name: FullName,
    change: &'static str,
    ask: impl Fn(&Probe, FullName, oneshot::Sender<T>) -> bool + Send + Sync + 'static,
) -> Result<T, Refused> {
    let Control { probe, changes, .. } = control;
    // If the client disconnects while it waits for the permit, nothing is changed.
    let permit = permit(changes).await?;
    let may = format!("{change} of queue {}/{} may be done, or be done later", name.0, name.1);
    let work = async move { ask_home(&probe, &name, |reply| ask(&probe, name.clone(), reply)).await };
    match to_its_end(permit, work).await {
        Ok(reached) => reached.answer(change, &may),
        Err(error) => Err(Refused::with(failed(&error.to_string()))),
    }
}

/// Waits for one of the permits of requests of a kind. They are never closed.
pub(super) async fn permit(of: Arc<Semaphore>) -> Result<OwnedSemaphorePermit, Refused> {
    of.acquire_owned().await.map_err(|closed| Refused::with(failed(&closed.to_string())))
}

/// Runs `work` in its own task, which holds the permit. If it ran in the request's future, a client that
/// disconnects would drop that future and release the permit too early.
async fn to_its_end<T: Send + 'static>(
    permit: OwnedSemaphorePermit,
    work: impl Future<Output = T> + Send + 'static,
) -> Result<T, JoinError> {
    let task = tokio::spawn(async move {
        let _permit = permit;
        work.await
    });
    task.await
}

/// Returns the response to a request that failed for a reason of the server's own.
pub(super) fn failed(why: &str) -> Response {
    (StatusCode::INTERNAL_SERVER_ERROR, format!("{why}\n")).into_response()
}

#[cfg(test)]
mod tests {
    use std::task::{Context, Waker};

    use super::*;

    #[test]
    fn a_change_goes_on_in_its_place_though_its_client_has_left() {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let places = Arc::new(Semaphore::new(1));
            let permit = places.clone().try_acquire_owned().unwrap();
            let (release, released) = oneshot::channel::<()>();
            let (done, is_done) = oneshot::channel();
            let work = async move {
                released.await.unwrap();
                done.send(()).unwrap();
            };
            let mut request = Box::pin(to_its_end(permit, work));
            assert!(request.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
            // The server does this when a client disconnects.
            drop(request);
            tokio::task::yield_now().await;
            assert_eq!(places.available_permits(), 0, "it is still under way");
            release.send(()).unwrap();
            is_done.await.unwrap();
            drop(places.acquire().await.unwrap());
        });
    }

    #[test]
    fn a_home_that_does_not_answer_is_named() {
        assert_eq!(Reached::Answered(7).answer("it", "it may be").unwrap(), 7);
        for reached in [Reached::<u8>::Silent(3), Reached::Lost(3)] {
            assert_eq!(reached.answer("it", "it may be").unwrap_err().into_response().status(), 503);
        }
    }
}
