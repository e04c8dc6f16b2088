//! The embedded durable log: what is acknowledged survives `kill -9` and, with `durability = "fsync"`, power loss.
//!
//! | file | one concept |
//! | --- | --- |
//! | here | one shard's part: requests in, steps to the disk, completions out |
//! | `format`, `scan` | bytes in segments, and reading them without an index |
//! | `index` | which partitions a segment holds, and where |
//! | `journal` | the segment that is written, round by round |
//! | `segment`, `partition` | what is sealed, and a partition as its shard knows it |
//! | `backlog` | reading what is older than what is in memory |
//! | `catalogue` | the queues |
//! | `recovery`, `data_dir` | what is found at the start, and what the shards share of it |
//! | `inspect` | looking into a directory that no server uses |
//! | `disk`, `os` | what is asked of a disk, and the operating system's |
//!
//! A shard writes one segment at a time, in rounds: what came while the last round was written makes the next one, one write and
//! one sync, without a timer. All partitions of the shard share it, so one file is synced whatever the number of partitions. A
//! full segment is sealed: its index is written behind it, and a file whose messages have all expired becomes another segment.
//!
//! The other way, a journal and a file for each partition written behind it, was tried with 1,000 partitions (`perf/README.md`): 3.9
//! million messages of 100 B a second instead of 15.7, twice the bytes, six times the CPU time, and checkpoints of 0.3 s. It reads
//! one of 1,000 partitions back at 10.5 million a second instead of 4.5, and at 6.2 instead of 0.07 where each batch is one message.
//! A third, in which full segments are grouped by partition behind the writing, has most of both; it can be built on this one.

mod backlog;
mod catalogue;
mod data_dir;
pub mod disk;
mod format;
mod index;
pub mod inspect;
mod journal;
mod os;
mod partition;
mod recovery;
mod scan;
mod segment;

#[cfg(test)]
#[path = "../../../tests/common/random.rs"]
mod random;
#[cfg(test)]
mod simulated;
#[cfg(test)]
mod tests;

pub use backlog::{LOAD_COST_MAX, LOADS_MAX};
pub use data_dir::DataDir;
pub use format::BLOCK;
pub use journal::{ROUND_BYTES, stored_bytes_max};
pub use os::OsDirectory;
pub use recovery::{Damaged, OpenError, Report, open};

use std::collections::{HashMap, VecDeque};
use std::hash::Hash;
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use self::backlog::{Backlog, Job, Load, Served};
use self::catalogue::Record;
use self::data_dir::{Deletion, Found};
use self::disk::{Disk, FileName, NewPlace, Reserve, Step, make_segment, save_index};
use self::format::{PartitionId, SegmentHeader};
use self::index::{Index, Run, RunsAt};
use self::journal::{Active, Entry, Journal, Written, round_steps};
use self::partition::{Partition, Place, Since};
use self::scan::scan;
use self::segment::{Past, Runs, SealedSpan, Segment};
use super::window::Fetch;
use super::{Completion, Fence, QueueSummary, Request, Store, StoreCounters, Stream};
use crate::batch::{Batch, Fetched, StoredBatch};
use crate::clock::{Now, millis};
use crate::config::{Durability, LogConfig};
use crate::error::StoreFault;
use crate::names::FullName;
use crate::queue::{PartitionKey, Position, QueueId};

/// How often expired segments are looked for, and what failed is tried again, milliseconds.
const TICK_MS: u64 = 1_000;

/// Whose steps they are.
#[derive(Clone, Debug)]
pub enum Tag {
    /// A round.
    Round,
    /// A segment that is made: its number.
    Make(u64),
    /// The index of a sealed segment: its number.
    Index(u64),
    /// The files of a segment that is no more are removed.
    Remove,
    /// Queues are written into the catalogue.
    Catalogue,
    /// The runs of a span are read.
    Runs(PartitionId, u64, SpanRuns),
    /// A whole segment is read, as its index does not say where that partition's messages are.
    Rescan(PartitionId, Arc<Segment>),
    /// Messages are read.
    Load(PartitionId, Box<LoadTag>),
}

/// Runs that are read.
#[derive(Clone, Debug)]
pub struct SpanRuns {
    segment: Arc<Segment>,
    at: RunsAt,
}

/// Messages that are read.
#[derive(Clone, Debug)]
pub struct LoadTag(Load);

#[derive(Debug)]
struct Opening<T> {
    token: T,
    queue: QueueId,
    name: FullName,
    partitions: u16,
}

/// The segment of a round that failed.
#[derive(Debug)]
struct Broken {
    segment: Arc<Segment>,
    index: Vec<u8>,
    /// Its index is being written.
    is_saving: bool,
}

