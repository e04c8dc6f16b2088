//! Requests for messages by their offsets.

use std::collections::VecDeque;

use super::out::Out;
use crate::base::batch::StoredBatch;
use crate::base::claim::LeaseId;
use crate::base::error::StoreFault;
use crate::base::names::ClientId;
use crate::base::units::Offset;
use crate::store::{Asker, Completion};

/// What is looked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Look {
    /// Messages.
    Messages,
    /// The messages of this lease.
    Claim(ClientId, LeaseId),
}

/// A request for messages.
#[derive(Debug)]
pub(super) struct Find<T: Asker> {
    pub number: u64,
    pub token: T::Manage,
    pub what: Look,
    /// What is still looked for, ascending.
    pub wanted: VecDeque<Offset>,
    pub found: Vec<(StoredBatch, Offset)>,
}

/// The requests for messages of a partition.
#[derive(Debug)]
pub(super) struct Finds<T: Asker> {
    open: Vec<Find<T>>,
    numbers: u64,
}

impl<T: Asker> Default for Finds<T> {
    fn default() -> Self {
        Self { open: Vec::new(), numbers: 0 }
    }
}

impl<T: Asker> Finds<T> {
    pub(super) fn is_empty(&self) -> bool {
        self.open.is_empty()
    }

    /// Makes a request, which is not open yet.
    pub(super) fn make(&mut self, token: T::Manage, what: Look, offsets: Vec<Offset>) -> Find<T> {
        self.numbers += 1;
        Find { number: self.numbers, token, what, wanted: offsets.into(), found: Vec::new() }
    }

    /// Opens a request until its messages are read.
    pub(super) fn open(&mut self, find: Find<T>) {
        self.open.push(find);
    }

    /// Takes the open request with this number.
    pub(super) fn take(&mut self, number: u64) -> Option<Find<T>> {
        let index = self.open.iter().position(|find| find.number == number)?;
        Some(self.open.swap_remove(index))
    }

    /// Fails all requests.
    pub(super) fn fail(&mut self, fault: &StoreFault, out: &mut Out<T>) {
        for Find { token, .. } in self.open.drain(..) {
            out.completions.push_back(Completion::Managed { token, result: Err(fault.clone()) });
        }
    }
}
