//! Fetching: what is in memory at once, what is older by loads.

use std::hash::Hash;
use std::io;
use std::sync::Arc;

use super::backlog::{Job, Load};
use super::disk::{self, Disk, FileName, Step, is_unreadable};
use super::format::{PartitionId, SegmentHeader};
use super::index::{Run, RunsAt};
use super::partition::{Place, Since};
use super::reason::CANNOT_READ;
use super::scan::scan;
use super::segment::{Runs, Segment};
use super::{Log, Tag, Wanted, forgotten};
use crate::base::batch::Fetched;
use crate::base::clock::Now;
use crate::base::error::StoreFault;
use crate::base::queue::Position;
use crate::store::Completion;
use crate::store::window::Fetch;

impl<T: Copy + Eq + Hash, D: Disk<Tag>> Log<T, D> {
    pub(super) fn fetch(&mut self, now: Now, id: PartitionId, fetch: Fetch<T>) {
        let Some(partition) = self.partitions.get(&id) else {
            return self.completions.push_back(Job::Fetch(fetch).fail(forgotten()));
        };
        if matches!(partition.place(id, self.journal.active.as_ref(), fetch.from), Place::Tail) {
            return self.read_tail(now, id, Job::Fetch(fetch));
        }
        self.backlog.add(id, Job::Fetch(fetch));
        self.read_on(now, id);
    }

    pub(super) fn resolve(&mut self, now: Now, token: T, id: PartitionId, position: Position) {
        let Some(partition) = self.partitions.get(&id) else {
            return self.completions.push_back(Completion::Resolved { token, result: Err(forgotten()) });
        };
        let since = match position {
            Position::Latest => Since::At(partition.window.end()),
            Position::Time(unix_ms) => partition.since(id, self.journal.active.as_ref(), unix_ms),
            Position::After { timeline, offset } => Since::At(self.dir.resume(timeline, id, offset)),
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
    pub(super) fn serve(&mut self, now: Now, id: PartitionId) {
        self.backlog.serve(now, id, &mut self.completions);
    }

    /// The same, and has more loaded.
    pub(super) fn read_on(&mut self, now: Now, id: PartitionId) {
        self.serve(now, id);
        while let Some(from) = self.backlog.wants(id) {
            let Some(partition) = self.partitions.get(&id) else { return self.tell_forgotten(id) };
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
                    let segment = Segment::new(active.place, &active.header, std::iter::empty());
                    Load::plan(Arc::new(segment), from, runs, from)
                }
                Place::Sealed(span) => match &span.runs {
                    Runs::Memory(runs) => Load::plan(span.segment.clone(), from, runs, span.head.end),
                    Runs::Index(at) => match self.backlog.runs(id, &span.segment) {
                        Some(runs) => Load::plan(span.segment.clone(), from, &runs, span.head.end),
                        None => {
                            let step =
                                Step::Read(FileName::Index(span.segment.place), vec![(at.at, at.bytes())]);
                            let wanted = Wanted::Runs(from, span.segment.clone(), *at);
                            return self.begin(id, wanted, step);
                        }
                    },
                },
            };
            return self.load(id, load);
        }
    }

    pub(super) fn load(&mut self, id: PartitionId, load: Load) {
        let (file, ranges) = (FileName::Segment(load.segment.place), load.ranges());
        let step = if load.is_salvage { Step::Salvage(file, ranges) } else { Step::Read(file, ranges) };
        self.begin(id, Wanted::Messages(load), step);
    }

    pub(super) fn begin(&mut self, id: PartitionId, wanted: Wanted, step: Step) {
        self.backlog.handle_begun(id);
        self.disk.submit(Tag::Read(id, wanted), vec![step]);
    }

    /// What is wanted is in memory, or there is nothing.
    pub(super) fn read_tail(&mut self, now: Now, id: PartitionId, job: Job<T>) {
        let Some(partition) = self.partitions.get_mut(&id) else {
            return self.completions.push_back(job.fail(forgotten()));
        };
        let window = &partition.window;
        match job {
            Job::Fetch(mut fetch) => {
                fetch.from = fetch.from.max(window.start());
                let fetched = match fetch.from > window.end() {
                    true => Fetched::rewound(),
                    false => window.read(now, &fetch),
                };
                if fetch.wait && fetched.batches.is_empty() && fetched.at_end {
                    fetch.from = fetched.next;
                    partition.waiting.push(fetch);
                } else {
                    let result = Ok(fetched);
                    self.completions.push_back(Completion::Fetched { token: fetch.token, result });
                }
            }
            Job::Resolve { token, unix_ms, .. } => {
                let result = Ok(window.since(unix_ms));
                self.completions.push_back(Completion::Resolved { token, result });
            }
        }
    }

