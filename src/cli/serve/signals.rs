//! Signal handling of the server. SIGTERM and SIGINT drain it, SIGHUP reopens its latency log.
//!
//! Signals are handled on their own thread, which starts before the server does. Reading a large log can take
//! minutes, and a signal during that time exits at once. That is safe: the server has promised nothing to a
//! client yet, and recovery survives an exit at any point, as it survives a crash.

use std::io;
use std::process::exit;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use crate::process::{children, logging};
use crate::shard::Board;
use crate::shard::acceptor::Acceptor;
use crate::shard::server::DrainHandle;

/// How much longer than `drain_timeout` a drain may take. After that, a shard has stalled and the process
/// exits anyway.
const END_GRACE: Duration = Duration::from_secs(10);

/// A server that has started.
#[derive(Debug)]
struct Serving {
    drain: DrainHandle,
    board: Board,
    drain_timeout: Duration,
}

/// The target of signals.
#[derive(Clone, Debug, Default)]
pub(super) struct Handling {
    /// None until the server has started.
    serving: Arc<Mutex<Option<Serving>>>,
    /// The listening sockets, as soon as they are open.
    acceptor: Arc<OnceLock<Acceptor>>,
}

impl Handling {
    /// Starts the thread that receives signals.
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

    /// Sets the listening sockets, which a signal before [`Self::serve`] closes.
    pub(super) fn listen(&self, acceptor: Acceptor) {
        // There is only one server.
        let _ = self.acceptor.set(acceptor);
    }

    /// Sets the server that signals apply to from this point on.
    pub(super) fn serve(&self, drain: DrainHandle, board: Board, drain_timeout: Duration) {
        let serving = Serving { drain, board, drain_timeout };
        *self.serving.lock().unwrap_or_else(PoisonError::into_inner) = Some(serving);
    }

    fn handle(&self, signal: i32, is_asked: &mut bool) {
        let serving = self.serving.lock().unwrap_or_else(PoisonError::into_inner);
        match (signal, &*serving) {
            // Does nothing without a latency log.
            (SIGHUP, Some(serving)) => {
                serving.board.reopen_log();
            }
            // The log is not open yet, so it will open the new file anyway.
            (SIGHUP, None) => {}
            (_, None) => {
                tracing::info!(signal, "stopped before serving: exiting at once");
                if let Some(acceptor) = self.acceptor.get() {
                    acceptor.close();
                }
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
                    tracing::error!("the drain did not finish in time: exiting at once");
                    end(1);
                });
                if let Err(error) = waiting {
                    tracing::warn!(%error, "cannot start the drain timer: a stalled shard will keep the server from exiting");
                }
            }
        }
    }
}

/// Exits the process without running destructors.
fn end(code: i32) -> ! {
    children::end_all();
    logging::finish();
    exit(code)
}
