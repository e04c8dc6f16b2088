//! Reads the shards' catalogues, and rewrites them without what is damaged.
//!
//! One file may say that a queue was made, and another that it was deleted. The home of a queue changes with
//! the number of shards, and earlier servers wrote all deletions into the file with the number `u16::MAX`.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use super::report::{Damaged, OpenError, Report};
use crate::base::names::FullName;
use crate::store::Life;
use crate::store::log::catalogue;
use crate::store::log::disk::{Directory, FileName, Step, run_all, salvage_all, save};
use crate::store::log::scan::Damage;

/// The content of the catalogues, and the length of each.
pub(super) struct Catalogues {
    pub queues: HashMap<FullName, Life>,
    pub deleted: HashSet<u64>,
    pub ends: Vec<u64>,
}

/// Reads the catalogues, and creates those that shards lack.
pub(super) fn open_catalogues(
    directory: &dyn Directory,
    files: &[(FileName, u64)],
    shards: u16,
    report: &mut Report,
) -> Result<Catalogues, OpenError> {
    let mut records = Vec::new();
    let mut ends = vec![0; usize::from(shards)];
    for (file, length) in files {
        let FileName::Catalogue(shard) = file else { continue };
        let bytes = salvage_all(directory, *file, *length)?.bytes;
        let found = catalogue::parse(&bytes).map_err(|why| OpenError::Version(*file, why))?;
        let rest = bytes.get(found.end as usize..).unwrap_or_default();
        let torn = rest.iter().rposition(|byte| *byte != 0).map_or(0, |last| last as u64 + 1);
        report.torn += torn;
        for &(at, bytes) in &found.damage {
            let means =
                "a queue may be lost with its messages; the messages and the damaged catalogue are kept";
            report.damaged.push(Damaged { file: *file, damage: Damage { at, bytes }, means });
        }
        // As with segments, the valid part is rewritten. The file as it was found is kept next to it if its
        // last record is incomplete: such a record was never acknowledged or is damaged, which cannot be told
        // apart.
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
            tracing::warn!(%file, %error, "catalogue rewrite failed; using it as it is");
        }
        let end = if saved.is_ok() { end } else { found.end };
        if let Some(place) = ends.get_mut(usize::from(*shard)) {
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
    Ok(Catalogues { queues, deleted, ends })
}
