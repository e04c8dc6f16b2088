//! Finds what the segments hold: from their indexes, or by scanning them and writing an index.

use std::collections::HashSet;
use std::io;
use std::sync::Arc;

use super::facts::{Facts, read_index};
use super::report::{Damaged, OpenError, Report};
use crate::store::log::disk::{
    Directory, FileName, Step, is_unreadable, is_zero, read, run_all, salvage_all, save_index, wipe_segment,
};
use crate::store::log::features::Features;
use crate::store::log::format::{BLOCK, PartitionId, ROUNDS_AT, Unreadable};
use crate::store::log::grouped::Grouped;
use crate::store::log::header::SegmentHeader;
use crate::store::log::history::Sealed;
use crate::store::log::index::{INDEX_HEADER, Index, STOCKS_HEADER, Span};
use crate::store::log::journal::new_stamp;
use crate::store::log::scan::{Damage, scan, scan_sealed};
use crate::store::log::segment::{Runs, SealedSpan, Segment};

/// What one segment holds.
#[derive(Debug)]
pub(super) struct FoundSegment {
    pub segment: Arc<Segment>,
    pub spans: Vec<(PartitionId, SealedSpan)>,
    pub is_damaged: bool,
}

/// Reads all segments. The flag says whether a segment is lost with everything that it held.
pub(super) fn open_segments(
    directory: &dyn Directory,
    files: &[(FileName, u64)],
    facts: &Facts<'_>,
    replaced: &HashSet<u64>,
    report: &mut Report,
) -> Result<(Vec<FoundSegment>, bool), OpenError> {
    let indexed: HashSet<u32> = files
        .iter()
        .filter_map(|(file, _)| if let FileName::Index(place) = file { Some(*place) } else { None })
        .collect();
    let (mut all, mut is_one_lost) = (Vec::new(), false);
    let (mut replacing, mut unwiped) = (Vec::new(), HashSet::new());
    for (file, length) in files {
        let FileName::Segment(place) = *file else { continue };
        let blocks = match salvage_all(directory, *file, ROUNDS_AT) {
            Ok(salvaged) => salvaged.bytes,
            // The disk fails intermittently: another start may be able to read it.
            Err(error) if error.kind() == io::ErrorKind::Interrupted => return Err(error.into()),
            Err(error) => {
                tracing::error!(%file, %error, "segment read failed");
                lose(*file, *length, report, &mut is_one_lost);
                continue;
            }
        };
        let parsed =
            SegmentHeader::parse(&blocks).and_then(|header| Ok((header, Grouped::parse(&header, &blocks)?)));
        let (header, grouped) = match parsed {
            Ok(found) => found,
            Err(Unreadable::Damaged) => {
                // If the server ended while it made the file, it holds only zeros.
                let is_known = indexed.contains(&place) || facts.names(place);
                if !is_known && is_zero(directory, *file, *length).is_ok_and(|is_zero| is_zero) {
                    directory.run(&Step::Remove(*file))?;
                } else {
                    lose(*file, *length, report, &mut is_one_lost);
                }
                continue;
            }
            Err(why) => return Err(OpenError::Version(*file, why)),
        };
        if replaced.contains(&header.stamp) {
            if !wipe(directory, place, &header) {
                unwiped.insert(header.stamp);
            }
            all.push(FoundSegment::empty(place, &header));
            continue;
        }
        let order = grouped.as_ref().map_or(header.number, |grouped| grouped.order);
        let replaces = grouped.as_ref().map(|grouped| grouped.replaced.clone()).unwrap_or_default();
        let index =
            if indexed.contains(&place) { open_index(directory, place, header.stamp, report)? } else { None };
        // A file has its full length before it has its header.
        if *length < header.bytes {
            let damage = Damage { at: *length, bytes: header.bytes - length };
            let means = "the file was cut short; the messages in the missing part are lost";
            report.damaged.push(Damaged { file: *file, damage, means });
        }
        let is_short = *length < header.bytes;
        let header = SegmentHeader { bytes: *length, ..header };
        let found = match index {
            Some(index) => {
                if facts.end(place, header.stamp).is_some() {
                    check_stopped(directory, *file, &header, index.end, report)?;
                }
                let heads = index.spans.iter().map(|(_, head, _)| head);
                let segment = Arc::new(Segment::new(place, &header, index.end, heads).in_order(order));
                let spans = index.spans.into_iter().zip(index.stocks).map(|((id, head, at), stock)| {
                    (id, SealedSpan::new(segment.clone(), head, Runs::Index(at), stock))
                });
                FoundSegment { spans: spans.collect(), segment, is_damaged: false }
            }
            None => match scan_segment(directory, place, &header, grouped, is_short, facts, report) {
                Ok(found) => found,
                Err(error) => {
                    tracing::error!(%file, %error, "segment read failed");
                    lose(*file, *length, report, &mut is_one_lost);
                    continue;
                }
            },
        };
        report.segments += usize::from(!found.spans.is_empty());
        replacing.push((found.segment.clone(), replaces));
        all.push(found);
    }
    for (segment, replaced) in replacing {
        if replaced.iter().any(|stamp| unwiped.contains(stamp)) {
            segment.fix();
        }
    }
    let is_there = |place: u32| files.iter().any(|(file, _)| *file == FileName::Segment(place));
    for place in indexed.iter().copied().filter(|place| !is_there(*place)) {
        is_one_lost |= is_missed(directory, place, facts, report)?;
    }
    for Sealed { place, .. } in facts.stopped.iter().filter(|sealed| !is_there(sealed.place)) {
        if !indexed.contains(place) {
            is_one_lost = true;
            report.damaged.push(missing(*place));
        }
    }
    Ok((all, is_one_lost))
}

