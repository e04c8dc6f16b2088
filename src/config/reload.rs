//! Compares the settings of a running server with newly loaded ones: what a reload applies, and what needs a
//! restart.

use super::ServerConfig;
use super::table::{Entry, SETTINGS};
use crate::base::setting::{Applies, Unworkable};

/// A setting whose storage is counted only if it is not 0 when the server starts.
const COUNTED_FROM_START: &str = "project_storage_bytes";

/// The start of the keys of TLS, which a server starts with or without.
const TLS: &str = "tls_";

/// A setting that a reload changes. Never a secret: Kafka's settings need a restart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// The setting's key.
    pub key: &'static str,
    /// The value before.
    pub from: String,
    /// The new value.
    pub to: String,
}

/// The effect of a reload, before anything is changed.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The settings to run with from now on: the running ones with the applied changes.
    pub config: ServerConfig,
    /// The changes to apply.
    pub applied: Vec<Change>,
    /// The keys of changed settings that need a restart.
    pub needs_restart: Vec<&'static str>,
}

impl Plan {
    /// Compares the running settings with loaded ones. Fails if the changes cannot work together with the
    /// running values of settings that need a restart.
    pub fn new(running: &ServerConfig, loaded: &ServerConfig) -> Result<Self, Unworkable> {
        let mut plan = Self { config: running.clone(), applied: Vec::new(), needs_restart: Vec::new() };
        for entry in SETTINGS.iter() {
            let key = entry.about.key;
            let (from, to) = (entry.get(running), entry.get(loaded));
            if from == to {
                continue;
            }
            if needs_restart(entry, running, loaded) {
                plan.needs_restart.push(key);
                continue;
            }
            entry.set(&mut plan.config, &to).map_err(|why| Unworkable(format!("{key}: {why}")))?;
            plan.applied.push(Change { key, from, to });
        }
        plan.config.check().map_err(|Unworkable(why)| match &plan.needs_restart[..] {
            [] => Unworkable(why),
            kept => {
                Unworkable(format!("{why}; until a restart, these keep their values: {}", kept.join(", ")))
            }
        })?;
        Ok(plan)
    }
}

