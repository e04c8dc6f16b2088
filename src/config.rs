//! The settings of protocol section 9 and of the server, with their defaults, checked against each other.

use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;

use crate::limits::{APPEND_BATCH_BYTES, INITIAL_CREDIT, PARTITIONS_MAX};
use crate::names::Project;
use crate::ws::handshake::Policy;

/// The longest that a shard may poll before it sleeps.
const SPIN_MAX: Duration = Duration::from_secs(60);

/// The shortest silence and the shortest handshake: less, and a shard would do nothing but look at the time.
const SHORTEST_INTERVAL: Duration = Duration::from_millis(10);

/// What every connection of the server obeys.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Largest payload, bytes.
    pub max_payload_bytes: usize,
    /// Largest pb, bytes.
    pub max_pb_bytes: usize,
    /// How long a pb that was begun may take.
    pub pb_timeout: Duration,
    /// How much of a discarded half is read, bytes.
    pub discard_limit_bytes: u64,
    /// Shortest and longest time to live of a message, seconds.
    pub ttl_secs: (u32, u32),
    /// Messages that a produce operation may have outstanding.
    pub produce_window: u32,
    /// Bytes that a produce operation may have outstanding.
    pub produce_window_bytes: usize,
    /// Messages in a ConsumeResponse.
    pub consume_batch_messages: usize,
    /// Bytes in a ConsumeResponse.
    pub consume_batch_bytes: usize,
    /// How long messages wait for others to share their ConsumeResponse.
    pub consume_linger: Duration,
    /// How long an owed marker waits for a message to come with.
    pub marker_wait: Duration,
    /// Silence after which the server pings.
    pub ping_interval: Duration,
    /// Silence after which the server closes.
    pub idle_timeout: Duration,
    /// How long a handshake may take.
    pub handshake_timeout: Duration,
    /// Largest handshake, bytes.
    pub handshake_max_bytes: usize,
    /// How long draining may take.
    pub drain_timeout: Duration,
    /// How much of it consumers get.
    pub drain_consume_timeout: Duration,
    /// Partitions of a new queue.
    pub partitions: u16,
    /// Whether queues are created on first use.
    pub auto_create: bool,
    /// Connections of a shard.
    pub max_connections: usize,
    /// Bytes that the connections of a shard may hold at once.
    pub shard_budget_bytes: usize,
    /// Who may connect, and as whom.
    pub policy: Policy,
}

impl Settings {
    /// The defaults, for clients that name no project to belong to `default_project`.
    pub fn new(default_project: Project) -> Self {
        Self {
            max_payload_bytes: 1 << 20,
            max_pb_bytes: 8 << 20,
            pb_timeout: Duration::from_secs(30),
            discard_limit_bytes: 16 << 20,
            ttl_secs: (60, 1_209_600),
            produce_window: 65_536,
            produce_window_bytes: 16 << 20,
            consume_batch_messages: 1_000,
            consume_batch_bytes: 256 << 10,
            consume_linger: Duration::ZERO,
            marker_wait: Duration::from_millis(100),
            ping_interval: Duration::from_secs(30),
            idle_timeout: Duration::from_secs(90),
            handshake_timeout: Duration::from_secs(10),
            handshake_max_bytes: 16 << 10,
            drain_timeout: Duration::from_secs(30),
            drain_consume_timeout: Duration::from_secs(5),
            partitions: 8,
            auto_create: true,
            max_connections: 65_536,
            shard_budget_bytes: 256 << 20,
            policy: Policy { default_project, allowed_origins: Vec::new(), test_echo: false },
        }
    }

