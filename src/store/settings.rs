//! Which store keeps the messages, and the settings of each.

use super::{kafka, log, memory};
use crate::base::setting::{choice, settings};

choice! {
    /// Where messages are kept.
    pub enum StoreKind {
        /// In the embedded log, on this machine's disk.
        #[default]
        Log = "log",
        /// In memory: bounded, and lost when the server ends.
        Memory = "memory",
        /// In a Kafka cluster.
        Kafka = "kafka",
    }
}

settings! {
    /// All stores; only those of `kind` count.
    #[derive(Clone, Debug)]
    pub struct Settings {
        in Store:
        /// log: in data_dir, durable; memory: bounded, and lost when the server ends; kafka: in the cluster of brokers
        kind: StoreKind = StoreKind::default(), "store", Choice(StoreKind::NAMES);
    } with {
        /// The embedded log.
        log: log::Settings,
        /// The memory store.
        memory: memory::Settings,
        /// The Kafka store.
        kafka: kafka::Settings,
    }
}
