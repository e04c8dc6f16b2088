//! One connection that asks one thing at a time. Its calls block the thread; the connection has a thread of its own.

use std::io;
use std::pin::Pin;
use std::sync::mpsc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_lite::Stream;
use glommio::ExecutorJoinHandle;
use serde_json::{Value, json};

use super::super::connection::connect;
use super::super::driver::{Application, Next, run};
use super::super::error::ClientError;
use super::super::session::Renewable;
use super::super::wire::{Target, Wire};
use super::answer::Answer;
use super::request::{AUTHENTICATE, authenticate, headers};
use super::whole::Whole;
use crate::shard::executor::{ExecutorSettings, spawn};

/// A connection that asks one thing at a time, as a client of one project.
#[derive(Debug)]
pub struct Asker {
    headers: Value,
    timeout: Duration,
    requests: async_channel::Sender<Value>,
    /// What becomes of the requests; `None` after one that was not answered in time.
    answers: Option<mpsc::Receiver<Result<Answer, ClientError>>>,
    thread: ExecutorJoinHandle<()>,
}

impl Asker {
    /// Starts to connect, and shows a token of the target, if it has any. A request fails if its answer does not arrive within `timeout`.
    pub fn new(target: Target, project: &str, timeout: Duration) -> Result<Self, ClientError> {
        let (requests, to_send) = async_channel::bounded(1);
        let (to, answers) = mpsc::channel();
        let settings = ExecutorSettings { name: "zaqar".into(), core: None };
        let of_thread = project.to_owned();
        let thread = spawn(settings, move || async move {
            if let Err(error) = serve(&target, &of_thread, to_send, &to).await {
                // Fails if nobody waits for an answer.
                let _ = to.send(Err(error));
            }
        });
        let thread = thread.map_err(|error| ClientError::Failed(error.to_string()))?;
        Ok(Self { headers: headers(project), timeout, requests, answers: Some(answers), thread })
    }

    /// Asks, and returns the answer, whatever its status is.
    pub fn ask(&mut self, action: &str, body: Value) -> Result<Answer, ClientError> {
        let Some(answers) = &self.answers else { return Err(ClientError::Closed(None)) };
        let request = json!({"action": action, "headers": self.headers, "body": body});
        // Fails if the connection has ended. Then its error waits.
        let _ = self.requests.send_blocking(request);
        match answers.recv_timeout(self.timeout) {
            Ok(answer) => answer,
            Err(mpsc::RecvTimeoutError::Disconnected) => Err(ClientError::Closed(None)),
            Err(mpsc::RecvTimeoutError::Timeout) => {
                // A late answer must not count as that to another request.
                self.answers = None;
                let seconds = self.timeout.as_secs();
                let why = format!("no answer within {seconds} s; a change may still be made");
                Err(io::Error::new(io::ErrorKind::TimedOut, why).into())
            }
        }
    }

    /// Closes the connection.
    pub fn close(self) {
        let Self { requests, answers, thread, .. } = self;
        drop((requests, answers));
        // Fails if the thread has panicked, which it has said.
        let _ = thread.join();
    }
}

/// Runs the connection until the last request was answered.
async fn serve(
    target: &Target,
    project: &str,
    requests: async_channel::Receiver<Value>,
    answers: &mpsc::Sender<Result<Answer, ClientError>>,
) -> Result<(), ClientError> {
    let opening = match &target.tokens {
        Some(tokens) => Some(authenticate(project, tokens.clone().obtain(None).await?.expose())),
        None => None,
    };
    let (mut connection, mut wire) = (connect(target).await?, Wire::start(target));
    let mut questions = Questions {
        opening,
        requests: Box::pin(requests),
        answers: answers.clone(),
        asked: None,
        whole: Whole::default(),
    };
    let ended = run(&mut connection, &mut wire, &mut questions).await;
    connection.close().await;
    ended
}

/// The requests of a connection, one after the other.
struct Questions {
    /// The request that shows a token, until it is sent.
    opening: Option<Value>,
    requests: Pin<Box<async_channel::Receiver<Value>>>,
    answers: mpsc::Sender<Result<Answer, ClientError>>,
    /// The request that is under way.
    asked: Option<Value>,
    whole: Whole,
}

impl Application for Questions {
    fn handle_data(&mut self, piece: &[u8], fin: bool) -> Result<(), ClientError> {
        let Self { answers, asked, whole, .. } = self;
        whole.handle(piece, fin, |bytes| {
            let Some(request) = asked.take() else {
                return Err(ClientError::Broken("an answer without a request".into()));
            };
            let answer: Value = serde_json::from_slice(bytes)
                .map_err(|error| ClientError::Broken(format!("an answer that cannot be read: {error}")))?;
            let answer = Answer::new(&request, answer)?;
            if answer.action == AUTHENTICATE {
                return answer.granted().map(drop);
            }
            // Fails if nobody waits for it.
            let _ = answers.send(Ok(answer));
            Ok(())
        })
    }

    fn poll(&mut self, cx: &mut Context<'_>, wire: &mut Wire) -> Result<Next, ClientError> {
        if self.asked.is_some() {
            return Ok(Next::Wait);
        }
        let next = match self.opening.take() {
            Some(opening) => Poll::Ready(Some(opening)),
            None => self.requests.as_mut().poll_next(cx),
        };
        match next {
            Poll::Ready(Some(request)) => {
                wire.text(request.to_string().as_bytes());
                self.asked = Some(request);
                Ok(Next::Wait)
            }
            Poll::Ready(None) => Ok(Next::Done),
            Poll::Pending => Ok(Next::Wait),
        }
    }

    fn operation(&mut self) -> Option<&mut dyn Renewable> {
        None
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::super::request::target;
    use super::*;

    #[test]
    fn a_silent_server_is_given_up_and_asked_no_more() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let target = target(&format!("ws://{}/v2", listener.local_addr().unwrap())).unwrap();
        let mut asker = Asker::new(target, "p", Duration::from_millis(1)).unwrap();
        let why = asker.ask("queue_list", json!({})).unwrap_err().to_string();
        assert!(why.contains("no answer within") && why.contains("may still be made"), "{why}");
        assert!(matches!(asker.ask("queue_list", json!({})), Err(ClientError::Closed(None))));
    }
}
