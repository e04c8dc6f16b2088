//! What a run is to do: who sends what where, and how it is measured.

use std::time::{Duration, Instant};

use super::interrupt::Interrupt;
use super::server_side::ControlPort;
use super::stamp::Stamp;
use crate::base::names::{ClientId, Project};
use crate::client::{ClientError, Target};

/// What a run does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Deserialize, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// Producers only.
    Produce,
    /// Consumers only.
    Consume,
    /// Both at once, on the same queues.
    Both,
    /// Neither: connections that do nothing.
    Idle,
}

/// Another server that can be put under the same load.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Peer {
    /// Apache Kafka.
    Kafka,
    /// NATS JetStream.
    Nats,
}

impl Peer {
    /// As results name it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Kafka => "kafka",
            Self::Nats => "nats",
        }
    }
}

/// What is under load.
#[derive(Clone, Debug)]
pub struct About {
    /// Its version, as it says.
    pub version: String,
    /// What an acknowledged message survives there, in a sentence.
    pub durability: String,
}

/// A run's whole description.
#[derive(Clone, Debug)]
pub struct Plan {
    /// What it does.
    pub mode: Mode,
    /// The server.
    pub url: String,
    /// The tenant.
    pub project: Option<Project>,
    /// Queues are `<queue>-0`, `<queue>-1` …; a single one has the name alone.
    pub queue: String,
    /// How many.
    pub queues: u32,
    /// Producing connections.
    pub producers: u32,
    /// Consuming connections.
    pub consumers: u32,
    /// Where consumers begin.
    pub from: String,
    /// Bytes of each payload, at least those of a stamp.
    pub size: usize,
    /// Messages in each ProduceRequest.
    pub batch: usize,
    /// ProduceRequests in each frame.
    pub pbs_per_frame: usize,
    /// Messages that a producer may have outstanding, within its credit.
    pub in_flight: Option<u64>,
    /// Messages that a consumer may have under way.
    pub consume_window: u64,
    /// With both: messages that producers of a closed loop may be ahead of the slowest consumer of their queue.
    pub lag: u64,
    /// Messages a second over all producers, by schedule (open loop); as fast as it goes where absent (closed loop).
    pub rate: Option<f64>,
    /// Messages have keys, so many different ones in turn; 0: none.
    pub keys: u32,
    /// Connections beside the load that do nothing: they consume from the end of the queue without credit.
    pub idle: u32,
    /// Consumers beside the load that give credit for everything and read nothing.
    pub stalled: u32,
    /// Messages in all, in place of a time.
    pub count: Option<u64>,
    /// Consumers begin again after `count` messages, until the time is over.
    pub repeat: bool,
    /// Before anything is measured.
    pub warmup: Duration,
    /// What is measured.
    pub measure: Duration,
    /// Time to live, seconds.
    pub ttl: u32,
    /// Producer i sends to partition (i + this) mod `partitions`; else where its Client-ID hashes to.
    pub partition_offset: Option<u32>,
    /// Clients do not name themselves.
    pub anonymous: bool,
    /// Of each queue, with `partition_offset`.
    pub partitions: u32,
    /// Cores for the clients.
    pub cores: Vec<usize>,
    /// Says on stderr every second how far it is.
    pub progress: bool,
    /// The server's process, for its CPU time and its memory.
    pub server_pid: Option<u32>,
    /// The server's control port, for its own histograms.
    pub control: Option<ControlPort>,
    /// Ends it early.
    pub interrupt: Interrupt,
    /// Tells this run's messages from others'.
    pub run: u32,
    /// The zero of its clock.
    pub epoch: Instant,
}

impl Plan {
    /// The queue of connection number `number`.
    pub fn queue_of(&self, number: u32) -> String {
        let queue = if self.queues == 1 {
            self.queue.clone()
        } else {
            format!("{}-{}", self.queue, number % self.queues)
        };
        match self.partition_offset {
            Some(offset) => format!("{queue}/{}", (number + offset) % self.partitions),
            None => queue,
        }
    }

    /// How many producers the run has.
    pub(super) fn producers(&self) -> u32 {
        if matches!(self.mode, Mode::Produce | Mode::Both) { self.producers } else { 0 }
    }

    /// How many consumers the run has.
    pub(super) fn consumers(&self) -> u32 {
        if matches!(self.mode, Mode::Consume | Mode::Both) { self.consumers } else { 0 }
    }

    /// Those of `count` connections that use `queue`.
    pub(super) fn users_of(&self, queue: &str, count: u32) -> Vec<u32> {
        (0..count).filter(|number| self.queue_of(*number) == queue).collect()
    }

    /// Whether it ends by the clock and is measured in its window; else it is measured from its beginning to its end.
    pub(super) fn is_timed(&self) -> bool {
        self.count.is_none() || self.repeat
    }

    /// The same for another run: its clock begins now, and its messages are told from those before.
    #[must_use]
    pub fn again(&self) -> Self {
        Self { run: Self::fresh_run(), epoch: Instant::now(), ..self.clone() }
    }

    /// A number for a run.
    pub fn fresh_run() -> u32 {
        ClientId::random().as_u128() as u32
    }

    /// Nanoseconds of the run's clock.
    pub(super) fn clock_ns(&self, at: Instant) -> u64 {
        at.saturating_duration_since(self.epoch).as_nanos() as u64
    }

    /// The stamp of a producer's message number `number`, and the index of its key: each key has a stream of its own.
    #[inline]
    pub(super) fn stamp(&self, producer: u32, number: u64, intended_ns: u64) -> (Stamp, usize) {
        let keys = self.keys.max(1);
        // Two divisions for each message would be a tenth of a load's time.
        let (key, sequence) = match keys {
            1 => (0, number),
            _ => ((number % u64::from(keys)) as u32, number / u64::from(keys)),
        };
        let stream = producer * keys + key;
        (Stamp { run: self.run, stream, sequence, intended_ns }, key as usize)
    }

    /// The keys, if messages have some.
    pub(super) fn keys(&self) -> Vec<Vec<u8>> {
        (0..self.keys).map(|key| format!("key-{key}").into_bytes()).collect()
    }

    pub(super) fn target(&self) -> Result<Target, ClientError> {
        let client = (!self.anonymous).then(ClientId::random);
        Target::parse(&self.url, self.project.clone(), client)
    }
}
