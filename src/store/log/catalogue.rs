//! The catalogue of queues: one file for each shard. A shard appends a record for each queue that it creates,
//! alters or deletes.
//!
//! ```text
//! file     magic "MSTRMCAT", version u32 (1 or 2), checksum u32 of the version; records follow
//! record   magic u32, checksum u32 of the rest, kind u16, partitions u16 (0 in a deletion), incarnation u64, then
//!  1 created   length u16 of the project's name, length u16 of the queue's name; both names
//!  2 deleted   0 u32
//!  3 altered   length u32 of what follows; number u64, lengths and names as above, attributes as JSON. Without
//!              names in an alteration; with names, the queue was created with these attributes
//! ```
//!
//! A queue is deleted if any file has a record that deletes its incarnation. No two queues share an
//! incarnation. A queue has the partitions and the attributes of the alteration with the highest number, whichever
//! file has it: the home of a queue changes with the number of shards. Numbers rise, together with incarnations.
//!
//! Records with attributes may be long. Each is written alone, because the disk may keep any parts of a write that
//! fails: of several records it could keep a later one, behind what looks like damage.
//!
//! A file without attributes has version 1, so that earlier versions of the server read it. They would take
//! attributes for damage. So a file gets version 2 before its first ones, and they refuse it.

use std::collections::{HashMap, HashSet};

use super::format::{Reader, Unreadable, behind_prefix, checksum, with_prefix};
use crate::base::attributes::{ATTRIBUTES_BYTES_MAX, Attributes};
use crate::base::names::{FullName, Project, QueueName};
use crate::base::queue::Signing;
use crate::store::Life;

const MAGIC: [u8; 8] = *b"MSTRMCAT";
const RECORD_MAGIC: [u8; 4] = *b"que\xd1";
const MADE: u16 = 1;
const DELETED: u16 = 2;
const ALTERED: u16 = 3;

/// The version of a file without attributes, and of one that may have some.
const PLAIN: u32 = super::format::VERSION;
const WITH_ATTRIBUTES: u32 = 2;

/// The length of a record without names and attributes, in bytes.
const RECORD_BYTES: usize = 24;

/// The lengths of what is in front of the attributes, in bytes: of a number and two lengths, and of two names.
const NUMBER_BYTES: usize = 12;
const NAMES_BYTES_MAX: usize = 2 * u8::MAX as usize;

/// A record of a catalogue file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Record {
    /// A queue was created.
    Made(FullName, Life),
    /// The queue of that incarnation was deleted.
    Deleted(u64),
    /// The queue of that incarnation was altered.
    Altered(u64, Altered),
}

/// An alteration of a queue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Altered {
    /// Higher than that of each earlier alteration of the queue.
    pub number: u64,
    /// The number of partitions from then on.
    pub partitions: u16,
    /// The attributes from then on.
    pub attributes: Attributes,
}

impl Record {
    /// Returns the record as it is in the file.
    pub fn encode(&self) -> Vec<u8> {
        let (kind, partitions, incarnation) = match self {
            Self::Made(_, life) if life.attributes.is_empty() => (MADE, life.partitions, life.incarnation),
            Self::Made(_, life) => (ALTERED, life.partitions, life.incarnation),
            Self::Deleted(incarnation) => (DELETED, 0, *incarnation),
            Self::Altered(incarnation, altered) => (ALTERED, altered.partitions, *incarnation),
        };
        let mut fields = Vec::new();
        fields.extend(kind.to_le_bytes());
        fields.extend(partitions.to_le_bytes());
        fields.extend(incarnation.to_le_bytes());
        match self {
            Self::Made(name, life) if life.attributes.is_empty() => put_names(Some(name), &mut fields),
            Self::Made(name, life) => {
                put_attributes(incarnation, Some(name), &life.attributes, &mut fields);
            }
            Self::Deleted(_) => put_names(None, &mut fields),
            Self::Altered(_, altered) => {
                put_attributes(altered.number, None, &altered.attributes, &mut fields);
            }
        }
        let mut record = RECORD_MAGIC.to_vec();
        record.extend(checksum(&[&fields]).to_le_bytes());
        record.extend(fields);
        record
    }

