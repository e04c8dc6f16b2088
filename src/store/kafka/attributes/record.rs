//! A queue's record in the attributes topic. Its key is the name of the queue's topic, its value this JSON:
//! `{"version":1,"topic_id":"<32 hexadecimal digits>","attributes":{…}}`. A null deletes it.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::abilities::refused;
use crate::base::attributes::{ATTRIBUTES_BYTES_MAX, Attributes};

/// The version of the format.
const VERSION: u32 = 1;

/// The most bytes of a value: attributes, and what is around them.
pub const VALUE_BYTES_MAX: usize = ATTRIBUTES_BYTES_MAX + 1024;

/// The attributes of a queue, and the topic that it had when they were set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Kafka's id of the topic: another topic of the same name is another queue. 0 if the brokers give topics no ids.
    pub topic_id: u128,
    pub attributes: Attributes,
}

#[derive(Debug, Deserialize, Serialize)]
struct Text {
    version: u32,
    topic_id: String,
    attributes: Map<String, Value>,
}

impl Record {
    /// Returns the value of the record.
    pub fn encode(&self) -> Vec<u8> {
        let text = Text {
            version: VERSION,
            topic_id: format!("{:032x}", self.topic_id),
            attributes: self.attributes.as_map().clone(),
        };
        // Text in a map always has a form in JSON.
        serde_json::to_vec(&text).unwrap_or_default()
    }

    /// Reads the value of a record. The error says what is wrong with it.
    pub fn decode(value: &[u8]) -> Result<Self, String> {
        if value.len() > VALUE_BYTES_MAX {
            return Err(format!("its {} bytes are more than {VALUE_BYTES_MAX}", value.len()));
        }
        let text: Text = serde_json::from_slice(value).map_err(|error| error.to_string())?;
        if text.version != VERSION {
            return Err(format!("its version is {}, not {VERSION}", text.version));
        }
        let is_id = text.topic_id.len() == 32 && text.topic_id.bytes().all(|digit| digit.is_ascii_hexdigit());
        let topic_id = u128::from_str_radix(&text.topic_id, 16).ok().filter(|_| is_id);
        let topic_id = topic_id.ok_or_else(|| format!("{:?} is not the id of a topic", text.topic_id))?;
        let attributes = Value::Object(text.attributes).to_string();
        let attributes =
            Attributes::parse_stored(attributes.as_bytes()).ok_or("its attributes are no object")?;
        match refused(&attributes) {
            Some(why) => Err(why.to_owned()),
            None => Ok(Self { topic_id, attributes }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_read_as_it_was_written() {
        let attributes = Attributes::parse_stored(br#"{"_default_message_ttl":60,"a":[1.5,null]}"#).unwrap();
        for topic_id in [0, 0xab, u128::MAX] {
            let record = Record { topic_id, attributes: attributes.clone() };
            assert_eq!(Record::decode(&record.encode()), Ok(record));
        }
    }

    #[test]
    fn what_is_no_record_is_refused_with_its_reason() {
        let id = "0".repeat(32);
        let long = "x".repeat(VALUE_BYTES_MAX);
        for (value, words) in [
            (String::new(), "EOF"),
            ("[]".to_owned(), "expected"),
            (format!(r#"{{"version":1,"topic_id":"{id}"}}"#), "attributes"),
            (format!(r#"{{"version":2,"topic_id":"{id}","attributes":{{}}}}"#), "version is 2"),
            (format!(r#"{{"version":1,"topic_id":"+{}","attributes":{{}}}}"#, &id[1..]), "id of a topic"),
            (format!(r#"{{"version":1,"topic_id":"{id}","attributes":[]}}"#), "expected a map"),
            (format!(r#"{{"version":1,"topic_id":"{id}","attributes":{{"_max_bytes":1}}}}"#), "_max_bytes"),
            (format!(r#"{{"version":1,"topic_id":"{id}","attributes":{{"a":"{long}"}}}}"#), "more than"),
        ] {
            let why = Record::decode(value.as_bytes()).unwrap_err();
            assert!(why.contains(words), "{why}");
        }
    }
}
