//! The records of a ledger: what changed, in the order of the changes. The ledger is the fold of its records.
//!
//! A note holds one or more records. Numbers are base-128 varints; offsets and times are relative, so that a
//! claim of 100 messages and its acknowledgement take some 50 bytes together.
//!
//! ```text
//! grant     1, lease, client (16 bytes), made (Unix ms), ttl (s), grace (s), next, pieces, then for each: gap, length, count
//! delay     2, next, first offset, length, visible (Unix ms), delay (s)
//! settle    3, lease, at (Unix ms), what, [seconds], ranges, then for each: gap, length
//! gone      4, ranges, then for each: gap, length
//! snapshot  5, at (Unix ms), next, sequence, leases, then for each: number, client (16 bytes), grace;
//!           pieces, then for each: gap, length, count, lease, phase, [time], lives until
//! grant     16, as 1, and for each piece also: expires, bytes
//! pass      17, at (Unix ms), next, pieces, then for each: gap, length, wait (ms), expires, bytes
//! delete    18, next, ranges, then for each: gap, length
//! purge     19, through
//! snapshot  20, as 5, and for each piece also: expires, bytes; where the phase has bit 7, lives until is left out
//! move      21, number, why, made (Unix ms), queue, ranges, then for each: gap, length
//! aim       22, number, incarnation, partition, from, queue
//! stay      23, ranges, then for each: gap, length
//! snapshot  24, as 20, then moves, then for each: number, why, made, queue, 0 or 1 and an aim
//! snapshot  25, as 24, and for each lease also: ttl (s), 0 if it is unknown; bit 6 of the phase: released
//! ```
//! A grant of a lease that was made before renews its messages with these terms. Snapshots are written as 25.
//!
//! Versions before 0.3 wrote 1, 2 and 5, which say neither when messages expire nor how large they are. `expires` is 0 if
//! that is unknown, or one more than the minute relative to that of the record's time, zigzag-coded.
//!
//! `next` is the offset up to which messages had been given out. A reader to which an earlier note is missing sees
//! that there were more of them, and gives these out again. A gap is counted from the end of the range before, the first one from 0. Times in a snapshot are relative to
//! `at`, zigzag-coded. `what`: 1 ack, 2 release, 3 release with a delay in seconds, 4 return, 5 reject, 6 renew for
//! that many seconds. Phases: 0 free, 1 held until, 2 free from, 3 and a number: moved by that move. A queue is its length
//! and its name; none is empty. `why`: 1 given out too often, 2 rejected, 3 redriven.

use std::ops::Range;

use prost::encoding::{decode_varint, encode_varint};

use crate::base::claim::{LeaseId, Settle};
use crate::base::millis::{Millis, UnixMillis};
use crate::base::names::{ClientId, QueueName};
use crate::base::units::{Offset, Partition};
use crate::store::stock::Minute;

/// The most messages of a piece. No batch has more.
const PIECE_MAX: u64 = u32::MAX as u64;

/// No record was made at this time or later, and no message is visible only then.
const TIME_MAX: UnixMillis = UnixMillis::new(1 << 61);

/// Nothing waits for longer.
const WAIT_MAX: Millis = Millis::new(1 << 61);

/// Marks the phase of a piece in a snapshot whose messages were never given out.
const NO_LIFE: u8 = 1 << 7;

/// Marks the phase of a piece in a snapshot whose messages were released.
const RELEASED: u8 = 1 << 6;

/// No messages of a piece are larger together.
const BYTES_MAX: u64 = 1 << 48;

/// What is known of messages of which neither the expiry nor the size was written.
const UNKNOWN: (Minute, u64) = (Minute::UNKNOWN, 0);

/// No message has this offset or a later one.
const OFFSETS_END: u64 = 1 << 63;

