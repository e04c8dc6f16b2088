//! librdkafka's settings: those that Millstream's promises depend on, those that follow from its own
//! settings, and those that an operator adds.

use std::collections::BTreeMap;
use std::fmt;

use super::native::Handle;
use super::secret::without_secrets;
use super::settings::{Bounds, Settings};
use crate::base::limits::KAFKA_RECORD_BYTES;
use crate::base::millis::Millis;
use crate::base::setting::Unworkable;

/// Properties that an operator may not set, each with the reason.
const REFUSED: &[(&str, &str)] = &[
    ("bootstrap.servers", "brokers sets it"),
    ("metadata.broker.list", "brokers sets it"),
    ("acks", "a message is acknowledged once every in-sync replica has it"),
    ("request.required.acks", "a message is acknowledged once every in-sync replica has it"),
    ("enable.idempotence", "without it a retry stores a message twice or out of order"),
    ("max.in.flight", "idempotence decides it"),
    ("max.in.flight.requests.per.connection", "idempotence decides it"),
    ("retries", "kafka_delivery_timeout bounds retries"),
    ("message.send.max.retries", "kafka_delivery_timeout bounds retries"),
    ("transactional.id", "messages are not stored in transactions"),
    ("enable.gapless.guarantee", "an error in one partition would fail all others"),
    ("linger.ms", "kafka_linger sets it"),
    ("queue.buffering.max.ms", "kafka_linger sets it"),
    ("batch.size", "kafka_batch_bytes sets it"),
    ("compression.codec", "kafka_compression sets it"),
    ("compression.type", "kafka_compression sets it"),
    ("delivery.timeout.ms", "kafka_delivery_timeout sets it"),
    ("message.timeout.ms", "kafka_delivery_timeout sets it"),
    ("message.max.bytes", "max_payload_bytes and kafka_batch_bytes decide it"),
    ("message.copy.max.bytes", "payloads are not copied"),
    ("queue.buffering.max.messages", "shard_budget_bytes decides it"),
    ("queue.buffering.max.kbytes", "shard_budget_bytes decides it"),
    ("delivery.report.only.error", "messages are acknowledged by their reports"),
    ("group.id", "clients keep their own positions"),
    ("enable.auto.commit", "clients keep their own positions"),
    ("enable.auto.offset.store", "clients keep their own positions"),
    ("auto.offset.reset", "a consumer with an expired position continues at the oldest message"),
    ("enable.partition.eof", "readers need it"),
    ("allow.auto.create.topics", "topics are created only with the configuration that they need"),
    ("queued.min.messages", "the memory of the readers is bounded"),
    ("queued.max.messages.kbytes", "the memory of the readers is bounded"),
    ("fetch.message.max.bytes", "the memory of the readers is bounded"),
    ("max.partition.fetch.bytes", "the memory of the readers is bounded"),
    ("fetch.max.bytes", "the memory of the readers is bounded"),
    ("receive.message.max.bytes", "kafka_receive_bytes sets it"),
    ("enable.sasl.oauthbearer.unsecure.jwt", "kafka_token_command provides the tokens"),
    ("sasl.oauthbearer.method", "kafka_token_command provides the tokens"),
    ("log.queue", "log lines come with the events"),
    ("plugin.library.paths", "the server loads no code that a setting names"),
    ("ssl.engine.location", "the server loads no code that a setting names"),
];

/// How much librdkafka may read ahead, in KiB: for each partition with a tail, and for each reader.
pub const READ_AHEAD_KIB: usize = 4096;

/// How many bytes a consumer asks for at once: of one partition, and of all partitions of a broker. Brokers
/// send more if the first batch is larger.
const FETCH_BYTES: usize = 1 << 20;
const FETCH_BYTES_OF_BROKER: usize = READ_AHEAD_KIB * 1024;

const _: () = assert!(FETCH_BYTES <= FETCH_BYTES_OF_BROKER);

