//! The requests and responses of a consume operation.

use bytes::Bytes;
use prost::Message;

use crate::base::batch::{Batch, Fetched, Record, Shape, StoredBatch};
use crate::base::clock::Now;
use crate::base::error::{Fault, PeerFault};
use crate::base::queue::message_id;
use crate::base::units::{MsgNum, Offset, Partition};
use crate::front::{Cx, Origin, status_of};
use crate::operation::{Consume, Form, Gathered, Marked, Run, ShownClaim};
use crate::pb::headers::first_timestamp;
use crate::pb::wire::{REWOUND, uses_extensions, varint_length};
use crate::pb::{
    Claim, ConsumeRequest, ConsumeResponse, MessageAndMetadata, MessageTemplate, Status, encode_marked,
};

/// A consume operation, and what its client understands.
#[derive(Debug)]
pub(super) struct Consuming {
    pub(super) consume: Consume,
    /// Whether the client uses the protocol's extensions. If so, it gets the news of a rewind at once.
    pub(super) has_extensions: bool,
    /// Whether messages are sent without their headers.
    pub(super) is_bare: bool,
}

impl Form for MessageTemplate {
    #[inline]
    fn of(partition: Partition, stored: &StoredBatch, now: Now) -> Self {
        let plain =
            Self::new(partition, stored.batch.ttl_secs(), stored.age_secs(now.unix), stored.timestamp);
        match stored.delay_left_secs(now.unix) {
            None => plain,
            Some(secs) => plain.delayed(secs),
        }
    }

    #[inline(always)]
    fn encoded_length(&self, offset: Offset, record: Record<'_>) -> usize {
        MessageTemplate::encoded_length(self, offset, record)
    }
}

/// A form that can encode messages.
trait Encode: Form {
    fn encode(&self, offset: Offset, record: Record<'_>, out: &mut Vec<u8>);
}

impl Encode for MessageTemplate {
    /// Always inlined, like the lengths: without that, each kind of batch costs every message a call.
    #[inline(always)]
    fn encode(&self, offset: Offset, record: Record<'_>, out: &mut Vec<u8>) {
        MessageTemplate::encode(self, offset, record, out);
    }
}

/// The encoding of the messages of a batch that have the same claim, for a consumer that sees claims, wants no headers,
/// or both.
#[derive(Debug)]
struct SelectedForm<const CLAIMED: bool, const BARE: bool> {
    template: MessageTemplate,
    /// The encoded field `claim`; empty if they have none.
    claim: Vec<u8>,
}

impl<const CLAIMED: bool, const BARE: bool> SelectedForm<CLAIMED, BARE> {
    fn shown(record: Record<'_>) -> Record<'_> {
        if BARE { record.without_headers() } else { record }
    }
}

impl<const CLAIMED: bool, const BARE: bool> Encode for SelectedForm<CLAIMED, BARE> {
    fn encode(&self, offset: Offset, record: Record<'_>, out: &mut Vec<u8>) {
        self.template.encode_with(&self.claim, offset, Self::shown(record), out);
    }
}

impl<const CLAIMED: bool, const BARE: bool> Form for SelectedForm<CLAIMED, BARE> {
    const SHOWS_CLAIMS: bool = CLAIMED;

    fn of(partition: Partition, stored: &StoredBatch, now: Now) -> Self {
        Self { template: MessageTemplate::of(partition, stored, now), claim: Vec::new() }
    }

    fn claimed(self, claim: ShownClaim) -> Self {
        let claim = MessageAndMetadata { claim: Some(pb_of(&claim)), ..MessageAndMetadata::default() }
            .encode_to_vec();
        Self { claim, ..self }
    }

