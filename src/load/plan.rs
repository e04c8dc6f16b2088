//! The parameters of a run: its connections, its messages, and how it is measured.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::interrupt::Interrupt;
use super::stamp::Stamp;
use crate::base::names::{ClientId, Project};
use crate::client::{ClientError, ControlClient, Target, Tokens, Trust};

/// Which kinds of connections a run has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Deserialize, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// Producers only.
    Produce,
    /// Consumers only.
    Consume,
    /// Producers and consumers, on the same queues.
    Both,
    /// Producers, and workers that claim and acknowledge what they send.
    Claim,
    /// Only idle connections.
    Idle,
}

/// Another server that `bench` can put under the same load.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Peer {
    /// Apache Kafka.
    Kafka,
    /// NATS JetStream.
    Nats,
}

impl Peer {
    /// Returns the name in results.
    pub fn name(self) -> &'static str {
        match self {
            Self::Kafka => "kafka",
            Self::Nats => "nats",
        }
    }
}

/// A description of the server under load.
#[derive(Clone, Debug)]
pub struct About {
    /// Its version, in its own words.
    pub version: String,
    /// What an acknowledged message survives, in a sentence.
    pub durability: String,
}

/// The parameters of a run.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Which connections the run has.
    pub mode: Mode,
    /// The address of the server.
    pub url: String,
    /// Which servers to trust. Needed if the address uses TLS.
    pub trust: Option<Trust>,
    /// Where the clients obtain their tokens. `None` sends none.
    pub tokens: Option<Arc<Tokens>>,
    /// The project (tenant). `None` means the server's default.
    pub project: Option<Project>,
    /// The name of the queue. Several queues get `-0`, `-1` and so on appended.
    pub queue: String,
    /// The number of queues.
    pub queues: u32,
    /// The number of producing connections.
    pub producers: u32,
    /// The number of consuming connections.
    pub consumers: u32,
    /// Where consumers begin: a `starting_marker`, or empty for the oldest message.
    pub from: String,
    /// The size of each payload, in bytes. At least [`STAMP_BYTES`](super::stamp::STAMP_BYTES).
    pub size: usize,
    /// Messages per ProduceRequest.
    pub batch: usize,
    /// ProduceRequests per frame.
    pub pbs_per_frame: usize,
    /// The most unacknowledged messages of a producer. `None` allows all of its credit.
    pub in_flight: Option<u64>,
    /// How many messages the server may send ahead of what a consumer has processed.
    pub consume_window: u64,
    /// How many messages a worker may hold without having acknowledged them.
    pub claim_window: u64,
    /// How long a claim lasts, in seconds.
    pub lease: u32,
    /// Whether workers wait until the server confirms an acknowledgement, on servers where that is a choice.
    pub double_ack: bool,
    /// How many messages the producers of a closed loop may be ahead of the slowest consumer, or of all workers
    /// together, of their queue. Only for [`Mode::Both`] and [`Mode::Claim`].
    pub lag: u64,
    /// Messages per second over all producers, on a schedule (open loop). `None` sends as fast as possible
    /// (closed loop).
    pub rate: Option<f64>,
    /// The number of different keys, which messages use in turn. 0 sends no keys.
    pub keys: u32,
    /// Additional connections that consume from the end of a queue without credit.
    pub idle: u32,
    /// Additional consumers that grant credit for every message and read nothing.
    pub stalled: u32,
    /// The number of messages after which the run ends. `None` ends it by time.
    pub count: Option<u64>,
    /// Whether consumers start over after `count` messages, until the time is over.
    pub repeat: bool,
    /// How long to wait for a further connection to be set up.
    pub setup_timeout: Duration,
    /// The time before the measured part.
    pub warmup: Duration,
    /// The length of the measured part.
    pub measure: Duration,
    /// The time to live of the messages, in seconds.
    pub ttl: u32,
    /// Producer `i` sends to partition (i + this) mod `partitions`. `None` lets the server choose by
    /// Client-ID.
    pub partition_offset: Option<u32>,
    /// Whether clients omit their Client-ID.
    pub anonymous: bool,
    /// The number of partitions of each queue, for `partition_offset`.
    pub partitions: u32,
    /// The cores for the clients.
    pub cores: Vec<usize>,
    /// Whether to write the progress to standard error every second.
    pub progress: bool,
    /// The server's process id, to measure its CPU time and memory.
    pub server_pid: Option<u32>,
    /// The server's control port, to read its own histograms.
    pub control: Option<ControlClient>,
    /// Ends the run early.
    pub interrupt: Interrupt,
    /// A number that identifies the messages of this run.
    pub run: u32,
    /// The zero of the run's clock.
    pub epoch: Instant,
}

impl Plan {
    /// Returns the queue of connection number `number`.
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

