//! The random choices of a seed: the server's settings, and possible failures.

use std::sync::Arc;
use std::time::Duration;

use millstream::access::ProjectLimits;
use millstream::shard::core::Settings;
use millstream::store::log::{self, Durability};

use super::random::Random;

/// The largest payload that may be stored, in bytes. Producers sometimes send larger ones.
pub const PAYLOAD_BYTES_MAX: usize = 600;

/// The size of an append batch in the log, in bytes. An unreadable block may lose this much.
pub const APPEND_BATCH_BYTES: usize = 4 << 10;

/// The plan of a seed.
#[derive(Clone, Debug)]
pub struct Plan {
    pub settings: Arc<Settings>,
    pub limits: ProjectLimits,
    /// The log's settings. Without them, the store is in memory.
    pub log: Option<log::Settings>,
    /// The most messages in a pb.
    pub batch: usize,
    /// The number of disasters during the storm.
    pub disasters: usize,
    /// Whether older states of the disk come back.
    pub rolls_back: bool,
    /// Whether blocks become unreadable or change their contents.
    pub spoils: bool,
    /// Whether writes fail and the disk is sometimes full.
    pub fails: bool,
    /// Whether the wall clock jumps ahead, and soon back again.
    pub jumps: bool,
    /// Whether the wall clock jumps back for good, or a server starts while it is far ahead.
    pub jumps_for_good: bool,
    /// Whether some messages have the shortest TTL, and time passes quickly.
    pub is_short_lived: bool,
    /// Whether the project's rates are limited.
    pub is_limited: bool,
    /// Whether all connections speak TLS.
    pub is_secure: bool,
    /// Whether the server's settings are reloaded.
    pub reloads: bool,
    /// Whether a second queue exists that is occasionally deleted.
    pub deletes: bool,
    /// Whether workers claim the messages of another queue.
    pub works: bool,
    /// Whether that queue has a dead-letter queue, and is altered.
    pub buries: bool,
    /// Whether clients of the Zaqar API come, too.
    pub has_guests: bool,
}

impl Plan {
    pub fn draw(seed: u64, random: &mut Random) -> Self {
        let mut settings = Settings { partitions: random.between(1, 5) as u16, ..Settings::default() };
        settings.operation.max_payload_bytes = PAYLOAD_BYTES_MAX;
        // Some shards have barely more memory than one pb needs.
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
        if seed % 2 == 1 {
            settings.proxy_from = "unix".parse().unwrap();
        }
        if seed % 3 == 1 {
            // A turn ends before everything is sent.
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
        // A failed read next to an unreadable block would lose more messages than the model expects.
        let fails = lot(3) && !spoils;
        let plan = Self {
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
            is_secure: seed % 6 == 4,
            reloads: seed % 5 == 2,
            deletes: is_log && !is_limited && seed % 3 == 2,
            works: false,
            buries: false,
            has_guests: false,
        };
        let works = plan.keeps_all() && !is_limited && !plan.deletes;
        let has_guests = plan.keeps_all() && !is_limited && !plan.is_secure && seed.is_multiple_of(2);
        Self { works, buries: works && seed % 7 < 5, has_guests, ..plan }
    }

    /// Draws the settings of a reload. They add, change or remove the rates of a limited project.
    pub fn reloaded(&self, random: &mut Random) -> (Arc<Settings>, ProjectLimits) {
        let ping_secs = random.between(5, 40) as u64;
        let settings = Settings {
            ping_interval: Duration::from_secs(ping_secs),
            idle_timeout: Duration::from_secs(3 * ping_secs),
            ..(*self.settings).clone()
        };
        let mut limits = self.limits;
        limits.messages_per_sec *= random.below(3) as u64;
        limits.bytes_per_sec *= random.below(3) as u64;
        (Arc::new(settings), limits)
    }

    /// Returns whether acknowledged messages survive a power loss.
    pub fn is_synced(&self) -> bool {
        self.log.as_ref().is_some_and(|log| log.durability == Durability::Fsync)
    }

    /// Returns whether all stored messages must be readable at the end: none is lost or expires.
    pub fn keeps_all(&self) -> bool {
        let may_lose = self.rolls_back || self.spoils || self.log.is_some() && !self.is_synced();
        !may_lose && !self.is_short_lived && !self.jumps_for_good
    }

    /// Returns whether messages expire, so that their files are reused.
    pub fn reuses_files(&self) -> bool {
        self.is_short_lived || self.jumps_for_good
    }

    /// Returns whether the servers' time is the true time.
    pub fn knows_the_time(&self) -> bool {
        !self.jumps_for_good
    }
}
