//! Refuses combinations of settings that cannot work. Each error names the setting and its limit.

use super::ServerConfig;
use crate::base::limits::{INITIAL_CREDIT, PARTITIONS_MAX};
use crate::base::setting::{Kind, Unworkable, Value};
use crate::control::{self, ControlListen};
use crate::operation;
use crate::shard::core;
use crate::shard::cores::check_cores;
use crate::store::StoreKind;
use crate::store::log::{BLOCK, stored_bytes_max};
use crate::store::memory::WhenFull;

/// Returns the first broken rule as an error.
fn first_broken(rules: impl IntoIterator<Item = (bool, String)>) -> Result<(), Unworkable> {
    match rules.into_iter().find(|(broken, _)| *broken) {
        Some((_, rule)) => Err(Unworkable(rule)),
        None => Ok(()),
    }
}

/// Returns a rule that is broken if a value exceeds a limit.
fn exceeds(key: &str, value: usize, limit_key: &str, limit: usize) -> (bool, String) {
    (value > limit, format!("{key}: {value} is above {limit_key} = {limit}"))
}

fn check_operation(settings: &operation::Settings, budget_bytes: usize) -> Result<(), Unworkable> {
    let s = settings;
    let (ttl_min, ttl_max) = s.ttl_secs();
    first_broken([
        (
            s.max_payload_bytes + 64 > s.max_pb_bytes,
            format!(
                "max_pb_bytes: {} is below max_payload_bytes + 64 = {}",
                s.max_pb_bytes,
                s.max_payload_bytes + 64
            ),
        ),
        exceeds("max_pb_bytes", s.max_pb_bytes, "an eighth of shard_budget_bytes", budget_bytes / 8),
        exceeds("max_pb_bytes", s.max_pb_bytes, "2 GiB", u32::MAX as usize / 2),
        // A request takes twice its bytes, and must fit beside others.
        exceeds(
            "zaqar_max_request_bytes",
            s.zaqar_max_request_bytes,
            "an eighth of shard_budget_bytes",
            budget_bytes / 8,
        ),
        (
            i64::from(s.produce_window) < INITIAL_CREDIT,
            format!("produce_window: {} is below the initial credit of {INITIAL_CREDIT}", s.produce_window),
        ),
        (ttl_min > ttl_max, format!("ttl_min: {ttl_min} s is above ttl_max = {ttl_max} s")),
        (
            s.claim_ttl_min_secs > s.claim_ttl_max_secs,
            format!(
                "claim_ttl_min: {} s is above claim_ttl_max = {} s",
                s.claim_ttl_min_secs, s.claim_ttl_max_secs
            ),
        ),
        exceeds("produce_batches_pressed", s.produce_batches_pressed, "produce_batches", s.produce_batches),
        exceeds("foothold_bytes", s.foothold_bytes, "large_pb_bytes", s.large_pb_bytes),
        exceeds(
            "send_buffer_bytes_pressed",
            s.send_buffer_bytes_pressed,
            "send_buffer_bytes",
            s.send_buffer_bytes,
        ),
    ])
}

fn check_core(settings: &core::Settings) -> Result<(), Unworkable> {
    let s = settings;
    check_operation(&s.operation, s.shard_budget_bytes)?;
    first_broken([
        (
            s.partitions == 0 || s.partitions > PARTITIONS_MAX,
            format!("partitions: {} is not within 1 to {PARTITIONS_MAX}", s.partitions),
        ),
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
        exceeds("large_pb_bytes", s.operation.large_pb_bytes, "receive_window_bytes", s.receive_window_bytes),
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
    ])
}

fn check_tls(config: &ServerConfig) -> Result<(), Unworkable> {
    let shard = &config.shard;
    shard.tls.check()?;
    let (listens, has_certificates) = (config.speaks_tls(), !shard.tls.certificates.0.is_empty());
    let needs = if shard.tls_listen.is_some() { "tls_listen" } else { "control_tls" };
    first_broken([
        (
            listens && !has_certificates,
            format!("tls_certificates: empty; {needs} needs at least one CERTIFICATE:KEY"),
        ),
        (
            !listens && has_certificates,
            "tls_listen: not set, so tls_certificates would not be used; set an address like 0.0.0.0:9443"
                .into(),
        ),
    ])
}

fn check_control(settings: &control::Settings) -> Result<(), Unworkable> {
    let has_tcp = match &settings.listen {
        ControlListen::Next => true,
        ControlListen::At(addresses) => addresses.first_tcp().is_some(),
        ControlListen::Off => false,
    };
    let shown = settings.listen.show(&Kind::Text);
    first_broken([
        (
            !has_tcp && settings.tls,
            format!("control_tls: not used, because control_listen = {shown} has no TCP address"),
        ),
        (
            !has_tcp && settings.tokens.is_some(),
            format!("control_tokens: not used, because control_listen = {shown} has no TCP address"),
        ),
    ])
}

