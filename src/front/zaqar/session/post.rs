//! `message_post`.

use std::ops::Range;
use std::sync::Arc;

use uuid::Uuid;

use super::super::action::Messages;
use super::super::{body, repr, texts};
use super::ids::Life;
use super::known::KnownQueue;
use super::limits::{MESSAGE_TTL_SECS, POST_CHARACTERS_MAX, number};
use super::outcome::{Body, Outcome};
use super::task::{Call, Parts, Progress, Task};
use crate::access::{StorageShare, Tenant};
use crate::base::attributes::{BYTES_MAX, MESSAGES_MAX};
use crate::base::batch::{Batch, BatchBuilder, Record, Shape};
use crate::base::error::{PeerFault, StoreFault};
use crate::base::names::ClientId;
use crate::base::partitioner::client_partition;
use crate::base::policy::{Held, HeldShare};
use crate::base::units::{MsgNum, Offset, Partition, Sequence};
use crate::operation::{Answer, Command};

/// Posts that wait to be stored.
#[derive(Debug)]
struct Post {
    life: Life,
    partition: Partition,
    /// The offsets of each batch, once it is stored.
    stored: Vec<Option<Range<Offset>>>,
    parts: Parts,
    /// What is under way counts as stored.
    _share: Option<StorageShare>,
    _held: Option<HeldShare>,
}

/// Reads a Client-ID as Python's parser of UUIDs does: in either case, with or without hyphens, braces and `urn:uuid:`.
pub(super) fn client_id(text: &str) -> Result<ClientId, Outcome> {
    let digits = text.replace("urn:", "").replace("uuid:", "");
    let digits = digits.trim_matches(['{', '}']).replace('-', "");
    match Uuid::try_parse(&digits) {
        Ok(uuid) if digits.len() == uuid::fmt::Simple::LENGTH => Ok(ClientId::from(uuid.as_u128())),
        _ => Err(Outcome::bad(texts::BAD_CLIENT_ID)),
    }
}

/// Stores the messages of a post, all of them or none.
pub(super) fn post(
    queue: &KnownQueue,
    messages: Messages<'_>,
    client: &str,
    tenant: &Arc<Tenant>,
    call: &mut Call<'_, '_>,
) -> Progress {
    match batches(queue, messages, client, call).and_then(|batches| admit(queue, batches, tenant, call)) {
        Ok((batches, share, held)) => {
            let life = Life::of(&queue.info);
            let Some(partition) =
                batches.first().map(|batch| client_partition(batch.client(), queue.info.partitions))
            else {
                return Progress::Done(Outcome::bad("Bad request. No messages."));
            };
            let (parts, stored) = (Parts::new(batches.len()), vec![None; batches.len()]);
            for (sequence, batch) in batches.into_iter().enumerate() {
                // Most of the memory that the batch takes is reserved with the request.
                let reserved = batch.stored_bytes().min(*call.reserved);
                *call.reserved -= reserved;
                call.resources.budget.hand_over(reserved);
                let (operation, read_ns) = (call.operation, call.resources.read_ns);
                let (sequence, target) = (Sequence(sequence as u64), queue.target(partition));
                call.send(Command::Append { operation, sequence, target, batch, reserved, read_ns });
            }
            Progress::Waits(Box::new(Post { life, partition, stored, parts, _share: share, _held: held }))
        }
        Err(outcome) => Progress::Done(outcome),
    }
}

