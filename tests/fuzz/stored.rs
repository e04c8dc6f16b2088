//! The bodies of the fuzz targets for bytes from a disk or a Kafka topic: segments, indexes, catalogues, notes of
//! claims and packed records.
//!
//! Random bytes fail at the first checksum. So the bodies first correct the checksums wherever a structure
//! may begin, as an attacker with access to the disk could.
#![allow(dead_code, clippy::unwrap_used, clippy::expect_used)]

use millstream::base::clock::Now;
use millstream::base::names::ClientId;
use millstream::store::claims;
use millstream::store::kafka::header::Header;
use millstream::store::log::catalogue::{self, Merged, Record};
use millstream::store::log::features::Features;
use millstream::store::log::format::{
    ALIGN, BATCH_HEADER, BatchHeader, ROUND_HEADER, ROUNDS_AT, Unreadable, checksum, may_be_batch,
    may_be_round,
};
use millstream::store::log::header::{FILE_HEADER as HEADER, SegmentHeader};
use millstream::store::log::history::History;
use millstream::store::log::index::{INDEX_HEADER, Index, SPAN_BYTES};
use millstream::store::log::scan::{Damage, scan, scan_sealed};

const STAMP: u64 = 7;

fn put(bytes: &mut [u8], at: usize, field: &[u8]) {
    bytes[at..at + field.len()].copy_from_slice(field);
}

/// Corrects the checksums of rounds and batches wherever one may begin.
fn seal_rounds(file: &mut [u8]) {
    for at in (ROUNDS_AT as usize..file.len()).step_by(ALIGN) {
        if may_be_batch(&file[at..]) && file.len() - at >= BATCH_HEADER {
            let records = u32::from_le_bytes(file[at + 12..at + 16].try_into().unwrap()) as usize % 512;
            put(file, at + 12, &(records as u32).to_le_bytes());
            if let Some(held) = file[at + BATCH_HEADER..].get(..records) {
                let sum = checksum(&[held]);
                put(file, at + 8, &sum.to_le_bytes());
            }
            let sum = checksum(&[&STAMP.to_le_bytes(), &file[at + 8..at + BATCH_HEADER]]);
            put(file, at + 4, &sum.to_le_bytes());
        }
        if may_be_round(&file[at..]) && file.len() - at >= ROUND_HEADER {
            put(file, at + 8, &STAMP.to_le_bytes());
            put(file, at + 16, &(at as u64).to_le_bytes());
            let sum = checksum(&[&file[at + 8..at + ROUND_HEADER]]);
            put(file, at + 4, &sum.to_le_bytes());
        }
    }
}

fn check_damage(damage: &[Damage], end: u64) {
    for Damage { at, bytes } in damage {
        assert!(*at >= ROUNDS_AT && *bytes > 0 && at + bytes <= end, "{damage:?} of {end}");
    }
}

/// A segment: the batches found are whole, in order and within the file. Bytes before its end are found or
/// damaged.
pub fn segment(data: &[u8]) {
    segment_header(data);
    let features = Features(data.first().map_or(0, |byte| u64::from(*byte) & Features::SUPPORTED.0));
    let header = SegmentHeader { stamp: STAMP, number: 1, bytes: ROUNDS_AT + data.len() as u64, features };
    let mut file = header.encode();
    assert_eq!(SegmentHeader::parse(&file), Ok(header));
    file.extend_from_slice(data);
    seal_rounds(&mut file);
    let length = file.len() as u64;
    let found = scan(&header, &file);
    assert!((ROUNDS_AT..=length).contains(&found.end) && found.end + found.torn >= found.end);
    check_damage(&found.damage, length);
    let mut before = ROUNDS_AT;
    for (at, batch) in &found.batches {
        assert!(*at >= before && at + batch.bytes() as u64 <= length, "batches must not overlap");
        before = at + batch.bytes() as u64;
        let records = batch.records(&file[*at as usize..]).expect("a batch that is found must be whole");
        if let Some(stored) = batch.batch(records) {
            assert_eq!(u64::from(stored.batch.count()), u64::from(batch.count));
            let _ = (stored.end_offset(), stored.expiry());
        }
        let _ = (batch.end_offset(), batch.expiry());
    }
    for span in found.spans().values() {
        assert!(span.head.first <= span.head.end || span.head.messages > 0);
        assert!(span.runs.iter().all(|run| run.at + run.bytes <= length));
    }
    // A segment that a clean stop has sealed has no torn end.
    let damage = scan_sealed(&header, &file, length);
    check_damage(&damage, length);
    assert!(
        found.end == length || !damage.is_empty(),
        "a torn end of a sealed segment must be reported as damage"
    );
    let _ = BatchHeader::parse(STAMP, data);
}

/// The header of a segment, of versions 0 to 3: a known version with known features is read, and others are
/// refused by what is unknown.
fn segment_header(data: &[u8]) {
    let mut block = data.to_vec();
    block.resize(HEADER, 0);
    let version = u32::from(block[8] % 4);
    put(&mut block, 0, b"MSTRMLOG");
    put(&mut block, 8, &version.to_le_bytes());
    let sum = checksum(&[&block[8..12], &block[16..40]]);
    put(&mut block, 12, &sum.to_le_bytes());
    let sum = checksum(&[&block[..48]]);
    put(&mut block, 48, &sum.to_le_bytes());
    let features = Features(u64::from_le_bytes(block[40..48].try_into().unwrap()));
    let unsupported = features.without(Features::SUPPORTED);
    match SegmentHeader::parse(&block) {
        Ok(header) if version == 1 => assert_eq!(header.features, Features::NONE),
        Ok(header) => {
            assert_eq!((version, header.features, unsupported), (2, features, Features::NONE));
            // A segment without features is written as version 1.
            let is_same = header.encode()[..HEADER] == block[..HEADER];
            assert!(is_same || features == Features::NONE);
        }
        Err(Unreadable::Features(named)) => assert_eq!((version, named), (2, unsupported)),
        Err(why) => assert_eq!(why, Unreadable::Version { found: version, newest: 2 }),
    }
}

