//! Reads the record of earlier starts, and adds this start.

use std::collections::HashMap;

use super::report::{Damaged, OpenError, Report};
use crate::base::units::Offset;
use crate::store::log::disk::{Directory, FileName, salvage_all};
use crate::store::log::format::{PartitionId, Unreadable};
use crate::store::log::history::{History, Moment};
use crate::store::log::scan::Damage;

/// Reads the history of earlier starts. Returns `None` if the directory has no history.
pub(super) fn open_history(
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
        Err(Unreadable::Damaged) => {
            let means = "consumers that return begin at the oldest message";
            report.damaged.push(Damaged { file, damage: Damage { at: 0, bytes: *length }, means });
            Ok(Some(History::lost(directory.random())))
        }
        Err(why) => Err(OpenError::Version(file, why)),
    }
}

/// Records a start whose partitions end at `ends`. Returns whether it is proven to continue where the last
/// one ended.
pub(super) fn start(
    history: &mut History,
    directory: &dyn Directory,
    now: &Moment,
    ends: HashMap<PartitionId, Offset>,
    last_incarnation: u64,
) -> bool {
    let file = directory.identity(FileName::History);
    let is_continued = file.is_ok_and(|file| history.is_continued(now, file));
    let before = is_continued.then(|| history.clone());
    history.start(is_continued, ends, last_incarnation, directory.random());
    history.stopped = None;
    if let Err(error) = history.save(directory, now) {
        if let Some(before) = before {
            // Continue the timeline that the file names: the next start then knows of the offsets that are
            // given out now.
            *history = before;
            history.stopped = None;
            tracing::warn!(file = %FileName::History, %error, "history write failed; this start is not recorded");
        } else {
            tracing::warn!(file = %FileName::History, %error, "history write failed; after the next start, consumers of this one begin at the oldest message");
        }
    }
    is_continued
}
