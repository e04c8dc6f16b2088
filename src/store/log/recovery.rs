//! From the files of a data directory to what they hold: at the start, and for the tools that look into it.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::io;
use std::path::Path;
use std::sync::Arc;

use super::catalogue;
use super::data_dir::{DELETIONS, DataDir, State};
use super::disk::{
    Directory, FileName, Step, is_unreadable, read, read_all, run_all, salvage_all, save, save_index,
};
use super::format::{BLOCK, OFFSET_MAX, PartitionId, ROUNDS_AT, SegmentHeader, Unreadable};
use super::history::{History, Moment, Sealed};
use super::index::{INDEX_HEADER, Index, SpanHead};
use super::scan::{Damage, scan, scan_sealed};
use super::segment::{Past, Runs, SealedSpan, Segment};
use crate::base::names::{FullName, queue_hash};
use crate::store::Life;

/// Offsets that are left out behind damage: nobody knows how many messages stood there, and no id is given twice. More than any number
/// of files holds.
const OFFSETS_LEFT_OUT: u64 = 1 << 40;

/// Why a data directory is not opened.
#[derive(Debug)]
pub enum OpenError {
    /// The system says no.
    Io(io::Error),
    /// A file is of another version.
    Version(FileName, Unreadable),
}

impl fmt::Display for OpenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Io(error) => error.fmt(f),
            Self::Version(file, why) => write!(f, "{file}: {why}"),
        }
    }
}

impl std::error::Error for OpenError {}

impl From<io::Error> for OpenError {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

/// What is wrong with a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Damaged {
    /// Which.
    pub file: FileName,
    /// Where, and how much of it.
    pub damage: Damage,
    /// What that means.
    pub means: &'static str,
}

/// What was found at the start.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// Queues.
    pub queues: usize,
    /// Segments with something in them.
    pub segments: usize,
    /// Of these without an index: the server did not end cleanly, or not long ago.
    pub scanned: usize,
    /// Messages, expired ones with them.
    pub messages: u64,
    /// Bytes of their batches.
    pub bytes: u64,
    /// Bytes of rounds that were begun, and of which nobody was told.
    pub torn: u64,
    /// What is lost.
    pub damaged: Vec<Damaged>,
    /// Nothing proves that this start goes on where the last one ended: the machine was started anew, or the directory is a copy.
    pub is_branch: bool,
}

impl Report {
    /// Says it in the log.
    pub fn say(&self, data_dir: &Path) {
        let Self { queues, segments, scanned, messages, bytes, torn, .. } = *self;
        let data_dir = data_dir.display();
        tracing::info!(%data_dir, queues, messages, bytes, segments, scanned, torn, "the log is open");
        if self.is_branch {
            tracing::info!(
                "nothing proves that this start goes on where the last one ended (the machine was started anew, or the directory is a copy, or of an earlier version): message ids go on with a gap"
            );
        }
        for Damaged { file, damage, means } in &self.damaged {
            tracing::error!(%file, at = damage.at, bytes = damage.bytes, "damaged: {means}");
        }
    }
}

/// What one segment holds.
#[derive(Debug)]
struct Found {
    segment: Arc<Segment>,
    spans: Vec<(PartitionId, SealedSpan)>,
    is_damaged: bool,
}

