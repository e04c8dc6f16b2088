//! Cuts for backups: what the files of a running log hold at one moment, and the hold that keeps them so.
//!
//! A cut must not hold what follows from something that it lacks, also if these are in different shards.
//! Otherwise a backup could hold the removal of a message from one shard's partition, and lack the message in
//! the partition of another shard, to which it was moved before.
//!
//! So a cut begins with a flag that all shards see. The first thing that a shard does when it sees the flag is
//! to contribute what is durable of its own. What another shard stores because of something that this shard
//! makes durable later begins after the flag was set. The other shard has contributed before that: it looks at
//! the flag before each write. No shard waits for another one, or for its disk.
//!
//! A **hold** keeps the files of a cut: it shares their segments, and a shared segment is neither reused nor
//! removed. Catalogues only grow while a server runs.

use std::collections::HashSet;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};

use super::format::ROUNDS_AT;
use super::segment::Segment;

/// A segment as far as a cut contains it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Deserialize, Serialize)]
pub struct CutSegment {
    /// The number of its file.
    pub place: u32,
    /// The number of the segment.
    pub number: u64,
    /// The stamp of its rounds.
    pub stamp: u64,
    /// The position at which the last round of the cut ends.
    pub end: u64,
}

impl CutSegment {
    /// Returns all of a sealed segment.
    pub(super) fn of(segment: &Segment) -> Self {
        let Segment { place, number, stamp, end, .. } = *segment;
        Self { place, number, stamp, end }
    }

    pub(super) fn has_rounds(&self) -> bool {
        self.end > ROUNDS_AT
    }
}

/// A shard's catalogue as far as a cut contains it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub struct CutCatalogue {
    /// The number of the shard.
    pub shard: u16,
    /// The length of the file, in bytes.
    pub end: u64,
}

/// What the files of a directory hold at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
pub struct Cut {
    /// The timeline of the server, which names the server's run.
    pub timeline: u64,
    /// The segments with rounds, oldest first.
    pub segments: Vec<CutSegment>,
    /// The catalogues that are written. All others stay as they are.
    pub catalogues: Vec<CutCatalogue>,
}

/// The reason that there is no cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoCut {
    /// Another backup holds its files.
    Busy,
    /// It was ended before all shards had contributed.
    Ended,
}

/// The reason that a hold has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotHeld {
    /// It has ended, or there was none.
    Ended,
    /// The disk was full, so the server needed the files.
    DiskFull,
}

/// What a shard contributes to a cut.
#[derive(Debug)]
pub(super) struct Part {
    /// The segment that is being written, if any.
    pub active: Option<CutSegment>,
    /// The sealed segments.
    pub sealed: Vec<Arc<Segment>>,
    pub catalogue: CutCatalogue,
}

/// Takes the cut. Runs on the thread of a shard, so it must not block.
struct Take(Box<dyn FnOnce(Result<Cut, NoCut>) + Send>);

impl fmt::Debug for Take {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Take")
    }
}

/// A cut that the shards make, and then the hold on its files.
#[derive(Debug)]
struct Hold {
    id: u64,
    /// The shards that have not contributed yet.
    missing: HashSet<u16>,
    cut: Cut,
    /// Takes the cut once it is made.
    take: Option<Take>,
    sealed: Vec<Arc<Segment>>,
    /// The numbers of the segments that were being written.
    active: HashSet<u64>,
}

#[derive(Debug, Default)]
struct State {
    hold: Option<Hold>,
    /// The last hold that ended because the disk was full.
    given_up: Option<u64>,
}

/// The cut that the shards make, and the hold on the files of the last one.
#[derive(Debug, Default)]
pub(super) struct Cuts {
    /// The id of the cut that the shards make; 0 if they make none.
    wanted: AtomicU64,
    state: Mutex<State>,
}

impl Cuts {
    /// Asks the shards `0..shards` for a cut, and passes it to `take`. The files are held under `id`, which
    /// must not be 0, until [`Self::end`].
    pub(super) fn begin(
        &self,
        id: u64,
        shards: u16,
        timeline: u64,
        take: impl FnOnce(Result<Cut, NoCut>) + Send + 'static,
    ) {
        let mut state = self.lock();
        if state.hold.is_some() {
            drop(state);
            return take(Err(NoCut::Busy));
        }
        state.hold = Some(Hold {
            id,
            missing: (0..shards).collect(),
            cut: Cut { timeline, ..Cut::default() },
            take: Some(Take(Box::new(take))),
            sealed: Vec::new(),
            active: HashSet::new(),
        });
        self.wanted.store(id, Ordering::Release);
    }

    /// Returns whether the files of a cut are held.
    pub(super) fn check(&self, id: u64) -> Result<(), NotHeld> {
        let state = self.lock();
        match &state.hold {
            Some(hold) if hold.id == id => Ok(()),
            _ if state.given_up == Some(id) => Err(NotHeld::DiskFull),
            _ => Err(NotHeld::Ended),
        }
    }

    /// Releases the files of a cut. If it is not made yet, there is no cut.
    pub(super) fn end(&self, id: u64) -> Result<(), NotHeld> {
        self.check(id)?;
        self.release(|hold| hold.id == id, NoCut::Ended);
        Ok(())
    }

    /// Releases the files of any cut, because the disk is full. Returns whether any were held.
    pub(super) fn give_up(&self) -> bool {
        let ended = self.release(|_| true, NoCut::Ended);
        if ended.is_some() {
            self.lock().given_up = ended;
        }
        ended.is_some()
    }

    fn release(&self, which: impl FnOnce(&Hold) -> bool, why: NoCut) -> Option<u64> {
        let mut state = self.lock();
        let hold = state.hold.take_if(|hold| which(hold))?;
        self.wanted.store(0, Ordering::Release);
        drop(state);
        if let Some(take) = hold.take {
            (take.0)(Err(why));
        }
        Some(hold.id)
    }

    /// Returns the id of the cut that the shards make.
    #[inline]
    pub(super) fn wanted(&self) -> Option<u64> {
        match self.wanted.load(Ordering::Acquire) {
            0 => None,
            id => Some(id),
        }
    }

    /// Holds a segment that was sealed, if it is in the cut.
    pub(super) fn keep(&self, segment: &Arc<Segment>) {
        if let Some(hold) = &mut self.lock().hold
            && hold.active.remove(&segment.number)
        {
            hold.sealed.push(segment.clone());
        }
    }

    /// Adds a shard's part to a cut. The last part completes it.
    pub(super) fn add(&self, id: u64, part: Part) {
        let mut state = self.lock();
        let Some(hold) = state.hold.as_mut().filter(|hold| hold.id == id && hold.take.is_some()) else {
            return;
        };
        let Part { active, sealed, catalogue } = part;
        hold.missing.remove(&catalogue.shard);
        hold.cut.catalogues.push(catalogue);
        let all = sealed.iter().map(|segment| CutSegment::of(segment)).chain(active);
        hold.cut.segments.extend(all.filter(CutSegment::has_rounds));
        hold.sealed.extend(sealed);
        hold.active.extend(active.map(|segment| segment.number));
        if !hold.missing.is_empty() {
            return;
        }
        hold.cut.segments.sort_by_key(|segment| segment.number);
        hold.cut.catalogues.sort_by_key(|catalogue| catalogue.shard);
        let (take, cut) = (hold.take.take(), hold.cut.clone());
        self.wanted.store(0, Ordering::Release);
        drop(state);
        if let Some(take) = take {
            (take.0)(Ok(cut));
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // A panic in a shard leaves no half-made change here, and ends the process.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
