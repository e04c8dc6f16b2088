//! Watches the server during a run: its CPU time in the window, its own histograms, its memory at the end.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Instant;

use super::figures::ServerUse;
use super::plan::Plan;
use super::server_side::{cpu_seconds, latency, resident_bytes, stages_between};
use super::window::Window;
use crate::control::LatencyPage;

/// A thread that reads the server's figures at the start and at the end of the window.
pub(super) struct ServerWatch {
    plan: Arc<Plan>,
    over: Arc<AtomicBool>,
    watcher: JoinHandle<(Option<f64>, Option<LatencyPage>)>,
}

impl ServerWatch {
    pub(super) fn start(plan: &Arc<Plan>, window: Window) -> Self {
        let (over, plan) = (Arc::new(AtomicBool::new(false)), plan.clone());
        let (ended, watched) = (over.clone(), plan.clone());
        let watcher = std::thread::spawn(move || {
            let cpu = || watched.server_pid.and_then(cpu_seconds);
            let wait_until = |at: Instant| {
                while !ended.load(Ordering::Acquire) && Instant::now() < at {
                    std::thread::park_timeout(at.saturating_duration_since(Instant::now()));
                }
            };
            wait_until(window.from);
            let (before, page) = (cpu(), watched.control.as_ref().and_then(|control| latency(control).ok()));
            wait_until(window.until);
            (cpu().zip(before).map(|(after, before)| after - before), page)
        });
        Self { plan, over, watcher }
    }

    /// Ends the watch when the run is over, and returns what it found.
    pub(super) fn finish(self) -> ServerUse {
        self.over.store(true, Ordering::Release);
        self.watcher.thread().unpark();
        // A panic of the watcher loses only these figures.
        let (cpu_seconds, before) = self.watcher.join().unwrap_or_default();
        let after = before.as_ref().and_then(|_| latency(self.plan.control.as_ref()?).ok());
        let stages = before.zip(after).map(|(before, after)| stages_between(&before, &after));
        ServerUse {
            cpu_seconds,
            stages: stages.unwrap_or_default(),
            resident_bytes: self.plan.server_pid.and_then(resident_bytes),
            held_bytes: None,
        }
    }
}
