//! The headers of moved messages: where they come from, and how often they were moved.

use super::record::{Move, Why};
use crate::base::batch::{Record, StoredBatch};
use crate::base::names::QueueName;
use crate::base::queue::message_id;
use crate::base::units::{Offset, Partition};
use crate::pb::headers::{FIRST_TIMESTAMP as FIRST, HeaderRef, HeadersReader, put_header};

/// The queue from which a dead letter came, and the message's id there.
pub const QUEUE: &str = "millstream-dead-queue";
const ID: &str = "millstream-dead-id";
/// How often the message was given out, over all queues.
const COUNT: &str = "millstream-dead-count";
/// Why it was moved.
const REASON: &str = "millstream-dead-reason";
/// How often it was moved.
const MOVES: &str = "millstream-dead-moves";
/// The name of the last move: queue, id, number and time.
const MOVE: &str = "millstream-dead-move";

/// What the headers of a message say.
#[derive(Clone, Debug, Default)]
pub(super) struct History<'a> {
    queue: Option<&'a str>,
    count: u64,
    first: Option<u64>,
    /// How often the message was moved.
    pub moves: u64,
    name: Option<&'a str>,
}

/// A message that is to be moved.
#[derive(Clone, Copy, Debug)]
pub(super) struct Source<'a> {
    /// Its queue and partition.
    pub queue: &'a QueueName,
    pub partition: Partition,
    pub offset: Offset,
    pub stored: &'a StoredBatch,
    pub record: Record<'a>,
    /// How often it was given out in this queue.
    pub count: u32,
}

impl<'a> History<'a> {
    pub(super) fn of(headers: &'a [u8]) -> Self {
        let mut history = Self::default();
        for HeaderRef { name, value } in HeadersReader::new(headers).flatten() {
            let text = value.and_then(|value| std::str::from_utf8(value).ok()).unwrap_or_default();
            let number = || text.parse().unwrap_or(0);
            match name {
                QUEUE => history.queue = Some(text),
                COUNT => history.count = number(),
                FIRST => history.first = text.parse().ok(),
                MOVES => history.moves = number(),
                MOVE => history.name = Some(text),
                _ => {}
            }
        }
        history
    }

    /// Returns the queue from which a dead letter came.
    pub(super) fn queue(&self) -> Option<QueueName> {
        QueueName::parse(self.queue?).ok()
    }

    /// Returns the offset from which the last move has brought the message.
    pub(super) fn source_of_move(&self) -> Option<Offset> {
        let (_, offset) = self.name?.split(' ').nth(1)?.split_once('.')?;
        u64::from_str_radix(offset, 16).ok().filter(|offset| *offset < 1 << 63).map(Offset)
    }

    /// Returns whether the message is a copy that this move has made.
    pub(super) fn is_of(&self, name: &str) -> bool {
        self.name == Some(name)
    }
}

/// Returns the name of a move of one message. No other move of any message has it.
pub(super) fn name_of(
    queue: &QueueName,
    partition: Partition,
    offset: Offset,
    number: u64,
    of: &Move,
) -> String {
    format!("{} {} {number} {}", queue.as_str(), message_id(partition, offset), of.made.get())
}

/// Returns the headers of the copy of a message.
pub(super) fn headers(source: &Source<'_>, number: u64, of: &Move) -> Vec<u8> {
    let Source { queue, partition, offset, stored, record, count } = *source;
    let history = History::of(record.headers);
    let mut headers = Vec::with_capacity(record.headers.len() + 256);
    let is_ours = |name: &str| name.starts_with("millstream-dead-");
    let others = HeadersReader::new(record.headers).flatten();
    others.filter(|header| !is_ours(header.name)).for_each(|header| put_header(header, &mut headers));
    let mut put = |name: &str, value: &str| {
        put_header(HeaderRef { name, value: Some(value.as_bytes()) }, &mut headers);
    };
    let reason = match of.why {
        Why::Worn => Some("max_claim_count"),
        Why::Rejected => Some("rejected"),
        Why::Redriven => None,
    };
    if let Some(reason) = reason {
        put(QUEUE, queue.as_str());
        put(ID, &message_id(partition, offset));
        put(REASON, reason);
    }
    put(COUNT, &(history.count + u64::from(count)).to_string());
    put(FIRST, &history.first.unwrap_or(stored.timestamp.get()).to_string());
    put(MOVES, &(history.moves + 1).to_string());
    put(MOVE, &name_of(queue, partition, offset, number, of));
    headers
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::batch::BatchBuilder;
    use crate::base::millis::UnixMillis;
    use crate::base::names::ClientId;

    fn moved(record: Record<'_>, count: u32, why: Why) -> Vec<u8> {
        let batch = BatchBuilder::new(ClientId::from(1), 60, 0).close();
        let stored =
            StoredBatch { base_offset: Offset(7), timestamp: UnixMillis::new(123), stored_ns: 0, batch };
        let queue = QueueName::parse("jobs").unwrap();
        let (partition, offset) = (Partition(3), Offset(0x1f));
        let source = Source { queue: &queue, partition, offset, stored: &stored, record, count };
        headers(&source, 9, &Move { why, to: None, made: UnixMillis::new(1_000) })
    }

    fn text(headers: &[u8]) -> Vec<String> {
        let shown = |HeaderRef { name, value }: HeaderRef<'_>| {
            format!("{name}={}", String::from_utf8_lossy(value.unwrap_or(b"null")))
        };
        HeadersReader::new(headers).map(|header| shown(header.unwrap())).collect()
    }

    #[test]
    fn a_letter_says_where_it_comes_from_and_its_count_goes_on() {
        let mut mine = Vec::new();
        put_header(HeaderRef { name: "a", value: None }, &mut mine);
        let once = moved(Record { headers: &mine, ..Record::plain(b"x") }, 3, Why::Worn);
        let expected = [
            "a=null",
            "millstream-dead-queue=jobs",
            "millstream-dead-id=3.1f",
            "millstream-dead-reason=max_claim_count",
            "millstream-dead-count=3",
            "millstream-dead-first=123",
            "millstream-dead-moves=1",
            "millstream-dead-move=jobs 3.1f 9 1000",
        ];
        assert_eq!(text(&once), expected);
        let history = History::of(&once);
        assert_eq!((history.queue().unwrap().as_str(), history.moves), ("jobs", 1));
        assert!(history.is_of("jobs 3.1f 9 1000") && !history.is_of("jobs 3.1f 8 1000"));
        let twice = moved(Record { headers: &once, ..Record::plain(b"x") }, 2, Why::Rejected);
        assert_eq!(
            text(&twice)[3..7],
            [
                "millstream-dead-reason=rejected",
                "millstream-dead-count=5",
                "millstream-dead-first=123",
                "millstream-dead-moves=2",
            ]
        );
    }
}
