//! Waits until the connections of a run are set up, and starts them together.

use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use super::plan::Plan;
use super::progress::Progress;
use super::window::Window;
use crate::client::ClientError;
use crate::process::terminal::line_start;

/// How often to count the connections that are set up.
const LOOK_EVERY: Duration = Duration::from_millis(5);

/// How often to show how many connections are set up.
const TELL_EVERY: Duration = Duration::from_secs(1);

/// A connection that others wait for until it is set up. It arrives when dropped at the latest, so that nobody
/// waits for a connection that has ended.
#[derive(Debug)]
pub(super) struct Arrival(Option<Arc<Progress>>);

impl Arrival {
    pub(super) fn new(progress: Arc<Progress>) -> Self {
        Self(Some(progress))
    }

    /// Records that the connection is set up. Only the first call counts.
    pub(super) fn arrive(&mut self) {
        if let Some(progress) = self.0.take() {
            progress.start.ready.fetch_add(1, Ordering::AcqRel);
        }
    }
}

impl Drop for Arrival {
    fn drop(&mut self) {
        self.arrive();
    }
}

/// Waits until all producers and consumers are set up, and starts them. Returns `None` if the run ends before:
/// it was interrupted, or a connection has failed. The error says how many connections are set up.
pub(super) fn start_all(plan: &Plan, progress: &Progress) -> Result<Option<Window>, ClientError> {
    let count = progress.sent.len() + progress.received.len();
    let start = &progress.start;
    let is_complete = wait_for(plan, progress, &start.ready, count);
    if !matches!(is_complete, Ok(true)) {
        start.call_off();
    }
    Ok(is_complete?.then(|| start.begin(plan)))
}

/// Waits until `ready` reaches `count`. Returns false if the run is stopping. Fails, and stops the run, if no
/// further connection is ready within [`Plan::setup_timeout`].
pub(super) fn wait_for(
    plan: &Plan,
    progress: &Progress,
    ready: &AtomicUsize,
    count: usize,
) -> Result<bool, ClientError> {
    let (mut seen, mut moved, mut told) = (0, Instant::now(), Instant::now());
    let mut has_told = false;
    let complete = loop {
        let now = ready.load(Ordering::Acquire);
        if progress.is_stopping() {
            break Ok(false);
        }
        if now >= count {
            break Ok(true);
        }
        if now > seen {
            (seen, moved) = (now, Instant::now());
        } else if moved.elapsed() >= plan.setup_timeout {
            progress.failed.store(true, Ordering::Relaxed);
            break Err(ClientError::Broken(format!(
                "only {now} of {count} connections are set up, and no further one was within {:?}; check the \
                 server, or raise --setup-timeout",
                plan.setup_timeout
            )));
        }
        if plan.progress && told.elapsed() >= TELL_EVERY {
            // If standard error is closed, nobody sees the progress.
            let _ = write!(std::io::stderr(), "{}{now} of {count} connections are set up", line_start());
            (told, has_told) = (Instant::now(), true);
        }
        std::thread::sleep(LOOK_EVERY);
    };
    if has_told {
        let _ = write!(std::io::stderr(), "{}", line_start());
    }
    complete
}
