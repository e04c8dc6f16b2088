//! A whole server but its control port: where it listens, which cores it has, and what its shards and stores obey.

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
    /// What [`Server::start`](super::server::Server::start) obeys.
    #[derive(Clone, Debug)]
    pub struct Settings {
        in Listen:
        /// Address and port for clients; port 0 takes a free one
        listen: SocketAddr = ([127, 0, 0, 1], 9000).into(), "listen", Text;
        /// Connections that wait to be accepted; the kernel caps it at net.core.somaxconn
        listen_backlog: u32 = 4096, "listen_backlog", Count(1..=1 << 20);
        /// Cores to run on, a shard on each: 0-3 or 0,2; all: all that the process may use
        cores: Cores = Cores::default(), "cores", Text;

        in Memory:
        /// Microseconds that a shard polls before it sleeps; 50 to 100 on dedicated cores
        spin_before_park: Duration = Duration::ZERO, "spin_us", Micros(0..=60_000_000);
    } with {
        /// What each shard obeys.
        core: core::Settings,
        /// Where messages are kept.
        store: store::Settings,
        /// What each project may have and do.
        projects: ProjectLimits,
        /// What becomes of the latency histograms.
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
    /// The cores that the shards run on.
    pub fn shard_cores(&self) -> Vec<usize> {
        self.cores.or_allowed()
    }

    /// What the Kafka store must know beside its own settings.
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
