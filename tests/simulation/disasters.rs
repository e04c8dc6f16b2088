//! Disasters of a server, its disk and its clock.

use super::client::{Client, Role};
use super::crew::Crew;
use super::disk::{BLOCK, Backup, Directory, FileName, Report, SegmentHeader, Step, scan};
use super::doomed::Doomed;
use super::guests::Guests;
use super::model::Lost;
use super::pipe::ServerEnd;
use super::server::Server;
use super::settings::APPEND_BATCH_BYTES;
use super::world::World;
use millstream::base::millis::Millis;

/// The most bytes in a batch besides the messages that fill it: the last message, keys and headers.
const BATCH_SURPLUS_BYTES: usize = 2 << 10;

/// The number of passes per time step while the clock is ahead.
const PASSES_AHEAD: usize = 20;

const DAY_MS: i64 = 24 * 3_600_000;

/// A backup of the disk, and the model's state at that time.
pub struct Snapshot {
    disk: Backup,
    settled: Vec<usize>,
    lost: Lost,
}

/// How a server ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// It stops cleanly, and records that on the disk.
    Stop,
    /// Its process is killed. All writes stay.
    Kill,
    /// The machine loses power. Any write that was not synced may be lost.
    PowerLoss,
}

impl World {
    /// Runs a random disaster.
    pub(super) fn strike(&mut self) -> Result<(), String> {
        let is_log = self.plan.log.is_some();
        let is_spoiling = is_log && self.plan.spoils;
        match self.random.below(10) {
            0 | 1 if self.plan.jumps || self.plan.jumps_for_good => {
                self.jump();
                Ok(())
            }
            2 if self.plan.jumps_for_good && is_log => self.start_ahead(),
            3 | 4 if is_log && self.plan.fails => {
                self.fail_disk();
                Ok(())
            }
            3 if is_spoiling => {
                self.spoil_block();
                Ok(())
            }
            // A reused file still holds older batches after the newest, and a damaged file has no index.
            4 if is_spoiling && !self.plan.reuses_files() && !self.is_spoiled => self.flip_newest(),
            5 | 6 if !self.snapshots.is_empty() => self.roll_back(),
            _ if is_log => self.end_and_start(),
            _ => Ok(()),
        }
    }

    /// Ends the server in a random way and starts it again.
    pub(super) fn end_and_start(&mut self) -> Result<(), String> {
        match self.random.below(3) {
            0 => self.restart(),
            1 => self.crash(End::Kill),
            _ => self.crash(End::PowerLoss),
        }
    }

    /// Sometimes begins a deletion, which the end of the server interrupts.
    fn begin_deletion(&mut self) {
        let (Some(doomed), Some(server)) = (&mut self.doomed, &mut self.server) else { return };
        for _ in 0..doomed.delete_at_end(server) {
            for shard in 0..server.shards() {
                server.turn(shard, false);
            }
            self.machine.disk.advance();
        }
    }

    /// Stops the server cleanly and starts it again.
    pub(super) fn restart(&mut self) -> Result<(), String> {
        self.stop()?;
        self.start()
    }

    fn crash(&mut self, end: End) -> Result<(), String> {
        self.begin_deletion();
        self.end(end);
        let ms = self.random.below(2_000) as u64;
        self.pass_time(ms);
        self.start()
    }

    /// Drains and stops the server.
    fn stop(&mut self) -> Result<(), String> {
        self.drain()?;
        self.stop_drained()
    }

    fn stop_drained(&mut self) -> Result<(), String> {
        let is_stopped = self.server.as_mut().is_some_and(Server::stop);
        if !is_stopped && !self.plan.fails {
            return Err("the stores did not stop".into());
        }
        self.end(End::Stop);
        Ok(())
    }

    /// Ends the server without a clean stop.
    fn end(&mut self, end: End) {
        self.server = None;
        self.doomed.iter_mut().for_each(Doomed::handle_end);
        self.guests.iter_mut().for_each(Guests::leave_all);
        self.crew.iter_mut().for_each(Crew::handle_end);
        for client in &mut self.clients {
            if let Some(link) = &client.link {
                link.pipe.borrow_mut().server = ServerEnd::Gone;
            }
            if end == End::PowerLoss {
                client.cut();
            }
        }
        if end != End::PowerLoss {
            return self.machine.disk.kill();
        }
        self.machine.disk.lose_power();
        self.machine.boot += 1;
        if !self.plan.is_synced() {
            self.model.lose_all();
            self.doomed.iter_mut().for_each(Doomed::forget);
            // The lost writes leave holes in the files.
            self.is_spoiled = true;
            self.rewind();
        }
    }