/// See the module's page.
#[derive(Debug)]
pub struct Log<T, D> {
    disk: D,
    dir: Arc<DataDir>,
    shard: u16,
    shards: u16,
    durability: Durability,
    segment_bytes: u64,
    tail_bytes_max: usize,
    max_bytes: u64,
    max_age_ms: u64,
    known: HashMap<PartitionKey, PartitionId>,
    partitions: HashMap<PartitionId, Partition<T>>,
    journal: Journal<T>,
    /// A segment that is ready, and whether one is being made.
    spare: Option<Active>,
    making: Option<(NewPlace, SegmentHeader)>,
    /// When one may be made again, `mono_ms`: the last could not.
    make_again_ms: u64,
    /// Sealed segments whose indexes are being written.
    indexing: HashMap<u64, Index>,
    /// The segment of a round that failed: until its index says where it ends, nothing is stored.
    broken: Option<Broken>,
    /// Why nothing can be stored now.
    trouble: Option<String>,
    /// Sealed segments that this shard looks after, oldest first.
    kept: Vec<Arc<Segment>>,
    openings: VecDeque<Opening<T>>,
    opening: Vec<(T, QueueId, FullName, super::Life)>,
    catalogue_end: u64,
    backlog: Backlog<T>,
    /// The batches in memory, in the order of their arrival.
    arrivals: VecDeque<(PartitionId, usize)>,
    tail_bytes: usize,
    fence: Fence,
    completions: VecDeque<Completion<T>>,
    woken: Vec<PartitionId>,
    gone: VecDeque<QueueId>,
    /// Deletions that this shard has seen.
    deletions: usize,
    /// Retirements of segments that it has seen.
    retirements: usize,
    counters: StoreCounters,
}

impl<T: Copy + Eq + Hash, D: Disk<Tag>> Log<T, D> {
    /// The store of shard `shard` of `shards`.
    pub fn new(dir: Arc<DataDir>, disk: D, shard: u16, shards: u16, config: &LogConfig) -> Self {
        let Found { pasts, segments, catalogue_end } = dir.take_shard(shard, shards);
        let share = |bytes: usize| bytes / usize::from(shards.max(1));
        let mut log = Self {
            disk,
            dir,
            shard,
            shards,
            durability: config.durability,
            segment_bytes: config.segment_bytes,
            tail_bytes_max: share(config.tail_bytes),
            max_bytes: config.max_bytes,
            max_age_ms: millis(config.max_age),
            known: HashMap::new(),
            partitions: pasts.into_iter().map(|(id, past)| (id, Partition::new(past))).collect(),
            journal: Journal::new(),
            spare: None,
            making: None,
            make_again_ms: 0,
            indexing: HashMap::new(),
            broken: None,
            trouble: None,
            kept: segments,
            openings: VecDeque::new(),
            opening: Vec::new(),
            catalogue_end,
            backlog: Backlog::new(share(config.read_bytes)),
            arrivals: VecDeque::new(),
            tail_bytes: 0,
            fence: Fence::default(),
            completions: VecDeque::new(),
            woken: Vec::new(),
            gone: VecDeque::new(),
            deletions: 0,
            retirements: 0,
            counters: StoreCounters::default(),
        };
        log.mark_ends();
        log.make_segment(Reserve::Keep);
        log
    }

    /// Where a partition ends behind what is known of it, as something behind that was lost, that is written at once.
    fn mark_ends(&mut self) {
        for (id, partition) in &mut self.partitions {
            if partition.past.spans.back().map_or(0, |span| span.head.end) < partition.past.end {
                partition.is_marking = true;
                self.journal.pending.push_back(Entry::Mark { id: *id });
            }
        }
    }

    /// What the log calls a partition.
    fn id(&mut self, key: PartitionKey) -> Option<PartitionId> {
        if let Some(id) = self.known.get(&key) {
            return Some(*id);
        }
        let id = self.dir.partition(key)?;
        self.known.insert(key, id);
        self.partitions.entry(id).or_insert_with(|| Partition::new(Past::default()));
        Some(id)
    }

    fn append(&mut self, now: Now, token: T, stream: Stream, id: PartitionId, batch: Batch) {
        if self.fence.is_closed(stream) {
            return self.refuse(now, token, stream, &batch, StoreFault::Fenced);
        }
        if let Some(why) = &self.trouble {
            let fault = StoreFault::Unavailable(why.clone());
            return self.refuse(now, token, stream, &batch, fault);
        }
        if batch.stored_bytes() as u64 > stored_bytes_max(self.segment_bytes) {
            let fault = StoreFault::Unavailable(format!(
                "{} bytes at once are more than log_segment_bytes = {} holds",
                batch.stored_bytes(),
                self.segment_bytes
            ));
            return self.refuse(now, token, stream, &batch, fault);
        }
        self.journal.pending.push_back(Entry::Append { token, stream, id, batch });
    }

