//! Sends messages from a source to a queue, and resends them until they are acknowledged.

use std::collections::VecDeque;
use std::task::{Context, Poll};
use std::time::Instant;

use hdrhistogram::Histogram;

use super::driver::{Application, Next};
use super::error::ClientError;
use super::resume::Resume;
use super::wire::Wire;
use crate::base::batch::Record;
use crate::client::session::{Outcome, ProduceEvent, Producer, Renewable};
use crate::latency::{self, Outstanding};

/// The size at which a frame ends, in bytes of pbs; well below the `max_pb_bytes` of any server.
const FRAME_BYTES: usize = 128 << 10;

/// A sequence of messages.
#[derive(Debug, Default)]
pub struct Block {
    /// The key, the headers and the payload of each message, without gaps.
    bytes: Vec<u8>,
    /// For each message, where these parts end in `bytes`.
    ends: Vec<[usize; 3]>,
}

impl Block {
    /// Appends a message.
    pub fn push(&mut self, record: Record<'_>) {
        let ends = [record.key, record.headers, record.payload].map(|part| {
            self.bytes.extend_from_slice(part);
            self.bytes.len()
        });
        self.ends.push(ends);
    }

    /// Returns the number of messages.
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// Returns whether the block has no messages.
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// Returns the total size of keys, headers and payloads, in bytes.
    pub fn bytes(&self) -> usize {
        self.bytes.len()
    }

    fn record(&self, index: usize) -> Record<'_> {
        let start = if index == 0 { 0 } else { self.ends[index - 1][2] };
        let [key, headers, end] = self.ends[index];
        Record {
            key: &self.bytes[start..key],
            headers: &self.bytes[key..headers],
            payload: &self.bytes[headers..end],
        }
    }
}

/// A source of messages.
pub trait Source {
    /// Returns the next block, or `None` at the end. A pending source wakes `cx` when it has a block.
    fn poll_block(&mut self, cx: &mut Context<'_>) -> Poll<Option<Block>>;

    /// Called when `count` more messages from this source are stored.
    fn handle_acknowledged(&mut self, count: u64);
}

/// The outcome of all messages so far.
#[derive(Debug)]
pub struct ProduceStats {
    /// How many messages are stored.
    pub acknowledged: u64,
    /// How many messages were refused for good.
    pub refused: u64,
    /// How many messages were sent again after a connection or an operation ended.
    pub resent: u64,
    /// The first refusal, if any.
    pub first_refusal: Option<Outcome>,
    /// The time from sending to acknowledgement, in nanoseconds.
    pub latency: Histogram<u64>,
}

impl Default for ProduceStats {
    fn default() -> Self {
        Self { acknowledged: 0, refused: 0, resent: 0, first_refusal: None, latency: latency::histogram() }
    }
}

/// A block that is being sent. Invariant: `settled ≤ sent ≤ block.len()`.
#[derive(Debug)]
struct Sending {
    block: Block,
    sent: usize,
    settled: usize,
    /// The highest value of `sent` over all connections so far. Messages below it count as resent.
    reached: usize,
}

/// A producer that survives reconnects.
#[derive(Debug)]
pub struct Produce<S> {
    queue: String,
    ttl: Option<u32>,
    delay: Option<u32>,
    batch: usize,
    source: S,
    source_ended: bool,
    blocks: VecDeque<Sending>,
    /// Messages that the server has refused for now, in order: they were sent before those of `blocks`. The next operation
    /// sends them again.
    again: Block,
    /// Whether the operation has failed so that nothing later of it counts.
    is_cut: bool,
    /// The number of messages that were settled while none was refused for now.
    progress: u64,
    /// The operation on the current connection.
    producer: Option<Producer>,
    /// The send times of unacknowledged messages on the current connection.
    outstanding: Outstanding,
    finished: bool,
    ended: bool,
    failed: Option<Outcome>,
    pbs: Vec<u8>,
    /// The outcome of all messages so far.
    pub stats: ProduceStats,
}

impl<S: Source> Produce<S> {
    /// Creates a producer that puts at most `batch` messages into each ProduceRequest. `ttl` is in seconds; absent, the
    /// queue's default counts.
    pub fn new(queue: String, ttl: Option<u32>, batch: usize, source: S) -> Self {
        Self {
            queue,
            ttl,
            delay: None,
            batch,
            source,
            source_ended: false,
            blocks: VecDeque::new(),
            again: Block::default(),
            is_cut: false,
            progress: 0,
            producer: None,
            outstanding: Outstanding::default(),
            finished: false,
            ended: false,
            failed: None,
            pbs: Vec::new(),
            stats: ProduceStats::default(),
        }
    }

    /// Sets how long claims do not see the messages, in seconds.
    #[must_use]
    pub fn delayed(self, delay: Option<u32>) -> Self {
        Self { delay, ..self }
    }

    /// Returns the source of the messages.
    pub fn source(&self) -> &S {
        &self.source
    }

    /// Returns how many messages were taken from the source and are neither acknowledged nor refused yet.
    pub fn undelivered(&self) -> u64 {
        let sending = self.blocks.iter().map(|sending| (sending.block.len() - sending.settled) as u64);
        sending.sum::<u64>() + self.again.len() as u64
    }

    /// Applies `outcome` to the next `count` messages.
    fn settle(&mut self, count: u64, outcome: &Outcome) {
        if self.again.is_empty() {
            self.progress += count;
        }
        if outcome.code.is_success() {
            self.stats.acknowledged += count;
            self.source.handle_acknowledged(count);
        } else {
            self.stats.refused += count;
            self.stats.first_refusal.get_or_insert_with(|| outcome.clone());
        }
        let (now, latency) = (Instant::now(), &mut self.stats.latency);
        self.outstanding.settle(count, |sent, count| {
            latency.saturating_record_n(now.saturating_duration_since(sent).as_nanos() as u64, count);
        });
        self.advance(count, |_| {});
    }

