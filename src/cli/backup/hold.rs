//! The hold of a running server on the files that a backup copies.

use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::sync::{Arc, OnceLock};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::super::Failure;
use crate::client::{ControlClient, ControlError};
use crate::control::{BackupPage, HOLD, HoldPage};
use crate::process::terminal::escaped;
use crate::store::log::Cut;

/// How long the server may take to answer.
pub(super) const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

/// How often the hold is renewed.
const RENEW_EVERY: Duration = Duration::from_secs(5);

const _: () = assert!(
    RENEW_EVERY.as_secs() + 2 * ANSWER_TIMEOUT.as_secs() < HOLD.as_secs(),
    "a request may fail once without harm"
);

/// The hold of a running server. A thread renews it.
#[derive(Debug)]
pub(super) struct Hold {
    client: ControlClient,
    path: String,
    /// Why the hold was lost, if it was.
    lost: Arc<OnceLock<String>>,
    /// Dropping it ends the thread.
    stop: Sender<()>,
    thread: JoinHandle<()>,
}

impl Hold {
    /// Asks the server for a cut, and holds its files.
    pub(super) fn begin(client: ControlClient) -> Result<(Self, Cut), Failure> {
        let BackupPage { id, cut, .. } = client.post("/backups")?;
        let path = format!("/backups/{id}");
        let lost: Arc<OnceLock<String>> = Arc::default();
        let (stop, stopped) = channel();
        let renewer = (client.clone(), path.clone(), lost.clone());
        let thread = std::thread::spawn(move || {
            let (client, path, lost) = renewer;
            let mut held = Instant::now();
            while stopped.recv_timeout(RENEW_EVERY) == Err(RecvTimeoutError::Timeout) {
                let asked = Instant::now();
                match client.post::<HoldPage>(&path) {
                    Ok(_) => held = asked,
                    Err(error) if matches!(error, ControlError::Refused { .. }) || held.elapsed() > HOLD => {
                        let _ = lost.set(why(&error));
                        return;
                    }
                    // The next request may succeed.
                    Err(_) => {}
                }
            }
        });
        Ok((Self { client, path, lost, stop, thread }, cut))
    }

    /// Returns whether the hold is lost, so that going on is useless.
    pub(super) fn is_lost(&self) -> bool {
        self.lost.get().is_some()
    }

    /// Releases the files. Fails unless they were held until now.
    pub(super) fn end(self) -> Result<(), Failure> {
        drop(self.stop);
        let ended = self.client.delete(&self.path);
        // The thread does nothing that may panic, and its end does not matter.
        let _ = self.thread.join();
        let lost = |why: &str| Failure(format!("there is no new backup: {why}"));
        match (self.lost.get(), ended) {
            (Some(why), _) => Err(lost(why)),
            (None, Err(error)) => Err(lost(&why(&error))),
            (None, Ok(())) => Ok(()),
        }
    }
}

fn why(error: &ControlError) -> String {
    match error {
        ControlError::Refused { text, status, .. } if [404, 410].contains(&status.as_u16()) => {
            escaped(text.trim_end()).into_owned()
        }
        error => error.to_string(),
    }
}