/// Opens a data directory for so many shards, whose segments have so many bytes: what is there, and what is wrong with it.
pub fn open(
    directory: &dyn Directory,
    shards: u16,
    segment_bytes: u64,
    now: &Moment,
) -> Result<(DataDir, Report), OpenError> {
    let mut report = Report::default();
    let files = directory.list()?;
    for (file, _) in &files {
        if matches!(file, FileName::NewIndex(_) | FileName::NewCatalogue(_) | FileName::NewHistory) {
            directory.run(&Step::Remove(*file))?;
        }
    }
    let found_history = open_history(directory, &files, &mut report)?;
    let Catalogues { queues, deleted, ends, deletions_end } =
        open_catalogues(directory, &files, shards, &mut report)?;
    let stopped = found_history.as_ref().and_then(|history| history.stopped.clone());
    let facts = Facts {
        stopped: stopped.as_deref().unwrap_or_default(),
        deleted: &deleted,
        unix_ms: now.unix_ns / 1_000_000,
    };
    let (mut found, is_one_lost) = open_segments(directory, &files, &facts, &mut report)?;
    found.sort_by_key(|found| found.segment.number);
    let live: HashSet<u64> = queues.values().map(|life| life.incarnation).collect();
    let mut state = State { catalogue_ends: ends, ..State::default() };
    let last_damaged = found.iter().rev().find(|found| found.is_damaged).map(|found| found.segment.number);
    let mut last_incarnation = live.iter().chain(&deleted).copied().max().unwrap_or(0);
    let mut orphans: u64 = 0;
    let mut pasts: HashMap<PartitionId, Past> = HashMap::new();
    for Found { segment, spans, is_damaged } in found {
        state.next_number = state.next_number.max(segment.number);
        if spans.is_empty() && !is_damaged && segment.bytes == segment_bytes {
            state.free.push_back(segment.place);
            continue;
        }
        let is_orphan = |id: &PartitionId| !live.contains(&id.0) && !deleted.contains(&id.0);
        if spans.iter().any(|(id, _)| is_orphan(id)) {
            state.orphaned.push(segment.clone());
        }
        for (id, span) in spans {
            last_incarnation = last_incarnation.max(id.0);
            if live.contains(&id.0) {
                report.messages += span.head.messages;
                report.bytes += span.head.bytes;
                pasts.entry(id).or_default().push(span);
            } else if !deleted.contains(&id.0) {
                orphans += span.head.messages;
            }
        }
        state.segments.push(segment);
    }
    for ((project, queue), life) in &queues {
        let hash = queue_hash(project, queue);
        for partition in 0..life.partitions {
            let id = (life.incarnation, partition);
            let mut past = pasts.remove(&id).unwrap_or_default();
            past.sort();
            let newest = past.spans.back().map(|span| span.segment.number);
            if is_one_lost || last_damaged >= newest && last_damaged.is_some() {
                past.end = past.end.saturating_add(OFFSETS_LEFT_OUT).min(OFFSET_MAX);
            }
            state.pasts.push((id, hash, past));
        }
    }
    if orphans > 0 {
        tracing::error!(
            messages = orphans,
            "messages of queues that no catalogue knows are not served; their files are kept"
        );
    }
    report.queues = queues.len();
    let is_used = !queues.is_empty() || !state.segments.is_empty();
    let mut history = found_history.unwrap_or_else(|| History::begin(is_used, directory.random()));
    if shards > 0 {
        let file = directory.identity(FileName::History);
        let is_continued = file.is_ok_and(|file| history.is_continued(now, file));
        let ends = state.pasts.iter().filter(|(.., past)| past.end > 0);
        let ends = ends.map(|(id, _, past)| (*id, past.end)).collect();
        let before = is_continued.then(|| history.clone());
        history.start(is_continued, ends, last_incarnation, directory.random());
        report.is_branch = is_used && !is_continued;
        history.stopped = None;
        if let Err(error) = history.save(directory, now) {
            if let Some(before) = before {
                // The timeline that the file names goes on: what is given out now is known to the next start.
                history = before;
                history.stopped = None;
                tracing::warn!(file = %FileName::History, %error, "it cannot be written; this start is not noted");
            } else {
                tracing::warn!(file = %FileName::History, %error, "it cannot be written: the next start does not know this one, and consumers will begin at the oldest message");
            }
        }
    }
    let newest = state.pasts.iter().map(|(.., past)| past.last_ms);
    state.newest_ms =
        newest.chain(state.segments.iter().map(|segment| segment.newest_ms())).max().unwrap_or(0);
    state.history = history;
    state.queues = queues;
    state.next_incarnation = last_incarnation.max(now.unix_ns);
    state.next_place = files
        .iter()
        .filter_map(|(file, _)| match file {
            FileName::Segment(place) | FileName::Index(place) => Some(*place),
            _ => None,
        })
        // The place of a file that is missing is kept, so that it can be put back.
        .chain(stopped.iter().flatten().map(|sealed| sealed.place))
        .map(|place| place.saturating_add(1))
        .max()
        .unwrap_or(0);
    state.stopped = stopped;
    Ok((DataDir::new(state, deletions_end), report))
}