/// The properties of each kind of client. Its `Debug` shows no secret.
#[derive(Clone)]
pub(super) struct Properties {
    pub producer: BTreeMap<String, String>,
    pub tails: BTreeMap<String, String>,
    pub readers: BTreeMap<String, String>,
}

impl fmt::Debug for Properties {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Properties")
            .field("producer", &without_secrets(&self.producer))
            .field("tails", &without_secrets(&self.tails))
            .field("readers", &without_secrets(&self.readers))
            .finish()
    }
}

impl Properties {
    pub(super) fn new(config: &Settings, bounds: &Bounds) -> Self {
        let with = |own: Vec<(&str, String)>| {
            let mut all: BTreeMap<String, String> = config.properties.clone();
            all.insert("bootstrap.servers".into(), config.brokers.clone());
            all.entry("client.id".into()).or_insert_with(|| "millstream".into());
            all.extend(own.into_iter().map(|(key, value)| (key.to_owned(), value)));
            all
        };
        let producer = with(vec![
            ("enable.idempotence", "true".into()),
            ("acks", "all".into()),
            ("linger.ms", (config.linger.as_secs_f64() * 1000.0).to_string()),
            ("batch.size", config.batch_bytes.to_string()),
            // The limit of a batch is its bytes, not its number of messages.
            ("batch.num.messages", "1000000".into()),
            ("compression.type", config.compression.clone()),
            ("delivery.timeout.ms", Millis::from(config.delivery_timeout).to_string()),
            ("message.max.bytes", config.record_bytes(bounds).to_string()),
            ("queue.buffering.max.messages", messages_max(bounds).to_string()),
            // The shard's budget, which is smaller, already limits payloads.
            ("queue.buffering.max.kbytes", i32::MAX.to_string()),
        ]);
        let reading = |own: Vec<(&'static str, String)>| {
            let mut all = vec![
                ("enable.auto.commit", "false".to_owned()),
                ("enable.auto.offset.store", "false".into()),
                ("auto.offset.reset", "earliest".into()),
                ("allow.auto.create.topics", "false".into()),
                ("queued.max.messages.kbytes", READ_AHEAD_KIB.to_string()),
                ("fetch.message.max.bytes", FETCH_BYTES.to_string()),
                ("fetch.max.bytes", FETCH_BYTES_OF_BROKER.to_string()),
                ("receive.message.max.bytes", config.answer_bytes(bounds).to_string()),
                // After its queue was full, librdkafka waits for this time; by default, a second.
                ("fetch.queue.backoff.ms", "10".into()),
            ];
            all.extend(own);
            with(all)
        };
        let tails =
            reading(vec![("enable.partition.eof", "false".into()), ("queued.min.messages", "100000".into())]);
        let readers =
            reading(vec![("enable.partition.eof", "true".into()), ("queued.min.messages", "1000000".into())]);
        Self { producer, tails, readers }
    }
}

/// Returns the most messages that one shard's producer takes. Each costs librdkafka memory in addition to its
/// payload.
fn messages_max(bounds: &Bounds) -> usize {
    (bounds.shard_budget_bytes / (2 * KAFKA_RECORD_BYTES)).clamp(1_000, 10_000_000)
}

/// Refuses properties that librdkafka does not know, or that would break a promise. To find out, creates a
/// client of each kind, without waiting for a connection.
pub fn check(config: &Settings, bounds: &Bounds) -> Result<(), Unworkable> {
    if config.brokers.trim().is_empty() {
        return Err(Unworkable(
            "brokers: the Kafka store needs at least one, like kafka1:9092,kafka2:9092".into(),
        ));
    }
    for key in config.properties.keys() {
        if let Some((_, why)) = REFUSED.iter().find(|(refused, _)| refused == key) {
            return Err(Unworkable(format!("kafka_properties: {key} cannot be set: {why}")));
        }
    }
    let is_oauth = config
        .properties
        .iter()
        .any(|(key, value)| key.starts_with("sasl.mechanism") && value.eq_ignore_ascii_case("OAUTHBEARER"));
    if is_oauth == config.token_command.is_empty() {
        return Err(Unworkable(
            "kafka_token_command, which prints tokens, and sasl.mechanism=OAUTHBEARER of kafka_properties need each other".into(),
        ));
    }
    let properties = Properties::new(config, bounds);
    let wrong = |why: String| Unworkable(format!("kafka_properties: {}", config.without_quotes(why)));
    Handle::producer(&properties.producer).map_err(wrong)?;
    Handle::consumer(&properties.readers).map_err(wrong)?;
    Ok(())
}

