//! Reading what is older than the tail in memory: from disk, a chunk at a time, for all consumers of a partition near each other.
//!
//! A partition that is read has windows: stretches of it in memory, each followed by its readers, and at most one load under
//! way. Who comes into the chunk that was loaded last has the next one loaded. Windows of all partitions share a bound.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use super::format::{BatchHeader, PartitionId};
use super::index::{RUN_BYTES_MAX, Run};
use super::scan::walk;
use super::segment::Segment;
use crate::base::batch::Fetched;
use crate::base::clock::Now;
use crate::base::error::StoreFault;
use crate::store::Completion;
use crate::store::window::{Fetch, Window};

/// Bytes that one load reads, but for its last run.
pub const LOAD_BYTES: u64 = if cfg!(test) { 8 << 10 } else { 1 << 20 };

/// Runs that one load reads.
const LOAD_RUNS: usize = 64;

/// Loads of a shard under way at once: what keeps a disk busy. Few in tests, so that some have to wait there, too.
pub const LOADS_MAX: usize = if cfg!(test) { 2 } else { 16 };

/// What a load takes at worst, bytes: twice as it came from the disk, and as batches.
pub const LOAD_COST_MAX: usize = 3 * (LOAD_BYTES as usize + RUN_BYTES_MAX as usize);

/// Chunks of a window.
const CHUNKS: usize = 3;

/// Somebody who waits for a part of a partition.
#[derive(Clone, Debug)]
pub(super) enum Job<T> {
    /// A fetch.
    Fetch(Fetch<T>),
    /// The first message since a time, Unix milliseconds, which is not before `from`.
    Resolve { token: T, unix_ms: u64, from: u64 },
}

impl<T> Job<T> {
    /// The first offset wanted.
    pub(super) fn from(&self) -> u64 {
        match self {
            Self::Fetch(fetch) => fetch.from,
            Self::Resolve { from, .. } => *from,
        }
    }

    /// It cannot be done.
    pub(super) fn fail(self, fault: StoreFault) -> Completion<T> {
        match self {
            Self::Fetch(fetch) => Completion::Fetched { token: fetch.token, result: Err(fault) },
            Self::Resolve { token, .. } => Completion::Resolved { token, result: Err(fault) },
        }
    }
}

#[derive(Debug)]
struct ReadWindow {
    window: Window,
    /// Where the chunk begins that was loaded last.
    chunk: u64,
}

impl ReadWindow {
    fn holds(&self, offset: u64) -> bool {
        (self.window.start()..self.window.end()).contains(&offset)
    }
}

/// What is read of a segment.
#[derive(Clone, Debug)]
pub struct Load {
    pub(super) segment: Arc<Segment>,
    /// Where the window goes on.
    pub(super) from: u64,
    pub(super) runs: Vec<Run>,
    /// Where the window ends once the runs are read, whatever of them is whole.
    pub(super) end: u64,
    /// A part of the runs could not be read: the rest is read around it.
    pub(super) is_salvage: bool,
}

impl Load {
    /// The first of `runs` that hold something from `from` on. Behind the last of them nothing comes before `end`.
    pub(super) fn plan(segment: Arc<Segment>, from: u64, runs: &[Run], end: u64) -> Self {
        let first = runs.partition_point(|run| run.end <= from);
        let mut bytes = 0;
        let chosen = runs[first..].iter().take(LOAD_RUNS).take_while(|run| {
            let goes_on = bytes < LOAD_BYTES;
            bytes += run.bytes;
            goes_on
        });
        let chosen: Vec<Run> = chosen.copied().collect();
        let is_last = first + chosen.len() == runs.len();
        let read = chosen.last().map_or(from, |run| run.end);
        let end = if is_last { read.max(end) } else { read };
        Self { segment, from, runs: chosen, end, is_salvage: false }
    }

    /// Its first run alone, so that the others do not fail with it.
    pub(super) fn first_run(&self) -> Self {
        let runs = self.runs[..self.runs.len().min(1)].to_vec();
        let end = runs.last().map_or(self.end, |run| run.end);
        Self { runs, end, ..self.clone() }
    }

    /// Where they are in the file.
    pub(super) fn ranges(&self) -> Vec<(u64, usize)> {
        self.runs.iter().map(|run| (run.at, run.bytes as usize)).collect()
    }
}

#[derive(Debug)]
struct Reading<T> {
    windows: Vec<ReadWindow>,
    jobs: Vec<Job<T>>,
    is_loading: bool,
    /// Who has come so far that what follows there is loaded.
    ahead: Option<u64>,
    /// The runs of the sealed segment that is read.
    runs: Option<(u64, Arc<[Run]>)>,
    /// It is in `Backlog::stalled`.
    is_stalled: bool,
}

impl<T> Default for Reading<T> {
    fn default() -> Self {
        Self {
            windows: Vec::new(),
            jobs: Vec::new(),
            is_loading: false,
            ahead: None,
            runs: None,
            is_stalled: false,
        }
    }
}

