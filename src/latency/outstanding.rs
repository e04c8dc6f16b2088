//! Requests whose answers are still to come.

use std::collections::VecDeque;
use std::time::Instant;

/// Requests under way, the oldest first: when each was sent, and how many of its messages are not spoken for.
#[derive(Debug, Default)]
pub struct Outstanding(VecDeque<(Instant, u64)>);

impl Outstanding {
    /// A request of `messages` was sent, or should have been, at `sent`.
    pub fn push(&mut self, sent: Instant, messages: u64) {
        self.0.push_back((sent, messages));
    }

    /// The next `count` messages were spoken for; `each` is told when some of them were sent, and how many.
    pub fn settle(&mut self, mut count: u64, mut each: impl FnMut(Instant, u64)) {
        while let Some((sent, messages)) = self.0.front_mut().filter(|_| count > 0) {
            let settled = count.min(*messages);
            each(*sent, settled);
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
