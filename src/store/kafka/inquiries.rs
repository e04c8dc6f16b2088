//! The operator's questions to a shard: single messages, what a partition has, and all queues. The clerk answers them.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::batches::Reads;
use super::clerk::{Clerk, Queues};
use super::janitor::Returns;
use super::news::News;
use super::topics::{TopicInfo, forgotten};
use crate::base::clock::Now;
use crate::base::error::{NO_CLAIMS, StoreFault};
use crate::base::manage::{Manage, Managed};
use crate::base::millis::Millis;
use crate::base::queue::PartitionKey;
use crate::store::{Asker, Completion};

/// Why messages are not deleted or moved.
const NO_DELETIONS: &str = "deleting, popping, purging and redriving messages needs the embedded log or the memory store; on \
     Kafka it needs ownership, which servers do not share";

/// The clerk's answer.
#[derive(Debug)]
enum Answer {
    Managed(Result<Managed, StoreFault>),
    Queues(Queues),
}

#[derive(Debug)]
enum Token<T: Asker> {
    Manage(T::Manage),
    List(T::Change),
}

/// The questions of a shard.
#[derive(Debug)]
pub(super) struct Inquiries<T: Asker> {
    clerk: Clerk,
    reads: Reads,
    returns: Returns<(u64, Answer)>,
    open: HashMap<u64, Token<T>>,
    last: u64,
    completions: VecDeque<Completion<T>>,
}

impl<T: Asker> Inquiries<T> {
    pub(super) fn new(clerk: Clerk, reads: Reads, news: &Arc<News>) -> Self {
        let (returns, open, completions) = (Returns::new(news), HashMap::new(), VecDeque::new());
        Self { clerk, reads, returns, open, last: 0, completions }
    }

    /// Accepts a question about a partition of this topic.
    pub(super) fn manage(
        &mut self,
        now: Now,
        token: T::Manage,
        key: PartitionKey,
        what: Manage,
        info: Option<&Arc<TopicInfo>>,
    ) {
        let Some(info) = info.cloned() else {
            return self.completions.push_back(Completion::Managed { token, result: Err(forgotten()) });
        };
        let partition = key.partition;
        match what {
            Manage::Stats => {
                let (number, give) = (self.begin(Token::Manage(token)), self.returns.giver());
                self.clerk.run(move |desk| {
                    let result = desk.offsets(&info, partition).map(Managed::Offsets);
                    give((number, Answer::Managed(result)));
                });
            }
            Manage::Find(offsets) => {
                let (number, give) = (self.begin(Token::Manage(token)), self.returns.giver());
                let reads = self.reads.clone();
                self.clerk.run(move |desk| {
                    let found = desk.find(now, &info, partition, &offsets, &reads);
                    give((number, Answer::Managed(found.map(Managed::Found))));
                });
            }
            Manage::Claim(..) | Manage::Renew { .. } | Manage::Release(..) => {
                let result = Err(StoreFault::Unsupported(NO_CLAIMS));
                self.completions.push_back(Completion::Managed { token, result });
            }
            Manage::Remove { .. } | Manage::Pop { .. } | Manage::Purge | Manage::Redrive { .. } => {
                let result = Err(StoreFault::Unsupported(NO_DELETIONS));
                self.completions.push_back(Completion::Managed { token, result });
            }
        }
    }

    /// Accepts the question for all queues. The answer may be about as old as `age`.
    pub(super) fn list(&mut self, token: T::Change, age: Millis) {
        let (number, give) = (self.begin(Token::List(token)), self.returns.giver());
        let (since, age) = (Instant::now(), Duration::from_millis(age.get()));
        self.clerk.run(move |desk| give((number, Answer::Queues(desk.queues(since, age)))));
    }

    fn begin(&mut self, token: Token<T>) -> u64 {
        self.last += 1;
        self.open.insert(self.last, token);
        self.last
    }

    /// Handles the clerk's answers.
    pub(super) fn work(&mut self) {
        while let Some((number, answer)) = self.returns.poll() {
            let completion = match (self.open.remove(&number), answer) {
                (Some(Token::Manage(token)), Answer::Managed(result)) => {
                    Completion::Managed { token, result }
                }
                (Some(Token::List(token)), Answer::Queues(result)) => Completion::Listed { token, result },
                _ => continue,
            };
            self.completions.push_back(completion);
        }
    }

    /// Returns the next answer.
    pub(super) fn poll(&mut self) -> Option<Completion<T>> {
        self.completions.pop_front()
    }
}
