//! What a request has come to: the status and the body of its answer. It is written when the answers before it are.

use std::borrow::Cow;
use std::sync::Arc;

use super::super::answer::{self, Echo};
use super::super::document::{Document, Format};
use super::super::writer::Writer;
use super::super::{body, texts};
use super::ids::Life;
use crate::base::attributes::Attributes;
use crate::base::batch::StoredBatch;
use crate::base::clock::{Now, rfc3339};
use crate::base::error::{Fault, StoreFault};
use crate::base::manage::Stored;
use crate::base::millis::UnixMillis;
use crate::base::names::QueueName;
use crate::base::units::{Offset, Partition};
use crate::operation::{ListedQueue, SubscriptionInfo};

/// What a request has come to.
#[derive(Debug)]
pub(super) struct Outcome {
    /// The status.
    pub(super) status: u16,
    /// The body.
    pub(super) body: Body,
}

/// The body of an answer.
#[derive(Debug)]
pub(super) enum Body {
    /// `{}`.
    Nothing,
    /// Text.
    Text(String),
    /// `{"message": …}`.
    Said(&'static str),
    /// `{"error": …}`: refused before the action began.
    Error(Cow<'static, str>),
    /// `{"exception": …, "error": …}`: the action failed.
    Exception(Cow<'static, str>, Option<&'static str>),
    /// A page of queues. With their attributes, if they are wanted.
    Queues(Vec<ListedQueue>, bool),
    /// The attributes of a queue.
    Metadata(Attributes),
    /// What a queue holds.
    Stats(Option<Box<QueueStats>>),
    /// The ids of posted messages, in order.
    Posted(Life, Vec<(Partition, Offset)>),
    /// Messages, and where a list of them ends.
    Messages(Vec<Shown>, Option<String>),
    /// One message.
    Message(Box<Shown>),
    /// A new claim; `None` if there was nothing to claim.
    Claimed(Option<String>, Vec<Shown>),
    /// A new subscription: its id and the name of its queue.
    Subscribed(Arc<str>, QueueName),
    /// Subscriptions to a queue.
    Subscriptions(String, Vec<SubscriptionInfo>),
    /// A subscription to a queue.
    Subscription(String, Box<SubscriptionInfo>),
    /// A claim that is held: its age and its TTL in seconds, and its messages.
    Claim(u32, u32, Vec<Shown>),
}

/// What a queue holds.
#[derive(Debug)]
pub(super) struct QueueStats {
    pub(super) life: Life,
    pub(super) free: u64,
    pub(super) claimed: u64,
    pub(super) oldest: Option<(Partition, Stored)>,
    pub(super) newest: Option<(Partition, Stored)>,
    /// Where the store does not count messages: how many offsets its partitions have at most.
    pub(super) offsets: Option<u64>,
}

/// A message of an answer.
#[derive(Clone, Debug)]
pub(super) struct Shown {
    /// The queue.
    pub(super) life: Life,
    /// Its partition.
    pub(super) partition: Partition,
    /// Its batch.
    pub(super) stored: StoredBatch,
    /// The position of its record in the batch.
    pub(super) record: usize,
    /// Its offset.
    pub(super) offset: Offset,
    /// Its TTL, in seconds.
    pub(super) ttl_secs: u32,
    /// The claim that it is shown with.
    pub(super) claim: Option<String>,
    /// How often it was claimed, if that is shown.
    pub(super) count: Option<u32>,
}

impl Outcome {
    pub(super) fn new(status: u16, body: Body) -> Self {
        Self { status, body }
    }

    /// Returns an outcome whose body is text.
    pub(super) fn text(status: u16, text: String) -> Self {
        Self::new(status, Body::Text(text))
    }

    /// Returns the outcome of a request that is refused before its action begins.
    pub(super) fn refused(status: u16, why: impl Into<Cow<'static, str>>) -> Self {
        Self::new(status, Body::Error(why.into()))
    }

    /// Returns the outcome of an action that is not allowed as it is.
    pub(super) fn bad(why: impl Into<Cow<'static, str>>) -> Self {
        Self::failed(400, why)
    }

    /// Returns the outcome of an action that failed.
    pub(super) fn failed(status: u16, why: impl Into<Cow<'static, str>>) -> Self {
        Self::new(status, Body::Exception(why.into(), None))
    }

    /// Returns the outcome of an action that failed in the server.
    pub(super) fn fault(fault: &Fault) -> Self {
        let status = u16::try_from(fault.status().0).unwrap_or(500);
        let error = (status == 500).then_some(texts::UNEXPECTED);
        Self::new(status, Body::Exception(fault.to_string().into(), error))
    }

    /// Returns the outcome of an action that failed in the store.
    pub(super) fn store_fault(fault: StoreFault) -> Self {
        Self::fault(&fault.into())
    }

    /// Returns about how many bytes of messages it holds.
    pub(super) fn held_bytes(&self) -> usize {
        match &self.body {
            Body::Messages(messages, _) | Body::Claimed(_, messages) | Body::Claim(_, _, messages) => {
                let bytes = |one: &Shown| one.stored.batch.stored_bytes();
                let is_first = |at: usize| {
                    at == 0 || messages[at - 1].stored.base_offset != messages[at].stored.base_offset
                };
                messages.iter().enumerate().filter(|(at, _)| is_first(*at)).map(|(_, one)| bytes(one)).sum()
            }
            Body::Message(message) => message.stored.batch.stored_bytes(),
            _ => 0,
        }
    }

    /// Returns the id of the claim that it tells of for the first time.
    pub(super) fn new_claim(&self) -> Option<&str> {
        match &self.body {
            Body::Claimed(id, _) => id.as_deref(),
            _ => None,
        }
    }

    /// Appends the answer.
    pub(super) fn write(&self, format: Format, echo: &Echo<'_>, now: Now, out: &mut Vec<u8>) {
        answer::answer(format, echo, self.status, out, |writer| self.body.write(now, writer));
    }
}

impl Body {
    fn write(&self, now: Now, writer: &mut Writer<'_>) {
        let unix = now.unix;
        match self {
            Self::Nothing => writer.map(0, |_| ()),
            Self::Text(text) => writer.text(text),
            Self::Said(message) => writer.map(1, |writer| {
                writer.key("message");
                writer.text(message);
            }),
            Self::Error(error) => writer.map(1, |writer| {
                writer.key("error");
                writer.text(error);
            }),
            Self::Exception(exception, error) => writer.map(2, |writer| {
                writer.key("exception");
                writer.text(exception);
                writer.key("error");
                match error {
                    Some(error) => writer.text(error),
                    None => writer.null(),
                }
            }),
            Self::Queues(queues, detailed) => list(writer, "queues", queues, |writer, queue| {
                let details = queue.attributes.as_ref().filter(|_| *detailed);
                writer.map(1 + usize::from(details.is_some()), |writer| {
                    writer.key("name");
                    writer.text(queue.name.as_str());
                    if let Some(details) = details {
                        writer.key("metadata");
                        metadata(details, writer);
                    }
                });
            }),
            Self::Metadata(attributes) => metadata(attributes, writer),
            Self::Stats(stats) => writer.map(1, |writer| {
                writer.key("messages");
                write_stats(stats.as_deref(), unix, writer);
            }),
            Self::Posted(life, messages) => {
                list(writer, "message_ids", messages, |writer, (partition, offset)| {
                    writer.text(life.message(*partition, *offset).as_str());
                })
            }
            Self::Messages(messages, marker) => writer.map(1 + usize::from(marker.is_some()), |writer| {
                writer.key("messages");
                write_all(messages, unix, writer);
                if let Some(marker) = marker {
                    writer.key("marker");
                    writer.text(marker);
                }
            }),
            Self::Message(message) => writer.map(1, |writer| {
                writer.key("messages");
                message.write(unix, writer);
            }),
            Self::Claimed(None, _) => writer.map(1, |writer| {
                writer.key("claim_id");
                writer.null();
            }),
            Self::Claimed(Some(id), messages) => writer.map(2, |writer| {
                writer.key("claim_id");
                writer.text(id);
                writer.key("messages");
                write_all(messages, unix, writer);
            }),
            Self::Subscribed(id, queue) => writer.map(2, |writer| {
                writer.key("subscription_id");
                writer.text(id);
                writer.key("message");
                writer.text(&texts::subscription_created(queue.as_str()));
            }),
            Self::Subscriptions(queue, all) => list(writer, "subscriptions", all, |writer, one| {
                write_subscription(queue, one, now, writer);
            }),
            Self::Subscription(queue, one) => write_subscription(queue, one, now, writer),
            Self::Claim(age, ttl, messages) => writer.map(3, |writer| {
                writer.key("age");
                writer.integer(*age);
                writer.key("ttl");
                writer.integer(*ttl);
                writer.key("messages");
                write_all(messages, unix, writer);
            }),
        }
    }
}

fn metadata(attributes: &Attributes, writer: &mut Writer<'_>) {
    write_json(&attributes.to_json(), writer);
}

fn write_json(json: &str, writer: &mut Writer<'_>) {
    match Document::check(Format::Json, json.as_bytes()) {
        Ok(document) => writer.node(document.root()),
        // Nested deeper than a document may be: set by other means.
        Err(_) => writer.map(0, |_| ()),
    }
}

fn list<T>(writer: &mut Writer<'_>, key: &str, items: &[T], each: impl Fn(&mut Writer<'_>, &T)) {
    writer.map(1, |writer| {
        writer.key(key);
        writer.array(items.len(), |writer| items.iter().for_each(|item| each(writer, item)));
    });
}

fn write_subscription(queue: &str, one: &SubscriptionInfo, now: Now, writer: &mut Writer<'_>) {
    writer.map(7, |writer| {
        writer.key("id");
        writer.text(&one.id);
        writer.key("source");
        writer.text(queue);
        writer.key("subscriber");
        writer.text(&one.subscriber);
        writer.key("ttl");
        writer.integer(one.ttl_secs);
        writer.key("age");
        writer.integer(now.mono.since(one.since).as_secs());
        writer.key("options");
        write_json(&one.options, writer);
        writer.key("confirmed");
        writer.bool(false);
    });
}

fn write_all(messages: &[Shown], unix: UnixMillis, writer: &mut Writer<'_>) {
    writer.array(messages.len(), |writer| messages.iter().for_each(|message| message.write(unix, writer)));
}

fn write_stats(stats: Option<&QueueStats>, unix: UnixMillis, writer: &mut Writer<'_>) {
    if let Some(offsets) = stats.and_then(|stats| stats.offsets) {
        return writer.map(1, |writer| {
            writer.key("offsets");
            writer.integer(offsets);
        });
    }
    let ends = stats.map_or([None, None], |stats| [stats.oldest, stats.newest]);
    let (free, claimed) = stats.map_or((0, 0), |stats| (stats.free, stats.claimed));
    writer.map(3 + ends.iter().flatten().count(), |writer| {
        for (key, count) in [("claimed", claimed), ("free", free), ("total", free + claimed)] {
            writer.key(key);
            writer.integer(count);
        }
        let Some(stats) = stats else { return };
        for (key, end) in [("oldest", ends[0]), ("newest", ends[1])] {
            let Some((partition, Stored { offset, timestamp })) = end else { continue };
            writer.key(key);
            writer.map(3, |writer| {
                writer.key("id");
                writer.text(stats.life.message(partition, offset).as_str());
                writer.key("age");
                writer.integer(unix.since(timestamp).as_secs());
                writer.key("created");
                writer.text(&rfc3339(timestamp).unwrap_or_default());
            });
        }
    });
}

/// Returns the TTL of a message, in seconds. If a claim has made it live longer, its life counts from `since` on.
pub(super) fn ttl_secs(stored: &StoredBatch, expires: Option<UnixMillis>, since: UnixMillis) -> u32 {
    expires.map_or(stored.batch.ttl_secs(), |expires| expires.since(since).as_secs_up())
}

impl Shown {
    fn write(&self, unix: UnixMillis, writer: &mut Writer<'_>) {
        let Self { life, partition, stored, record, offset, ttl_secs, claim, count } = self;
        let record = stored.batch.record_at(*record).map(|(_, record)| record).unwrap_or_default();
        let age = stored.age_secs(unix);
        writer.map(5 + usize::from(count.is_some()), |writer| {
            writer.key("id");
            writer.text(life.message(*partition, *offset).as_str());
            writer.key("claim_id");
            match claim {
                Some(claim) => writer.text(claim),
                None => writer.null(),
            }
            writer.key("ttl");
            writer.integer(*ttl_secs);
            writer.key("age");
            writer.integer(age);
            writer.key("body");
            body::write(record.payload, record.headers, writer);
            if let Some(count) = count {
                writer.key("claim_count");
                writer.integer(*count);
            }
        });
    }
}
