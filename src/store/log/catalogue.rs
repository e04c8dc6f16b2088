//! The catalogue of queues: one file for each shard. A shard appends a record for each queue that it creates
//! or deletes.
//!
//! ```text
//! file     magic "MSTRMCAT", version u32, checksum u32 of the version; records follow
//! record   magic u32, checksum u32 of the rest, kind u16 (1: created, 2: deleted), partitions u16,
//!          incarnation u64, length u16 of the project's name, length u16 of the queue's name;
//!          both names (in a record of a creation)
//! ```
//!
//! A queue is deleted if any file has a record that deletes its incarnation. No two queues share an
//! incarnation.

use std::collections::{HashMap, HashSet};

use super::format::{Reader, Unreadable, VERSION, behind_prefix, checksum, with_prefix};
use crate::base::attributes::Attributes;
use crate::base::names::{FullName, Project, QueueName};
use crate::base::queue::Signing;
use crate::store::Life;

const MAGIC: [u8; 8] = *b"MSTRMCAT";
const RECORD_MAGIC: [u8; 4] = *b"que\xd1";
const MADE: u16 = 1;
const DELETED: u16 = 2;

/// The length of a record without names, in bytes.
const RECORD_BYTES: usize = 24;

/// A record of a catalogue file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Record {
    /// A queue was created.
    Made(FullName, Life),
    /// The queue of that incarnation was deleted.
    Deleted(u64),
}

impl Record {
    /// Returns the record as it is in the file.
    pub fn encode(&self) -> Vec<u8> {
        let (kind, incarnation, partitions, names) = match self {
            Self::Made((project, queue), life) => {
                (MADE, life.incarnation, life.partitions, [project.as_str(), queue.as_str()])
            }
            Self::Deleted(incarnation) => (DELETED, *incarnation, 0, ["", ""]),
        };
        let mut fields = Vec::new();
        fields.extend(kind.to_le_bytes());
        fields.extend(partitions.to_le_bytes());
        fields.extend(incarnation.to_le_bytes());
        names.iter().for_each(|name| fields.extend((name.len() as u16).to_le_bytes()));
        names.iter().for_each(|name| fields.extend(name.as_bytes()));
        let mut record = RECORD_MAGIC.to_vec();
        record.extend(checksum(&[&fields]).to_le_bytes());
        record.extend(fields);
        record
    }

    /// Reads the record at the start of `bytes`. Returns it with its length.
    fn parse(bytes: &[u8]) -> Option<(Self, usize)> {
        let mut lengths = Reader(bytes.get(RECORD_BYTES - 4..RECORD_BYTES)?);
        let (project, queue) = (usize::from(lengths.u16()?), usize::from(lengths.u16()?));
        let record = bytes.get(..RECORD_BYTES + project + queue)?;
        let mut fields = Reader(record);
        let magic = fields.bytes(4)?;
        let sum = fields.u32()?;
        if magic != RECORD_MAGIC || sum != checksum(&[fields.0]) {
            return None;
        }
        let (kind, partitions, incarnation) = (fields.u16()?, fields.u16()?, fields.u64()?);
        fields.bytes(4)?;
        let mut name = |length| std::str::from_utf8(fields.bytes(length)?).ok();
        let parsed = match kind {
            MADE => {
                let name =
                    (Project::parse_stored(name(project)?).ok()?, QueueName::parse(name(queue)?).ok()?);
                let (signing, attributes) = (Signing::default(), Attributes::default());
                Self::Made(name, Life { incarnation, partitions, signing, attributes })
            }
            DELETED => Self::Deleted(incarnation),
            _ => return None,
        };
        Some((parsed, record.len()))
    }
}

/// Returns the first bytes of a catalogue file, before its records.
pub fn beginning() -> Vec<u8> {
    with_prefix(MAGIC, VERSION, &[])
}

/// The content of a catalogue file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Records {
    /// The complete records, in the order of the file.
    pub records: Vec<Record>,
    /// The end of the last complete record, in bytes from the start of the file.
    pub end: u64,
    /// Damaged ranges before `end`: position and length in bytes.
    pub damage: Vec<(u64, u64)>,
}

