//! Directories that earlier versions left, unchanged: every later version reads them.
//!
//! `tests/golden/version-1` is from version 0.1.0: two shards, three partitions a queue, files of 1 MiB
//! without the zeros at their end. One queue was deleted, another one deleted and created again. The server
//! was stopped once and then killed. Its messages were stored on 2026-11-28 with a TTL of 14 days.
//! `version-1-with-history` holds the same, written by a version that keeps a history, and stopped cleanly at
//! the end.
//!
//! `version-2` is from the version after 0.2.0: two shards, two partitions a queue, stopped twice and then killed. The
//! queue `plain` has 30 messages. `work` has 20, of which every fifth has a delay of 60 s, and 20 notes of
//! state. Its first four segments have version 1, and the others version 2.
//!
//! `version-2-with-headers` is from the same version: one shard, two partitions a queue, killed. The queue `plain` has 10
//! messages, and `headed` 11: the first ten have a header with their number, and the second five of them keys.
//!
//! `version-2-grouped` is from the version after 0.2.0, too: one shard, files of 32 KiB, the machine stopped when a grouped segment had
//! just got its name. The queues are those of the simulated world: `queue-0` had 12 messages, of which the first were
//! consumed, and `queue-1` has 36 and a note. The grouped segment replaces two others, which are still there.

use std::ops::RangeInclusive;
use std::path::PathBuf;

use super::*;
use crate::pb::headers::{HeaderRef, HeadersReader};

/// A time at which the messages have not expired.
const NOW: Moment = Moment { unix_ns: 1_795_900_000_000_000_000, boot: 1 };

const SEGMENT_BYTES: u64 = 1 << 20;

/// Copies the directory to a simulated disk.
fn directory(version: &str) -> Simulated {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(version);
    let disk = Simulated::new(1);
    for entry in std::fs::read_dir(path).unwrap() {
        let entry = entry.unwrap();
        let file = FileName::parse(entry.file_name().to_str().unwrap()).unwrap();
        let mut bytes = std::fs::read(entry.path()).unwrap();
        if matches!(file, FileName::Segment(_)) {
            bytes.resize(SEGMENT_BYTES as usize, 0);
        }
        for step in
            [Step::Create(file), Step::Write(file, 0, Arc::new(bytes)), Step::Sync(file), Step::SyncDirectory]
        {
            disk.run(&step).unwrap();
        }
    }
    disk
}

/// Returns the payloads of a queue, sorted.
fn payloads(disk: &Simulated, project: &str, queue: &str) -> Option<Vec<String>> {
    lines(disk, project, queue, inspect::Kind::Messages)
}

/// Returns the messages or the notes of a queue, sorted.
fn lines(disk: &Simulated, project: &str, queue: &str, kind: inspect::Kind) -> Option<Vec<String>> {
    let contents = inspect::Contents::read(disk, &NOW).unwrap();
    assert!(contents.report.damaged.is_empty(), "{:?}", contents.report);
    let name = (Project::parse(project).unwrap(), QueueName::parse(queue).unwrap());
    let header = |HeaderRef { name, value }: HeaderRef<'_>| {
        format!(" {name}={}", String::from_utf8_lossy(value.expect("the commands send no null")))
    };
    let mut all = Vec::new();
    let take = |_, stored: crate::base::batch::StoredBatch| {
        all.extend(stored.batch.records().map(|record| {
            let key = String::from_utf8_lossy(record.key);
            let delay = stored.batch.delay_secs();
            format!(
                "{key}{}{}{}{}",
                if key.is_empty() { "" } else { ":" },
                String::from_utf8_lossy(record.payload),
                HeadersReader::new(record.headers).map(Result::unwrap).map(header).collect::<String>(),
                if delay > 0 { format!(" after {delay} s") } else { String::new() },
            )
        }));
        Ok(())
    };
    contents.dump(disk, &name, kind, take, |file, damage| panic!("{file}: {damage:?}"))?.unwrap();
    all.sort();
    Some(all)
}

/// Returns a line for each number, sorted.
fn numbered(numbers: RangeInclusive<u32>, line: fn(u32) -> String) -> Option<Vec<String>> {
    let mut lines: Vec<String> = numbers.map(line).collect();
    lines.sort();
    Some(lines)
}

fn check(disk: &Simulated) {
    let numbered = |last: u32, line: fn(u32) -> String| numbered(1..=last, line);
    assert_eq!(payloads(disk, "default", "plain"), numbered(100, |number| format!("plain {number}")));
    assert_eq!(
        payloads(disk, "default", "keyed"),
        numbered(40, |number| format!("k{number}:keyed {number}"))
    );
    assert_eq!(payloads(disk, "other", "plain"), numbered(10, |number| format!("other {number}")));
    assert_eq!(payloads(disk, "default", "again"), Some(vec!["second life".to_owned()]));
    assert_eq!(payloads(disk, "default", "deleted"), None);
}

