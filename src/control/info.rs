//! The page `/info`: the server's version, store and settings, which put its numbers into context.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock};

use axum::Json;
use axum::extract::State;
use serde::{Deserialize, Serialize};

use super::Control;
use crate::shard;
use crate::store::StoreKind;
use crate::store::log::Durability;

/// The page `/info`, as JSON.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct InfoPage {
    /// The server's version.
    pub version: String,
    /// The git revision that it was built from.
    pub revision: String,
    /// Whether this is an optimized build.
    pub is_release: bool,
    /// The store: `log`, `memory` or `kafka`.
    pub store: String,
    /// A description of how durable an acknowledged message is.
    pub durability: String,
    /// The cores. A shard runs on each.
    pub cores: Vec<usize>,
    /// All settings except those of Kafka, by key.
    pub settings: BTreeMap<String, String>,
}

impl InfoPage {
    /// Creates the page of a server with the settings `shard`. `settings` are the settings to show, by key.
    pub fn new(shard: &shard::Settings, settings: BTreeMap<String, String>) -> Self {
        let durability = match (shard.store.kind, shard.store.log.durability) {
            (StoreKind::Log, Durability::Fsync) => "on the disk and synced before it is acknowledged",
            (StoreKind::Log, Durability::Os) => {
                "written before it is acknowledged, synced when the system decides"
            }
            (StoreKind::Memory, _) => "in memory: lost when the server ends",
            (StoreKind::Kafka, _) => "in Kafka, on all in-sync replicas (acks=all) before it is acknowledged",
        };
        Self {
            version: env!("CARGO_PKG_VERSION").into(),
            revision: env!("GIT_REVISION").into(),
            is_release: !cfg!(debug_assertions),
            store: shard.store.kind.name().into(),
            durability: durability.into(),
            cores: shard.shard_cores(),
            settings,
        }
    }
}

/// The page as it is now. Clones share it.
#[derive(Clone, Debug)]
pub struct Info(Arc<RwLock<Arc<InfoPage>>>);

impl Info {
    /// Shows `page`.
    pub fn new(page: InfoPage) -> Self {
        Self(Arc::new(RwLock::new(Arc::new(page))))
    }

    /// Shows these settings from now on.
    pub fn set_settings(&self, settings: BTreeMap<String, String>) {
        let mut page = self.0.write().unwrap_or_else(PoisonError::into_inner);
        Arc::make_mut(&mut page).settings = settings;
    }

    fn page(&self) -> Arc<InfoPage> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

pub(super) async fn page(State(control): State<Control>) -> Json<Arc<InfoPage>> {
    Json(control.info.page())
}
