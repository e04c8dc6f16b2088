//! Signal handling of the server. SIGTERM and SIGINT drain it, SIGHUP reloads its settings and reopens its
//! latency log.
//!
//! Signals are handled on their own thread, which starts before the server does. Reading a large log can take
//! minutes, and a signal during that time exits at once. That is safe: the server has promised nothing to a
//! client yet, and recovery survives an exit at any point, as it survives a crash.
//!
//! ```text
//! Starting ──serve──▶ Serving ──SIGTERM──▶ Announced ──drain_announce, SIGTERM──▶ Draining ──SIGTERM──▶ exit
//!                        └────────────────drain_announce = 0────────────────────────▲
//! ```

use std::io;
use std::process::exit;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use crate::control::Reloads;
use crate::process::manager::{self, Word};
use crate::process::{children, logging};
use crate::shard::Board;
use crate::shard::acceptor::Acceptor;
use crate::shard::core;
use crate::shard::server::DrainHandle;

/// How much longer than `drain_timeout` a drain may take. After that, a shard has stalled and the process
/// exits anyway.
const END_GRACE: Duration = Duration::from_secs(10);

/// A server that has started.
#[derive(Debug)]
struct Serving {
    drain: DrainHandle,
    board: Board,
    reloads: Reloads,
    times: Times,
    stage: Stage,
}

/// How long the end of a server takes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Times {
    announce: Duration,
    drain: Duration,
}

impl From<&core::Settings> for Times {
    fn from(settings: &core::Settings) -> Self {
        Self { announce: settings.drain_announce, drain: settings.drain_timeout }
    }
}

/// How far the end of the server has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Serving,
    /// The server serves, but is not ready for new clients.
    Announced,
    Draining,
}

/// The target of signals.
#[derive(Debug, Default)]
struct State {
    /// `None` until the server has started.
    serving: Option<Serving>,
    /// The listening sockets, as soon as they are open.
    acceptor: Option<Acceptor>,
    /// SIGHUP arrived before the server had started, but maybe after it had read its settings.
    wants_reload: bool,
}

/// Handles signals. Clones share the state.
#[derive(Clone, Debug, Default)]
pub(super) struct Handling(Arc<Mutex<State>>);

impl Handling {
    /// Starts the thread that receives signals.
    pub(super) fn start() -> io::Result<Self> {
        let mut signals = Signals::new([SIGTERM, SIGINT, SIGHUP])?;
        let handling = Self::default();
        let handled = handling.clone();
        std::thread::Builder::new().name("signals".into()).spawn(move || {
            for signal in signals.forever() {
                handled.handle(signal);
            }
        })?;
        Ok(handling)
    }

    /// Sets the listening sockets, which a signal before [`Self::serve`] closes.
    pub(super) fn listen(&self, acceptor: Acceptor) {
        self.state().acceptor = Some(acceptor);
    }

    /// Closes the listening sockets of a server that fails.
    pub(super) fn close(&self) {
        if let Some(acceptor) = &self.state().acceptor {
            acceptor.close();
        }
    }

    /// Sets the server that signals apply to from this point on.
    pub(super) fn serve(&self, drain: DrainHandle, board: Board, reloads: Reloads, times: Times) {
        let mut state = self.state();
        if state.wants_reload {
            board.reopen_log();
            reloads.request();
        }
        state.serving = Some(Serving { drain, board, reloads, times, stage: Stage::Serving });
    }

    /// Changes how long the end of the server takes.
    pub(super) fn set_times(&self, times: Times) {
        if let Some(serving) = &mut self.state().serving {
            serving.times = times;
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn handle(&self, signal: i32) {
        let mut state = self.state();
        let Some(serving) = &mut state.serving else {
            if signal == SIGHUP {
                state.wants_reload = true;
                return;
            }
            tracing::info!(signal, "stopped before serving: exiting at once");
            if let Some(acceptor) = &state.acceptor {
                acceptor.close();
            }
            end(0);
        };
        match (signal, serving.stage) {
            (SIGHUP, _) => {
                // Does nothing without a latency log.
                serving.board.reopen_log();
                serving.reloads.request();
            }
            (_, Stage::Serving) if !serving.times.announce.is_zero() => {
                serving.stage = Stage::Announced;
                let announce = serving.times.announce;
                tracing::info!(signal, for_ = ?announce, "announcing the drain: not ready for new clients; a second signal drains at once");
                serving.drain.announce();
                let until = announce.saturating_add(serving.times.drain).saturating_add(END_GRACE);
                manager::tell(&[Word::Stopping, Word::Status("about to drain"), Word::Extend(until)]);
                let handling = self.clone();
                let waiting = std::thread::Builder::new().name("announce".into()).spawn(move || {
                    std::thread::sleep(announce);
                    if let Some(serving) = &mut handling.state().serving
                        && serving.stage == Stage::Announced
                    {
                        serving.drain_now();
                    }
                });
                if let Err(error) = waiting {
                    tracing::warn!(%error, "cannot start the timer of drain_announce: draining at once");
                    serving.drain_now();
                }
            }
            (_, Stage::Serving | Stage::Announced) => {
                tracing::info!(signal, "draining; a second signal exits at once");
                serving.drain_now();
            }
            (_, Stage::Draining) => {
                tracing::warn!(signal, "a second signal: exiting at once");
                end(1);
            }
        }
    }
}

impl Serving {
    /// Starts to drain.
    fn drain_now(&mut self) {
        self.stage = Stage::Draining;
        let patience = self.times.drain.saturating_add(END_GRACE);
        manager::tell(&[Word::Stopping, Word::Status("draining"), Word::Extend(patience)]);
        self.drain.drain();
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

/// Exits the process without running destructors.
fn end(code: i32) -> ! {
    children::end_all();
    logging::finish();
    exit(code)
}