    pub(super) fn handle_read(&mut self, now: Now, id: PartitionId, wanted: Wanted, read: disk::Read) {
        self.backlog.handle_ended(id);
        match wanted {
            Wanted::Runs(from, segment, at) => self.handle_runs(id, from, segment, at, read),
            Wanted::Segment(segment) => self.handle_rescanned(id, &segment, read),
            Wanted::Messages(load) => self.handle_loaded(now, id, &load, read),
        }
        // Those first that had to wait.
        while let Some(stalled) = self.backlog.poll_stalled() {
            self.read_on(now, stalled);
        }
        self.read_on(now, id);
    }

    pub(super) fn handle_runs(
        &mut self,
        id: PartitionId,
        from: u64,
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

    /// Reads a whole segment, as its index does not say where the messages are.
    fn rescan(&mut self, id: PartitionId, segment: Arc<Segment>) {
        let (index, file) = (FileName::Index(segment.place), FileName::Segment(segment.place));
        tracing::error!(%index, %file, "the index is damaged: its segment is read instead");
        let all = usize::try_from(segment.bytes).unwrap_or(usize::MAX);
        self.begin(id, Wanted::Segment(segment), Step::Salvage(file, vec![(0, all)]));
    }

    pub(super) fn handle_rescanned(&mut self, id: PartitionId, segment: &Segment, read: disk::Read) {
        let &Segment { stamp, number, bytes, place, .. } = segment;
        let name = FileName::Segment(place);
        let file = match read {
            Ok(mut read) => read.pop().unwrap_or_default(),
            Err(error) if is_lost(&error) => Vec::new(),
            Err(error) => return self.cannot_read(id, &format!("{name}: {error}")),
        };
        let found = scan(&SegmentHeader { stamp, number, bytes }, &file);
        let mut runs = found.spans().remove(&id).map(|span| span.runs).unwrap_or_default();
        let Some(partition) = self.partitions.get_mut(&id) else { return };
        let span = partition.past.spans.iter_mut().find(|span| span.segment.number == number);
        if let Some(span) = span {
            // Behind the end may stand what a round held that failed.
            runs.retain(|run| run.first < span.head.end);
            let found = runs.last().map_or(span.head.first, |run| run.end);
            if found < span.head.end {
                tracing::error!(file = %name, from = found, to = span.head.end, "damaged: messages at these offsets are lost");
            }
            span.runs = Runs::Memory(runs.into());
        }
    }

    pub(super) fn handle_loaded(&mut self, now: Now, id: PartitionId, load: &Load, read: disk::Read) {
        let file = FileName::Segment(load.segment.place);
        // As it is now: the clock may have been set right since the load began.
        let spans = self.partitions.get(&id).map(|partition| &partition.past.spans);
        let span = spans
            .and_then(|spans| spans.iter().rev().find(|span| span.segment.number == load.segment.number));
        let cap_ms = span.map_or(u64::MAX, |span| span.cap_ms);
        match read {
            Ok(read) => {
                self.backlog.handle_loaded(id, load, cap_ms, &read, |at, bytes| {
                    tracing::error!(%file, at, bytes, "damaged: messages that stood there are lost");
                });
                // Who is served leaves his place to those who had to wait.
                self.serve(now, id);
            }
            // What can be read is read: run by run, and then around what cannot.
            Err(_) if load.runs.len() > 1 => self.load(id, load.first_run()),
            Err(_) if !load.is_salvage => self.load(id, Load { is_salvage: true, ..load.clone() }),
            Err(error) if is_gone(&error) => {
                tracing::error!(%file, %error, "the file is gone: its messages are lost");
                self.backlog.handle_loaded(id, load, cap_ms, &[], |_, _| {});
                self.serve(now, id);
            }
            Err(error) => self.cannot_read(id, &format!("{file}: {error}")),
        }
    }

    pub(super) fn cannot_read(&mut self, id: PartitionId, why: &str) {
        tracing::error!(shard = self.shard, why, told = CANNOT_READ, "older messages cannot be read");
        for job in self.backlog.take_jobs(id) {
            self.completions.push_back(job.fail(StoreFault::Unavailable(CANNOT_READ)));
        }
    }

    pub(super) fn cancel(&mut self, id: PartitionId, token: T) {
        let Some(partition) = self.partitions.get_mut(&id) else { return };
        let fetch = match partition.waiting.iter().position(|fetch| fetch.token == token) {
            Some(index) => Some(partition.waiting.swap_remove(index)),
            None => self.backlog.cancel(id, token),
        };
        if let Some(fetch) = fetch {
            let fetched = Fetched { next: fetch.from, ..Fetched::default() };
            self.completions.push_back(Completion::Fetched { token, result: Ok(fetched) });
        }
    }
}

/// A file that somebody has removed does not come back: at the next start it is not there, either.
fn is_gone(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::NotFound
}

/// Whether nothing that is tried again brings back what was asked for.
fn is_lost(error: &io::Error) -> bool {
    is_unreadable(error) || is_gone(error)
}
