//! The open batches of a produce operation: messages are copied into them until they go to the store.

use super::subject::Author;
use crate::base::batch::{BatchBuilder, Savepoint};
use crate::base::units::{MsgNum, Partition};

/// One open batch.
#[derive(Debug)]
pub(super) struct Building {
    pub(super) partition: Partition,
    pub(super) builder: BatchBuilder,
    /// Bytes of the budget that are reserved for it.
    pub(super) reserved: usize,
}

/// The open batches. All have one TTL: either one batch without keys, or one batch for each partition that messages with
/// keys go to. They are closed together.
#[derive(Debug, Default)]
pub(super) struct OpenBatches {
    batches: Vec<Building>,
    /// The last message in them.
    pub(super) through: MsgNum,
    /// When the first message in them was read.
    pub(super) read_ns: u64,
}

impl OpenBatches {
    pub(super) fn is_empty(&self) -> bool {
        self.batches.is_empty()
    }

    /// The open batches, emptied.
    pub(super) fn drain(&mut self) -> impl Iterator<Item = Building> {
        self.batches.drain(..)
    }

    /// The partition of the only open batch; `None` where there are several.
    pub(super) fn only_partition(&self) -> Option<Partition> {
        match &self.batches[..] {
            [one] => Some(one.partition),
            _ => None,
        }
    }

    /// The first open batch.
    #[inline]
    pub(super) fn first_mut(&mut self) -> Option<&mut Building> {
        self.batches.first_mut()
    }

    /// The batch that was opened last.
    pub(super) fn last_mut(&mut self) -> Option<&mut Building> {
        self.batches.last_mut()
    }

    /// Bytes in stored form.
    #[inline]
    pub(super) fn stored_bytes(&self) -> usize {
        self.batches.iter().map(|building| building.builder.stored_bytes()).sum()
    }

    /// Whether a message without a key and with this TTL fits what is open.
    #[inline]
    pub(super) fn takes_plain(&mut self, ttl: u32) -> bool {
        match self.batches.first_mut().map(|building| &mut building.builder) {
            None => true,
            Some(open) if open.has_keys() => false,
            Some(open) if open.count() == 0 => {
                open.set_ttl_secs(ttl);
                true
            }
            Some(open) => open.ttl_secs() == ttl,
        }
    }

    /// Whether a message with a key and with this TTL fits what is open.
    pub(super) fn takes_keyed(&self, ttl: u32) -> bool {
        let fits = |open: &BatchBuilder| open.has_keys() && open.ttl_secs() == ttl;
        self.batches.first().is_none_or(|building| fits(&building.builder))
    }

    /// The batch without keys, opened with `capacity` where there is none. What is open must fit.
    #[inline]
    pub(super) fn plain(
        &mut self,
        author: Author,
        partition: Partition,
        ttl: u32,
        capacity: usize,
        read_ns: u64,
    ) -> &mut Building {
        if self.batches.is_empty() {
            self.read_ns = read_ns;
            let builder = BatchBuilder::new(author.client, ttl, capacity).anonymous(!author.is_known);
            self.batches.push(Building { partition, builder, reserved: 0 });
        }
        &mut self.batches[0]
    }

    /// The batch of a partition for messages with keys, opened where there is none. What is open must fit.
    pub(super) fn keyed(
        &mut self,
        author: Author,
        partition: Partition,
        ttl: u32,
        read_ns: u64,
    ) -> &mut Building {
        if self.batches.is_empty() {
            self.read_ns = read_ns;
        }
        let known = self.batches.iter().position(|building| building.partition == partition);
        let index = known.unwrap_or_else(|| {
            let builder = BatchBuilder::with_keys(author.client, ttl, 0).anonymous(!author.is_known);
            self.batches.push(Building { partition, builder, reserved: 0 });
            self.batches.len() - 1
        });
        &mut self.batches[index]
    }

    /// Drops what was copied into the first batch since `savepoint`.
    pub(super) fn roll_back(&mut self, savepoint: Savepoint) {
        if let Some(Building { builder, reserved, .. }) = self.batches.first_mut() {
            builder.roll_back(savepoint);
            if builder.count() == 0 && *reserved == 0 {
                self.batches.clear();
            }
        }
    }
}