fn needs_restart(entry: &Entry, running: &ServerConfig, loaded: &ServerConfig) -> bool {
    // Without `tls_listen` the others are refused, and with it they are needed.
    let adds_or_removes_tls = running.speaks_tls() != loaded.speaks_tls();
    if adds_or_removes_tls && entry.about.key.starts_with(TLS) {
        return true;
    }
    let is_uncounted = entry.about.key == COUNTED_FROM_START && running.shard.projects.storage_bytes == 0;
    entry.about.applies == Applies::AtStart || is_uncounted
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn plan(running: fn(&mut ServerConfig), loaded: fn(&mut ServerConfig)) -> Result<Plan, Unworkable> {
        let (mut old, mut new) = (ServerConfig::default(), ServerConfig::default());
        running(&mut old);
        loaded(&mut new);
        Plan::new(&old, &new)
    }

    fn set(config: &mut ServerConfig, key: &str, value: &str) {
        SETTINGS.iter().find(|entry| entry.about.key == key).unwrap().set(config, value).unwrap();
    }

    #[test]
    fn changes_are_applied_or_named_as_needing_a_restart() {
        let plan = plan(
            |_| (),
            |new| {
                new.shard.core.idle_timeout = Duration::from_secs(300);
                new.shard.projects.operations = 7;
                new.shard.core.partitions = 3;
                new.shard.store.kafka.token_command = "echo sesame".into();
            },
        )
        .unwrap();
        let applied: Vec<_> = plan.applied.iter().map(|one| (one.key, &one.from[..], &one.to[..])).collect();
        assert_eq!(applied, [("idle_timeout", "90s", "300s"), ("project_max_operations", "0", "7")]);
        assert_eq!(plan.needs_restart, ["partitions", "kafka_token_command"]);
        assert_eq!(plan.config.shard.core.idle_timeout, Duration::from_secs(300));
        assert_eq!(plan.config.shard.projects.operations, 7);
        assert_eq!(plan.config.shard.core.partitions, 8, "the running value stays");
        assert!(!format!("{:?}", plan.applied).contains("sesame"));
    }

    #[test]
    fn a_key_that_needs_a_restart_is_named_again_by_the_next_reload() {
        let loaded = |new: &mut ServerConfig| new.shard.core.partitions = 3;
        let first = plan(|_| (), loaded).unwrap();
        let mut new = ServerConfig::default();
        loaded(&mut new);
        let second = Plan::new(&first.config, &new).unwrap();
        assert_eq!((first.needs_restart, second.needs_restart), (vec!["partitions"], vec!["partitions"]));
    }

    #[test]
    fn changes_that_do_not_fit_the_running_values_are_refused() {
        // `load` refuses this one already, because both settings of the broken rule are reloaded.
        let why = plan(
            |_| (),
            |new| {
                new.shard.core.idle_timeout = Duration::from_secs(10);
                new.shard.core.partitions = 3;
            },
        )
        .unwrap_err()
        .0;
        assert!(why.contains("ping_interval") && why.contains("keep their values: partitions"), "{why}");
    }

    #[test]
    fn a_limit_of_storage_needs_a_restart_only_if_storage_was_not_counted() {
        let added = plan(|_| (), |new| new.shard.projects.storage_bytes = 1 << 20).unwrap();
        assert_eq!((added.applied.len(), added.needs_restart), (0, vec!["project_storage_bytes"]));
        let raised = plan(
            |old| old.shard.projects.storage_bytes = 1 << 20,
            |new| new.shard.projects.storage_bytes = 2 << 20,
        )
        .unwrap();
        assert_eq!((raised.applied.len(), raised.needs_restart.len()), (1, 0));
        let removed = plan(|old| old.shard.projects.storage_bytes = 1 << 20, |_| ()).unwrap();
        assert_eq!(removed.applied[0].to, "0");
    }

    #[test]
    fn tls_that_is_added_or_removed_waits_for_a_restart_and_blocks_nothing_else() {
        let secure = |config: &mut ServerConfig| {
            set(config, "tls_listen", "127.0.0.1:9443");
            set(config, "tls_certificates", "cert.pem:key.pem");
            set(config, "tls_min_version", "1.3");
        };
        let waiting = ["tls_listen", "tls_certificates", "tls_min_version"];
        for adds in [true, false] {
            let (mut with, mut without) = (ServerConfig::default(), ServerConfig::default());
            secure(&mut with);
            let (running, loaded) = if adds { (without, &mut with) } else { (with, &mut without) };
            loaded.shard.projects.operations = 7;
            let plan = Plan::new(&running, loaded).unwrap();
            let applied: Vec<_> = plan.applied.iter().map(|one| one.key).collect();
            assert_eq!(applied, ["project_max_operations"]);
            assert_eq!(plan.needs_restart, waiting);
            assert_eq!(plan.config.shard.tls, running.shard.tls);
        }
        // A server that keeps TLS gets other certificates.
        let (mut running, mut loaded) = (ServerConfig::default(), ServerConfig::default());
        secure(&mut running);
        secure(&mut loaded);
        set(&mut loaded, "tls_certificates", "other.pem:key.pem");
        let plan = Plan::new(&running, &loaded).unwrap();
        assert_eq!((plan.applied[0].key, plan.needs_restart.len()), ("tls_certificates", 0));
    }

    #[test]
    fn no_setting_that_may_hold_a_secret_is_applied() {
        let reloaded = SETTINGS.iter().filter(|entry| entry.about.applies == Applies::OnReload);
        let keys: Vec<_> = reloaded.map(|entry| entry.about.key).collect();
        assert!(keys.contains(&"allowed_origins") && keys.contains(&"log"), "{keys:?}");
        assert!(keys.iter().all(|key| !key.starts_with("kafka_")), "{keys:?}");
    }
}
