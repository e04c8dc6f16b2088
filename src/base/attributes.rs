//! The attributes of a queue: a JSON object that clients set and the catalogue keeps.
//!
//! Names that begin with `_` are reserved. The server acts on those that [`Attributes::policy`] reads, and refuses
//! others. All other names are the client's own. Names and ranges are in protocol section 18.

use std::fmt;
use std::ops::RangeInclusive;
use std::sync::Arc;

use serde_json::{Map, Number, Value};

use super::names::QueueName;
use super::policy::{Policy, WhenFull};

/// The most bytes of the attributes of a queue, as JSON text without spaces.
pub const ATTRIBUTES_BYTES_MAX: usize = 64 << 10;

/// The number of partitions of a new queue. It is an argument of the creation, not an attribute that is kept.
pub const PARTITIONS: &str = "_partitions";

const DEFAULT_TTL: &str = "_default_message_ttl";
const DEFAULT_DELAY: &str = "_default_message_delay";
/// The largest payload.
pub const POST_SIZE: &str = "_max_messages_post_size";
const CLAIMS_MAX: &str = "_max_claim_count";

/// The name of the dead-letter queue.
pub const DEAD_QUEUE: &str = "_dead_letter_queue";

const DEAD_TTL: &str = "_dead_letter_queue_messages_ttl";
/// The most bytes of messages.
pub const BYTES_MAX: &str = "_max_bytes";
/// The most messages.
pub const MESSAGES_MAX: &str = "_max_messages";
const WHEN_FULL: &str = "_when_full";

/// Attributes of Zaqar that are kept and change nothing.
const ENCRYPTED: &str = "_enable_encrypt_messages";
const FLAVOR: &str = "_flavor";
const RETRIES: &str = "_retry_policy";

/// The values of [`WHEN_FULL`].
const REFUSE: &str = "refuse";
const DROP_OLDEST: &str = "drop-oldest";

/// The attributes of a queue. Clones share them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Attributes(Arc<Map<String, Value>>);

/// What the settings of the server allow in attributes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Allowed {
    /// `ttl_min` and `ttl_max`, in seconds.
    pub ttl_secs: (u32, u32),
    /// `delay_max`, in seconds.
    pub delay_max_secs: u32,
    /// `max_payload_bytes`.
    pub payload_max: usize,
}

/// Why attributes are refused. The text names the attribute and the limit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AttributeFault(String);

impl AttributeFault {
    /// Creates the fault of an attribute.
    pub fn new(name: &str, why: impl fmt::Display) -> Self {
        Self(format!("{name}: {why}"))
    }
}

impl fmt::Display for AttributeFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for AttributeFault {}

impl Attributes {
    /// Reads stored attributes, which were checked when they were set. Returns `None` unless they are a JSON object.
    pub fn parse_stored(json: &[u8]) -> Option<Self> {
        serde_json::from_slice(json).ok().map(|map| Self(Arc::new(map)))
    }

    /// Returns them as JSON text.
    pub fn to_json(&self) -> String {
        Value::Object((*self.0).clone()).to_string()
    }

    /// Returns whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Returns them by name.
    pub fn as_map(&self) -> &Map<String, Value> {
        &self.0
    }

    /// Returns these attributes with changes: a value replaces that of the same name, null removes it. `queue` is the
    /// queue that they are for.
    pub fn with(
        &self,
        changes: Map<String, Value>,
        queue: &QueueName,
        allowed: &Allowed,
    ) -> Result<Self, AttributeFault> {
        let mut map = (*self.0).clone();
        for (name, value) in changes {
            match value {
                Value::Null => drop(map.remove(&name)),
                value => {
                    check(&name, &value, queue, allowed).map_err(|why| AttributeFault::new(&name, why))?;
                    map.insert(name, value);
                }
            }
        }
        let changed = Self(Arc::new(map));
        let bytes = changed.to_json().len();
        if bytes > ATTRIBUTES_BYTES_MAX {
            let why = format!("{bytes} bytes are more than {ATTRIBUTES_BYTES_MAX}");
            return Err(AttributeFault::new("attributes", why));
        }
        Ok(changed)
    }

