//! The outcomes of the messages of a produce operation, in the order of their numbers.

use std::collections::VecDeque;
use std::ops::Range;

use crate::base::budget::Purse;
use crate::base::error::{Fault, StoreFault};
use crate::base::limits::FATE_BYTES;
use crate::base::units::{MsgNum, Offset, Partition, Sequence};

/// The outcome of a message: stored, or refused with a reason.
pub type Fate = Result<(), Fault>;

/// Consecutive messages that share one fate.
#[derive(Debug)]
pub(super) struct Pending {
    /// The number of the last message. Grows along the queue of pending fates.
    pub(super) through: MsgNum,
    /// Bytes of the budget that are held until the store has answered.
    pub(super) reserved: usize,
    /// The number of messages that the store stores.
    pub(super) messages: u32,
    /// The number of batches that the store has not answered yet. At 0 the fate is known.
    pub(super) waiting: u16,
    pub(super) fate: Fate,
    pub(super) place: Option<StoredAt>,
    /// When the first message was read, and when the fate became known.
    pub(super) read_ns: u64,
    pub(super) known_ns: u64,
}

/// Where consecutive messages are stored, in contiguous offsets. Known once their fate is known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredAt {
    /// The partition of the messages.
    pub partition: Partition,
    /// The offsets, from the first message to one past the last.
    pub offsets: Range<Offset>,
}

impl StoredAt {
    /// Joins two ranges, if the second starts at the end of the first in the same partition.
    pub(super) fn join(first: Option<Self>, second: Option<Self>) -> Option<Self> {
        let (first, second) = (first?, second?);
        let joined = first.partition == second.partition && first.offsets.end == second.offsets.start;
        joined
            .then_some(Self { partition: first.partition, offsets: first.offsets.start..second.offsets.end })
    }
}

/// The effect of the store's answer for one batch.
#[derive(Debug)]
pub(super) struct Answered {
    /// Bytes that are no longer outstanding.
    pub(super) released: usize,
    /// Messages that are no longer outstanding.
    pub(super) messages: u32,
    /// Why the operation fails, if it does.
    pub(super) fault: Option<Fault>,
}

/// The fates of a produce operation that are not yet reported to the client.
#[derive(Debug, Default)]
pub(super) struct Fates {
    /// The pending fates, oldest first. All before `first_sequence` are already answered.
    pending: VecDeque<Pending>,
    first_sequence: Sequence,
    /// The number of batches in `pending` that the store has not answered yet.
    batches: usize,
}

impl Fates {
    /// Returns the sequence number of the next batch.
    pub(super) fn next_sequence(&self) -> Sequence {
        self.first_sequence.plus(self.pending.len() as u64)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.pending.is_empty()
    }

    /// Returns how much is outstanding: unreported fates or unanswered batches, whichever is more.
    #[inline]
    pub(super) fn outstanding(&self) -> usize {
        self.pending.len().max(self.batches)
    }

    /// Returns whether the store still owes an answer for a batch.
    pub(super) fn waits_for_store(&self) -> bool {
        self.batches > 0
    }

    /// Returns whether the oldest fate is known.
    pub(super) fn is_first_known(&self) -> bool {
        self.pending.front().is_some_and(|pending| pending.waiting == 0)
    }

    /// Returns the bytes of the budget that are held for fates.
    #[inline]
    pub(super) fn held(&self) -> usize {
        self.pending.len() * FATE_BYTES
    }

    pub(super) fn push(&mut self, pending: Pending, budget: &mut Purse<'_>) {
        budget.hold(FATE_BYTES);
        self.batches += usize::from(pending.waiting);
        self.pending.push_back(pending);
    }

    /// Lets the last refusal cover all messages up to `through`, if it has the same fate. Returns whether it does.
    pub(super) fn extend(&mut self, through: MsgNum, fate: &Fate) -> bool {
        let is_same = |last: &&mut Pending| last.fate == *fate && last.waiting == 0 && last.messages == 0;
        let last = self.pending.back_mut().filter(is_same);
        last.map(|last| last.through = through).is_some()
    }

    /// Removes and returns the oldest fate, if it is known and `wanted`.
    #[inline]
    pub(super) fn pop(
        &mut self,
        wanted: impl FnOnce(&Fate) -> bool,
        budget: &mut Purse<'_>,
    ) -> Option<Pending> {
        let known = |pending: &mut Pending| pending.waiting == 0 && wanted(&pending.fate);
        let pending = self.pending.pop_front_if(known)?;
        budget.drop_held(FATE_BYTES);
        self.first_sequence = self.first_sequence.plus(1);
        Some(pending)
    }

    /// Handles the store's answer for one batch of `sequence`. Returns `None` if that sequence is not
    /// outstanding.
    pub(super) fn handle_appended(
        &mut self,
        sequence: Sequence,
        result: Result<Option<Range<Offset>>, StoreFault>,
        now_ns: u64,
    ) -> Option<Answered> {
        let index = usize::try_from(sequence.checked_since(self.first_sequence)?).ok()?;
        let pending = self.pending.get_mut(index)?;
        debug_assert!(pending.waiting > 0, "the store answers each batch once");
        pending.waiting -= 1;
        self.batches -= 1;
        let (mut released, mut messages) = (0, 0);
        if pending.waiting == 0 {
            (released, messages) = (pending.reserved, pending.messages);
            pending.known_ns = now_ns;
        }
        let fault = match result {
            Ok(offsets) => {
                pending.place =
                    pending.place.take().zip(offsets).map(|(place, offsets)| StoredAt { offsets, ..place });
                None
            }
            Err(fault) => {
                let fault = Fault::from(fault);
                if pending.fate.is_ok() {
                    pending.fate = Err(fault.clone());
                }
                Some(fault)
            }
        };
        Some(Answered { released, messages, fault })
    }

    /// Drops all fates, and releases the bytes held for them.
    pub(super) fn clear(&mut self, budget: &mut Purse<'_>) {
        budget.drop_held(self.held());
        self.pending.clear();
    }
}
