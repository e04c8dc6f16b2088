//! Fetches that wait at one place of a store, such as a partition.

use std::collections::VecDeque;

use super::fetch::Fetch;
use crate::base::millis::Millis;

/// Waiting fetches, in order of arrival. Each has an `A` with what its place notes about it.
///
/// A token occurs at most once. An empty collection holds no memory.
#[derive(Debug)]
pub(super) struct Waiting<T, A = ()> {
    fetches: VecDeque<(A, Fetch<T>)>,
}

impl<T, A> Default for Waiting<T, A> {
    fn default() -> Self {
        Self { fetches: VecDeque::new() }
    }
}

impl<T> Waiting<T> {
    /// Adds a fetch without a note.
    pub(super) fn push(&mut self, fetch: Fetch<T>) {
        self.push_with((), fetch);
    }
}

impl<T, A> Waiting<T, A> {
    /// Adds a fetch with a note.
    pub(super) fn push_with(&mut self, about: A, fetch: Fetch<T>) {
        self.fetches.push_back((about, fetch));
    }

    /// Offers each fetch once to `serve`, in order. A returned fetch continues to wait.
    pub(super) fn serve(&mut self, mut serve: impl FnMut(&mut A, Fetch<T>) -> Option<Fetch<T>>) {
        for _ in 0..self.fetches.len() {
            let Some((mut about, fetch)) = self.fetches.pop_front() else { break };
            if let Some(fetch) = serve(&mut about, fetch) {
                self.fetches.push_back((about, fetch));
            }
        }
        self.release();
    }

    /// Removes and returns the fetch with this token, if it waits.
    pub(super) fn cancel(&mut self, token: T) -> Option<Fetch<T>>
    where
        T: Eq,
    {
        let index = self.fetches.iter().position(|(_, fetch)| fetch.token == token)?;
        let fetch = self.fetches.remove(index).map(|(_, fetch)| fetch);
        debug_assert!(self.fetches.iter().all(|(_, fetch)| fetch.token != token), "a token waits twice");
        self.release();
        fetch
    }

    /// Removes and returns all fetches.
    pub(super) fn take(&mut self) -> impl Iterator<Item = Fetch<T>> + use<T, A> {
        std::mem::take(&mut self.fetches).into_iter().map(|(_, fetch)| fetch)
    }

    fn release(&mut self) {
        if self.fetches.is_empty() {
            self.fetches = VecDeque::new();
        }
    }

    /// Returns whether no fetch waits.
    pub(super) fn is_empty(&self) -> bool {
        self.fetches.is_empty()
    }

    /// Returns the number of fetches.
    pub(super) fn len(&self) -> usize {
        self.fetches.len()
    }

    /// Returns the note of each fetch.
    pub(super) fn abouts(&self) -> impl Iterator<Item = &A> {
        self.fetches.iter().map(|(about, _)| about)
    }

    /// Removes and returns the fetches that satisfy `is_meant`.
    pub(super) fn take_if(&mut self, is_meant: impl Fn(&A, &Fetch<T>) -> bool) -> Vec<Fetch<T>> {
        let mut taken = Vec::new();
        self.serve(|about, fetch| {
            if is_meant(about, &fetch) {
                taken.push(fetch);
                return None;
            }
            Some(fetch)
        });
        taken
    }

    /// Removes and returns the fetches that have waited since before `before`.
    pub(super) fn take_older(&mut self, before: Millis) -> Vec<Fetch<T>> {
        self.take_if(|_, fetch| fetch.since < before)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::units::Offset;

    fn waiting(tokens: impl IntoIterator<Item = u64>) -> Waiting<u64> {
        let mut waiting = Waiting::default();
        for token in tokens {
            let (exclude, since) = (None, Millis::new(token));
            waiting.push(Fetch {
                token,
                from: Offset(0),
                bytes_max: 1,
                exclude,
                view: Default::default(),
                wait: true,
                since,
            });
        }
        waiting
    }

    fn tokens(fetches: impl IntoIterator<Item = Fetch<u64>>) -> Vec<u64> {
        fetches.into_iter().map(|fetch| fetch.token).collect()
    }

    #[test]
    fn each_fetch_is_offered_once_and_the_order_stays() {
        let mut waiting = waiting(1..=5);
        let mut offered = Vec::new();
        waiting.serve(|(), fetch| {
            offered.push(fetch.token);
            (fetch.token % 2 == 1).then_some(fetch)
        });
        assert_eq!(offered, [1, 2, 3, 4, 5]);
        assert_eq!(tokens(waiting.cancel(3)), [3]);
        assert!(waiting.cancel(3).is_none());
        assert_eq!(tokens(waiting.take()), [1, 5]);
        assert!(waiting.is_empty());
    }

    #[test]
    fn old_fetches_are_removed() {
        let mut waiting = waiting(1..=4);
        assert_eq!(tokens(waiting.take_older(Millis::new(3))), [1, 2]);
        assert_eq!(waiting.len(), 2);
        assert!(waiting.take_older(Millis::new(3)).is_empty());
    }
}
