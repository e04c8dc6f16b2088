//! The starts before this one: what the directory says of them, and how this one is noted.

use std::collections::HashMap;

use super::report::{Damaged, OpenError, Report};
use crate::base::units::Offset;
use crate::store::log::disk::{Directory, FileName, salvage_all};
use crate::store::log::format::{PartitionId, Unreadable};
use crate::store::log::history::{History, Moment};
use crate::store::log::scan::Damage;

/// What is known of the starts before this one; nothing where no server has kept that yet.
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
        Err(why @ Unreadable::Version(_)) => Err(OpenError::Version(file, why)),
        Err(Unreadable::Damaged) => {
            let means = "consumers that come back begin at the oldest message";
            report.damaged.push(Damaged { file, damage: Damage { at: 0, bytes: *length }, means });
            Ok(Some(History::lost(directory.random())))
        }
    }
}

/// Notes a start of a server whose partitions end there. Returns whether it is proven to go on where the last one ended.
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
            // The timeline that the file names goes on: what is given out now is known to the next start.
            *history = before;
            history.stopped = None;
            tracing::warn!(file = %FileName::History, %error, "it cannot be written; this start is not noted");
        } else {
            tracing::warn!(file = %FileName::History, %error, "it cannot be written: the next start does not know this one, and consumers will begin at the oldest message");
        }
    }
    is_continued
}
