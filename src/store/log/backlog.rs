//! Reads older messages than those in memory from the disk, a chunk at a time, for all consumers of a
//! partition that are near each other.
//!
//! A partition that is read has windows: stretches of it in memory, each followed by its readers, and at most
//! one load at a time. When a reader enters the chunk that was loaded last, the next chunk is loaded. The
//! windows of all partitions share a limit.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use super::format::{BatchHeader, PartitionId};
use super::index::Run;
use super::load::{LOAD_BYTES, LOADS_MAX, Load};
use super::reason::CANNOT_READ;
use super::scan::walk;
use super::segment::Segment;
use crate::base::batch::Fetched;
use crate::base::clock::Now;
use crate::base::error::StoreFault;
use crate::base::millis::UnixMillis;
use crate::base::units::Offset;
use crate::store::fetch::Fetch;
use crate::store::window::Window;
use crate::store::{Asker, Completion};

/// The number of chunks in a window.
const CHUNKS: usize = 3;

const _: () = assert!(CHUNKS >= 2, "loading ahead keeps the chunk before it in memory");

/// A request that waits for older messages of a partition.
#[derive(Clone, Debug)]
pub(super) enum Waiter<T: Asker> {
    /// A fetch of messages that are no longer in memory.
    Fetch(Fetch<T::Fetch>),
    /// A search for the first message since a time. That message has offset `from` or a
    /// later one.
    Resolve { token: T::Resolve, unix: UnixMillis, from: Offset },
}

impl<T: Asker> Waiter<T> {
    /// Returns the first wanted offset.
    pub(super) fn from(&self) -> Offset {
        match self {
            Self::Fetch(fetch) => fetch.from,
            Self::Resolve { from, .. } => *from,
        }
    }

    /// Returns the completion that fails the request with `fault`.
    pub(super) fn fail(self, fault: StoreFault) -> Completion<T> {
        match self {
            Self::Fetch(fetch) => Completion::Fetched { token: fetch.token, result: Err(fault) },
            Self::Resolve { token, .. } => Completion::Resolved { token, result: Err(fault) },
        }
    }
}

/// A stretch of a partition in memory.
#[derive(Debug)]
struct ReadWindow {
    window: Window,
    /// The offset of the chunk that was loaded last.
    chunk: Offset,
}

impl ReadWindow {
    fn holds(&self, offset: Offset) -> bool {
        (self.window.start()..self.window.end()).contains(&offset)
    }
}

/// The windows and waiters of one partition.
#[derive(Debug)]
struct PartitionReads<T: Asker> {
    windows: Vec<ReadWindow>,
    waiters: Vec<Waiter<T>>,
    is_loading: bool,
    /// The offset to load from next, because a reader has entered the last chunk before it.
    ahead: Option<Offset>,
    /// The runs of the sealed segment that is being read, with its number.
    runs: Option<(u64, Arc<[Run]>)>,
    /// Whether it is in `Backlog::stalled`.
    is_stalled: bool,
}

impl<T: Asker> Default for PartitionReads<T> {
    fn default() -> Self {
        Self {
            windows: Vec::new(),
            waiters: Vec::new(),
            is_loading: false,
            ahead: None,
            runs: None,
            is_stalled: false,
        }
    }
}

/// The windows of older messages of a shard.
#[derive(Debug)]
pub(super) struct Backlog<T: Asker> {
    shard: u16,
    of: HashMap<PartitionId, PartitionReads<T>>,
    /// The partitions of `of`, each once. Windows of the first ones are released first.
    order: VecDeque<PartitionId>,
    /// The size of all windows, in bytes.
    bytes: usize,
    bytes_max: usize,
    /// The number of loads in progress, at most [`LOADS_MAX`].
    loads: usize,
    /// Partitions that need a load and must wait for another one to end.
    stalled: VecDeque<PartitionId>,
}

impl<T: Asker> Backlog<T> {
    /// Creates a backlog of at most `bytes_max`, in addition to the window that was loaded last.
    pub(super) fn new(shard: u16, bytes_max: usize) -> Self {
        let (of, order, stalled) = (HashMap::new(), VecDeque::new(), VecDeque::new());
        Self { shard, of, order, bytes: 0, bytes_max, loads: 0, stalled }
    }

    /// Returns whether the counts match the content.
    fn is_sound(&self) -> bool {
        let windows = self.of.values().flat_map(|reads| &reads.windows);
        let bytes: usize = windows.map(|read| read.window.bytes()).sum();
        self.bytes == bytes && self.order.len() == self.of.len() && self.loads <= LOADS_MAX
    }

    /// Adds a request that waits for older messages of a partition.
    pub(super) fn add(&mut self, id: PartitionId, waiter: Waiter<T>) {
        let order = &mut self.order;
        let reads = self.of.entry(id).or_insert_with(|| {
            order.push_back(id);
            PartitionReads::default()
        });
        reads.waiters.push(waiter);
    }

