//! The headings of `--help`, the file of defaults and the table of `docs/configuration.md`.

/// A heading. Its settings may come from several rooms.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Section {
    /// Ports, cores, and the clients that may come.
    Listen,
    /// The kind of store, and its queues.
    Store,
    /// The embedded log.
    Log,
    /// The Kafka store.
    Kafka,
    /// Sizes and lifetimes.
    Messages,
    /// Timeouts.
    Times,
    /// Windows and batches.
    Flow,
    /// Numbers of clients, and the limits of a project.
    Clients,
    /// Buffers and the pace of a shard.
    Memory,
    /// The latency histograms.
    Latency,
    /// Log lines.
    Logs,
    /// What only tests switch on.
    Tests,
}

impl Section {
    /// As people read it.
    pub fn title(self) -> &'static str {
        match self {
            Self::Listen => "Where it listens",
            Self::Store => "Where messages are kept",
            Self::Log => "The embedded log, where it is the store",
            Self::Kafka => "Kafka, where it is the store",
            Self::Messages => "What clients may send",
            Self::Times => "Times",
            Self::Flow => "Flow",
            Self::Clients => "How many clients, and what a project may do in the whole server (0: no limit)",
            Self::Memory => "Memory and pace of a shard: change with a measurement",
            Self::Latency => "Latency histograms",
            Self::Logs => "Logs",
            Self::Tests => "For tests",
        }
    }
}
