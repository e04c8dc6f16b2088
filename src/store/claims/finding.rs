//! Looks for messages by their offsets.

use super::finds::{Find, Look};
use super::inner::Purpose;
use super::keeper::{Keeper, fetch};
use super::out::Out;
use crate::base::batch::{Fetched, StoredBatch};
use crate::base::clock::Now;
use crate::base::error::StoreFault;
use crate::base::manage::{Found, Managed};
use crate::base::units::Offset;
use crate::store::{Asker, Completion};

/// The size of a read if the next message that is wanted may be near, in bytes.
const NEAR_BYTES: usize = 64 << 10;

/// The next message may be near if it is at most this many offsets later.
const NEAR: u64 = 1_000;

impl<T: Asker> Keeper<T> {
    /// Begins to look for messages.
    pub(super) fn find(&mut self, now: Now, token: T::Manage, offsets: Vec<Offset>, out: &mut Out<T>) {
        let find = self.finds.make(token, Look::Messages, offsets);
        self.go_on(now, find, out);
    }

    /// Handles messages that were read for a request.
    pub(super) fn handle_found(
        &mut self,
        now: Now,
        number: u64,
        result: Result<Fetched, StoreFault>,
        out: &mut Out<T>,
    ) {
        let Some(mut find) = self.finds.take(number) else { return };
        let fetched = match result {
            Ok(fetched) => fetched,
            Err(fault) => {
                let (token, result) = (find.token, Err(fault));
                return out.completions.push_back(Completion::Managed { token, result });
            }
        };
        let before = find.wanted.len();
        while let Some(offset) = find.wanted.pop_front_if(|offset| *offset < fetched.next) {
            let index = fetched.batches.partition_point(|stored| stored.end_offset() <= offset);
            if let Some(stored) = fetched.batches.get(index).filter(|stored| stored.base_offset <= offset) {
                find.found.push((stored.clone(), offset));
            }
        }
        if fetched.at_end || fetched.is_rewound || find.wanted.len() == before {
            // Nothing else is stored.
            find.wanted.clear();
        }
        self.go_on(now, find, out);
    }

    /// Reads the next messages, or answers.
    pub(super) fn go_on(&mut self, now: Now, mut find: Find<T>, out: &mut Out<T>) {
        while find.wanted.pop_front_if(|offset| self.is_deleted(*offset)).is_some() {}
        let Some(from) = find.wanted.front().copied() else {
            if let Look::Claim(client, lease) = find.what {
                return self.tell_claim(now, find.token, (client, lease), find.found, out);
            }
            let found = find.found.into_iter().filter_map(|(stored, offset)| self.found(now, stored, offset));
            let result = Ok(Managed::Found(found.collect()));
            return out.completions.push_back(Completion::Managed { token: find.token, result });
        };
        let is_near = find.wanted.get(1).is_some_and(|next| next.since(from) <= NEAR);
        let bytes_max = if is_near { NEAR_BYTES } else { 1 };
        let purpose = Purpose::Find(find.number);
        out.requests.push_back(fetch(self.id, purpose, self.id.partition, from, false, bytes_max));
        self.finds.open(find);
    }

    /// Returns whether a message was deleted, or never existed below the offset from which nothing was given out.
    fn is_deleted(&self, offset: Offset) -> bool {
        self.ledger.jump(offset) != offset
    }

    /// Returns a message as it is now, unless it was deleted or has expired.
    fn found(&self, now: Now, stored: StoredBatch, offset: Offset) -> Option<Found> {
        if self.is_deleted(offset) {
            return None;
        }
        let of = self.ledger.pieces().overlapping(offset..offset + 1).next();
        let lives = of.as_ref().is_some_and(|(_, piece)| piece.lives_until > now.mono);
        if stored.is_expired(now.unix) && !lives {
            return None;
        }
        let claim = of.as_ref().and_then(|(offsets, piece)| self.ledger.claim_of(offsets.clone(), piece));
        let claim = claim.filter(|claim| claim.ends > now.mono);
        let record = stored.batch.position_of(offset.since(stored.base_offset) as u32);
        let (count, expires) = match of {
            Some((_, piece)) => (piece.count, piece.prolonged(now, &stored)),
            None => (0, None),
        };
        Some(Found { stored, offset, record, count, claim, expires })
    }
}