    /// Starts the server with a random number of shards.
    pub(super) fn start(&mut self) -> Result<(), String> {
        self.set_right();
        self.start_as_it_is()
    }

    fn start_as_it_is(&mut self) -> Result<(), String> {
        self.start_and_report().map(drop)
    }

    fn start_and_report(&mut self) -> Result<Report, String> {
        self.machine.disk.heal();
        let shards = self.random.between(1, 3) as u16;
        let (server, report) = Server::start(&self.machine, &self.plan, shards)?;
        if let Some(damaged) = report.damaged.first()
            && !self.is_spoiled
        {
            return Err(format!("nothing was damaged, but the log reports {damaged:?}"));
        }
        self.server = Some(server);
        Ok(report)
    }

    pub(super) fn take_snapshot(&mut self) {
        let settled = self.settled();
        // Before the first message is stored, the queue may not exist, and ids are unique only within one
        // life of a queue.
        if settled.iter().any(|count| *count > 0) {
            let (disk, lost) = (self.machine.disk.backup(), self.model.lost.clone());
            self.snapshots.push(Snapshot { disk, settled, lost });
        }
    }

    /// Restores an older state of the disk: from a backup, or by a rollback of the file system.
    fn roll_back(&mut self) -> Result<(), String> {
        if self.random.one_in(3) {
            self.stop()?;
        }
        let now = self.settled();
        self.clients.iter_mut().for_each(Client::cut);
        self.end(End::Kill);
        let Snapshot { disk, settled, lost } = &self.snapshots[self.random.below(self.snapshots.len())];
        let is_in_place = self.random.one_in(2);
        self.machine.disk.restore(disk, is_in_place);
        self.machine.disk.cure();
        if is_in_place || self.random.one_in(2) {
            self.machine.boot += 1;
        }
        self.model.handle_rollback(settled, lost, &now);
        self.doomed.iter_mut().for_each(Doomed::handle_rollback);
        self.rewind();
        self.start()
    }

    /// Notes that consumers may receive messages again from here on.
    fn rewind(&mut self) {
        for client in &mut self.clients {
            client.cut();
            if let Role::Consumer(consume, asked) = &mut client.role {
                asked.rewinds.push(consume.sink.seen.len());
            }
        }
    }

    /// Makes operations of the disk fail, or fills it.
    fn fail_disk(&mut self) {
        let disk = &self.machine.disk;
        match self.random.below(3) {
            0 => disk.limit(self.random.between(0, 6) as u64 * (64 << 10)),
            kind => {
                let errno = if kind == 1 { libc::EIO } else { libc::ENOSPC };
                let (after, count) = (self.random.below(60) as u64, self.random.between(1, 12) as u64);
                disk.fail_after(after, errno, count);
            }
        }
    }