    /// Refuses combinations that cannot work, by name.
    pub fn check(&self) -> Result<(), Unworkable> {
        let rules = [
            (self.partitions == 0 || self.partitions > PARTITIONS_MAX, "partitions: 1 to 64"),
            (self.max_payload_bytes + 64 > self.max_pb_bytes, "max_pb_bytes: below max_payload_bytes + 64"),
            (
                self.max_pb_bytes > self.shard_budget_bytes / 8,
                "max_pb_bytes: above an eighth of shard_budget_bytes",
            ),
            (self.max_pb_bytes > u32::MAX as usize / 2, "max_pb_bytes: above 2 GiB"),
            (
                i64::from(self.produce_window) < INITIAL_CREDIT,
                "produce_window: below the initial credit of 100",
            ),
            (self.ttl_secs.0 > self.ttl_secs.1, "ttl_min: above ttl_max"),
            (self.ping_interval > self.idle_timeout, "ping_interval: above idle_timeout"),
            (self.consume_batch_messages == 0, "consume_batch_messages: zero"),
            (self.drain_consume_timeout > self.drain_timeout, "drain_consume_timeout: above drain_timeout"),
            (self.max_connections == 0, "max_connections: zero"),
            (self.max_payload_bytes == 0, "max_payload_bytes: zero"),
            (self.ping_interval < SHORTEST_INTERVAL, "ping_interval: below 10 ms"),
            (self.handshake_timeout < SHORTEST_INTERVAL, "handshake_timeout: below 10 ms"),
        ];
        match rules.into_iter().find(|(broken, _)| *broken) {
            Some((_, rule)) => Err(Unworkable(rule.to_owned())),
            None => Ok(()),
        }
    }
}

/// What a full memory store does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum WhenFull {
    /// Drops the oldest messages, counts them and says so.
    #[default]
    DropOldest,
    /// Refuses new ones with 503.
    Refuse,
}

/// Where a server listens, on which cores, with which store.
#[derive(Clone, Debug)]
pub struct ServerConfig {
    /// The address.
    pub listen: SocketAddr,
    /// A shard for each.
    pub cores: Vec<usize>,
    /// Bytes of messages that the memory store holds, over all shards.
    pub memory_bytes: usize,
    /// What it does then.
    pub memory_full: WhenFull,
    /// How long a shard polls before it sleeps.
    pub spin_before_park: Duration,
    /// What its connections obey.
    pub settings: Settings,
}

impl ServerConfig {
    /// Refuses combinations that cannot work, by name.
    pub fn check(&self) -> Result<(), Unworkable> {
        self.settings.check()?;
        let shards = self.cores.len().max(1);
        // A store that drops never refuses, so it must hold the largest batch.
        let least = shards * (self.settings.max_pb_bytes + 2 * APPEND_BATCH_BYTES);
        if self.memory_full == WhenFull::DropOldest && self.memory_bytes < least {
            return Err(Unworkable(format!(
                "memory_bytes: {} are below {least}, the largest batch (max_pb_bytes + 512 KiB) on each of {shards} shards",
                self.memory_bytes
            )));
        }
        if self.spin_before_park > SPIN_MAX {
            return Err(Unworkable(format!("spin_us: above {}", SPIN_MAX.as_micros())));
        }
        Ok(())
    }
}

/// A combination of settings that cannot work; the text names the setting and the limit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unworkable(pub String);

impl fmt::Display for Unworkable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Unworkable {}

/// Reads a list of cores, as `taskset --cpu-list` takes it: `0-3`, `0,2,4-5`.
pub fn parse_cores(text: &str) -> Result<Vec<usize>, Unworkable> {
    let unworkable = || Unworkable(format!("cores: {text} is no list like 0-3 or 0,2"));
    let mut cores = Vec::new();
    for part in text.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let first: usize = first.trim().parse().map_err(|_| unworkable())?;
        let last: usize = last.trim().parse().map_err(|_| unworkable())?;
        if first > last || last >= 4096 {
            return Err(unworkable());
        }
        cores.extend(first..=last);
    }
    let mut sorted = cores.clone();
    sorted.sort_unstable();
    sorted.dedup();
    if sorted.len() == cores.len() {
        Ok(cores)
    } else {
        Err(Unworkable(format!("cores: {text} names one twice")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn core_lists_are_those_of_taskset() {
        assert_eq!(parse_cores("0-2,5"), Ok(vec![0, 1, 2, 5]));
        for bad in ["", "a", "2-1", "0,0", "0-99999", "-1", "1,"] {
            assert!(parse_cores(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn the_defaults_work_and_what_cannot_work_is_named() {
        let mut settings = Settings::new(Project::parse("default").unwrap());
        assert_eq!(settings.check(), Ok(()));
        settings.partitions = 65;
        assert!(settings.check().unwrap_err().0.starts_with("partitions"));
    }
}
