//! The server's configuration: the settings of all rooms, read from their sources, merged and checked.
//!
//! Each room declares its own settings ([`base::setting`](crate::base::setting)) and does not depend on this
//! module. Only `cli` uses it.
//!
//! | file | one concept |
//! | --- | --- |
//! | here | the settings of all rooms, in one struct |
//! | `table` | the list of all settings: flags, variables, file keys, `--help` and the table of `docs/configuration.md` come from it |
//! | `load` | merges defaults, file, environment and flags; later ones override earlier ones |
//! | `service_link` | recognizes variables that Kubernetes and Docker set and that are not settings |
//! | `check` | refuses values and combinations that cannot work |
//! | `warn` | warns about combinations that can surprise |
//! | `reload` | compares the running settings with newly loaded ones |
//! | `signing` | the key of pre-signed requests |
//! | `memory` | the most memory that a configuration can use |

mod check;
pub(crate) mod load;
pub(crate) mod memory;
pub(crate) mod reload;
mod service_link;
pub mod signing;
pub mod table;
mod warn;

use crate::{control, process::logging, shard};

/// The configuration of a whole server.
#[derive(Clone, Debug, Default)]
pub struct ServerConfig {
    /// The shards, their connections and the store.
    pub shard: shard::Settings,
    /// The control port.
    pub control: control::Settings,
    /// The log of the process.
    pub logging: logging::Settings,
}

impl ServerConfig {
    /// Returns whether the server uses `tls_certificates`.
    pub fn speaks_tls(&self) -> bool {
        self.shard.tls_listen.is_some() || self.control.tls
    }

    /// Returns a copy in which secrets are masked, fit to be shown.
    pub fn without_secrets(&self) -> Self {
        let mut shown = self.clone();
        shown.shard.store.kafka = shown.shard.store.kafka.without_secrets();
        shown
    }
}