/// See the module's page.
#[derive(Debug)]
pub(super) struct Backlog<T> {
    of: HashMap<PartitionId, Reading<T>>,
    /// The partitions that are read, those first that are let go of first.
    order: VecDeque<PartitionId>,
    bytes: usize,
    bytes_max: usize,
    loads: usize,
    /// Partitions that want a load and have to wait for another to end.
    stalled: VecDeque<PartitionId>,
}

impl<T: Copy + Eq> Backlog<T> {
    /// One of at most so many bytes, beside the window that was loaded last.
    pub(super) fn new(bytes_max: usize) -> Self {
        let (of, order, stalled) = (HashMap::new(), VecDeque::new(), VecDeque::new());
        Self { of, order, bytes: 0, bytes_max, loads: 0, stalled }
    }

    /// Somebody waits.
    pub(super) fn add(&mut self, id: PartitionId, job: Job<T>) {
        let order = &mut self.order;
        let reading = self.of.entry(id).or_insert_with(|| {
            order.push_back(id);
            Reading::default()
        });
        reading.jobs.push(job);
    }

    /// Takes a fetch back.
    pub(super) fn cancel(&mut self, id: PartitionId, token: T) -> Option<Fetch<T>> {
        let jobs = &mut self.of.get_mut(&id)?.jobs;
        let index = jobs.iter().position(|job| matches!(job, Job::Fetch(fetch) if fetch.token == token))?;
        match jobs.swap_remove(index) {
            Job::Fetch(fetch) => Some(fetch),
            Job::Resolve { .. } => None,
        }
    }

    /// Whoever waits for a partition that is no more.
    pub(super) fn remove(&mut self, id: PartitionId) -> Vec<Job<T>> {
        let Some(reading) = self.of.remove(&id) else { return Vec::new() };
        self.order.retain(|other| *other != id);
        self.bytes -= reading.windows.iter().map(|read| read.window.bytes()).sum::<usize>();
        reading.jobs
    }

    /// Serves whoever can be served of what is in memory.
    pub(super) fn serve(&mut self, now: Now, id: PartitionId, completions: &mut VecDeque<Completion<T>>) {
        let Some(reading) = self.of.get_mut(&id) else { return };
        for job in std::mem::take(&mut reading.jobs) {
            let Some(read) = reading.windows.iter().find(|read| read.holds(job.from())) else {
                reading.jobs.push(job);
                continue;
            };
            match job {
                Job::Fetch(fetch) => {
                    let fetched = Fetched { at_end: false, ..read.window.read(now, &fetch) };
                    if fetched.next >= read.chunk {
                        reading.ahead = Some(read.window.end());
                    }
                    completions.push_back(Completion::Fetched { token: fetch.token, result: Ok(fetched) });
                }
                Job::Resolve { token, unix_ms, .. } => match read.window.first_since(unix_ms) {
                    Some(offset) => {
                        completions.push_back(Completion::Resolved { token, result: Ok(offset) });
                    }
                    None => {
                        let from = read.window.end();
                        reading.jobs.push(Job::Resolve { token, unix_ms, from });
                    }
                },
            }
        }
    }

    /// Where the next load of a partition begins, if one is wanted and none under way.
    pub(super) fn wants(&mut self, id: PartitionId) -> Option<u64> {
        let reading = self.of.get_mut(&id)?;
        if reading.is_loading {
            return None;
        }
        if self.loads == LOADS_MAX {
            // Nobody waits for what is read ahead.
            reading.ahead = None;
            if !reading.jobs.is_empty() && !std::mem::replace(&mut reading.is_stalled, true) {
                self.stalled.push_back(id);
            }
            return None;
        }
        let ahead = reading.ahead.take();
        match reading.jobs.first() {
            Some(job) => Some(job.from()),
            // What follows a window that is still there, and is not there yet.
            None => ahead.filter(|from| {
                reading.windows.iter().any(|read| read.window.end() == *from)
                    && !reading.windows.iter().any(|read| read.holds(*from))
            }),
        }
    }

    /// Takes the jobs that begin at an offset or later: what they want is elsewhere.
    pub(super) fn take_from(&mut self, id: PartitionId, offset: u64) -> Vec<Job<T>> {
        let Some(reading) = self.of.get_mut(&id) else { return Vec::new() };
        reading.jobs.extract_if(.., |job| job.from() >= offset).collect()
    }

    /// The runs that were read last of a partition, if they are those of that segment.
    pub(super) fn runs(&self, id: PartitionId, segment: &Segment) -> Option<Arc<[Run]>> {
        let (number, runs) = self.of.get(&id)?.runs.as_ref()?;
        (*number == segment.number).then(|| runs.clone())
    }

    /// The runs of a segment were read.
    pub(super) fn handle_runs(&mut self, id: PartitionId, segment: &Segment, runs: Arc<[Run]>) {
        if let Some(reading) = self.of.get_mut(&id) {
            reading.runs = Some((segment.number, runs));
        }
    }