    fn refuse(&mut self, now: Now, token: T, stream: Stream, batch: &Batch, fault: StoreFault) {
        self.fence.close(now, stream);
        self.counters.refused += u64::from(batch.count());
        self.completions.push_back(Completion::Appended { token, result: Err(fault) });
    }

    /// Everything that is to be written is not.
    fn refuse_all(&mut self, now: Now, why: &str) {
        let round = self.journal.round.take().map(|round| round.written).unwrap_or_default();
        let entries = round.into_iter().map(|written| written.entry);
        for entry in entries.chain(std::mem::take(&mut self.journal.pending)).collect::<Vec<_>>() {
            if let Some(partition) = self.partitions.get_mut(&entry.id()) {
                // What was given out to messages that are not stored is given out again.
                partition.next = partition.window.end();
            }
            match entry {
                Entry::Append { token, stream, batch, .. } => {
                    self.refuse(now, token, stream, &batch, StoreFault::Unavailable(why.to_owned()));
                }
                Entry::Mark { id } => {
                    if let Some(partition) = self.partitions.get_mut(&id) {
                        partition.is_marking = false;
                    }
                }
            }
        }
    }

    /// Nothing can be stored until it is tried again.
    fn fail(&mut self, now: Now, why: String) {
        if self.trouble.is_none() {
            tracing::error!(shard = self.shard, why, "nothing can be stored for now");
        }
        self.refuse_all(now, &why);
        self.trouble = Some(why);
    }

    fn recover(&mut self) {
        if self.trouble.take().is_some() {
            tracing::info!(shard = self.shard, "messages are stored again");
        }
    }

    /// Has a segment made, unless one is ready or on its way.
    fn make_segment(&mut self, reserve: Reserve) {
        if self.spare.is_some() || self.making.is_some() {
            return;
        }
        let place = self.dir.take_place();
        // Random, so that nothing that a client sends looks like a round of ours.
        let stamp = uuid::Uuid::new_v4().as_u64_pair().0;
        let header = SegmentHeader { stamp, number: place.number, bytes: self.segment_bytes };
        self.making = Some((place, header));
        let steps = make_segment(place, header.bytes, header.encode(), reserve);
        self.disk.submit(Tag::Make(place.number), steps);
    }

    fn handle_made(&mut self, now: Now, result: io::Result<()>) {
        let Some((place, header)) = self.making.take() else { return };
        self.make_again_ms = if result.is_err() { now.mono_ms + TICK_MS } else { 0 };
        match result {
            Ok(()) => {
                self.spare = Some(Active::new(place, header));
                if self.broken.is_none() {
                    self.recover();
                }
            }
            Err(error) => {
                // What there is of it is removed: a full disk needs the room.
                self.disk.submit(Tag::Remove, vec![Step::Remove(FileName::Segment(place.place))]);
                if self.journal.active.is_none() {
                    self.fail(now, format!("no file for messages can be made: {error}"));
                } else {
                    tracing::warn!(shard = self.shard, %error, "no file for more messages can be made");
                }
            }
        }
    }

    /// Ends the segment that is written. Returns its index's file.
    fn seal(&mut self) -> Option<(Arc<Segment>, Vec<u8>)> {
        let active = self.journal.active.take()?;
        let Active { place, header, end, spans, .. } = active;
        let segment = Arc::new(Segment::new(place, &header, spans.values().map(|span| &span.head)));
        let (index, bytes) = Index::encode(header.stamp, end, &spans);
        for (id, span) in spans {
            if let Some(partition) = self.partitions.get_mut(&id) {
                let runs = Runs::Memory(span.runs.into());
                partition.past.push(SealedSpan { segment: segment.clone(), head: span.head, runs });
            }
        }
        self.indexing.insert(header.number, index);
        self.kept.push(segment.clone());
        Some((segment, bytes))
    }

    fn handle_indexed(&mut self, now: Now, number: u64, result: io::Result<()>) {
        let broken = self.broken.as_mut().filter(|broken| broken.segment.number == number);
        let is_broken = broken.map(|broken| broken.is_saving = false).is_some();
        match result {
            Ok(()) => {
                let Some(index) = self.indexing.remove(&number) else { return };
                for (id, _, at) in index.spans {
                    let Some(partition) = self.partitions.get_mut(&id) else { continue };
                    let mut newest = partition.past.spans.iter_mut().rev();
                    if let Some(span) = newest.find(|span| span.segment.number == number) {
                        span.runs = Runs::Index(at);
                    }
                }
                if is_broken {
                    self.broken = None;
                    if self.spare.is_some() {
                        self.recover();
                    }
                    self.make_segment(Reserve::Keep);
                }
            }
            Err(error) if is_broken => self.fail(now, format!("the disk fails: {error}")),
            Err(error) => {
                tracing::warn!(shard = self.shard, %error, "an index cannot be written; the start after this will scan its segment");
                self.indexing.remove(&number);
            }
        }
    }

