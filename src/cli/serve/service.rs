//! Tells the service manager how the server is doing: while it starts, and whether its shards run.

use std::io;
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::time::Duration;

use crate::process::manager::{self, Word, watchdog_interval};
use crate::shard::Progress;
use crate::store::log;

/// How often to report the progress of the start.
const REPORT_EVERY: Duration = Duration::from_secs(5);

/// How much time the manager must leave after each report with progress.
const EXTEND_BY: Duration = Duration::from_secs(60);

/// How many times more often to look at a shard that stands still, so that the manager hears of its first turn.
const LOOKS_PER_CHECK: u32 = 10;

/// Reports the progress of the start until it is dropped.
#[derive(Debug)]
pub(super) struct Starting {
    /// Its drop ends the thread.
    _alive: Sender<()>,
}

impl Starting {
    /// Starts to report. A long recovery gets more time as long as it reads on.
    pub(super) fn report() -> io::Result<Self> {
        manager::tell(&[Word::Status("starting")]);
        let (_alive, ended) = channel::<()>();
        std::thread::Builder::new().name("starting".into()).spawn(move || {
            let mut before = 0;
            while ended.recv_timeout(REPORT_EVERY) == Err(RecvTimeoutError::Timeout) {
                let read = log::bytes_read();
                let status = format!("reading the log: {} MiB so far", read >> 20);
                if read > before {
                    manager::tell(&[Word::Extend(EXTEND_BY), Word::Status(&status)]);
                } else {
                    manager::tell(&[Word::Status(&status)]);
                }
                before = read;
            }
        })?;
        Ok(Self { _alive })
    }
}

/// Shows the manager that every shard runs, as often as it asks for that.
pub(super) fn watch(mut progress: Progress) -> io::Result<()> {
    let Some(every) = watchdog_interval() else { return Ok(()) };
    std::thread::Builder::new().name("watchdog".into()).spawn(move || {
        let mut stuck = None;
        loop {
            match progress.check() {
                Ok(()) => {
                    manager::tell(&[Word::Alive]);
                    stuck = None;
                    std::thread::sleep(every);
                }
                Err(shard) => {
                    if stuck.replace(shard) != Some(shard) {
                        tracing::error!(
                            shard,
                            "shard stands still: the service manager is not told that the server is alive"
                        );
                    }
                    std::thread::sleep(every / LOOKS_PER_CHECK);
                }
            }
        }
    })?;
    Ok(())
}