/// What is known of the starts before this one; nothing where no server has kept that yet.
fn open_history(
    directory: &dyn Directory,
    files: &[(FileName, u64)],
    report: &mut Report,
) -> Result<Option<History>, OpenError> {
    let file = FileName::History;
    let Some((_, length)) = files.iter().find(|(of, _)| *of == file) else { return Ok(None) };
    let salvaged = salvage_all(directory, file, *length);
    let parsed =
        salvaged.map_err(|_| Unreadable::Damaged).and_then(|salvaged| History::parse(&salvaged.bytes));
    match parsed {
        Ok(history) => Ok(Some(history)),
        Err(why @ Unreadable::Version(_)) => Err(OpenError::Version(file, why)),
        Err(Unreadable::Damaged) => {
            let means = "consumers that come back begin at the oldest message";
            report.damaged.push(Damaged { file, damage: Damage { at: 0, bytes: *length }, means });
            Ok(Some(History::lost(directory.random())))
        }
    }
}

/// What the catalogues say, and where each ends.
struct Catalogues {
    queues: HashMap<FullName, Life>,
    deleted: HashSet<u64>,
    ends: Vec<u64>,
    deletions_end: u64,
}

fn open_catalogues(
    directory: &dyn Directory,
    files: &[(FileName, u64)],
    shards: u16,
    report: &mut Report,
) -> Result<Catalogues, OpenError> {
    let mut records = Vec::new();
    let (mut ends, mut deletions_end) = (vec![0; usize::from(shards)], 0);
    for (file, length) in files {
        let FileName::Catalogue(shard) = file else { continue };
        let bytes = salvage_all(directory, *file, *length)?.bytes;
        let found = catalogue::parse(&bytes).map_err(|why| OpenError::Version(*file, why))?;
        let rest = bytes.get(found.end as usize..).unwrap_or_default();
        let torn = rest.iter().rposition(|byte| *byte != 0).map_or(0, |last| last as u64 + 1);
        report.torn += torn;
        for &(at, bytes) in &found.damage {
            let means =
                "a queue may be lost with its messages; they are kept, and the catalogue as it was found";
            report.damaged.push(Damaged { file: *file, damage: Damage { at, bytes }, means });
        }
        // As with segments: what is believed from now on is written again. What is not, is kept beside it: whether a last
        // record that is not whole was never spoken of or is damaged, nobody knows.
        let mut whole = catalogue::beginning();
        found.records.iter().for_each(|record| whole.extend(record.encode()));
        let end = whole.len() as u64;
        let mut steps = Vec::new();
        if !found.damage.is_empty() || torn > 0 {
            let kept = FileName::DamagedCatalogue(*shard);
            steps.extend([Step::Create(kept), Step::Write(kept, 0, Arc::new(bytes)), Step::Sync(kept)]);
        }
        steps.extend(save(FileName::NewCatalogue(*shard), *file, whole));
        let saved = if shards > 0 { run_all(directory, &steps) } else { Ok(()) };
        if let Err(error) = &saved {
            tracing::warn!(%file, %error, "it cannot be written again; it is used as it is");
        }
        let end = if saved.is_ok() { end } else { found.end };
        if *file == DELETIONS {
            deletions_end = end;
        } else if let Some(place) = ends.get_mut(usize::from(*shard)) {
            *place = end;
        }
        records.extend(found.records);
    }
    for (shard, end) in (0..shards).zip(&mut ends) {
        if *end == 0 {
            let beginning = catalogue::beginning();
            *end = beginning.len() as u64;
            run_all(directory, &save(FileName::NewCatalogue(shard), FileName::Catalogue(shard), beginning))?;
        }
    }
    let (queues, deleted) = catalogue::merge(records.into_iter());
    Ok(Catalogues { queues, deleted, ends, deletions_end })
}

/// What is known before the segments are looked at.
pub(super) struct Facts<'a> {
    /// What a clean stop has sealed.
    pub stopped: &'a [Sealed],
    /// The incarnations of queues that were deleted.
    pub deleted: &'a HashSet<u64>,
    /// Now, Unix milliseconds.
    pub unix_ms: u64,
}

