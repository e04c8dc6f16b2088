//! The shard's answers to the commands of an operation.

use std::ops::Range;

use crate::base::batch::Fetched;
use crate::base::error::{Fault, StoreFault};
use crate::base::queue::QueueInfo;

/// See the module's page.
#[derive(Clone, Debug)]
pub enum Answer {
    /// To `Open`.
    Opened {
        /// The queue.
        result: Result<QueueInfo, Fault>,
        /// A partition that costs no hop.
        local_partition: u16,
    },
    /// To `Append`. The shard has given the bytes of the budget back.
    Appended {
        /// Which of the operation's batches.
        sequence: u64,
        /// The offsets, from the first message to behind the last, where the messages stand one after the other.
        result: Result<Option<Range<u64>>, StoreFault>,
    },
    /// To `Fetch`.
    Fetched {
        /// Of which partition.
        partition: u16,
        /// What there is.
        result: Result<Fetched, StoreFault>,
    },
    /// To `Resolve`.
    Resolved {
        /// Of which partition.
        partition: u16,
        /// The offset.
        result: Result<u64, StoreFault>,
    },
}
