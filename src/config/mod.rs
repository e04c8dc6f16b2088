//! The server's settings: those of all rooms, composed, read and checked.
//!
//! Each room declares its own settings ([`base::setting`](crate::base::setting)). Only `cli` knows this room.
//!
//! | file | one concept |
//! | --- | --- |
//! | here | the settings of all rooms together |
//! | `table` | every setting of every room: flags, environment, file, `--help` and the table of `docs/configuration.md` come from it |
//! | `load` | defaults, file, environment and flags merged, in rising order |
//! | `service_link` | variables of Kubernetes and Docker that are no settings |
//! | `check` | values and combinations that cannot work |
//! | `warn` | combinations that work otherwise than one may expect |
//! | `memory` | what a configuration can take at worst |

mod check;
pub(crate) mod load;
pub(crate) mod memory;
mod service_link;
pub mod table;
mod warn;

use crate::{control, process::logging, shard};

/// A whole server.
#[derive(Clone, Debug, Default)]
pub struct ServerConfig {
    /// Its shards, and what they obey.
    pub shard: shard::Settings,
    /// The control port.
    pub control: control::Settings,
    /// Log lines.
    pub logging: logging::Settings,
}

impl ServerConfig {
    /// The same as it may be shown.
    pub fn without_secrets(&self) -> Self {
        let mut shown = self.clone();
        shown.shard.store.kafka = shown.shard.store.kafka.without_secrets();
        shown
    }
}
