//! Single messages: finds them by their ids, deletes them, and pops the oldest.

use axum::Json;
use axum::extract::{Path, Query, RawQuery, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};

use tokio::task::JoinSet;

use super::Control;
use super::home::permit;
use super::queue::{find as find_queue, manage};
use super::queues::name_of;
use super::refused::Refused;
use crate::base::batch::StoredBatch;
use crate::base::claim::Granted;
use crate::base::manage::{Found, Manage, Managed, Only, Removed};
use crate::base::millis::UnixMillis;
use crate::base::queue::{message_id, parse_message_id};
use crate::base::units::{Offset, Partition};
use crate::base::wish::Described;
use crate::pb::headers::{HeaderRef, HeadersReader};
use crate::process::unix_now;

/// The most ids in a request.
pub const IDS_MAX: usize = 100;

/// The most messages that a request pops.
pub const POP_MAX: u32 = 1_000;

/// The size in bytes at which a pop adds no further message: of payloads, keys and headers.
pub const POP_BYTES_MAX: usize = 1 << 20;

/// The size in bytes at which an answer to [`find`] has no further message. The client asks again for the others.
const FOUND_BYTES_MAX: usize = 4 << 20;

/// A message, as JSON.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub struct MessageLine {
    /// The id.
    pub id: String,
    /// The age, in seconds.
    pub age: u32,
    /// The time to live, in seconds.
    pub ttl: u32,
    /// When it was stored, in Unix milliseconds. Absent where the Zaqar API was asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timestamp: Option<i64>,
    /// How long claims will not see it yet, in seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub delay: Option<u32>,
    /// How often it was given out. Absent if never.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub count: Option<u32>,
    /// Whether it is claimed.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub is_claimed: bool,
    /// The key, in base64. Absent if it has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// The headers.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub headers: Vec<HeaderLine>,
    /// The payload, in base64.
    pub payload: String,
}

/// A header of a message, as JSON. A null has neither value.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub struct HeaderLine {
    /// The name.
    pub name: String,
    /// The value, if it is UTF-8.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value: Option<String>,
    /// The value in base64, if it is not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value_base64: Option<String>,
}

impl HeaderLine {
    /// Returns the headers of a message, up to the first that cannot be decoded.
    pub fn all(headers: &[u8]) -> Vec<Self> {
        let line = |HeaderRef { name, value }: HeaderRef<'_>| {
            let text = value.map(str::from_utf8);
            let value_base64 =
                value.filter(|_| matches!(text, Some(Err(_)))).map(|value| STANDARD.encode(value));
            let value = text.and_then(Result::ok).map(str::to_owned);
            Self { name: name.to_owned(), value, value_base64 }
        };
        HeadersReader::new(headers).map_while(Result::ok).map(line).collect()
    }
}

impl MessageLine {
    /// Returns about how many bytes it takes as JSON.
    pub fn bytes(&self) -> usize {
        let of_headers = |header: &HeaderLine| {
            let values = [&header.value, &header.value_base64].into_iter().flatten();
            header.name.len() + values.map(String::len).sum::<usize>() + LINE_BYTES
        };
        let headers: usize = self.headers.iter().map(of_headers).sum();
        self.payload.len() + self.key.as_ref().map_or(0, String::len) + headers + LINE_BYTES
    }

    /// Creates the line of a message that was found.
    pub fn found(partition: Partition, found: &Found, unix: UnixMillis) -> Option<Self> {
        let line = Self::new(partition, &found.stored, found.offset, found.record, unix)?;
        let count = Some(found.count).filter(|count| *count > 0);
        Some(Self { count, is_claimed: found.claim.is_some(), ..line })
    }

    /// Creates the lines of messages that were popped.
    pub fn popped(partition: Partition, run: &Granted, unix: UnixMillis) -> Vec<Self> {
        let mut record = run.record;
        let offsets = run.offsets.start.following(run.offsets.end.since(run.offsets.start));
        let line = |offset| {
            let line = Self::new(partition, &run.stored, offset, record, unix)?;
            (record, _) = run.stored.batch.record_at(record)?;
            Some(line)
        };
        offsets.map_while(line).collect()
    }

