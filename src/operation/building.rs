//! The open batches of a produce operation. They collect messages until they go to the store.

use super::subject::Author;
use crate::base::batch::{BatchBuilder, Savepoint, Shape};
use crate::base::units::{MsgNum, Partition};

/// A batch that still accepts messages.
#[derive(Debug)]
pub(super) struct Building {
    pub(super) partition: Partition,
    pub(super) builder: BatchBuilder,
    /// Bytes of the budget that are reserved for this batch.
    pub(super) reserved: usize,
}

/// How long messages live, and how long claims do not see them, in seconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Times {
    pub(super) ttl: u32,
    pub(super) delay: u32,
}

/// The open batches. All have the same times and the same shape: either one batch of payloads, or one batch for each
/// partition that receives messages with keys or headers. All are closed together.
#[derive(Debug, Default)]
pub(super) struct OpenBatches {
    batches: Vec<Building>,
    /// The number of the last message in them.
    pub(super) through: MsgNum,
    /// When the first message in them was read, in monotonic nanoseconds.
    pub(super) read_ns: u64,
}

impl Times {
    /// Returns whether the messages of a batch have these times.
    #[inline]
    fn are_of(self, builder: &BatchBuilder) -> bool {
        self == Self { ttl: builder.ttl_secs(), delay: builder.delay_secs() }
    }
}

impl OpenBatches {
    pub(super) fn is_empty(&self) -> bool {
        self.batches.is_empty()
    }

    /// Removes and returns all open batches.
    pub(super) fn drain(&mut self) -> impl Iterator<Item = Building> {
        self.batches.drain(..)
    }

    /// Returns the partition of the only open batch, or `None` if there are several or none.
    pub(super) fn only_partition(&self) -> Option<Partition> {
        match &self.batches[..] {
            [one] => Some(one.partition),
            _ => None,
        }
    }

    /// Returns the first open batch.
    #[inline]
    pub(super) fn first_mut(&mut self) -> Option<&mut Building> {
        self.batches.first_mut()
    }

    /// Returns the batch that was opened last.
    pub(super) fn last_mut(&mut self) -> Option<&mut Building> {
        self.batches.last_mut()
    }

    /// Returns the total size of the batches in stored form.
    #[inline]
    pub(super) fn stored_bytes(&self) -> usize {
        self.batches.iter().map(|building| building.builder.stored_bytes()).sum()
    }

    /// Returns whether the open batches accept a message without a key and with these times. An empty open batch
    /// takes them over.
    #[inline]
    pub(super) fn takes_plain(&mut self, times: Times) -> bool {
        match self.batches.first_mut().map(|building| &mut building.builder) {
            None => true,
            Some(open) if open.shape() != Shape::Payloads => false,
            Some(open) if open.count() == 0 => {
                open.set_ttl_secs(times.ttl);
                open.set_delay_secs(times.delay);
                true
            }
            Some(open) => times.are_of(open),
        }
    }

    /// Returns whether the open batches have this shape and these times.
    pub(super) fn takes_shaped(&self, shape: Shape, times: Times) -> bool {
        let fits = |open: &BatchBuilder| open.shape() == shape && times.are_of(open);
        self.batches.first().is_none_or(|building| fits(&building.builder))
    }

    /// Returns the batch of payloads. Opens it with `capacity` if no batch is open. The open batch must
    /// accept the message, see [`Self::takes_plain`].
    #[inline]
    pub(super) fn plain(
        &mut self,
        author: Author,
        partition: Partition,
        times: Times,
        capacity: usize,
        read_ns: u64,
    ) -> &mut Building {
        if self.batches.is_empty() {
            self.read_ns = read_ns;
            let builder = BatchBuilder::new(author.client, times.ttl, capacity);
            let builder = builder.anonymous(!author.is_known).delayed(times.delay);
            self.batches.push(Building { partition, builder, reserved: 0 });
        }
        &mut self.batches[0]
    }

    /// Returns the batch of a partition for messages with keys or headers. Opens it if missing. The open batches must
    /// accept the message, see [`Self::takes_shaped`].
    pub(super) fn shaped(
        &mut self,
        author: Author,
        partition: Partition,
        shape: Shape,
        times: Times,
        read_ns: u64,
    ) -> &mut Building {
        if self.batches.is_empty() {
            self.read_ns = read_ns;
        }
        let known = self.batches.iter().position(|building| building.partition == partition);
        let index = known.unwrap_or_else(|| {
            let builder = BatchBuilder::new(author.client, times.ttl, 0).with_shape(shape);
            let builder = builder.anonymous(!author.is_known).delayed(times.delay);
            self.batches.push(Building { partition, builder, reserved: 0 });
            self.batches.len() - 1
        });
        &mut self.batches[index]
    }

    /// Drops everything that was copied into the first batch since `savepoint`.
    pub(super) fn roll_back(&mut self, savepoint: Savepoint) {
        if let Some(Building { builder, reserved, .. }) = self.batches.first_mut() {
            builder.roll_back(savepoint);
            if builder.count() == 0 && *reserved == 0 {
                self.batches.clear();
            }
        }
    }
}
