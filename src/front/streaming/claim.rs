//! The requests and responses of a claim operation.

use prost::Message;

use crate::base::batch::Record;
use crate::base::claim::Granted;
use crate::base::clock::Now;
use crate::base::error::{Fault, PeerFault};
use crate::base::millis::Millis;
use crate::base::units::{MsgNum, Offset};
use crate::front::{Cx, status_of};
use crate::operation::{ByClaim, Claim, ClaimEnd, ClaimRequest, LostClaim, News, Outgoing, Ranges};
use crate::pb::wire::Malformed;
use crate::pb::{self, ClaimRequestFields, ClaimResponse, MessageTemplate, Settlement, Status};

/// Writes the result of a renewal.
pub(super) fn tell_renewal(renewal: Status, cx: &mut Cx<'_>) {
    cx.reply.pb(&ClaimResponse { renewal: Some(renewal), ..ClaimResponse::default() }, false);
}

/// Handles a ClaimRequest. Returns the token that it carries.
pub(super) fn handle_pb<'pb>(
    claim: &mut Claim,
    bytes: &'pb [u8],
    cx: &mut Cx<'_>,
) -> Result<Option<&'pb str>, Fault> {
    let invalid = |Malformed(why)| PeerFault::PbInvalid(format!("ClaimRequest: {why}"));
    let fields = pb::decode_claim_request(bytes).map_err(invalid)?;
    let token = fields.token;
    if token.is_some() && fields != (ClaimRequestFields { token, ..ClaimRequestFields::default() }) {
        let why = "token: a request with a token carries nothing else";
        return Err(PeerFault::PbInvalid(why.into()).into());
    }
    let by_claim = fields.by_claim.iter().map(|settlement| ByClaim {
        claim_id: settlement.claim_id.as_deref(),
        first_id: settlement.first_id.as_deref(),
        last_id: settlement.last_id.as_deref(),
        kind: settlement.kind,
        seconds: settlement.seconds,
    });
    let request = ClaimRequest {
        credit: MsgNum::from_wire(fields.max_msgnum_to_send),
        ack: Ranges(&fields.ack),
        reject: Ranges(&fields.reject),
        release: Ranges(&fields.release),
        release_delay: fields.release_delay,
        renew: Ranges(&fields.renew),
        renew_ttl: fields.renew_ttl,
        by_claim: by_claim.collect(),
        stop: fields.stop,
    };
    claim.handle_request(&request, &mut cx.resources)?;
    Ok(token)
}

/// Writes the claims that may be sent, and what is known of requests. Asks for more.
pub(super) fn poll_transmit(claim: &mut Claim, cx: &mut Cx<'_>) {
    while cx.has_room()
        && let Some(outgoing) = claim.next_claim(&mut cx.resources)
    {
        let news = claim.take_news();
        send(&outgoing, news, cx);
    }
    tell_news(claim, cx);
    let has_room = cx.has_room();
    claim.pump(has_room, &mut cx.resources);
}

/// Writes what is known of requests, if that is news.
pub(super) fn tell_news(claim: &mut Claim, cx: &mut Cx<'_>) {
    if let Some(news) = claim.take_news() {
        cx.reply.pb(&head(Some(news)), false);
    }
}

/// Ends the half: writes the failure if there is one, then FIN.
pub(super) fn finish(claim: &mut Claim, failure: Option<&Fault>, cx: &mut Cx<'_>) {
    claim.leave(ClaimEnd::Broken, &mut cx.resources);
    claim.forget(&mut cx.resources);
    match failure {
        Some(fault) => {
            let status = Some(status_of(fault));
            cx.reply.pb(&ClaimResponse { status, ..ClaimResponse::default() }, true);
        }
        None => cx.reply.fin(),
    }
}

/// Returns a response with the news alone.
fn head(news: Option<News>) -> ClaimResponse {
    let Some(News { settled_requests, lost, lost_claims }) = news else { return ClaimResponse::default() };
    let lost_claims = lost_claims.into_iter().map(|lost| {
        let LostClaim { claim_id, ids: (first_id, last_id), kind } = lost;
        let (first_id, last_id) = (Some(first_id), Some(last_id));
        Settlement { claim_id, first_id, last_id, kind: Some(kind), seconds: None }
    });
    ClaimResponse {
        settled_requests: i64::try_from(settled_requests).ok(),
        lost,
        lost_claims: lost_claims.collect(),
        ..ClaimResponse::default()
    }
}

/// Writes a claim with all of its messages.
fn send(outgoing: &Outgoing, news: Option<News>, cx: &mut Cx<'_>) {
    let claim = pb::Claim {
        id: Some(outgoing.id.to_string()),
        client_id: Some(outgoing.client.to_string()),
        ttl: Some(outgoing.left.as_secs_up()),
    };
    let head = ClaimResponse { claim: Some(claim), ..head(news) };
    let now = cx.resources.now;
    let templates: Vec<MessageTemplate> =
        outgoing.runs.iter().map(|run| template(outgoing, run, now)).collect();
    let mut length = head.encoded_len();
    for (run, template) in outgoing.runs.iter().zip(&templates) {
        each(run, |offset, record| length += template.encoded_length(offset, record));
    }
    cx.reply.raw(length, false, |out| {
        // Fields may come in any order. A client that reads them one by one sees the claim first.
        head.encode_raw(out);
        for (run, template) in outgoing.runs.iter().zip(&templates) {
            each(run, |offset, record| template.encode(offset, record, out));
        }
    });
}

/// Returns the encoding of a run. Its messages live at least until the lease has ended and the grace is over.
fn template(outgoing: &Outgoing, run: &Granted, now: Now) -> MessageTemplate {
    let Granted { stored, count, .. } = run;
    let age = now.unix.since(stored.timestamp);
    let least: Millis = age + outgoing.left + outgoing.grace;
    let ttl = stored.batch.ttl_secs().max(least.as_secs_up());
    MessageTemplate::new(outgoing.partition, ttl, age.as_secs(), stored.timestamp).claimed(*count)
}

/// Calls `each` with every message of a run.
fn each(run: &Granted, mut each: impl FnMut(Offset, Record<'_>)) {
    let Granted { stored, offsets, record, .. } = run;
    let mut position = *record;
    for offset in offsets.start.following(offsets.end.since(offsets.start)) {
        if let Some((next, record)) = stored.batch.record_at(position) {
            each(offset, record);
            position = next;
        }
    }
}
