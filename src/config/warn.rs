//! Warnings about combinations of settings that work, but can surprise. The server logs them at start.

use super::ServerConfig;
use crate::store::StoreKind;
use crate::store::memory::WhenFull;

impl ServerConfig {
    /// Returns the warnings to log when the server starts.
    pub fn warnings(&self) -> Vec<String> {
        [self.drops_of_others(), self.trusts_everyone()].into_iter().flatten().collect()
    }

    /// Warns that every client may send a PROXY header.
    fn trusts_everyone(&self) -> Option<String> {
        let everyone = self.shard.core.proxy_from.everyone()?;
        Some(format!(
            "proxy_from contains {everyone}: every client must send a PROXY header, and can name any address as its own"
        ))
    }

    /// Warns that a full store drops its oldest messages, whichever project they belong to.
    fn drops_of_others(&self) -> Option<String> {
        let store = &self.shard.store;
        let (key, bytes) = match store.kind {
            StoreKind::Log if store.log.max_bytes > 0 => ("log_max_bytes", store.log.max_bytes),
            StoreKind::Memory if store.memory.when_full == WhenFull::DropOldest => {
                ("memory_bytes", store.memory.bytes as u64)
            }
            _ => return None,
        };
        let share = bytes / (self.shard.shard_cores().len() as u64).max(1);
        let who = match self.shard.projects.storage_bytes {
            0 => "one project can fill it, because project_storage_bytes is 0".to_owned(),
            limit if limit >= share => format!(
                "one project can fill a shard's part, because project_storage_bytes = {limit} is not below that \
                 part, {share}"
            ),
            limit => {
                let projects = share.div_ceil(limit);
                format!(
                    "{projects} projects with project_storage_bytes = {limit} each can fill a shard's part"
                )
            }
        };
        Some(format!(
            "{key} = {bytes}: a shard that exceeds its part drops its oldest messages, even unexpired ones of other projects; {who}"
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shard::cores::Cores;

    fn config(change: impl FnOnce(&mut ServerConfig)) -> ServerConfig {
        let mut config = ServerConfig::default();
        config.shard.cores = Cores(vec![0, 1]);
        change(&mut config);
        config
    }

    #[test]
    fn a_store_that_may_drop_messages_of_other_projects_gets_a_warning() {
        let says = |change: fn(&mut ServerConfig), words: &[&str]| {
            let warnings = config(change).warnings();
            let [warning] = &warnings[..] else { panic!("{warnings:?}") };
            for word in words {
                assert!(warning.contains(word), "{warning:?} does not say {word:?}");
            }
        };
        says(|c| c.shard.store.log.max_bytes = 1000, &["log_max_bytes = 1000", "project_storage_bytes is 0"]);
        says(
            |c| {
                c.shard.store.log.max_bytes = 1000;
                c.shard.projects.storage_bytes = 500;
            },
            &["log_max_bytes", "one project can", "project_storage_bytes = 500"],
        );
        says(
            |c| {
                c.shard.store.log.max_bytes = 1000;
                c.shard.projects.storage_bytes = 200;
            },
            &["log_max_bytes", "3 projects", "project_storage_bytes = 200"],
        );
        says(|c| c.shard.store.kind = StoreKind::Memory, &["memory_bytes = 1073741824"]);
    }

    #[test]
    fn a_proxy_network_of_all_addresses_gets_a_warning() {
        let warnings = |text: &str| {
            let proxy_from = text.parse().unwrap();
            config(|c| c.shard.core.proxy_from = proxy_from).warnings()
        };
        assert!(warnings("10.0.0.0/8,unix").is_empty());
        assert!(warnings("10.0.0.0/8,0.0.0.0/0")[0].contains("proxy_from contains 0.0.0.0/0"));
    }

    #[test]
    fn a_store_that_drops_no_messages_of_others_gets_no_warning() {
        assert!(config(|_| ()).warnings().is_empty());
        let refusing = config(|c| {
            c.shard.store.kind = StoreKind::Memory;
            c.shard.store.memory.when_full = WhenFull::Refuse;
        });
        assert!(refusing.warnings().is_empty());
        let kafka = config(|c| {
            c.shard.store.kind = StoreKind::Kafka;
            c.shard.store.log.max_bytes = 1000;
        });
        assert!(kafka.warnings().is_empty());
    }
}