/// Returns warnings about protections that the configuration turns off.
pub fn warnings(config: &Settings) -> Vec<String> {
    let lower = |key: &str| config.properties.get(key).map(|value| value.trim().to_ascii_lowercase());
    let mut warnings = Vec::new();
    // The values that librdkafka accepts for false.
    if lower("enable.ssl.certificate.verification")
        .is_some_and(|value| ["false", "f", "0"].contains(&&value[..]))
    {
        warnings.push(
            "kafka_properties: enable.ssl.certificate.verification=false: anyone between this server and the brokers can \
             read and change everything, including passwords and tokens; set ssl.ca.location instead"
                .into(),
        );
    }
    if lower("ssl.endpoint.identification.algorithm").is_some_and(|value| value == "none") {
        warnings.push(
            "kafka_properties: ssl.endpoint.identification.algorithm=none: anyone with a certificate of the same authority \
             can impersonate a broker; give the brokers certificates with their names instead"
                .into(),
        );
    }
    let mechanism = lower("sasl.mechanism").or_else(|| lower("sasl.mechanisms")).unwrap_or_default();
    let is_open = lower("security.protocol").is_some_and(|protocol| protocol == "sasl_plaintext");
    if is_open && ["plain", "oauthbearer"].contains(&&mechanism[..]) {
        warnings.push(format!(
            "kafka_properties: security.protocol=SASL_PLAINTEXT with sasl.mechanism={}: the password or token is sent \
             unencrypted; use SASL_SSL",
            mechanism.to_ascii_uppercase()
        ));
    }
    warnings
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config() -> (Settings, Bounds) {
        let config = Settings { brokers: "127.0.0.1:1".into(), ..Settings::default() };
        (config, Bounds::of_tests())
    }

    #[test]
    fn own_properties_are_accepted_and_those_that_break_a_promise_are_refused() {
        let (mut config, bounds) = config();
        assert_eq!(check(&config, &bounds), Ok(()));
        let mut why = |key: &str, value: &str| {
            config.properties = [(key.to_owned(), value.to_owned())].into();
            check(&config, &bounds).map_err(|error| error.0)
        };
        assert_eq!(why("socket.keepalive.enable", "true"), Ok(()));
        assert!(why("acks", "1").unwrap_err().contains("acks cannot be set"));
        assert!(why("no.such.property", "1").unwrap_err().contains("no.such.property"));
        for mechanism in ["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] {
            assert_eq!(why("sasl.mechanism", mechanism), Ok(()), "{mechanism}");
        }
        assert!(why("sasl.mechanism", "OAUTHBEARER").unwrap_err().contains("kafka_token_command"));
        assert!(why("sasl.pasword", "open sesame").is_err_and(|why| !why.contains("sesame")));
        config.properties = [("security.protocol", "SASL_SSL"), ("sasl.mechanism", "SCRAM-SHA-512")]
            .into_iter()
            .chain([("sasl.username", "me"), ("sasl.password", "secret")])
            .map(|(key, value)| (key.to_owned(), value.to_owned()))
            .collect();
        assert_eq!(check(&config, &bounds), Ok(()));
        config.token_command = "cat token".into();
        assert!(check(&config, &bounds).is_err());
        config.properties.insert("sasl.mechanism".into(), "OAUTHBEARER".into());
        assert_eq!(check(&config, &bounds), Ok(()));
    }

    #[test]
    fn no_property_loads_code_or_removes_a_memory_limit() {
        let (mut config, bounds) = config();
        for (key, value, says) in [
            ("plugin.library.paths", "/tmp/evil", "loads no code"),
            ("ssl.engine.location", "/tmp/evil.so", "loads no code"),
            ("receive.message.max.bytes", "2147483647", "kafka_receive_bytes"),
            ("fetch.max.bytes", "2147483135", "memory"),
        ] {
            config.properties = [(key.to_owned(), value.to_owned())].into();
            let why = check(&config, &bounds).unwrap_err().0;
            assert!(why.contains(says) && !why.contains(value), "{key}: {why}");
        }
        // A batch that this server writes always fits into an answer.
        let bounds = Bounds { max_payload_bytes: 64 << 20, ..bounds };
        let config = Settings { properties: BTreeMap::new(), ..config };
        assert!(config.answer_bytes(&bounds) > config.record_bytes(&bounds));
        let properties = Properties::new(&config, &bounds);
        for consumer in [&properties.tails, &properties.readers] {
            let number = |key: &str| consumer[key].parse::<usize>().unwrap();
            assert_eq!(number("receive.message.max.bytes"), config.answer_bytes(&bounds));
            assert!(number("fetch.max.bytes") + 512 <= number("receive.message.max.bytes"));
        }
        assert_eq!(check(&config, &bounds), Ok(()));
    }

    #[test]
    fn debug_output_of_properties_hides_secrets() {
        let (mut config, bounds) = config();
        config.properties.insert("sasl.password".into(), "open sesame".into());
        let shown = format!("{:?}", Properties::new(&config, &bounds));
        assert!(shown.contains("sasl.password") && !shown.contains("sesame"), "{shown}");
    }

    #[test]
    fn a_protection_that_is_turned_off_is_warned_about() {
        let (mut config, _) = config();
        assert_eq!(warnings(&config), Vec::<String>::new());
        for (properties, says) in [
            ("enable.ssl.certificate.verification=false", "certificate.verification=false"),
            ("enable.ssl.certificate.verification=F", "certificate.verification=false"),
            ("enable.ssl.certificate.verification=0", "certificate.verification=false"),
            ("ssl.endpoint.identification.algorithm=NONE", "algorithm=none"),
            ("security.protocol=sasl_plaintext;sasl.mechanism=PLAIN", "unencrypted"),
            ("security.protocol=SASL_PLAINTEXT;sasl.mechanisms=OAUTHBEARER", "unencrypted"),
        ] {
            let pairs = properties.split(';').filter_map(|pair| pair.split_once('='));
            config.properties = pairs.map(|(key, value)| (key.to_owned(), value.to_owned())).collect();
            let warned = warnings(&config);
            assert!(warned.len() == 1 && warned[0].contains(says), "{properties}: {warned:?}");
        }
        for fine in [
            "enable.ssl.certificate.verification=true;ssl.endpoint.identification.algorithm=https",
            "security.protocol=SASL_SSL;sasl.mechanism=PLAIN",
            "security.protocol=SASL_PLAINTEXT;sasl.mechanism=SCRAM-SHA-512",
        ] {
            let pairs = fine.split(';').filter_map(|pair| pair.split_once('='));
            config.properties = pairs.map(|(key, value)| (key.to_owned(), value.to_owned())).collect();
            assert_eq!(warnings(&config), Vec::<String>::new(), "{fine}");
        }
    }

    #[test]
    fn every_refused_property_is_known_to_librdkafka() {
        for (key, _) in REFUSED {
            let properties = [((*key).to_owned(), "no such value".to_owned())].into();
            if let Err(why) = Handle::consumer(&properties) {
                assert!(!why.contains("No such configuration property"), "{key}: {why}");
            }
        }
    }
}
