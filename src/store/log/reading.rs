//! Fetches: the newest messages from memory, older ones by loads.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;

use super::backlog::{Backlog, Waiter};
use super::data_dir::DataDir;
use super::disk::{self, Disk, FileName, Step, is_unreadable};
use super::features::Features;
use super::format::PartitionId;
use super::header::SegmentHeader;
use super::index::{Run, RunsAt};
use super::journal::Active;
use super::load::Load;
use super::partition::{Origin, Since};
use super::partitions::Partitions;
use super::scan::scan;
use super::segment::{Runs, Segment};
use super::tag::{ReadPurpose, Tag};
use crate::base::batch::Fetched;
use crate::base::clock::Now;
use crate::base::error::StoreFault;
use crate::base::millis::UnixMillis;
use crate::base::queue::Position;
use crate::base::units::Offset;
use crate::store::fetch::Fetch;
use crate::store::{Asker, Completion};

/// The parts of a shard's store that reading needs.
#[derive(Debug)]
pub(super) struct Fetcher<'a, T: Asker, D> {
    pub now: Now,
    pub dir: &'a DataDir,
    pub disk: &'a mut D,
    pub partitions: &'a mut Partitions<T>,
    /// The segment that is being written.
    pub active: Option<&'a Active>,
    /// The most concurrent loads at present, at least 1.
    pub loads_max: usize,
    pub backlog: &'a mut Backlog<T>,
    pub completions: &'a mut VecDeque<Completion<T>>,
}

