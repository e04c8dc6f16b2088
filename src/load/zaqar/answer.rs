//! The few parts of an answer that a load needs, read without building a document.

use std::borrow::Cow;
use std::fmt;
use std::marker::PhantomData;

use serde::de::value::MapAccessDeserializer;
use serde::de::{Error, IgnoredAny, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};

use super::format::Format;
use crate::client::ClientError;
use crate::client::zaqar::is_success;

/// The statuses that HTTP defines.
const STATUSES: std::ops::RangeInclusive<u16> = 100..=599;

/// A value that must be a map. Types that derive `Deserialize` also accept arrays.
struct Map<T>(T);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Map<T> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct OnlyMap<T>(PhantomData<T>);
        impl<'de, T: Deserialize<'de>> Visitor<'de> for OnlyMap<T> {
            type Value = T;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a map")
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<T, A::Error> {
                T::deserialize(MapAccessDeserializer::new(map))
            }
        }
        from.deserialize_map(OnlyMap(PhantomData)).map(Map)
    }
}

#[derive(Deserialize)]
struct Headers {
    status: Status,
}

struct Status(u16);

impl<'de> Deserialize<'de> for Status {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        match u16::deserialize(from)? {
            status if STATUSES.contains(&status) => Ok(Self(status)),
            status => Err(D::Error::custom(format!("{status} is no status"))),
        }
    }
}

/// Returns the status of an answer. The error says what is wrong with it.
pub(super) fn status(format: Format, bytes: &[u8]) -> Result<u16, ClientError> {
    #[derive(Deserialize)]
    struct Answer {
        headers: Map<Headers>,
    }
    read::<Answer>(format, bytes).map(|answer| answer.headers.0.status.0)
}

/// The answer to a claim or a post.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Messages {
    pub status: u16,
    /// The ids of the messages.
    pub ids: Vec<String>,
}

/// Reads the answer to a claim.
pub(super) fn claimed(format: Format, bytes: &[u8]) -> Result<Messages, ClientError> {
    #[derive(Deserialize)]
    struct Message {
        id: String,
    }
    #[derive(Deserialize)]
    struct Claim {
        messages: Option<Vec<Map<Message>>>,
    }
    messages(format, bytes, |claim: Claim| {
        claim.messages.unwrap_or_default().into_iter().map(|message| message.0.id).collect()
    })
}

/// Reads the answer to a post.
pub(super) fn posted(format: Format, bytes: &[u8]) -> Result<Messages, ClientError> {
    #[derive(Deserialize)]
    struct Post {
        message_ids: Vec<String>,
    }
    messages(format, bytes, |post: Post| post.message_ids)
}

fn messages<'a, T: Deserialize<'a>>(
    format: Format,
    bytes: &'a [u8],
    ids: impl FnOnce(T) -> Vec<String>,
) -> Result<Messages, ClientError> {
    #[derive(Deserialize)]
    struct Answer<T> {
        headers: Map<Headers>,
        body: Map<T>,
    }
    match read::<Answer<T>>(format, bytes) {
        Ok(Answer { headers, body }) => Ok(Messages { status: headers.0.status.0, ids: ids(body.0) }),
        // An answer that refuses has another body.
        Err(error) => match status(format, bytes)? {
            status if is_success(status) => Err(error),
            status => Ok(Messages { status, ids: Vec::new() }),
        },
    }
}

/// Calls `each` with the body of a notification, which is empty if it is no text.
pub(super) fn notification(format: Format, bytes: &[u8], each: impl FnOnce(&str)) -> Result<(), ClientError> {
    #[derive(Deserialize)]
    struct Notification<'a, T> {
        #[serde(rename = "Message_Type", borrow)]
        kind: Cow<'a, str>,
        body: T,
    }
    #[derive(Deserialize)]
    struct Text<'a>(#[serde(borrow)] Cow<'a, str>);
    let kind = match read::<Notification<'_, Text<'_>>>(format, bytes) {
        Ok(Notification { kind, body }) => {
            each(&body.0);
            kind
        }
        Err(_) => {
            let kind = read::<Notification<'_, IgnoredAny>>(format, bytes)?.kind;
            each("");
            kind
        }
    };
    if kind == "Notification" {
        return Ok(());
    }
    Err(ClientError::Broken(format!("a message of the type {kind:?}, not a notification")))
}

