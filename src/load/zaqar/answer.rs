//! The few parts of an answer that a load needs, read without building a document.

use std::borrow::Cow;
use std::fmt;
use std::marker::PhantomData;

use serde::de::value::MapAccessDeserializer;
use serde::de::{Error, IgnoredAny, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::Value;

use super::format::Format;
use crate::client::ClientError;

/// The statuses that HTTP defines.
const STATUSES: std::ops::RangeInclusive<u16> = 100..=599;

/// The longest error text of a server that is repeated, in characters.
const ERROR_CHARS_MAX: usize = 200;

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

pub(super) fn is_success(status: u16) -> bool {
    (200..300).contains(&status)
}

/// Returns what the server says about a request that it refused.
pub(super) fn reason(body: &Value) -> String {
    let text = [&body["exception"], &body["error"], body].into_iter().find_map(Value::as_str);
    text.unwrap_or_default().chars().take(ERROR_CHARS_MAX).collect()
}
