//! Reads the files of a data directory: for a start, and for the tools that inspect it.

mod catalogues;
mod facts;
mod report;
mod segments;
mod starts;

pub(super) use facts::{Facts, read_index, replaced};
pub use report::{Damaged, OpenError, Report};

use std::collections::{HashMap, HashSet};

use self::catalogues::{Catalogues, open_catalogues};
use self::segments::{FoundSegment, open_segments};
use self::starts::{open_history, start};
use super::catalogue::Merged;
use super::data_dir::{DataDir, SharedState};
use super::disk::{Directory, FileName, Step};
use super::format::{OFFSET_MAX, PartitionId};
use super::history::{History, Moment};
use super::keep::Keep;
use super::segment::Past;
use crate::base::limits::PARTITIONS_MAX;
use crate::base::names::{FullName, queue_hash};
use crate::base::units::{Offset, Partition};
use crate::store::Life;

/// The number of offsets that are skipped after damage. It is unknown how many messages were damaged, and no
/// id may be given out twice. More than any number of files holds.
const OFFSETS_LEFT_OUT: u64 = 1 << 40;

const _: () = assert!(OFFSETS_LEFT_OUT < OFFSET_MAX.0, "offsets remain after damage");

/// Opens a data directory for `shards` shards, whose segments have `segment_bytes` each. Returns its content,
/// and a report of what is wrong with it.
pub fn open(
    directory: &dyn Directory,
    shards: u16,
    segment_bytes: u64,
    now: &Moment,
) -> Result<(DataDir, Report), OpenError> {
    let mut report = Report::default();
    let files = directory.list()?;
    for (file, _) in &files {
        if file.is_passing() {
            directory.run(&Step::Remove(*file))?;
        }
    }
    let found_history = open_history(directory, &files, &mut report)?;
    let Catalogues { merged, places } = open_catalogues(directory, &files, shards, &mut report)?;
    let Merged { mut queues, deleted, last_number } = merged;
    let stopped = found_history.as_ref().and_then(|history| history.stopped.clone());
    let facts =
        Facts { stopped: stopped.as_deref().unwrap_or_default(), deleted: &deleted, unix: now.unix() };
    let replaced = replaced(directory, &files);
    let (mut found, is_one_lost) = open_segments(directory, &files, &facts, &replaced, &mut report)?;
    found.sort_by_key(|found| (found.segment.order, found.segment.number));
    let live: HashSet<u64> = queues.values().map(|life| life.incarnation).collect();
    let mut state = SharedState { catalogues: places, ..SharedState::default() };
    let last_damaged = found.iter().rev().find(|found| found.is_damaged).map(|found| found.segment.order);
    let mut last_incarnation = live.iter().chain(&deleted).copied().max().unwrap_or(0);
    let mut orphans: u64 = 0;
    let mut pasts: HashMap<PartitionId, Past> = HashMap::new();
    for FoundSegment { segment, spans, is_damaged } in found {
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
            let messages = if id.1.of_state().is_none() { span.head.messages } else { 0 };
            if live.contains(&id.0) {
                report.messages += messages;
                report.bytes += span.head.bytes;
                pasts.entry(id).or_insert_with(|| Past::new(id.1)).push(span);
            } else if !deleted.contains(&id.0) {
                orphans += messages;
            }
        }
        state.segments.push(segment);
    }
    raise_partitions(&mut queues, pasts.keys());
    let has_state = pasts.keys().any(|id| id.1.of_state().is_some());
    for ((project, queue), life) in &queues {
        let hash = queue_hash(project, queue);
        for partition in Partition::all(life.partitions) {
            let mut take = |partition: Partition| {
                let id = (life.incarnation, partition);
                let mut past = pasts.remove(&id).unwrap_or_else(|| Past::new(partition));
                past.sort();
                let newest = past.spans.back().map(|span| span.segment.order);
                if is_one_lost || last_damaged >= newest && last_damaged.is_some() {
                    past.end = past.end.saturating_add(OFFSETS_LEFT_OUT).min(OFFSET_MAX);
                }
                (id, hash, past)
            };
            let (mut messages, hidden) = (take(partition), take(partition.state()));
            if hidden.2.has_messages() {
                messages.2.change(Keep::keep_whole);
            }
            state.pasts.push(messages);
            // A directory that never held state stays readable by earlier versions.
            if has_state && hidden.2.end > Offset::ZERO {
                state.pasts.push(hidden);
            }
        }
    }
    if orphans > 0 {
        tracing::error!(
            messages = orphans,
            "not serving messages of queues that no catalogue contains; their files are kept"
        );
    }
    report.queues = queues.len();
    let is_used = !queues.is_empty() || !state.segments.is_empty();
    let mut history = found_history.unwrap_or_else(|| History::begin(is_used, directory.random()));
    if shards > 0 {
        let ends = state.pasts.iter().filter(|((_, partition), _, past)| {
            // Offsets of state are not given out.
            partition.of_state().is_none() && past.end > Offset::ZERO
        });
        let ends = ends.map(|(id, _, past)| (*id, past.end)).collect();
        let is_continued = start(&mut history, directory, now, ends, last_incarnation);
        report.is_branch = is_used && !is_continued;
    }
    let newest = state.pasts.iter().map(|(.., past)| past.newest);
    state.newest =
        newest.chain(state.segments.iter().map(|segment| segment.newest())).max().unwrap_or_default();
    state.history = history;
    state.queues = queues;
    state.next_incarnation = last_incarnation.max(last_number).max(now.unix_ns);
    state.next_place = files
        .iter()
        .filter_map(|(file, _)| match file {
            FileName::Segment(place) | FileName::Index(place) => Some(*place),
            _ => None,
        })
        // The number of a missing file is not reused, so that the file can be put back.
        .chain(stopped.iter().flatten().map(|sealed| sealed.place))
        .map(|place| place.saturating_add(1))
        .max()
        .unwrap_or(0);
    Ok((DataDir::new(state), report))
}

/// Lets queues have every partition that holds something. The alteration that added it may be damaged.
fn raise_partitions<'a>(queues: &mut HashMap<FullName, Life>, found: impl Iterator<Item = &'a PartitionId>) {
    let mut used: HashMap<u64, u16> = HashMap::new();
    for (incarnation, partition) in found {
        let of = used.entry(*incarnation).or_default();
        *of = (*of).max(partition.of_state().unwrap_or(*partition).0.saturating_add(1));
    }
    for life in queues.values_mut() {
        let used = used.get(&life.incarnation).copied().unwrap_or_default();
        life.partitions = life.partitions.max(used.min(PARTITIONS_MAX));
    }
}
