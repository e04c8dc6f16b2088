//! Requests for statistics, which may wait until the time of a message is read.

use super::out::Out;
use crate::base::batch::Fetched;
use crate::base::error::StoreFault;
use crate::base::manage::{Managed, PartitionStats, Stored};
use crate::base::millis::UnixMillis;
use crate::base::units::Offset;
use crate::store::{Asker, Completion, Holding};

/// Returns the statistics of a partition without a ledger.
pub(super) fn stats_of(holding: &Holding) -> PartitionStats {
    let stored = |end: Option<(Offset, Option<UnixMillis>)>| {
        end.and_then(|(offset, timestamp)| Some(Stored { offset, timestamp: timestamp? }))
    };
    PartitionStats {
        free: holding.visible,
        claimed: 0,
        delayed: holding.delayed,
        bytes: holding.bytes,
        oldest: stored(holding.oldest),
        newest: stored(holding.newest),
    }
}

/// What is known of the first or the last message.
#[derive(Clone, Copy, Debug)]
pub(super) enum End {
    None,
    Known(Stored),
    /// The time at which this message was stored is being read.
    Asked(Offset),
}

/// A request that waits for a time.
#[derive(Debug)]
struct Waiting<T: Asker> {
    token: T::Manage,
    stats: PartitionStats,
    ends: [End; 2],
    /// Whether it was counted again, because a message was gone before its time was read.
    is_again: bool,
}

/// The requests for statistics that wait for a time, and the times that were read last.
#[derive(Debug)]
pub(super) struct StatsAsked<T: Asker> {
    waiting: Vec<Waiting<T>>,
    known: [Option<Stored>; 2],
    /// The requests to count again.
    again: Vec<T::Manage>,
}

impl<T: Asker> Default for StatsAsked<T> {
    fn default() -> Self {
        Self { waiting: Vec::new(), known: [None; 2], again: Vec::new() }
    }
}

impl<T: Asker> StatsAsked<T> {
    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty() && self.again.is_empty()
    }

    /// Returns the requests to count again.
    pub(super) fn take_again(&mut self) -> Vec<T::Manage> {
        std::mem::take(&mut self.again)
    }

    /// Returns what is known of the first (0) or the last (1) message, unless it must be read.
    pub(super) fn end(&self, index: usize, end: Option<(Offset, Option<UnixMillis>)>) -> End {
        match end {
            None => End::None,
            Some((offset, Some(timestamp))) => End::Known(Stored { offset, timestamp }),
            Some((offset, None)) => match self.known[index].filter(|known| known.offset == offset) {
                Some(known) => End::Known(known),
                None => End::Asked(offset),
            },
        }
    }

    /// Adds a request. It is answered as soon as its times are known.
    pub(super) fn push(
        &mut self,
        token: T::Manage,
        is_again: bool,
        stats: PartitionStats,
        ends: [End; 2],
        out: &mut Out<T>,
    ) {
        self.waiting.push(Waiting { token, stats, ends, is_again });
        self.answer(out);
    }

    /// Answers the requests that have everything.
    fn answer(&mut self, out: &mut Out<T>) {
        let is_whole =
            |waiting: &mut Waiting<T>| waiting.ends.iter().all(|end| !matches!(end, End::Asked(_)));
        for Waiting { token, stats, ends, .. } in self.waiting.extract_if(.., is_whole) {
            let [oldest, newest] = ends.map(|end| match end {
                End::Known(stored) => Some(stored),
                End::None | End::Asked(_) => None,
            });
            let stats = PartitionStats { oldest, newest, ..stats };
            out.completions.push_back(Completion::Managed { token, result: Ok(Managed::Stats(stats)) });
        }
    }

    /// Handles the read of a message for its time.
    pub(super) fn handle_read(&mut self, at: Offset, result: Result<Fetched, StoreFault>, out: &mut Out<T>) {
        let fetched = match result {
            Ok(fetched) => fetched,
            Err(fault) => return self.fail(&fault, out),
        };
        let first = fetched.batches.iter().find(|stored| stored.end_offset() > at);
        let found =
            first.map(|stored| Stored { offset: stored.base_offset.max(at), timestamp: stored.timestamp });
        if found.is_none_or(|found| found.offset != at) {
            let is_it = |end: &End| matches!(end, End::Asked(offset) if *offset == at);
            let is_first = |waiting: &mut Waiting<T>| !waiting.is_again && waiting.ends.iter().any(is_it);
            self.again.extend(self.waiting.extract_if(.., is_first).map(|waiting| waiting.token));
        }
        // If it is gone again, the next one takes its place.
        for waiting in &mut self.waiting {
            for (end, known) in waiting.ends.iter_mut().zip(&mut self.known) {
                if matches!(end, End::Asked(offset) if *offset == at) {
                    *known = found.or(*known);
                    *end = found.map_or(End::None, End::Known);
                }
            }
        }
        self.answer(out);
    }

    /// Fails all requests.
    pub(super) fn fail(&mut self, fault: &StoreFault, out: &mut Out<T>) {
        let waiting = self.waiting.drain(..).map(|waiting| waiting.token);
        for token in waiting.chain(self.again.drain(..)) {
            out.completions.push_back(Completion::Managed { token, result: Err(fault.clone()) });
        }
    }
}