impl ServerConfig {
    /// Checks every combination of settings. The error names the setting to change.
    pub fn check(&self) -> Result<(), Unworkable> {
        let (shard, store) = (&self.shard, &self.shard.store);
        check_core(&shard.core)?;
        check_cores(&shard.cores.0)?;
        check_tls(self)?;
        check_control(&self.control)?;
        shard.auth.check()?;
        if shard.core.operation.zaqar_signing_key_file.is_some() && !shard.auth.is_on() {
            let why = "zaqar_signing_key_file: not used, because auth is off: nobody needs a signature";
            return Err(Unworkable(why.into()));
        }
        let shards = shard.shard_cores().len();
        // A store that drops its oldest messages never refuses a batch, so it must have room for the largest
        // one.
        let largest = shard.core.operation.largest_batch();
        let least = shards * largest;
        let is_last_port = shard.listen.first_tcp().is_some_and(|listen| listen.port() == u16::MAX);
        if is_last_port && self.control.listen == ControlListen::Next {
            return Err(Unworkable(
                "control_listen: listen uses port 65535, the last one; set an address, or off".into(),
            ));
        }
        first_broken([
            (
                store.kind == StoreKind::Kafka && shard.projects.storage_bytes > 0,
                "project_storage_bytes: a Kafka store does not know how much a project has stored; set it to 0, and \
                 limit the topics in Kafka (quotas, retention.bytes)"
                    .into(),
            ),
            (
                store.kind == StoreKind::Memory
                    && store.memory.when_full == WhenFull::DropOldest
                    && store.memory.bytes < least,
                format!(
                    "memory_bytes: {} is below {least}, the largest batch (max_pb_bytes + 2 × append_batch_bytes) on \
                     each of {shards} shards",
                    store.memory.bytes
                ),
            ),
            (
                store.kind == StoreKind::Log
                    && stored_bytes_max(store.log.segment_bytes) < largest as u64,
                format!(
                    "log_segment_bytes: {} is too small for the largest batch, max_pb_bytes + 2 × append_batch_bytes = {largest}",
                    store.log.segment_bytes
                ),
            ),
            (
                !store.log.segment_bytes.is_multiple_of(BLOCK as u64),
                format!("log_segment_bytes: {} is not a multiple of {BLOCK}", store.log.segment_bytes),
            ),
        ])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn tokens_and_tls_of_a_control_port_need_a_tcp_address() {
        let why = |listen: &str, change: fn(&mut control::Settings)| {
            let listen = ControlListen::read(listen, &Kind::Text).unwrap();
            let mut settings = control::Settings { listen, ..control::Settings::default() };
            change(&mut settings);
            check_control(&settings).map_err(|Unworkable(why)| why).err()
        };
        let tokens: fn(&mut control::Settings) = |s| s.tokens = Some("tokens".into());
        for listen in ["off", "unix:/run/control.sock"] {
            assert!(why(listen, tokens).unwrap().starts_with("control_tokens: not used"), "{listen}");
            assert!(why(listen, |s| s.tls = true).unwrap().starts_with("control_tls: not used"), "{listen}");
        }
        assert_eq!(
            (why("next", tokens), why("unix:/c,[::1]:1", tokens), why("off", |_| ())),
            (None, None, None)
        );
        let config = ServerConfig {
            control: control::Settings { tls: true, ..Default::default() },
            ..Default::default()
        };
        assert!(check_tls(&config).unwrap_err().0.contains("control_tls needs at least one"));
    }

    #[test]
    fn the_defaults_work_and_errors_name_the_setting_and_its_limit() {
        assert_eq!(check_core(&core::Settings::default()), Ok(()));
        let broken = |change: fn(&mut core::Settings), says: &str| {
            let mut settings = core::Settings::default();
            change(&mut settings);
            let why = check_core(&settings).unwrap_err().0;
            assert!(why.contains(says), "{why:?} does not say {says:?}");
        };
        broken(|s| s.partitions = 65, "partitions: 65 is not within 1 to 64");
        broken(
            |s| s.operation.max_pb_bytes = 100,
            "max_pb_bytes: 100 is below max_payload_bytes + 64 = 1048640",
        );
        broken(|s| s.operation.max_pb_bytes = 64 << 20, "above an eighth of shard_budget_bytes = 33554432");
        broken(|s| s.operation.produce_window = 99, "produce_window: 99 is below the initial credit of 100");
        broken(|s| s.operation.ttl_min_secs = 2_000_000, "ttl_min: 2000000 s is above ttl_max = 1209600 s");
        broken(
            |s| s.ping_interval = Duration::from_secs(91),
            "ping_interval: 91s is above idle_timeout = 90s",
        );
        broken(|s| s.drain_timeout = Duration::from_secs(1), "drain_consume_timeout: 5s is above");
    }

    #[test]
    fn storage_limits_need_a_store_that_counts() {
        let config = |store| {
            let mut config = ServerConfig::default();
            config.shard.store.kind = store;
            config.shard.projects.storage_bytes = 1;
            config
        };
        assert_eq!(config(StoreKind::Log).check(), Ok(()));
        assert_eq!(config(StoreKind::Memory).check(), Ok(()));
        let why = config(StoreKind::Kafka).check().unwrap_err().0;
        assert!(why.starts_with("project_storage_bytes: "), "{why}");
    }
}
