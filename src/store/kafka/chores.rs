//! A shard's chores: blocking work that the janitor does.

use std::sync::Arc;

use super::client::Client;
use super::janitor::{Janitor, Returns};
use super::native::{Handle, Topic};
use super::news::News;
use super::properties::Properties;
use super::tokens::Tokens;
use crate::base::queue::PartitionKey;
use crate::base::units::Partition;

/// A client of a shard.
#[derive(Clone, Copy, Debug)]
pub(super) enum Role {
    Producer,
    Tails,
    /// The reader with this index.
    Reader(usize),
}

/// Work that may block.
#[derive(Debug)]
pub(super) enum Chore {
    /// Create a client's handle.
    Make(Role),
    /// Stop reading the end of a partition.
    StopTail(PartitionKey, Arc<Topic>),
    /// Stop the reader with this index at a partition.
    StopReader(usize, Arc<Topic>, Partition),
}

/// The result of a chore.
#[derive(Debug)]
pub(super) enum Return {
    Made(Role, Result<Handle, String>),
    /// The tail's partition, and its topic's number.
    TailStopped(PartitionKey, usize),
    ReaderStopped(usize),
}

/// Passes chores to the janitor, and receives their results.
#[derive(Debug)]
pub(super) struct Chores {
    janitor: Janitor,
    tokens: Option<Tokens>,
    properties: Arc<Properties>,
    returns: Returns<Return>,
}

impl Chores {
    pub(super) fn new(
        janitor: Janitor,
        tokens: Option<Tokens>,
        properties: Properties,
        news: &Arc<News>,
    ) -> Self {
        Self { janitor, tokens, properties: Arc::new(properties), returns: Returns::new(news) }
    }

    /// Lets the janitor do a chore.
    pub(super) fn run(&self, chore: Chore) {
        match chore {
            Chore::Make(role) => self.make(role),
            Chore::StopTail(key, topic) => self.returns.ask(&self.janitor, move || {
                topic.stop(key.partition);
                Return::TailStopped(key, topic.number())
            }),
            Chore::StopReader(index, topic, partition) => self.returns.ask(&self.janitor, move || {
                topic.stop(partition);
                Return::ReaderStopped(index)
            }),
        }
    }

    fn make(&self, role: Role) {
        let (properties, tokens) = (self.properties.clone(), self.tokens.clone());
        self.returns.ask(&self.janitor, move || {
            let made = match role {
                Role::Producer => Handle::producer(&properties.producer),
                Role::Tails => Handle::consumer(&properties.tails),
                Role::Reader(_) => Handle::consumer(&properties.readers),
            };
            if let (Ok(handle), Some(tokens)) = (&made, tokens) {
                tokens.supply(handle);
            }
            Return::Made(role, made)
        });
    }

    /// Lets the janitor drop a client, which blocks.
    pub(super) fn discard(&self, client: Client) {
        self.janitor.run(move || drop(client));
    }

    /// Returns the next result of a chore.
    pub(super) fn poll(&self) -> Option<Return> {
        self.returns.poll()
    }
}
