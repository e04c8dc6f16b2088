//! Settings that hold secrets, and how they are shown. `--check-config`, `Debug` and everything else that
//! shows a setting uses this.
//!
//! The name of a librdkafka property tells whether it is secret. Of TLS and SASL, only properties that are
//! known to be harmless are shown. So the value of a new or misspelt property stays hidden.

use std::collections::BTreeMap;
use std::fmt;

use super::Settings;

/// The text that replaces a secret.
pub const HIDDEN: &str = "***";

/// Words in the name of a property whose value is a secret, or may contain one (a command or a URL with a
/// password).
const SECRET_WORDS: [&str; 8] =
    ["pass", "secret", "token", "credential", "key.pem", "oauthbearer.config", ".cmd", "jaas"];

/// The prefixes of TLS's and SASL's properties.
const GUARDED: [&str; 3] = ["ssl", "sasl", "https"];

/// The properties of TLS and SASL that are shown.
const HARMLESS: [&str; 25] = [
    "https.ca.location",
    "https.ca.pem",
    "sasl.kerberos.keytab",
    "sasl.kerberos.min.time.before.relogin",
    "sasl.kerberos.principal",
    "sasl.kerberos.service.name",
    "sasl.mechanism",
    "sasl.mechanisms",
    "sasl.oauthbearer.client.id",
    "sasl.oauthbearer.grant.type",
    "sasl.oauthbearer.method",
    "sasl.oauthbearer.scope",
    "sasl.username",
    "ssl.ca.location",
    "ssl.ca.pem",
    "ssl.certificate.location",
    "ssl.certificate.pem",
    "ssl.cipher.suites",
    "ssl.crl.location",
    "ssl.curves.list",
    "ssl.endpoint.identification.algorithm",
    "ssl.key.location",
    "ssl.keystore.location",
    "ssl.providers",
    "ssl.sigalgs.list",
];

/// The length of the shortest secret that is looked for in texts. A shorter one would be found everywhere.
const QUOTED_CHARS_MIN: usize = 4;

/// Returns whether the value of a librdkafka property is hidden.
pub fn is_secret(property: &str) -> bool {
    let name = property.to_ascii_lowercase();
    SECRET_WORDS.iter().any(|word| name.contains(word))
        || (GUARDED.iter().any(|guarded| name.starts_with(guarded)) && !HARMLESS.contains(&&name[..]))
}

/// Returns properties of librdkafka with their secrets hidden.
pub fn without_secrets(properties: &BTreeMap<String, String>) -> BTreeMap<String, String> {
    let shown = |(key, value): (&String, &String)| {
        let value = if is_secret(key) { HIDDEN } else { &value[..] };
        (key.clone(), value.to_owned())
    };
    properties.iter().map(shown).collect()
}

impl Settings {
    /// Returns the settings with their secrets hidden.
    pub fn without_secrets(&self) -> Self {
        let token_command = if self.token_command.is_empty() { "" } else { HIDDEN };
        Self {
            token_command: token_command.to_owned(),
            properties: without_secrets(&self.properties),
            ..self.clone()
        }
    }

    /// Hides the secrets that a foreign text quotes, such as librdkafka's reason for refusing a property.
    pub fn without_quotes(&self, text: String) -> String {
        let is_looked_for = |key: &str, value: &str| is_secret(key) && value.len() >= QUOTED_CHARS_MIN;
        let secrets = self.properties.iter().filter(|(key, value)| is_looked_for(key, value));
        secrets.fold(text, |text, (_, secret)| text.replace(&secret[..], HIDDEN))
    }
}

/// Shows every field, with secrets hidden.
impl fmt::Debug for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = self.without_secrets();
        // The fields are named one by one: a new field does not compile until its author has decided whether
        // it is a secret.
        let Self {
            brokers,
            topic_prefix,
            attributes_topic,
            packed,
            replication,
            strict_topics,
            linger,
            batch_bytes,
            compression,
            delivery_timeout,
            tail_bytes,
            catch_up_readers,
            receive_bytes,
            token_command,
            properties,
        } = &shown;
        f.debug_struct("Settings")
            .field("brokers", brokers)
            .field("topic_prefix", topic_prefix)
            .field("attributes_topic", attributes_topic)
            .field("packed", packed)
            .field("replication", replication)
            .field("strict_topics", strict_topics)
            .field("linger", linger)
            .field("batch_bytes", batch_bytes)
            .field("compression", compression)
            .field("delivery_timeout", delivery_timeout)
            .field("tail_bytes", tail_bytes)
            .field("catch_up_readers", catch_up_readers)
            .field("receive_bytes", receive_bytes)
            .field("token_command", token_command)
            .field("properties", properties)
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_recognized_by_their_names() {
        // Properties that librdkafka marks as sensitive, without paths and names, and their aliases.
        for secret in [
            "sasl.password",
            "ssl.key.password",
            "ssl.key.pem",
            "ssl.keystore.password",
            "sasl.oauthbearer.config",
            "sasl.oauthbearer.client.secret",
            "sasl.oauthbearer.client.credentials.client.secret",
            "sasl.oauthbearer.assertion.private.key.passphrase",
            "sasl.oauthbearer.assertion.private.key.pem",
            "sasl.oauthbearer.token.endpoint.url",
            "sasl.oauthbearer.extensions",
            "sasl.kerberos.kinit.cmd",
            // Misspelt, or not known to librdkafka.
            "sasl.pasword",
            "SASL.PASSWORD",
            "sasl.jaas.config",
            "ssl.truststore.password",
        ] {
            assert!(is_secret(secret), "{secret}");
        }
        for open in ["sasl.mechanism", "sasl.username", "security.protocol", "ssl.ca.location", "client.id"] {
            assert!(!is_secret(open), "{open}");
        }
        assert!(HARMLESS.iter().all(|name| !is_secret(name)), "each harmless property is shown");
    }

    #[test]
    fn nothing_that_shows_a_configuration_shows_a_secret() {
        let token_command = "curl -d client_secret=sesame".into();
        let mut config = Settings { token_command, ..Settings::default() };
        for key in ["sasl.password", "ssl.key.pem", "sasl.oauthbearer.client.secret"] {
            config.properties.insert(key.into(), "open sesame".into());
        }
        config.properties.insert("client.id".into(), "me".into());
        let shown = format!("{config:?} {:?}", config.without_secrets());
        assert!(!shown.contains("sesame") && !shown.contains("curl"), "{shown}");
        assert!(shown.contains("sasl.password") && shown.contains("me"), "{shown}");
        let quoted = config.without_quotes("invalid value \"open sesame\" of client.id = me".into());
        assert_eq!(quoted, "invalid value \"***\" of client.id = me");
    }
}
