//! What is measured: the stages of a message's way, and what says how a shard does.
//!
//! ```text
//! producing   socket read ─parse─▶ routed ─hop─▶ owner ─commit─▶ stored ─hop_back─▶ known ─ack─▶ socket took it
//!             └──────────────────────────────── produce ────────────────────────────────────┘
//! consuming   stored ─deliver_live or deliver_backlog─▶ socket took it
//! ```
//! Each message counts once in each stage that it passes; `hop` and `hop_back` only where its partition belongs to another shard.

/// What a value counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Unit {
    /// Nanoseconds.
    Nanoseconds,
    /// Messages of a batch.
    Messages,
    /// Deliveries in an inbox, each all that another shard had in a turn.
    Deliveries,
}

impl Unit {
    /// As in JSON.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Nanoseconds => "nanoseconds",
            Self::Messages => "messages",
            Self::Deliveries => "deliveries",
        }
    }
}

/// See the module's page.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stage {
    /// Reading, unmasking, checking and copying: from the socket's bytes to the batch on its way.
    Parse,
    /// To the shard that owns the partition.
    Hop,
    /// In the store, until the batch is as durable as it promises.
    Commit,
    /// Back to the shard of the connection.
    HopBack,
    /// Until the socket took the acknowledgement, those before it included.
    Ack,
    /// All of these.
    Produce,
    /// From being stored to the consumer's socket, of consumers that had everything before.
    DeliverLive,
    /// The same of those that had not: they read what lay there, or had no credit or no room for it.
    DeliverBacklog,
    /// A turn of the driver with its pass of the reactor: for so long nobody else is served. Those without anything to do do
    /// not count.
    Turn,
    /// Of append batches, where they are stored.
    BatchMessages,
    /// Of a shard's inbox, as one of its turns begins and there is something.
    InboxDepth,
}

impl Stage {
    /// How many there are.
    pub const COUNT: usize = Self::ALL.len();

    /// All of them, in their order.
    pub const ALL: [Self; 11] = [
        Self::Parse,
        Self::Hop,
        Self::Commit,
        Self::HopBack,
        Self::Ack,
        Self::Produce,
        Self::DeliverLive,
        Self::DeliverBacklog,
        Self::Turn,
        Self::BatchMessages,
        Self::InboxDepth,
    ];

    /// Those that follow each other from a producer's bytes to its acknowledgement.
    pub const PRODUCING: [Self; 5] = [Self::Parse, Self::Hop, Self::Commit, Self::HopBack, Self::Ack];

    /// As it is called in files, metrics and reports.
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
            Self::Turn => "turn",
            Self::BatchMessages => "batch_messages",
            Self::InboxDepth => "inbox_depth",
        }
    }

    /// What it is, in a line.
    pub const fn describe(self) -> &'static str {
        match self {
            Self::Parse => "from reading the socket to the batch on its way to its partition",
            Self::Hop => "to the shard that owns the partition, where that is another",
            Self::Commit => "in the store, until the batch is as durable as it promises",
            Self::HopBack => "back to the shard of the connection",
            Self::Ack => "until the producer's socket took the acknowledgement",
            Self::Produce => "the whole: from reading the socket to the acknowledgement taken",
            Self::DeliverLive => "from being stored to the consumer's socket, of consumers that keep up",
            Self::DeliverBacklog => {
                "from being stored to the consumer's socket, of consumers that are behind"
            }
            Self::Turn => "one turn of a shard's driver: for so long nobody else is served",
            Self::BatchMessages => "messages of a stored batch",
            Self::InboxDepth => "deliveries in a shard's inbox as a turn begins",
        }
    }

    /// What its values count.
    pub const fn unit(self) -> Unit {
        match self {
            Self::BatchMessages => Unit::Messages,
            Self::InboxDepth => Unit::Deliveries,
            _ => Unit::Nanoseconds,
        }
    }

    /// The stage of that name.
    pub fn find(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|stage| stage.name() == name)
    }
}
