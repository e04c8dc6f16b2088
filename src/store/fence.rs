//! Streams of appends of which one has failed: nothing that was submitted behind it may be stored.
//!
//! A producer has many appends under way. If one fails and the next succeeds, a client that sends the failed one again
//! finds its messages out of order. Every store keeps a fence and asks it before it stores.

use std::collections::HashSet;

use super::Stream;
use crate::base::clock::Now;
use crate::base::millis::Millis;

/// How long a stream is remembered at least: far longer than an append is under way, because whoever is told of
/// a failure submits no more.
const REMEMBERED: Millis = Millis::new(5_000);

/// Streams remembered in each of two generations. Beyond it the older generation is forgotten early.
const STREAMS_MAX: usize = 65_536;

/// See the module's page.
#[derive(Debug, Default)]
pub struct Fence {
    young: HashSet<Stream>,
    old: HashSet<Stream>,
    turned: Millis,
}

impl Fence {
    /// What it costs at worst, bytes: 32 for each stream of both generations.
    pub const BYTES_MAX: usize = 2 * STREAMS_MAX * 32;

    /// An append of `stream` has failed.
    pub fn close(&mut self, now: Now, stream: Stream) {
        if self.young.len() >= STREAMS_MAX || now.mono >= self.turned + REMEMBERED {
            self.turned = now.mono;
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(stream);
    }

    /// Whether an append of `stream` has failed before.
    #[inline]
    pub fn is_closed(&self, stream: Stream) -> bool {
        // Most shards never see a failure.
        !self.young.is_empty() && (self.young.contains(&stream) || self.old.contains(&stream))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_is_remembered_long_enough_and_in_bounded_memory() {
        let mut fence = Fence::default();
        let at = |length: Millis| Now::at_ms(10_000, 0).later(length);
        fence.close(at(Millis::ZERO), Stream(1));
        fence.close(at(REMEMBERED), Stream(2));
        assert!(fence.is_closed(Stream(1)) && fence.is_closed(Stream(2)) && !fence.is_closed(Stream(3)));
        fence.close(at(REMEMBERED + REMEMBERED), Stream(3));
        assert!(!fence.is_closed(Stream(1)) && fence.is_closed(Stream(2)));
        for stream in 0..3 * STREAMS_MAX as u128 {
            fence.close(at(REMEMBERED + REMEMBERED), Stream(stream));
        }
        assert!(fence.young.len() + fence.old.len() <= 2 * STREAMS_MAX);
    }
}