    /// A load begins.
    pub(super) fn handle_begun(&mut self, id: PartitionId) {
        self.loads += 1;
        if let Some(reading) = self.of.get_mut(&id) {
            reading.is_loading = true;
        }
    }

    /// A load has ended.
    pub(super) fn handle_ended(&mut self, id: PartitionId) {
        self.loads -= 1;
        if let Some(reading) = self.of.get_mut(&id) {
            reading.is_loading = false;
        }
    }

    /// The next partition that had to wait for a load to end, and may begin one now.
    pub(super) fn poll_stalled(&mut self) -> Option<PartitionId> {
        if self.loads == LOADS_MAX {
            return None;
        }
        let id = self.stalled.pop_front()?;
        if let Some(reading) = self.of.get_mut(&id) {
            reading.is_stalled = false;
        }
        Some(id)
    }

    /// Whoever waits for a partition that cannot be read.
    pub(super) fn take_jobs(&mut self, id: PartitionId) -> Vec<Job<T>> {
        self.of.get_mut(&id).map(|reading| std::mem::take(&mut reading.jobs)).unwrap_or_default()
    }

    /// What a load brought, as it stands in the file, all stored at `cap_ms` at the latest. `damaged` is told of what is not what was written.
    pub(super) fn handle_loaded(
        &mut self,
        id: PartitionId,
        load: &Load,
        cap_ms: u64,
        read: &[Vec<u8>],
        mut damaged: impl FnMut(u64, u64),
    ) {
        let Some(reading) = self.of.get_mut(&id) else { return };
        let first = load.runs.first().map_or(load.from, |run| run.first);
        let goes_on = reading.windows.iter().position(|read| read.window.end() == load.from);
        let index = goes_on.unwrap_or_else(|| {
            reading.windows.push(ReadWindow { window: Window::new(load.from.min(first)), chunk: load.from });
            reading.windows.len() - 1
        });
        let ReadWindow { window, chunk } = &mut reading.windows[index];
        let before = window.bytes();
        *chunk = load.from;
        for (run, bytes) in load.runs.iter().zip(read) {
            if (bytes.len() as u64) < run.bytes {
                damaged(run.at + bytes.len() as u64, run.bytes - bytes.len() as u64);
            }
            let is_its = |header: &BatchHeader| (header.incarnation, header.partition) == id;
            let damage = walk(load.segment.stamp, run.at, bytes, is_its, |_, header, records| {
                // Before the window's end lies what was read before of a run that has grown since.
                let is_new = header.base_offset >= window.end();
                if let Some(mut stored) = header.batch(records).filter(|_| is_new) {
                    stored.timestamp_ms = stored.timestamp_ms.min(cap_ms);
                    window.push(stored);
                }
            });
            damage.iter().for_each(|damage| damaged(damage.at, damage.bytes));
        }
        window.advance(load.end);
        let added = window.bytes() - before;
        self.bytes += added;
        // Whoever follows has read what is older.
        let kept = (CHUNKS - 1) * LOAD_BYTES as usize + added;
        let before = window.bytes();
        window.keep(kept);
        self.bytes -= before - window.bytes();
        // What was loaded last goes last.
        let loaded = reading.windows.remove(index);
        reading.windows.push(loaded);
        self.let_go(id);
    }

    /// Lets all windows go: what they hold is read again.
    pub(super) fn forget_windows(&mut self) {
        for reading in self.of.values_mut() {
            self.bytes -= reading.windows.drain(..).map(|read| read.window.bytes()).sum::<usize>();
            reading.ahead = None;
        }
    }

    /// Lets windows go until the rest is within the bound, but for the last one of `id`.
    fn let_go(&mut self, id: PartitionId) {
        for _ in 0..self.order.len() {
            if self.bytes <= self.bytes_max {
                return;
            }
            let Some(oldest) = self.order.pop_front() else { return };
            self.order.push_back(oldest);
            if let Some(reading) = self.of.get_mut(&oldest) {
                let kept = usize::from(oldest == id);
                let gone = reading.windows.drain(..reading.windows.len().saturating_sub(kept));
                self.bytes -= gone.map(|read| read.window.bytes()).sum::<usize>();
            }
        }
    }

    /// Time has passed: forgets the partitions that nobody reads any more.
    pub(super) fn trim(&mut self) {
        let (of, bytes) = (&mut self.of, &mut self.bytes);
        self.order.retain(|id| {
            let Some(reading) = of.get_mut(id) else { return false };
            // Somebody slow may come back to it, and has it loaded again.
            let is_idle = reading.jobs.is_empty() && !reading.is_loading && reading.ahead.is_none();
            if is_idle && reading.windows.is_empty() {
                of.remove(id);
                return false;
            }
            if is_idle {
                *bytes -= reading.windows.remove(0).window.bytes();
            }
            true
        });
    }

    /// Fetches that wait.
    pub(super) fn waiting(&self) -> usize {
        self.of.values().map(|reading| reading.jobs.len()).sum()
    }
}
