//! Requests without a response yet.

use std::collections::VecDeque;
use std::time::Instant;

/// Requests in flight, oldest first: when each was sent, and how many of its messages are not acknowledged or
/// refused yet.
#[derive(Debug, Default)]
pub struct Outstanding(VecDeque<(Instant, u64)>);

impl Outstanding {
    /// Adds a request of `messages` that was sent, or should have been sent, at `sent`.
    pub fn push(&mut self, sent: Instant, messages: u64) {
        self.0.push_back((sent, messages));
    }

    /// Settles the next `count` messages, which were acknowledged or refused. Calls `each` with the time of
    /// sending and the number of messages, for each request among them.
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

    /// Forgets all requests, because their connection is closed.
    pub fn clear(&mut self) {
        self.0.clear();
    }
}
