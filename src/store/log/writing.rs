//! Storing: appends into rounds, rounds into segments, and what is done where the disk fails.

use std::hash::Hash;
use std::io;
use std::sync::Arc;

use super::disk::{Disk, FileName, Reserve, Step, make_segment, remove_segment, save_index};
use super::format::{PartitionId, SegmentHeader};
use super::history::Sealed;
use super::index::Index;
use super::journal::{Active, Entry, Written, new_stamp, round_steps, stored_bytes_max};
use super::segment::{Runs, SealedSpan, Segment};
use super::{Broken, Log, TICK_MS, Tag, forgotten, reason};
use crate::base::batch::{Batch, StoredBatch};
use crate::base::clock::Now;
use crate::base::error::StoreFault;
use crate::config::Durability;
use crate::store::{Completion, Stream};

impl<T: Copy + Eq + Hash, D: Disk<Tag>> Log<T, D> {
    pub(super) fn append(&mut self, now: Now, token: T, stream: Stream, id: PartitionId, batch: Batch) {
        if self.fence.is_closed(stream) {
            return self.refuse(now, token, stream, &batch, StoreFault::Fenced);
        }
        if let Some(why) = self.trouble {
            return self.refuse(now, token, stream, &batch, StoreFault::Unavailable(why));
        }
        if batch.stored_bytes() as u64 > stored_bytes_max(self.segment_bytes) {
            return self.refuse(now, token, stream, &batch, StoreFault::Unavailable(reason::TOO_LARGE));
        }
        self.journal.pending.push_back(Entry::Append { token, stream, id, batch });
    }

    pub(super) fn refuse(&mut self, now: Now, token: T, stream: Stream, batch: &Batch, fault: StoreFault) {
        self.fence.close(now, stream);
        self.counters.refused += u64::from(batch.count());
        self.completions.push_back(Completion::Appended { token, result: Err(fault) });
    }

