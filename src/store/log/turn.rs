//! A shard's turn: delivers the disk's results to their owners, and submits new work to the disk.

use std::io;
use std::sync::Arc;

use super::Log;
use super::cut::{CutCatalogue, CutSegment, Part};
use super::disk::{Disk, Read, Reserve};
use super::format::PartitionId;
use super::grouping::Made;
use super::index::{Index, SpanHead};
use super::journal::round_steps;
use super::load::{LOADS_BESIDE_ROUNDS, LOADS_MAX};
use super::reading::Fetcher;
use super::reason::is_disk_full;
use super::segment::Segment;
use super::segments::submit_index;
use super::state::stale;
use super::tag::Tag;
use super::timestamps::ClockJump;
use crate::base::clock::Now;
use crate::base::millis::{Millis, UnixMillis};
use crate::base::queue::PartitionKey;
use crate::store::Asker;

/// The interval at which expired segments are looked for and failures are retried.
pub(super) const TICK: Millis = Millis::new(1_000);

/// The shortest time between two looks at the grouper. A step that is under way then may have ended.
const STEP_WAIT: Millis = Millis::new(5);

impl<T: Asker, D: Disk<Tag>> Log<T, D> {
    /// Returns the log's id of a partition, or `None` if its queue is not open.
    #[inline]
    pub(super) fn id(&mut self, key: PartitionKey) -> Option<PartitionId> {
        let Self { queues, partitions, dir, .. } = self;
        queues.id(dir, key, |id| partitions.add(key, id, |end| dir.jump(id, end)))
    }

