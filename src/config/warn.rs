//! Warnings about combinations of settings that work, but can surprise. The server logs them at start.

use std::net::SocketAddr;

use super::ServerConfig;
use crate::control::ControlListen;
use crate::shard::address::Address;
use crate::store::StoreKind;
use crate::store::memory::WhenFull;

impl ServerConfig {
    /// Returns the warnings to log when the server starts.
    pub fn warnings(&self) -> Vec<String> {
        let all = [
            self.drops_of_others(),
            self.drops_at_once(),
            self.trusts_everyone(),
            self.shows_tokens(),
            self.is_read_by_everyone(),
        ];
        all.into_iter().flatten().collect()
    }

    /// Returns an address of the control port that is not on this machine alone.
    fn open_control_address(&self) -> Option<SocketAddr> {
        let ControlListen::At(addresses) = &self.control.listen else { return None };
        addresses.iter().filter_map(Address::tcp).find(|address| !address.ip().to_canonical().is_loopback())
    }

    /// Warns that tokens of the control port cross the network in the clear.
    fn shows_tokens(&self) -> Option<String> {
        let address = self.open_control_address()?;
        (self.control.tokens.is_some() && !self.control.tls).then(|| {
            format!(
                "control_listen = {address} without control_tls: whoever reads the network can take the tokens of \
                 control_tokens"
            )
        })
    }

    /// Warns that everyone who reaches the control port can read what it shows, although clients authenticate.
    fn is_read_by_everyone(&self) -> Option<String> {
        let address = self.open_control_address()?;
        (self.control.tokens.is_none() && self.shard.auth.is_on()).then(|| {
            format!(
                "control_listen = {address} without control_tokens: whoever reaches it can read the names of queues \
                 and who is connected, although auth is on"
            )
        })
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

    /// Warns that the log may keep no full file: `log_max_bytes` counts the file that is being written as full.
    fn drops_at_once(&self) -> Option<String> {
        let log = &self.shard.store.log;
        let (shards, max, bytes) = (self.shard.shard_cores().len() as u64, log.max_bytes, log.segment_bytes);
        let is_small = self.shard.store.kind == StoreKind::Log && (1..2 * bytes * shards).contains(&max);
        is_small.then(|| {
            format!(
                "log_max_bytes = {max} is less than two files of log_segment_bytes = {bytes} for each of {shards} shards: a file \
                 may be dropped as soon as it is full; set log_max_bytes to {} or more",
                4 * bytes * shards
            )
        })
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
    fn a_log_that_keeps_no_full_file_gets_a_warning() {
        let warns = |max| {
            let warnings = config(|c| {
                c.shard.store.log.max_bytes = max;
                c.shard.store.log.segment_bytes = 1 << 20;
            });
            warnings.warnings().iter().any(|warning| warning.contains("less than two files"))
        };
        assert_eq!([0, 1, (4 << 20) - 1, 4 << 20].map(warns), [false, true, true, false]);
    }

    #[test]
    fn a_store_that_may_drop_messages_of_other_projects_gets_a_warning() {
        let says = |change: fn(&mut ServerConfig), words: &[&str]| {
            let warnings = config(change).warnings();
            let warning = warnings.first().unwrap();
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
    fn a_control_port_that_others_reach_gets_a_warning() {
        use crate::auth::ProviderKind;
        use crate::base::setting::{Kind, Value};
        let warnings = |address: &str, tokens: bool, tls: bool, auth: bool| {
            let listen = ControlListen::read(address, &Kind::Text).unwrap();
            let config = |c: &mut ServerConfig| {
                (c.control.listen, c.control.tls) = (listen, tls);
                c.control.tokens = tokens.then(|| "tokens".into());
                if auth {
                    c.shard.auth.providers.0.push(ProviderKind::Static);
                }
            };
            self::config(config).warnings()
        };
        assert!(warnings("0.0.0.0:9001", true, false, true)[0].contains("can take the tokens"));
        assert!(warnings("0.0.0.0:9001", false, true, true)[0].contains("who is connected"));
        assert!(warnings("0.0.0.0:9001", true, true, true).is_empty());
        assert!(warnings("0.0.0.0:9001", false, false, false).is_empty());
        assert!(warnings("127.0.0.1:9001,[::1]:9001,unix:/c", true, false, true).is_empty());
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