    /// Begins the next round, if there is something to write and nothing under way.
    fn write(&mut self, now: Now) {
        if self.journal.round.is_some() || self.journal.pending.is_empty() || self.broken.is_some() {
            return;
        }
        if self.journal.active.is_none() {
            self.journal.active = self.spare.take();
            if self.journal.active.is_none() {
                return self.make_segment(Reserve::Keep);
            }
        }
        let partitions = &mut self.partitions;
        let round = self.journal.next_round(|entry| {
            // Its queue may have been deleted meanwhile.
            let Some(partition) = partitions.get_mut(&entry.id()) else { return (None, 0, now.unix_ms) };
            partition.past.last_ms = partition.past.last_ms.max(now.unix_ms);
            let timestamp_ms = partition.past.last_ms;
            let Entry::Append { batch, .. } = entry else { return (None, partition.next, timestamp_ms) };
            let base_offset = partition.next;
            partition.next += u64::from(batch.count());
            (
                Some(StoredBatch { base_offset, timestamp_ms, batch: batch.clone() }),
                partition.next,
                timestamp_ms,
            )
        });
        match round {
            Some((file, at, bytes)) => {
                let is_synced = self.durability == Durability::Fsync;
                self.disk.submit(Tag::Round, round_steps(file, at, bytes, is_synced));
                let is_half_full = self.journal.active.as_ref().is_some_and(Active::is_half_full);
                if is_half_full && self.make_again_ms <= now.mono_ms {
                    self.make_segment(Reserve::Keep);
                }
            }
            None => {
                if let Some((segment, index)) = self.seal() {
                    self.disk.submit(Tag::Index(segment.number), save_index(segment.place, index));
                }
                self.write(now);
            }
        }
    }

    fn handle_round(&mut self, now: Now, result: io::Result<()>) {
        match result {
            Ok(()) => {
                for written in self.journal.handle_stored() {
                    self.handle_written(written);
                }
            }
            Err(error) => {
                // Nobody knows what of the round is on the disk. The segment ends before it, and that is made durable before anything
                // else is stored: else its messages might be there twice after a restart, or others under their offsets.
                self.fail(now, format!("the disk fails: {error}"));
                if let Some((segment, index)) = self.seal() {
                    self.disk.submit(Tag::Index(segment.number), save_index(segment.place, index.clone()));
                    self.broken = Some(Broken { segment, index, is_saving: true });
                }
            }
        }
    }

    fn handle_written(&mut self, written: Written<T>) {
        let id = written.entry.id();
        let partition = self.partitions.get_mut(&id);
        let (token, partition, stored) = match (written.entry, partition, written.stored) {
            (Entry::Append { token, .. }, Some(partition), Some(stored)) => (token, partition, stored),
            (Entry::Append { token, .. }, ..) => {
                return self.completions.push_back(Completion::Appended { token, result: Err(forgotten()) });
            }
            (Entry::Mark { .. }, Some(partition), _) => return partition.is_marking = false,
            (Entry::Mark { .. }, None, _) => return,
        };
        let range = stored.base_offset..stored.end_offset();
        self.counters.stored += range.end - range.start;
        let before = partition.window.bytes();
        partition.window.push(stored);
        let cost = partition.window.bytes() - before;
        if !partition.waiting.is_empty() && !partition.is_woken {
            partition.is_woken = true;
            self.woken.push(id);
        }
        self.arrivals.push_back((id, cost));
        self.tail_bytes += cost;
        while self.tail_bytes > self.tail_bytes_max
            && let Some((id, cost)) = self.arrivals.pop_front()
        {
            self.tail_bytes -= cost;
            if let Some(partition) = self.partitions.get_mut(&id) {
                partition.window.pop_oldest();
            }
        }
        self.completions.push_back(Completion::Appended { token, result: Ok(Some(range)) });
    }

    fn open(&mut self, token: T, queue: QueueId, name: FullName, create: Option<u16>) {
        let result = match (self.dir.open(queue, &name), create) {
            (Some(life), _) => Ok(life),
            (None, None) => Err(StoreFault::NoQueue),
            (None, Some(partitions)) => {
                return self.openings.push_back(Opening { token, queue, name, partitions });
            }
        };
        self.completions.push_back(Completion::Opened { token, result });
    }