    fn new(
        partition: Partition,
        stored: &StoredBatch,
        offset: Offset,
        record: usize,
        unix: UnixMillis,
    ) -> Option<Self> {
        let (_, message) = stored.batch.record_at(record)?;
        let key = Some(message.key).filter(|key| !key.is_empty());
        Some(Self {
            id: message_id(partition, offset),
            age: stored.age_secs(unix),
            ttl: stored.batch.ttl_secs(),
            timestamp: Some(i64::try_from(stored.timestamp.get()).unwrap_or(i64::MAX)),
            delay: stored.delay_left_secs(unix),
            count: None,
            is_claimed: false,
            key: key.map(|key| STANDARD.encode(key)),
            headers: HeaderLine::all(message.headers),
            payload: STANDARD.encode(message.payload),
        })
    }
}

/// What became of a message that was to be deleted, as JSON.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub struct RemovedLine {
    /// The id of the message.
    pub id: String,
    /// Whether it is deleted now.
    pub is_deleted: bool,
    /// Why not; absent if it is deleted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
}

impl RemovedLine {
    /// Creates the line of a message.
    pub fn new(partition: Partition, offset: Offset, removed: Removed) -> Self {
        let why = match removed {
            Removed::Yes => None,
            Removed::Absent => Some("there is no such message"),
            Removed::Claimed => Some("it is claimed"),
            Removed::Unclaimed => Some("it is not claimed"),
        };
        let id = message_id(partition, offset);
        Self { id, is_deleted: why.is_none(), why: why.map(str::to_owned) }
    }
}

/// Messages of a queue, by partition, each once and ascending.
pub type ByPartition = Vec<(Partition, Vec<Offset>)>;

/// Groups the ids of messages by partition. The error names the id that is malformed.
pub fn by_partition<'a>(ids: impl IntoIterator<Item = &'a str>) -> Result<ByPartition, String> {
    let mut all = Vec::new();
    for id in ids {
        all.push(parse_message_id(id).ok_or_else(|| {
            format!("id: {id:?} is not the id of a message, such as 0.1f: partition and offset, in lower-case hexadecimal")
        })?);
    }
    all.sort_unstable();
    all.dedup();
    let each = all.chunk_by(|one, other| one.0 == other.0);
    Ok(each.map(|of| (of[0].0, of.iter().map(|(_, offset)| *offset).collect())).collect())
}

/// About what the names of a line take as JSON, in bytes.
const LINE_BYTES: usize = 64;

/// The messages that a request is for.
#[derive(Debug)]
struct Named {
    messages: ByPartition,
    /// Whether those that are claimed are spared.
    is_unclaimed: bool,
}

impl Named {
    /// Reads a query: `id=ID` for each message, and `unclaimed=true` if those that are claimed are spared. The error is
    /// the response.
    fn read(query: Option<&str>) -> Result<Self, Refused> {
        let bad = |why: String| Refused::with((StatusCode::BAD_REQUEST, format!("{why}\n")));
        let (mut ids, mut is_unclaimed) = (Vec::new(), false);
        for (name, value) in form_urlencoded::parse(query.unwrap_or_default().as_bytes()) {
            match (&*name, &*value) {
                ("id", _) => ids.push(value),
                ("unclaimed", "true") => is_unclaimed = true,
                ("unclaimed", "false") => is_unclaimed = false,
                ("unclaimed", _) => return Err(bad("unclaimed: true or false".to_owned())),
                _ => {
                    return Err(bad(format!(
                        "{name}: unknown parameter; the ids of messages are id=ID&id=ID"
                    )));
                }
            }
        }
        let messages = match ids.len() {
            0 => Err("id: absent".to_owned()),
            1..=IDS_MAX => by_partition(ids.iter().map(|id| &**id)),
            count => Err(format!("id: {count} are more than {IDS_MAX}")),
        };
        Ok(Self { messages: messages.map_err(bad)?, is_unclaimed })
    }
}

