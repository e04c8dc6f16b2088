//! Combinations of settings that cannot work, each refused with the key and the limit.

use std::fmt;

use super::{ControlListen, ServerConfig, Settings, StoreKind, WhenFull, check_cores};
use crate::base::limits::{INITIAL_CREDIT, PARTITIONS_MAX};
use crate::store::log::{BLOCK, stored_bytes_max};

/// Settings that cannot work; the text names the key and the limit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unworkable(pub String);

impl fmt::Display for Unworkable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Unworkable {}

/// The first rule that is broken.
fn first_broken(rules: impl IntoIterator<Item = (bool, String)>) -> Result<(), Unworkable> {
    match rules.into_iter().find(|(broken, _)| *broken) {
        Some((_, rule)) => Err(Unworkable(rule)),
        None => Ok(()),
    }
}

impl Settings {
    /// The largest batch that a store is given, bytes.
    pub fn largest_batch(&self) -> usize {
        self.max_pb_bytes + 2 * self.append_batch_bytes
    }

    /// Refuses combinations that cannot work, by name.
    pub fn check(&self) -> Result<(), Unworkable> {
        let eighth = self.shard_budget_bytes / 8;
        let (ttl_min, ttl_max) = self.ttl_secs;
        let s = self;
        let exceeds = |key: &str, value: usize, limit_key: &str, limit: usize| {
            (value > limit, format!("{key}: {value} is above {limit_key} = {limit}"))
        };
        first_broken([
            (
                s.partitions == 0 || s.partitions > PARTITIONS_MAX,
                format!("partitions: {} is not within 1 to {PARTITIONS_MAX}", s.partitions),
            ),
            (
                s.max_payload_bytes + 64 > s.max_pb_bytes,
                format!(
                    "max_pb_bytes: {} is below max_payload_bytes + 64 = {}",
                    s.max_pb_bytes,
                    s.max_payload_bytes + 64
                ),
            ),
            exceeds("max_pb_bytes", s.max_pb_bytes, "an eighth of shard_budget_bytes", eighth),
            exceeds("max_pb_bytes", s.max_pb_bytes, "2 GiB", u32::MAX as usize / 2),
            (
                i64::from(s.produce_window) < INITIAL_CREDIT,
                format!(
                    "produce_window: {} is below the initial credit of {INITIAL_CREDIT}",
                    s.produce_window
                ),
            ),
            (ttl_min > ttl_max, format!("ttl_min: {ttl_min} s is above ttl_max = {ttl_max} s")),
            (
                s.ping_interval > s.idle_timeout,
                format!("ping_interval: {:?} is above idle_timeout = {:?}", s.ping_interval, s.idle_timeout),
            ),
            (
                s.drain_consume_timeout > s.drain_timeout,
                format!(
                    "drain_consume_timeout: {:?} is above drain_timeout = {:?}",
                    s.drain_consume_timeout, s.drain_timeout
                ),
            ),
            exceeds(
                "produce_batches_pressed",
                s.produce_batches_pressed,
                "produce_batches",
                s.produce_batches,
            ),
            exceeds("foothold_bytes", s.foothold_bytes, "large_pb_bytes", s.large_pb_bytes),
            exceeds("large_pb_bytes", s.large_pb_bytes, "receive_window_bytes", s.receive_window_bytes),
            exceeds(
                "receive_window_bytes",
                s.receive_window_bytes,
                "receive_bytes_per_turn",
                s.receive_bytes_per_turn,
            ),
            exceeds(
                "receive_bytes_pressed",
                s.receive_bytes_pressed,
                "receive_window_bytes",
                s.receive_window_bytes,
            ),
            exceeds(
                "send_buffer_bytes_pressed",
                s.send_buffer_bytes_pressed,
                "send_buffer_bytes",
                s.send_buffer_bytes,
            ),
        ])
    }
}

impl ServerConfig {
    /// Refuses combinations that cannot work, by name.
    pub fn check(&self) -> Result<(), Unworkable> {
        self.settings.check()?;
        check_cores(&self.cores)?;
        let shards = self.shard_cores().len();
        // A store that drops never refuses, so it must hold the largest batch.
        let largest = self.settings.largest_batch();
        let least = shards * largest;
        if self.listen.port() == u16::MAX && self.control_listen == ControlListen::Next {
            return Err(Unworkable("control_listen: there is no port after 65535; name one, or off".into()));
        }
        first_broken([
            (
                self.store == StoreKind::Kafka && self.settings.per_project.storage_bytes > 0,
                "project_storage_bytes: nobody tells what a project has stored where store = kafka; set it to 0, and \
                 limit the topics in Kafka (quotas, retention.bytes)"
                    .into(),
            ),
            (
                self.store == StoreKind::Memory
                    && self.memory_full == WhenFull::DropOldest
                    && self.memory_bytes < least,
                format!(
                    "memory_bytes: {} is below {least}, the largest batch (max_pb_bytes + 2 × append_batch_bytes) on \
                     each of {shards} shards",
                    self.memory_bytes
                ),
            ),
            (
                self.store == StoreKind::Log
                    && stored_bytes_max(self.embedded.segment_bytes) < largest as u64,
                format!(
                    "log_segment_bytes: {} does not hold the largest batch, max_pb_bytes + 2 × append_batch_bytes = {largest}",
                    self.embedded.segment_bytes
                ),
            ),
            (
                !self.embedded.segment_bytes.is_multiple_of(BLOCK as u64),
                format!("log_segment_bytes: {} is no multiple of {BLOCK}", self.embedded.segment_bytes),
            ),
        ])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::names::Project;
    use std::time::Duration;

    #[test]
    fn the_defaults_work_and_what_cannot_work_is_named_with_its_limit() {
        let settings = || Settings::new(Project::parse("default").unwrap());
        assert_eq!(settings().check(), Ok(()));
        let broken = |change: fn(&mut Settings), says: &str| {
            let mut settings = settings();
            change(&mut settings);
            let why = settings.check().unwrap_err().0;
            assert!(why.contains(says), "{why:?} does not say {says:?}");
        };
        broken(|s| s.partitions = 65, "partitions: 65 is not within 1 to 64");
        broken(|s| s.max_pb_bytes = 100, "max_pb_bytes: 100 is below max_payload_bytes + 64 = 1048640");
        broken(|s| s.max_pb_bytes = 64 << 20, "above an eighth of shard_budget_bytes = 33554432");
        broken(|s| s.produce_window = 99, "produce_window: 99 is below the initial credit of 100");
        broken(|s| s.ttl_secs.0 = 2_000_000, "ttl_min: 2000000 s is above ttl_max = 1209600 s");
        broken(
            |s| s.ping_interval = Duration::from_secs(91),
            "ping_interval: 91s is above idle_timeout = 90s",
        );
        broken(|s| s.drain_timeout = Duration::from_secs(1), "drain_consume_timeout: 5s is above");
    }

    #[test]
    fn storage_is_limited_where_the_store_knows_it() {
        let config = |store| {
            let mut config = ServerConfig::new(Project::parse("default").unwrap());
            config.store = store;
            config.settings.per_project.storage_bytes = 1;
            config
        };
        assert_eq!(config(StoreKind::Log).check(), Ok(()));
        assert_eq!(config(StoreKind::Memory).check(), Ok(()));
        let why = config(StoreKind::Kafka).check().unwrap_err().0;
        assert!(why.starts_with("project_storage_bytes: "), "{why}");
    }
}