#[test]
fn a_directory_of_version_1_is_read() {
    let disk = directory("version-1");
    let deletions = FileName::Catalogue(u16::MAX);
    assert!(disk.list().unwrap().iter().any(|(file, _)| *file == deletions), "a file that is no shard's");
    check(&disk);
    let mut whole = 0;
    inspect::verify(&disk, &NOW, |verified| {
        assert!(verified.damage.is_empty(), "{verified:?}");
        whole += verified.whole;
    })
    .unwrap();
    assert!(whole > 0);
}

#[test]
fn a_directory_of_version_1_is_served_and_its_markers_stay_valid() {
    let disk = directory("version-1");
    let (dir, report) = open(&disk, 1, SEGMENT_BYTES, &NOW).unwrap();
    assert!(report.damaged.is_empty() && report.is_branch, "it may be a backup: {report:?}");
    let config = Settings { segment_bytes: SEGMENT_BYTES, ..Settings::default() };
    let dir = Arc::new(dir);
    let mut log: Log<u64, Simulated> = Log::new(dir.clone(), disk.clone(), 0, 1, &config);
    let now = Now::at_ms(1, NOW.unix().get());
    let name = (Project::parse("default").unwrap(), QueueName::parse("plain").unwrap());
    let queue = QueueId(1);
    assert!(log.submit(now, Request::Open { token: 1, queue, name, create: None }).is_ok());
    let Some(Completion::Opened { result: Ok(life), .. }) = log.poll_completion(now) else { panic!() };
    assert_eq!(life.partitions, 3);
    assert!(life.signing.timeline != 0, "timeline 0 belongs to the markers of version 1");
    let mut ends = Vec::new();
    for partition in Partition::all(3) {
        let partition = PartitionKey { queue, partition };
        let position = crate::base::queue::Position::Latest;
        assert!(log.submit(now, Request::Resolve { token: 2, partition, position }).is_ok());
        let Some(Completion::Resolved { result: Ok(end), .. }) = log.poll_completion(now) else { panic!() };
        ends.push(end);
        // A marker of version 1 keeps its position up to the end. A position beyond the end continues at the
        // end.
        for (offset, goes_on) in [(end, end), (Offset(end.0 / 2), Offset(end.0 / 2)), (end + 5, end)] {
            let position = crate::base::queue::Position::After { timeline: 0, offset };
            assert!(log.submit(now, Request::Resolve { token: 2, partition, position }).is_ok());
            let Some(Completion::Resolved { result, .. }) = log.poll_completion(now) else { panic!() };
            assert_eq!(result, Ok(goes_on));
        }
        let mut builder = BatchBuilder::new(ClientId::from(7), 1000, 0);
        builder.push(b"new");
        let append = Request::Append { token: 3, stream: Stream(1), partition, batch: builder.close() };
        assert!(log.submit(now, append).is_ok());
        let stored = loop {
            if let Some(Completion::Appended { result, .. }) = log.poll_completion(now) {
                break result.unwrap().unwrap();
            }
            assert!(disk.advance());
        };
        assert!(stored.start > end + (1 << 40), "ids continue after a gap");
    }
    assert_eq!(ends.iter().map(|end: &Offset| end.0).sum::<u64>(), 100);
    while !log.handle_stop(now) {
        assert!(disk.advance());
    }
    dir.mark_stopped(&disk, &NOW).unwrap();
    let all = payloads(&disk, "default", "plain").unwrap();
    assert_eq!(all.len(), 103);
}

#[test]
fn a_directory_with_a_history_is_read_and_its_clean_stop_is_known() {
    let disk = directory("version-1-with-history");
    check(&disk);
    let history = super::super::history::History::parse(&bytes(&disk, FileName::History)).unwrap();
    let stopped = history.stopped.expect("it was stopped cleanly");
    assert!(!stopped.is_empty(), "the segment that was written last is sealed");
    inspect::verify(&disk, &NOW, |verified| assert!(verified.damage.is_empty(), "{verified:?}")).unwrap();
    // What the stop sealed cannot be torn, with or without its index.
    let sealed = FileName::Segment(stopped[0].place);
    disk.flip(sealed, stopped[0].end as usize - 9, 1);
    for index in [true, false] {
        if !index {
            disk.run(&Step::Remove(FileName::Index(stopped[0].place))).unwrap();
        }
        let mut is_seen = false;
        inspect::verify(&disk, &NOW, |verified| {
            is_seen |= verified.file == sealed && !verified.damage.is_empty()
        })
        .unwrap();
        assert!(is_seen, "with an index: {index}");
    }
    let (_, report) = open(&disk, 2, SEGMENT_BYTES, &NOW).unwrap();
    assert!(report.damaged.iter().any(|damaged| damaged.file == sealed), "{report:?}");
}