pub(super) async fn find(
    State(Control { probe, looks, .. }): State<Control>,
    Path((project, queue)): Path<(String, String)>,
    RawQuery(query): RawQuery,
) -> Result<Response, Refused> {
    let name = name_of(&project, &queue)?;
    let Named { messages, .. } = Named::read(query.as_deref())?;
    let _look = permit(looks).await?;
    let Described { info, .. } = find_queue(&probe, &name).await?;
    let (mut lines, mut bytes) = (Vec::new(), 0);
    for (partition, offsets) in messages.into_iter().filter(|(partition, _)| partition.0 < info.partitions) {
        if bytes >= FOUND_BYTES_MAX {
            break;
        }
        if let Managed::Found(found) = manage(&probe, &info, partition, Manage::Find(offsets)).await? {
            for line in found.iter().filter_map(|found| MessageLine::found(partition, found, unix_now())) {
                if bytes < FOUND_BYTES_MAX {
                    bytes += line.bytes();
                    lines.push(line);
                }
            }
        }
    }
    Ok(Json(lines).into_response())
}

pub(super) async fn remove(
    State(Control { probe, looks, .. }): State<Control>,
    Path((project, queue)): Path<(String, String)>,
    RawQuery(query): RawQuery,
) -> Result<Response, Refused> {
    let name = name_of(&project, &queue)?;
    let Named { messages, is_unclaimed } = Named::read(query.as_deref())?;
    let only = if is_unclaimed { Only::Unclaimed } else { Only::All };
    let _look = permit(looks).await?;
    let Described { info, .. } = find_queue(&probe, &name).await?;
    // All partitions at once, so that their deletions share a sync.
    let mut each = JoinSet::new();
    for (partition, offsets) in messages {
        let (probe, info) = (probe.clone(), info.clone());
        each.spawn(async move {
            let what = Manage::Remove { offsets: offsets.clone(), only };
            let removed = match partition.0 < info.partitions {
                true => manage(&probe, &info, partition, what).await,
                false => Ok(Managed::Removed(vec![Removed::Absent; offsets.len()])),
            };
            (partition, offsets, removed)
        });
    }
    let (mut lines, mut refused) = (Vec::new(), None);
    while let Some(joined) = each.join_next().await {
        let Ok((partition, offsets, removed)) = joined else { continue };
        match removed {
            Ok(Managed::Removed(removed)) => {
                let each = offsets.into_iter().zip(removed);
                lines.extend(each.map(|(offset, removed)| RemovedLine::new(partition, offset, removed)));
            }
            Ok(_) => {}
            Err(one) => refused = Some(one),
        }
    }
    // What was deleted is told, also if a partition has failed: its messages are missing in the answer.
    if let Some(refused) = refused.filter(|_| lines.is_empty()) {
        return Err(refused);
    }
    lines.sort_by(|one, other| one.id.cmp(&other.id));
    let messages = lines.iter().filter(|line| line.is_deleted).count();
    tracing::info!(project, queue, messages, "deleted messages");
    Ok(Json(lines).into_response())
}

/// How many messages to pop.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Count {
    count: Option<u32>,
}

/// Returns the partitions that hold messages, by their answers to [`Manage::Stats`]. The one with the oldest message comes
/// first.
pub fn oldest_first(counted: Vec<(Partition, Managed)>) -> Vec<Partition> {
    let oldest = |(partition, managed)| match managed {
        Managed::Stats(stats) => stats.oldest.map(|oldest| (oldest.timestamp, partition)),
        // A store that cannot say it refuses to pop, too.
        _ => Some((UnixMillis::ZERO, partition)),
    };
    let mut all: Vec<_> = counted.into_iter().filter_map(oldest).collect();
    all.sort_unstable();
    all.into_iter().map(|(_, partition)| partition).collect()
}