    /// Returns the number of producers.
    pub(super) fn producers(&self) -> u32 {
        if matches!(self.mode, Mode::Produce | Mode::Both | Mode::Claim) { self.producers } else { 0 }
    }

    /// Returns the number of consumers, or of workers.
    pub(super) fn consumers(&self) -> u32 {
        if matches!(self.mode, Mode::Consume | Mode::Both | Mode::Claim) { self.consumers } else { 0 }
    }

    /// Returns the numbers of those of `count` connections that use the same queue as connection `number`.
    pub(super) fn users_with(&self, number: u32, count: u32) -> Vec<u32> {
        // Compares numbers, not names: every connection asks, and there may be thousands.
        let place = |number: u32| {
            let partition = self.partition_offset.map(|offset| (number + offset) % self.partitions);
            (number % self.queues, partition)
        };
        (0..count).filter(|other| place(*other) == place(number)).collect()
    }

    /// Returns whether the run ends by the clock and is measured in its window. Otherwise it is measured from
    /// beginning to end.
    pub(super) fn is_timed(&self) -> bool {
        self.count.is_none() || self.repeat
    }

    /// Returns the same plan for another run: its clock starts now, and its messages get a new run number.
    #[must_use]
    pub fn again(&self) -> Self {
        Self { run: Self::fresh_run(), epoch: Instant::now(), ..self.clone() }
    }

    /// Returns a random number for a run.
    pub fn fresh_run() -> u32 {
        ClientId::random().as_u128() as u32
    }

    /// Converts a time to nanoseconds of the run's clock.
    pub(super) fn clock_ns(&self, at: Instant) -> u64 {
        at.saturating_duration_since(self.epoch).as_nanos() as u64
    }

    /// Returns the stamp of message `number` of a producer, and the index of its key. Each key has its own
    /// stream of sequence numbers.
    #[inline]
    pub(super) fn stamp(&self, producer: u32, number: u64, intended_ns: u64) -> (Stamp, usize) {
        let keys = self.keys.max(1);
        // Without keys, avoid the two divisions. For each message they would take a tenth of the load
        // generator's time.
        let (key, sequence) = match keys {
            1 => (0, number),
            _ => ((number % u64::from(keys)) as u32, number / u64::from(keys)),
        };
        let stream = producer * keys + key;
        (Stamp { run: self.run, stream, sequence, intended_ns }, key as usize)
    }

    /// Returns the number of streams of all producers.
    pub(super) fn streams(&self) -> u32 {
        self.producers().saturating_mul(self.keys.max(1))
    }

    /// Returns the keys, or an empty list if messages have none.
    pub(super) fn keys(&self) -> Vec<Vec<u8>> {
        (0..self.keys).map(|key| format!("key-{key}").into_bytes()).collect()
    }

    pub(super) fn target(&self) -> Result<Target, ClientError> {
        let client = (!self.anonymous).then(ClientId::random);
        let target = Target::parse(&self.url, self.project.clone(), client)?;
        Ok(target.trusting(self.trust.clone()).authenticating(self.tokens.clone()))
    }
}

/// Returns a plan for a test.
#[cfg(test)]
pub(super) fn plan(mode: Mode, count: Option<u64>, measure: Duration) -> Plan {
    Plan {
        mode,
        url: "ws://127.0.0.1:9000/".into(),
        trust: None,
        tokens: None,
        project: None,
        queue: "q".into(),
        queues: 1,
        producers: 1,
        consumers: 1,
        from: String::new(),
        size: 100,
        batch: 10,
        pbs_per_frame: 1,
        in_flight: None,
        consume_window: 1_000,
        claim_window: 1_000,
        lease: 60,
        double_ack: false,
        lag: 1_000,
        rate: None,
        keys: 0,
        idle: 0,
        stalled: 0,
        count,
        repeat: false,
        setup_timeout: Duration::ZERO,
        warmup: Duration::ZERO,
        measure,
        ttl: 60,
        partition_offset: None,
        anonymous: false,
        partitions: 1,
        cores: vec![0],
        progress: false,
        server_pid: None,
        control: None,
        interrupt: Interrupt::default(),
        run: 1,
        epoch: Instant::now(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_with_the_same_queue_use_it_together() {
        for (queues, partition_offset) in [(1, None), (3, None), (1, Some(1)), (3, Some(2))] {
            let plan =
                Plan { queues, partition_offset, partitions: 2, ..plan(Mode::Both, None, Duration::ZERO) };
            for number in 0..8 {
                let named = (0..12).filter(|other| plan.queue_of(*other) == plan.queue_of(number));
                assert_eq!(plan.users_with(number, 12), named.collect::<Vec<u32>>());
            }
        }
    }
}
