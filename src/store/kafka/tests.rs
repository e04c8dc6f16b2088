//! The store on a real broker.

use std::cell::Cell;
use std::sync::mpsc::{self, Receiver};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use super::broker::{Brokers, is_possible};
use super::{Cluster, Kafka, News};
use crate::config::{KafkaConfig, Settings};
use crate::names::{Project, QueueName};
use crate::queue::QueueId;
use crate::store::conformance::{self, Lab};

/// One broker for all tests of this process.
fn broker() -> Option<&'static Brokers> {
    static BROKER: OnceLock<Option<Brokers>> = OnceLock::new();
    BROKER.get_or_init(|| is_possible().then(|| Brokers::start(1))).as_ref()
}

/// How long a store may say nothing before it is taken to have said all.
const SILENCE: Duration = Duration::from_secs(20);

/// How often it is ticked meanwhile.
const TICK: Duration = Duration::from_millis(100);

struct Lone {
    brokers: String,
    packed: bool,
    rung: Receiver<()>,
    ring: mpsc::Sender<()>,
    queues: Cell<u64>,
    heard: Cell<Instant>,
}

impl Lab for Lone {
    type Store = Kafka<u64>;

    fn store(&self) -> Kafka<u64> {
        let config = KafkaConfig {
            brokers: self.brokers.clone(),
            packed: self.packed,
            replication: 1,
            ..KafkaConfig::default()
        };
        let settings = Settings::new(Project::parse("default").unwrap());
        let ring = self.ring.clone();
        let news = News::new(move || {
            let _ = ring.send(());
        });
        Kafka::new(Cluster::start().unwrap(), &config, &settings, 1, Arc::new(news))
    }

    fn unix_ms(&self) -> Option<u64> {
        Some(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis() as u64)
    }

    fn wait(&self) -> bool {
        if self.rung.recv_timeout(TICK).is_ok() {
            self.heard.set(Instant::now());
        }
        self.heard.get().elapsed() < SILENCE
    }

    fn queue(&self) -> (QueueId, QueueName) {
        self.queues.set(self.queues.get() + 1);
        (QueueId(self.queues.get()), QueueName::parse(&format!("q{}", self.queues.get())).unwrap())
    }
}

fn conforms(packed: bool) {
    let Some(broker) = broker() else { return };
    let (ring, rung) = mpsc::channel();
    let (queues, heard) = (Cell::new(0), Cell::new(Instant::now()));
    conformance::run(&Lone { brokers: broker.addresses.clone(), packed, rung, ring, queues, heard });
}

#[test]
fn it_conforms() {
    conforms(false);
}

#[test]
fn packed_it_conforms() {
    conforms(true);
}
