//! Whether the command is to stop: at the first signal when it is done with what is under way, at the second at once.

use std::io::{self, PipeReader, PipeWriter};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::{Arc, Mutex, PoisonError};

use async_channel::{Receiver, Sender};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use crate::process::children;

/// Whether the command is to stop. Clones share this state.
#[derive(Clone, Debug)]
pub(super) struct Stop(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    /// Closes when the command is to stop.
    soon: (Sender<()>, Receiver<()>),
    /// Closes when it is to stop at once.
    urgent: PipeReader,
    /// Dropping it closes `urgent`.
    open: Mutex<Option<PipeWriter>>,
}

impl Stop {
    /// Stops at SIGINT and SIGTERM. The third signal ends the process.
    pub(super) fn on_signals() -> io::Result<Self> {
        let mut signals = Signals::new([SIGINT, SIGTERM])?;
        let (urgent, open) = io::pipe()?;
        let soon = async_channel::bounded(1);
        let stop = Self(Arc::new(Shared { soon, urgent, open: Mutex::new(Some(open)) }));
        let stopped = stop.clone();
        std::thread::spawn(move || {
            for (index, _) in signals.forever().enumerate() {
                match index {
                    0 => {
                        stopped.begin();
                    }
                    1 => {
                        stopped.begin();
                        drop(stopped.0.open.lock().unwrap_or_else(PoisonError::into_inner).take());
                    }
                    _ => {
                        children::end_all();
                        std::process::exit(130);
                    }
                }
            }
        });
        Ok(stop)
    }

    /// Stops, as the first signal does. Returns false if it stops already.
    pub(super) fn begin(&self) -> bool {
        self.0.soon.0.close()
    }

    /// Waits until the command is to stop.
    pub(super) async fn wait(&self) {
        // The channel carries no messages. It only closes.
        let _ = self.0.soon.1.recv().await;
    }

    /// Returns whether the command is to stop.
    pub(super) fn has_begun(&self) -> bool {
        self.0.soon.1.is_closed()
    }

    /// Returns whether it is to stop at once.
    pub(super) fn is_urgent(&self) -> bool {
        self.0.open.lock().unwrap_or_else(PoisonError::into_inner).is_none()
    }

    /// Returns what becomes readable when the command is to stop at once.
    pub(super) fn urgent(&self) -> BorrowedFd<'_> {
        self.0.urgent.as_fd()
    }

    /// Returns a channel that closes when the command is to stop.
    pub(super) fn soon(&self) -> Receiver<()> {
        self.0.soon.1.clone()
    }
}