impl<T: Asker, D: Disk<Tag>> Fetcher<'_, T, D> {
    /// Answers a fetch, or lets it wait for a load or for new messages.
    pub(super) fn fetch(&mut self, id: PartitionId, fetch: Fetch<T::Fetch>) {
        let Some(partition) = self.partitions.get(id) else {
            return self.completions.push_back(Waiter::Fetch(fetch).fail(StoreFault::Deleted));
        };
        if matches!(partition.origin(id, self.active, fetch.from), Origin::Tail) {
            return self.read_tail(id, Waiter::Fetch(fetch));
        }
        self.backlog.add(id, Waiter::Fetch(fetch));
        self.read_on(id);
    }

    /// Finds the offset of a position, or lets the request wait for loads.
    pub(super) fn resolve(&mut self, token: T::Resolve, id: PartitionId, position: Position) {
        let Some(partition) = self.partitions.get(id) else {
            return self
                .completions
                .push_back(Completion::Resolved { token, result: Err(StoreFault::Deleted) });
        };
        let since = match position {
            Position::Latest => Since::At(partition.window.end()),
            Position::Time(unix) => partition.since(id, self.active, unix),
            Position::After { timeline, offset } => Since::At(self.dir.resume(timeline, id, offset)),
        };
        match (since, position) {
            (Since::From(from), Position::Time(unix)) => {
                self.backlog.add(id, Waiter::Resolve { token, unix, from });
                self.read_on(id);
            }
            (Since::At(offset) | Since::From(offset), _) => {
                self.completions.push_back(Completion::Resolved { token, result: Ok(offset) });
            }
        }
    }

    /// Serves the waiters for older messages from what is in memory.
    fn serve(&mut self, id: PartitionId) {
        self.backlog.serve(self.now, id, self.completions);
    }

    /// Serves the same waiters, and loads more for them.
    fn read_on(&mut self, id: PartitionId) {
        self.serve(id);
        while let Some(from) = self.backlog.wants(id, self.loads_max) {
            let Some(partition) = self.partitions.get(id) else {
                return forget(id, self.partitions, self.backlog, self.completions);
            };
            let load = match partition.origin(id, self.active, from) {
                // Other waiters may want earlier messages.
                Origin::Tail => {
                    for waiter in self.backlog.take_from(id, from) {
                        self.read_tail(id, waiter);
                    }
                    continue;
                }
                Origin::Active(runs) => {
                    let Some(active) = self.active else { return };
                    let segment = Segment::new(active.place, &active.header, active.end, std::iter::empty());
                    Load::plan(Arc::new(segment), from, runs, Offset::ZERO..from)
                }
                Origin::Sealed(span) => match &span.runs {
                    Runs::Memory(runs) => Load::plan(span.segment.clone(), from, runs, span.head.offsets()),
                    Runs::Index(at) => match self.backlog.runs(id, &span.segment) {
                        Some(runs) => Load::plan(span.segment.clone(), from, &runs, span.head.offsets()),
                        None => {
                            let step =
                                Step::Read(FileName::Index(span.segment.place), vec![(at.at, at.bytes())]);
                            let purpose = ReadPurpose::Runs(from, span.segment.clone(), *at);
                            return self.begin(id, purpose, step);
                        }
                    },
                },
            };
            return self.load(id, load);
        }
    }

    fn load(&mut self, id: PartitionId, load: Load) {
        let (file, ranges) = (FileName::Segment(load.segment.place), load.ranges());
        let step = if load.is_salvage { Step::Salvage(file, ranges) } else { Step::Read(file, ranges) };
        self.begin(id, ReadPurpose::Messages(load), step);
    }

    fn begin(&mut self, id: PartitionId, purpose: ReadPurpose, step: Step) {
        self.backlog.handle_begun(id);
        self.disk.submit(Tag::Read(id, purpose), vec![step]);
    }

    /// Serves a waiter from the newest messages in memory, or lets it wait for new ones.
    fn read_tail(&mut self, id: PartitionId, waiter: Waiter<T>) {
        let Some(partition) = self.partitions.get_mut(id) else {
            return self.completions.push_back(waiter.fail(StoreFault::Deleted));
        };
        let window = &partition.window;
        match waiter {
            Waiter::Fetch(mut fetch) => {
                fetch.from = fetch.from.max(window.start());
                let fetched = match fetch.from > window.end() {
                    true => Fetched::rewound(),
                    false => window.read(self.now, &fetch),
                };
                if fetch.wait && fetched.batches.is_empty() && fetched.at_end {
                    fetch.from = fetched.next;
                    partition.waiting.push(fetch);
                } else {
                    let result = Ok(fetched);
                    self.completions.push_back(Completion::Fetched { token: fetch.token, result });
                }
            }
            Waiter::Resolve { token, unix, .. } => {
                let result = Ok(window.since(unix));
                self.completions.push_back(Completion::Resolved { token, result });
            }
        }
    }

    /// Handles the result of a read.
    pub(super) fn handle_read(&mut self, id: PartitionId, purpose: ReadPurpose, read: disk::Read) {
        self.backlog.handle_ended(id);
        match purpose {
            ReadPurpose::Runs(from, segment, at) => self.handle_runs(id, from, segment, at, read),
            ReadPurpose::Segment(segment) => self.handle_rescanned(id, &segment, read),
            ReadPurpose::Messages(load) => self.handle_loaded(id, &load, read),
        }
        // Partitions that had to wait for a load come first.
        while let Some(stalled) = self.backlog.poll_stalled(self.loads_max) {
            self.read_on(stalled);
        }
        self.read_on(id);
    }

    fn handle_runs(
        &mut self,
        id: PartitionId,
        from: Offset,
        segment: Arc<Segment>,
        at: RunsAt,
        read: disk::Read,
    ) {
        let file = FileName::Index(segment.place);
        let runs: Arc<[Run]> = match read.map(|mut read| read.pop().and_then(|bytes| at.parse(&bytes))) {
            Ok(Some(runs)) => runs.into(),
            Ok(None) => return self.rescan(id, segment),
            Err(error) if is_lost(&error) => return self.rescan(id, segment),
            Err(error) => return self.cannot_read(id, &format!("{file}: {error}")),
        };
        self.backlog.handle_runs(id, &segment, runs.clone());
        if runs.last().is_none_or(|run| run.end <= from) {
            self.rescan(id, segment);
        }
    }

    /// Reads a whole segment, because its index does not say where the messages are.
    fn rescan(&mut self, id: PartitionId, segment: Arc<Segment>) {
        let (index, file) = (FileName::Index(segment.place), FileName::Segment(segment.place));
        tracing::error!(%index, %file, "index is damaged; reading the whole segment instead");
        let all = usize::try_from(segment.bytes).unwrap_or(usize::MAX);
        self.begin(id, ReadPurpose::Segment(segment), Step::Salvage(file, vec![(0, all)]));
    }

    fn handle_rescanned(&mut self, id: PartitionId, segment: &Segment, read: disk::Read) {
        let &Segment { stamp, number, bytes, place, .. } = segment;
        let name = FileName::Segment(place);
        let file = match read {
            Ok(mut read) => read.pop().unwrap_or_default(),
            Err(error) if is_gone(&error) => Vec::new(),
            // No block can be read, so the device is lost, and may return.
            Err(error) => return self.cannot_read(id, &format!("{name}: {error}")),
        };
        let features = Features::NONE;
        let found = scan(&SegmentHeader { stamp, number, bytes, features }, &file);
        let mut runs = found.spans().remove(&id).map(|span| span.runs).unwrap_or_default();
        let Some(partition) = self.partitions.get_mut(id) else { return };
        let span = partition.past.spans.iter_mut().find(|span| span.segment.number == number);
        if let Some(span) = span {
            // After the span's end, a round that failed may have left its batches.
            runs.retain(|run| run.first < span.head.end);
            let found = runs.last().map_or(span.head.first, |run| run.end);
            if found < span.head.end {
                tracing::error!(file = %name, from = found.0, to = span.head.end.0, "segment is damaged; the messages at these offsets are lost");
            }
            span.runs = Runs::Memory(runs.into());
        }
    }

    fn handle_loaded(&mut self, id: PartitionId, load: &Load, read: disk::Read) {
        let file = FileName::Segment(load.segment.place);
        // Use the present limit: the clock may have been set right since the load began.
        let spans = self.partitions.get(id).map(|partition| &partition.past.spans);
        let span = spans
            .and_then(|spans| spans.iter().rev().find(|span| span.segment.number == load.segment.number));
        let cap = span.map_or(UnixMillis::MAX, |span| span.cap);
        match read {
            Ok(read) => {
                self.backlog.handle_loaded(id, load, cap, &read, |at, bytes| {
                    tracing::error!(%file, at, bytes, "segment is damaged; the messages in this range are lost");
                });
                // Waiters that are served here need no other load, which leaves it to partitions that had to
                // wait.
                self.serve(id);
            }
            // Read what can be read: first run by run, then around the unreadable blocks.
            Err(_) if load.runs.len() > 1 => self.load(id, load.first_run()),
            Err(_) if !load.is_salvage => self.load(id, Load { is_salvage: true, ..load.clone() }),
            Err(error) if is_gone(&error) => {
                tracing::error!(%file, %error, "segment is missing; its messages are lost");
                self.backlog.handle_loaded(id, load, cap, &[], |_, _| {});
                self.serve(id);
            }
            Err(error) => self.cannot_read(id, &format!("{file}: {error}")),
        }
    }

    fn cannot_read(&mut self, id: PartitionId, why: &str) {
        self.backlog.handle_failed(id, why, self.completions);
    }

    /// Completes a waiting fetch without messages.
    pub(super) fn cancel(&mut self, id: PartitionId, token: T::Fetch) {
        let Some(partition) = self.partitions.get_mut(id) else { return };
        let fetch = partition.waiting.cancel(token);
        if let Some(fetch) = fetch.or_else(|| self.backlog.cancel(id, token)) {
            let fetched = Fetched { next: fetch.from, ..Fetched::default() };
            self.completions.push_back(Completion::Fetched { token, result: Ok(fetched) });
        }
    }
}

/// Fails the requests that wait for a deleted partition.
pub(super) fn forget<T: Asker>(
    id: PartitionId,
    partitions: &mut Partitions<T>,
    backlog: &mut Backlog<T>,
    completions: &mut VecDeque<Completion<T>>,
) {
    let waiting = partitions.get_mut(id).map(|partition| partition.waiting.take());
    let fetches = waiting.into_iter().flatten().map(Waiter::Fetch);
    for waiter in fetches.chain(backlog.remove(id)) {
        completions.push_back(waiter.fail(StoreFault::Deleted));
    }
}

/// Returns whether the file is missing. A retry does not help: it is missing at the next start, too.
fn is_gone(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::NotFound
}

/// Returns whether the data is lost, so that a retry does not help.
fn is_lost(error: &io::Error) -> bool {
    is_unreadable(error) || is_gone(error)
}
