//! The limits of a shard and its connections: numbers, timeouts, buffers.

use std::time::Duration;

use super::peer::ProxyFrom;
use crate::base::limits::{CLOCK_STEP_MAX, PARTITIONS_MAX};
use crate::base::setting::{GIB, LONGEST_MS, SHORTEST_MS, settings};
use crate::front::Policy;
use crate::operation;

settings! {
    /// The settings of a shard and its connections.
    #[derive(Clone, Debug)]
    pub struct Settings {
        in Listen, OnReload:
        /// Comma-separated networks of the proxies that must send a PROXY header (version 1 or 2), such as
        /// 10.0.0.0/8; unix: all Unix sockets; empty: none. Every host in them can name any client address
        proxy_from: ProxyFrom = ProxyFrom::default(), "proxy_from", Text;

        in Auth, OnReload:
        /// How long a client of the Zaqar API (/v2) may be connected without having authenticated; beyond: closed with
        /// 1008
        auth_timeout: Duration = Duration::from_secs(10), "auth_timeout", Duration(SHORTEST_MS..=LONGEST_MS);
        /// Connections of one shard whose clients have not authenticated yet, at most 64 of an address; beyond: 429
        unauthenticated_max: usize = 1024, "unauthenticated_max", Count(0..=1 << 20);

        in Store, AtStart:
        /// Partitions of a new queue
        partitions: u16 = 8, "partitions", Count(1..=PARTITIONS_MAX as u64);

        in Store, OnReload:
        /// Create queues on first use; otherwise 404
        auto_create: bool = true, "auto_create", Flag;
        /// Most queues of which one shard is the home; beyond, creating one gets 503; with Kafka, counts the
        /// queues opened since the start
        max_queues: usize = 100_000, "max_queues", Count(1..=100_000_000);

        in Messages, AtStart:
        /// Largest handshake; beyond: 431
        handshake_max_bytes: usize = 16 << 10, "handshake_max_bytes", Bytes(256..=1 << 20);

        in Times, OnReload:
        /// How long a handshake may take to complete; beyond: 408
        handshake_timeout: Duration = Duration::from_secs(10), "handshake_timeout", Duration(SHORTEST_MS..=LONGEST_MS);
        /// Silence after which a client is pinged
        ping_interval: Duration = Duration::from_secs(30), "ping_interval", Duration(SHORTEST_MS..=LONGEST_MS);
        /// Silence after which a client is closed with 1001
        idle_timeout: Duration = Duration::from_secs(90), "idle_timeout", Duration(SHORTEST_MS..=LONGEST_MS);
        /// How long a server goes on serving after SIGTERM before it drains: /readyz fails and new connections
        /// are accepted meanwhile, so that load balancers notice; a second SIGTERM ends it
        drain_announce: Duration = Duration::ZERO, "drain_announce", Duration(0..=LONGEST_MS);
        /// How long draining may take
        drain_timeout: Duration = Duration::from_secs(30), "drain_timeout", Duration(0..=LONGEST_MS);
        /// How much of drain_timeout consumers get to receive stored messages
        drain_consume_timeout: Duration = Duration::from_secs(5), "drain_consume_timeout", Duration(0..=LONGEST_MS);

        in Times, AtStart:
        /// How far the system's clock may step back before message timestamps follow it; and how long it must
        /// stay ahead after a jump before messages expire by it
        clock_step_max: Duration = CLOCK_STEP_MAX.as_duration(), "clock_step_max", Duration(1_000..=LONGEST_MS);

        in Clients, OnReload:
        /// Connections of one shard; beyond: 503
        max_connections: usize = 65_536, "max_connections", Count(1..=4_000_000);

        in Memory, AtStart:
        /// Bytes that the connections of one shard may reserve, and again as many that they may hold; beyond:
        /// less credit, then sockets are not read, then slow consumers are closed
        shard_budget_bytes: usize = 256 << 20, "shard_budget_bytes", Bytes(4096..=1024 * GIB);
        // One system call reads many frames, and a message of 100 × 1 KiB is seldom split; four such messages
        // fit the second-level cache.
        /// Size of the shard's receive buffer
        receive_window_bytes: usize = 256 << 10, "receive_window_bytes", Bytes(4096..=GIB);
        /// Bytes that one connection may read before the others have their turn; with TLS, as on the wire
        receive_bytes_per_turn: usize = 512 << 10, "receive_bytes_per_turn", Bytes(4096..=GIB);
        /// Bytes to read at once while the budget is exhausted; each connection may hold this much beyond the
        /// budget
        receive_bytes_pressed: usize = 4 << 10, "receive_bytes_pressed", Bytes(64..=GIB);
        /// Send buffers that a shard keeps for reuse
        spare_buffers: usize = 64, "spare_buffers", Count(0..=1 << 20);
        /// Size of the largest send buffer that a shard keeps
        spare_buffer_bytes: usize = 1 << 20, "spare_buffer_bytes", Bytes(1..=GIB);
        /// Batches that a shard's inbox can hold
        inbox_batches: usize = 1024, "inbox_batches", Count(1..=1 << 20);
        /// Batches to take from the inbox between two connections
        inbox_batches_per_look: usize = 64, "inbox_batches_per_look", Count(1..=1 << 20);
        // A pass of the reactor costs 7 µs.
        /// Microseconds that a busy shard works before it polls its sockets
        reactor_pass: Duration = Duration::from_micros(200), "reactor_pass_us", Micros(1..=1_000_000);
    } with {
        /// The settings of operations.
        operation: operation::Settings,
        /// The rules for handshakes: which clients may connect, and their projects.
        policy: Policy,
    }
}