    /// Returns what reading needs.
    #[inline]
    pub(super) fn fetcher(&mut self, now: Now) -> Fetcher<'_, T, D> {
        Fetcher {
            now,
            dir: &self.dir,
            disk: &mut self.disk,
            partitions: &mut self.partitions,
            active: self.writer.active(),
            loads_max: if self.writer.is_quiet(now) { LOADS_MAX } else { LOADS_BESIDE_ROUNDS },
            backlog: &mut self.backlog,
            completions: &mut self.completions,
        }
    }

    /// Handles the disk's results, and submits new work.
    pub(super) fn work(&mut self, now: Now) {
        while let Some((tag, read)) = self.disk.poll() {
            match tag {
                Tag::Round => self.handle_round(now, read.map(drop)),
                Tag::Make => self.handle_made(now, read.map(drop)),
                Tag::Index(number) => self.handle_indexed(now, number, read.map(drop)),
                Tag::Unmade => {
                    if let Err(error) = read {
                        tracing::warn!(%error, "removal of an unneeded file failed");
                    }
                }
                Tag::Remove => self.dir.removals().handle_removed(self.segments.shard(), read),
                Tag::Group => self.handle_grouped(now, read),
                Tag::Wipe(place) => {
                    let Self { grouper, segments, dir, .. } = self;
                    let give_back = |place, bytes| segments.give_back(now, dir, place, bytes);
                    grouper.handle_wiped(place, read.map(drop), give_back, dir.removals());
                    self.begin_group(now);
                }
                Tag::Catalogue => {
                    self.queues.handle_written(&self.dir, &read.map(drop), &mut self.completions);
                }
                Tag::Read(id, purpose) => self.fetcher(now).handle_read(id, purpose, read),
            }
        }
        if let Some(id) = self.dir.cuts().wanted() {
            self.contribute(id);
        }
        self.write(now);
        self.queues.write(&self.dir, &mut self.disk);
        // While nothing can be written, the disk is left alone.
        if self.grouper.is_due(now) && !self.writer.is_in_trouble() {
            self.grouper.work(now, &mut self.disk);
        }
        self.dir.removals().work(&mut self.disk);
    }

    /// Returns when the next tick is due, or the next step of the grouper.
    pub(super) fn next_tick(&mut self, now: Now) -> Millis {
        let due = self.grouper.next_due().filter(|_| !self.writer.is_in_trouble());
        self.step_due = due.map(|due| due.max(now.mono + STEP_WAIT));
        self.step_due.map_or(self.tick_due, |due| due.min(self.tick_due))
    }

    /// Begins to group segments, if some should be. While nothing can be written, no group holds segments, so
    /// that those that nobody needs are freed.
    pub(super) fn begin_group(&mut self, now: Now) {
        let Self { grouper, segments, dir, .. } = self;
        if self.writer.is_in_trouble() {
            grouper.drop_group(dir.removals());
        } else {
            grouper.begin(now, segments.kept(), |number| segments.is_indexed(number), dir);
        }
    }

    /// Handles the end of a step of the grouper. Once a grouped segment is complete, partitions use it.
    fn handle_grouped(&mut self, now: Now, read: Read) {
        let Self { grouper, partitions, dir, .. } = self;
        let find = |id, number, head: &SpanHead| partitions.place_of(id, number, head);
        let Some(made) = grouper.handle(now, read, find, dir.removals()) else { return };
        let Made { header, order, output, replaced, offsets } = made;
        let heads = output.spans.values().map(|span| &span.head);
        let segment = Arc::new(Segment::new(output.place, &header, output.end, heads).in_order(order));
        let (index, bytes) = Index::encode(header.stamp, output.end, &output.spans);
        self.segments.add_grouped(segment.clone(), index);
        self.partitions.group(&segment, output.spans, &replaced.into_iter().collect(), offsets);
        submit_index(&mut self.disk, &segment, bytes);
        self.remove_gone(now);
    }

    /// Releases the files of segments that nobody needs.
    fn remove_gone(&mut self, now: Now) {
        let Self { segments, grouper, dir, disk, .. } = self;
        segments.remove_gone(now, dir, |segment| grouper.take_gone(segment));
        grouper.wipe(disk);
    }

    /// Contributes to a cut, unless it has done so. Must be called before the next write begins.
    #[cold]
    fn contribute(&mut self, id: u64) {
        if self.contributed.replace(id) == Some(id) {
            return;
        }
        let active = self.writer.active().map(|active| CutSegment {
            place: active.place,
            number: active.header.number,
            stamp: active.header.stamp,
            end: active.end,
        });
        let catalogue = CutCatalogue { shard: self.segments.shard(), end: self.queues.end() };
        // What replaced segments hold is in the segments that replace them.
        let sealed = self.segments.kept().iter().filter(|segment| !self.grouper.has_replaced(segment.number));
        self.dir.cuts().add(id, Part { active, sealed: sealed.cloned().collect(), catalogue });
    }

    /// Begins the next round, if entries wait and no round is being written.
    fn write(&mut self, now: Now) {
        while self.writer.wants_round() {
            if self.writer.drop_forgotten(&mut self.completions) {
                continue;
            }
            self.follow_clock(now);
            if self.writer.active().is_none() {
                let needed = self.writer.journal().pending_features();
                match self.segments.take_spare(needed) {
                    Some(segment) => self.writer.journal().begin(segment),
                    None => return self.make_segment(now, Reserve::Keep),
                }
            }
            self.timestamps.give(now);
            let Self { writer, partitions, .. } = self;
            match writer.journal().next_round(|entry| partitions.assign(now, entry)) {
                Some((file, at, bytes)) => {
                    self.writer.note_round(now);
                    let is_synced = self.writer.is_synced();
                    self.disk.submit(Tag::Round, round_steps(file, at, bytes, is_synced));
                    if let Some(active) = self.writer.active() {
                        self.segments.make_ahead(now, &self.dir, &mut self.disk, (active.end, active.used));
                    }
                }
                // The segment has no room for the next entry, or not the features that it needs.
                None => self.seal_and_index(),
            }
        }
    }

    fn handle_round(&mut self, now: Now, result: io::Result<()>) {
        self.writer.note_round(now);
        match result {
            Ok(()) => {
                for written in self.writer.handle_stored() {
                    self.partitions.store(now, written, &mut self.completions);
                }
            }
            Err(error) => {
                // It is unknown how much of the round is on the disk. The segment ends before the round, and
                // nothing else is stored until that end is durable. Otherwise its messages could appear twice
                // after a restart, or in place of others with the same offsets.
                self.fail(now, "write of a round failed", &error);
                if let Some((segment, index)) = self.seal() {
                    submit_index(&mut self.disk, &segment, index.clone());
                    self.writer.cut(segment, index);
                }
            }
        }
    }

    /// Refuses messages until a retry succeeds.
    fn fail(&mut self, now: Now, what: &str, error: &io::Error) {
        self.writer.fail(now, what, error, &mut self.partitions, &mut self.completions);
    }

    /// Makes a segment, unless one is ready or being made.
    pub(super) fn make_segment(&mut self, now: Now, reserve: Reserve) {
        let needed = self.writer.journal().pending_features();
        self.segments.make(now, &self.dir, &mut self.disk, reserve, needed);
    }

    fn handle_made(&mut self, now: Now, result: io::Result<()>) {
        let is_ready = self.segments.handle_made(now, TICK, &result, &self.dir, &mut self.disk);
        if result.as_ref().is_err_and(is_disk_full) && self.dir.cuts().give_up() {
            tracing::warn!(
                shard = self.segments.shard(),
                "disk full: the backup that is under way fails, because the log needs the files that it held"
            );
            self.remove_gone(now);
            return self.make_segment(now, Reserve::Keep);
        }
        match result {
            Ok(()) if !is_ready || self.writer.is_cut() => {}
            Ok(()) => self.writer.recover(),
            Err(error) if self.writer.active().is_none() => {
                self.fail(now, "creation of a segment failed", &error);
            }
            Err(error) => {
                tracing::warn!(shard = self.segments.shard(), %error, "creation of the next segment failed")
            }
        }
    }

    /// Seals the segment that is being written. Returns it with the content of its index file.
    fn seal(&mut self) -> Option<(Arc<Segment>, Vec<u8>)> {
        let mut active = self.writer.journal().take_active()?;
        let (segment, index) = self.segments.seal(&mut active);
        self.dir.cuts().keep(&segment);
        self.partitions.seal(&segment, active.spans);
        Some((segment, index))
    }

    /// Seals the segment that is being written, and writes its index.
    fn seal_and_index(&mut self) {
        if let Some((segment, index)) = self.seal() {
            submit_index(&mut self.disk, &segment, index);
        }
    }

    fn handle_indexed(&mut self, now: Now, number: u64, result: io::Result<()>) {
        let is_cut = self.writer.handle_saved(number);
        match result {
            Ok(()) => {
                let Some(index) = self.segments.handle_indexed(&self.dir, number) else { return };
                self.partitions.handle_indexed(number, index.spans);
                if is_cut {
                    self.writer.end_cut();
                    if self.segments.has_spare() {
                        self.writer.recover();
                    }
                    self.make_segment(now, Reserve::Keep);
                }
            }
            Err(error) if is_cut => self.fail(now, "write of an index failed", &error),
            Err(error) => self.segments.handle_not_indexed(number, &error),
        }
    }

    /// Handles a jump of the clock, in either direction, by ending the segment: within a segment, timestamps
    /// and TTLs then say how long messages live, however wrong the clock was. After a jump back, everything
    /// that is stored counts as stored now or earlier. A mark in each partition keeps that over a restart.
    pub(super) fn follow_clock(&mut self, now: Now) {
        if self.writer.is_busy() {
            return;
        }
        let Some(jump) = self.timestamps.jump(now) else { return };
        self.timestamps.follow(now, jump);
        self.seal_and_index();
        if jump == ClockJump::Back {
            self.grouper.drop_group(self.dir.removals());
            self.segments.cap(now.unix);
            self.backlog.forget_windows();
            let Self { partitions, writer, .. } = self;
            partitions.cap(now.unix, |id| writer.mark(id));
        }
    }

    /// Releases what has expired, and the segments beyond the limits of size and age.
    pub(super) fn let_go(&mut self, now: Now) {
        let is_held = self.timestamps.is_held(now, self.writer.is_disk_full());
        self.segments.retire(now, is_held, &self.dir);
        let unix = if is_held { UnixMillis::ZERO } else { now.unix };
        let mut marks = Vec::new();
        self.partitions.expire(
            unix,
            self.dir.retirements(),
            self.writer.active(),
            !self.writer.is_in_trouble(),
            |id| marks.push(id),
        );
        marks.into_iter().for_each(|id| self.writer.mark(id));
        self.remove_gone(now);
        self.segments.trim(now, &self.dir);
        // While nothing can be written, a snapshot would only fail.
        if !self.writer.is_in_trouble() {
            let stale = stale(self.partitions.known_states(), self.segments.kept());
            self.states.set_stale(&self.dir, &stale);
        }
        self.partitions.count_due(now, self.writer.active());
        self.backlog.trim();
    }

    /// Retries what failed, so that messages can be stored again.
    pub(super) fn retry(&mut self, now: Now) {
        if !self.writer.is_in_trouble() {
            return;
        }
        if let Some((segment, index)) = self.writer.next_save() {
            submit_index(&mut self.disk, &segment, index);
        } else if !self.writer.is_cut() {
            let pays = self.segments.frees_room(now.unix, &self.partitions.movable_spans(now.unix));
            self.make_segment(now, if pays { Reserve::Use } else { Reserve::Keep });
        }
    }

    /// Seals the segment that is being written, so that the next start knows where it ends. Returns true once
    /// nothing is in progress. Does not wait for the retry of a failed write.
    pub(super) fn stop(&mut self) -> bool {
        if self.queues.is_writing() {
            return false;
        }
        if self.writer.is_in_trouble() {
            return true;
        }
        if self.writer.is_busy() || self.writer.journal().has_pending() {
            return false;
        }
        let end = self.writer.active().filter(|active| !active.spans.is_empty()).map(|active| active.end);
        if let Some(end) = end
            && let Some((segment, index)) = self.seal()
        {
            self.segments.stop_behind(&segment, end);
            submit_index(&mut self.disk, &segment, index);
        }
        !self.segments.is_indexing()
    }
}
