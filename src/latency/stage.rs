//! The measured stages: those on a message's path, and those that show the state of a shard.
//!
//! ```text
//! producing   socket read ─parse─▶ routed ─hop─▶ owner ─commit─▶ stored ─hop_back─▶ known ─ack─▶ socket took it
//!             └──────────────────────────────── produce ────────────────────────────────────┘
//! consuming   stored ─deliver_live or deliver_backlog─▶ socket took it
//! ```
//! Each message counts once in each stage that it passes. It passes `hop` and `hop_back` only if another
//! shard owns its partition.

/// The unit of a stage's values.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Unit {
    /// Time in nanoseconds.
    Nanoseconds,
    /// Messages in a batch.
    Messages,
    /// Deliveries in an inbox. One delivery is everything that another shard sent in a turn.
    Deliveries,
}

impl Unit {
    /// Returns the name of the unit in JSON.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Nanoseconds => "nanoseconds",
            Self::Messages => "messages",
            Self::Deliveries => "deliveries",
        }
    }
}

/// A stage whose values are recorded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stage {
    /// Parsing, unmasking, checking and copying: from reading the socket until the batch is routed.
    Parse,
    /// The way to the shard that owns the partition.
    Hop,
    /// Time in the store, until the batch is as durable as the store promises.
    Commit,
    /// The way back to the shard of the connection.
    HopBack,
    /// Time until the socket accepted the acknowledgement, including the acknowledgements before it.
    Ack,
    /// The sum of the stages above.
    Produce,
    /// From storing a message to writing it to the socket of a consumer that had received everything before
    /// it.
    DeliverLive,
    /// The same for a consumer that had not: it was reading older messages, or had no credit or no room.
    DeliverBacklog,
    /// From asking for messages until their lease is durable, in the shard that owns the partition.
    Grant,
    /// From settling messages until that is durable, in the shard that owns the partition. Counts once for
    /// each request and partition.
    Settle,
    /// A turn of the driver including its reactor pass. The shard serves nobody else during that time. Idle
    /// turns do not count.
    Turn,
    /// The processor time of a TLS handshake on the shard, recorded when it ends. The shard serves others between
    /// its steps.
    Tls,
    /// Messages in an append batch, recorded when the batch is stored.
    BatchMessages,
    /// Deliveries in a shard's inbox at the start of a turn. Empty inboxes do not count.
    InboxDepth,
}

impl Stage {
    /// The number of stages.
    pub const COUNT: usize = Self::ALL.len();

    /// All stages, in order.
    pub const ALL: [Self; 14] = [
        Self::Parse,
        Self::Hop,
        Self::Commit,
        Self::HopBack,
        Self::Ack,
        Self::Produce,
        Self::DeliverLive,
        Self::DeliverBacklog,
        Self::Grant,
        Self::Settle,
        Self::Turn,
        Self::Tls,
        Self::BatchMessages,
        Self::InboxDepth,
    ];

    /// The consecutive stages from a producer's bytes to its acknowledgement.
    pub const PRODUCING: [Self; 5] = [Self::Parse, Self::Hop, Self::Commit, Self::HopBack, Self::Ack];

    /// Returns the name in files, metrics and reports.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Parse => "parse",
            Self::Hop => "hop",
            Self::Commit => "commit",
            Self::HopBack => "hop_back",
            Self::Ack => "ack",
            Self::Produce => "produce",
            Self::DeliverLive => "deliver_live",
            Self::DeliverBacklog => "deliver_backlog",
            Self::Grant => "grant",
            Self::Settle => "settle",
            Self::Turn => "turn",
            Self::Tls => "tls",
            Self::BatchMessages => "batch_messages",
            Self::InboxDepth => "inbox_depth",
        }
    }

    /// Describes the stage in a line.
    pub const fn describe(self) -> &'static str {
        match self {
            Self::Parse => "from reading the socket until the batch is routed to its partition",
            Self::Hop => "to the shard that owns the partition, if it is another shard",
            Self::Commit => "in the store, until the batch is as durable as the store promises",
            Self::HopBack => "back to the shard of the connection",
            Self::Ack => "until the producer's socket accepted the acknowledgement",
            Self::Produce => "all stages: from reading the socket until it accepted the acknowledgement",
            Self::DeliverLive => "from storing to the consumer's socket, for consumers that keep up",
            Self::DeliverBacklog => "from storing to the consumer's socket, for consumers that are behind",
            Self::Grant => "from asking for messages until their lease is durable",
            Self::Settle => "from settling messages until that is durable",
            Self::Turn => "one turn of a shard's driver, during which it serves nobody else",
            Self::Tls => "processor time of a TLS handshake, between whose steps the shard serves others",
            Self::BatchMessages => "messages in a stored batch",
            Self::InboxDepth => "deliveries in a shard's inbox at the start of a turn",
        }
    }

    /// Returns the unit of the stage's values.
    pub const fn unit(self) -> Unit {
        match self {
            Self::BatchMessages => Unit::Messages,
            Self::InboxDepth => Unit::Deliveries,
            _ => Unit::Nanoseconds,
        }
    }

    /// Returns the stage with the given name.
    pub fn find(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|stage| stage.name() == name)
    }
}