impl FoundSegment {
    /// Returns what is found of a segment that another one replaces.
    fn empty(place: u32, header: &SegmentHeader) -> Self {
        let segment = Arc::new(Segment::new(place, header, ROUNDS_AT, std::iter::empty()));
        Self { segment, spans: Vec::new(), is_damaged: false }
    }
}

/// Empties the file of a segment that a grouped segment replaces, so that it stays empty when the grouped
/// segment is gone. Returns whether that succeeded.
fn wipe(directory: &dyn Directory, place: u32, header: &SegmentHeader) -> bool {
    let header = SegmentHeader { stamp: new_stamp(), features: Features::NONE, ..*header };
    let wiped = run_all(directory, &wipe_segment(place, header.encode()));
    if let Err(error) = &wiped {
        let file = FileName::Segment(place);
        tracing::warn!(%file, %error, "a replaced segment could not be emptied");
    }
    wiped.is_ok()
}

/// Returns the report of a missing segment.
fn missing(place: u32) -> Damaged {
    let means = "the file is missing; its messages are lost unless it is put back while no server runs";
    Damaged { file: FileName::Segment(place), damage: Damage { at: 0, bytes: 0 }, means }
}

/// Handles an index without its segment. Returns whether messages are lost.
fn is_missed(
    directory: &dyn Directory,
    place: u32,
    facts: &Facts<'_>,
    report: &mut Report,
) -> Result<bool, OpenError> {
    let is_lost = facts.has_live(directory, place);
    if is_lost {
        report.damaged.push(missing(place));
    } else {
        directory.run(&Step::Remove(FileName::Index(place)))?;
    }
    Ok(is_lost)
}

/// Checks a segment that a clean stop sealed. It was whole up to `end`, so nothing of it can be torn. Reports
/// what is damaged.
fn check_stopped(
    directory: &dyn Directory,
    file: FileName,
    header: &SegmentHeader,
    end: u64,
    report: &mut Report,
) -> Result<(), OpenError> {
    let bytes = salvage_all(directory, file, end)?.bytes;
    for damage in scan_sealed(header, &bytes, end) {
        report.damaged.push(Damaged { file, damage, means: "the messages in this range are lost" });
    }
    Ok(())
}

/// Reports a segment that cannot be read. The file stays as it is.
fn lose(file: FileName, bytes: u64, report: &mut Report, is_one_lost: &mut bool) {
    let means = "its messages are not served; the file is left unchanged";
    report.damaged.push(Damaged { file, damage: Damage { at: 0, bytes }, means });
    *is_one_lost = true;
}

/// Reads the index of a segment. Returns `None` if it is damaged or of another segment.
fn open_index(
    directory: &dyn Directory,
    place: u32,
    stamp: u64,
    report: &mut Report,
) -> Result<Option<Index>, OpenError> {
    let file = FileName::Index(place);
    let bytes = match read_index(directory, place) {
        Ok(bytes) => bytes,
        Err(error) if is_unreadable(&error) => Vec::new(),
        Err(error) => return Err(error.into()),
    };
    match Index::parse(stamp, &bytes) {
        Ok(mut index) => {
            read_stocks(directory, file, stamp, &mut index);
            Ok(Some(index))
        }
        // An index from an earlier use of the file does not count.
        Err(Unreadable::Damaged) if Index::stamp(&bytes).is_ok_and(|of| of != stamp) => Ok(None),
        Err(Unreadable::Damaged) => {
            let damage = Damage { at: 0, bytes: INDEX_HEADER as u64 };
            report.damaged.push(Damaged { file, damage, means: "its segment is scanned instead" });
            Ok(None)
        }
        Err(why) => Err(OpenError::Version(file, why)),
    }
}