    /// Keeps the next `count` messages for the next operation. What follows them may be stored: a message that finds no room
    /// in its queue does not stop smaller ones, or those that come once there is room.
    fn defer(&mut self, count: u64) {
        self.outstanding.settle(count, |_, _| {});
        let mut again = std::mem::take(&mut self.again);
        self.advance(count, |record| again.push(record));
        self.again = again;
    }

    /// Passes over the next `count` messages.
    fn advance(&mut self, mut count: u64, mut each: impl FnMut(Record<'_>)) {
        while let Some(sending) = self.blocks.front_mut().filter(|_| count > 0) {
            let settled = (sending.sent - sending.settled).min(count as usize);
            let passed = sending.settled..sending.settled + settled;
            passed.for_each(|index| each(sending.block.record(index)));
            sending.settled += settled;
            count -= settled as u64;
            if sending.settled < sending.block.len() {
                break;
            }
            self.blocks.pop_front();
        }
    }
}

impl<S: Source> Resume for Produce<S> {
    fn is_complete(&self) -> bool {
        self.source_ended && self.blocks.is_empty() && self.again.is_empty()
    }

    fn failure(&self) -> Option<&Outcome> {
        self.failed.as_ref()
    }

    fn progress(&self) -> u64 {
        self.progress
    }

    /// Marks everything that is not acknowledged to be sent again.
    fn reset(&mut self) {
        self.producer = None;
        self.outstanding.clear();
        self.finished = false;
        self.ended = false;
        self.failed = None;
        self.is_cut = false;
        for sending in &mut self.blocks {
            sending.sent = sending.settled;
        }
        let block = std::mem::take(&mut self.again);
        if !block.is_empty() {
            let reached = block.len();
            self.blocks.push_front(Sending { block, sent: 0, settled: 0, reached });
        }
    }
}

impl<S: Source> Application for Produce<S> {
    fn handle_data(&mut self, piece: &[u8], fin: bool) -> Result<(), ClientError> {
        let Some(mut producer) = self.producer.take() else { return Ok(()) };
        let handled = producer.handle_data(piece, fin, |event| match event {
            ProduceEvent::Accepted => {}
            // Messages behind a failure are sent again, so that their order stays, and must not be counted twice.
            ProduceEvent::Spoken { .. } if self.is_cut => {}
            // These are not stored, and others behind them may be. The next operation sends them again.
            ProduceEvent::Spoken { count, outcome } if outcome.is_limited() => {
                self.defer(count);
                self.failed = Some(outcome);
            }
            // After a 5xx the messages may or may not be stored, after a 401 they are not. The next operation sends
            // them again.
            ProduceEvent::Spoken { count: _, outcome }
                if outcome.is_transient() || outcome.is_unauthorized() =>
            {
                self.failed = Some(outcome);
                self.is_cut = true;
            }
            ProduceEvent::Spoken { count, outcome } => self.settle(count, &outcome),
            ProduceEvent::Failed(outcome) => self.failed = Some(outcome),
            ProduceEvent::Ended => self.ended = true,
        });
        self.producer = Some(producer);
        Ok(handled?)
    }

    fn poll(&mut self, cx: &mut Context<'_>, wire: &mut Wire) -> Result<Next, ClientError> {
        let Wire { sender, out, .. } = wire;
        let producer = self.producer.get_or_insert_with(|| Producer::start(&self.queue, sender, out));
        if self.ended {
            return Ok(Next::Done);
        }
        while producer.credit() > 0 && self.pbs.len() < FRAME_BYTES && self.failed.is_none() {
            let mut next = self.blocks.iter_mut().rev().take_while(|s| s.sent < s.block.len()).last();
            if next.is_none() && !self.source_ended {
                match self.source.poll_block(cx) {
                    Poll::Ready(Some(block)) if block.is_empty() => continue,
                    Poll::Ready(Some(block)) => {
                        self.blocks.push_back(Sending { block, sent: 0, settled: 0, reached: 0 });
                        next = self.blocks.back_mut();
                    }
                    Poll::Ready(None) => self.source_ended = true,
                    Poll::Pending => break,
                }
            }
            let Some(sending) = next else { break };
            let mut end = sending.sent;
            let mut bytes = 0;
            let most = self.batch.min(producer.credit() as usize);
            while end < sending.block.len()
                && end - sending.sent < most
                && (bytes == 0 || bytes < FRAME_BYTES)
            {
                bytes += sending.block.record(end).bytes();
                end += 1;
            }
            let records = (sending.sent..end).map(|index| sending.block.record(index));
            let count = (end - sending.sent) as u64;
            producer.send(self.ttl, self.delay, records, count, &mut self.pbs);
            self.outstanding.push(Instant::now(), count);
            self.stats.resent += (end.min(sending.reached).saturating_sub(sending.sent)) as u64;
            sending.reached = sending.reached.max(end);
            sending.sent = end;
        }
        let again = self.pbs.len() >= FRAME_BYTES;
        if !self.pbs.is_empty() {
            producer.frame(&self.pbs, sender, out);
            self.pbs.clear();
        }
        let all_sent =
            self.source_ended && self.blocks.back().is_none_or(|last| last.sent == last.block.len());
        if !self.finished && (all_sent || self.failed.is_some()) {
            self.finished = true;
            producer.finish(sender, out);
        }
        Ok(if again { Next::Again } else { Next::Wait })
    }

    fn operation(&mut self) -> Option<&mut dyn Renewable> {
        self.producer.as_mut().map(|producer| producer as &mut dyn Renewable)
    }
}
