//! The requests and responses of a produce operation.

use crate::base::batch::Record;
use crate::base::error::{Fault, PeerFault, StatusCode};
use crate::base::planted;
use crate::base::queue::message_id;
use crate::base::units::MsgNum;
use crate::front::{Cx, Origin, PbWriter, status_of};
use crate::operation::{Acknowledged, Copied, Copying, Produce, Request, Word};
use crate::pb::wire::Malformed;
use crate::pb::{
    ProduceExtras, ProduceField, ProduceRequestHead, ProduceResponse, ProduceSetupResponse, Status,
    WITH_EXTRAS, WITH_TOKEN, decode_full_request, decode_produce_request, first_ttl, lone_token,
};

const NO_PAYLOADS: &str = "payloads: at least one";

/// Writes the response that accepts the setup.
pub(super) fn accept(granted: MsgNum, token_expires_s: Option<u32>, reply: &mut PbWriter<'_>) {
    reply.pb(
        &ProduceSetupResponse {
            status: Some(Status { token_expires_s, ..status(StatusCode::CONTINUE) }),
            max_msgnum_to_send: Some(granted.to_wire()),
        },
        false,
    );
}

/// Writes the response that refuses the setup.
pub(super) fn refuse(fault: &Fault, reply: &mut PbWriter<'_>) {
    reply.pb(&ProduceSetupResponse { status: Some(status_of(fault)), max_msgnum_to_send: Some(0) }, true);
}

/// Handles a ProduceRequest, whose length is reserved. `expected` further bytes have already arrived. Returns the
/// token that it carries in place of messages.
#[inline]
pub(super) fn handle_pb<'pb>(
    produce: &mut Produce,
    pb: &'pb [u8],
    expected: usize,
    cx: &mut Cx<'_>,
) -> Result<Option<&'pb str>, Fault> {
    let resources = &mut cx.resources;
    if resources.settings.test_faults {
        planted::in_connection(pb);
    }
    let (decoded, copied) = match produce.copy(pb.len(), expected, first_ttl(pb), resources) {
        None => (decode_produce_request(pb, |_| {}), None),
        Some(copying) => {
            let (decoded, copied) = copy(pb, copying);
            (decoded, Some(copied))
        }
    };
    let why = match decoded {
        Ok(head) if head.payloads > 0 => {
            let request = request(head, ProduceExtras::default(), pb);
            return produce.receive(request, copied, || records(pb), resources).map(|()| None);
        }
        Ok(_) => NO_PAYLOADS,
        Err(WITH_EXTRAS) => return handle_full(produce, pb, copied, cx),
        Err(malformed) => {
            let token = if malformed == WITH_TOKEN { lone_token(pb) } else { None };
            if token.is_some() {
                produce.give_up(copied, pb.len(), resources);
                return Ok(token);
            }
            malformed.0
        }
    };
    produce.give_up(copied, pb.len(), resources);
    Err(PeerFault::PbInvalid(why.into()).into())
}

/// Handles a ProduceRequest with a delay or headers. Of it, `copied` was copied before that was known.
#[cold]
fn handle_full<'pb>(
    produce: &mut Produce,
    pb: &'pb [u8],
    copied: Option<Copied>,
    cx: &mut Cx<'_>,
) -> Result<Option<&'pb str>, Fault> {
    let resources = &mut cx.resources;
    let why = match decode_full_request(pb, |_| {}) {
        Ok((head, extras)) if head.payloads > 0 => {
            // They may have come behind the payloads.
            produce.roll_back(copied);
            let request = request(head, extras, pb);
            return produce.receive(request, None, || records(pb), resources).map(|()| None);
        }
        Ok(_) => NO_PAYLOADS,
        Err(malformed) => malformed.0,
    };
    produce.give_up(copied, pb.len(), resources);
    Err(PeerFault::PbInvalid(why.into()).into())
}

