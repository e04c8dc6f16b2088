//! Reads the shards' catalogues, and rewrites them without what is damaged.
//!
//! One file may say that a queue was made, and another that it was deleted. The home of a queue changes with
//! the number of shards, and earlier servers wrote all deletions into the file with the number `u16::MAX`.

use std::sync::Arc;

use super::report::{Damaged, OpenError, Report};
use crate::store::log::catalogue::{self, Merged, Place};
use crate::store::log::disk::{Directory, FileName, Step, run_all, salvage_all, save};
use crate::store::log::scan::Damage;

/// The content of the catalogues, and the file of each shard.
pub(super) struct Catalogues {
    pub merged: Merged,
    pub places: Vec<Place>,
}

/// Reads the catalogues, and creates those that shards lack.
pub(super) fn open_catalogues(
    directory: &dyn Directory,
    files: &[(FileName, u64)],
    shards: u16,
    report: &mut Report,
) -> Result<Catalogues, OpenError> {
    let mut records = Vec::new();
    let mut places = vec![Place::default(); usize::from(shards)];
    for (file, length) in files {
        let FileName::Catalogue(shard) = file else { continue };
        let bytes = salvage_all(directory, *file, *length)?.bytes;
        let found = catalogue::parse(&bytes).map_err(|why| OpenError::Version(*file, why))?;
        let rest = bytes.get(found.end as usize..).unwrap_or_default();
        let torn = rest.iter().rposition(|byte| *byte != 0).map_or(0, |last| last as u64 + 1);
        report.torn += torn;
        for &(at, bytes) in &found.damage {
            let means = "a queue may be lost with its messages, or a change of a queue; the messages and the damaged \
                 catalogue are kept";
            report.damaged.push(Damaged { file: *file, damage: Damage { at, bytes }, means });
        }
        // As with segments, the valid part is rewritten. The file as it was found is kept next to it if its
        // last record is incomplete: such a record was never acknowledged or is damaged, which cannot be told
        // apart.
        let (whole, place) = catalogue::whole(&found.records);
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
        if let Some(of) = places.get_mut(usize::from(*shard)) {
            let as_found = Place { end: found.end, takes_attributes: found.takes_attributes };
            *of = if saved.is_ok() { place } else { as_found };
        }
        records.extend(found.records);
    }
    for (shard, of) in (0..shards).zip(&mut places) {
        if of.end == 0 {
            let (beginning, place) = catalogue::whole(&[]);
            *of = place;
            run_all(directory, &save(FileName::NewCatalogue(shard), FileName::Catalogue(shard), beginning))?;
        }
    }
    Ok(Catalogues { merged: catalogue::merge(records.into_iter()), places })
}