#[test]
fn a_directory_of_version_2_is_read_and_its_state_is_found() {
    let disk = directory("version-2");
    let work = |number: u32| match number % 5 {
        0 => format!("work {number} after 60 s"),
        _ => format!("work {number}"),
    };
    let check = |disk: &Simulated| {
        assert_eq!(payloads(disk, "default", "plain"), numbered(1..=30, |number| format!("plain {number}")));
        assert_eq!(payloads(disk, "default", "work"), numbered(11..=30, work));
        let notes = lines(disk, "default", "work", inspect::Kind::State);
        assert_eq!(notes, numbered(11..=30, |number| format!("note {number}")));
    };
    check(&disk);
    let mut counted = (0, 0);
    inspect::verify(&disk, &NOW, |verified| {
        assert!(verified.damage.is_empty() && verified.torn == 0, "{verified:?}");
        counted = (counted.0 + verified.messages, counted.1 + verified.notes);
    })
    .unwrap();
    assert_eq!(counted, (50, 20));
    let mut versions: Vec<u32> = Vec::new();
    for (file, _) in disk.list().unwrap() {
        if matches!(file, FileName::Segment(_)) {
            versions.push(header::SegmentHeader::parse(&bytes(&disk, file)).unwrap().version());
        }
    }
    assert_eq!(versions, [1, 1, 1, 1, 2, 2, 2, 2, 2, 2, 2, 2]);
    let (dir, report) = open(&disk, 1, SEGMENT_BYTES, &NOW).unwrap();
    assert!(report.damaged.is_empty() && report.messages == 50, "{report:?}");
    let config = Settings { segment_bytes: SEGMENT_BYTES, ..Settings::default() };
    let mut log: Log<u64, Simulated> = Log::new(Arc::new(dir), disk.clone(), 0, 1, &config);
    let name = (Project::parse("default").unwrap(), QueueName::parse("work").unwrap());
    assert!(log.adopt(QueueId(1), &name).is_some());
    let mut stateful: Vec<u16> =
        std::iter::from_fn(|| log.poll_stateful()).map(|key| key.partition.0).collect();
    stateful.sort_unstable();
    assert_eq!(stateful, [0, 1]);
    drop(log);
    check(&disk);
}

#[test]
fn a_directory_with_headers_is_read() {
    let disk = directory("version-2-with-headers");
    assert_eq!(payloads(&disk, "default", "plain"), numbered(1..=10, |number| format!("plain {number}")));
    let headed = |number: u32| match number {
        1..=5 => format!("headed {number} number={number} lang=de"),
        11 => "headed 11".to_owned(),
        _ => format!("k{number}:headed {number} number={number}"),
    };
    assert_eq!(payloads(&disk, "default", "headed"), numbered(1..=11, headed));
    let mut features: Vec<u64> = Vec::new();
    for (file, _) in disk.list().unwrap() {
        if matches!(file, FileName::Segment(_)) {
            features.push(header::SegmentHeader::parse(&bytes(&disk, file)).unwrap().features.0);
        }
    }
    assert_eq!(features, [0, 16]);
}

#[test]
fn a_directory_with_a_grouped_segment_is_read_once() {
    let disk = directory("version-2-grouped");
    let moment = Moment { unix_ns: 1_000_000_001_000_000_000, boot: 1 };
    let segments: Vec<FileName> = segments(&disk);
    // A grouped file is as long as its content, and the others have their size.
    for file in &segments {
        let header = header::SegmentHeader::parse(&bytes(&disk, *file)).unwrap();
        disk.cut(*file, header.bytes as usize);
    }
    let grouped: Vec<grouped::Grouped> = segments
        .iter()
        .filter_map(|file| {
            let blocks = bytes(&disk, *file);
            grouped::Grouped::parse(&header::SegmentHeader::parse(&blocks).unwrap(), &blocks).unwrap()
        })
        .collect();
    assert_eq!(grouped.iter().map(|grouped| grouped.replaced.len()).collect::<Vec<_>>(), [2]);
    let check = |disk: &Simulated| {
        let mut messages = 0;
        inspect::verify(disk, &moment, |verified| {
            assert!(verified.damage.is_empty() && verified.torn == 0, "{verified:?}");
            messages += verified.messages;
        })
        .unwrap();
        let contents = inspect::Contents::read(disk, &moment).unwrap();
        let queues = contents.queues(moment.unix());
        let held: Vec<u64> = queues.iter().map(|(_, held)| held.messages).collect();
        assert_eq!(messages, held.iter().sum::<u64>());
        held
    };
    assert_eq!(check(&disk)[1], 36);
    let (_, report) = open(&disk, 1, 32 << 10, &moment).unwrap();
    assert!(report.damaged.is_empty(), "{report:?}");
    // The replaced segments are empty now.
    let stamps: Vec<u64> = segments
        .iter()
        .map(|file| header::SegmentHeader::parse(&bytes(&disk, *file)).unwrap().stamp)
        .collect();
    assert!(grouped[0].replaced.iter().all(|replaced| !stamps.contains(replaced)));
    assert_eq!(check(&disk)[1], 36);
}

fn segments(disk: &Simulated) -> Vec<FileName> {
    let files = disk.list().unwrap().into_iter().map(|(file, _)| file);
    files.filter(|file| matches!(file, FileName::Segment(_))).collect()
}

fn bytes(disk: &Simulated, file: FileName) -> Vec<u8> {
    super::super::disk::read(disk, file, 0, SEGMENT_BYTES as usize).unwrap()
}
