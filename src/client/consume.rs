//! Messages of a queue, each once, across reconnects.
//!
//! The last marker says where to go on; what came after that marker comes again, and is recognised by its id.

use std::collections::HashMap;
use std::task::{Context, Poll};

use super::driver::{Application, ClientError, Next};
use super::wire::Wire;
use crate::pb::ReceivedMessage;
use crate::session::Marker;
use crate::session::client::{ConsumeOptions, Consumer, Outcome};

/// A marker is asked for after so many messages: what a reconnect reads again at most, beside what is under way.
const MARKER_EVERY: u64 = 50_000;

/// What takes the messages.
pub trait Sink {
    /// One message.
    fn handle(&mut self, message: &ReceivedMessage<'_>);

    /// Whether the consumer is to stop. Pending wakes `cx` when it is.
    fn poll_stop(&mut self, cx: &mut Context<'_>) -> Poll<()>;
}

/// One consumer across its connections.
#[derive(Debug)]
pub struct Consume<S> {
    options: ConsumeOptions,
    /// What takes the messages.
    pub sink: S,
    /// Messages handed to the sink.
    pub received: u64,
    /// The last marker.
    marker: Option<String>,
    /// The offset behind the last message handed on, for each partition.
    seen: HashMap<u16, u64>,
    since_marker: u64,
    /// The server sent more than was wanted, as it may.
    surplus: bool,
    consumer: Option<Consumer>,
    finishing: bool,
}

/// Partition and offset of a message's id.
fn parse_id(id: &str) -> Option<(u16, u64)> {
    let (partition, offset) = id.split_once('.')?;
    Some((u16::from_str_radix(partition, 16).ok()?, u64::from_str_radix(offset, 16).ok()?))
}

impl<S: Sink> Consume<S> {
    /// A consumer that has not begun.
    pub fn new(options: ConsumeOptions, sink: S) -> Self {
        Self {
            options,
            sink,
            received: 0,
            marker: None,
            seen: HashMap::new(),
            since_marker: 0,
            surplus: false,
            consumer: None,
            finishing: false,
        }
    }

    /// Whether it got all that it wanted.
    pub fn is_complete(&self) -> bool {
        self.options.count.is_some_and(|count| self.received >= count)
    }

    /// Whether it was stopped, or got all, and said so to the server.
    pub fn is_finishing(&self) -> bool {
        self.finishing
    }

    /// How the server ended the operation, if it failed.
    pub fn failure(&self) -> Option<&Outcome> {
        self.consumer.as_ref().and_then(Consumer::failure)
    }

    /// The marker to go on from: behind the last message handed on.
    pub fn resume_marker(&self) -> Option<String> {
        let marker = self.marker.as_deref()?;
        Some(if self.surplus { Marker::advance(marker, &self.seen) } else { marker.to_owned() })
    }

    /// The connection is gone: the next goes on behind the last marker.
    pub fn reset(&mut self) {
        self.consumer = None;
        if let Some(marker) = &self.marker {
            self.options.from.clone_from(marker);
        }
    }
}

impl<S: Sink> Application for Consume<S> {
    fn handle_data(&mut self, piece: &[u8], fin: bool) -> Result<(), ClientError> {
        let Some(mut consumer) = self.consumer.take() else { return Ok(()) };
        let handled = consumer.handle_data(piece, fin, |message| {
            if let Some(marker) = message.marker {
                // Another life of the queue has other messages under the same ids.
                if self.marker.as_deref().is_some_and(|known| !Marker::same_life(known, marker)) {
                    self.seen.clear();
                }
                self.marker = Some(marker.to_owned());
                self.since_marker = 0;
            }
            if message.payload.is_none() {
                return;
            }
            self.since_marker += 1;
            let id = parse_id(message.id);
            if let Some((partition, offset)) = id {
                let next = self.seen.entry(partition).or_insert(0);
                if offset < *next {
                    return;
                }
                if self.options.count.is_some_and(|count| self.received >= count) {
                    self.surplus = true;
                    return;
                }
                *next = offset + 1;
            }
            self.received += 1;
            self.sink.handle(message);
        });
        self.consumer = Some(consumer);
        Ok(handled?)
    }

    fn poll(&mut self, cx: &mut Context<'_>, wire: &mut Wire) -> Result<Next, ClientError> {
        let Wire { sender, out, .. } = wire;
        let complete = self.is_complete();
        let consumer = self.consumer.get_or_insert_with(|| {
            let left = self.options.count.map(|count| count - self.received);
            let options = ConsumeOptions { count: left, ..self.options.clone() };
            Consumer::start(&options, sender, out)
        });
        if consumer.is_ended() {
            return Ok(Next::Done);
        }
        if self.finishing {
            return Ok(Next::Wait);
        }
        if complete || self.sink.poll_stop(cx).is_ready() {
            self.finishing = true;
            consumer.want_marker();
            consumer.poll_transmit(sender, out);
            consumer.finish(sender, out);
            return Ok(Next::Wait);
        }
        if self.since_marker >= MARKER_EVERY {
            self.since_marker = 0;
            consumer.want_marker();
        }
        consumer.poll_transmit(sender, out);
        Ok(Next::Wait)
    }
}
