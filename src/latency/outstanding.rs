//! Requests that are still to be counted in a histogram.

use std::collections::VecDeque;
use std::time::Instant;

use hdrhistogram::Histogram;

/// Requests under way, the oldest first: when each was sent, and how many of its messages are not spoken for.
#[derive(Debug, Default)]
pub struct Outstanding(VecDeque<(Instant, u64)>);

impl Outstanding {
    /// A request of `messages` was sent, or should have been, at `sent`.
    pub fn push(&mut self, sent: Instant, messages: u64) {
        self.0.push_back((sent, messages));
    }

    /// The next `count` messages were spoken for at `now`; `histogram` gets a sample for each, where it is given.
    pub fn settle(&mut self, mut count: u64, now: Instant, mut histogram: Option<&mut Histogram<u64>>) {
        while let Some((sent, messages)) = self.0.front_mut().filter(|_| count > 0) {
            let settled = count.min(*messages);
            if let Some(histogram) = &mut histogram {
                let nanos = now.saturating_duration_since(*sent).as_nanos() as u64;
                histogram.saturating_record_n(nanos, settled);
            }
            *messages -= settled;
            count -= settled;
            if *messages == 0 {
                self.0.pop_front();
            }
        }
    }

    /// Their connection is gone.
    pub fn clear(&mut self) {
        self.0.clear();
    }
}
