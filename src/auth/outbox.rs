//! Answers on their way to the shards. A shard whose inbox is full delays nobody else.

use std::collections::{HashSet, VecDeque};
use std::sync::Arc;

use super::credential::Key;
use super::question::{Answer, Audience, Denial, Verdict};

/// Answers that shards have not got yet, in order. There are at most as many as questions, and one about changes
/// and one about a reload between two of them.
#[derive(Debug)]
pub(super) struct Outbox {
    audience: Arc<dyn Audience>,
    waiting: Vec<VecDeque<Answer>>,
}

impl Outbox {
    pub(super) fn new(audience: Arc<dyn Audience>) -> Self {
        let waiting = (0..audience.listeners()).map(|_| VecDeque::new()).collect();
        Self { audience, waiting }
    }

    /// Returns whether every shard has got everything.
    pub(super) fn is_empty(&self) -> bool {
        self.waiting.iter().all(VecDeque::is_empty)
    }

    /// Gives an answer to a shard, now or later.
    pub(super) fn tell(&mut self, shard: u16, answer: Answer) {
        let Some(waiting) = self.waiting.get_mut(usize::from(shard)) else { return };
        waiting.push_back(answer);
        Self::flush_to(&*self.audience, shard, waiting);
    }

    /// Tells every shard of changes.
    pub(super) fn tell_all(&mut self, changes: &Arc<[(Key, Verdict)]>) {
        for (shard, waiting) in (0..).zip(&mut self.waiting) {
            let reloaded = waiting.pop_back_if(|answer| matches!(answer, Answer::Reloaded));
            match waiting.back_mut() {
                Some(Answer::Changed(before)) => *before = merged(before, changes),
                _ => waiting.push_back(Answer::Changed(changes.clone())),
            }
            waiting.extend(reloaded);
            Self::flush_to(&*self.audience, shard, waiting);
        }
    }

    /// Tells every shard that refusals of before may no longer hold.
    pub(super) fn tell_reloaded(&mut self) {
        for (shard, waiting) in (0..).zip(&mut self.waiting) {
            if !matches!(waiting.back(), Some(Answer::Reloaded)) {
                waiting.push_back(Answer::Reloaded);
            }
            Self::flush_to(&*self.audience, shard, waiting);
        }
    }

    /// Tries again to give what waits.
    pub(super) fn flush(&mut self) {
        for (shard, waiting) in (0..).zip(&mut self.waiting) {
            Self::flush_to(&*self.audience, shard, waiting);
        }
    }

    fn flush_to(audience: &dyn Audience, shard: u16, waiting: &mut VecDeque<Answer>) {
        while let Some(answer) = waiting.pop_front() {
            if let Err(answer) = audience.tell(shard, answer) {
                waiting.push_front(answer);
                return;
            }
        }
    }
}

/// Returns all changes, without those that newer ones replace. What has ended stays so: the grant after it may be
/// another client's, and the shard has not heard of it.
fn merged(before: &[(Key, Verdict)], changes: &[(Key, Verdict)]) -> Arc<[(Key, Verdict)]> {
    let has_ended = |verdict: &Verdict| !matches!(verdict, Ok(_) | Err(Denial::Expired));
    let ended: HashSet<Key> =
        before.iter().filter(|(_, verdict)| has_ended(verdict)).map(|(key, _)| *key).collect();
    let newer: HashSet<Key> = changes.iter().map(|(key, _)| *key).collect();
    let kept = before.iter().filter(|(key, _)| ended.contains(key) || !newer.contains(key));
    kept.chain(changes.iter().filter(|(key, _)| !ended.contains(key))).cloned().collect()
}