fn request(head: ProduceRequestHead, extras: ProduceExtras, pb: &[u8]) -> Request {
    let ProduceRequestHead { ttl, payloads, keys } = head;
    let ProduceExtras { delay, headers } = extras;
    Request { ttl, delay, payloads, keys, headers, bytes: pb.len() }
}

/// Decodes a ProduceRequest and copies its payloads. A separate function: if inlined, its loop does not keep
/// its variables in registers (8 instructions per message).
#[inline(never)]
fn copy(pb: &[u8], mut copying: Copying<'_>) -> (Result<ProduceRequestHead, Malformed>, Copied) {
    let decoded = decode_produce_request(pb, |field| match field {
        ProduceField::Payload(payload) => copying.push(payload),
        ProduceField::Key(_) | ProduceField::Headers(_) => {}
    });
    (decoded, copying.end())
}

/// Decodes the messages of a ProduceRequest that has been decoded before and so is valid.
fn records(pb: &[u8]) -> Vec<Record<'_>> {
    let (mut payloads, mut keys, mut headers) = (Vec::new(), Vec::new(), Vec::new());
    let _ = decode_full_request(pb, |field| match field {
        ProduceField::Payload(payload) => payloads.push(payload),
        ProduceField::Key(key) => keys.push(key),
        ProduceField::Headers(of_one) => headers.push(of_one),
    });
    let none = || std::iter::repeat(&[][..]);
    let more = keys.into_iter().chain(none()).zip(headers.into_iter().chain(none()));
    let records = payloads.into_iter().zip(more);
    records.map(|(payload, (key, headers))| Record { key, headers, payload }).collect()
}

/// Acknowledges or refuses every message whose fate is known, and grants credit.
pub(super) fn speak(produce: &mut Produce, cx: &mut Cx<'_>) {
    while cx.has_space() {
        let framed = &mut *cx.framed;
        let acknowledge = |Acknowledged { messages, read_ns, known_ns }| {
            framed.note(messages, Origin::Produced { read_ns, known_ns });
        };
        let Some(word) = produce.speak(&mut cx.resources, acknowledge) else { break };
        respond(&word, false, &mut cx.reply);
        cx.framed.close(cx.reply.out.len());
    }
    if let Some(word) = produce.speak_of_credit(&mut cx.resources) {
        respond(&word, false, &mut cx.reply);
    }
}

/// Writes the result of a renewal.
pub(super) fn tell_renewal(produce: &mut Produce, renewal: Status, cx: &mut Cx<'_>) {
    let (through, granted) = produce.numbers();
    cx.reply.pb(
        &ProduceResponse {
            msgnum_status_is_thru: Some(through.to_wire()),
            max_msgnum_to_send: Some(granted.to_wire()),
            renewal: Some(renewal),
            ..ProduceResponse::default()
        },
        false,
    );
}

/// Ends the half of an operation that is complete.
pub(super) fn finish(produce: &mut Produce, cx: &mut Cx<'_>) {
    produce.finish(&mut cx.resources);
    cx.reply.fin();
}

/// Writes the pb that ends a failed operation.
pub(super) fn finish_failed(produce: &mut Produce, fault: &Fault, cx: &mut Cx<'_>) {
    let word = produce.finish_failed(fault, &mut cx.resources);
    respond(&word, true, &mut cx.reply);
}

fn respond(word: &Word, fin: bool, reply: &mut PbWriter<'_>) {
    let status = word.fate.as_ref().map(|fate| match fate {
        Ok(()) => status(StatusCode::CREATED),
        Err(fault) => status_of(fault),
    });
    let place = word.place.as_ref();
    let first_id = place.map(|place| message_id(place.partition, place.offsets.start));
    let last_id = place.map(|place| message_id(place.partition, place.offsets.end.previous()));
    reply.pb(
        &ProduceResponse {
            status,
            msgnum_status_is_thru: Some(word.through.to_wire()),
            max_msgnum_to_send: Some(word.granted.to_wire()),
            first_id,
            last_id,
            renewal: None,
        },
        fin,
    );
}

fn status(code: StatusCode) -> Status {
    Status { status_code: Some(code.0), ..Status::default() }
}
