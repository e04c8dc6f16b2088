//! Begins an action: which queue it needs, and what it comes to.

use std::sync::Arc;

use super::super::action::Action;
use super::super::request::Request;
use super::known::KnownQueue;
use super::limits::{self, CLAIM_GRACE_SECS, CLAIM_SECS, CLAIM_TTL_SECS, PAGE_MAX, number};
use super::list::Wanted;
use super::outcome::{Body, Outcome};
use super::task::{Call, Progress};
use super::{claims, list, messages, post, queues, subscribed};
use crate::access::{Grant, Right, Tenant};
use crate::base::claim::View;
use crate::base::error::PeerFault;
use crate::base::names::{Project, QueueName};

/// The queue that an action needs.
#[derive(Clone, Copy, Debug)]
pub(super) enum Needs<'a> {
    /// None that must be open.
    Nothing,
    /// This queue. If it does not exist, the action has an outcome of its own.
    Queue(&'a str),
    /// This queue, which is created if it does not exist.
    MadeQueue(&'a str),
}

/// Returns the queue that an action needs.
pub(super) fn needs<'a>(action: &'a Action<'_>) -> Needs<'a> {
    match action {
        Action::MessagePost { queue, .. } | Action::SubscriptionCreate { queue, .. } => {
            Needs::MadeQueue(queue)
        }
        Action::QueueGetStats { queue }
        | Action::MessageList { queue, .. }
        | Action::MessageGet { queue, .. }
        | Action::MessageGetMany { queue, .. }
        | Action::MessageDelete { queue, .. }
        | Action::MessageDeleteMany { queue, .. }
        | Action::ClaimCreate { queue, .. }
        | Action::ClaimGet { queue, .. }
        | Action::ClaimUpdate { queue, .. }
        | Action::ClaimDelete { queue, .. } => Needs::Queue(queue),
        Action::QueuePurge { queue, resources } if resources.messages => Needs::Queue(queue),
        _ => Needs::Nothing,
    }
}

/// Returns the rights of which an action needs one, on its queue. Without a queue, it needs none.
pub(super) fn rights<'a>(action: &'a Action<'_>) -> Option<(&'a str, &'static [Right])> {
    const ANY: &[Right] = &[Right::Produce, Right::Consume, Right::Claim, Right::Manage];
    Some(match action {
        Action::Authenticate | Action::QueueList { .. } => return None,
        Action::QueueCreate { queue, .. }
        | Action::QueueDelete { queue }
        | Action::QueuePurge { queue, .. } => (queue, &[Right::Manage]),
        Action::QueueGet { queue } | Action::QueueGetStats { queue } => (queue, ANY),
        Action::MessagePost { queue, .. } => (queue, &[Right::Produce]),
        Action::MessageList { queue, .. }
        | Action::MessageGet { queue, .. }
        | Action::MessageGetMany { queue, .. }
        | Action::SubscriptionCreate { queue, .. }
        | Action::SubscriptionList { queue, .. }
        | Action::SubscriptionGet { queue, .. }
        | Action::SubscriptionDelete { queue, .. } => (queue, &[Right::Consume]),
        Action::MessageDelete { queue, .. }
        | Action::MessageDeleteMany { queue, .. }
        | Action::ClaimCreate { queue, .. }
        | Action::ClaimGet { queue, .. }
        | Action::ClaimUpdate { queue, .. }
        | Action::ClaimDelete { queue, .. } => (queue, &[Right::Claim]),
    })
}

/// Returns the outcome of an action whose queue does not exist.
pub(super) fn without_queue(request: &Request<'_>) -> Outcome {
    if let Err(outcome) = check(request) {
        return outcome;
    }
    match &request.action {
        Action::QueueGetStats { .. } => queues::no_stats(),
        Action::QueuePurge { .. } => queues::purged(),
        Action::MessageGet { .. } => messages::no_message(),
        Action::MessageDelete { .. } => messages::deleted(),
        Action::MessageDeleteMany { pop: None, .. } => messages::deleted(),
        Action::ClaimCreate { .. } => claims::nothing(),
        Action::ClaimGet { .. } | Action::ClaimUpdate { .. } => claims::no_claim(),
        Action::ClaimDelete { claim, .. } => claims::released(claim),
        _ => Outcome::new(200, Body::Messages(Vec::new(), None)),
    }
}

