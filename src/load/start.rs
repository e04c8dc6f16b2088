//! The common start of a run: whether and when its connections begin.

use std::sync::OnceLock;
use std::sync::atomic::AtomicUsize;
use std::time::{Duration, Instant};

use async_channel::{Receiver, Sender};

use super::plan::Plan;
use super::window::Window;

/// The time from the decision to start until the connections begin, and what is added for each connection.
/// Thousands of connections on all cores need it to hear of the start.
const LEAD: Duration = Duration::from_millis(50);
const LEAD_EACH: Duration = Duration::from_micros(20);

/// Whether and when the connections of a run begin.
#[derive(Debug)]
pub(super) struct Start {
    /// How many producers and consumers are set up, or have ended before that.
    pub ready: AtomicUsize,
    window: OnceLock<Window>,
    /// Closed at the start, and when the run is called off.
    channel: (Sender<()>, Receiver<()>),
}

impl Start {
    pub(super) fn new() -> Self {
        Self { ready: AtomicUsize::new(0), window: OnceLock::new(), channel: async_channel::bounded(1) }
    }

    /// Returns the window of the run once it has started.
    pub(super) fn window(&self) -> Option<Window> {
        self.window.get().copied()
    }

    /// Waits for the start. Returns `None` if the run is called off.
    pub(super) async fn wait(&self) -> Option<Window> {
        // The channel carries no messages. It only closes.
        let _ = self.channel.1.recv().await;
        self.window()
    }

    /// Like [`Self::wait`], for a thread without an executor.
    #[cfg(feature = "peers")]
    pub(super) fn wait_blocking(&self) -> Option<Window> {
        let _ = self.channel.1.recv_blocking();
        self.window()
    }

    /// Starts the run.
    pub(super) fn begin(&self, plan: &Plan) -> Window {
        let lead = LEAD + LEAD_EACH * (plan.producers + plan.consumers);
        let window = *self.window.get_or_init(|| Window::of(Instant::now() + lead, plan));
        self.channel.0.close();
        window
    }

    /// Ends the run before its start.
    pub(super) fn call_off(&self) {
        self.channel.0.close();
    }
}
