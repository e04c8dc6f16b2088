//! The pace of a backup.

use std::time::{Duration, Instant};

/// The longest time without a look at what ends the backup.
const LOOK: Duration = Duration::from_millis(100);

/// Decides when a backup goes on.
#[derive(Debug)]
pub(super) struct Pace {
    /// Bytes per second, if they are limited.
    rate: Option<u64>,
    /// Whether a server uses the same disk.
    is_beside: bool,
    /// When the copy of the present chunk began.
    began: Instant,
    /// When the next chunk may begin, if the rate is limited.
    due: Instant,
}

impl Pace {
    pub(super) fn new(rate: Option<u64>, is_beside: bool) -> Self {
        let now = Instant::now();
        Self { rate, is_beside, began: now, due: now }
    }

    /// Waits after a chunk of this many bytes, unless the backup is over.
    pub(super) fn wait(&mut self, bytes: u64, is_over: impl Fn() -> bool) {
        let now = Instant::now();
        let until = match self.rate {
            Some(rate) => {
                // What was too slow is not made up for.
                self.due = self.due.max(self.began) + Duration::from_secs_f64(bytes as f64 / rate as f64);
                self.due
            }
            None if self.is_beside => now + (now - self.began),
            None => now,
        };
        while !is_over() {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            std::thread::sleep(left.min(LOOK));
        }
        self.began = Instant::now();
    }
}