    /// Writes the queues that wait for it into the catalogue.
    fn write_catalogue(&mut self) {
        if !self.opening.is_empty() || self.openings.is_empty() {
            return;
        }
        let mut records = Vec::new();
        for Opening { token, queue, name, partitions } in self.openings.drain(..) {
            let life = self.dir.conceive(partitions);
            records.extend(Record::Made(name.clone(), life).encode());
            self.opening.push((token, queue, name, life));
        }
        let file = FileName::Catalogue(self.shard);
        let steps = vec![Step::Write(file, self.catalogue_end, Arc::new(records)), Step::Sync(file)];
        self.disk.submit(Tag::Catalogue, steps);
    }

    fn handle_catalogue(&mut self, result: &io::Result<()>) {
        for (token, queue, name, life) in std::mem::take(&mut self.opening) {
            let result = match result {
                Ok(()) => {
                    self.catalogue_end += Record::Made(name.clone(), life).encode().len() as u64;
                    self.dir.record(queue, name, life);
                    Ok(life)
                }
                Err(error) => {
                    Err(StoreFault::Unavailable(format!("the catalogue cannot be written: {error}")))
                }
            };
            self.completions.push_back(Completion::Opened { token, result });
        }
    }

    fn fetch(&mut self, now: Now, id: PartitionId, fetch: Fetch<T>) {
        let Some(partition) = self.partitions.get(&id) else { return };
        if matches!(partition.place(id, self.journal.active.as_ref(), fetch.from), Place::Tail) {
            return self.read_tail(now, id, Job::Fetch(fetch));
        }
        self.backlog.add(id, Job::Fetch(fetch));
        self.read_on(now, id);
    }

    fn resolve(&mut self, now: Now, token: T, id: PartitionId, position: Position) {
        let Some(partition) = self.partitions.get(&id) else { return };
        let since = match position {
            Position::Latest => Since::At(partition.window.end()),
            Position::Time(unix_ms) => partition.since(id, self.journal.active.as_ref(), unix_ms),
        };
        match (since, position) {
            (Since::From(from), Position::Time(unix_ms)) => {
                self.backlog.add(id, Job::Resolve { token, unix_ms, from });
                self.read_on(now, id);
            }
            (Since::At(offset) | Since::From(offset), _) => {
                self.completions.push_back(Completion::Resolved { token, result: Ok(offset) });
            }
        }
    }

    /// Serves those who wait for older messages of what is in memory.
    fn serve(&mut self, now: Now, id: PartitionId) {
        let completions = &mut self.completions;
        self.backlog.serve(now, id, |served| match served {
            Served::Fetched(fetch, fetched) => {
                completions.push_back(Completion::Fetched { token: fetch.token, result: Ok(fetched) });
            }
            Served::Resolved(token, offset) => {
                completions.push_back(Completion::Resolved { token, result: Ok(offset) });
            }
        });
    }

    /// The same, and has more loaded.
    fn read_on(&mut self, now: Now, id: PartitionId) {
        self.serve(now, id);
        while let Some(from) = self.backlog.wants(id) {
            let Some(partition) = self.partitions.get(&id) else { return };
            let load = match partition.place(id, self.journal.active.as_ref(), from) {
                // Others' jobs may lie before.
                Place::Tail => {
                    for job in self.backlog.take_from(id, from) {
                        self.read_tail(now, id, job);
                    }
                    continue;
                }
                Place::Active(runs) => {
                    let Some(active) = &self.journal.active else { return };
                    Load::plan(
                        Arc::new(Segment::new(active.place, &active.header, std::iter::empty())),
                        from,
                        runs,
                    )
                }
                Place::Sealed(span) => match &span.runs {
                    Runs::Memory(runs) => Load::plan(span.segment.clone(), from, runs),
                    Runs::Index(at) => match self.backlog.runs(id, &span.segment) {
                        Some(runs) => Load::plan(span.segment.clone(), from, &runs),
                        None => {
                            let step =
                                Step::Read(FileName::Index(span.segment.place), vec![(at.at, at.bytes())]);
                            let runs = SpanRuns { segment: span.segment.clone(), at: *at };
                            return self.begin(id, Tag::Runs(id, from, runs), step);
                        }
                    },
                },
            };
            return self.load(id, load);
        }
    }

    fn load(&mut self, id: PartitionId, load: Load) {
        let step = Step::Read(FileName::Segment(load.segment.place), load.ranges());
        self.begin(id, Tag::Load(id, Box::new(LoadTag(load))), step);
    }

    fn begin(&mut self, id: PartitionId, tag: Tag, step: Step) {
        self.backlog.handle_begun(id);
        self.disk.submit(tag, vec![step]);
    }

