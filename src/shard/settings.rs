//! The settings of a server, without those of its control port: address, cores, shards and stores.

use std::net::SocketAddr;
use std::time::Duration;

use super::collector::LatencySettings;
use super::core;
use super::cores::Cores;
use crate::access::ProjectLimits;
use crate::base::setting::{Kind, Value, parse, settings};
use crate::store;
use crate::store::kafka::Bounds;

settings! {
    /// The settings of [`Server::start`](super::server::Server::start).
    #[derive(Clone, Debug)]
    pub struct Settings {
        in Listen, AtStart:
        /// Address and port for clients; port 0 selects a free one
        listen: SocketAddr = ([127, 0, 0, 1], 9000).into(), "listen", Text;
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
        /// The limits of each project.
        projects: ProjectLimits,
        /// The settings of the latency histograms.
        latency: LatencySettings,
    }
}

impl Value for SocketAddr {
    fn read(text: &str, _: &Kind) -> Result<Self, String> {
        parse(text, "an address and a port like 127.0.0.1:9000")
    }

    fn show(&self, _: &Kind) -> String {
        self.to_string()
    }
}

impl Settings {
    /// Returns the cores that the shards run on.
    pub fn shard_cores(&self) -> Vec<usize> {
        self.cores.or_allowed()
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