    /// Removes and returns a waiting fetch.
    pub(super) fn cancel(&mut self, id: PartitionId, token: T::Fetch) -> Option<Fetch<T::Fetch>> {
        let waiters = &mut self.of.get_mut(&id)?.waiters;
        let index = waiters
            .iter()
            .position(|waiter| matches!(waiter, Waiter::Fetch(fetch) if fetch.token == token))?;
        match waiters.swap_remove(index) {
            Waiter::Fetch(fetch) => Some(fetch),
            Waiter::Resolve { .. } => None,
        }
    }

    /// Removes a deleted partition. Returns its waiters.
    pub(super) fn remove(&mut self, id: PartitionId) -> Vec<Waiter<T>> {
        let Some(reads) = self.of.remove(&id) else { return Vec::new() };
        self.order.retain(|other| *other != id);
        self.bytes -= reads.windows.iter().map(|read| read.window.bytes()).sum::<usize>();
        debug_assert!(self.is_sound());
        reads.waiters
    }

    /// Serves the waiters whose messages are in memory.
    pub(super) fn serve(&mut self, now: Now, id: PartitionId, completions: &mut VecDeque<Completion<T>>) {
        let Some(reads) = self.of.get_mut(&id) else { return };
        for waiter in std::mem::take(&mut reads.waiters) {
            let Some(read) = reads.windows.iter().find(|read| read.holds(waiter.from())) else {
                reads.waiters.push(waiter);
                continue;
            };
            match waiter {
                Waiter::Fetch(fetch) => {
                    let fetched = Fetched { at_end: false, ..read.window.read(now, &fetch) };
                    if fetched.next >= read.chunk {
                        reads.ahead = Some(read.window.end());
                    }
                    completions.push_back(Completion::Fetched { token: fetch.token, result: Ok(fetched) });
                }
                Waiter::Resolve { token, unix, .. } => match read.window.first_since(unix) {
                    Some(offset) => {
                        completions.push_back(Completion::Resolved { token, result: Ok(offset) });
                    }
                    None => {
                        let from = read.window.end();
                        reads.waiters.push(Waiter::Resolve { token, unix, from });
                    }
                },
            }
        }
    }

    /// Returns the offset at which the next load of a partition begins, if one is wanted, none is in progress
    /// there, and fewer than `loads_max` are in all.
    pub(super) fn wants(&mut self, id: PartitionId, loads_max: usize) -> Option<Offset> {
        let reads = self.of.get_mut(&id)?;
        if reads.is_loading {
            return None;
        }
        if self.loads >= loads_max {
            // No waiter needs what would be loaded ahead.
            reads.ahead = None;
            if !reads.waiters.is_empty() && !std::mem::replace(&mut reads.is_stalled, true) {
                self.stalled.push_back(id);
            }
            return None;
        }
        let ahead = reads.ahead.take();
        match reads.waiters.first() {
            Some(waiter) => Some(waiter.from()),
            // Load what follows a window, if that window still exists and no other one holds it.
            None => ahead.filter(|from| {
                reads.windows.iter().any(|read| read.window.end() == *from)
                    && !reads.windows.iter().any(|read| read.holds(*from))
            }),
        }
    }

    /// Takes the waiters that begin at `offset` or later, because their messages are elsewhere.
    pub(super) fn take_from(&mut self, id: PartitionId, offset: Offset) -> Vec<Waiter<T>> {
        let Some(reads) = self.of.get_mut(&id) else { return Vec::new() };
        reads.waiters.extract_if(.., |waiter| waiter.from() >= offset).collect()
    }

    /// Returns the runs that were last read of a partition, if they are those of this segment.
    pub(super) fn runs(&self, id: PartitionId, segment: &Segment) -> Option<Arc<[Run]>> {
        let (number, runs) = self.of.get(&id)?.runs.as_ref()?;
        (*number == segment.number).then(|| runs.clone())
    }

    /// Keeps the runs that were read of a segment.
    pub(super) fn handle_runs(&mut self, id: PartitionId, segment: &Segment, runs: Arc<[Run]>) {
        if let Some(reads) = self.of.get_mut(&id) {
            reads.runs = Some((segment.number, runs));
        }
    }

    /// Counts a load that begins.
    pub(super) fn handle_begun(&mut self, id: PartitionId) {
        self.loads += 1;
        debug_assert!(self.loads <= LOADS_MAX, "{} loads are under way", self.loads);
        if let Some(reads) = self.of.get_mut(&id) {
            reads.is_loading = true;
        }
    }

    /// Counts a load that has ended.
    pub(super) fn handle_ended(&mut self, id: PartitionId) {
        debug_assert!(self.loads > 0, "a load ends that has not begun");
        self.loads -= 1;
        if let Some(reads) = self.of.get_mut(&id) {
            reads.is_loading = false;
        }
    }