/// Checks the ranges of the fields of an action, whether its queue exists or not.
fn check(request: &Request<'_>) -> Result<(), Outcome> {
    match &request.action {
        Action::MessageList { limit, .. } => {
            post::client_id(&request.headers.client)?;
            limits::page(*limit).map(drop)
        }
        Action::MessageGetMany { messages: ids, .. } => messages::check_count(*ids),
        Action::MessageDeleteMany { messages: ids, pop, .. } => match (ids, pop) {
            (Some(ids), None) => messages::check_count(*ids),
            (None, Some(pop)) => number("pop", *pop, 1..=PAGE_MAX as i64).map(drop),
            (None, None) => Err(Outcome::bad("one of message_ids and pop must be present")),
            (Some(_), Some(_)) => Err(Outcome::bad("only one of message_ids and pop may be present")),
        },
        Action::ClaimCreate { ttl, grace, limit, .. } => {
            claim_secs(*ttl, *grace, true)?;
            limits::page(*limit).map(drop)
        }
        Action::ClaimUpdate { ttl, grace, .. } => {
            let grace = grace.map_err(Outcome::bad)?;
            claim_secs(*ttl, grace, false).map(drop)
        }
        _ => Ok(()),
    }
}

/// Returns the TTL and the grace of a claim, in seconds. An update checks only the TTL: a grace out of range is cut to it.
fn claim_secs(ttl: Option<i64>, grace: Option<i64>, is_new: bool) -> Result<(u32, u32), Outcome> {
    let ttl = number("ttl", ttl.unwrap_or(CLAIM_TTL_SECS), CLAIM_SECS)?;
    let grace = grace.unwrap_or(CLAIM_GRACE_SECS);
    let grace = if is_new { grace } else { grace.clamp(0, *CLAIM_SECS.end()) };
    let range = if is_new { CLAIM_SECS } else { 0..=*CLAIM_SECS.end() };
    Ok((ttl, number("grace", grace, range)?))
}

/// Begins an action that needs no open queue. A list shows the queues of the grant.
pub(super) fn without(
    request: &Request<'_>,
    project: &Project,
    of: Option<&Arc<Grant>>,
    call: &mut Call<'_, '_>,
) -> Progress {
    let named = |queue: &str| QueueName::parse(queue).map(|name| (project.clone(), name));
    match &request.action {
        Action::QueueCreate { queue, metadata } => match named(queue) {
            Ok(name) => queues::create(name, *metadata, call),
            Err(fault) => Progress::Done(bad_name(&fault)),
        },
        Action::QueueList { marker, limit, detailed } => match limits::page(*limit) {
            Ok(limit) => queues::list(project, marker.as_deref(), limit, *detailed, of, call),
            Err(outcome) => Progress::Done(outcome),
        },
        Action::QueueGet { queue } => match named(queue) {
            Ok(name) => queues::get(name, call),
            Err(_) => Progress::Done(queues::no_metadata()),
        },
        Action::QueueDelete { queue } => match named(queue) {
            Ok(name) => queues::delete(name, call),
            Err(_) => Progress::Done(queues::removed(queue)),
        },
        Action::QueuePurge { queue, resources } => match named(queue) {
            Ok(name) if resources.subscriptions => subscribed::purge(name, call),
            _ => Progress::Done(queues::purged()),
        },
        Action::SubscriptionList { queue, marker, limit } => {
            let page = (*limit).map_err(Outcome::bad).and_then(limits::page);
            match (named(queue), marker, page) {
                (_, Err(why), _) => Progress::Done(Outcome::bad(*why)),
                (_, _, Err(outcome)) => Progress::Done(outcome),
                (Ok(name), Ok(marker), Ok(limit)) => {
                    subscribed::list(name, marker.as_deref().unwrap_or_default(), limit, call)
                }
                (Err(_), ..) => Progress::Done(subscribed::none(queue)),
            }
        }
        Action::SubscriptionGet { queue, subscription } => match named(queue) {
            Ok(name) => subscribed::get(name, subscription, call),
            Err(_) => Progress::Done(subscribed::no_subscription()),
        },
        Action::SubscriptionDelete { queue, subscription } => match named(queue) {
            Ok(name) => subscribed::delete(name, subscription, call),
            Err(_) => Progress::Done(subscribed::removed(subscription)),
        },
        _ => Progress::Done(Outcome::failed(501, "this action is not implemented by this server")),
    }
}