    /// What is wanted is in memory, or there is nothing.
    fn read_tail(&mut self, now: Now, id: PartitionId, job: Job<T>) {
        let Some(partition) = self.partitions.get_mut(&id) else { return };
        let window = &partition.window;
        match job {
            Job::Fetch(mut fetch) => {
                fetch.from = fetch.from.clamp(window.start(), window.end());
                let fetched = window.read(now, &fetch);
                if fetch.wait && fetched.batches.is_empty() && fetched.at_end {
                    fetch.from = fetched.next;
                    partition.waiting.push(fetch);
                } else {
                    let result = Ok(fetched);
                    self.completions.push_back(Completion::Fetched { token: fetch.token, result });
                }
            }
            Job::Resolve { token, unix_ms, .. } => {
                let result = Ok(window.first_since(unix_ms).unwrap_or(window.end()));
                self.completions.push_back(Completion::Resolved { token, result });
            }
        }
    }

    fn handle_read(&mut self, now: Now, id: PartitionId, tag: Tag, read: disk::Read) {
        self.backlog.handle_ended(id);
        match tag {
            Tag::Rescan(id, segment) => self.handle_rescanned(id, &segment, read),
            Tag::Runs(id, from, of) => self.handle_runs(id, from, &of, read),
            Tag::Load(id, load) => self.handle_loaded(now, id, &load.0, read),
            _ => {}
        }
        // Those first that had to wait.
        while let Some(stalled) = self.backlog.poll_stalled() {
            self.read_on(now, stalled);
        }
        self.read_on(now, id);
    }

    fn handle_runs(&mut self, id: PartitionId, from: u64, of: &SpanRuns, read: disk::Read) {
        let file = FileName::Index(of.segment.place);
        let runs: Arc<[Run]> = match read.map(|mut read| read.pop().and_then(|bytes| of.at.parse(&bytes))) {
            Ok(Some(runs)) => runs.into(),
            Ok(None) => {
                tracing::error!(%file, "damaged: its segment is read instead");
                let segment = of.segment.clone();
                let all = usize::try_from(segment.bytes).unwrap_or(usize::MAX);
                let step = Step::Read(FileName::Segment(segment.place), vec![(0, all)]);
                return self.begin(id, Tag::Rescan(id, segment), step);
            }
            Err(error) => return self.cannot_read(id, &format!("{file}: {error}")),
        };
        self.backlog.handle_runs(id, &of.segment, runs.clone());
        let load = Load::plan(of.segment.clone(), from, &runs);
        if load.runs.is_empty() {
            return self.cannot_read(id, &format!("{file} names other offsets than it holds"));
        }
        self.load(id, load);
    }

    fn handle_rescanned(&mut self, id: PartitionId, segment: &Segment, read: disk::Read) {
        let &Segment { stamp, number, bytes, .. } = segment;
        let file = match read {
            Ok(mut read) => read.pop().unwrap_or_default(),
            Err(error) => return self.cannot_read(id, &error.to_string()),
        };
        let found = scan(&SegmentHeader { stamp, number, bytes }, &file);
        let runs: Arc<[Run]> = found.spans().remove(&id).map(|span| span.runs).unwrap_or_default().into();
        let Some(partition) = self.partitions.get_mut(&id) else { return };
        let span = partition.past.spans.iter_mut().find(|span| span.segment.number == number);
        match span {
            Some(span) if runs.last().is_some_and(|run| run.end >= span.head.end) => {
                span.runs = Runs::Memory(runs);
            }
            _ => self.cannot_read(id, "an index is damaged, and what it named is not in its segment"),
        }
    }

    fn handle_loaded(&mut self, now: Now, id: PartitionId, load: &Load, read: disk::Read) {
        let file = FileName::Segment(load.segment.place);
        match read {
            Ok(read) => {
                self.backlog.handle_loaded(id, load, &read, |at, bytes| {
                    tracing::error!(%file, at, bytes, "damaged: messages that stood there are lost");
                });
                // Who is served leaves his place to those who had to wait.
                self.serve(now, id);
            }
            // One after the other, what can be read is.
            Err(_) if load.runs.len() > 1 => {
                self.load(id, Load { runs: load.runs[..1].to_vec(), ..load.clone() });
            }
            Err(error) => self.cannot_read(id, &format!("{file}: {error}")),
        }
    }

    fn cannot_read(&mut self, id: PartitionId, why: &str) {
        tracing::error!(shard = self.shard, why, "older messages cannot be read");
        for job in self.backlog.take_jobs(id) {
            let fault = StoreFault::Unavailable(why.to_owned());
            self.completions.push_back(match job {
                Job::Fetch(fetch) => Completion::Fetched { token: fetch.token, result: Err(fault) },
                Job::Resolve { token, .. } => Completion::Resolved { token, result: Err(fault) },
            });
        }
    }