/// Reads the parts of an answer, which must be a map.
fn read<'a, T: Deserialize<'a>>(format: Format, bytes: &'a [u8]) -> Result<T, ClientError> {
    let broken = |why| ClientError::Broken(format!("an answer that cannot be read: {why}"));
    format.read::<Map<T>>(bytes).map(|map| map.0).map_err(broken)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::collection::{btree_map, vec};
    use proptest::prelude::*;
    use serde_json::{Value, json};

    const FORMATS: [Format; 2] = [Format::Json, Format::MsgPack];

    fn any_value() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            any::<f32>()
                .prop_filter("JSON has no others", |number| number.is_finite())
                .prop_map(|n| json!(n)),
            any_text().prop_map(Value::from),
        ];
        leaf.prop_recursive(4, 40, 6, |inner| {
            prop_oneof![
                vec(inner.clone(), 0..6).prop_map(Value::from),
                btree_map(any_text(), inner, 0..6).prop_map(|map| Value::Object(map.into_iter().collect())),
            ]
        })
    }

    /// Texts that look like the end of something, or like what is searched.
    fn any_text() -> impl Strategy<Value = String> {
        prop_oneof![
            any::<String>(),
            Just("status".to_owned()),
            Just("headers".to_owned()),
            Just("\"headers\":{\"status\":500}}".to_owned()),
            Just("\\\"}]".to_owned()),
        ]
    }

    /// Encodes a map whose members are in this order.
    fn encode(format: Format, members: &[(String, Value)]) -> Vec<u8> {
        let mut out = match format {
            Format::Json => b"{".to_vec(),
            Format::MsgPack => vec![0xde, (members.len() >> 8) as u8, members.len() as u8],
        };
        for (number, (name, value)) in members.iter().enumerate() {
            if format == Format::Json && number > 0 {
                out.push(b',');
            }
            format.write(&mut out, name).unwrap();
            if format == Format::Json {
                out.push(b':');
            }
            format.write(&mut out, value).unwrap();
        }
        if format == Format::Json {
            out.push(b'}');
        }
        out
    }

    /// An answer with a status among any other content, and what it holds.
    fn any_answer() -> impl Strategy<Value = (u16, Vec<(String, Value)>)> {
        let headers = (STATUSES, btree_map(any_text(), any_value(), 0..4));
        (headers, vec((any_text(), any_value()), 0..5), any::<usize>()).prop_map(
            |((status, others), mut members, at)| {
                members.retain(|(name, _)| name != "headers");
                let mut headers: serde_json::Map<_, _> = others.into_iter().collect();
                headers.insert("status".into(), json!(status));
                members.insert(at % (members.len() + 1), ("headers".into(), Value::Object(headers)));
                (status, members)
            },
        )
    }

    proptest! {
        #[test]
        fn the_status_is_found_in_any_answer((expected, members) in any_answer(), cut in any::<usize>()) {
            for format in FORMATS {
                let bytes = encode(format, &members);
                prop_assert_eq!(status(format, &bytes).unwrap(), expected);
                let cut = &bytes[..cut % bytes.len()];
                prop_assert!(status(format, cut).is_err(), "a part of an answer is none");
                let more = [&bytes[..], b"\xc0"].concat();
                prop_assert!(status(format, &more).is_err(), "what follows an answer is an error");
            }
        }

        #[test]
        fn any_bytes_end_in_an_answer_or_an_error(
            (_, members) in any_answer(),
            changes in vec((any::<usize>(), any::<u8>()), 1..4),
            noise in vec(any::<u8>(), 0..200),
        ) {
            for format in FORMATS {
                let mut bytes = encode(format, &members);
                for (at, byte) in &changes {
                    let at = at % bytes.len();
                    bytes[at] = *byte;
                }
                for bytes in [&bytes[..], &noise[..]] {
                    for read in [status(format, bytes).ok(), claimed(format, bytes).ok().map(|one| one.status)] {
                        prop_assert!(read.is_none_or(|status| STATUSES.contains(&status)));
                    }
                    let _ = (posted(format, bytes), notification(format, bytes, |_| ()));
                }
            }
        }
    }

    #[test]
    fn what_is_no_status_is_an_error() {
        for wrong in [
            json!({"headers": {"status": "201"}}),
            json!({"headers": {"status": 201.0}}),
            json!({"headers": {"status": true}}),
            json!({"headers": {"status": null}}),
            json!({"headers": {"status": -201}}),
            json!({"headers": {"status": 99}}),
            json!({"headers": {"status": 600}}),
            json!({"headers": {"status": 65_737}}),
            json!({"headers": {"status": [201]}}),
            json!({"headers": [201]}),
            json!({"headers": [{"status": 201}]}),
            json!({"headers": {}}),
            json!({"headers": null}),
            json!({"request": {"headers": {"status": 201}}}),
            json!({"status": 201}),
            json!([{"status": 201}]),
            json!([[201]]),
            json!(201),
            json!("headers"),
            json!(null),
        ] {
            for format in FORMATS {
                let mut bytes = Vec::new();
                format.write(&mut bytes, &wrong).unwrap();
                assert!(status(format, &bytes).is_err(), "{format:?} {wrong}");
            }
        }
        assert!(status(Format::Json, br#"{"headers":{"status":201},"headers":{"status":500}}"#).is_err());
        assert!(status(Format::Json, b"").is_err() && status(Format::MsgPack, b"").is_err());
    }

    #[test]
    fn deep_nesting_ends_in_an_error() {
        let json = [br#"{"headers":{"status":201},"body":"#, &b"[".repeat(1 << 20)[..]].concat();
        assert!(status(Format::Json, &json).is_err());
        let packed = [&b"\x81\xa4body"[..], &b"\x91".repeat(1 << 20)[..]].concat();
        assert!(status(Format::MsgPack, &packed).is_err());
    }

    #[test]
    fn ids_are_read_and_a_refusal_has_none() {
        let write = |format: Format, value: &Value| {
            let mut bytes = Vec::new();
            format.write(&mut bytes, value).unwrap();
            bytes
        };
        let found =
            |status, ids: &[&str]| Messages { status, ids: ids.iter().map(|id| (*id).into()).collect() };
        let answer =
            |status: u16, body: Value| json!({"request": {}, "body": body, "headers": {"status": status}});
        for format in FORMATS {
            let messages = json!([{"id": "a", "body": {"id": "x"}, "age": 1}, {"ttl": 5, "id": "\"b"}]);
            let claim = write(format, &answer(201, json!({"claim_id": "c", "messages": messages})));
            assert_eq!(claimed(format, &claim).unwrap(), found(201, &["a", "\"b"]));
            let nothing = write(format, &answer(204, json!({"claim_id": null})));
            assert_eq!(claimed(format, &nothing).unwrap(), found(204, &[]));
            let post = write(format, &answer(201, json!({"message_ids": ["1", "2"]})));
            assert_eq!(posted(format, &post).unwrap(), found(201, &["1", "2"]));
            for body in [json!("a text"), json!({"error": "why", "exception": "what"}), json!(null)] {
                let refusal = write(format, &answer(403, body.clone()));
                assert_eq!(claimed(format, &refusal).unwrap(), found(403, &[]), "{body}");
                assert_eq!(posted(format, &refusal).unwrap(), found(403, &[]), "{body}");
                let strange = write(format, &answer(201, body));
                assert!(posted(format, &strange).is_err(), "a post that succeeds has ids");
            }
        }
    }

    #[test]
    fn notifications_are_told_from_answers() {
        for format in FORMATS {
            let text = |value: &Value| {
                let mut bytes = Vec::new();
                format.write(&mut bytes, value).unwrap();
                let mut seen = None;
                notification(format, &bytes, |body| seen = Some(body.to_owned())).ok()?;
                seen
            };
            let of = |body: Value| json!({"body": body, "ttl": 60, "queue_name": "q", "Message_Type": "Notification"});
            assert_eq!(text(&of(json!("a\"\u{e9}"))).as_deref(), Some("a\"\u{e9}"));
            assert_eq!(text(&of(json!({"a": 1}))).as_deref(), Some(""), "no text");
            assert_eq!(text(&json!({"body": "a", "Message_Type": "Other"})), None);
            assert_eq!(text(&json!({"body": "a", "headers": {"status": 201}})), None, "an answer");
        }
    }
}
