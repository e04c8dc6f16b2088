//! Fences off streams after a failed append: later appends of the same stream must not be stored.
//!
//! A producer has many appends in flight. If one failed and the next succeeded, a client that resends the
//! failed one would find its messages out of order. Every store keeps a fence and checks it before it stores
//! a batch.

use std::collections::HashSet;

use super::Stream;
use crate::base::clock::Now;
use crate::base::millis::Millis;

/// The minimum time for which a stream is remembered. It far exceeds the time of an append in flight. That
/// suffices because a producer that learns of a failure submits no more appends.
const REMEMBERED: Millis = Millis::new(5_000);

/// The most streams in each of two generations. If the younger generation is full, the older one is forgotten
/// early.
const STREAMS_MAX: usize = 65_536;

/// The streams that have a failed append.
#[derive(Debug, Default)]
pub struct Fence {
    young: HashSet<Stream>,
    old: HashSet<Stream>,
    turned: Millis,
}

impl Fence {
    /// The most memory that a fence takes, in bytes: 32 for each stream of both generations.
    pub const BYTES_MAX: usize = 2 * STREAMS_MAX * 32;

    /// Closes `stream`, because one of its appends has failed.
    pub fn close(&mut self, now: Now, stream: Stream) {
        if self.young.len() >= STREAMS_MAX || now.mono >= self.turned + REMEMBERED {
            self.turned = now.mono;
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(stream);
    }

    /// Returns whether an append of `stream` has failed before.
    #[inline]
    pub fn is_closed(&self, stream: Stream) -> bool {
        // Fast path: most shards never see a failure.
        !self.young.is_empty() && (self.young.contains(&stream) || self.old.contains(&stream))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streams_are_remembered_long_enough_and_in_bounded_memory() {
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
