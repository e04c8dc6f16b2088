//! The leases that wait until the output has room.

use std::collections::VecDeque;

use crate::base::claim::{Grant, Granted};
use crate::base::units::Partition;

/// The number of messages of a lease, and their bytes in stored form.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Size {
    pub(super) messages: u64,
    pub(super) bytes: usize,
}

/// The leases that were granted and not sent, oldest first.
#[derive(Debug, Default)]
pub(super) struct Ready {
    leases: VecDeque<(Partition, Grant, Size)>,
    /// The sum of their sizes.
    total: Size,
}

impl Size {
    pub(super) fn of(grant: &Grant) -> Self {
        grant.runs.iter().fold(Self::default(), |size, Granted { stored, offsets, .. }| {
            let messages = offsets.end.since(offsets.start);
            let bytes =
                stored.batch.stored_bytes() as u64 * messages / u64::from(stored.batch.count().max(1));
            Self { messages: size.messages + messages, bytes: size.bytes + bytes as usize }
        })
    }
}

impl Ready {
    /// Returns the sum of their sizes.
    pub(super) fn total(&self) -> Size {
        self.total
    }

    pub(super) fn is_empty(&self) -> bool {
        self.leases.is_empty()
    }

    pub(super) fn push(&mut self, partition: Partition, grant: Grant, size: Size) {
        self.total.messages += size.messages;
        self.total.bytes += size.bytes;
        self.leases.push_back((partition, grant, size));
    }

    /// Removes the oldest. Also returns its number of messages.
    pub(super) fn pop(&mut self) -> Option<(Partition, Grant, u64)> {
        let (partition, grant, size) = self.leases.pop_front()?;
        self.total.messages -= size.messages;
        self.total.bytes -= size.bytes;
        Some((partition, grant, size.messages))
    }
}
