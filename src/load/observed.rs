//! A run from its common start to its end: the window, and what is gathered and watched meanwhile.

use std::sync::Arc;
use std::sync::mpsc::Receiver;
use std::thread::JoinHandle;
use std::time::Instant;

use super::figures::ServerUse;
use super::gather::{Gathered, gather};
use super::meter::Piece;
use super::plan::Plan;
use super::progress::Progress;
use super::server_watch::ServerWatch;
use super::setup::start_all;
use super::window::Window;
use crate::client::ClientError;

/// A run that has started, or that has failed to.
pub(super) struct Observed {
    pub window: Window,
    /// Why the connections did not start.
    pub failure: Option<ClientError>,
    server: ServerWatch,
    gatherer: JoinHandle<Gathered>,
}

impl Observed {
    /// Waits until all connections are set up, starts them, and collects `pieces` until every thread has ended.
    pub(super) fn start(plan: &Arc<Plan>, progress: &Arc<Progress>, pieces: Receiver<Piece>) -> Self {
        let started = start_all(plan, progress);
        let window = match started {
            Ok(Some(window)) => window,
            _ => Window::of(Instant::now(), plan),
        };
        let server = ServerWatch::start(plan, window);
        let (gathering, tell) = (progress.clone(), plan.progress);
        let gatherer = std::thread::spawn(move || gather(&pieces, &gathering, tell));
        Self { window, failure: started.err(), server, gatherer }
    }

    /// Returns what was gathered, and what the server used. Call it after all threads have ended.
    pub(super) fn finish(self) -> Result<(Gathered, ServerUse), ClientError> {
        let gathered =
            self.gatherer.join().map_err(|_| ClientError::Broken("gathering has panicked".into()))?;
        Ok((gathered, self.server.finish()))
    }
}