/// A change of a ledger.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Record {
    /// Messages are leased, or leased on by the same lease.
    Grant {
        lease: LeaseId,
        client: ClientId,
        made: UnixMillis,
        ttl_secs: u32,
        grace_secs: u32,
        /// The messages, ascending.
        pieces: Vec<Given>,
        /// Up to where messages had been given out before.
        next: Offset,
    },
    /// Messages that were passed over, because they can be given out only later, or because later ones were deleted.
    Pass {
        at: UnixMillis,
        /// Up to where messages had been given out before.
        next: Offset,
        /// The messages, ascending.
        pieces: Vec<Passed>,
    },
    /// Messages of a lease are settled.
    Settle { lease: LeaseId, at: UnixMillis, what: Settle, offsets: Vec<Range<Offset>> },
    /// Messages no longer exist.
    Gone { offsets: Vec<Range<Offset>> },
    /// Messages are deleted, whoever holds them.
    Delete {
        /// Up to where messages had been given out before.
        next: Offset,
        offsets: Vec<Range<Offset>>,
    },
    /// Everything below an offset is deleted.
    Purge { through: Offset },
    /// Messages are to go to another queue. They are no longer given out.
    Move { number: u64, of: Move, offsets: Vec<Range<Offset>> },
    /// Some messages of a move are being appended to this place. Until they are settled here, copies of them may lie there.
    Aim { number: u64, aim: Aim },
    /// Messages that were to be moved can be given out again.
    Stay { offsets: Vec<Range<Offset>> },
    /// Everything before this record, in one.
    Snapshot(Snapshot),
}

/// A move of messages to another queue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Move {
    /// Why they move.
    pub why: Why,
    /// The queue to which they go, of the same project; `None` if their headers name it.
    pub to: Option<QueueName>,
    /// When it was decided. With its number, this names the move.
    pub made: UnixMillis,
}

/// The reason of a move.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Why {
    /// The messages were given out as often as their queue allows.
    Worn,
    /// A worker has rejected them.
    Rejected,
    /// They go back from a dead-letter queue.
    Redriven,
}

/// A place to which messages are appended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Aim {
    pub queue: QueueName,
    /// The life of the queue.
    pub incarnation: u64,
    pub partition: Partition,
    /// None of the messages was stored before this offset.
    pub from: Offset,
}

/// Messages of a grant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Given {
    pub offsets: Range<Offset>,
    /// How often they were given out, this time included.
    pub count: u32,
    pub expires: Minute,
    pub bytes: u64,
}

/// Messages that were passed over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Passed {
    pub offsets: Range<Offset>,
    /// How long they cannot be given out yet.
    pub wait: Millis,
    pub expires: Minute,
    pub bytes: u64,
}

/// A whole ledger, with times of the wall clock.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Snapshot {
    pub at: UnixMillis,
    pub next: Offset,
    pub sequence: u64,
    pub leases: Vec<WrittenLease>,
    pub pieces: Vec<WrittenPiece>,
    /// The moves: number, what it is, and where it has begun.
    pub moves: Vec<(u64, Move, Option<Aim>)>,
}

/// A lease in a snapshot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct WrittenLease {
    pub lease: LeaseId,
    pub client: ClientId,
    /// 0 if it is unknown.
    pub ttl_secs: u32,
    pub grace_secs: u32,
}

/// A piece in a snapshot. Its times are relative to the snapshot's, in milliseconds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct WrittenPiece {
    pub offsets: Range<Offset>,
    pub count: u32,
    pub lease: LeaseId,
    pub phase: WrittenPhase,
    pub lives_for: i64,
    pub expires: Minute,
    pub bytes: u64,
    pub is_released: bool,
}

/// The phase of a piece in a snapshot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum WrittenPhase {
    Free,
    HeldFor(i64),
    FreeIn(i64),
    Moving(u64),
}

/// Reads the records of a note. Returns those before the first that cannot be read, and whether that is all of
/// them.
pub(super) fn read(mut note: &[u8]) -> (Vec<Record>, bool) {
    let mut records = Vec::new();
    while !note.is_empty() {
        match Record::decode(&mut note) {
            Some(record) => records.push(record),
            None => return (records, false),
        }
    }
    (records, true)
}

