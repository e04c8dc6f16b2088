//! The tokens of the requests to the store below the ledgers.

use std::convert::Infallible;
use std::fmt::Debug;
use std::marker::PhantomData;

use crate::base::claim::View;
use crate::base::queue::PartitionKey;
use crate::base::units::Offset;
use crate::store::Asker;

/// The clients of the store below: those of the ledgers, and the ledgers themselves.
#[derive(Debug)]
pub struct Inner<T>(PhantomData<T>);

/// A ledger. A partition gets another one, with another number, when it must be recalled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LedgerId {
    /// The partition.
    pub(super) partition: PartitionKey,
    /// The number of the ledger, unique in the shard.
    pub(super) number: u64,
}

/// The token of an append.
#[derive(Clone, Copy, Debug)]
pub enum AppendBy<A> {
    /// A client appends messages.
    Client(A),
    /// A client appends messages to this partition of a queue with limits.
    Limited(A, PartitionKey),
    /// A ledger appends the note with this number.
    Note(LedgerId, u64),
}

/// The token of a fetch.
#[derive(Clone, Copy, Debug)]
pub enum FetchBy<F> {
    /// A client reads messages of this partition.
    Client(F, PartitionKey, View),
    /// A ledger reads for itself.
    Ledger(LedgerId, Purpose),
}

/// What a ledger reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// Its notes.
    Recall,
    /// Messages that were never given out.
    Ahead,
    /// Messages that were given out before.
    Again,
    /// The oldest unsettled message.
    Oldest,
    /// Messages that are to be moved.
    Move,
    /// The time at which this message was stored.
    At(Offset),
    /// Messages that the request with this number wants.
    Find(u64),
}

impl<F: PartialEq> PartialEq for FetchBy<F> {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            // A waiting fetch is cancelled by the client's token alone.
            (Self::Client(one, ..), Self::Client(other, ..)) => one == other,
            (Self::Ledger(one, of), Self::Ledger(other, as_other)) => one == other && of == as_other,
            _ => false,
        }
    }
}

impl<F: Eq> Eq for FetchBy<F> {}

impl<T: Asker> Asker for Inner<T> {
    type Open = T::Open;
    type Append = AppendBy<T::Append>;
    type Fetch = FetchBy<T::Fetch>;
    type Resolve = T::Resolve;
    type Change = T::Change;
    type Claim = Infallible;
    type Settle = Infallible;
    type Manage = Infallible;
}

/// Returns the hidden partition that holds a partition's notes.
pub(super) fn state_of(of: PartitionKey) -> PartitionKey {
    PartitionKey { partition: of.partition.state(), ..of }
}
