//! Which partition each message of a produce operation goes to.

use super::subject::Author;
use crate::base::partitioner::{client_partition, key_partition};
use crate::base::units::Partition;

/// The rule that selects the partition of each message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Routing {
    /// The partition of messages without keys. They keep their order because they share one partition.
    pub partition: Partition,
    /// The number of partitions over which keys are spread, or `None` if the client named one partition.
    pub keyed_over: Option<u16>,
}

impl Routing {
    /// Returns the routing of an author on a queue of `partitions`: to partition `only` if the client named
    /// one. An anonymous client's messages go to `local`, the partition that costs no hop.
    pub fn of(author: Author, only: Option<Partition>, partitions: u16, local: Partition) -> Self {
        let partition = match only {
            Some(partition) => partition,
            None if author.is_known => client_partition(author.client, partitions),
            None => local.min(Partition(partitions - 1)),
        };
        Self { partition, keyed_over: only.is_none().then_some(partitions) }
    }

    pub(super) fn partition_of(self, key: &[u8]) -> Partition {
        match self.keyed_over {
            Some(partitions) if !key.is_empty() => key_partition(key, partitions),
            _ => self.partition,
        }
    }
}