    /// Returns what they ask of the server.
    pub fn policy(&self) -> Policy {
        let secs = |name| self.number(name).and_then(|number| u32::try_from(number).ok());
        let dead_queue = self.0.get(DEAD_QUEUE).and_then(Value::as_str);
        Policy {
            ttl_secs: secs(DEFAULT_TTL),
            delay_secs: secs(DEFAULT_DELAY),
            payload_max: self.number(POST_SIZE).and_then(|bytes| usize::try_from(bytes).ok()),
            claims_max: self.number(CLAIMS_MAX).map(|count| u32::try_from(count.max(0)).unwrap_or(u32::MAX)),
            dead_queue: dead_queue.and_then(|name| QueueName::parse(name).ok()),
            dead_ttl_secs: secs(DEAD_TTL),
            bytes_max: self.number(BYTES_MAX).and_then(|bytes| u64::try_from(bytes).ok()),
            messages_max: self.number(MESSAGES_MAX).and_then(|count| u64::try_from(count).ok()),
            when_full: match self.0.get(WHEN_FULL).and_then(Value::as_str) {
                Some(DROP_OLDEST) => WhenFull::DropOldest,
                _ => WhenFull::Refuse,
            },
        }
    }

    fn number(&self, name: &str) -> Option<i64> {
        self.0.get(name).and_then(Value::as_i64)
    }
}

/// Takes the number of partitions of a new queue out of its attributes.
pub fn take_partitions(
    attributes: &mut Map<String, Value>,
    partitions_max: u16,
) -> Result<Option<u16>, AttributeFault> {
    match attributes.remove(PARTITIONS) {
        None | Some(Value::Null) => Ok(None),
        Some(value) => match integer(&value, 1..=i64::from(partitions_max)) {
            Ok(count) => Ok(u16::try_from(count).ok()),
            Err(why) => Err(AttributeFault::new(PARTITIONS, why)),
        },
    }
}

/// Checks the new number of partitions of a queue that has `present`.
pub fn check_partitions(partitions: u16, present: u16, partitions_max: u16) -> Result<(), AttributeFault> {
    if partitions < present {
        let why =
            format!("{partitions} are fewer than the {present} that the queue has; they are only added");
        return Err(AttributeFault::new(PARTITIONS, why));
    }
    if partitions > partitions_max {
        let why = format!("{partitions} is not a whole number from 1 to {partitions_max}");
        return Err(AttributeFault::new(PARTITIONS, why));
    }
    Ok(())
}

/// Checks the value of an attribute. The error says what is allowed.
fn check(name: &str, value: &Value, queue: &QueueName, allowed: &Allowed) -> Result<(), String> {
    let ttl = i64::from(allowed.ttl_secs.0)..=i64::from(allowed.ttl_secs.1);
    let payload_max = i64::try_from(allowed.payload_max).unwrap_or(i64::MAX);
    match name {
        DEFAULT_TTL | DEAD_TTL => integer(value, ttl).map(drop),
        DEFAULT_DELAY => integer(value, 0..=i64::from(allowed.delay_max_secs)).map(drop),
        POST_SIZE => integer(value, 1..=payload_max).map(drop),
        CLAIMS_MAX => integer(value, i64::MIN..=i64::MAX).map(drop),
        BYTES_MAX | MESSAGES_MAX => integer(value, 1..=i64::MAX).map(drop),
        WHEN_FULL => match value.as_str() {
            Some(REFUSE | DROP_OLDEST) => Ok(()),
            _ => Err(format!("{value} is not \"{REFUSE}\" or \"{DROP_OLDEST}\"")),
        },
        DEAD_QUEUE => match value.as_str().map(QueueName::parse) {
            Some(Ok(name)) if name == *queue => Err("a queue cannot be its own dead-letter queue".to_owned()),
            Some(Ok(_)) => Ok(()),
            _ => Err(format!("{value} is not the name of a queue")),
        },
        ENCRYPTED => match value {
            Value::Bool(_) => Ok(()),
            _ => Err(format!("{value} is not true or false")),
        },
        FLAVOR => match value {
            Value::String(_) => Ok(()),
            _ => Err(format!("{value} is not text")),
        },
        RETRIES => retry_policy(value),
        PARTITIONS => {
            Err("is set at the creation of a queue; more are added by a request of their own".to_owned())
        }
        name if name.starts_with('_') => Err("is not an attribute that this server knows".to_owned()),
        _ => Ok(()),
    }
}