    fn cancel(&mut self, id: PartitionId, token: T) {
        let Some(partition) = self.partitions.get_mut(&id) else { return };
        let fetch = match partition.waiting.iter().position(|fetch| fetch.token == token) {
            Some(index) => Some(partition.waiting.swap_remove(index)),
            None => self.backlog.cancel(id, token),
        };
        if let Some(fetch) = fetch {
            let fetched = Fetched { batches: Vec::new(), next: fetch.from, at_end: false };
            self.completions.push_back(Completion::Fetched { token, result: Ok(fetched) });
        }
    }

    /// Takes what the disk has done, and gives it more to do.
    fn work(&mut self, now: Now) {
        while let Some((tag, read)) = self.disk.poll() {
            match tag {
                Tag::Round => self.handle_round(now, read.map(drop)),
                Tag::Make(_) => self.handle_made(now, read.map(drop)),
                Tag::Index(number) => self.handle_indexed(now, number, read.map(drop)),
                Tag::Remove => {
                    if let Err(error) = read {
                        tracing::warn!(%error, "a file that is not needed any more cannot be removed");
                    }
                }
                Tag::Catalogue => self.handle_catalogue(&read.map(drop)),
                Tag::Rescan(id, _) | Tag::Runs(id, ..) | Tag::Load(id, _) => {
                    self.handle_read(now, id, tag, read)
                }
            }
        }
        self.write(now);
        self.write_catalogue();
        if self.dir.deletions() > self.deletions {
            self.forget_deleted();
        }
    }

    /// Lets go of queues that were deleted.
    fn forget_deleted(&mut self) {
        let deleted = self.dir.deleted_since(self.deletions);
        self.deletions += deleted.len();
        for Deletion { incarnation, queues } in deleted {
            let ids: Vec<_> = self.partitions.keys().filter(|id| id.0 == incarnation).copied().collect();
            for id in ids {
                self.tell_forgotten(id);
                self.partitions.remove(&id);
            }
            self.gone.extend(queues);
        }
    }

    /// Tells whoever waits for a partition that it is no more.
    fn tell_forgotten(&mut self, id: PartitionId) {
        let waiting = self.partitions.get_mut(&id).map(|partition| std::mem::take(&mut partition.waiting));
        let fetches = waiting.into_iter().flatten().map(Job::Fetch);
        for job in fetches.chain(self.backlog.remove(id)) {
            self.completions.push_back(match job {
                Job::Fetch(fetch) => Completion::Fetched { token: fetch.token, result: Err(forgotten()) },
                Job::Resolve { token, .. } => Completion::Resolved { token, result: Err(forgotten()) },
            });
        }
    }

    /// Retires the oldest segments where there are too many, and those that are too old.
    fn retire(&mut self, now: Now) {
        let share = self.max_bytes / u64::from(self.shards);
        let is_left = |segment: &&Arc<Segment>| !segment.is_retired.load(Ordering::Relaxed);
        let mut bytes: u64 = self.kept.iter().filter(is_left).map(|segment| segment.bytes).sum();
        for segment in self.kept.iter().filter(is_left) {
            let is_too_much = self.max_bytes > 0 && bytes + self.segment_bytes > share;
            let is_too_old =
                self.max_age_ms > 0 && segment.newest_ms.saturating_add(self.max_age_ms) <= now.unix_ms;
            if is_too_much || is_too_old {
                bytes -= segment.bytes;
                self.dir.retire(segment);
            }
        }
    }

    /// Lets go of what has expired.
    fn expire(&mut self, now: Now) {
        let retirements = self.dir.retirements();
        let is_any_retired = std::mem::replace(&mut self.retirements, retirements) != retirements;
        let active = self.journal.active.as_ref();
        for (id, partition) in &mut self.partitions {
            if partition.past.due_ms > now.unix_ms && !is_any_retired {
                continue;
            }
            // Somebody must say where the partition ends once its last span is gone.
            let is_told = active.is_some_and(|active| active.spans.contains_key(id));
            let (expired, dropped) = partition.past.expire(now.unix_ms, is_told);
            self.counters.expired += expired;
            self.counters.dropped += dropped;
            if partition.past.due_ms <= now.unix_ms && !partition.is_marking && self.trouble.is_none() {
                partition.is_marking = true;
                self.journal.pending.push_back(Entry::Mark { id: *id });
            }
        }
        // Whoever reads a segment holds it, too; and no index is written of a file that lives again.
        let indexing = &self.indexing;
        let is_gone = |segment: &mut Arc<Segment>| {
            Arc::strong_count(segment) == 1 && !indexing.contains_key(&segment.number)
        };
        let gone: Vec<_> = self.kept.extract_if(.., is_gone).collect();
        for segment in gone {
            let is_whole = segment.bytes == self.segment_bytes;
            if !(is_whole && self.dir.give_place(segment.place, usize::from(self.shards))) {
                let files = [FileName::Segment(segment.place), FileName::Index(segment.place)];
                self.disk.submit(Tag::Remove, files.map(Step::Remove).to_vec());
            }
        }
    }
}

