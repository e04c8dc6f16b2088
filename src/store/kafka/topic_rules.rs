//! The rules for topics: how they are created, and which weaknesses an existing one has.

use std::collections::HashMap;
use std::ffi::CString;

use super::settings::{Bounds, Settings};
use super::topic_name::TopicNames;
use crate::base::millis::Millis;

/// The rules for topics.
#[derive(Debug)]
pub(super) struct TopicRules {
    pub names: TopicNames,
    pub replication: i32,
    ttl_max_secs: u32,
    /// The largest batch that this server writes, in bytes.
    record_bytes: u64,
    /// The largest record that is served, key and value, in bytes.
    pub served_bytes: usize,
    /// The largest answer of a broker that consumers read, in bytes. Invariant: larger than `record_bytes`.
    answer_bytes: u64,
    /// Whether a topic with a weakness is refused.
    pub is_strict: bool,
    /// The configuration of new topics.
    pub configs: Vec<(CString, CString)>,
}

impl TopicRules {
    pub(super) fn new(config: &Settings, bounds: &Bounds) -> Self {
        let record_bytes = config.record_bytes(bounds) as u64;
        let ttl_max_secs = bounds.ttl_max_secs;
        let mut configs = vec![
            ("message.timestamp.type", "LogAppendTime".to_owned()),
            ("unclean.leader.election.enable", "false".to_owned()),
            ("retention.ms", Millis::from_secs(ttl_max_secs).to_string()),
            ("max.message.bytes", record_bytes.to_string()),
        ];
        if config.replication >= 3 {
            configs.push(("min.insync.replicas", "2".to_owned()));
        }
        let answer_bytes = config.answer_bytes(bounds) as u64;
        debug_assert!(record_bytes < answer_bytes, "a batch that this server writes is readable");
        let text = |text: &str| CString::new(text).unwrap_or_default();
        Self {
            names: TopicNames::new(config),
            replication: i32::from(config.replication),
            ttl_max_secs,
            record_bytes,
            served_bytes: config.served_record_bytes(bounds),
            answer_bytes,
            is_strict: config.strict_topics,
            configs: configs.into_iter().map(|(key, value)| (text(key), text(&value))).collect(),
        }
    }

    /// Returns the settings of a topic that promise less than Millstream does: each with its value, and what
    /// it should be.
    pub(super) fn weaknesses(&self, configs: &HashMap<String, String>) -> Vec<String> {
        let number = |key: &str| configs.get(key).and_then(|value| value.parse::<i64>().ok());
        let mut weak = Vec::new();
        let mut check = |key: &str, is_weak: bool, wanted: String| {
            if is_weak {
                let value = configs.get(key).map_or("?", String::as_str);
                weak.push(format!("{key} = {value} should be {wanted}"));
            }
        };
        let retention = Millis::from_secs(self.ttl_max_secs).get() as i64;
        check(
            "retention.ms",
            number("retention.ms").is_some_and(|ms| (0..retention).contains(&ms)),
            format!("at least {retention}, ttl_max"),
        );
        check(
            "max.message.bytes",
            number("max.message.bytes").is_some_and(|bytes| bytes < self.record_bytes as i64),
            format!("at least {}", self.record_bytes),
        );
        check(
            "max.message.bytes",
            number("max.message.bytes").is_some_and(|bytes| bytes > self.answer_bytes as i64),
            format!(
                "at most {}, which kafka_receive_bytes can raise: a larger batch stops its partition",
                self.answer_bytes
            ),
        );
        check(
            "min.insync.replicas",
            self.replication >= 3 && number("min.insync.replicas").is_some_and(|replicas| replicas < 2),
            "at least 2".into(),
        );
        let is = |key: &str, value: &str| configs.get(key).is_some_and(|is| is.contains(value));
        check("unclean.leader.election.enable", is("unclean.leader.election.enable", "true"), "false".into());
        check("message.timestamp.type", is("message.timestamp.type", "CreateTime"), "LogAppendTime".into());
        check("cleanup.policy", is("cleanup.policy", "compact"), "delete".into());
        weak
    }

    /// Returns the TTL of records that do not state one: as long as the topic keeps them, but at most
    /// `ttl_max`.
    pub(super) fn default_ttl_secs(&self, configs: &HashMap<String, String>) -> u32 {
        let retention = configs.get("retention.ms").and_then(|value| value.parse::<i64>().ok());
        match retention {
            Some(ms) if ms >= 0 => Millis::new(ms as u64).as_secs().min(self.ttl_max_secs),
            _ => self.ttl_max_secs,
        }
    }
}
