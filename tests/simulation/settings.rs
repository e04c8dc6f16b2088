//! What a seed draws: the server's settings, and what may go wrong.

use std::sync::Arc;
use std::time::Duration;

use millstream::access::ProjectLimits;
use millstream::shard::core::Settings;
use millstream::store::log::{self, Durability};

use super::random::Random;

/// The largest payload that is stored, bytes. Producers send larger ones now and then.
pub const PAYLOAD_BYTES_MAX: usize = 600;

/// An append batch of the log is closed at so many bytes: what one block that cannot be read may cost.
pub const APPEND_BATCH_BYTES: usize = 4 << 10;

/// See the module's page.
#[derive(Clone, Debug)]
pub struct Plan {
    pub settings: Arc<Settings>,
    pub limits: ProjectLimits,
    /// The log's settings; without them messages are kept in memory.
    pub log: Option<log::Settings>,
    /// Messages in a pb at most.
    pub batch: usize,
    /// Disasters in the storm at most.
    pub disasters: usize,
    /// Older states of the disk come back.
    pub rolls_back: bool,
    /// Blocks cannot be read, or hold something else than was written.
    pub spoils: bool,
    /// Writes fail, and the disk is full at times.
    pub fails: bool,
    /// The wall clock jumps ahead, and soon back again.
    pub jumps: bool,
    /// It jumps back for good, or a server starts while it is far ahead.
    pub jumps_for_good: bool,
    /// Some producers' messages have the shortest TTL, and time flies.
    pub is_short_lived: bool,
    /// The project's rates are limited.
    pub is_limited: bool,
    /// A second queue is deleted now and then.
    pub deletes: bool,
}

impl Plan {
    pub fn draw(seed: u64, random: &mut Random) -> Self {
        let mut settings = Settings { partitions: random.between(1, 5) as u16, ..Settings::default() };
        settings.operation.max_payload_bytes = PAYLOAD_BYTES_MAX;
        // Some shards have hardly more memory than one pb takes.
        let batch = if random.one_in(3) { 6 } else { 30 };
        settings.operation.max_pb_bytes = batch * 720;
        settings.operation.produce_window = random.between(100, 400) as u32;
        settings.operation.produce_window_bytes = random.between(1_000, 100_000);
        settings.operation.consume_batch_messages = random.between(1, 120);
        settings.operation.consume_batch_bytes = random.between(200, 20_000);
        settings.shard_budget_bytes = settings.operation.max_pb_bytes * random.between(10, 40) / 10;
        settings.operation.consume_linger = Duration::from_millis(if random.one_in(4) { 20 } else { 0 });
        if random.one_in(3) {
            settings.receive_bytes_per_turn = random.between(500, 5_000);
        }
        settings.inbox_batches = if random.one_in(3) { random.between(1, 4) } else { 1024 };
        settings.drain_timeout = Duration::from_secs(8);
        settings.clock_step_max = Duration::from_secs(if random.one_in(2) { 60 } else { 3_600 });
        if seed % 3 == 1 {
            // A turn ends before all is sent.
            settings.operation.send_buffer_bytes = 500 + seed as usize * 131 % 4_000;
        }
        let is_limited = seed % 4 == 3;
        let mut limits = ProjectLimits::default();
        if is_limited {
            limits.messages_per_sec = 200 + seed % 900;
            limits.bytes_per_sec = 20_000 + seed * 37 % 60_000;
        }
        let is_log = !random.one_in(4);
        let log = is_log.then(|| {
            settings.operation.append_batch_bytes = APPEND_BATCH_BYTES;
            log::Settings {
                durability: if random.one_in(4) { Durability::Os } else { Durability::Fsync },
                segment_bytes: 64 << 10,
                tail_bytes: if random.one_in(3) { 0 } else { random.between(1 << 10, 64 << 10) },
                read_bytes: random.between(20, 200) << 10,
                ..log::Settings::default()
            }
        });
        let mut lot = |odds| is_log && random.one_in(odds);
        let (rolls_back, spoils) = (lot(3), lot(4));
        // A failed read of what lies beside a block that cannot be read would lose that, too.
        let fails = lot(3) && !spoils;
        Self {
            settings: Arc::new(settings),
            limits,
            log,
            batch,
            disasters: random.between(0, 4),
            rolls_back,
            spoils,
            fails,
            jumps: random.one_in(3),
            jumps_for_good: random.one_in(5),
            is_short_lived: random.one_in(3),
            is_limited,
            deletes: is_log && !is_limited && seed % 3 == 2,
        }
    }

    /// Whether what is acknowledged survives a loss of power.
    pub fn is_synced(&self) -> bool {
        self.log.as_ref().is_some_and(|log| log.durability == Durability::Fsync)
    }

    /// Whether the same messages can be wanted in the end as were stored: none are lost or end.
    pub fn keeps_all(&self) -> bool {
        let may_lose = self.rolls_back || self.spoils || self.log.is_some() && !self.is_synced();
        !may_lose && !self.is_short_lived && !self.jumps_for_good
    }

    /// Whether messages end, so that their files are used again.
    pub fn reuses_files(&self) -> bool {
        self.is_short_lived || self.jumps_for_good
    }

    /// Whether the time that servers know is the true one.
    pub fn knows_the_time(&self) -> bool {
        !self.jumps_for_good
    }
}
