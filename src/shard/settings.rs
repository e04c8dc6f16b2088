//! The settings of a server, without those of its control port: addresses, cores, shards and stores.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use super::address::{Addresses, FileMode};
use super::collector::LatencySettings;
use super::core;
use super::cores::Cores;
use crate::access::ProjectLimits;
use crate::auth;
use crate::base::setting::settings;
use crate::store;
use crate::store::kafka::Bounds;
use crate::tls;

settings! {
    /// The settings of [`Server::start`](super::server::Server::start).
    #[derive(Clone, Debug)]
    pub struct Settings {
        in Listen, AtStart:
        /// Comma-separated addresses for clients: an IP address and a port (0: a free one), or unix: and the
        /// path of a Unix socket; the address ::, written in brackets, also accepts IPv4
        listen: Addresses = SocketAddr::from((Ipv4Addr::LOCALHOST, 9000)).into(), "listen", Text;
        /// Permissions of the Unix sockets of listen, in octal: who may connect
        listen_unix_mode: FileMode = FileMode(0o660), "listen_unix_mode", Text;
        /// Comma-separated addresses for clients that speak TLS, like those of listen; needs tls_certificates
        tls_listen: Option<Addresses> = None, "tls_listen", Text;
        /// Connections that may wait to be accepted; the kernel caps it at net.core.somaxconn
        listen_backlog: u32 = 4096, "listen_backlog", Count(1..=1 << 20);
        /// Cores to run on, one shard on each, as in 0-3 or 0,2; all: every core that the process may use
        cores: Cores = Cores::default(), "cores", Text;

        in Memory, AtStart:
        /// Microseconds that an idle shard polls before it sleeps; 50 to 100 on dedicated cores
        spin_before_park: Duration = Duration::ZERO, "spin_us", Micros(0..=60_000_000);
    } with {
        /// The settings of each shard.
        core: core::Settings,
        /// The settings of the store.
        store: store::Settings,
        /// The certificates, and the versions of TLS.
        tls: tls::Settings,
        /// Who may connect, and what they may do.
        auth: auth::Settings,
        /// The limits of each project.
        projects: ProjectLimits,
        /// The settings of the latency histograms.
        latency: LatencySettings,
    }
}

impl Settings {
    /// Returns the cores that the shards run on.
    pub fn shard_cores(&self) -> Vec<usize> {
        self.cores.or_allowed()
    }

    /// Returns the settings of each shard.
    pub fn of_shards(&self) -> core::Settings {
        let mut settings = self.core.clone();
        settings.policy.reads_tokens = self.auth.is_on();
        settings
    }

    /// Returns the limits that the Kafka store needs in addition to its own settings.
    pub fn kafka_bounds(&self) -> Bounds {
        let core::Settings { operation, shard_budget_bytes, clock_step_max, .. } = &self.core;
        Bounds {
            max_payload_bytes: operation.max_payload_bytes,
            max_pb_bytes: operation.max_pb_bytes,
            ttl_max_secs: operation.ttl_max_secs,
            shard_budget_bytes: *shard_budget_bytes,
            clock_step_max: *clock_step_max,
        }
    }
}
