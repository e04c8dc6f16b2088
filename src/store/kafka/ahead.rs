//! Fetches from beyond the end that this shard knows. Either the shard lags behind another of its own
//! connections, or the partition has gone back: it was restored from a backup, or an unclean leader election
//! has cut it.
//!
//! Only Kafka's answer to a question that was asked after the fetch arrived can tell these cases apart. A
//! partition counts as gone back once the answers have said so for [`PROOF`]. Before that, the answer may
//! come from a deposed leader, or the topic may turn out to be a new one with the same name, which ends its
//! operations.

use super::TICK;
use super::watch::SUSPICION;
use crate::base::clock::Now;
use crate::base::millis::Millis;
use crate::base::queue::{PartitionKey, QueueId};
use crate::base::units::Offset;
use crate::store::fetch::Fetch;
use crate::store::waiting::Waiting;

/// How long answers must say that a partition ends before a consumer's position.
const PROOF: Millis = Millis::new(3_000);

// The watch looks at a suspected topic before `PROOF` is over.
const _: () = assert!(SUSPICION.get() + TICK.get() < PROOF.get());

/// The state of a waiting fetch from beyond the end.
#[derive(Debug)]
struct Doubt {
    key: PartitionKey,
    /// The last question that was asked before the fetch arrived, or that was answered since. Only answers to
    /// later questions prove anything.
    after: usize,
    /// When an answer first put the end before the fetch, by the monotonic clock.
    since: Option<Millis>,
    /// Whether records before the position arrived although nothing had asked for them. Then the partition
    /// has gone back, wherever it ends.
    went_back: bool,
}

/// The consequences of an answer.
#[derive(Debug)]
pub(super) struct Settled<T> {
    /// The fetches whose positions the partition reaches.
    pub reached: Vec<Fetch<T>>,
    /// The fetches whose positions are beyond the end, because the partition has gone back.
    pub rewound: Vec<Fetch<T>>,
    /// Whether the end is before a fetch for the first time.
    pub is_new: bool,
    /// Whether the question must be asked again.
    pub asks_again: bool,
}

/// The waiting fetches from beyond the end.
#[derive(Debug)]
pub(super) struct Ahead<T> {
    waiting: Waiting<T, Doubt>,
}

impl<T: Copy + Eq> Ahead<T> {
    pub(super) fn new() -> Self {
        Self { waiting: Waiting::default() }
    }

    /// Adds a fetch from beyond the end. `asked` is the number of the last question.
    pub(super) fn push(&mut self, key: PartitionKey, fetch: Fetch<T>, asked: usize) {
        self.waiting.push_with(Doubt { key, after: asked, since: None, went_back: false }, fetch);
    }

    /// Adds a fetch of a partition that was seen to go back.
    pub(super) fn push_gone_back(&mut self, now: Now, key: PartitionKey, fetch: Fetch<T>, asked: usize) {
        let since = Some(now.mono);
        self.waiting.push_with(Doubt { key, after: asked, since, went_back: true }, fetch);
    }

    /// Handles Kafka's answer to question number `asked`: the partition ends at `end`.
    pub(super) fn settle(&mut self, now: Now, key: PartitionKey, asked: usize, end: Offset) -> Settled<T> {
        let mut settled =
            Settled { reached: Vec::new(), rewound: Vec::new(), is_new: false, asks_again: false };
        self.waiting.serve(|doubt, mut fetch| {
            if doubt.key != key || asked <= doubt.after {
                return Some(fetch);
            }
            if fetch.from <= end && !doubt.went_back {
                settled.reached.push(fetch);
                return None;
            }
            settled.is_new |= doubt.since.is_none();
            let since = *doubt.since.get_or_insert(now.mono);
            if now.mono >= since + PROOF {
                settled.rewound.push(fetch);
                return None;
            }
            doubt.after = asked;
            // Kafka has answered. From here on, the fetch waits for its next answer.
            fetch.since = now.mono;
            settled.asks_again = true;
            Some(fetch)
        });
        settled
    }

    /// Returns whether a fetch waits until the end of a partition is known.
    pub(super) fn is_wanted(&self, key: PartitionKey) -> bool {
        self.waiting.abouts().any(|doubt| doubt.key == key)
    }

    /// Removes a fetch.
    pub(super) fn cancel(&mut self, token: T) -> Option<Fetch<T>> {
        self.waiting.cancel(token)
    }

    /// Removes the fetches that have waited for an answer since a time before `before`.
    pub(super) fn take_unanswered(&mut self, before: Millis) -> Vec<Fetch<T>> {
        self.waiting.take_older(before)
    }

    /// Removes the fetches of a queue that the server no longer serves.
    pub(super) fn forget(&mut self, queue: QueueId) -> Vec<Fetch<T>> {
        self.waiting.take_if(|doubt, _| doubt.key.queue == queue)
    }