/// Returns the outcome of an action whose queue would have to be made and has no valid name.
pub(super) fn bad_name(fault: &PeerFault) -> Outcome {
    Outcome::bad(fault.to_string())
}

/// Begins an action on its queue. `turn` chooses the partition that a claim begins with.
pub(super) fn with(
    request: &Request<'_>,
    queue: KnownQueue,
    tenant: &Arc<Tenant>,
    turn: u16,
    call: &mut Call<'_, '_>,
) -> Progress {
    if let Err(outcome) = check(request) {
        return Progress::Done(outcome);
    }
    match &request.action {
        Action::MessagePost { messages, .. } => {
            post::post(&queue, *messages, &request.headers.client, tenant, call)
        }
        Action::MessageList { marker, limit, echo, include_claimed, include_delayed, .. } => {
            let client = match post::client_id(&request.headers.client) {
                Ok(client) => client,
                Err(outcome) => return Progress::Done(outcome),
            };
            let wanted = Wanted {
                limit: limits::page(*limit).unwrap_or(limits::PAGE),
                exclude: (!echo).then_some(client),
                view: if *include_claimed { View::Live } else { View::Unclaimed },
                delayed: *include_delayed,
            };
            list::list(queue, marker.as_deref(), wanted, call)
        }
        Action::MessageGet { message, .. } => messages::get(&queue, message, call),
        Action::MessageGetMany { messages: ids, .. } => messages::get_many(&queue, *ids, call),
        Action::MessageDelete { message, claim, .. } => {
            messages::delete(&queue, message, claim.as_deref(), call)
        }
        Action::MessageDeleteMany { messages: Some(ids), .. } => messages::delete_many(&queue, *ids, call),
        Action::MessageDeleteMany { pop, .. } => {
            let wanted = usize::try_from(pop.unwrap_or(1)).unwrap_or(1);
            messages::pop(queue, wanted, turn, call)
        }
        Action::ClaimCreate { ttl, grace, limit, .. } => {
            match (claim_secs(*ttl, *grace, true), limits::page(*limit)) {
                (Ok(terms), Ok(limit)) => claims::create(queue, terms, limit, turn, call),
                (Err(outcome), _) | (_, Err(outcome)) => Progress::Done(outcome),
            }
        }
        Action::ClaimGet { claim, .. } => claims::get(&queue, claim, call),
        Action::ClaimUpdate { claim, ttl, grace, .. } => {
            match claim_secs(*ttl, grace.ok().flatten(), false) {
                Ok(terms) => claims::update(&queue, claim, terms, call),
                Err(outcome) => Progress::Done(outcome),
            }
        }
        Action::ClaimDelete { claim, .. } => claims::delete(&queue, claim, call),
        Action::QueueGetStats { .. } => queues::stats(&queue, call),
        Action::QueuePurge { resources, .. } => queues::purge(&queue, resources.subscriptions, call),
        _ => without(request, &queue.name.0, None, call),
    }
}
