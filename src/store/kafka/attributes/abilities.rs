//! The attributes that this store cannot keep its word about, and why it refuses them.

use crate::base::attributes::Attributes;

/// Why a change of attributes is refused if the setting names no topic for them.
pub const NO_TOPIC: &str = "queues have no attributes, because kafka_attributes_topic is empty";

/// Why partitions are not added.
pub const NO_GROWTH: &str = "_partitions: on Kafka, partitions are added with Kafka's own tools";

/// The attributes that are refused, each with the reason.
const REFUSED: [(&str, &str); 7] = [
    (
        "_default_message_delay",
        "_default_message_delay: delays on Kafka need ownership, which servers do not share",
    ),
    ("_max_claim_count", "_max_claim_count: claims on Kafka need ownership, which servers do not share"),
    (
        "_dead_letter_queue",
        "_dead_letter_queue: dead letters on Kafka need ownership, which servers do not share",
    ),
    (
        "_dead_letter_queue_messages_ttl",
        "_dead_letter_queue_messages_ttl: dead letters on Kafka need ownership, which servers do not share",
    ),
    ("_max_messages", "_max_messages: Kafka cannot count the messages of a queue"),
    ("_max_bytes", "_max_bytes: Kafka cannot count the bytes of a queue's messages"),
    ("_when_full", "_when_full: Kafka cannot count the messages of a queue, so it is never full"),
];

/// Returns why attributes are refused, if any of them is. The text names it.
pub fn refused(attributes: &Attributes) -> Option<&'static str> {
    REFUSED.iter().find(|(name, _)| attributes.as_map().contains_key(*name)).map(|(_, why)| *why)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reserved_attribute_is_kept_or_refused_by_name() {
        let of = |text: String| Attributes::parse_stored(text.as_bytes()).unwrap();
        for (name, why) in REFUSED {
            assert!(why.starts_with(&format!("{name}: ")), "{why}");
            assert_eq!(refused(&of(format!(r#"{{"a":1,"{name}":1}}"#))), Some(why));
        }
        let kept = r#"{"_default_message_ttl":60,"_max_messages_post_size":1,"mine":"_max_bytes"}"#;
        assert_eq!(refused(&of(kept.to_owned())), None);
    }
}
