//! The parts of the Kafka store that all shards of a server share.

use std::ffi::CString;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use super::attributes::AttributesTopic;
use super::clerk::Clerk;
use super::janitor::Janitor;
use super::layout::Layout;
use super::properties::{Properties, warnings};
use super::settings::{Bounds, Settings};
use super::tokens::Tokens;
use super::topic_name::TopicNames;
use super::topics::{TopicInfo, Topics};
use crate::base::attributes::Attributes;
use crate::base::queue::{QueueId, Signing};
use crate::store::Life;

/// The parts of the Kafka store that all shards share.
#[derive(Clone, Debug)]
pub struct Cluster {
    pub(super) topics: Arc<Topics>,
    pub(super) janitor: Janitor,
    pub(super) tokens: Option<Tokens>,
    pub(super) clerk: Clerk,
    pub(super) attributes: AttributesTopic,
}

impl Cluster {
    /// Starts the threads that serve all shards. They may run on the caller's cores.
    pub fn start(config: &Settings, bounds: &Bounds) -> std::io::Result<Self> {
        for warning in warnings(config) {
            tracing::warn!("{warning}");
        }
        let command = Some(config.token_command.clone()).filter(|command| !command.is_empty());
        let tokens = command.map(Tokens::start).transpose()?;
        let properties = Properties::new(config, bounds);
        Ok(Self {
            topics: Arc::default(),
            janitor: Janitor::start()?,
            clerk: Clerk::start(TopicNames::new(config), properties.clone(), tokens.clone())?,
            attributes: AttributesTopic::start(config, properties, tokens.clone())?,
            tokens,
        })
    }

    /// Adds a queue's topic without asking Kafka: for tests and benchmarks on librdkafka's mock cluster,
    /// which has no controller to ask.
    pub fn assume(&self, queue: QueueId, topic: CString, partitions: u16) {
        let topic = TopicInfo {
            name: Arc::new(topic),
            default_ttl_secs: 1000,
            is_default_known: true,
            layout: Layout::Plain,
            is_young: true,
            served_bytes: usize::MAX,
            passed_over: AtomicU64::new(0),
            life: Life {
                incarnation: 1,
                partitions,
                signing: Signing::default(),
                attributes: Attributes::default(),
            },
        };
        self.topics.insert(queue, topic);
    }
}