    /// Returns whether the record has attributes, and must be written alone.
    pub fn has_attributes(&self) -> bool {
        match self {
            Self::Made(_, life) => !life.attributes.is_empty(),
            Self::Deleted(_) => false,
            Self::Altered(..) => true,
        }
    }

    /// Reads the record at the start of `bytes`. Returns it with its length.
    fn parse(bytes: &[u8]) -> Option<(Self, usize)> {
        let head = bytes.get(..RECORD_BYTES)?;
        let kind = Reader(&head[8..]).u16()?;
        let mut lengths = Reader(&head[RECORD_BYTES - 4..]);
        let rest = match kind {
            ALTERED => {
                let rest = lengths.u32()? as usize;
                (rest <= NUMBER_BYTES + NAMES_BYTES_MAX + ATTRIBUTES_BYTES_MAX).then_some(rest)?
            }
            _ => usize::from(lengths.u16()?) + usize::from(lengths.u16()?),
        };
        let record = bytes.get(..RECORD_BYTES + rest)?;
        let mut fields = Reader(record);
        let magic = fields.bytes(4)?;
        let sum = fields.u32()?;
        if magic != RECORD_MAGIC || sum != checksum(&[fields.0]) {
            return None;
        }
        let (_, partitions, incarnation) = (fields.u16()?, fields.u16()?, fields.u64()?);
        let parsed = match kind {
            MADE => {
                let (signing, attributes) = (Signing::default(), Attributes::default());
                Self::Made(take_names(&mut fields)??, Life { incarnation, partitions, signing, attributes })
            }
            DELETED => Self::Deleted(incarnation),
            ALTERED => {
                fields.bytes(4)?;
                let number = fields.u64()?;
                let name = take_names(&mut fields)?;
                let attributes = Attributes::parse_stored(fields.0)?;
                match name {
                    // Without attributes it would be another kind.
                    Some(name) => {
                        let signing = Signing::default();
                        let life = Life { incarnation, partitions, signing, attributes };
                        (!life.attributes.is_empty()).then_some(Self::Made(name, life))?
                    }
                    None => Self::Altered(incarnation, Altered { number, partitions, attributes }),
                }
            }
            _ => return None,
        };
        Some((parsed, record.len()))
    }
}

fn put_names(name: Option<&FullName>, fields: &mut Vec<u8>) {
    let names = name.map_or(["", ""], |(project, queue)| [project.as_str(), queue.as_str()]);
    names.iter().for_each(|name| fields.extend((name.len() as u16).to_le_bytes()));
    names.iter().for_each(|name| fields.extend(name.as_bytes()));
}

fn put_attributes(number: u64, name: Option<&FullName>, attributes: &Attributes, fields: &mut Vec<u8>) {
    let mut rest = number.to_le_bytes().to_vec();
    put_names(name, &mut rest);
    rest.extend(attributes.to_json().as_bytes());
    fields.extend((rest.len() as u32).to_le_bytes());
    fields.extend(rest);
}

/// Reads two lengths and names; `Some(None)` if both are empty.
fn take_names(fields: &mut Reader<'_>) -> Option<Option<FullName>> {
    let (project, queue) = (usize::from(fields.u16()?), usize::from(fields.u16()?));
    if project + queue == 0 {
        return Some(None);
    }
    let mut name = |length| std::str::from_utf8(fields.bytes(length)?).ok();
    Some(Some((Project::parse_stored(name(project)?).ok()?, QueueName::parse(name(queue)?).ok()?)))
}

/// A catalogue file, as a shard appends to it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Place {
    /// The end of its records, in bytes from the start of the file.
    pub end: u64,
    /// Whether it may have attributes.
    pub takes_attributes: bool,
}

/// Returns the first bytes of a catalogue file, before its records.
pub fn beginning(takes_attributes: bool) -> Vec<u8> {
    with_prefix(MAGIC, if takes_attributes { WITH_ATTRIBUTES } else { PLAIN }, &[])
}

