//! The choice of the store, and the settings of each store.

use super::{kafka, log, memory};
use crate::base::setting::{choice, settings};

choice! {
    /// Where messages are kept.
    pub enum StoreKind {
        /// In the embedded log, on the disk of this machine.
        #[default]
        Log = "log",
        /// In memory: bounded, and lost when the server ends.
        Memory = "memory",
        /// In a Kafka cluster.
        Kafka = "kafka",
    }
}

settings! {
    /// The settings of all stores. Only those of the store in `kind` apply.
    #[derive(Clone, Debug)]
    pub struct Settings {
        in Store, AtStart:
        /// Where messages are kept; log: in data_dir, durable; memory: bounded, and lost when the server
        /// ends; kafka: in a Kafka cluster
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
