//! Questions to Kafka for offsets: where a partition ends, or which record is the first at or after a time.
//! The questions of one turn are sent together.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, VecDeque};
use std::ffi::CString;
use std::sync::Arc;

use super::client::Client;
use super::layout::Layout;
use super::native::{OffsetOf, PartitionOffset, Trouble};
use super::topics::{TopicInfo, forgotten};
use crate::base::error::StoreFault;
use crate::base::queue::{PartitionKey, Position, QueueId};
use crate::base::units::{Offset, Partition};

/// How often a question is repeated, at intervals of a tick, while Kafka cannot answer it.
const TRIES_MAX: u32 = 40;

/// The most partitions in one question.
const PARTITIONS_PER_QUESTION: usize = 1000;

/// The reason for asking for an offset.
#[derive(Clone, Copy, Debug)]
pub(super) enum Why<T> {
    /// A request of the shard.
    Resolve(T),
    /// The tail of this partition, which begins at its end.
    Tail(PartitionKey),
    /// A consumer whose position is beyond the end that the tail of this partition knows.
    Ahead(PartitionKey),
}

/// The answer to a question for an offset.
#[derive(Debug)]
pub(super) struct Answer<T> {
    pub why: Why<T>,
    /// The number of the question.
    pub asked: usize,
    pub result: Result<Offset, StoreFault>,
}

#[derive(Clone, Copy, Debug)]
struct Ask<T> {
    why: Why<T>,
    key: PartitionKey,
    of: OffsetOf,
    /// The layout of its topic, once it was asked.
    layout: Layout,
    /// How often it was asked without success.
    tries: u32,
}

impl<T> Ask<T> {
    fn end(why: Why<T>, key: PartitionKey) -> Self {
        Self { why, key, of: OffsetOf::End, layout: Layout::Plain, tries: 0 }
    }
}

/// One question to Kafka, by topic and partition. Invariant: each partition has at least one ask, and all its
/// asks have the same `of`.
type Question<T> = HashMap<(Arc<CString>, Partition), Vec<Ask<T>>>;

/// The questions of a shard for offsets.
#[derive(Debug)]
pub(super) struct Offsets<T> {
    asks: VecDeque<Ask<T>>,
    /// The asks for the next tick.
    later: Vec<Ask<T>>,
    /// The questions without an answer, by number.
    open: HashMap<usize, Question<T>>,
    /// The number of the last question.
    last: usize,
    answers: VecDeque<Answer<T>>,
}

impl<T: Copy> Offsets<T> {
    pub(super) fn new() -> Self {
        Self {
            asks: VecDeque::new(),
            later: Vec::new(),
            open: HashMap::new(),
            last: 0,
            answers: VecDeque::new(),
        }
    }

    /// Asks for the offset of a position.
    pub(super) fn resolve(&mut self, token: T, key: PartitionKey, position: Position) {
        let of = match position {
            Position::Latest => OffsetOf::End,
            Position::Time(unix) => OffsetOf::Time(unix),
            // The store has one timeline. A fetch finds out whether the topic has gone back.
            Position::After { offset, .. } => {
                let answer = Answer { why: Why::Resolve(token), asked: 0, result: Ok(offset) };
                return self.answers.push_back(answer);
            }
        };
        self.asks.push_back(Ask { why: Why::Resolve(token), key, of, layout: Layout::Plain, tries: 0 });
    }

    /// Asks for the end of a partition, at which its tail begins.
    pub(super) fn ask_end(&mut self, key: PartitionKey) {
        self.asks.push_back(Ask::end(Why::Tail(key), key));
    }

    /// Asks for the end of a partition at the next tick.
    pub(super) fn ask_end_later(&mut self, key: PartitionKey) {
        self.later.push(Ask::end(Why::Tail(key), key));
    }

    /// Asks for the end of a partition for a fetch from beyond its known end.
    pub(super) fn ask_ahead(&mut self, key: PartitionKey) {
        self.asks.push_back(Ask::end(Why::Ahead(key), key));
    }

    /// Asks the same at the next tick.
    pub(super) fn ask_ahead_later(&mut self, key: PartitionKey) {
        self.later.push(Ask::end(Why::Ahead(key), key));
    }