    /// Returns the segments that hold messages, each up to its last byte that is not zero.
    fn used_files(&self) -> Vec<(FileName, Vec<u8>)> {
        let files = self.machine.disk.list().expect("a directory must be listed");
        let segments = files.into_iter().filter(|(file, _)| matches!(file, FileName::Segment(_)));
        let used = segments.map(|(file, _)| {
            let mut bytes = self.machine.disk.bytes(file);
            bytes.truncate(bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1));
            (file, bytes)
        });
        used.filter(|(_, bytes)| bytes.len() > 2 * BLOCK).collect()
    }

    /// Marks all batches that overlap a range of a file as possibly lost.
    fn lose_batches(&mut self, bytes: &[u8], from: usize, until: usize) {
        let reach = APPEND_BATCH_BYTES + BATCH_SURPLUS_BYTES;
        let (from, until) = (from.saturating_sub(reach), (until + reach).min(bytes.len()));
        self.model.lose_stretch(&bytes[from..until]);
        self.doomed.iter_mut().for_each(Doomed::forget);
        self.is_spoiled = true;
    }

    /// Makes a block of messages or an index unreadable.
    fn spoil_block(&mut self) {
        let files = self.used_files();
        if files.is_empty() {
            return;
        }
        let (file, bytes) = &files[self.random.below(files.len())];
        let FileName::Segment(place) = *file else { return };
        if self.random.one_in(3) {
            self.is_spoiled = true;
            return self.machine.disk.spoil(FileName::Index(place), 0);
        }
        let block = self.random.between(2, (bytes.len() - 1) / BLOCK);
        self.machine.disk.spoil(*file, block as u64);
        self.lose_batches(bytes, block * BLOCK, (block + 1) * BLOCK);
    }

    /// Stops the server cleanly and flips a bit in the newest batch of a file. The next start must notice,
    /// with or without an index, because a cleanly stopped file has no torn end.
    fn flip_newest(&mut self) -> Result<(), String> {
        self.drain()?;
        let is_indexed = |file: &FileName| match *file {
            FileName::Segment(place) => {
                let files = self.machine.disk.list().expect("a directory must be listed");
                files.iter().any(|(file, _)| *file == FileName::Index(place))
            }
            _ => true,
        };
        let written: Vec<FileName> =
            self.used_files().into_iter().map(|(file, _)| file).filter(|file| !is_indexed(file)).collect();
        self.stop_drained()?;
        let files = self.used_files();
        // Behind the rounds of a file that grouping has emptied are its earlier bytes.
        let last_byte = |bytes: &[u8]| {
            let padded = [bytes, &[0; BLOCK]].concat();
            let found = scan(&SegmentHeader::parse(&padded).ok()?, &padded);
            let rounds = &bytes[..bytes.len().min(found.end as usize)];
            rounds.iter().rposition(|byte| *byte != 0).filter(|_| !found.batches.is_empty())
        };
        let mut live = files.iter().filter(|(file, _)| written.contains(file));
        let live = live.find_map(|(file, bytes)| Some((*file, bytes, last_byte(bytes)?)));
        if let Some((file, bytes, at)) = live {
            self.machine.disk.flip(file, at, 1);
            self.lose_batches(bytes, at, at + 1);
            if let FileName::Segment(place) = file
                && self.random.one_in(2)
            {
                self.machine
                    .disk
                    .run(&Step::Remove(FileName::Index(place)))
                    .expect("the index must be removed");
            }
            let report = self.start_and_report()?;
            let is_told = report.damaged.iter().any(|damaged| damaged.file == file);
            return if is_told {
                Ok(())
            } else {
                Err(format!("the end of {file} is damaged, but the log does not report it"))
            };
        }
        self.start()
    }

    /// Makes the wall clock jump: far ahead and back before a server may believe it, or back for good.
    fn jump(&mut self) {
        let clock = &self.machine.clock;
        let far_ms = self.random.between(2, 40) as i64 * DAY_MS;
        if self.plan.jumps_for_good && (!self.plan.jumps || self.random.one_in(2)) {
            self.base_error_ms -= far_ms / 10;
            self.set_right();
        } else {
            clock.set_error_ms(self.base_error_ms + far_ms);
            self.right_again = clock.millis() + Millis::new(self.random.between(10, 50_000) as u64);
        }
    }

    /// Ends a jump ahead.
    pub(super) fn set_right(&mut self) {
        self.right_again = Millis::ZERO;
        self.machine.clock.set_error_ms(self.base_error_ms);
    }

    /// Runs a server for a while on a machine whose clock is far ahead. The server must not serve older
    /// messages, and must not lose them.
    fn start_ahead(&mut self) -> Result<(), String> {
        self.stop()?;
        self.machine.clock.set_error_ms(self.base_error_ms + 30 * DAY_MS);
        // On a full disk, the server would remove messages that look expired.
        self.machine.disk.limit(u64::MAX);
        self.start_as_it_is()?;
        for client in &mut self.clients {
            if let Role::Consumer(_, asked) = &mut client.role {
                asked.may_skip = true;
            }
        }
        for _ in 0..self.random.below(12) {
            let ms = self.random.below(4_000) as u64;
            self.pass_time(ms);
            for _ in 0..PASSES_AHEAD {
                self.pass();
            }
        }
        self.set_right();
        Ok(())
    }
}