impl Record {
    /// Appends the record to a note.
    pub(super) fn encode(&self, note: &mut Vec<u8>) {
        match self {
            Self::Grant { lease, client, made, ttl_secs, grace_secs, pieces, next } => {
                note.push(16);
                encode_varint(lease.0, note);
                note.extend_from_slice(&client.as_u128().to_le_bytes());
                let (ttl, grace) = (u64::from(*ttl_secs), u64::from(*grace_secs));
                for field in [made.get(), ttl, grace, next.0, pieces.len() as u64] {
                    encode_varint(field, note);
                }
                let mut end = Offset::ZERO;
                for Given { offsets, count, expires, bytes } in pieces {
                    end = write_range(offsets, end, note);
                    encode_varint((*count).into(), note);
                    write_expires(*expires, *made, note);
                    encode_varint(*bytes, note);
                }
            }
            Self::Pass { at, next, pieces } => {
                note.push(17);
                for field in [at.get(), next.0, pieces.len() as u64] {
                    encode_varint(field, note);
                }
                let mut end = Offset::ZERO;
                for Passed { offsets, wait, expires, bytes } in pieces {
                    end = write_range(offsets, end, note);
                    encode_varint(wait.get(), note);
                    write_expires(*expires, *at, note);
                    encode_varint(*bytes, note);
                }
            }
            Self::Settle { lease, at, what, offsets } => {
                note.push(3);
                encode_varint(lease.0, note);
                encode_varint(at.get(), note);
                let (kind, seconds) = match what {
                    Settle::Ack => (1, None),
                    Settle::Release(None) => (2, None),
                    Settle::Release(Some(delay)) => (3, Some(*delay)),
                    Settle::Return => (4, None),
                    Settle::Reject => (5, None),
                    Settle::Renew(ttl) => (6, Some(*ttl)),
                };
                note.push(kind);
                if let Some(seconds) = seconds {
                    encode_varint(seconds.into(), note);
                }
                write_ranges(offsets, note);
            }
            Self::Gone { offsets } => {
                note.push(4);
                write_ranges(offsets, note);
            }
            Self::Delete { next, offsets } => {
                note.push(18);
                encode_varint(next.0, note);
                write_ranges(offsets, note);
            }
            Self::Purge { through } => {
                note.push(19);
                encode_varint(through.0, note);
            }
            Self::Move { number, of, offsets } => {
                note.push(21);
                encode_varint(*number, note);
                of.encode(note);
                write_ranges(offsets, note);
            }
            Self::Aim { number, aim } => {
                note.push(22);
                encode_varint(*number, note);
                aim.encode(note);
            }
            Self::Stay { offsets } => {
                note.push(23);
                write_ranges(offsets, note);
            }
            Self::Snapshot(snapshot) => {
                note.push(25);
                snapshot.encode(note);
                encode_varint(snapshot.moves.len() as u64, note);
                for (number, of, aim) in &snapshot.moves {
                    encode_varint(*number, note);
                    of.encode(note);
                    note.push(u8::from(aim.is_some()));
                    aim.iter().for_each(|aim| aim.encode(note));
                }
            }
        }
    }

