//! `subscription_list`, `subscription_get`, `subscription_delete`: the subscriptions of all connections to a queue.

use std::sync::Arc;

use super::super::document::Node;
use super::super::texts;
use super::limits::{
    OPTIONS_BYTES_MAX, SUBSCRIBED_PARTITIONS_MAX, SUBSCRIPTION_SECS, SUBSCRIPTION_TTL_SECS,
    SUBSCRIPTIONS_MAX, number,
};
use super::outcome::{Body, Outcome};
use super::task::{Call, Progress, Task};
use crate::base::error::StoreFault;
use crate::base::names::FullName;
use crate::operation::{Answer, Order, SubscriptionInfo, SubscriptionOrder};

/// The schemes of subscribers that the official server knows.
const SCHEMES: [&str; 5] = ["http", "https", "mailto", "trust+http", "trust+https"];

/// Returns the TTL of a new subscription of the connection, in seconds.
pub(super) fn check(subscriber: Option<&str>, ttl: Option<i64>) -> Result<u32, Outcome> {
    // As on the official server, 0 is allowed: the subscription ends at once.
    let ttl = match ttl {
        Some(0) => 0,
        ttl => number("ttl", ttl.unwrap_or(i64::from(SUBSCRIPTION_TTL_SECS)), SUBSCRIPTION_SECS)?,
    };
    let Some(subscriber) = subscriber.filter(|subscriber| !subscriber.is_empty()) else { return Ok(ttl) };
    let scheme = subscriber.split_once(':').map_or("", |(scheme, _)| scheme);
    if SCHEMES.contains(&scheme) {
        return Err(Outcome::failed(501, OTHER_SUBSCRIBER));
    }
    Err(Outcome::bad("subscriber: its scheme is none of http, https, mailto, trust+http and trust+https"))
}

/// What a client reads that subscribes somebody else.
const OTHER_SUBSCRIBER: &str = "this server notifies only WebSocket connections: leave subscriber out, and this \
    connection is the subscriber; webhooks and mail are not implemented";

/// The answer to a subscription too many.
pub(super) fn too_many() -> Outcome {
    Outcome::failed(
        429,
        format!(
            "a connection has at most {SUBSCRIPTIONS_MAX} subscriptions, to queues with {SUBSCRIBED_PARTITIONS_MAX} partitions together"
        ),
    )
}

/// Returns the options of a new subscription as JSON text.
pub(super) fn options(options: Option<Node<'_>>) -> Result<Arc<str>, Outcome> {
    let Some(options) = options else { return Ok("{}".into()) };
    let json = options.to_json_value().map(|value| value.to_string());
    match json {
        Some(json) if json.len() <= OPTIONS_BYTES_MAX => Ok(json.into()),
        Some(_) => Err(Outcome::bad(format!("options: longer than {OPTIONS_BYTES_MAX} bytes as JSON"))),
        None => Err(Outcome::bad("options: they must not contain bytes or numbers that are not finite")),
    }
}

/// What is wanted of the subscriptions to a queue.
#[derive(Debug)]
enum Wanted {
    /// A page of them, behind the one with this id.
    Page(usize, String),
    /// The one with this id.
    One(String),
    /// The end of the one with this id.
    End(String),
    /// The end of all.
    EndAll,
}

/// An order to all shards.
#[derive(Debug)]
struct Gather {
    queue: String,
    wanted: Wanted,
    parts: u16,
    found: Vec<SubscriptionInfo>,
}

/// Lists the subscriptions to a queue.
pub(super) fn list(name: FullName, marker: &str, limit: usize, call: &mut Call<'_, '_>) -> Progress {
    gather(name, Wanted::Page(limit, marker.to_owned()), SubscriptionOrder::Find, call)
}

/// Returns one subscription.
pub(super) fn get(name: FullName, id: &str, call: &mut Call<'_, '_>) -> Progress {
    gather(name, Wanted::One(id.to_owned()), SubscriptionOrder::Find, call)
}

/// Ends one subscription.
pub(super) fn delete(name: FullName, id: &str, call: &mut Call<'_, '_>) -> Progress {
    gather(name, Wanted::End(id.to_owned()), SubscriptionOrder::End(Some(id.into())), call)
}

/// Ends all subscriptions to a queue.
pub(super) fn purge(name: FullName, call: &mut Call<'_, '_>) -> Progress {
    gather(name, Wanted::EndAll, SubscriptionOrder::End(None), call)
}

/// The answer to `subscription_delete`, whether there was such a subscription or not.
pub(super) fn removed(id: &str) -> Outcome {
    Outcome::text(204, texts::subscription_removed(id))
}

/// The answer to `subscription_get` if there is no such subscription.
pub(super) fn no_subscription() -> Outcome {
    Outcome::failed(404, "the subscription does not exist: it was never made, was deleted, or has ended")
}

/// The answer to `subscription_list` if there is no queue of that name.
pub(super) fn none(queue: &str) -> Outcome {
    Outcome::new(200, Body::Subscriptions(queue.to_owned(), Vec::new()))
}

fn gather(name: FullName, wanted: Wanted, what: SubscriptionOrder, call: &mut Call<'_, '_>) -> Progress {
    let queue = name.1.to_string();
    call.order(Order::Subscriptions { name, what });
    Progress::Waits(Box::new(Gather { queue, wanted, parts: 0, found: Vec::new() }))
}

impl Task for Gather {
    fn answer(&mut self, answer: Answer, _call: &mut Call<'_, '_>) -> Option<Result<Outcome, StoreFault>> {
        let Answer::Subscriptions { of, found } = answer else { return None };
        self.parts += 1;
        self.found.extend(found);
        if self.parts < of {
            return None;
        }
        let (queue, mut found) = (std::mem::take(&mut self.queue), std::mem::take(&mut self.found));
        Some(Ok(match &self.wanted {
            Wanted::Page(limit, marker) => {
                found.sort_by(|one, other| one.id.cmp(&other.id));
                found.retain(|one| *one.id > **marker);
                found.truncate(*limit);
                Outcome::new(200, Body::Subscriptions(queue, found))
            }
            Wanted::One(id) => match found.into_iter().find(|one| *one.id == **id) {
                Some(one) => Outcome::new(200, Body::Subscription(queue, Box::new(one))),
                None => no_subscription(),
            },
            Wanted::End(id) => removed(id),
            Wanted::EndAll => super::queues::purged(),
        }))
    }
}