/// Returns a file of these records, without attributes that do not count any more.
pub fn whole(records: &[Record]) -> (Vec<u8>, Place) {
    let (mut last, mut deleted) = (HashMap::new(), HashSet::new());
    for record in records {
        match record {
            Record::Altered(incarnation, Altered { number, .. }) => {
                let last = last.entry(*incarnation).or_insert(*number);
                *last = (*last).max(*number);
            }
            Record::Deleted(incarnation) => {
                deleted.insert(*incarnation);
            }
            Record::Made(..) => {}
        }
    }
    let kept = |record: &Record| match record {
        Record::Made(name, life) if deleted.contains(&life.incarnation) => {
            let plain = Life { attributes: Attributes::default(), ..life.clone() };
            Some(Record::Made(name.clone(), plain))
        }
        Record::Altered(incarnation, Altered { number, .. })
            if deleted.contains(incarnation) || last.get(incarnation) != Some(number) =>
        {
            None
        }
        other => Some(other.clone()),
    };
    let kept: Vec<Record> = records.iter().filter_map(kept).collect();
    let takes_attributes = kept.iter().any(Record::has_attributes);
    let mut file = beginning(takes_attributes);
    kept.iter().for_each(|record| file.extend(record.encode()));
    let place = Place { end: file.len() as u64, takes_attributes };
    (file, place)
}

/// The content of a catalogue file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Records {
    /// The complete records, in the order of the file.
    pub records: Vec<Record>,
    /// The end of the last complete record, in bytes from the start of the file.
    pub end: u64,
    /// Whether the file may have attributes. True if that is unknown.
    pub takes_attributes: bool,
    /// Damaged ranges before `end`: position and length in bytes.
    pub damage: Vec<(u64, u64)>,
}

