//! A consume operation in the streaming protocol (protocol section 6): its pbs, read and written.

use bytes::Bytes;
use prost::Message;

use crate::base::batch::{Record, StoredBatch};
use crate::base::clock::Now;
use crate::base::error::{Fault, PeerFault};
use crate::base::queue::message_id;
use crate::front::Cx;
use crate::front::context::status_of;
use crate::operation::{Consume, Framing, Marked, Origin};
use crate::pb::wire::{REWOUND, uses_extensions, varint_length};
use crate::pb::{ConsumeRequest, ConsumeResponse, MessageAndMetadata, MessageTemplate, encode_marked};

/// ConsumeResponses.
struct Responses;

impl Framing for Responses {
    type Template = MessageTemplate;

    #[inline]
    fn template(partition: u16, stored: &StoredBatch, now: Now) -> MessageTemplate {
        let (ttl, age) = (stored.batch.ttl_secs(), stored.age_secs(now.unix_ms));
        MessageTemplate::new(partition, ttl, age, stored.timestamp_ms)
    }

    #[inline]
    fn length(template: &MessageTemplate, offset: u64, message: Record<'_>) -> usize {
        template.encoded_length(offset, message)
    }
}

/// One ConsumeRequest.
pub(super) fn handle_pb(consume: &mut Consume, pb: &[u8], cx: &Cx<'_>) -> Result<(), Fault> {
    let request = ConsumeRequest::decode(pb)
        .map_err(|error| PeerFault::PbInvalid(format!("ConsumeRequest: {error}")))?;
    if request.commit_marker.is_some() {
        return Err(PeerFault::PbInvalid("commit_marker: groups are not served yet".into()).into());
    }
    if uses_extensions(pb) {
        consume.set_extensions();
    }
    consume.raise_credit(request.max_msgnum_to_send);
    if request.send_marker() {
        consume.owe_marker(cx);
    }
    Ok(())
}

/// Frames what is ready and may be sent, and asks for more.
pub(super) fn poll_transmit(consume: &mut Consume, cx: &mut Cx<'_>) {
    if consume.take_rewound_at_once() {
        cx.reply.pb(&ConsumeResponse { rewound: Some(true), ..ConsumeResponse::default() }, false);
    }
    while cx.has_room() && consume.may_send(cx) {
        if !send_response(consume, cx) {
            break;
        }
    }
    if let Some(marked) = consume.take_due_marker(cx.now) {
        send_marker(marked, cx);
    }
    consume.go_on(cx.has_room(), cx);
}

/// One ConsumeResponse of what is ready. False where nothing is.
fn send_response(consume: &mut Consume, cx: &mut Cx<'_>) -> bool {
    let mut marked = None;
    let (mut length, mut count) = (0, 0);
    if consume.owes_marker() {
        let taken = consume.take_marked(cx.now).and_then(|marked| message_of(marked, cx.now));
        let Some((message, origin)) = taken else { return false };
        let body = message.encoded_len();
        length += 1 + varint_length(body as u64) + body;
        count += 1;
        marked = Some((message, origin));
    }
    // Under pressure no more than that may come to lie in the send buffer.
    let bytes_max = cx.settings.consume_batch_bytes.min(cx.send_limit());
    let (runs, length) = consume.gather::<Responses>(count, length, bytes_max, cx);
    count += runs.iter().map(|run| run.count).sum::<u64>();
    if count == 0 {
        return false;
    }
    consume.count_sent(count, length, cx);
    // Before the messages, so that a client that reads field by field knows when they come.
    let rewound: &[u8] = if consume.take_rewound() { &REWOUND } else { &[] };
    cx.reply.raw(rewound.len() + length, false, |out| {
        out.extend_from_slice(rewound);
        if let Some((message, _)) = &marked {
            encode_marked(message, out);
        }
        for run in &runs {
            let mut record = run.record;
            for offset in run.offset..run.offset + run.count {
                if let Some((next, message)) = run.stored.batch.record_at(record) {
                    run.template.encode(offset, message, out);
                    record = next;
                }
            }
        }
    });
    let of_marked = marked.map(|(_, origin)| (1, origin));
    for (messages, origin) in of_marked.into_iter().chain(runs.iter().map(|run| (run.count, run.origin()))) {
        cx.framed.note(u32::try_from(messages).unwrap_or(u32::MAX), origin);
    }
    cx.framed.close(cx.reply.out.len());
    true
}

/// The message that a marker comes with.
fn message_of(marked: Marked, now: Now) -> Option<(MessageAndMetadata, Origin)> {
    let ((partition, offset), (stored, record, origin)) = marked.last.zip(marked.message)?;
    let (_, Record { key, payload }) = stored.batch.record_at(record)?;
    let message = MessageAndMetadata {
        marker: Some(marked.marker),
        id: Some(message_id(partition, offset)),
        ttl: Some(stored.batch.ttl_secs()),
        age: Some(stored.age_secs(now.unix_ms)),
        claim: None,
        payload: Some(Bytes::copy_from_slice(payload)),
        key: (!key.is_empty()).then(|| Bytes::copy_from_slice(key)),
        timestamp_ms: i64::try_from(stored.timestamp_ms).ok(),
    };
    Some((message, origin))
}

/// A marker without a message; with the id of the last message that was sent.
fn send_marker(marked: Marked, cx: &mut Cx<'_>) {
    let id = marked.last.map_or(String::new(), |(partition, offset)| message_id(partition, offset));
    let message = MessageAndMetadata { marker: Some(marked.marker), id: Some(id), ..Default::default() };
    cx.reply.pb(&ConsumeResponse { messages: vec![message], ..ConsumeResponse::default() }, false);
}

/// Ends the half: the owed marker, then the failure if there is one, then FIN.
pub(super) fn finish(consume: &mut Consume, failure: Option<&Fault>, cx: &mut Cx<'_>) {
    consume.cancel(cx);
    if let Some(marked) = consume.take_marker() {
        send_marker(marked, cx);
    }
    match failure {
        Some(fault) => {
            let status = Some(status_of(fault));
            cx.reply.pb(&ConsumeResponse { status, ..ConsumeResponse::default() }, true);
        }
        None => cx.reply.fin(),
    }
}