    fn encoded_length(&self, offset: Offset, record: Record<'_>) -> usize {
        self.template.encoded_length_with(&self.claim, offset, Self::shown(record))
    }
}

fn pb_of(claim: &ShownClaim) -> Claim {
    Claim {
        id: Some(claim.id.to_string()),
        client_id: claim.client.map(|client| client.to_string()),
        ttl: Some(claim.left.as_secs_up()),
    }
}

/// Writes the result of a renewal.
pub(super) fn tell_renewal(renewal: Status, cx: &mut Cx<'_>) {
    cx.reply.pb(&ConsumeResponse { renewal: Some(renewal), ..ConsumeResponse::default() }, false);
}

impl Consuming {
    /// Handles a ConsumeRequest. Returns the token that it carries.
    pub(super) fn handle_pb(&mut self, pb: &[u8], cx: &Cx<'_>) -> Result<Option<String>, Fault> {
        let request = ConsumeRequest::decode(pb)
            .map_err(|error| PeerFault::PbInvalid(format!("ConsumeRequest: {error}")))?;
        if request.commit_marker.is_some() {
            return Err(PeerFault::PbInvalid("commit_marker: groups are not supported yet".into()).into());
        }
        if request.token.is_some() && (request.max_msgnum_to_send.is_some() || request.send_marker.is_some())
        {
            let why = "token: a request with a token carries nothing else";
            return Err(PeerFault::PbInvalid(why.into()).into());
        }
        self.has_extensions |= uses_extensions(pb);
        let credit = MsgNum::from_wire(request.max_msgnum_to_send);
        self.consume.handle_request(credit, request.send_marker(), &cx.resources);
        Ok(request.token)
    }

    /// Handles the result of a fetch.
    pub(super) fn handle_fetched(&mut self, partition: Partition, fetched: Fetched, cx: &Cx<'_>) {
        self.consume.handle_fetched(partition, fetched, cx.has_room(), &cx.resources);
    }

    /// Frames the messages that are ready and may be sent, and fetches more.
    pub(super) fn poll_transmit(&mut self, cx: &mut Cx<'_>) {
        if self.has_extensions && self.consume.take_rewound() {
            cx.reply.pb(&ConsumeResponse { rewound: Some(true), ..ConsumeResponse::default() }, false);
        }
        while cx.has_room() && self.consume.is_ready(&cx.resources) {
            let sent = match (self.consume.shows_claims(), self.is_bare) {
                (false, false) => self.send_response::<MessageTemplate>(cx),
                (true, false) => self.send_response::<SelectedForm<true, false>>(cx),
                (false, true) => self.send_response::<SelectedForm<false, true>>(cx),
                (true, true) => self.send_response::<SelectedForm<true, true>>(cx),
            };
            if !sent {
                break;
            }
        }
        if self.consume.is_marker_due(cx.resources.now) {
            self.pay_marker(cx);
        }
        if !cx.has_room() || self.consume.credit() == 0 {
            self.consume.let_go();
        } else {
            self.consume.pump(&mut cx.resources);
        }
    }

    /// Writes a ConsumeResponse with messages that are ready. Returns false if none are.
    #[inline]
    fn send_response<F: Encode>(&mut self, cx: &mut Cx<'_>) -> bool {
        let mut marked = None;
        let mut length = 0;
        if self.consume.owes_marker() {
            let Some(taken) = self.consume.take_marked(cx.resources.now) else { return false };
            let origin = origin(&taken.stored, taken.is_live);
            let message = marked_message(taken, self.is_bare, cx.resources.now);
            let body = message.encoded_len();
            length = 1 + varint_length(body as u64) + body;
            marked = Some((message, origin));
        }
        // Under pressure, the send limit bounds what one response adds to the send buffer.
        let bytes_max = cx.resources.settings.consume_batch_bytes.min(cx.send_limit());
        let has = u64::from(marked.is_some());
        let Gathered { runs, count, length } =
            self.consume.gather::<F>(has, length, bytes_max, &cx.resources);
        if count == 0 {
            return false;
        }
        self.consume.send(count, length, &mut cx.resources);
        // In front of the messages, so that a client that reads field by field sees it first.
        let rewound: &[u8] = if self.consume.take_rewound() { &REWOUND } else { &[] };
        cx.reply.raw(rewound.len() + length, false, |out| {
            out.extend_from_slice(rewound);
            if let Some((message, _)) = &marked {
                encode_marked(message, out);
            }
            for run in &runs {
                match run.stored.batch.shape() {
                    Shape::Payloads => encode_run(run, Batch::payload_at, out),
                    _ => encode_run(run, Batch::record_at, out),
                }
            }
        });
        let of_marked = marked.map(|(_, origin)| (1, origin));
        let of_runs = runs.iter().map(|run| (run.count, origin(&run.stored, run.is_live)));
        for (messages, origin) in of_marked.into_iter().chain(of_runs) {
            cx.framed.note(u32::try_from(messages).unwrap_or(u32::MAX), origin);
        }
        cx.framed.close(cx.reply.out.len());
        true
    }