/// Checks a policy of retries of notifications, as Zaqar does: unknown members are accepted.
fn retry_policy(value: &Value) -> Result<(), String> {
    const NUMBERS: [&str; 5] = [
        "retries_with_no_delay",
        "minimum_delay_retries",
        "minimum_delay",
        "maximum_delay",
        "maximum_delay_retries",
    ];
    const FUNCTIONS: [&str; 4] = ["linear", "arithmetic", "exponential", "geometric"];
    /// The least difference between the delays, and their defaults, in seconds.
    const LEAST: i64 = 10;
    const MINIMUM: i64 = 5;
    const MAXIMUM: i64 = 30;
    let Value::Object(policy) = value else { return Err(format!("{value} is not an object")) };
    for name in NUMBERS {
        if let Some(number) = policy.get(name).filter(|number| !number.is_i64()) {
            return Err(format!("{name}: {number} is not a whole number"));
        }
    }
    if let Some(function) = policy.get("retry_backoff_function")
        && !function.as_str().is_some_and(|name| FUNCTIONS.contains(&name))
    {
        return Err(format!("retry_backoff_function: {function} is none of {}", FUNCTIONS.join(", ")));
    }
    if let Some(ignores) = policy.get("ignore_subscription_override").filter(|ignores| !ignores.is_boolean())
    {
        return Err(format!("ignore_subscription_override: {ignores} is not true or false"));
    }
    let delay = |name: &str, default| policy.get(name).and_then(Value::as_i64).unwrap_or(default);
    let (minimum, maximum) = (delay("minimum_delay", MINIMUM), delay("maximum_delay", MAXIMUM));
    if maximum.saturating_sub(minimum) < LEAST {
        return Err(format!("maximum_delay {maximum} is not at least {LEAST} above minimum_delay {minimum}"));
    }
    Ok(())
}

