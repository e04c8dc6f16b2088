//! What the server is: its version, its store and its settings, for whoever reads its numbers.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use serde::{Deserialize, Serialize};

use super::Control;
use crate::config::setting::Setting;
use crate::config::table::SETTINGS;
use crate::config::{Durability, ServerConfig, StoreKind};

/// What settings may hold that is nobody's business: the section of Kafka, whose properties have passwords.
const SECRET: &str = "kafka_";

/// See the module's page.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct InfoPage {
    /// The server's version.
    pub version: String,
    /// The git revision that it was built from.
    pub revision: String,
    /// It was built for speed.
    pub is_release: bool,
    /// `log`, `memory` or `kafka`.
    pub store: String,
    /// What an acknowledged message survives, in a sentence.
    pub durability: String,
    /// A shard runs on each.
    pub cores: Vec<usize>,
    /// Every setting but those of Kafka.
    pub settings: BTreeMap<String, String>,
}

impl InfoPage {
    /// Of a server with this configuration.
    pub fn new(config: &ServerConfig) -> Self {
        let durability = match (config.store, config.embedded.durability) {
            (StoreKind::Log, Durability::Fsync) => "on the disk and synced before it is acknowledged",
            (StoreKind::Log, Durability::Os) => {
                "written before it is acknowledged, synced when the system likes"
            }
            (StoreKind::Memory, _) => "in memory: lost when the server ends",
            (StoreKind::Kafka, _) => "in Kafka, on all in-sync replicas (acks=all) before it is acknowledged",
        };
        let open = SETTINGS.iter().filter(|setting| !setting.key.starts_with(SECRET));
        let shown = |setting: &Setting| (setting.key.to_owned(), setting.get(config));
        Self {
            version: env!("CARGO_PKG_VERSION").into(),
            revision: env!("GIT_REVISION").into(),
            is_release: !cfg!(debug_assertions),
            store: config.store.name().into(),
            durability: durability.into(),
            cores: config.shard_cores(),
            settings: open.map(shown).collect(),
        }
    }
}

pub(super) async fn page(State(control): State<Control>) -> Json<Arc<InfoPage>> {
    Json(control.info)
}