pub(super) async fn pop(
    State(Control { probe, looks, .. }): State<Control>,
    Path((project, queue)): Path<(String, String)>,
    Query(Count { count }): Query<Count>,
) -> Result<Response, Refused> {
    let name = name_of(&project, &queue)?;
    let mut left = count.unwrap_or(1);
    if !(1..=POP_MAX).contains(&left) {
        let why = format!("count: {left} is not within 1 to {POP_MAX}\n");
        return Err(Refused::with((StatusCode::BAD_REQUEST, why)));
    }
    let _look = permit(looks).await?;
    let Described { info, .. } = find_queue(&probe, &name).await?;
    let (mut lines, mut bytes_max) = (Vec::new(), POP_BYTES_MAX);
    let mut counted = Vec::new();
    for partition in info.all() {
        counted.push((partition, manage(&probe, &info, partition, Manage::Stats).await?));
    }
    for partition in oldest_first(counted) {
        if left == 0 || bytes_max == 0 {
            break;
        }
        let popped =
            match manage(&probe, &info, partition, Manage::Pop { messages_max: left, bytes_max }).await {
                Ok(Managed::Popped(popped)) => popped,
                // What was popped before must reach the client.
                Err(refusal) if lines.is_empty() => return Err(refusal),
                Ok(_) | Err(_) => break,
            };
        for line in popped.iter().flat_map(|run| MessageLine::popped(partition, run, unix_now())) {
            left = left.saturating_sub(1);
            bytes_max = bytes_max.saturating_sub(line.bytes());
            lines.push(line);
        }
    }
    if !lines.is_empty() {
        tracing::info!(project, queue, messages = lines.len(), "popped messages");
    }
    Ok(Json(lines).into_response())
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    #[test]
    fn a_header_is_text_or_base64_or_null() {
        let header = |name: &str, value: Option<&[u8]>| crate::pb::Header {
            name: Some(name.to_owned()),
            value: value.map(Bytes::copy_from_slice),
        };
        let headers = [header("a", Some(b"b")), header("c", Some(&[0xff])), header("d", None)];
        let bytes = prost::Message::encode_to_vec(&crate::pb::Headers { headers: headers.to_vec() });
        let line = |name: &str, value: Option<&str>, value_base64: Option<&str>| HeaderLine {
            name: name.to_owned(),
            value: value.map(str::to_owned),
            value_base64: value_base64.map(str::to_owned),
        };
        let lines = [line("a", Some("b"), None), line("c", None, Some("/w==")), line("d", None, None)];
        assert_eq!(HeaderLine::all(&bytes), lines);
        assert_eq!(HeaderLine::all(&bytes[..bytes.len() - 1]), lines[..2]);
    }

    #[test]
    fn ids_are_grouped_by_partition_and_asked_for_once() {
        let grouped = by_partition(["1.a", "0.2", "1.3", "1.a"]).unwrap();
        let offsets = |of: &[u64]| of.iter().map(|offset| Offset(*offset)).collect::<Vec<_>>();
        assert_eq!(grouped, [(Partition(0), offsets(&[2])), (Partition(1), offsets(&[3, 10]))]);
        assert!(by_partition(["1.a", "x"]).unwrap_err().contains("\"x\" is not the id"));
    }

    #[test]
    fn a_query_has_ids_and_nothing_else() {
        let many = vec!["id=0.1"; IDS_MAX + 1].join("&");
        for (query, words) in [
            ("", "absent"),
            ("id=0.1&x=2", "x: unknown"),
            (&many, "more than 100"),
            ("id=%00", "not the id"),
            ("id=0.1&unclaimed=1", "true or false"),
        ] {
            assert_eq!(Named::read(Some(query)).unwrap_err().into_response().status(), 400, "{words}");
        }
        let named = Named::read(Some(&format!("{}&unclaimed=true", &many[7..]))).unwrap();
        assert_eq!((named.messages.len(), named.is_unclaimed), (1, true));
    }
}