    fn decode(note: &mut &[u8]) -> Option<Self> {
        Some(match byte(note)? {
            kind @ (1 | 16) => {
                let lease = lease(note)?;
                let client = client(note)?;
                let made = time(note)?;
                let (ttl_secs, grace_secs) = (small(note)?, small(note)?);
                let next = offset(note)?;
                let mut end = Offset::ZERO;
                let pieces = read_many(note, |note| {
                    let (offsets, count) = (read_range(note, &mut end)?, small(note)?);
                    let (expires, bytes) = if kind == 16 { size(note, made)? } else { UNKNOWN };
                    Some(Given { offsets, count, expires, bytes })
                })?;
                Self::Grant { lease, client, made, ttl_secs, grace_secs, pieces, next }
            }
            2 => {
                let (next, mut end) = (offset(note)?, Offset::ZERO);
                let offsets = read_range(note, &mut end)?;
                let (visible, wait) = (time(note)?, Millis::from_secs(small(note)?));
                let (expires, bytes) = UNKNOWN;
                let pieces = vec![Passed { offsets, wait, expires, bytes }];
                Self::Pass { at: visible.saturating_sub(wait), next, pieces }
            }
            3 => {
                let (lease, at) = (lease(note)?, time(note)?);
                let what = match byte(note)? {
                    1 => Settle::Ack,
                    2 => Settle::Release(None),
                    3 => Settle::Release(Some(small(note)?)),
                    4 => Settle::Return,
                    5 => Settle::Reject,
                    6 => Settle::Renew(small(note)?),
                    _ => return None,
                };
                Self::Settle { lease, at, what, offsets: read_ranges(note)? }
            }
            4 => Self::Gone { offsets: read_ranges(note)? },
            kind @ (5 | 20 | 24 | 25) => {
                let mut snapshot = Snapshot::decode(note, kind != 5, kind == 25)?;
                if kind >= 24 {
                    snapshot.moves = read_many(note, |note| {
                        let (number, of) = (varint(note)?, Move::decode(note)?);
                        let aim = if byte(note)? == 1 { Some(Aim::decode(note)?) } else { None };
                        Some((number, of, aim))
                    })?;
                }
                Self::Snapshot(snapshot)
            }
            21 => {
                let (number, of) = (varint(note)?, Move::decode(note)?);
                Self::Move { number, of, offsets: read_ranges(note)? }
            }
            22 => Self::Aim { number: varint(note)?, aim: Aim::decode(note)? },
            23 => Self::Stay { offsets: read_ranges(note)? },
            17 => {
                let (at, next, mut end) = (time(note)?, offset(note)?, Offset::ZERO);
                let pieces = read_many(note, |note| {
                    let (offsets, wait) = (read_range(note, &mut end)?, Millis::new(varint(note)?));
                    let (expires, bytes) = size(note, at)?;
                    (wait <= WAIT_MAX).then_some(Passed { offsets, wait, expires, bytes })
                })?;
                Self::Pass { at, next, pieces }
            }
            18 => Self::Delete { next: offset(note)?, offsets: read_ranges(note)? },
            19 => Self::Purge { through: offset(note)? },
            _ => return None,
        })
    }
}

impl Move {
    fn encode(&self, note: &mut Vec<u8>) {
        note.push(match self.why {
            Why::Worn => 1,
            Why::Rejected => 2,
            Why::Redriven => 3,
        });
        encode_varint(self.made.get(), note);
        write_name(self.to.as_ref(), note);
    }

    fn decode(note: &mut &[u8]) -> Option<Self> {
        let why = match byte(note)? {
            1 => Why::Worn,
            2 => Why::Rejected,
            3 => Why::Redriven,
            _ => return None,
        };
        Some(Self { why, made: time(note)?, to: read_name(note)? })
    }
}

impl Aim {
    fn encode(&self, note: &mut Vec<u8>) {
        for field in [self.incarnation, self.partition.0.into(), self.from.0] {
            encode_varint(field, note);
        }
        write_name(Some(&self.queue), note);
    }

    fn decode(note: &mut &[u8]) -> Option<Self> {
        let (incarnation, partition) = (varint(note)?, Partition(u16::try_from(varint(note)?).ok()?));
        Some(Self { incarnation, partition, from: offset(note)?, queue: read_name(note)?? })
    }
}

