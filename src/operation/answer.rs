//! The shard's answers to the commands of an operation.

use std::ops::Range;

use crate::base::batch::Fetched;
use crate::base::error::{Fault, StoreFault};
use crate::base::queue::QueueInfo;
use crate::base::units::{Offset, Partition, Sequence};

/// See the module's page.
#[derive(Clone, Debug)]
pub enum Answer {
    /// To `Open`.
    Opened {
        /// The queue.
        result: Result<QueueInfo, Fault>,
        /// A partition that costs no hop.
        local_partition: Partition,
    },
    /// To `Append`. The shard has given the bytes of the budget back.
    Appended {
        /// Which of the operation's batches.
        sequence: Sequence,
        /// The offsets, from the first message to behind the last, where the messages stand one after the other.
        result: Result<Option<Range<Offset>>, StoreFault>,
    },
    /// To `Fetch`.
    Fetched {
        /// Of which partition.
        partition: Partition,
        /// What there is.
        result: Result<Fetched, StoreFault>,
    },
    /// To `Resolve`.
    Resolved {
        /// Of which partition.
        partition: Partition,
        /// The offset.
        result: Result<Offset, StoreFault>,
    },
}