/// Checks the messages, in the order of the API, and puts those with the same TTL one after the other into a batch.
fn batches(
    queue: &KnownQueue,
    messages: Messages<'_>,
    client: &str,
    call: &Call<'_, '_>,
) -> Result<Vec<Batch>, Outcome> {
    let settings = call.resources.settings;
    let policy = &queue.info.policy;
    let most = policy.payload_max().unwrap_or(usize::MAX).min(POST_CHARACTERS_MAX);
    if repr::is_longer_than(messages.node(), most) {
        return Err(Outcome::bad(format!("messages: they are longer than {most} characters")));
    }
    for message in messages.iter() {
        message.map_err(Outcome::bad)?;
    }
    let client = client_id(client)?;
    let (ttl_min, ttl_max) = settings.ttl_secs();
    let default_ttl = policy.ttl_secs().unwrap_or(MESSAGE_TTL_SECS).clamp(ttl_min, ttl_max);
    let (mut batches, mut open) = (Vec::new(), None::<BatchBuilder>);
    let (mut payload, mut headers) = (Vec::new(), Vec::new());
    for message in messages.iter().flatten() {
        let ttl = match message.ttl {
            None => default_ttl,
            Some(ttl) => number("ttl", ttl, i64::from(ttl_min)..=i64::from(ttl_max))?,
        };
        if let Some(builder) = open.take_if(|builder| builder.ttl_secs() != ttl) {
            batches.push(builder.close());
        }
        let builder = open.get_or_insert_with(|| {
            // Most posts are one batch. The others begin small.
            let capacity = if batches.is_empty() { messages.node().raw().len() * 3 / 2 } else { 0 };
            BatchBuilder::new(client, ttl, capacity).with_shape(Shape::Headers)
        });
        payload.clear();
        headers.clear();
        body::store(message.body, settings.max_headers_bytes, &mut payload, &mut headers)
            .map_err(|fault| Outcome::bad(fault.to_string()))?;
        if payload.len() > settings.max_payload_bytes {
            let fault = PeerFault::PayloadTooLarge { bytes: payload.len(), max: settings.max_payload_bytes };
            return Err(Outcome::bad(fault.to_string()));
        }
        builder.push_record(Record { key: &[], headers: &headers, payload: &payload });
    }
    batches.extend(open.map(BatchBuilder::close));
    if batches.is_empty() {
        return Err(Outcome::bad("messages: there is none"));
    }
    Ok(batches)
}

type Admitted = (Vec<Batch>, Option<StorageShare>, Option<HeldShare>);

/// Counts the messages against the limits of the project and of the queue.
fn admit(
    queue: &KnownQueue,
    batches: Vec<Batch>,
    tenant: &Arc<Tenant>,
    call: &mut Call<'_, '_>,
) -> Result<Admitted, Outcome> {
    let now = call.resources.now;
    let messages: u64 = batches.iter().map(|batch| u64::from(batch.count())).sum();
    let bytes: u64 = batches.iter().map(|batch| batch.stored_bytes() as u64).sum();
    let peer = |fault: PeerFault| Outcome::fault(&fault.into());
    if tenant.has_rates() && tenant.is_over(now.mono) {
        return Err(peer(PeerFault::OverRate { sent: MsgNum::ZERO, rates: tenant.rates() }));
    }
    let mut share = tenant.share();
    if let Some(Err(limit)) = share.as_mut().map(|share| share.try_add(bytes)) {
        return Err(peer(PeerFault::StorageFull { sent: MsgNum::ZERO, limit }));
    }
    let policy = &queue.info.policy;
    let mut held = None;
    if policy.refuses() {
        let more = Held { messages, bytes };
        let excess = policy.excess(more);
        if excess != Held::default() {
            let limits = policy.get();
            let (attribute, limit) = match excess.messages {
                0 => (BYTES_MAX, limits.bytes_max),
                _ => (MESSAGES_MAX, limits.messages_max),
            };
            // The limit may have been removed since.
            if let Some(limit) = limit {
                return Err(peer(PeerFault::QueueFull { attribute, limit }));
            }
        }
        let mut share = HeldShare::new(policy.clone());
        share.set(more);
        held = Some(share);
    }
    tenant.pay(now.mono, messages, bytes);
    call.resources.counters.received += messages;
    call.resources.counters.received_bytes += bytes;
    Ok((batches, share, held))
}

impl Task for Post {
    fn answer(&mut self, answer: Answer, _call: &mut Call<'_, '_>) -> Option<Result<Outcome, StoreFault>> {
        let Answer::Appended { sequence, result } = answer else { return None };
        let offsets = result.and_then(|offsets| offsets.ok_or(StoreFault::Unavailable(NO_OFFSETS)));
        if let Some(offsets) = self.parts.take(offsets)
            && let Some(stored) = self.stored.get_mut(usize::try_from(sequence.0).unwrap_or(usize::MAX))
        {
            *stored = Some(offsets);
        }
        if let Err(fault) = self.parts.end()? {
            return Some(Err(fault));
        }
        let messages = self.stored.iter().flatten().flat_map(|offsets| offsets.start.0..offsets.end.0);
        let ids = messages.map(|offset| (self.partition, Offset(offset))).collect();
        Some(Ok(Outcome::new(201, Body::Posted(self.life, ids))))
    }
}

/// What a client reads whose messages are stored, but where nobody knows.
const NO_OFFSETS: &str = "the messages are stored, but the store does not say under which ids";