impl Snapshot {
    fn encode(&self, note: &mut Vec<u8>) {
        for field in [self.at.get(), self.next.0, self.sequence, self.leases.len() as u64] {
            encode_varint(field, note);
        }
        for WrittenLease { lease, client, ttl_secs, grace_secs } in &self.leases {
            encode_varint(lease.0, note);
            note.extend_from_slice(&client.as_u128().to_le_bytes());
            encode_varint((*grace_secs).into(), note);
            encode_varint((*ttl_secs).into(), note);
        }
        encode_varint(self.pieces.len() as u64, note);
        let mut end = Offset::ZERO;
        for piece in &self.pieces {
            end = write_range(&piece.offsets, end, note);
            encode_varint(piece.count.into(), note);
            encode_varint(piece.lease.0, note);
            let (phase, time) = match piece.phase {
                WrittenPhase::Free => (0, None),
                WrittenPhase::HeldFor(time) => (1, Some(time)),
                WrittenPhase::FreeIn(time) => (2, Some(time)),
                WrittenPhase::Moving(_) => (3, None),
            };
            let has_life = piece.lives_for != i64::MIN;
            let released = if piece.is_released { RELEASED } else { 0 };
            note.push(phase | released | if has_life { 0 } else { NO_LIFE });
            if let WrittenPhase::Moving(number) = piece.phase {
                encode_varint(number, note);
            }
            if let Some(time) = time {
                write_signed(time, note);
            }
            if has_life {
                write_signed(piece.lives_for, note);
            }
            write_expires(piece.expires, self.at, note);
            encode_varint(piece.bytes, note);
        }
    }

    fn decode(note: &mut &[u8], has_sizes: bool, has_ttls: bool) -> Option<Self> {
        let at = time(note)?;
        let (next, sequence) = (offset(note)?, varint(note)?);
        let leases = read_many(note, |note| {
            let (lease, client, grace_secs) = (lease(note)?, client(note)?, small(note)?);
            let ttl_secs = if has_ttls { small(note)? } else { 0 };
            Some(WrittenLease { lease, client, ttl_secs, grace_secs })
        })?;
        let mut end = Offset::ZERO;
        let pieces = read_many(note, |note| {
            let offsets = read_range(note, &mut end)?;
            let (count, lease) = (small(note)?, LeaseId(varint(note)?));
            let written = byte(note)?;
            let is_released = has_ttls && written & RELEASED != 0;
            let flags = if has_ttls { NO_LIFE | RELEASED } else { NO_LIFE };
            let phase = match written & !flags {
                0 => WrittenPhase::Free,
                1 => WrittenPhase::HeldFor(signed(note)?),
                2 => WrittenPhase::FreeIn(signed(note)?),
                3 => WrittenPhase::Moving(varint(note)?),
                _ => return None,
            };
            let lives_for = if written & NO_LIFE == 0 { signed(note)? } else { i64::MIN };
            let (expires, bytes) = if has_sizes { size(note, at)? } else { UNKNOWN };
            Some(WrittenPiece { offsets, count, lease, phase, lives_for, expires, bytes, is_released })
        })?;
        (end <= next).then_some(Self { at, next, sequence, leases, pieces, moves: Vec::new() })
    }
}

/// Writes a name, or nothing as an empty one.
fn write_name(name: Option<&QueueName>, note: &mut Vec<u8>) {
    let text = name.map_or("", QueueName::as_str);
    encode_varint(text.len() as u64, note);
    note.extend_from_slice(text.as_bytes());
}

fn read_name(note: &mut &[u8]) -> Option<Option<QueueName>> {
    let length = usize::try_from(varint(note)?).ok()?;
    let (text, rest) = note.split_at_checked(length)?;
    *note = rest;
    if text.is_empty() {
        return Some(None);
    }
    QueueName::parse(std::str::from_utf8(text).ok()?).ok().map(Some)
}

fn byte(note: &mut &[u8]) -> Option<u8> {
    note.split_off_first().copied()
}

fn varint(note: &mut &[u8]) -> Option<u64> {
    decode_varint(note).ok()
}

fn small(note: &mut &[u8]) -> Option<u32> {
    u32::try_from(varint(note)?).ok()
}

