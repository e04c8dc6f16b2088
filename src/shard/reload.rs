//! Gives all shards the settings of a reload.
//!
//! A reload is all or nothing, so each shard must answer before anything is changed. If a shard stalls between
//! its answer and the change, it keeps the old settings until it runs again, and [`Reload::apply`] names it. If
//! its inbox is full as well, [`Reload::settle`] gives it the settings later.

use std::sync::Arc;
use std::sync::mpsc::{RecvTimeoutError, SyncSender, sync_channel};
use std::time::{Duration, Instant};

use super::Settings;
use super::core;
use super::probe::Probe;
use crate::access::Tenants;

/// How long the shards may take to answer.
pub const ANSWER_TIMEOUT: Duration = Duration::from_secs(1);

/// The pause before asking a shard again whose inbox is full.
const ASK_AGAIN_AFTER: Duration = Duration::from_millis(5);

/// Changes the settings of the shards of a running server. Its calls block.
#[derive(Debug)]
pub struct Reload {
    probe: Probe,
    tenants: Arc<Tenants>,
    /// The newest settings, and the shards whose inbox had no room for them.
    owed: Option<(Arc<core::Settings>, Vec<usize>)>,
}

impl Reload {
    pub(super) fn new(probe: Probe, tenants: Arc<Tenants>) -> Self {
        Self { probe, tenants, owed: None }
    }

    /// Returns whether the server drains or is about to.
    pub fn is_leaving(&self) -> bool {
        self.probe.is_draining() || self.probe.is_announced()
    }

    /// Checks that every shard runs. Returns the first one that does not answer within [`ANSWER_TIMEOUT`].
    pub fn check(&self) -> Result<(), usize> {
        let (silent, _) = self.ask(|shard, answer| {
            self.probe.ping(shard, move |()| {
                // Fails if the wait is over.
                let _ = answer.send(shard);
            })
        });
        silent.first().map_or(Ok(()), |shard| Err(*shard))
    }

    /// Gives every shard the settings, and every project its limits. Returns the shards that have not
    /// confirmed that within [`ANSWER_TIMEOUT`].
    pub fn apply(&mut self, settings: &Settings) -> Vec<usize> {
        self.tenants.set_limits(&settings.projects);
        let core = Arc::new(settings.of_shards());
        let (silent, full) = self.ask(|shard, answer| {
            self.probe.reload(shard, core.clone(), move |()| {
                let _ = answer.send(shard);
            })
        });
        self.owed = (!full.is_empty()).then_some((core, full));
        silent
    }

    /// Tries again to give the settings to shards whose inbox was full. Returns whether any is left.
    pub fn settle(&mut self) -> bool {
        if let Some((core, full)) = &mut self.owed {
            full.retain(|shard| !self.probe.reload(*shard, core.clone(), |()| ()));
            if full.is_empty() {
                self.owed = None;
            }
        }
        self.owed.is_some()
    }

    /// Asks every shard. Returns those that have not answered in time, and those that could not be asked,
    /// which are among the former.
    fn ask(&self, ask: impl Fn(usize, SyncSender<usize>) -> bool) -> (Vec<usize>, Vec<usize>) {
        let until = Instant::now() + ANSWER_TIMEOUT;
        let mut silent: Vec<usize> = (0..self.probe.shards()).collect();
        let mut full = silent.clone();
        let (answer, answers) = sync_channel(silent.len());
        while !silent.is_empty() && Instant::now() < until {
            full.retain(|shard| !ask(*shard, answer.clone()));
            let left = until.saturating_duration_since(Instant::now());
            let wait = if full.is_empty() { left } else { left.min(ASK_AGAIN_AFTER) };
            match answers.recv_timeout(wait) {
                Ok(shard) => silent.retain(|one| *one != shard),
                // This thread holds a sender, so they are never disconnected.
                Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {}
            }
        }
        (silent, full)
    }
}