impl Facts<'_> {
    /// Where the rounds of a segment end, if a clean stop has sealed it.
    pub(super) fn end(&self, place: u32, stamp: u64) -> Option<u64> {
        let its = self.stopped.iter().find(|sealed| (sealed.place, sealed.stamp) == (place, stamp));
        its.map(|sealed| sealed.end)
    }

    /// Whether a clean stop has sealed a segment in that place.
    pub(super) fn names(&self, place: u32) -> bool {
        self.stopped.iter().any(|sealed| sealed.place == place)
    }

    /// Whether the index of that place names messages that live. Without its segment it says that they are lost, as an index is removed
    /// first.
    pub(super) fn has_live(&self, directory: &dyn Directory, place: u32) -> bool {
        let index = read_index(directory, place).ok();
        let index = index.and_then(|bytes| Index::parse(Index::stamp(&bytes).ok()?, &bytes).ok());
        let lives = |id: &PartitionId, head: &SpanHead| {
            head.expiry_ms > self.unix_ms && !self.deleted.contains(&id.0)
        };
        index.is_some_and(|index| index.spans.iter().any(|(id, head, _)| lives(id, head)))
    }
}

fn open_segments(
    directory: &dyn Directory,
    files: &[(FileName, u64)],
    facts: &Facts<'_>,
    report: &mut Report,
) -> Result<(Vec<Found>, bool), OpenError> {
    let indexed: HashSet<u32> = files
        .iter()
        .filter_map(|(file, _)| if let FileName::Index(place) = file { Some(*place) } else { None })
        .collect();
    let (mut all, mut is_one_lost) = (Vec::new(), false);
    for (file, length) in files {
        let FileName::Segment(place) = *file else { continue };
        let blocks = match salvage_all(directory, *file, ROUNDS_AT) {
            Ok(salvaged) => salvaged.bytes,
            Err(error) => {
                tracing::error!(%file, %error, "cannot be read");
                lose(*file, *length, report, &mut is_one_lost);
                continue;
            }
        };
        let header = match SegmentHeader::parse(&blocks) {
            Ok(header) => header,
            Err(why @ Unreadable::Version(_)) => return Err(OpenError::Version(*file, why)),
            Err(Unreadable::Damaged) => {
                // Where the server ended before a new file had its header, it holds nothing but zeros.
                let is_known = indexed.contains(&place) || facts.names(place);
                match read_all(directory, *file, *length) {
                    Ok(all) if !is_known && all.iter().all(|byte| *byte == 0) => {
                        directory.run(&Step::Remove(*file))?;
                    }
                    _ => lose(*file, *length, report, &mut is_one_lost),
                }
                continue;
            }
        };
        let index =
            if indexed.contains(&place) { open_index(directory, place, header.stamp, report)? } else { None };
        // A file is as long as it was made before its header is there.
        if *length < header.bytes {
            let damage = Damage { at: *length, bytes: header.bytes - length };
            let means = "the file is shorter than it was made; messages that stood there are lost";
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
                let segment = Arc::new(Segment::new(place, &header, heads));
                let spans = index
                    .spans
                    .into_iter()
                    .map(|(id, head, at)| (id, SealedSpan::new(segment.clone(), head, Runs::Index(at))));
                Found { spans: spans.collect(), segment, is_damaged: false }
            }
            None => match scan_segment(directory, place, &header, is_short, facts, report) {
                Ok(found) => found,
                Err(error) => {
                    tracing::error!(%file, %error, "cannot be read");
                    lose(*file, *length, report, &mut is_one_lost);
                    continue;
                }
            },
        };
        report.segments += usize::from(!found.spans.is_empty());
        all.push(found);
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

/// A segment that should be there and is not.
fn missing(place: u32) -> Damaged {
    let means = "the file is missing; its messages are lost, unless it is put back while no server runs";
    Damaged { file: FileName::Segment(place), damage: Damage { at: 0, bytes: 0 }, means }
}

/// An index without its segment: whether messages are lost with that.
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

/// A segment that a clean stop has sealed is whole up to there: nothing of it can be torn. What is not is reported.
fn check_stopped(
    directory: &dyn Directory,
    file: FileName,
    header: &SegmentHeader,
    end: u64,
    report: &mut Report,
) -> Result<(), OpenError> {
    let bytes = salvage_all(directory, file, end)?.bytes;
    for damage in scan_sealed(header, &bytes, end) {
        report.damaged.push(Damaged { file, damage, means: "messages that stood there are lost" });
    }
    Ok(())
}

/// A segment cannot be read: it is left alone.
fn lose(file: FileName, bytes: u64, report: &mut Report, is_one_lost: &mut bool) {
    let means = "what it held is not served; the file is left alone";
    report.damaged.push(Damaged { file, damage: Damage { at: 0, bytes }, means });
    *is_one_lost = true;
}

/// The beginning of an index: all of it that [`Index::parse`] wants.
pub(super) fn read_index(directory: &dyn Directory, place: u32) -> io::Result<Vec<u8>> {
    let file = FileName::Index(place);
    let header = read(directory, file, 0, INDEX_HEADER)?;
    match Index::heads_bytes(&header) {
        Ok(heads) => read(directory, file, 0, INDEX_HEADER.saturating_add(heads)),
        Err(_) => Ok(header),
    }
}

/// The index of a segment, if there is one that can be believed.
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
        Ok(index) => Ok(Some(index)),
        Err(why @ Unreadable::Version(_)) => Err(OpenError::Version(file, why)),
        // One of an earlier life of its segment is none.
        Err(Unreadable::Damaged) if Index::stamp(&bytes).is_ok_and(|of| of != stamp) => Ok(None),
        Err(Unreadable::Damaged) => {
            let damage = Damage { at: 0, bytes: INDEX_HEADER as u64 };
            report.damaged.push(Damaged { file, damage, means: "its segment is read instead" });
            Ok(None)
        }
    }
}