    /// Returns the next partition that had to wait for another load, if fewer than `loads_max` are in progress.
    pub(super) fn poll_stalled(&mut self, loads_max: usize) -> Option<PartitionId> {
        if self.loads >= loads_max {
            return None;
        }
        let id = self.stalled.pop_front()?;
        if let Some(reads) = self.of.get_mut(&id) {
            reads.is_stalled = false;
        }
        Some(id)
    }

    /// Fails all waiters of a partition that cannot be read.
    pub(super) fn handle_failed(
        &mut self,
        id: PartitionId,
        why: &str,
        completions: &mut VecDeque<Completion<T>>,
    ) {
        tracing::error!(shard = self.shard, why, told = CANNOT_READ, "read of older messages failed");
        let waiters = self.of.get_mut(&id).map(|reads| std::mem::take(&mut reads.waiters));
        for waiter in waiters.into_iter().flatten() {
            completions.push_back(waiter.fail(StoreFault::Unavailable(CANNOT_READ)));
        }
    }

    /// Handles the bytes that a load brought. All of them were stored at `cap` or earlier. Calls `damaged`
    /// with the position and length of what is damaged.
    pub(super) fn handle_loaded(
        &mut self,
        id: PartitionId,
        load: &Load,
        cap: UnixMillis,
        read: &[Vec<u8>],
        mut damaged: impl FnMut(u64, u64),
    ) {
        let Some(reads) = self.of.get_mut(&id) else { return };
        let first = load.runs.first().map_or(load.from, |run| run.first);
        let goes_on = reads.windows.iter().position(|read| read.window.end() == load.from);
        let index = goes_on.unwrap_or_else(|| {
            reads.windows.push(ReadWindow { window: Window::new(load.from.min(first)), chunk: load.from });
            reads.windows.len() - 1
        });
        let ReadWindow { window, chunk } = &mut reads.windows[index];
        let before = window.bytes();
        *chunk = load.from;
        for (run, bytes) in load.runs.iter().zip(read) {
            if (bytes.len() as u64) < run.bytes {
                damaged(run.at + bytes.len() as u64, run.bytes - bytes.len() as u64);
            }
            let is_its = |header: &BatchHeader| (header.incarnation, header.partition) == id;
            let damage = walk(load.segment.stamp, run.at, bytes, is_its, |_, header, records| {
                // Batches before the window's end were read before: their run has grown since.
                let is_new = header.base_offset >= window.end().max(load.first);
                if let Some(mut stored) = header.batch(records).filter(|_| is_new) {
                    stored.timestamp = stored.timestamp.min(cap);
                    window.push(stored);
                }
            });
            damage.iter().for_each(|damage| damaged(damage.at, damage.bytes));
        }
        window.advance(load.end);
        let added = window.bytes() - before;
        self.bytes += added;
        // The readers that follow have read what is older.
        let kept = (CHUNKS - 1) * LOAD_BYTES as usize + added;
        let before = window.bytes();
        window.keep(kept);
        self.bytes -= before - window.bytes();
        // The window that was loaded last is released last.
        let loaded = reads.windows.remove(index);
        reads.windows.push(loaded);
        self.let_go(id);
        debug_assert!(self.is_sound());
    }

    /// Releases all windows. What they held is read again when needed.
    pub(super) fn forget_windows(&mut self) {
        for reads in self.of.values_mut() {
            self.bytes -= reads.windows.drain(..).map(|read| read.window.bytes()).sum::<usize>();
            reads.ahead = None;
        }
        debug_assert_eq!(self.bytes, 0, "no window is left");
    }

    /// Releases windows until the rest is within the limit, except the last window of `id`.
    fn let_go(&mut self, id: PartitionId) {
        for _ in 0..self.order.len() {
            if self.bytes <= self.bytes_max {
                return;
            }
            let Some(oldest) = self.order.pop_front() else { return };
            self.order.push_back(oldest);
            if let Some(reads) = self.of.get_mut(&oldest) {
                let kept = usize::from(oldest == id);
                let gone = reads.windows.drain(..reads.windows.len().saturating_sub(kept));
                self.bytes -= gone.map(|read| read.window.bytes()).sum::<usize>();
            }
        }
    }

    /// Releases the windows of partitions without readers, one at each tick.
    pub(super) fn trim(&mut self) {
        let (of, bytes) = (&mut self.of, &mut self.bytes);
        self.order.retain(|id| {
            let Some(reads) = of.get_mut(id) else { return false };
            // A slow reader may return, and then loads them again.
            let is_idle = reads.waiters.is_empty() && !reads.is_loading && reads.ahead.is_none();
            if is_idle && reads.windows.is_empty() {
                of.remove(id);
                return false;
            }
            if is_idle {
                *bytes -= reads.windows.remove(0).window.bytes();
            }
            true
        });
        debug_assert!(self.is_sound());
    }

    /// Returns the number of waiting requests.
    pub(super) fn waiting(&self) -> usize {
        self.of.values().map(|reads| reads.waiters.len()).sum()
    }
}