/// Parses a catalogue file of a known version. An incomplete record at its end is ignored: no client was ever
/// told of it.
pub fn parse(file: &[u8]) -> Result<Records, Unreadable> {
    let mut at = beginning().len();
    let mut found = Records { end: at as u64, ..Records::default() };
    match behind_prefix(MAGIC, VERSION, file, 0) {
        Ok(_) => {}
        // The records have their own checksums.
        Err(Unreadable::Damaged) => found.damage.push((0, found.end)),
        Err(why) => return Err(why),
    }
    while at < file.len() {
        if let Some((record, length)) = Record::parse(&file[at..]) {
            found.records.push(record);
            at += length;
            found.end = at as u64;
            continue;
        }
        let Some(next) = (at + 1..file.len())
            .find(|next| file[*next..].starts_with(&RECORD_MAGIC) && Record::parse(&file[*next..]).is_some())
        else {
            break;
        };
        found.damage.push((at as u64, (next - at) as u64));
        at = next;
    }
    Ok(found)
}

/// Returns the queues that the records of all files describe, and the deleted incarnations.
pub fn merge(records: impl Iterator<Item = Record>) -> (HashMap<FullName, Life>, HashSet<u64>) {
    let (mut made, mut deleted) = (Vec::new(), HashSet::new());
    for record in records {
        match record {
            Record::Made(name, life) => made.push((name, life)),
            Record::Deleted(incarnation) => {
                deleted.insert(incarnation);
            }
        }
    }
    made.retain(|(_, life)| !deleted.contains(&life.incarnation));
    // If a failed write has left a record behind, a queue may occur twice. Clients know the one created last.
    made.sort_by_key(|(_, life)| life.incarnation);
    (made.into_iter().collect(), deleted)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn made(queue: &str, incarnation: u64) -> Record {
        let name = (Project::parse("p").unwrap(), QueueName::parse(queue).unwrap());
        Record::Made(
            name,
            Life { incarnation, partitions: 3, signing: Signing::default(), attributes: Default::default() },
        )
    }

    #[test]
    fn projects_that_earlier_versions_accepted_are_still_read() {
        for project in [".", ".."] {
            let name = (Project::parse_stored(project).unwrap(), QueueName::parse("q").unwrap());
            let record = Record::Made(
                name,
                Life {
                    incarnation: 1,
                    partitions: 3,
                    signing: Signing::default(),
                    attributes: Default::default(),
                },
            );
            let file = [beginning(), record.encode()].concat();
            let found = parse(&file).unwrap();
            assert_eq!((found.records, found.damage), (vec![record], vec![]));
        }
    }

    #[test]
    fn complete_records_are_read_despite_torn_or_damaged_ones() {
        let records = [made("a", 1), made("bc", 2), Record::Deleted(1), made("a", 3)];
        let mut file = beginning();
        let ends: Vec<usize> = records
            .iter()
            .map(|record| {
                file.extend(record.encode());
                file.len()
            })
            .collect();
        let whole = parse(&file).unwrap();
        assert_eq!((&whole.records[..], whole.end), (&records[..], file.len() as u64));
        for cut in beginning().len()..file.len() {
            let found = parse(&file[..cut]).unwrap();
            let left = ends.iter().filter(|end| **end <= cut).count();
            assert_eq!((&found.records[..], found.damage), (&records[..left], vec![]), "cut at {cut}");
        }
        for at in ends[0]..ends[1] {
            let mut file = file.clone();
            file[at] ^= 4;
            let found = parse(&file).unwrap();
            assert_eq!(found.records, [&records[..1], &records[2..]].concat(), "flipped at {at}");
            assert_eq!(found.damage, [(ends[0] as u64, (ends[1] - ends[0]) as u64)]);
        }
        let (queues, deleted) = merge(whole.records.into_iter());
        let mut left: Vec<_> = queues.values().map(|life| life.incarnation).collect();
        left.sort_unstable();
        assert_eq!((left, deleted), (vec![2, 3], [1].into()));
    }
}
