//! What a store asks of its shard, to move messages to other queues: it knows neither their names nor their stores.

use std::ops::Range;

use crate::base::batch::{Batch, Fetched};
use crate::base::error::{Fault, StoreFault};
use crate::base::names::FullName;
use crate::base::queue::QueueInfo;
use crate::base::units::{Offset, Partition};

/// The number of an errand. The answer bears it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ErrandId(pub u32);

/// What a store asks of its shard.
#[derive(Debug)]
pub struct Errand {
    /// Its number.
    pub id: ErrandId,
    /// What is asked.
    pub what: Wanted,
}

/// What an errand asks.
#[derive(Debug)]
pub enum Wanted {
    /// Find a queue, or create it, whether clients may or not.
    Open(FullName),
    /// Find a queue.
    Find(FullName),
    /// Find the end of a partition.
    End(QueueInfo, Partition),
    /// Read all that is stored in a partition from an offset on, about as many bytes.
    Read(QueueInfo, Partition, Offset, usize),
    /// Append messages to a partition.
    Append(QueueInfo, Partition, Batch),
}

/// The answer to an errand.
#[derive(Debug)]
pub enum Done {
    /// The answer to [`Wanted::Open`] and to [`Wanted::Find`]. A queue that is to be found may be missing.
    Opened(Result<QueueInfo, Fault>),
    /// The answer to [`Wanted::End`].
    End(Result<Offset, StoreFault>),
    /// The answer to [`Wanted::Read`].
    Read(Result<Fetched, StoreFault>),
    /// The answer to [`Wanted::Append`].
    Appended(Result<Option<Range<Offset>>, StoreFault>),
}
