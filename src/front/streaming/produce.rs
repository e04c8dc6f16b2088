//! A produce operation in the streaming protocol (protocol section 5): its pbs, read and written.

use crate::base::batch::BatchBuilder;
use crate::base::error::{Fault, PeerFault, StatusCode};
use crate::base::planted;
use crate::base::queue::message_id;
use crate::front::Cx;
use crate::front::context::status_of;
use crate::operation::{Author, Messages, OperationId, Produce, Request, Routing, Said, StoredAt};
use crate::pb::wire::Malformed;
use crate::pb::{
    ProduceField, ProduceRequestHead, ProduceResponse, ProduceSetupResponse, Status, decode_produce_request,
    first_ttl,
};

/// Begins an operation whose setup was accepted, and says so.
pub(super) fn start(operation: OperationId, author: Author, routing: Routing, cx: &mut Cx<'_>) -> Produce {
    let mut produce = Produce::start(operation, author, routing, cx);
    let response = ProduceSetupResponse {
        status: Some(status(StatusCode::CONTINUE)),
        max_msgnum_to_send: Some(produce.tell_credit().to_wire()),
    };
    cx.reply.pb(&response, false);
    produce
}

/// One ProduceRequest, whose length is reserved; `expected` more bytes have come already.
#[inline]
pub(super) fn handle_pb(
    produce: &mut Produce,
    pb: &[u8],
    expected: usize,
    cx: &mut Cx<'_>,
) -> Result<(), Fault> {
    if cx.settings.test_faults {
        planted::in_connection(pb);
    }
    let ttl = first_ttl(pb).unwrap_or(cx.settings.ttl_min_secs);
    let max = cx.settings.max_payload_bytes;
    let (decoded, is_too_large) = match produce.copy_into(ttl, pb.len(), expected, cx) {
        None => (decode_produce_request(pb, |_| {}), false),
        Some(batch) => copy(pb, batch, max),
    };
    let request = match decoded {
        Ok(head) if head.payloads == 0 => Err(PeerFault::PbInvalid("payloads: at least one".into())),
        Ok(head) => {
            let (payloads, keys, bytes) = (head.payloads, head.keys, pb.len());
            Ok(Request { payloads, keys, ttl: head.ttl, is_too_large, bytes })
        }
        Err(malformed) => Err(PeerFault::PbInvalid(malformed.0.into())),
    };
    produce.handle_request(request, pb.len(), || messages(pb), cx)
}

/// Copies payloads of at most `max` bytes into a batch as they are read, and says whether another was longer. A function of its own:
/// inlined, its loop would not keep what it needs in registers (6 instructions a message).
#[inline(never)]
fn copy(pb: &[u8], batch: &mut BatchBuilder, max: usize) -> (Result<ProduceRequestHead, Malformed>, bool) {
    let mut is_too_large = false;
    let decoded = decode_produce_request(pb, |field| match field {
        ProduceField::Payload(payload) if payload.len() > max => is_too_large = true,
        ProduceField::Payload(payload) => batch.push(payload),
        ProduceField::Key(_) => {}
    });
    (decoded, is_too_large)
}

fn messages(pb: &[u8]) -> Messages<'_> {
    let mut messages = Messages::default();
    // It was decoded before, so it decodes.
    let _ = decode_produce_request(pb, |field| match field {
        ProduceField::Payload(payload) => messages.payloads.push(payload),
        ProduceField::Key(key) => messages.keys.push(key),
    });
    messages
}

/// Writes a response for every run of messages whose fate is known, and gives credit.
pub(super) fn speak(produce: &mut Produce, cx: &mut Cx<'_>) {
    while cx.has_space() {
        let Cx { operation, framed, .. } = cx;
        let Some(said) = produce.speak(operation, |messages, origin| framed.note(messages, origin)) else {
            break;
        };
        let Said { fate, through, stored } = said;
        let status = match &fate {
            Ok(()) => status(StatusCode::CREATED),
            Err(fault) => status_of(fault),
        };
        respond(produce, Some(status), through.to_wire(), stored, false, cx);
        cx.framed.close(cx.reply.out.len());
    }
    if let Some(through) = produce.owes_credit(cx) {
        respond(produce, None, through.to_wire(), None, false, cx);
    }
}

/// Ends the half: all is said, and the client says no more.
pub(super) fn finish(produce: &mut Produce, cx: &mut Cx<'_>) {
    produce.finish(cx);
    cx.reply.fin();
}

/// Ends the half of an operation that has failed.
pub(super) fn finish_failed(produce: &mut Produce, fault: &Fault, cx: &mut Cx<'_>) {
    produce.finish(cx);
    let through = produce.through(fault);
    respond(produce, Some(status_of(fault)), through, None, true, cx);
}

fn respond(
    produce: &mut Produce,
    status: Option<Status>,
    through: i64,
    stored: Option<StoredAt>,
    fin: bool,
    cx: &mut Cx<'_>,
) {
    let id = |offset| stored.as_ref().map(|stored| message_id(stored.partition, offset));
    let (first, last) =
        stored.as_ref().map_or((0, 0), |stored| (stored.offsets.start, stored.offsets.end - 1));
    let response = ProduceResponse {
        status,
        msgnum_status_is_thru: Some(through),
        max_msgnum_to_send: Some(produce.tell_credit().to_wire()),
        first_id: id(first),
        last_id: id(last),
    };
    cx.reply.pb(&response, fin);
}

fn status(code: StatusCode) -> Status {
    Status { status_code: Some(code.0), reason_phrase: None }
}