/// Reads the number of a lease. None has the number 0.
fn lease(note: &mut &[u8]) -> Option<LeaseId> {
    varint(note).filter(|number| *number > 0).map(LeaseId)
}

/// Reads an offset, or the end of a range.
fn offset(note: &mut &[u8]) -> Option<Offset> {
    varint(note).filter(|offset| *offset <= OFFSETS_END).map(Offset)
}

fn time(note: &mut &[u8]) -> Option<UnixMillis> {
    varint(note).map(UnixMillis::new).filter(|time| *time <= TIME_MAX)
}

fn client(note: &mut &[u8]) -> Option<ClientId> {
    let (bytes, rest) = note.split_first_chunk()?;
    *note = rest;
    Some(ClientId::from(u128::from_le_bytes(*bytes)))
}

/// Writes the minute in which messages expire, relative to that of a time.
fn write_expires(expires: Minute, at: UnixMillis, note: &mut Vec<u8>) {
    if expires == Minute::UNKNOWN {
        return note.push(0);
    }
    let after = i64::from(expires.0) - i64::from(Minute::from(at).0);
    encode_varint(1 + (after << 1 ^ after >> 63) as u64, note);
}

/// Reads the minute in which messages expire, and their size.
fn size(note: &mut &[u8], at: UnixMillis) -> Option<(Minute, u64)> {
    let expires = match varint(note)?.checked_sub(1) {
        None => Minute::UNKNOWN,
        Some(after) => {
            let minute = i64::from(Minute::from(at).0).checked_add(unzigzag(after))?;
            Minute(u32::try_from(minute).ok().filter(|minute| *minute > 0)?)
        }
    };
    let bytes = varint(note).filter(|bytes| *bytes <= BYTES_MAX)?;
    Some((expires, bytes))
}

/// Writes a time difference so that small ones of either sign take few bytes.
fn write_signed(value: i64, note: &mut Vec<u8>) {
    encode_varint((value << 1 ^ value >> 63) as u64, note);
}

fn signed(note: &mut &[u8]) -> Option<i64> {
    varint(note).map(unzigzag)
}

fn unzigzag(value: u64) -> i64 {
    (value >> 1) as i64 ^ -((value & 1) as i64)
}

/// Writes a range that begins at `end` or later. Returns its end.
fn write_range(range: &Range<Offset>, end: Offset, note: &mut Vec<u8>) -> Offset {
    debug_assert!(range.end.since(range.start) <= PIECE_MAX, "{range:?} cannot be read");
    encode_varint(range.start.since(end), note);
    encode_varint(range.end.since(range.start), note);
    range.end
}

/// Reads a range that begins at `end` or later, and moves `end` to its end.
fn read_range(note: &mut &[u8], end: &mut Offset) -> Option<Range<Offset>> {
    let start = end.0.checked_add(varint(note)?)?;
    let length = varint(note)?;
    if !(1..=PIECE_MAX).contains(&length) {
        return None;
    }
    let range = Offset(start)..Offset(start.checked_add(length)?);
    *end = range.end;
    (range.end.0 <= OFFSETS_END).then_some(range)
}

fn write_ranges(ranges: &[Range<Offset>], note: &mut Vec<u8>) {
    encode_varint(ranges.len() as u64, note);
    ranges.iter().fold(Offset::ZERO, |end, range| write_range(range, end, note));
}

fn read_ranges(note: &mut &[u8]) -> Option<Vec<Range<Offset>>> {
    let mut end = Offset::ZERO;
    read_many(note, |note| read_range(note, &mut end))
}

/// Reads a number and that many items. The memory follows what is read, not the number.
fn read_many<I>(note: &mut &[u8], mut item: impl FnMut(&mut &[u8]) -> Option<I>) -> Option<Vec<I>> {
    let count = varint(note)?;
    let mut items = Vec::new();
    for _ in 0..count {
        items.push(item(note)?);
    }
    Some(items)
}