    /// Returns the number of waiting fetches.
    pub(super) fn waiting(&self) -> usize {
        self.waiting.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::units::Partition;

    const KEY: PartitionKey = PartitionKey { queue: QueueId(1), partition: Partition(2) };

    fn at(mono: Millis) -> Now {
        Now::default().later(mono)
    }

    fn fetch(token: u64, from: Offset) -> Fetch<u64> {
        Fetch {
            token,
            from,
            bytes_max: 1,
            exclude: None,
            view: Default::default(),
            wait: true,
            since: Millis::ZERO,
        }
    }

    fn tokens(fetches: &[Fetch<u64>]) -> Vec<u64> {
        fetches.iter().map(|fetch| fetch.token).collect()
    }

    #[test]
    fn a_lagging_shard_is_distinguished_from_a_partition_that_went_back() {
        let mut ahead = Ahead::new();
        ahead.push(KEY, fetch(1, Offset(100)), 0);
        ahead.push(KEY, fetch(2, Offset(101)), 0);
        let settled = ahead.settle(at(Millis::ZERO), KEY, 1, Offset(100));
        assert_eq!((tokens(&settled.reached), tokens(&settled.rewound)), (vec![1], vec![]));
        assert!(settled.is_new && settled.asks_again);
        // At the next question, the partition may have reached the position.
        let settled = ahead.settle(at(PROOF), KEY, 2, Offset(101));
        assert_eq!((tokens(&settled.reached), tokens(&settled.rewound)), (vec![2], vec![]));
        assert!(!settled.asks_again && ahead.waiting() == 0);
    }

    #[test]
    fn only_answers_that_say_so_for_a_while_prove_a_rewind() {
        let mut ahead = Ahead::new();
        ahead.push(KEY, fetch(1, Offset(100)), 0);
        for (question, ms) in [(1, 0), (2, 250), (3, PROOF.get() - 1)] {
            let settled = ahead.settle(at(Millis::new(ms)), KEY, question, Offset(99));
            assert!(settled.rewound.is_empty() && settled.asks_again, "{ms}");
            assert_eq!(settled.is_new, question == 1);
        }
        let settled = ahead.settle(at(PROOF), KEY, 4, Offset(99));
        assert_eq!(tokens(&settled.rewound), [1]);
        assert!(!settled.asks_again && !ahead.is_wanted(KEY));
    }

    #[test]
    fn an_answer_to_an_older_question_or_of_another_partition_proves_nothing() {
        let mut ahead = Ahead::new();
        ahead.push(KEY, fetch(1, Offset(100)), 7);
        let other = PartitionKey { partition: Partition(3), ..KEY };
        for (key, question) in [(KEY, 7), (KEY, 6), (other, 8)] {
            let settled = ahead.settle(at(Millis::ZERO), key, question, Offset(0));
            assert!(settled.rewound.is_empty() && settled.reached.is_empty() && !settled.asks_again);
        }
        assert!(ahead.is_wanted(KEY) && !ahead.is_wanted(other));
        // The same answer twice proves nothing either.
        assert!(ahead.settle(at(Millis::ZERO), KEY, 8, Offset(0)).asks_again);
        assert!(ahead.settle(at(PROOF), KEY, 8, Offset(0)).rewound.is_empty());
        assert_eq!(tokens(&ahead.settle(at(PROOF), KEY, 9, Offset(0)).rewound), [1]);
    }

    #[test]
    fn a_partition_seen_to_go_back_stays_so_after_it_has_grown_again() {
        let mut ahead = Ahead::new();
        ahead.push_gone_back(at(Millis::ZERO), KEY, fetch(1, Offset(100)), 0);
        assert!(ahead.settle(at(Millis::new(1)), KEY, 1, Offset(1_000)).asks_again);
        assert_eq!(tokens(&ahead.settle(at(PROOF), KEY, 2, Offset(1_000)).rewound), [1]);
    }

    #[test]
    fn fetches_are_cancelled_forgotten_and_failed_without_an_answer() {
        let mut ahead = Ahead::new();
        for token in 1..=3 {
            ahead.push(KEY, fetch(token, Offset(100)), 0);
        }
        assert_eq!(ahead.cancel(2).map(|fetch| fetch.token), Some(2));
        assert!(ahead.cancel(2).is_none());
        // An answer restarts the timeout.
        ahead.settle(at(Millis::new(500)), KEY, 1, Offset(0));
        assert!(ahead.take_unanswered(Millis::new(500)).is_empty());
        assert_eq!(tokens(&ahead.take_unanswered(Millis::new(501))), [1, 3]);
        ahead.push(KEY, fetch(4, Offset(100)), 0);
        assert!(ahead.forget(QueueId(9)).is_empty());
        assert_eq!(tokens(&ahead.forget(KEY.queue)), [4]);
        assert_eq!(ahead.waiting(), 0);
    }
}
