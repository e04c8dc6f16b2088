//! A whole ledger as one record. Its times are relative, because the monotonic clock begins anew with each start.

use std::collections::HashMap;
use std::ops::Range;

use super::{Lease, Ledger, Moving};
use crate::base::claim::LeaseId;
use crate::base::clock::Now;
use crate::base::millis::Millis;
use crate::base::units::Offset;
use crate::store::claims::pieces::{Phase, Piece};
use crate::store::claims::record::{Aim, Move, Snapshot, WrittenLease, WrittenPhase, WrittenPiece};

impl Ledger {
    /// Returns the whole ledger as a record.
    pub(in crate::store::claims) fn snapshot(&self, now: Now) -> Snapshot {
        let for_ms = |time: Millis| time.get() as i64 - now.mono.get() as i64;
        let pieces = self.pieces.all().map(|(offsets, piece)| WrittenPiece {
            offsets,
            count: piece.count,
            lease: piece.lease,
            phase: match piece.phase {
                Phase::Free => WrittenPhase::Free,
                Phase::Held(until) => WrittenPhase::HeldFor(for_ms(until)),
                Phase::Later(from) => WrittenPhase::FreeIn(for_ms(from)),
                Phase::Moving(number) => WrittenPhase::Moving(number),
            },
            lives_for: if piece.lives_until == Millis::ZERO { i64::MIN } else { for_ms(piece.lives_until) },
            expires: piece.expires,
            bytes: piece.bytes,
            is_released: piece.is_released,
        });
        let written = |(id, of): (&LeaseId, &Lease)| {
            let Lease { client, ttl_secs, grace_secs, .. } = *of;
            WrittenLease { lease: *id, client, ttl_secs, grace_secs }
        };
        let mut leases: Vec<_> = self.leases.iter().map(written).collect();
        leases.sort_unstable_by_key(|written| written.lease);
        let moves =
            self.moves.iter().map(|(number, Moving { of, aim, .. })| (*number, of.clone(), aim.clone()));
        let (at, next, sequence) = (now.unix, self.next, self.sequence);
        Snapshot { at, next, sequence, leases, pieces: pieces.collect(), moves: moves.collect() }
    }

    /// Returns the ledger of a snapshot.
    pub(super) fn restore(now: Now, snapshot: &Snapshot) -> Self {
        let Snapshot { at, next, sequence, leases, pieces, moves } = snapshot;
        let mut ledger = Self { next: *next, sequence: *sequence, ..Self::default() };
        let moving = |(number, of, aim): &(u64, Move, Option<Aim>)| {
            (*number, Moving { of: of.clone(), aim: aim.clone(), left: 0, first: Offset(u64::MAX) })
        };
        ledger.moves_made = moves.iter().map(|(number, ..)| *number).max().unwrap_or(0);
        ledger.moves = moves.iter().map(moving).collect();
        let passed = now.unix.since(*at).get() as i64;
        let time = |for_ms: i64| match for_ms {
            i64::MIN => Millis::ZERO,
            _ => Millis::new(
                (now.mono.get() as i64).saturating_add(for_ms.saturating_sub(passed)).max(0) as u64
            ),
        };
        let mut offsets: HashMap<LeaseId, Vec<Range<Offset>>> = HashMap::new();
        for written in pieces {
            let length = written.offsets.end.since(written.offsets.start);
            offsets.entry(written.lease).or_default().push(written.offsets.clone());
            let piece = Piece {
                length: u32::try_from(length).unwrap_or(u32::MAX),
                count: written.count,
                lease: written.lease,
                phase: match written.phase {
                    WrittenPhase::Free => Phase::Free,
                    WrittenPhase::HeldFor(for_ms) => Phase::Held(time(for_ms)),
                    WrittenPhase::FreeIn(for_ms) => Phase::Later(time(for_ms)),
                    WrittenPhase::Moving(number) => match ledger.moves.get_mut(&number) {
                        Some(moving) => {
                            moving.left += length;
                            moving.first = moving.first.min(written.offsets.start);
                            Phase::Moving(number)
                        }
                        // Only forged notes have none.
                        None => Phase::Free,
                    },
                },
                lives_until: time(written.lives_for),
                expires: written.expires,
                bytes: written.bytes,
                is_over: false,
                is_released: written.is_released,
            };
            ledger.pieces.insert(written.offsets.start, piece);
        }
        for WrittenLease { lease, client, ttl_secs, grace_secs } in leases.iter().copied() {
            let Some(offsets) = offsets.remove(&lease) else { continue };
            let unsettled = offsets.iter().map(|range| range.end.since(range.start)).sum();
            let (worker, offsets) = (None, offsets.into());
            ledger.leases.insert(lease, Lease { client, worker, ttl_secs, grace_secs, unsettled, offsets });
        }
        ledger.moves.retain(|_, moving| moving.left > 0);
        ledger
    }
}
