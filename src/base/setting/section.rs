//! The headings of `--help`, the file of defaults and the table of `docs/configuration.md`.

/// A heading. Its settings may come from several rooms.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Section {
    /// Ports, cores, and which clients may connect.
    Listen,
    /// Certificates, and the versions of TLS.
    Tls,
    /// Who may connect, and what they may do.
    Auth,
    /// The kind of store, and its queues.
    Store,
    /// The settings of the embedded log.
    Log,
    /// The settings of the Kafka store.
    Kafka,
    /// Sizes and lifetimes of messages.
    Messages,
    /// Timeouts and intervals.
    Times,
    /// Flow-control windows and batch sizes.
    Flow,
    /// Numbers of clients, and the limits of a project.
    Clients,
    /// Buffers and the pacing of a shard.
    Memory,
    /// The latency histograms.
    Latency,
    /// The format and the filter of log lines.
    Logs,
    /// Settings for tests only.
    Tests,
}

impl Section {
    /// Returns the heading as text.
    pub fn title(self) -> &'static str {
        match self {
            Self::Listen => "Network and cores",
            Self::Tls => "TLS",
            Self::Auth => "Authentication",
            Self::Store => "Storage",
            Self::Log => "Embedded log (store = log)",
            Self::Kafka => "Kafka (store = kafka)",
            Self::Messages => "Limits on what clients send",
            Self::Times => "Timeouts and intervals",
            Self::Flow => "Flow control",
            Self::Clients => "Clients of a shard, and limits of a project in the whole server (0: no limit)",
            Self::Memory => "Memory and pacing of a shard (measure before changing)",
            Self::Latency => "Latency histograms",
            Self::Logs => "Logs",
            Self::Tests => "For tests",
        }
    }
}