    /// Returns the number of the last question. Later questions have greater numbers.
    pub(super) fn asked(&self) -> usize {
        self.last
    }

    /// Asks what waits for a tick.
    pub(super) fn retry(&mut self) {
        self.asks.extend(self.later.drain(..));
    }

    /// Repeats the open questions after the loss of the client that was asked.
    pub(super) fn handle_client_lost(&mut self) {
        for (_, question) in self.open.drain() {
            self.asks.extend(question.into_values().flatten());
        }
    }

    /// Sends all questions, if a client exists.
    pub(super) fn ask(
        &mut self,
        client: Option<&Client>,
        mut topic: impl FnMut(QueueId) -> Option<Arc<TopicInfo>>,
    ) {
        let Some(Client { handle, events, .. }) = client else { return };
        while !self.asks.is_empty() {
            let mut question: Question<T> = HashMap::new();
            // A question has a partition only once. An ask for another offset of it goes into the next
            // question.
            for _ in 0..self.asks.len() {
                let Some(ask) = self.asks.pop_front() else { break };
                let Some(topic) = topic(ask.key.queue) else {
                    let asked = self.last;
                    self.answers.push_back(Answer { why: ask.why, asked, result: Err(forgotten()) });
                    continue;
                };
                let room = question.len() < PARTITIONS_PER_QUESTION;
                match question.entry((topic.name.clone(), ask.key.partition)) {
                    Entry::Occupied(mut same) if same.get()[0].of == ask.of => {
                        same.get_mut().push(Ask { layout: topic.layout, ..ask });
                    }
                    Entry::Vacant(vacant) if room => {
                        vacant.insert(vec![Ask { layout: topic.layout, ..ask }]);
                    }
                    _ => self.asks.push_back(ask),
                }
            }
            if question.is_empty() {
                return;
            }
            let is_uniform = |asks: &Vec<Ask<T>>| asks.iter().all(|ask| ask.of == asks[0].of);
            debug_assert!(question.values().all(|asks| !asks.is_empty() && is_uniform(asks)));
            let of: Vec<_> = question
                .iter()
                .map(|((name, partition), asks)| (name.clone(), *partition, asks[0].of))
                .collect();
            self.last += 1;
            handle.list_offsets(events, self.last, &of);
            self.open.insert(self.last, question);
        }
    }

    /// Handles Kafka's answer to a question.
    pub(super) fn handle_answer(&mut self, asked: usize, result: Result<Vec<PartitionOffset>, Trouble>) {
        let Some(mut question) = self.open.remove(&asked) else { return };
        match result {
            Ok(offsets) => {
                for PartitionOffset { topic, partition, offset } in offsets {
                    for ask in question.remove(&(Arc::new(topic.clone()), partition)).into_iter().flatten() {
                        let result = match &offset {
                            // No record is that new.
                            Ok(..0) if ask.of != OffsetOf::End => {
                                self.asks.push_back(Ask { of: OffsetOf::End, ..ask });
                                continue;
                            }
                            Ok(offset) => Ok(ask.layout.offset(*offset)),
                            // The leader may be changing.
                            Err(_) if ask.tries < TRIES_MAX => {
                                self.later.push(Ask { tries: ask.tries + 1, ..ask });
                                continue;
                            }
                            Err(trouble) => Err(trouble.report("return an offset")),
                        };
                        self.answers.push_back(Answer { why: ask.why, asked, result });
                    }
                }
                for ask in question.into_values().flatten() {
                    let fault = StoreFault::Unavailable("Kafka returned no offset");
                    self.answers.push_back(Answer { why: ask.why, asked, result: Err(fault) });
                }
            }
            Err(trouble) => {
                let result = Err(trouble.report("return offsets"));
                self.answers.extend(question.into_values().flatten().map(|ask| Answer {
                    why: ask.why,
                    asked,
                    result: result.clone(),
                }));
            }
        }
    }

    /// Returns the next answer.
    pub(super) fn poll(&mut self) -> Option<Answer<T>> {
        self.answers.pop_front()
    }

    /// Returns whether nothing is being asked.
    pub(super) fn is_idle(&self) -> bool {
        self.asks.is_empty() && self.later.is_empty() && self.open.is_empty()
    }
}