/// Parses a catalogue file of a known version. An incomplete record at its end is ignored: no client was ever
/// told of it.
pub fn parse(file: &[u8]) -> Result<Records, Unreadable> {
    let mut at = beginning(false).len();
    let mut found = Records { end: at as u64, ..Records::default() };
    match behind_prefix(MAGIC, WITH_ATTRIBUTES, file, 0) {
        Ok((version, _)) => found.takes_attributes = version >= WITH_ATTRIBUTES,
        // The records have their own checksums.
        Err(Unreadable::Damaged) => {
            found.damage.push((0, found.end));
            found.takes_attributes = true;
        }
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

/// What the records of all files say.
#[derive(Debug, Default)]
pub struct Merged {
    /// The queues that exist.
    pub queues: HashMap<FullName, Life>,
    /// The incarnations of the deleted ones.
    pub deleted: HashSet<u64>,
    /// The highest number of an alteration.
    pub last_number: u64,
}

/// Returns what the records of all files say.
pub fn merge(records: impl Iterator<Item = Record>) -> Merged {
    let (mut made, mut deleted) = (Vec::new(), HashSet::new());
    let mut altered: HashMap<u64, Altered> = HashMap::new();
    for record in records {
        match record {
            Record::Made(name, life) => made.push((name, life)),
            Record::Deleted(incarnation) => {
                deleted.insert(incarnation);
            }
            Record::Altered(incarnation, of) => {
                if altered.get(&incarnation).is_none_or(|last| last.number < of.number) {
                    altered.insert(incarnation, of);
                }
            }
        }
    }
    let last_number = altered.values().map(|of| of.number).max().unwrap_or_default();
    made.retain(|(_, life)| !deleted.contains(&life.incarnation));
    for (_, life) in &mut made {
        if let Some(of) = altered.remove(&life.incarnation) {
            (life.partitions, life.attributes) = (of.partitions, of.attributes);
        }
    }
    // If a failed write has left a record behind, a queue may occur twice. Clients know the one created last.
    made.sort_by_key(|(_, life)| life.incarnation);
    Merged { queues: made.into_iter().collect(), deleted, last_number }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn altered(incarnation: u64, number: u64, partitions: u16, json: &str) -> Record {
        let attributes = Attributes::parse_stored(json.as_bytes()).unwrap();
        Record::Altered(incarnation, Altered { number, partitions, attributes })
    }

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
            let file = [beginning(false), record.encode()].concat();
            let found = parse(&file).unwrap();
            assert_eq!((found.records, found.damage), (vec![record], vec![]));
        }
    }

    #[test]
    fn complete_records_are_read_despite_torn_or_damaged_ones() {
        let altered = altered(2, 4, 9, r#"{"_max_messages":7}"#);
        let records = [made("a", 1), altered, made("bc", 2), Record::Deleted(1), made("a", 3)];
        let mut file = beginning(true);
        let ends: Vec<usize> = records
            .iter()
            .map(|record| {
                file.extend(record.encode());
                file.len()
            })
            .collect();
        let whole = parse(&file).unwrap();
        assert_eq!((&whole.records[..], whole.end), (&records[..], file.len() as u64));
        for cut in beginning(true).len()..file.len() {
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
        let Merged { queues, deleted, last_number } = merge(whole.records.into_iter());
        assert_eq!(last_number, 4);
        let mut left: Vec<_> = queues.values().map(|life| life.incarnation).collect();
        left.sort_unstable();
        assert_eq!((left, deleted), (vec![2, 3], [1].into()));
    }

    #[test]
    fn a_queue_that_was_created_with_attributes_has_them_until_they_are_altered() {
        let Record::Made(name, life) = made("a", 1) else { unreachable!() };
        let attributes = Attributes::parse_stored(br#"{"a":1}"#).unwrap();
        let record = Record::Made(name, Life { attributes: attributes.clone(), ..life });
        let (file, place) = whole(std::slice::from_ref(&record));
        assert!(place.takes_attributes);
        let found = parse(&file).unwrap().records;
        assert_eq!(found, std::slice::from_ref(&record));
        let of = |records: Vec<Record>| merge(records.into_iter()).queues.into_values().next().unwrap();
        assert_eq!(of(found).attributes, attributes);
        assert_eq!(of(vec![record, altered(1, 2, 3, "{}")]).attributes, Attributes::default());
    }

    #[test]
    fn the_alteration_with_the_highest_number_counts() {
        let records = [
            made("a", 1),
            altered(1, 30, 5, r#"{"b":2}"#),
            altered(1, 20, 4, r#"{"a":1}"#),
            altered(9, 40, 4, r#"{"c":1}"#),
        ];
        for order in [[0, 1, 2, 3], [2, 1, 3, 0]] {
            let merged = merge(order.iter().map(|index| records[*index].clone()));
            let [life] = &merged.queues.values().collect::<Vec<_>>()[..] else { panic!("{merged:?}") };
            assert_eq!((life.partitions, life.attributes.to_json()), (5, r#"{"b":2}"#.to_owned()));
            assert_eq!(merged.last_number, 40);
        }
    }

    #[test]
    fn a_file_without_alterations_stays_readable_by_earlier_versions() {
        let (file, place) = whole(&[made("a", 1), Record::Deleted(1)]);
        assert_eq!((behind_prefix(MAGIC, 1, &file, 0).unwrap().0, place.takes_attributes), (1, false));
        let (file, place) = whole(&[made("a", 1), altered(1, 2, 3, "{}")]);
        let refused = Unreadable::Version { found: 2, newest: 1 };
        assert_eq!((behind_prefix(MAGIC, 1, &file, 0), place.takes_attributes), (Err(refused), true));
        let Record::Made(name, life) = made("b", 5) else { unreachable!() };
        let attributes = Attributes::parse_stored(br#"{"a":1}"#).unwrap();
        let other = Record::Made(name, Life { attributes, ..life });
        let gone = [made("a", 1), altered(1, 2, 3, "{}"), Record::Deleted(1), other, Record::Deleted(5)];
        assert_eq!(behind_prefix(MAGIC, 1, &whole(&gone).0, 0).unwrap().0, 1, "they are deleted");
    }

    #[test]
    fn replaced_alterations_are_left_out_of_a_new_file() {
        let records = [made("a", 1), altered(1, 2, 3, "{}"), altered(1, 4, 3, "{}"), altered(2, 3, 3, "{}")];
        let (file, place) = whole(&records);
        let found = parse(&file).unwrap();
        assert_eq!(found.records, [records[0].clone(), records[2].clone(), records[3].clone()]);
        assert_eq!((found.end, found.takes_attributes), (place.end, true));
    }

    #[test]
    fn attributes_of_any_allowed_size_are_read_back() {
        for bytes in [0, ATTRIBUTES_BYTES_MAX - r#"{"a":""}"#.len()] {
            let record = altered(1, 2, 3, &format!(r#"{{"a":"{}"}}"#, "x".repeat(bytes)));
            let file = [beginning(true), record.encode()].concat();
            assert_eq!(parse(&file).unwrap().records, [record]);
        }
    }
}