    /// Everything that is to be written is not.
    pub(super) fn refuse_all(&mut self, now: Now, why: &'static str) {
        let round = self.journal.round.take().map(|round| round.written).unwrap_or_default();
        let entries = round.into_iter().map(|written| written.entry);
        for entry in entries.chain(std::mem::take(&mut self.journal.pending)).collect::<Vec<_>>() {
            if let Some(partition) = self.partitions.get_mut(&entry.id()) {
                // What was given out to messages that are not stored is given out again.
                partition.next = partition.window.end().max(partition.floor);
            }
            match entry {
                Entry::Append { token, stream, batch, .. } => {
                    self.refuse(now, token, stream, &batch, StoreFault::Unavailable(why));
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
    pub(super) fn fail(&mut self, now: Now, what: &str, error: &io::Error) {
        let why = reason::cannot_write(error);
        if self.trouble.is_none() {
            tracing::error!(shard = self.shard, told = why, what, %error, "nothing can be stored for now");
        }
        self.refuse_all(now, why);
        self.trouble = Some(why);
    }

    pub(super) fn recover(&mut self) {
        if self.trouble.take().is_some() {
            tracing::info!(shard = self.shard, "messages are stored again");
        }
    }

    /// Has a segment made, unless one is ready or on its way.
    pub(super) fn make_segment(&mut self, reserve: Reserve) {
        if self.spare.is_some() || self.making.is_some() {
            return;
        }
        let place = self.dir.take_place();
        let header = SegmentHeader { stamp: new_stamp(), number: place.number, bytes: self.segment_bytes };
        self.making = Some((place, header));
        let steps = make_segment(place, header.bytes, header.encode(), reserve);
        self.disk.submit(Tag::Make, steps);
    }

    pub(super) fn handle_made(&mut self, now: Now, result: io::Result<()>) {
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
                let steps = match place.is_new {
                    true => vec![Step::Remove(FileName::Segment(place.place))],
                    false => remove_segment(place.place, header.encode()),
                };
                self.disk.submit(Tag::Remove, steps);
                if self.journal.active.is_none() {
                    self.fail(now, "no file for messages can be made", &error);
                } else {
                    tracing::warn!(shard = self.shard, %error, "no file for more messages can be made");
                }
            }
        }
    }

    /// Ends the segment that is written. Returns its index's file.
    pub(super) fn seal(&mut self) -> Option<(Arc<Segment>, Vec<u8>)> {
        let active = self.journal.active.take()?;
        let Active { place, header, end, spans, .. } = active;
        let segment = Arc::new(Segment::new(place, &header, spans.values().map(|span| &span.head)));
        let (index, bytes) = Index::encode(header.stamp, end, &spans);
        for (id, span) in spans {
            if let Some(partition) = self.partitions.get_mut(&id) {
                let runs = Runs::Memory(span.runs.into());
                partition.past.push(SealedSpan::new(segment.clone(), span.head, runs));
            }
        }
        self.indexing.insert(header.number, index);
        self.kept.push(segment.clone());
        Some((segment, bytes))
    }

    /// Seals the segment that is written, so that the next start knows where it ends. True once nothing is under way.
    pub(super) fn stop(&mut self) -> bool {
        if self.trouble.is_some() {
            return true;
        }
        if self.journal.round.is_some() || !self.journal.pending.is_empty() {
            return false;
        }
        let end =
            self.journal.active.as_ref().filter(|active| !active.spans.is_empty()).map(|active| active.end);
        if let Some(end) = end
            && let Some((segment, index)) = self.seal()
        {
            let sealed = Sealed { place: segment.place, stamp: segment.stamp, end };
            self.stopping = Some((segment.number, sealed));
            self.disk.submit(Tag::Index(segment.number), save_index(segment.place, index));
        }
        self.indexing.is_empty()
    }

    pub(super) fn handle_indexed(&mut self, now: Now, number: u64, result: io::Result<()>) {
        let broken = self.broken.as_mut().filter(|broken| broken.segment.number == number);
        let is_broken = broken.map(|broken| broken.is_saving = false).is_some();
        match result {
            Ok(()) => {
                let Some(index) = self.indexing.remove(&number) else { return };
                if let Some((_, sealed)) = self.stopping.take_if(|(of, _)| *of == number) {
                    self.dir.seal(sealed);
                }
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
            Err(error) if is_broken => self.fail(now, "an index cannot be written", &error),
            Err(error) => {
                tracing::warn!(shard = self.shard, %error, "an index cannot be written; the start after this will scan its segment");
                self.indexing.remove(&number);
                self.stopping.take_if(|(of, _)| *of == number);
            }
        }
    }

    /// Where the clock has stepped back further than timestamps are repeated, everything stored counts as stored now at the latest, and
    /// a mark in each partition says so after a restart, too. A segment ends where the clock jumps, in either direction: its timestamps
    /// and TTLs then say how long its messages live, wherever the clock was.
    pub(super) fn follow_clock(&mut self, now: Now) {
        let is_behind = now.unix_ms.saturating_add(self.clock_step_max_ms) < self.newest_ms;
        let passed_ms = now.mono_ms.saturating_sub(self.newest_mono_ms);
        let expected_ms = self.newest_ms.saturating_add(passed_ms);
        let is_ahead =
            self.newest_mono_ms > 0 && now.unix_ms > expected_ms.saturating_add(self.clock_step_max_ms);
        let is_busy = self.journal.round.is_some() || self.trouble.is_some() || self.broken.is_some();
        if is_busy || !is_behind && !is_ahead {
            return;
        }
        if is_ahead {
            (self.newest_ms, self.newest_mono_ms) = (now.unix_ms, now.mono_ms);
            return self.seal_and_index();
        }
        self.newest_ms = now.unix_ms;
        self.seal_and_index();
        self.kept.iter().for_each(|segment| segment.cap(now.unix_ms));
        self.backlog.forget_windows();
        for (id, partition) in &mut self.partitions {
            partition.window.cap(now.unix_ms);
            if partition.past.cap(now.unix_ms) && !partition.is_marking {
                partition.is_marking = true;
                self.journal.pending.push_back(Entry::Mark { id: *id });
            }
        }
    }

    /// Ends the segment that is written.
    fn seal_and_index(&mut self) {
        if let Some((segment, index)) = self.seal() {
            self.disk.submit(Tag::Index(segment.number), save_index(segment.place, index));
        }
    }

    /// Begins the next round, if there is something to write and nothing under way.
    pub(super) fn write(&mut self, now: Now) {
        if self.journal.round.is_some() || self.journal.pending.is_empty() || self.broken.is_some() {
            return;
        }
        self.follow_clock(now);
        if self.journal.active.is_none() {
            self.journal.active = self.spare.take();
            if self.journal.active.is_none() {
                return self.make_segment(Reserve::Keep);
            }
        }
        if now.unix_ms >= self.newest_ms {
            (self.newest_ms, self.newest_mono_ms) = (now.unix_ms, now.mono_ms);
        }
        let partitions = &mut self.partitions;
        let round = self.journal.next_round(|entry| {
            // Its queue may have been deleted meanwhile.
            let Some(partition) = partitions.get_mut(&entry.id()) else { return (None, 0, now.unix_ms) };
            partition.past.last_ms = partition.past.last_ms.max(now.unix_ms);
            let timestamp_ms = partition.past.last_ms;
            let Entry::Append { batch, .. } = entry else { return (None, partition.end(), timestamp_ms) };
            let base_offset = partition.next;
            partition.next += u64::from(batch.count());
            (
                Some(StoredBatch { base_offset, timestamp_ms, stored_ns: 0, batch: batch.clone() }),
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
                self.seal_and_index();
                self.write(now);
            }
        }
    }

    pub(super) fn handle_round(&mut self, now: Now, result: io::Result<()>) {
        match result {
            Ok(()) => {
                for mut written in self.journal.handle_stored() {
                    if let Some(stored) = &mut written.stored {
                        stored.stored_ns = now.mono_ns;
                    }
                    self.handle_written(written);
                }
            }
            Err(error) => {
                // Nobody knows what of the round is on the disk. The segment ends before it, and that is made durable before anything
                // else is stored: else its messages might be there twice after a restart, or others under their offsets.
                self.fail(now, "a round cannot be written", &error);
                if let Some((segment, index)) = self.seal() {
                    self.disk.submit(Tag::Index(segment.number), save_index(segment.place, index.clone()));
                    self.broken = Some(Broken { segment, index, is_saving: true });
                }
            }
        }
    }

    pub(super) fn handle_written(&mut self, written: Written<T>) {
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
        if let Some(account) = &mut partition.account {
            account.add(&written.header);
        }
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

    /// Where a partition ends behind what is known of it, as something behind that was lost, that is written at once.
    pub(super) fn mark_ends(&mut self) {
        for (id, partition) in &mut self.partitions {
            if partition.past.spans.back().map_or(0, |span| span.head.end) < partition.past.end {
                partition.is_marking = true;
                self.journal.pending.push_back(Entry::Mark { id: *id });
            }
        }
    }
}