/// Returns the value if it is a whole number of the range.
fn integer(value: &Value, range: RangeInclusive<i64>) -> Result<i64, String> {
    let number = value.as_number().and_then(Number::as_i64).filter(|number| range.contains(number));
    number.ok_or_else(|| match (*range.start(), *range.end()) {
        (i64::MIN, i64::MAX) => format!("{value} is not a whole number"),
        (least, i64::MAX) => format!("{value} is not a whole number from {least} on"),
        (least, most) => format!("{value} is not a whole number from {least} to {most}"),
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const ALLOWED: Allowed = Allowed { ttl_secs: (60, 1_209_600), delay_max_secs: 900, payload_max: 262_144 };

    fn queue() -> QueueName {
        QueueName::parse("q").unwrap()
    }

    fn map(value: Value) -> Map<String, Value> {
        value.as_object().unwrap().clone()
    }

    fn with(of: &Attributes, changes: Value) -> Result<Attributes, String> {
        of.with(map(changes), &queue(), &ALLOWED).map_err(|fault| fault.to_string())
    }

    #[test]
    fn changes_are_merged_and_null_removes() {
        let first = with(&Attributes::default(), json!({"a": {"b": [1]}, "_max_messages": 5})).unwrap();
        let second = with(&first, json!({"_max_messages": 6, "a": null, "none": null, "c": "d"})).unwrap();
        assert_eq!(second.as_map(), &map(json!({"_max_messages": 6, "c": "d"})));
        assert_eq!(first.policy().messages_max, Some(5), "the first ones are as before");
        assert_eq!(Attributes::parse_stored(second.to_json().as_bytes()), Some(second));
    }

    #[test]
    fn the_policy_is_what_the_reserved_attributes_say() {
        let attributes = json!({
            "_default_message_ttl": 60, "_default_message_delay": 900, "_max_messages_post_size": 1,
            "_max_claim_count": -1, "_dead_letter_queue": "dead", "_dead_letter_queue_messages_ttl": 1_209_600,
            "_max_bytes": 1, "_max_messages": i64::MAX, "_when_full": "drop-oldest",
        });
        let expected = Policy {
            ttl_secs: Some(60),
            delay_secs: Some(900),
            payload_max: Some(1),
            claims_max: Some(0),
            dead_queue: Some(QueueName::parse("dead").unwrap()),
            dead_ttl_secs: Some(1_209_600),
            bytes_max: Some(1),
            messages_max: Some(i64::MAX as u64),
            when_full: WhenFull::DropOldest,
        };
        assert_eq!(with(&Attributes::default(), attributes).unwrap().policy(), expected);
        assert_eq!(Attributes::default().policy(), Policy::default());
    }

    #[test]
    fn every_bad_value_is_refused_with_its_name_and_limit() {
        for (name, value, words) in [
            ("_default_message_ttl", json!(59), "59 is not a whole number from 60 to 1209600"),
            ("_default_message_ttl", json!(60.0), "60.0 is not"),
            ("_default_message_ttl", json!(true), "true is not"),
            ("_default_message_delay", json!(901), "from 0 to 900"),
            ("_max_messages_post_size", json!(0), "from 1 to 262144"),
            ("_max_claim_count", json!("3"), "\"3\" is not a whole number"),
            ("_dead_letter_queue", json!(5), "5 is not the name of a queue"),
            ("_dead_letter_queue", json!("q"), "its own dead-letter queue"),
            ("_dead_letter_queue", json!("a b"), "not the name"),
            ("_dead_letter_queue_messages_ttl", json!(1_209_601), "from 60"),
            ("_max_bytes", json!(0), "from 1 on"),
            ("_max_messages", json!(u64::MAX), "from 1 on"),
            ("_when_full", json!("drop"), "\"refuse\" or \"drop-oldest\""),
            ("_partitions", json!(3), "at the creation"),
            ("_other", json!(1), "not an attribute"),
            ("big", json!("x".repeat(ATTRIBUTES_BYTES_MAX)), "more than 65536"),
        ] {
            let why = with(&Attributes::default(), json!({ name: value })).unwrap_err();
            assert!(why.contains(words) && (why.starts_with(name) || name == "big"), "{why}");
        }
    }

    #[test]
    fn partitions_are_only_added() {
        assert_eq!(check_partitions(8, 8, 64), Ok(()));
        assert_eq!(check_partitions(64, 8, 64), Ok(()));
        let why = check_partitions(7, 8, 64).unwrap_err().to_string();
        assert!(why.starts_with("_partitions: 7 are fewer than the 8"), "{why}");
        let why = check_partitions(65, 8, 64).unwrap_err().to_string();
        assert!(why.starts_with("_partitions: 65 is not a whole number from 1 to 64"), "{why}");
    }

    #[test]
    fn the_number_of_partitions_is_an_argument_of_the_creation() {
        let mut attributes = map(json!({"_partitions": 64, "a": 1}));
        assert_eq!(take_partitions(&mut attributes, 64), Ok(Some(64)));
        assert_eq!(attributes, map(json!({"a": 1})));
        assert_eq!(take_partitions(&mut attributes, 64), Ok(None));
        for bad in [json!(0), json!(65), json!("1"), json!(1.5)] {
            let why = take_partitions(&mut map(json!({ "_partitions": bad })), 64).unwrap_err();
            assert!(why.to_string().contains("from 1 to 64"), "{why}");
        }
    }
}