/// Reads a segment without an index, and gives it one.
fn scan_segment(
    directory: &dyn Directory,
    place: u32,
    header: &SegmentHeader,
    is_short: bool,
    facts: &Facts<'_>,
    report: &mut Report,
) -> Result<Found, OpenError> {
    let file = FileName::Segment(place);
    let salvaged = salvage_all(directory, file, header.bytes)?;
    let file_bytes = salvaged.bytes;
    let mut found = scan(header, &file_bytes);
    if let Some(end) = facts.end(place, header.stamp) {
        // What a clean stop has sealed is not torn.
        found.damage = scan_sealed(header, &file_bytes, end);
        found.torn = 0;
    }
    report.scanned += usize::from(!found.batches.is_empty());
    report.torn += found.torn;
    let is_unreadable = !salvaged.unreadable.is_empty();
    let is_damaged = !found.damage.is_empty() || is_short || is_unreadable;
    for (at, bytes) in &salvaged.unreadable {
        tracing::error!(%file, at, bytes, "cannot be read; what stands around it is served");
    }
    if is_unreadable && found.damage.is_empty() {
        // It may have held the last messages of the file, or none.
        let means = "it cannot be read; messages that stood there are lost";
        let unreadable = salvaged.unreadable.iter().filter(|(at, _)| *at >= ROUNDS_AT);
        report.damaged.extend(unreadable.map(|&(at, bytes)| Damaged {
            file,
            damage: Damage { at, bytes },
            means,
        }));
    }
    let spans = found.spans();
    report.damaged.extend(found.damage.into_iter().map(|damage| Damaged {
        file,
        damage,
        means: "messages that stood there are lost",
    }));
    let segment = Arc::new(Segment::new(place, header, spans.values().map(|span| &span.head)));
    let (index, index_bytes) = Index::encode(header.stamp, found.end, &spans);
    // The server may have ended because a sync failed: what the system shows of the file then need not be on the disk, and another sync
    // would not bring it there. What is served from now on is written again.
    let end = (found.end as usize).next_multiple_of(BLOCK).min(file_bytes.len());
    let rounds = file_bytes.get(ROUNDS_AT as usize..end).unwrap_or_default().to_vec();
    let mut steps = vec![Step::Write(file, ROUNDS_AT, Arc::new(rounds))];
    if is_unreadable {
        // Another tool may yet read what this start could not.
        steps.clear();
    } else if is_damaged {
        // An index would hide from the next start that something is lost.
        steps.push(Step::Sync(file));
    } else {
        steps.extend(save_index(place, index_bytes));
    }
    let saved = run_all(directory, &steps);
    if let Err(error) = &saved {
        tracing::warn!(%file, %error, "its index cannot be written; it is kept in memory");
    }
    let spans = index.spans.into_iter().zip(spans.into_values()).map(|((id, head, at), span)| {
        let runs =
            if saved.is_ok() && !is_damaged { Runs::Index(at) } else { Runs::Memory(span.runs.into()) };
        (id, SealedSpan::new(segment.clone(), head, runs))
    });
    Ok(Found { spans: spans.collect(), segment, is_damaged })
}