    /// Writes an owed marker without a message.
    fn pay_marker(&mut self, cx: &mut Cx<'_>) {
        if let Some((marker, last_sent)) = self.consume.take_marker() {
            let id = last_sent.map_or(String::new(), |(partition, offset)| message_id(partition, offset));
            let message =
                MessageAndMetadata { marker: Some(marker), id: Some(id), ..MessageAndMetadata::default() };
            let messages = vec![message];
            cx.reply.pb(&ConsumeResponse { messages, ..ConsumeResponse::default() }, false);
        }
    }

    /// Ends the half: writes the owed marker, then the failure if any, then FIN.
    pub(super) fn finish(&mut self, failure: Option<&Fault>, cx: &mut Cx<'_>) {
        self.consume.cancel(&mut cx.resources);
        self.pay_marker(cx);
        match failure {
            Some(fault) => {
                let status = Some(status_of(fault));
                cx.reply.pb(&ConsumeResponse { status, ..ConsumeResponse::default() }, true);
            }
            None => cx.reply.fin(),
        }
    }
}

/// Encodes the messages of a run, which `read` reads.
#[inline]
fn encode_run<F: Encode>(
    run: &Run<F>,
    read: impl for<'b> Fn(&'b Batch, usize) -> Option<(usize, Record<'b>)>,
    out: &mut Vec<u8>,
) {
    let mut record = run.record;
    for offset in run.offset.following(run.count) {
        if let Some((next, message)) = read(&run.stored.batch, record) {
            run.form.encode(offset, message, out);
            record = next;
        }
    }
}

fn marked_message(marked: Marked, is_bare: bool, now: Now) -> MessageAndMetadata {
    let Marked { partition, stored, offset, record, claim, marker, .. } = marked;
    let record = stored.batch.record_at(record).map_or(Record::default(), |(_, record)| record);
    let Record { key, headers, payload } = if is_bare { record.without_headers() } else { record };
    MessageAndMetadata {
        marker: Some(marker),
        id: Some(message_id(partition, offset)),
        ttl: Some(stored.batch.ttl_secs()),
        age: Some(stored.age_secs(now.unix)),
        claim: claim.as_ref().map(pb_of),
        payload: Some(Bytes::copy_from_slice(payload)),
        key: (!key.is_empty()).then(|| Bytes::copy_from_slice(key)),
        timestamp_ms: i64::try_from(stored.timestamp.get()).ok(),
        delay: stored.delay_left_secs(now.unix),
        claim_count: None,
        headers: (!headers.is_empty()).then(|| Bytes::copy_from_slice(headers)),
        first_timestamp_ms: first_timestamp(headers).and_then(|time| i64::try_from(time).ok()),
    }
}

fn origin(stored: &StoredBatch, is_live: bool) -> Origin {
    Origin::Stored { stored_ns: stored.stored_ns, timestamp: stored.timestamp, is_live }
}
