//! Reads a segment without its index: finds its whole batches, its end, and what is damaged.
//!
//! A round is written only when the round before it is as durable as the store promises. So an incomplete
//! round after the last whole one is the torn end of a write that was never acknowledged, and is cut off.
//! Bytes before a whole round that are not what was written were damaged later: they are reported, and what
//! precedes and follows them is served.

use super::format::{ALIGN, BatchHeader, ROUND_HEADER, ROUNDS_AT, may_be_batch, may_be_round, round_at};
use super::header::SegmentHeader;
use super::index::{Spans, add_to};

/// A damaged range: bytes of a file that are not what was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Damage {
    /// The position in the file, in bytes.
    pub at: u64,
    /// The number of damaged bytes.
    pub bytes: u64,
}

/// The result of a scan.
#[derive(Clone, Debug, Default)]
pub struct Scan {
    /// Whole batches, each with its position.
    pub batches: Vec<(u64, BatchHeader)>,
    /// Where the last whole round ends, or the last whole batch of a torn round.
    pub end: u64,
    /// Bytes of an incomplete round after `end`.
    pub torn: u64,
    /// The damaged ranges before `end`.
    pub damage: Vec<Damage>,
}

impl Scan {
    /// Returns what was found of each partition.
    pub fn spans(&self) -> Spans {
        let mut spans = Spans::new();
        self.batches.iter().for_each(|(at, header)| add_to(&mut spans, header, *at));
        spans
    }
}

/// Scans a segment. `file` is its whole content, or that up to its known end.
pub fn scan(header: &SegmentHeader, file: &[u8]) -> Scan {
    let mut found = Scan { end: ROUNDS_AT, ..Scan::default() };
    let mut at = ROUNDS_AT as usize;
    while let Some(rest) = file.get(at..) {
        let body = round_at(rest, header.stamp, at as u64);
        let ends = body.map(|body| at.saturating_add(ROUND_HEADER + body));
        let (batches, damage) = match ends {
            Some(ends) => batches(header.stamp, &rest[..rest.len().min(ends - at)], at as u64),
            None => (Vec::new(), Vec::new()),
        };
        if let (Some(ends), true) = (ends.filter(|ends| *ends <= file.len()), damage.is_empty()) {
            found.batches.extend(batches);
            at = ends;
            found.end = at as u64;
            continue;
        }
        // The round is not whole. What follows it tells whether it is torn or was damaged later.
        let Some(next) = next_round(header, file, ends.unwrap_or(at + ALIGN)) else {
            // Without damage, `file` ends where an earlier scan has cut the round off.
            let torn = damage.first().map_or(file.len() as u64, |damage| damage.at);
            found.batches.extend(batches.into_iter().take_while(|(at, _)| *at < torn));
            if ends.is_some() {
                found.end = torn;
            }
            let begun = last_trace(header, file, at).max(ends.unwrap_or(at) as u64);
            found.torn = begun.min(file.len() as u64).saturating_sub(found.end);
            break;
        };
        let (batches, damage) = self::batches(header.stamp, &file[at..next], at as u64);
        found.batches.extend(batches);
        found.damage.extend(damage);
        at = next;
        found.end = at as u64;
    }
    found
}

/// Returns what is damaged in a segment whose rounds are known to end at `end`.
pub fn scan_sealed(header: &SegmentHeader, file: &[u8], end: u64) -> Vec<Damage> {
    let sealed = file.get(..usize::try_from(end).unwrap_or(usize::MAX)).unwrap_or(file);
    let found = scan(header, sealed);
    let mut damage = found.damage;
    if found.end < end {
        damage.push(Damage { at: found.end, bytes: end - found.end });
    }
    damage
}

/// Returns where the last batch that begins at `from` or later ends, according to its header.
fn last_trace(header: &SegmentHeader, file: &[u8], from: usize) -> u64 {
    let ends = |at: usize| Some((at + BatchHeader::parse(header.stamp, &file[at..])?.bytes()) as u64);
    aligned(file, from, may_be_batch).filter_map(ends).fold(from as u64, |_, end| end)
}

/// Returns the whole batches of a stretch of rounds, and what is damaged.
fn batches(stamp: u64, bytes: &[u8], position: u64) -> (Vec<(u64, BatchHeader)>, Vec<Damage>) {
    let mut whole = Vec::new();
    let damage = walk(stamp, position, bytes, |_| true, |at, header, _| whole.push((at, header.clone())));
    (whole, damage)
}

/// Returns the position of the segment's next round at `from` or later.
fn next_round(header: &SegmentHeader, file: &[u8], from: usize) -> Option<usize> {
    aligned(file, from, may_be_round).find(|at| round_at(&file[*at..], header.stamp, *at as u64).is_some())
}

/// Returns the aligned positions at `from` or later at which something may begin.
fn aligned(file: &[u8], from: usize, may_begin: fn(&[u8]) -> bool) -> impl Iterator<Item = usize> {
    let from = from.next_multiple_of(ALIGN).min(file.len());
    let words = file[from..].chunks_exact(ALIGN).enumerate();
    words.filter(move |(_, word)| may_begin(word)).map(move |(index, _)| from + index * ALIGN)
}

/// Reads batches that follow one another, with round headers between them. Calls `take` for each whole batch
/// that is wanted, with its position in the segment, its header and its records. Returns what is damaged. The
/// records of other batches are not checked.
pub fn walk(
    stamp: u64,
    position: u64,
    bytes: &[u8],
    is_wanted: impl Fn(&BatchHeader) -> bool,
    mut take: impl FnMut(u64, &BatchHeader, &[u8]),
) -> Vec<Damage> {
    let (mut at, mut damage) = (0, Vec::new());
    while let Some(rest) = bytes.get(at..).filter(|rest| !rest.is_empty()) {
        // The header's checksum covers the length, but the batch may still reach beyond `bytes`.
        let header = BatchHeader::parse(stamp, rest).filter(|header| header.bytes() <= rest.len());
        if let Some(header) = header {
            match is_wanted(&header).then(|| header.records(rest)) {
                None => {}
                Some(Some(records)) => take(position + at as u64, &header, records),
                Some(None) => {
                    damage.push(Damage { at: position + at as u64, bytes: header.bytes() as u64 });
                }
            }
            at += header.bytes();
        } else if round_at(rest, stamp, position + at as u64).is_some() {
            at += ROUND_HEADER;
        } else {
            let begins = |next: &usize| {
                let rest = &bytes[*next..];
                round_at(rest, stamp, position + *next as u64).is_some()
                    || BatchHeader::parse(stamp, rest).is_some()
            };
            let next = (at + ALIGN..bytes.len()).step_by(ALIGN).find(begins).unwrap_or(bytes.len());
            damage.push(Damage { at: position + at as u64, bytes: (next - at) as u64 });
            at = next;
        }
    }
    damage
}