/// Reads what the spans of an index hold. Without that they count as a whole, so nothing is lost.
fn read_stocks(directory: &dyn Directory, file: FileName, stamp: u64, index: &mut Index) {
    let at = index.stocks_at();
    let header = read(directory, file, at, STOCKS_HEADER).unwrap_or_default();
    let Some(size) = index.stocks_bytes(&header) else { return };
    let bytes = read(directory, file, at, STOCKS_HEADER + size).unwrap_or_default();
    if !index.read_stocks(stamp, &bytes) {
        tracing::warn!(%file, "the counts in an index are damaged; those of its messages are rough until they are gone");
    }
}

/// Reads a segment without an index, and writes its index.
fn scan_segment(
    directory: &dyn Directory,
    place: u32,
    header: &SegmentHeader,
    grouped: Option<Grouped>,
    is_short: bool,
    facts: &Facts<'_>,
    report: &mut Report,
) -> Result<FoundSegment, OpenError> {
    let file = FileName::Segment(place);
    let salvaged = salvage_all(directory, file, header.bytes)?;
    let file_bytes = salvaged.bytes;
    let mut found = scan(header, &file_bytes);
    let end = grouped.as_ref().map(|grouped| grouped.end).or_else(|| facts.end(place, header.stamp));
    if let Some(end) = end {
        // A segment that a clean stop sealed is not torn, and a grouped one was complete.
        found.damage = scan_sealed(header, &file_bytes, end);
        found.torn = 0;
    }
    report.scanned += usize::from(!found.batches.is_empty());
    report.torn += found.torn;
    let is_unreadable = !salvaged.unreadable.is_empty();
    let is_damaged = !found.damage.is_empty() || is_short || is_unreadable;
    for (at, bytes) in &salvaged.unreadable {
        tracing::error!(%file, at, bytes, "part of a segment is unreadable; serving the rest");
    }
    if is_unreadable && found.damage.is_empty() {
        // The unreadable part may have held the last messages of the file, or none.
        let means = "this range is unreadable; its messages are lost";
        let unreadable = salvaged.unreadable.iter().filter(|(at, _)| *at >= ROUNDS_AT);
        report.damaged.extend(unreadable.map(|&(at, bytes)| Damaged {
            file,
            damage: Damage { at, bytes },
            means,
        }));
    }
    let mut spans = found.spans();
    spans.values_mut().for_each(Span::seal);
    report.damaged.extend(found.damage.into_iter().map(|damage| Damaged {
        file,
        damage,
        means: "the messages in this range are lost",
    }));
    let order = grouped.map_or(header.number, |grouped| grouped.order);
    let heads = spans.values().map(|span| &span.head);
    let segment = Arc::new(Segment::new(place, header, found.end, heads).in_order(order));
    let (index, index_bytes) = Index::encode(header.stamp, found.end, &spans);
    // The server may have ended because a sync failed. Then what the system returns of the file need not be
    // on the disk, and another sync would not write it. So what is served from now on is written again.
    let end = (found.end as usize).next_multiple_of(BLOCK).min(file_bytes.len());
    let rounds = file_bytes.get(ROUNDS_AT as usize..end).unwrap_or_default().to_vec();
    let mut steps = vec![Step::Write(file, ROUNDS_AT, Arc::new(rounds))];
    if is_unreadable {
        // Another tool may still be able to read what this start could not.
        steps.clear();
    } else if is_damaged {
        // An index would hide the loss from the next start.
        steps.push(Step::Sync(file));
    } else {
        steps.extend(save_index(place, index_bytes));
    }
    let saved = run_all(directory, &steps);
    if let Err(error) = &saved {
        tracing::warn!(%file, %error, "index write failed; keeping the index in memory");
    }
    let spans = index.spans.into_iter().zip(spans.into_values()).map(|((id, head, at), span)| {
        let runs =
            if saved.is_ok() && !is_damaged { Runs::Index(at) } else { Runs::Memory(span.runs.into()) };
        (id, SealedSpan::new(segment.clone(), head, runs, span.stock))
    });
    Ok(FoundSegment { spans: spans.collect(), segment, is_damaged })
}
