//! What became of the messages of a produce operation, in the order of their numbers.

use std::collections::VecDeque;
use std::ops::Range;

use crate::base::budget::Purse;
use crate::base::error::{Fault, StoreFault};
use crate::base::limits::FATE_BYTES;
use crate::base::units::{MsgNum, Offset, Partition, Sequence};

/// What became of a message: stored, or refused.
pub type Fate = Result<(), Fault>;

/// Messages that share one fate.
#[derive(Debug)]
pub(super) struct Pending {
    /// The last of them. Invariant of the queue of them: `through` grows.
    pub(super) through: MsgNum,
    /// Bytes of the budget that are held until the store has answered.
    pub(super) reserved: usize,
    /// Batches that the store has not answered for; with none left the fate is known.
    pub(super) waiting: u16,
    pub(super) fate: Fate,
    pub(super) place: Option<StoredAt>,
    /// When the first of them was read, and when their fate was known.
    pub(super) read_ns: u64,
    pub(super) known_ns: u64,
}

/// Where messages are stored, one after the other: known once their fate is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredAt {
    /// The partition.
    pub partition: Partition,
    /// From the first message to behind the last.
    pub offsets: Range<Offset>,
}

impl StoredAt {
    /// Both together, where the second begins at the end of the first.
    pub(super) fn join(first: Option<Self>, second: Option<Self>) -> Option<Self> {
        let (first, second) = (first?, second?);
        let joined = first.partition == second.partition && first.offsets.end == second.offsets.start;
        joined
            .then_some(Self { partition: first.partition, offsets: first.offsets.start..second.offsets.end })
    }
}

/// The store's answer for one batch.
#[derive(Debug)]
pub(super) struct Answered {
    /// Bytes that are no longer outstanding.
    pub(super) released: usize,
    /// Why the operation fails.
    pub(super) fault: Option<Fault>,
}

/// See the module's page.
#[derive(Debug, Default)]
pub(super) struct Fates {
    /// The oldest first; all before `first_sequence` are spoken for.
    pending: VecDeque<Pending>,
    first_sequence: Sequence,
    /// Batches of `pending` that the store has not answered for.
    batches: usize,
}

impl Fates {
    /// The sequence of the next batch.
    pub(super) fn next_sequence(&self) -> Sequence {
        self.first_sequence.plus(self.pending.len() as u64)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.pending.is_empty()
    }

    /// How much is outstanding: fates that are not said, or batches that the store has not answered for.
    #[inline]
    pub(super) fn outstanding(&self) -> usize {
        self.pending.len().max(self.batches)
    }

    /// Whether the store has not answered for every batch.
    pub(super) fn waits_for_store(&self) -> bool {
        self.batches > 0
    }

    /// Whether the oldest fate is known.
    pub(super) fn is_first_known(&self) -> bool {
        self.pending.front().is_some_and(|pending| pending.waiting == 0)
    }

    /// Bytes of the budget that are held for fates.
    #[inline]
    pub(super) fn held(&self) -> usize {
        self.pending.len() * FATE_BYTES
    }

    pub(super) fn push(&mut self, pending: Pending, budget: &mut Purse<'_>) {
        budget.hold(FATE_BYTES);
        self.batches += usize::from(pending.waiting);
        self.pending.push_back(pending);
    }

    /// The oldest, where its fate is known and `wanted`.
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

    /// The store's answer for one batch of `sequence`; `None` where nothing of that sequence is outstanding.
    pub(super) fn handle_appended(
        &mut self,
        sequence: Sequence,
        result: Result<Option<Range<Offset>>, StoreFault>,
        now_ns: u64,
    ) -> Option<Answered> {
        let index = usize::try_from(sequence.checked_since(self.first_sequence)?).ok()?;
        let pending = self.pending.get_mut(index)?;
        debug_assert!(pending.waiting > 0, "a batch is answered once");
        pending.waiting -= 1;
        self.batches -= 1;
        let mut released = 0;
        if pending.waiting == 0 {
            released = pending.reserved;
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
        Some(Answered { released, fault })
    }

    /// Drops all of them.
    pub(super) fn clear(&mut self, budget: &mut Purse<'_>) {
        budget.drop_held(self.held());
        self.pending.clear();
    }
}
