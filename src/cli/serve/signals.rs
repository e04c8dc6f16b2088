//! What signals do to a server: SIGTERM and SIGINT end it, SIGHUP has its latency log reopened.
//!
//! Runs on a thread of its own, from before the server starts: to read a large log takes minutes, and a server that is told to end then
//! ends at once. Nothing was promised to a client yet, and what recovery writes may be cut off anywhere, as by a crash.

use std::io;
use std::process::exit;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use crate::process::{children, logging};
use crate::shard::Board;
use crate::shard::server::DrainHandle;

/// How much longer than `drain_timeout` a server may take to end: then a shard is stuck, and it exits all the same.
const END_GRACE: Duration = Duration::from_secs(10);

/// A server that has started.
#[derive(Debug)]
struct Serving {
    drain: DrainHandle,
    board: Board,
    drain_timeout: Duration,
}

/// Whom signals are for: nobody, until the server has started.
#[derive(Clone, Debug, Default)]
pub(super) struct Handling(Arc<Mutex<Option<Serving>>>);

impl Handling {
    /// Takes signals from now on.
    pub(super) fn start() -> io::Result<Self> {
        let mut signals = Signals::new([SIGTERM, SIGINT, SIGHUP])?;
        let handling = Self::default();
        let handled = handling.clone();
        std::thread::Builder::new().name("signals".into()).spawn(move || {
            let mut is_asked = false;
            for signal in signals.forever() {
                handled.handle(signal, &mut is_asked);
            }
        })?;
        Ok(handling)
    }

    /// The server has started.
    pub(super) fn serve(&self, drain: DrainHandle, board: Board, drain_timeout: Duration) {
        let serving = Serving { drain, board, drain_timeout };
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(serving);
    }

    fn handle(&self, signal: i32, is_asked: &mut bool) {
        let serving = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match (signal, &*serving) {
            // Without a latency log there is nothing to reopen.
            (SIGHUP, Some(serving)) => {
                serving.board.reopen_log();
            }
            // Files that are about to be opened are the new ones.
            (SIGHUP, None) => {}
            (_, None) => {
                tracing::info!(signal, "told to end before it served: exiting at once");
                end(0);
            }
            (_, Some(_)) if *is_asked => {
                tracing::warn!(signal, "a second signal: exiting at once");
                end(1);
            }
            (_, Some(serving)) => {
                *is_asked = true;
                tracing::info!(signal, "draining; a second signal exits at once");
                serving.drain.drain();
                let patience = serving.drain_timeout.saturating_add(END_GRACE);
                let waiting = std::thread::Builder::new().name("drain-end".into()).spawn(move || {
                    std::thread::sleep(patience);
                    tracing::error!("the server has not ended although its time is up: exiting at once");
                    end(1);
                });
                if let Err(error) = waiting {
                    tracing::warn!(%error, "a shard that is stuck will keep the server from ending");
                }
            }
        }
    }
}

/// Exits without dropping anything.
fn end(code: i32) -> ! {
    children::end_all();
    logging::finish();
    exit(code)
}