/// An index: its spans are within the file, and a wrong checksum is detected.
pub fn index(data: &[u8]) {
    let _ = Index::parse(STAMP, data);
    let mut file = data.to_vec();
    if file.len() < INDEX_HEADER {
        return;
    }
    // The magic number and version, the stamp, and correct checksums for the largest possible number of
    // spans.
    put(&mut file, 0, b"MSTRMIDX");
    put(&mut file, 8, &1u32.to_le_bytes());
    put(&mut file, 16, &STAMP.to_le_bytes());
    let spans = (file.len() - INDEX_HEADER) / SPAN_BYTES;
    let count = usize::from(data[32]) % (spans + 1);
    put(&mut file, 32, &(count as u32).to_le_bytes());
    let sum = checksum(&[&file[INDEX_HEADER..INDEX_HEADER + count * SPAN_BYTES]]);
    put(&mut file, 36, &sum.to_le_bytes());
    let sum = checksum(&[&file[8..12], &file[16..INDEX_HEADER]]);
    put(&mut file, 12, &sum.to_le_bytes());
    assert_eq!(Index::heads_bytes(&file), Ok(count * SPAN_BYTES));
    let Ok(index) = Index::parse(STAMP, &file) else { return };
    assert_eq!(index.spans.len(), count);
    assert!(Index::parse(STAMP + 1, &file).is_err(), "the index of another segment must be refused");
    for (_, _, at) in &index.spans {
        let begins = usize::try_from(at.at).unwrap_or(usize::MAX);
        let bytes = file.get(begins..).and_then(|rest| rest.get(..at.bytes()));
        if let Some(runs) = bytes.and_then(|bytes| at.parse(bytes)) {
            assert_eq!(runs.len(), at.count as usize);
        }
    }
}

/// A catalogue and a history of starts: what is parsed encodes to bytes that parse to the same value.
pub fn catalogue(data: &[u8]) {
    let _ = (catalogue::parse(data), History::parse(data));
    let mut file = catalogue::beginning(data.first().is_some_and(|byte| byte % 2 == 1));
    let begins = file.len();
    file.extend_from_slice(data);
    for at in begins..file.len() {
        if file[at..].starts_with(b"que\xd1") && file.len() - at >= 24 {
            let length = |at: usize| usize::from(u16::from_le_bytes([file[at], file[at + 1]]));
            let rest = match length(at + 8) {
                // An alteration.
                3 => length(at + 20) | length(at + 22) << 16,
                _ => length(at + 20) + length(at + 22),
            };
            if let Some(record) = file[at + 8..].get(..16 + rest) {
                let sum = checksum(&[record]);
                put(&mut file, at + 4, &sum.to_le_bytes());
            }
        }
    }
    let found = catalogue::parse(&file).expect("the version must be known");
    assert!(found.end <= file.len() as u64);
    assert!(found.damage.iter().all(|(at, bytes)| at + bytes <= found.end));
    let mut again = catalogue::beginning(found.takes_attributes);
    found.records.iter().for_each(|record: &Record| again.extend(record.encode()));
    assert_eq!(catalogue::parse(&again).unwrap().records, found.records);
    let (whole, place) = catalogue::whole(&found.records);
    assert_eq!(catalogue::parse(&whole).unwrap().end, place.end);
    let merged = catalogue::merge(catalogue::parse(&whole).unwrap().records.into_iter());
    let Merged { queues, deleted, .. } = catalogue::merge(found.records.into_iter());
    assert_eq!((&merged.queues, &merged.deleted), (&queues, &deleted));
    assert!(queues.values().all(|life| !deleted.contains(&life.incarnation)));
}

/// The notes of a ledger: whatever they say, the ledger is sound, and it is the same after its snapshot is read.
pub fn notes(data: &[u8]) {
    let now = Now::at_ms(1 << 40, 1 << 41);
    // A byte of 255 separates notes, so that a note that cannot be read does not hide the next ones.
    let (floor, whole) = claims::fold(now, data.split(|byte| *byte == 255));
    let (again_floor, again) = claims::fold(now, std::iter::once(&whole[..]));
    assert_eq!((floor, &whole), (again_floor, &again));
}

/// A packed record of a Kafka topic: its messages cover the bytes of the value, each once.
pub fn packed(data: &[u8]) {
    let (header, value) = data.split_at(data.len().min(26));
    let header = Header::decode(header);
    let Some(packed) = header.packed else { return };
    let client = header.client.unwrap_or(ClientId::from(1));
    let Some(batch) = packed.batch(client, header.ttl_secs.unwrap_or(60), value) else { return };
    let mut messages = 0;
    let mut bytes = 0;
    for record in batch.records() {
        messages += 1;
        bytes += record.bytes() + packed.shape.lengths_bytes();
    }
    assert_eq!((messages, bytes), (packed.count, value.len()));
}
