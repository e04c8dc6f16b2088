//! The hold of a running server on the files that a backup copies.

use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::sync::{Arc, OnceLock};
use std::thread::JoinHandle;
use std::time::Duration;

use super::super::Failure;
use crate::client::{ControlClient, ControlError};
use crate::control::{BackupPage, HOLD, HoldPage};
use crate::process::terminal::escaped;
use crate::store::log::Cut;

/// How long the server may take to answer.
pub(super) const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

/// How often the hold is renewed.
const RENEW_EVERY: Duration = Duration::from_secs(5);

/// The most requests in a row that the server may leave without an answer.
const FAILURES_MAX: u32 = 2;

const _: () = assert!(
    HOLD.as_secs() > (RENEW_EVERY.as_secs() + ANSWER_TIMEOUT.as_secs()) * FAILURES_MAX as u64,
    "the hold lasts until the backup gives up"
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
            let mut failures = 0;
            while stopped.recv_timeout(RENEW_EVERY) == Err(RecvTimeoutError::Timeout) {
                match client.post::<HoldPage>(&path) {
                    Ok(_) => failures = 0,
                    Err(error) => {
                        failures += 1;
                        if matches!(error, ControlError::Refused { .. }) || failures == FAILURES_MAX {
                            let _ = lost.set(why(&error));
                            return;
                        }
                    }
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