/// The queue is gone.
fn forgotten() -> StoreFault {
    StoreFault::Unavailable("the queue was deleted".into())
}

impl<T: Copy + Eq + Hash, D: Disk<Tag>> Store<T> for Log<T, D> {
    fn submit(&mut self, now: Now, request: Request<T>) -> Result<(), Request<T>> {
        match request {
            Request::Open { token, queue, name, create } => self.open(token, queue, name, create),
            Request::Append { token, stream, partition, batch } => match self.id(partition) {
                Some(id) => self.append(now, token, stream, id, batch),
                None => self.completions.push_back(Completion::Appended { token, result: Err(forgotten()) }),
            },
            Request::Fetch { token, partition, from, bytes_max, exclude, wait } => match self.id(partition) {
                Some(id) => {
                    let fetch = Fetch { token, from, bytes_max, exclude, wait, since_ms: now.mono_ms };
                    self.fetch(now, id, fetch);
                }
                None => self.completions.push_back(Completion::Fetched { token, result: Err(forgotten()) }),
            },
            Request::Resolve { token, partition, position } => match self.id(partition) {
                Some(id) => self.resolve(now, token, id, position),
                None => self.completions.push_back(Completion::Resolved { token, result: Err(forgotten()) }),
            },
            Request::Cancel { token, partition } => {
                if let Some(id) = self.id(partition) {
                    self.cancel(id, token);
                }
            }
        }
        Ok(())
    }

    fn poll_completion(&mut self, now: Now) -> Option<Completion<T>> {
        if self.completions.is_empty() {
            self.work(now);
        }
        while self.completions.is_empty() {
            let id = self.woken.pop()?;
            let Some(partition) = self.partitions.get_mut(&id) else { continue };
            partition.is_woken = false;
            for fetch in std::mem::take(&mut partition.waiting) {
                self.fetch(now, id, fetch);
            }
        }
        self.completions.pop_front()
    }

    fn handle_tick(&mut self, now: Now) -> Option<u64> {
        self.retire(now);
        self.expire(now);
        self.backlog.trim();
        if self.trouble.is_some() {
            match &mut self.broken {
                Some(Broken { is_saving: true, .. }) => {}
                Some(Broken { segment, index, is_saving }) => {
                    *is_saving = true;
                    let steps = save_index(segment.place, index.clone());
                    self.disk.submit(Tag::Index(segment.number), steps);
                }
                None => {
                    // Files of which every message has expired come back once a segment takes the marks of where their partitions end.
                    let expired = self.kept.iter().filter(|segment| segment.expiry_ms <= now.unix_ms);
                    let pays = expired.count() > 1;
                    self.make_segment(if pays { Reserve::Use } else { Reserve::Keep });
                }
            }
        }
        self.work(now);
        Some(now.mono_ms + TICK_MS)
    }

    fn needs_ticks(&self) -> bool {
        !self.kept.is_empty() || self.counters.stored > 0 || self.trouble.is_some()
    }

    fn poll_gone(&mut self) -> Option<QueueId> {
        self.gone.pop_front()
    }

    fn forget(&mut self, queue: QueueId) {
        self.dir.forget(queue);
        let ids: Vec<_> = self.known.extract_if(|key, _| key.queue == queue).map(|(_, id)| id).collect();
        ids.into_iter().for_each(|id| self.tell_forgotten(id));
    }

    fn queues(&self, unix_ms: u64) -> Vec<(FullName, QueueSummary)> {
        let names = self.dir.names();
        let mut of: HashMap<u64, QueueSummary> = HashMap::new();
        for (id, partition) in &self.partitions {
            let sealed = partition.past.spans.iter().map(|span| &span.head);
            let written = self.journal.active.as_ref().and_then(|active| active.spans.get(id));
            let heads = sealed.chain(written.map(|span| &span.head));
            inspect::add(of.entry(id.0).or_default(), heads, unix_ms);
        }
        let summary = |(incarnation, (name, partitions)): (u64, (FullName, u16))| {
            let of = of.get(&incarnation).copied().unwrap_or_default();
            (name, QueueSummary { partitions, ..of })
        };
        names.into_iter().map(summary).collect()
    }

    fn counters(&self) -> StoreCounters {
        self.counters
    }

    fn waiting(&self) -> usize {
        self.partitions.values().map(|partition| partition.waiting.len()).sum::<usize>()
            + self.backlog.waiting()
    }
}
